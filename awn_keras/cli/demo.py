"""`awn demo`."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from awn_keras.cli.arguments import Parser, metadata_of
from awn_keras.cli.output import write_line
from awn_keras.cli.web import LITERTJS_HELP, how_to_open
from awn_keras.errors import ArgumentError
from awn_keras.files import check_can_write

HELP = "Train on scikit-learn's digits, show the curve, export a TFLite file."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("awn_demo"),
        help="directory (default: awn_demo)",
    )
    parser.add_argument(
        "--web",
        action="store_true",
        help="also write a web page on which to draw digits",
    )
    parser.add_argument(
        "--litertjs", type=Path, metavar="FOLDER", help=f"for --web: {LITERTJS_HELP}"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.curves import trade_off_curve
    from awn_keras.data import load_data
    from awn_keras.deploy import export_tflite, write_page
    from awn_keras.deploy.web import LiteRTJs
    from awn_keras.files import write_whole
    from awn_keras.runs.presets import recommended_recipe
    from awn_keras.runs.result import holds_run_of
    from awn_keras.runs.run import run as start_run

    directory = args.output
    if args.litertjs is not None and not args.web:
        raise ArgumentError("`litertjs` needs `--web`, because the page uses it.")
    if args.litertjs is not None:
        LiteRTJs.find(args.litertjs)
    check_can_write(directory, "--output", folder=True)
    # Digits are easy, so only very narrow widths show a loss of accuracy.
    recipe = replace(recommended_recipe("digits"), epochs=15, min_width=0.05)
    if holds_run_of(recipe, directory):  # an earlier demo
        (directory / "model.keras").unlink()
    start = time.perf_counter()
    result = start_run(recipe, directory)
    seconds = time.perf_counter() - start
    write_line(str(result.curve))
    data = load_data("digits")
    test = data.test()
    widths = [0.05, 0.25, 0.5, 1.0]
    exported = export_tflite(
        result.model,
        directory / "digits.tflite",
        widths=widths,
        samples=test[0][0][:100],
        metadata={**metadata_of(data), "drawing": _drawing(data)},
        verbose=0,
    )
    chosen = trade_off_curve(result.model, test, widths=widths)
    summary = _summary(result.curve, chosen.accuracy, exported, seconds, directory)
    write_whole(directory / "summary.txt", summary)
    write_line("\n" + summary)
    if args.web:
        page = write_page(
            directory / "digits.tflite",
            directory / "web",
            litertjs=args.litertjs,
            title="Handwritten digits",
        )
        write_line(how_to_open(page))


def _drawing(data: Any) -> dict[str, int]:
    """How the page makes inputs from drawings: the digits fill the image."""
    return {
        "paper": int(data.x_train.min()),
        "ink": int(data.x_train.max()),
        "margin": 0,
    }


def _summary(
    curve: Any, accuracy: list[float], exported: Any, seconds: float, directory: Path
) -> str:
    full = exported[-1]
    lines = [
        f"One training run of {seconds:.0f} s made one model with {len(curve.widths)} "
        "networks. On average they classify",
        f"{100 * curve.auc:.1f} % of the test digits correctly (AUC). Four of them are "
        f"in one TFLite file of {full.bytes / 1e3:.0f} kB:",
        "",
    ]
    for right, network in zip(accuracy, exported, strict=True):
        line = (
            f"  width {network.width:4.2f}: {100 * right:5.1f} % correct, "
            f"{network.macs:9,} multiplications for a digit"
        )
        if network is not full:
            line += f" ({full.macs / network.macs:5.1f} times fewer)"
        lines.append(line)
    error = max(network.largest_error for network in exported)
    lines += [
        "",
        "Each was run with LiteRT and compared with the model at its width "
        f"(largest difference {error:.0e}).",
        f"In {directory}: digits.tflite with its manifest digits.json, model.keras, "
        "curve.png, curve.csv, result.json, and this text as summary.txt.",
    ]
    return "\n".join(lines) + "\n"
