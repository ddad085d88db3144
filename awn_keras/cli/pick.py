"""`awn pick`."""

from __future__ import annotations

import argparse
from pathlib import Path

from awn_keras.cli.arguments import Parser
from awn_keras.cli.output import write_line

HELP = "Choose the best width within a budget of latency or file size."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("report", type=Path, help="a report of `awn benchmark`")
    add = parser.add_argument
    add("--budget-ms", type=float, help="longest allowed latency, in ms")
    add("--budget-kb", type=float, help="largest allowed file, in kB of 1000 bytes")
    add("--target", help="cpu, gpu, android-cpu, ..., if the report has several")
    add("--device", help="name of the device, if the report has several")
    add("--threads", type=int, help="number of threads, if the report has several")
    add("--file", help="name of the file, if the report has several")
    add(
        "--quantile",
        default="p90",
        help="quantile of the latency to compare: median, p90 (default), p95",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.deploy.benchmark import Report, pick_width

    report = Report.load(args.report)
    wanted = {
        name: getattr(args, name)
        for name in ("budget_kb", "target", "device", "threads", "file", "quantile")
    }
    pick = pick_width(report, **wanted, budget_ms=args.budget_ms)
    about = f"{pick.row.signature} of {pick.row.file}"
    if pick.ms is not None:
        about += f", {pick.quantile} {pick.ms:.3g} ms"
    if args.budget_kb is not None and pick.row.file_bytes is not None:
        about += f", {pick.row.file_bytes / 1e3:.0f} kB"
    if pick.uncertainty_ms:  # one repetition says nothing
        about += f" (within {pick.uncertainty_ms:.2g} ms)"
    if pick.row.accuracy is not None:
        about += f", accuracy {pick.row.accuracy:.2%}"
    if not pick.fits:
        write_line(f"No width is within the budget. The narrowest is {pick.width:.4g}:")
    write_line(f"{pick.width:.4g}: {about}")
    by_median = pick_width(
        report, **{**wanted, "quantile": "median"}, budget_ms=args.budget_ms
    )
    if pick.ms is not None and by_median.fits and by_median.width > pick.width:
        write_line(
            f"The median latency of width {by_median.width:.4g}, {by_median.ms:.3g} "
            f"ms, is also within the budget; its {pick.quantile} is not. To compare "
            "medians, use `--quantile median`."
        )
    if pick.fits and (pick.interpolated_width or 0) > pick.width:
        write_line(
            f"A new export at width {pick.interpolated_width:.3g} is expected to be "
            "within the budget, too."
        )
    if pick.fits and pick.dominated:
        widths = ", ".join(f"{width:.4g}" for width in pick.dominated)
        write_line(
            f"Widths that are slower and not more accurate than others: {widths}"
        )
