"""A report as a picture, and as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from awn_keras.deploy.benchmark.report import Report, Row
from awn_keras.errors import ArgumentError
from awn_keras.files import write_whole
from awn_keras.pictures import COLORS, MARKERS, axes_or_new, new_figure


def plot_report(report: Report, ax: Any = None) -> Any:
    """Draws accuracy over median latency, a curve for each target.

    Args:
        report: The report. Points are marked with their widths. Where accuracy is not
            known for all, width takes its place.
        ax: Matplotlib axes to draw on. `None` for new ones.

    Returns:
        The axes; `.figure.savefig(path)` writes a picture.

    Raises:
        TypeError: If `ax` is a path.
        ValueError: If there is no row with a width and a latency.
    """
    rows = [r for r in report.sorted() if _latency(r) is not None and r.width]
    if not rows:
        raise ArgumentError("The report has no row with a width and a latency to draw.")
    ax = axes_or_new(ax, 6.5)
    accurate = all(row.accuracy is not None for row in rows)
    curves: dict[str, list[Row]] = {}
    files = {row.sha256 for row in rows}
    for row in rows:
        file = f", {row.file} {row.sha256[:6]}" if len(files) > 1 else ""
        curves.setdefault(_name(row) + file, []).append(row)
    for i, (name, curve) in enumerate(curves.items()):
        y = [100 * row.accuracy if accurate else row.width for row in curve]  # type: ignore[operator]
        for row, height in zip(curve, y if accurate else [], strict=False):
            ax.annotate(
                f"{row.width:.3g}",
                (_latency(row), height),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
        ax.plot(
            [_latency(row) for row in curve],
            y,
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            color=COLORS[i % len(COLORS)],
            label=name,
        )
    medians = all(row.median_ms is not None for row in rows)
    ax.set(
        xlabel="median latency (ms)" if medians else "median or mean latency (ms)",
        ylabel="accuracy (%)" if accurate else "width",
    )
    latencies = [_latency(row) or 0.0 for row in rows]
    if max(latencies) > 20 * min(latencies):
        ax.set_xscale("log")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return ax


def write_html(report: Report, path: str | Path) -> None:
    """Writes a report as one HTML file: picture, table, what failed.

    Args:
        report: The report.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    parts = [
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>awn benchmark</title><style>{_STYLE}</style></head><body>",
        "<h1>Latency of each width</h1>",
        _picture(report),
        _table(report.sorted()),
        _list("Noise", report.warnings()),
        _list("Not measured", [str(failure) for failure in report.failures]),
        "</body></html>\n",
    ]
    write_whole(Path(path), "\n".join(part for part in parts if part))


_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:80em}"
    "table{border-collapse:collapse;font-size:85%}"
    "td,th{border-bottom:1px solid #ccc;padding:.3em .6em;text-align:right}"
    "svg{max-width:45em;height:auto}"
)


def _latency(row: Row) -> float | None:
    """Old versions of benchmark_model tell no median."""
    return row.mean_ms if row.median_ms is None else row.median_ms


def _name(row: Row) -> str:
    threads = f"{row.threads} threads" if row.threads > 1 else None
    device = row.device if "-" in row.target else None
    parts = (row.target, threads, row.precision, device)
    return ", ".join(part for part in parts if part)


def _picture(report: Report) -> str:
    figure, ax = new_figure(6.5)
    try:
        plot_report(report, ax)
    except ValueError:
        return ""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    # Without the XML declaration, which has no place inside HTML.
    return text.getvalue()[text.getvalue().index("<svg") :]


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    first = ("target", "threads", "width", "accuracy")
    names = [x.name for x in fields(Row) if x.name not in (*first, "sha256")]
    shown = [
        name
        for name in (*first, *names)
        if any(getattr(row, name) is not None for row in rows)
    ]
    lines = ["<table>", _line("th", shown)]
    lines += [_line("td", [_text(getattr(row, n)) for n in shown]) for row in rows]
    return "\n".join([*lines, "</table>"])


def _line(tag: str, cells: Sequence[str]) -> str:
    line = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{line}</tr>"


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""
