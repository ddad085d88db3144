"""`awn pick`."""

from __future__ import annotations

import argparse
from pathlib import Path

from awn_keras.cli.arguments import Parser
from awn_keras.cli.output import write_line

HELP = "Pick the best width that keeps to a budget."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("report", type=Path, help="a report of `awn benchmark`")
    add = parser.add_argument
    add("--budget-ms", type=float, help="longest latency, in ms")
    add("--budget-kb", type=float, help="longest file, in kB of 1000 bytes")
    add("--target", help="cpu, gpu, android-cpu, ..., if there are several")
    add("--device", help="which device, if there are several")
    add("--threads", type=int, help="for how many threads, if there are several")
    add("--file", help="which file, if there are several")
    add("--quantile", default="p90", help="of latency: median, p90 (default), p95")


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
    if pick.uncertainty_ms is not None:
        about += f" (within {pick.uncertainty_ms:.2g} ms)"
    if pick.row.accuracy is not None:
        about += f", accuracy {pick.row.accuracy:.2%}"
    if not pick.fits:
        write_line(
            f"Nothing keeps to the budget. The narrowest, width {pick.width:.4g}:"
        )
    write_line(f"{pick.width:.4g}: {about}")
    by_median = pick_width(
        report, **{**wanted, "quantile": "median"}, budget_ms=args.budget_ms
    )
    if pick.ms is not None and by_median.fits and by_median.width > pick.width:
        write_line(
            f"By its median, {by_median.ms:.3g} ms, width {by_median.width:.4g} keeps "
            f"to the budget, too; by its {pick.quantile} it does not. "
            "`--quantile median` takes it."
        )
    if pick.fits and (pick.interpolated_width or 0) > pick.width:
        write_line(
            f"An export at width {pick.interpolated_width:.3g} is expected to keep to "
            "it, too."
        )
    if pick.fits and pick.dominated:
        widths = ", ".join(f"{width:.4g}" for width in pick.dominated)
        write_line(f"Slower and no better than others: {widths}")
