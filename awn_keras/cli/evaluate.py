"""`awn evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from awn_keras.cli.arguments import (
    Parser,
    add_widths_argument,
)
from awn_keras.cli.output import write_line
from awn_keras.cli.sets import add_set_arguments, load_dataset
from awn_keras.files import check_can_write

HELP = "Evaluate a saved model at many widths."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, help="a .keras file")
    add_set_arguments(parser, "test images", required=True)
    add_widths_argument(parser)
    parser.add_argument("--output", type=Path, help="directory for csv, json, png")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.curves import trade_off_curve
    from awn_keras.loading import load_model
    from awn_keras.pictures import new_figure

    model = load_model(args.model)
    output = args.output
    if output:
        check_can_write(output, "--output", folder=True)
    data = load_dataset(args, args.model, model)
    curve = trade_off_curve(model, data.test(), widths=args.widths)
    write_line(str(curve))
    if output:
        output.mkdir(parents=True, exist_ok=True)
        curve.to_csv(output / "curve.csv")
        curve.to_json(output / "curve.json")
    if output and curve.accuracy:
        figure, ax = new_figure()
        curve.plot(ax)
        figure.savefig(output / "curve.png", dpi=150)
