"""`awn summary`."""

from __future__ import annotations

import argparse
from pathlib import Path

from awn_keras.cli.arguments import Parser, add_widths_argument
from awn_keras.cli.output import write_line

HELP = "Show the layers of a saved model, or its networks."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, help="a .keras file")
    add_widths_argument(parser)
    parser.add_argument(
        "--networks",
        action="store_true",
        help="list the distinct networks (those at --widths, if given) and their costs",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.loading import load_model
    from awn_keras.summary import list_networks, summarize

    table = list_networks if args.networks else summarize
    write_line(str(table(load_model(args.model), widths=args.widths)))
