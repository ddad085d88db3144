import csv
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awn_keras.deploy.benchmark.report import (
    Failure,
    Report,
    Row,
    spread_of,
    statistics_of,
)
from awn_keras.schemas import SCHEMAS


def row(width=0.5, median=2.0, **changes):
    fields = {
        "target": "cpu",
        "width": width,
        "signature": f"width_{round(100 * width):03}",
        "file": "net.tflite",
        "sha256": "ab",
        "threads": 1,
        "median_ms": median,
        "p90_ms": None if median is None else 1.1 * median,
        "spread": 0.02,
        "device": "a machine",
        **changes,
    }
    return Row(**fields)


def test_a_report_is_read_as_it_was_written(tmp_path):
    report = Report([row(), row(1.0, 5.0)], [Failure("gpu", None, None, "no GPU")])
    report.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json") == report
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == SCHEMAS["report"]
    report.to_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(entry["median_ms"]) for entry in rows] == [2.0, 5.0]
    assert rows[0]["accuracy"] == ""


def test_fields_of_a_later_version_are_left_out(tmp_path):
    content = {"schema": 1, "rows": [vars(row()) | {"new": 1}], "failures": []}
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert Report.load(tmp_path / "r.json").rows[0].median_ms == 2.0


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "is not a report of `awn benchmark`"),
        ("[]", "is not a report"),
        ('{"schema": 1}', "is not a report"),
        ('{"schema": 1, "rows": [{}], "failures": []}', "is not a report"),
        ('{"schema": 1, "rows": [5], "failures": []}', "is not a report"),
        ('{"schema": 1.5, "rows": [], "failures": []}', "'schema' must be a whole"),
        (
            '{"schema": 99, "rows": [], "failures": []}',
            r"version 99, but awn_keras \S+ reads .* up to version 1\. Update",
        ),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content, match):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=match):
        Report.load(tmp_path / "r.json")


def test_rows_of_several_runs_and_devices_merge():
    old = Report([row(time="2026-01-01"), row(1.0, time="2026-01-01")])
    phone = Report([row(target="android-cpu", device="phone", time="2026-01-02")])
    new = Report([row(median=3.0, time="2026-01-03")], [Failure("gpu", None, 1, "x")])
    merged = old.merged([phone, new])
    assert [
        (entry.target, entry.width, entry.median_ms) for entry in merged.sorted()
    ] == [
        ("android-cpu", 0.5, 2.0),
        ("cpu", 0.5, 3.0),
        ("cpu", 1.0, 2.0),
    ]
    # In any order: what counts is when it was measured.
    assert {
        entry.median_ms for entry in new.merged([old]).rows if entry.width == 0.5
    } == {3}
    assert len(merged.failures) == 1


def test_what_failed_before_and_is_measured_now_is_no_failure():
    old = Report(
        [],
        [
            Failure(
                "cpu", "width_050", 1, "crashed", "net.tflite", "a machine", "2026"
            ),
            Failure(
                "cpu", "width_100", 1, "crashed", "net.tflite", "a machine", "2026"
            ),
            Failure("android", None, None, "offline", "net.tflite", "A", "2026"),
            Failure("android", None, None, "offline", "net.tflite", "B", "2026"),
        ],
    )
    new = Report([row(), row(target="android-cpu", device="Phone 7 (A)")])
    left = new.merged([old]).failures
    assert [(entry.signature, entry.device) for entry in left] == [
        ("width_100", "a machine"),
        (None, "B"),
    ]
    # But what fails after it was measured stays.
    late = Failure("cpu", "width_050", 1, "x", "net.tflite", "a machine", "9999")
    assert new.merged([Report([], [late])]).failures == [late]


def test_a_warning_where_noise_hides_the_order():
    clear = Report([row(0.5, 2.0), row(1.0, 5.0)])
    assert clear.warnings() == []
    noisy = Report([row(0.5, 2.0, spread=0.2), row(0.6, 2.2), row(1.0, 5.0)])
    (warning,) = noisy.warnings()
    assert "width_050 and width_060 differ by 10%, but repetitions" in warning
    assert "of one signature differ by 20%" in warning


def test_the_table_has_a_line_for_each_row():
    lines = Report([row(1.0), row(0.5, None, accuracy=0.912)]).table().splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:5] == ["cpu", "1", "0.5", "-", "-"]
    assert "91.20%" in lines[1]


def test_spread_is_that_of_the_middle_half():
    assert spread_of([1.0]) is None
    assert spread_of([2.0, 2.0]) == 0
    # One repetition while the machine did something else.
    assert spread_of([2.0, 2.1, 2.2, 2.3, 9.0]) == pytest.approx(0.2 / 2.2)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1))
def test_statistics_are_in_order(ms):
    statistics = statistics_of(ms)
    order = [
        statistics[f"{name}_ms"] for name in ("min", "median", "p90", "p95", "max")
    ]
    # Percentiles are interpolated, which rounds.
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(order))
    assert statistics["runs"] == len(ms)
