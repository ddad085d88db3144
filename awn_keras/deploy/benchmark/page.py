"""Writes a report as a picture, and as one HTML file without other files."""

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


def plot_report(
    report: Report, ax: Any = None, *, budget_ms: float | None = None
) -> Any:
    """Draws accuracy over median latency, a curve for each target.

    Args:
        report: The report. Each point is labelled with its width. If accuracy is not
            known for all rows, the vertical axis is the width.
        ax: Matplotlib axes to draw on. `None` for new axes.
        budget_ms: Latency limit in ms, drawn as a line. `None` for no line.

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
            label=name.replace("$", r"\$"),  # Matplotlib reads $...$ as a formula
        )
    medians = all(row.median_ms is not None for row in rows)
    ax.set(
        xlabel="median latency (ms)" if medians else "median or mean latency (ms)",
        ylabel="accuracy (%)" if accurate else "width",
    )
    if budget_ms is not None:
        ax.axvline(budget_ms, color="black", linestyle=":", label=f"{budget_ms:g} ms")
    latencies = [_latency(row) or 0.0 for row in rows]
    if max(latencies) > 20 * min(latencies):
        ax.set_xscale("log")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return ax


def write_html(
    report: Report, path: str | Path, *, budget_ms: float | None = None
) -> None:
    """Writes a report as one HTML file with picture, table, warnings and failures.

    Args:
        report: The report.
        path: The file.
        budget_ms: Latency limit in ms. The picture shows it as a line, and the table
            marks slower rows. `None` for no limit.

    Raises:
        OSError: If the file cannot be written.
    """
    rows = report.sorted()
    title = html.escape(_title(rows))
    parts = [
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        _about(rows),
        _picture(report, budget_ms),
        _short_table(rows, budget_ms),
        _list("Warnings", report.warnings()),
        _list("Not measured", [str(failure) for failure in report.failures]),
        _details(rows),
        "</body></html>\n",
    ]
    write_whole(Path(path), "\n".join(part for part in parts if part))


_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:80em}"
    "table{border-collapse:collapse;font-size:85%}"
    "td,th{border-bottom:1px solid #ccc;padding:.3em .6em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
    ".late{color:#a00}"
    "svg{max-width:45em;height:auto}"
)


def _latency(row: Row) -> float | None:
    """The median latency, or the mean: old benchmark_model prints no median."""
    return row.mean_ms if row.median_ms is None else row.median_ms


def _name(row: Row) -> str:
    threads = f"{row.threads} threads" if row.threads > 1 else None
    device = row.device if "-" in row.target else None
    parts = (row.target, threads, row.precision, device)
    return ", ".join(part for part in parts if part)


def _picture(report: Report, budget_ms: float | None) -> str:
    figure, ax = new_figure(6.5)
    try:
        plot_report(report, ax, budget_ms=budget_ms)
    except ValueError:
        return ""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    # An XML declaration is not allowed inside HTML.
    return text.getvalue()[text.getvalue().index("<svg") :]


def _title(rows: Sequence[Row]) -> str:
    """The title: files, devices and days of the rows."""
    files, devices = (_different(rows, name) for name in ("file", "device"))
    days = sorted({row.time[:10] for row in rows})
    parts = [
        ", ".join(files) or "Latency of each width",
        f" on {', '.join(devices)}" if devices else "",
        f", {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else "",
    ]
    return "".join(parts)


def _different(rows: Sequence[Row], name: str) -> list[str]:
    values = [getattr(row, name) for row in rows]
    return [str(value) for value in dict.fromkeys(values) if value is not None]


def _about(rows: Sequence[Row]) -> str:
    """A paragraph with the values of fields that are not in the table."""
    parts = []
    for title, name in (
        ("precision", "precision"),
        ("LiteRT", "litert"),
        ("chip", "soc"),
        ("build", "build"),
        ("runs of each width", "runs"),
    ):
        values = _different(rows, name)
        if values:
            parts.append(f"{title} {', '.join(values)}")
    return f"<p>{html.escape('; '.join(parts))}.</p>" if parts else ""


#: Columns of the main table: title with unit, field, and divisor of the values.
_COLUMNS: tuple[tuple[str, str, float], ...] = (
    ("width", "width", 1),
    ("accuracy (%)", "accuracy", 1e-2),
    ("median (ms)", "median_ms", 1),
    ("p90 (ms)", "p90_ms", 1),
    ("MACs (million)", "macs", 1e6),
    ("file (kB)", "file_bytes", 1e3),
    ("memory (MB)", "memory_mb", 1),
)


def _short_table(rows: Sequence[Row], budget_ms: float | None) -> str:
    """The main table, with units."""
    if not rows:
        return ""
    caption = ""
    if budget_ms is not None:
        caption = (
            f"<caption>Red: slower than {budget_ms:g} ms (90th percentile, or else "
            "median or mean).</caption>"
        )
    heads = ["target", *(title for title, _, _ in _COLUMNS)]
    lines = [f"<table>{caption}", _line("th", heads)]
    for row in rows:
        numbers = [(getattr(row, name), unit) for _, name, unit in _COLUMNS]
        cells = ["" if x is None else _text(float(x) / unit) for x, unit in numbers]
        slowest = row.p90_ms or row.median_ms or row.mean_ms
        late = budget_ms is not None and slowest is not None and slowest > budget_ms
        lines.append(_line("td", [_name(row), *cells], "late" if late else None))
    return "\n".join([*lines, "</table>"])


def _details(rows: Sequence[Row]) -> str:
    """A table with all fields, which the reader can unfold."""
    if not rows:
        return ""
    table = _table(rows)
    return f"<details><summary>All that was measured</summary>{table}</details>"


def _table(rows: Sequence[Row]) -> str:
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


def _line(tag: str, cells: Sequence[str], kind: str | None = None) -> str:
    line = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr class='{kind}'>{line}</tr>" if kind else f"<tr>{line}</tr>"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return str(value)


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""
