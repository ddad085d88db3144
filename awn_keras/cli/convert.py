"""`awn convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from awn_keras.cli.arguments import (
    Parser,
    add_stages_argument,
    add_widths_argument,
    parse_multiplier,
    parse_words,
)
from awn_keras.cli.output import told_on_stderr, write_line
from awn_keras.errors import ArgumentError
from awn_keras.files import check_can_write, whole_file

HELP = "Make a saved Keras model any-width."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, help="a .keras file")
    add = parser.add_argument
    add("--output", type=Path, help="file (default: MODEL_any_width.keras)")
    add("--min-width", type=float, help="smallest width (default: 0.25)")
    add("--divisor", type=int, default=8, help="channels per block (default: 8)")
    add_widths_argument(parser, "--widths-grid")
    add("--staircase", default="nested", help="nested (default), or paper")
    add_stages_argument(parser)
    add(
        "--readouts",
        type=parse_words,
        default=(),
        help="layers at which the any-width part ends, separated by commas (default: "
        "the last before each output)",
    )
    add(
        "--keep-whole",
        type=parse_words,
        default=(),
        help="layers that stay whole at every width, with all before them; patterns, "
        "separated by commas",
    )
    add(
        "--width-multiplier",
        type=parse_multiplier,
        default=1.0,
        help="widens an untrained model: a number (default: 1), or balanced: as much "
        "as leaves work and weights of an exported file as they are",
    )
    add("--order", default="keep", help="keep (default), or importance if trained")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.conversion import to_any_width
    from awn_keras.counting import WARNING
    from awn_keras.loading import load_keras_model
    from awn_keras.summary import list_networks

    output = args.output or args.model.with_name(f"{args.model.stem}_any_width.keras")
    if output.suffix != ".keras":
        raise ArgumentError(f"`--output` must be a .keras file. Received: {output}")
    if output.exists():
        raise ArgumentError(
            f"{output} is there already, and may have been trained. Remove it, or name "
            "another one with `--output`."
        )
    check_can_write(output, "--output")
    if args.width_multiplier == "balanced":
        write_line("Looking for the balance: some seconds for each number tried.")
    model = to_any_width(
        load_keras_model(args.model, compiled=False),
        min_width=args.min_width,
        divisor=args.divisor,
        widths_grid=args.widths_grid,
        staircase=args.staircase,
        stages=args.stages,
        readouts=args.readouts,
        keep_whole=args.keep_whole,
        width_multiplier=args.width_multiplier,
        order=args.order,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output, ".keras") as temporary:
        model.save(temporary)
    with told_on_stderr(WARNING):
        ends = list_networks(model, [model.min_width, 1.0])
    count = len(model.distinct_widths)
    write_line(f"{output}: {count} networks. The narrowest and the widest:")
    write_line(str(ends))
    write_line("Compile and fit it as any Keras model; then it runs at every width.")
