"""`awn evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from awn_keras.cli.arguments import (
    Parser,
    add_widths_argument,
)
from awn_keras.cli.images import accuracies_on
from awn_keras.cli.output import told_on_stderr, write_line
from awn_keras.cli.sets import add_set_arguments, load_dataset
from awn_keras.errors import ArgumentError
from awn_keras.files import check_can_write, together

HELP = "Evaluate a saved model or an exported file at many widths."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "model",
        type=Path,
        help="a .keras file, a .tflite file, or a folder of `awn export --separate`",
    )
    add_set_arguments(
        parser, "evaluate on the test images of a data set", required=True
    )
    add_widths_argument(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help="directory for the curve as CSV, JSON and PNG (.keras files only)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.model.suffix == ".tflite" or args.model.is_dir():
        _run_file(args)
        return
    from awn_keras.counting import WARNING
    from awn_keras.curves import trade_off_curve
    from awn_keras.loading import load_model
    from awn_keras.pictures import new_figure, save_figure

    model = load_model(args.model)
    output = args.output
    if output:
        check_can_write(output, "--output", folder=True)
    data = load_dataset(args, args.model, model)
    with told_on_stderr(WARNING):
        curve = trade_off_curve(model, data.test(), widths=args.widths)
    write_line(str(curve))
    if output:
        output.mkdir(parents=True, exist_ok=True)
        with together():
            if curve.accuracy:
                figure, ax = new_figure()
                curve.plot(ax)
                save_figure(figure, output / "curve.png", dpi=150)
            curve.to_csv(output / "curve.csv")
            curve.to_json(output / "curve.json")


def _run_file(args: argparse.Namespace) -> None:
    """Shows the accuracy of each width of a file; runs it on each test image."""
    from awn_keras.deploy.litert import open_tflite

    if args.output:
        raise ArgumentError("`--output` works only for a .keras file. Leave it out.")
    file = open_tflite(args.model)
    accuracy = accuracies_on(file, load_dataset(args, args.model), args.widths)
    write_line(f"{'width':>8} {'accuracy':>10}")
    for width, signature in file.by_width.items():
        if signature.name in accuracy:
            write_line(f"{width:8.4f} {100 * accuracy[signature.name]:8.2f} %")
