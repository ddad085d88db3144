import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from awn_keras.deploy.benchmark.picker import monotone, pareto_front, pick_width
from awn_keras.deploy.benchmark.report import Report
from tests.deploy.benchmark.test_report import row

WIDTHS = [0.25, 0.5, 0.75, 1.0]
MS = st.lists(st.floats(0.1, 100), min_size=4, max_size=4)


def report(medians=(1.0, 2.0, 4.0, 8.0), accuracy=(None,) * 4, **changes):
    return Report(
        [
            row(width, ms, p90_ms=ms, accuracy=right, **changes)
            for width, ms, right in zip(WIDTHS, medians, accuracy, strict=True)
        ]
    )


def test_the_widest_that_fits():
    pick = pick_width(report(), budget_ms=5)
    assert (pick.width, pick.fits, pick.ms) == (0.75, True, 4.0)
    # A straight line from 4 ms at 0.75 to 8 ms at 1.
    assert pick.interpolated_width == pytest.approx(0.75 + 0.25 / 4)
    assert pick.uncertainty_ms == pytest.approx(0.02 * 4)
    assert pick_width(report(), budget_ms=8).width == 1.0
    assert pick_width(report(), budget_ms=99).interpolated_width == 1.0


def test_a_report_on_disk_will_do(tmp_path):
    report().save(tmp_path / "r.json")
    assert pick_width(tmp_path / "r.json", budget_ms=5).width == 0.75


def test_an_answer_if_nothing_fits():
    pick = pick_width(report(), budget_ms=0.5)
    assert (pick.width, pick.fits, pick.ms) == (0.25, False, 1.0)
    assert pick.interpolated_width is None


@given(MS, st.floats(0.05, 200))
def test_picks_keep_to_the_budget_and_none_wider_does(medians, budget):
    pick = pick_width(report(medians), budget_ms=budget)
    assert pick.fits == (pick.ms <= budget)
    smooth = monotone(np.array(WIDTHS), np.array(medians))
    assert pick.fits == (smooth[0] <= budget)
    i = WIDTHS.index(pick.width)
    assert pick.ms == smooth[i]
    # Without accuracy, one that is wider but no slower is as good as a wider one.
    assert all(ms > budget for ms in smooth[i + 1 :] if pick.fits)
    # A larger budget never picks a narrower width.
    assert pick_width(report(medians), budget_ms=2 * budget).width >= pick.width


@given(MS, st.lists(st.sampled_from(WIDTHS), min_size=4, max_size=4))
def test_monotone_latencies_are_those_of_isotonic_regression(medians, widths):
    widths = np.sort(widths)
    wanted = IsotonicRegression().fit_transform(widths, medians)
    # Sums in another order.
    np.testing.assert_allclose(monotone(widths, np.array(medians)), wanted, rtol=1e-12)


def test_latencies_that_fall_are_made_monotone_and_less_certain():
    pick = pick_width(report((1.0, 4.0, 2.0, 8.0)), budget_ms=3.5)
    assert pick.width == 0.75
    assert pick.ms == pytest.approx(3.0)  # the mean of 4 and 2
    assert pick.uncertainty_ms == pytest.approx(1.0)


def test_wide_widths_that_are_no_better_are_passed_over():
    measured = report(accuracy=(0.8, 0.9, 0.89, 0.92))
    assert pick_width(measured, budget_ms=5).width == 0.5
    assert pick_width(measured, budget_ms=9).width == 1.0
    assert pick_width(measured, budget_ms=5).dominated == (0.75,)
    # 0.75 was passed over: nothing beyond 0.5 is worth an export.
    assert pick_width(measured, budget_ms=5).interpolated_width == 0.5
    front = pareto_front(measured.rows)
    assert [entry.width for entry in front] == [0.25, 0.5, 1.0]


@given(MS, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_nothing_beats_the_front(medians, accuracy):
    measured = report(medians, accuracy)
    front = pareto_front(measured.rows)
    for best in front:
        for other in measured.rows:
            assert not (
                other.p90_ms <= best.p90_ms
                and other.accuracy >= best.accuracy
                and (other.p90_ms, other.accuracy) != (best.p90_ms, best.accuracy)
            )


def test_a_quantile_that_is_not_known_is_the_next_larger():
    rows = [row(0.5, 2.0, p90_ms=None, p95_ms=3.0, max_ms=9.0)]
    assert pick_width(Report(rows), budget_ms=2.5, quantile="median").fits
    assert not pick_width(Report(rows), budget_ms=2.5).fits
    old = [row(0.5, None, mean_ms=2.0, max_ms=4.0)]
    assert pick_width(Report(old), budget_ms=9).ms == 4.0


def test_a_budget_in_kilobytes_is_for_files_of_one_width():
    rows = [
        row(width, ms, file=f"{width}.tflite", sha256=f"{width}", file_bytes=size)
        for width, ms, size in zip(
            WIDTHS, (1, 2, 4, 8), (10_000, 30_000, 60_000, 99_000), strict=True
        )
    ]
    assert pick_width(Report(rows), budget_kb=60).width == 0.75
    assert pick_width(Report(rows), budget_kb=60, budget_ms=2.5).width == 0.5
    assert not pick_width(Report(rows), budget_kb=5).fits
    pick = pick_width(Report(rows), budget_kb=30, budget_ms=99)
    assert (pick.width, pick.interpolated_width) == (0.5, None)


def test_rows_that_cannot_be_compared_are_refused():
    both = report().merged([report(target="gpu")])
    with pytest.raises(
        ValueError, match=r"several values of `target`: cpu, gpu\. Give"
    ):
        pick_width(both, budget_ms=5)
    assert pick_width(both, budget_ms=5, target="gpu").width == 0.75
    missing = r"with `target='android-gpu'`\. It has rows of cpu \(threads: 1\), gpu"
    with pytest.raises(ValueError, match=f"no row of a width {missing}"):
        pick_width(both, budget_ms=5, target="android-gpu")
    with pytest.raises(ValueError, match="several values of `threads`: 1, 2"):
        pick_width(report().merged([report(threads=2)]), budget_ms=5)
    other = report(file="b", sha256="b")
    with pytest.raises(ValueError, match="several values of `file`"):
        pick_width(report().merged([other]), budget_ms=5)
    again = report().merged([report((9, 9, 9, 9), sha256="of a new export")])
    with pytest.raises(
        ValueError, match=r"several different files named 'net\.tflite'"
    ):
        pick_width(again, budget_ms=5)
    with pytest.raises(ValueError, match="It has no rows"):
        pick_width(Report(), budget_ms=5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "One of `budget_ms` and `budget_kb`"),
        ({"budget_ms": 0}, "`budget_ms` must be positive"),
        ({"budget_ms": np.nan}, "`budget_ms` must be positive"),
        ({"budget_kb": -1}, "`budget_kb` must be positive"),
        ({"budget_ms": 1, "quantile": "p50"}, "`quantile` must be one of"),
    ],
)
def test_bad_budgets_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        pick_width(report(), **options)
