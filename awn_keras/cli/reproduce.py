"""`awn reproduce`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from awn_keras.cli.arguments import Parser, add_data_arguments
from awn_keras.cli.output import write_line
from awn_keras.files import check_can_write

HELP = "Reproduce a table or figure of the paper, beside the paper's numbers."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    add = parser.add_argument
    add("experiment", help="table1, table2, figure2, figure4, ..., or individual")
    add("--dataset", help="data set (default: the paper's first)")
    add(
        "--model",
        dest="architecture",
        default="lenet_3c1l",
        help="network (default: lenet_3c1l)",
    )
    add("--seeds", type=int, default=1, help="runs of each system (default: 1)")
    add(
        "--scale",
        type=float,
        default=1.0,
        help="share of the epochs to run (default: 1); results are marked with it",
    )
    add(
        "--precision",
        default="float32",
        help="precision of training steps: float32 (default), mixed_bfloat16",
    )
    add("--systems", help="systems to run, separated by commas (default: all)")
    add("--show", action="store_true", help="run nothing, show finished runs only")
    add(
        "--results",
        type=Path,
        default=Path("results/paper"),
        help="folder for JSON files and figures (default: results/paper)",
    )
    add(
        "--work",
        type=Path,
        default=Path("runs/paper"),
        help="folder for checkpoints (default: runs/paper)",
    )
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.experiments import reproduce
    from awn_keras.experiments.paper import runs_of

    which = (args.experiment, args.dataset, args.architecture)
    systems = None if args.systems is None else args.systems.split(",")
    kind = {"scale": args.scale, "precision": args.precision}
    runs = runs_of(*which, seeds=args.seeds, systems=systems, **kind)
    every = runs_of(*which, seeds=max(args.seeds, reproduce.SEEDS), **kind)
    results = args.results
    check_can_write(results, "--results", folder=True)
    here = len(reproduce.finished_runs(every, results))
    for options, count in reproduce.finished_kinds(*which, results).items():
        if count > here:
            write_line(
                f"{count} finished runs have other options. To see them, add {options}."
            )
    if not args.show:
        check_can_write(args.work, "--work", folder=True)
        reproduce.run_missing(
            runs,
            results,
            args.work,
            report=write_line,
            verbose=1 if sys.stdout.isatty() else 2,
            data_dir=args.data_dir,
            download=args.download,
        )
    finished = reproduce.finished_runs(every, results)
    results.mkdir(parents=True, exist_ok=True)
    write_line(str(reproduce.show(args.experiment, finished, results)))
    reproduce.write_report(results)
    write_line(f"All tables and figures: {results / 'README.md'}")
