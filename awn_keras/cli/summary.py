"""`awn summary`."""

from __future__ import annotations

import argparse
from pathlib import Path

from awn_keras.cli.arguments import (
    Parser,
    add_input_shape_argument,
    add_widths_argument,
)
from awn_keras.cli.output import told_on_stderr, write_line

HELP = "Show the layers of a saved model, or its networks and their costs."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, help="a .keras file")
    add_widths_argument(parser)
    parser.add_argument(
        "--networks",
        action="store_true",
        help="list the different networks and their costs (with --widths, only those)",
    )
    add_input_shape_argument(parser)
    parser.add_argument(
        "--time",
        action="store_true",
        help="also measure the latency of each width on this machine, in an exported "
        "file (default widths: the four of an export)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.counting import WARNING
    from awn_keras.loading import load_model
    from awn_keras.summary import list_networks, summarize

    model, widths = load_model(args.model), args.widths
    if args.input_shape or args.time:
        from awn_keras.deploy.sizes import at_input_shape

        model = at_input_shape(model, args.input_shape)
    if args.time:
        from awn_keras.deploy.timing import with_milliseconds
        from awn_keras.layouts import default_widths

        widths = widths or default_widths(model)
        write_line(f"Converting and timing {len(widths)} widths, some seconds each.")
    with told_on_stderr(WARNING):
        costs = (list_networks if args.networks else summarize)(model, widths=widths)
    write_line(str(with_milliseconds(costs, model) if args.time else costs))
