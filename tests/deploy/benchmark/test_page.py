import re

import pytest

from awn_keras.deploy.benchmark.page import plot_report, write_html
from awn_keras.deploy.benchmark.report import Failure, Report
from tests.deploy.benchmark.test_report import row


def test_a_curve_for_each_target():
    rows = [row(width, 8 * width, accuracy=0.8 + width / 10) for width in (0.25, 1.0)]
    phone = [row(0.5, 3.0, target="android-gpu", accuracy=0.85, device="Phone (A)")]
    ax = plot_report(Report(rows + phone))
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels == ["android-gpu, Phone (A)", "cpu"]
    assert ax.get_lines()[1].get_xydata().tolist() == [[2.0, 82.5], [8.0, 90.0]]
    assert ax.get_xlabel() == "median latency (ms)"
    assert ax.get_ylabel() == "accuracy (%)"
    # Each point says which width it is.
    assert [text.get_text() for text in ax.texts] == ["0.5", "0.25", "1"]


def test_a_curve_for_each_file():
    rows = [row(width, 9 * width) for width in (0.25, 1.0)]
    rows += [row(width, 4 * width, sha256="cdefghijk") for width in (0.25, 1.0)]
    labels = [line.get_label() for line in plot_report(Report(rows)).get_lines()]
    assert labels == ["cpu, net.tflite ab", "cpu, net.tflite cdefgh"]


def test_old_programs_tell_a_mean():
    rows = [row(width, None, mean_ms=9 * width) for width in (0.25, 1.0)]
    ax = plot_report(Report(rows))
    assert ax.get_xlabel() == "median or mean latency (ms)"
    assert ax.get_lines()[0].get_xdata().tolist() == [2.25, 9.0]


def test_without_accuracy_width_takes_its_place():
    ax = plot_report(Report([row(0.5), row(1.0, 60.0, accuracy=0.9)]))
    assert ax.get_ylabel() == "width"
    assert ax.get_xscale() == "log"
    with pytest.raises(ValueError, match="no row with a width and a latency"):
        plot_report(Report([row(0.5, None)]))


def test_the_budget_is_a_line_and_late_widths_are_marked(tmp_path):
    rows = [
        row(w, 8 * w, p90_ms=9 * w, accuracy=0.8 + w / 10) for w in (0.25, 0.5, 1.0)
    ]
    (line,) = plot_report(Report(rows), budget_ms=5.0).get_lines()[1:]
    assert list(line.get_xdata()) == [5.0, 5.0]
    write_html(Report(rows), tmp_path / "r.html", budget_ms=4.5)
    text = (tmp_path / "r.html").read_text()
    table = text[text.index("<table>") : text.index("</table>")]
    # 2.25, 4.5 and 9 ms by the 90th percentile.
    assert table.count("class='late'") == 1
    assert "slower than 4.5 ms" in table


def test_the_page_says_of_what_it_is_in_eight_columns_with_units(tmp_path):
    measured = row(
        0.5,
        2.5,
        p90_ms=2.75,
        accuracy=0.875,
        macs=12_500_000,
        file_bytes=10_400_000,
        memory_mb=21.5,
        device="Phone (A)",
        time="2026-11-29T12:00:00+00:00",
    )
    write_html(Report([measured]), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    title = "net.tflite on Phone (A), 2026-11-29"
    assert f"<title>{title}</title>" in text
    assert f"<h1>{title}</h1>" in text
    table = text[text.index("<table>") : text.index("</table>")]
    heads, cells = (re.findall(f"<{tag}>(.*?)</{tag}>", table) for tag in ("th", "td"))
    assert len(heads) == len(cells) == 8
    assert dict(zip(heads, cells, strict=True)) == {
        "target": "cpu",
        "width": "0.5",
        "accuracy (%)": "87.5",
        "median (ms)": "2.5",
        "p90 (ms)": "2.75",
        "MACs (million)": "12.5",
        "file (kB)": "10,400",
        "memory (MB)": "21.5",
    }
    # The picture comes before all tables, what few look at is closed.
    assert text.index("<svg") < text.index("<table>") < text.index("<details>")


def test_the_page_needs_nothing_else(tmp_path):
    noisy = Report(
        [row(0.5, 2.0, spread=0.9, device="<b>&"), row(0.6, 2.1, device="<b>&")],
        [Failure("gpu", None, None, "no <GPU>")],
    )
    write_html(noisy, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "<svg" in text
    assert "&lt;b&gt;&amp;" in text
    assert "gpu: no &lt;GPU&gt;" in text
    assert "differ by" in text
    for foreign in ("<script", "href=", "src=", "<?xml"):
        assert foreign not in text.replace('xlink:href="#', "").replace(
            "xlink:href", ""
        )
    write_html(Report(), tmp_path / "empty.html")
    assert "</html>" in (tmp_path / "empty.html").read_text()
