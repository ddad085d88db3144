"""`awn benchmark`."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from awn_keras.cli.arguments import (
    Parser,
    add_widths_argument,
    parse_integers,
    parse_words,
)
from awn_keras.cli.images import accuracies_on
from awn_keras.cli.output import write_line
from awn_keras.cli.sets import add_set_arguments, load_dataset
from awn_keras.errors import ArgumentError, AwnError
from awn_keras.extras import check_installed
from awn_keras.files import check_can_write, together

HELP = "Measure the latency of each width of TFLite files, here or on a device."
_PROGRAM_HELP = "LiteRT's benchmark_model for the device; see tflite/README.md"


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("files", type=Path, nargs="+", help=".tflite files")
    add = parser.add_argument
    add(
        "--dry",
        action="store_true",
        help="run nothing: count the MACs and bytes of each width",
    )
    add(
        "--targets",
        type=parse_words,
        metavar="T,T",
        help="on this machine: cpu (default), gpu",
    )
    add("--android", action="store_true", help="measure on an Android device, with adb")
    add(
        "--serial",
        action="append",
        default=[],
        help="serial number of an Android device; may be repeated",
    )
    add("--adb", default="adb", help="the program adb (default: adb)")
    add(
        "--ssh",
        action="append",
        default=[],
        metavar="USER@BOARD",
        help="measure on a board, with ssh; may be repeated",
    )
    add("--cpu", action="store_true", help="use the device's CPU (default)")
    add("--gpu", action="store_true", help="use the device's GPU")
    add("--benchmark-model", type=Path, metavar="PROGRAM", help=_PROGRAM_HELP)
    add(
        "--cooldown",
        type=float,
        default=0.0,
        help="pause between runs on a device, in seconds (default: 0)",
    )
    add(
        "--threads",
        type=parse_integers,
        default=(1,),
        metavar="N,N",
        help="numbers of threads to measure (default: 1)",
    )
    add_widths_argument(parser)
    add("--runs", type=int, default=50, help="timed runs per repetition (default: 50)")
    add(
        "--warm-up",
        type=int,
        default=5,
        help="untimed runs before each repetition (default: 5)",
    )
    add(
        "--min-seconds",
        type=float,
        default=0.3,
        help="shortest duration of a repetition, in seconds (default: 0.3)",
    )
    add("--repeats", type=int, default=5, help="number of repetitions (default: 5)")
    add(
        "--timeout",
        type=float,
        default=600,
        help="longest duration of a repetition, in seconds (default: 600)",
    )
    add("--output", type=Path, help="report (default: FILE.benchmark.json)")
    add(
        "--merge",
        action="append",
        type=Path,
        default=[],
        help="add the rows of another report; may be repeated",
    )
    add("--csv", type=Path, help="also write the rows as CSV")
    add("--html", type=Path, help="also write an HTML page with a chart")
    add(
        "--budget-ms",
        type=float,
        help="longest wanted latency in ms, a line on the page of --html",
    )
    add_set_arguments(
        parser, "also measure the accuracy on the test images of a data set"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.dry:
        _count(args)
        return
    output = args.output or Path(f"{args.files[0].with_suffix('')}.benchmark.json")
    _prepare(args, output)
    report, new = _measure(args, output, partial(_save, args, output))
    shown = report if args.merge else new
    if shown.rows:
        write_line(shown.table())
    for warning in shown.warnings():
        write_line(f"warning: {warning}")
    write_line(f"{len(new.rows)} rows measured, {len(report.rows)} in {output}")
    if new.failures:
        raise IncompleteError("; ".join(map(str, new.failures)))


def _prepare(args: argparse.Namespace, output: Path) -> None:
    """Checks arguments before a long measurement, and creates folders."""
    if args.budget_ms is not None and not (args.html and args.budget_ms > 0):
        raise ArgumentError(
            "`--budget-ms` must be above 0, and needs `--html`. Received: "
            f"{args.budget_ms}"
        )
    if args.html:
        check_installed("`--html`", "matplotlib")
    written = {"--output": output, "--csv": args.csv, "--html": args.html}
    for option, path in written.items():
        if path is not None:
            check_can_write(path, option)
            path.parent.mkdir(parents=True, exist_ok=True)


def _save(args: argparse.Namespace, output: Path, report: Any) -> None:
    """Writes all files of a report together, so that they belong to one report."""
    with together():
        if args.csv:
            report.to_csv(args.csv)
        if args.html:
            from awn_keras.deploy.benchmark import write_html

            write_html(report, args.html, budget_ms=args.budget_ms)
        report.save(output)


def _count(args: argparse.Namespace) -> None:
    """Shows the costs of each width, for `--dry`."""
    from awn_keras.deploy.benchmark import costs_of
    from awn_keras.deploy.benchmark.host import Subject

    if args.csv or args.html or args.output:
        raise ArgumentError(
            "`--dry` writes no file. Leave out `--output`, `--csv` and `--html`."
        )
    for path in args.files:
        costs = costs_of(path.read_bytes(), str(path))
        if args.widths:
            chosen = Subject.of(path, args.widths).widths
            costs = {name: costs[name] for name in chosen}
        write_line(f"{path}\n{_table(costs)}")


class IncompleteError(AwnError, RuntimeError):
    """A measurement failed; the other results are on disk."""


def _measure(
    args: argparse.Namespace, output: Path, save: Callable[[Any], None]
) -> tuple[Any, Any]:
    """Returns the report, which is saved after each row, and its new rows."""
    from awn_keras.deploy.benchmark import Report
    from awn_keras.deploy.benchmark.host import Subject

    # Old rows stay, except rows of an earlier export of the same file. `Report.load`
    # raises if the file is not a report, so no other file is overwritten.
    before = Report.load(output) if output.exists() else Report()
    for path in args.files:  # check all files before measuring the first one
        Subject.of(path, args.widths)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        before = before.without_older(path.name, digest)
    old = before.merged(map(Report.load, args.merge))
    new: list[Any] = []

    def progress(now: Report) -> None:
        save(old.merged([*new, now]))

    for path in args.files:
        for measure in _places(args, path):
            new.append(measure(on_progress=progress))
    report = old.merged(new)
    save(report)
    return report, Report().merged(new)


def _places(args: argparse.Namespace, path: Path) -> list[Callable[..., Any]]:
    """Functions that measure a file on this machine and on devices."""
    from awn_keras.deploy.benchmark import (
        SshDevice,
        adb_devices,
        benchmark_device,
        benchmark_tflite,
    )

    common = {
        "threads": args.threads,
        "widths": args.widths,
        "runs": args.runs,
        "warm_up": args.warm_up,
        "min_seconds": args.min_seconds,
        "repeats": args.repeats,
        "timeout": args.timeout,
        "accuracy": _accuracies(args, path),
    }
    places: list[Callable[..., Any]] = []
    elsewhere = args.android or args.serial or args.ssh
    if not elsewhere and (
        args.cpu or args.gpu or args.benchmark_model or args.cooldown
    ):
        raise ArgumentError(
            "`--cpu`, `--gpu`, `--benchmark-model` and `--cooldown` need a device: add "
            "`--android` or `--ssh`. To measure on this machine, use `--targets "
            "cpu,gpu`."
        )
    if args.targets or not elsewhere:
        targets = args.targets or ("cpu",)
        places.append(partial(benchmark_tflite, path, targets=targets, **common))
    devices: list[Any] = [SshDevice(host) for host in args.ssh]
    if args.android or args.serial:
        devices += adb_devices(args.adb, args.serial)
    units = [name for name in ("cpu", "gpu") if getattr(args, name)] or ["cpu"]
    for device in devices:
        options = {**common, "units": units, "cooldown": args.cooldown}
        program = args.benchmark_model
        places.append(partial(benchmark_device, path, device, program, **options))
    return places


def _accuracies(args: argparse.Namespace, path: Path) -> dict[str, float] | None:
    from awn_keras.deploy.litert import TFLiteFile

    data = load_dataset(args, path)
    return None if data is None else accuracies_on(TFLiteFile(path), data, args.widths)


def _table(costs_of_widths: Any) -> str:
    heads = ("MACs", "parameters", "constants", "activations")
    lines = [" ".join(f"{head:>15}" for head in heads) + "  signature"]
    for name, costs in sorted(
        costs_of_widths.items(), key=lambda item: item[1].macs or 0
    ):
        sizes = (costs.constant_bytes, costs.activation_bytes)
        kilobytes = " ".join(f"{size / 1e3:12,.0f} kB" for size in sizes)
        macs = "not known" if costs.macs is None else f"{costs.macs:,}"
        lines.append(f"{macs:>15} {costs.parameters:15,} {kilobytes}  {name}")
    return "\n".join(lines)
