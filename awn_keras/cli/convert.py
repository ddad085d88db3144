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

HELP = "Convert a saved Keras model to an any-width model."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, help="a .keras file")
    add = parser.add_argument
    add("--output", type=Path, help="file (default: MODEL_any_width.keras)")
    add("--min-width", type=float, help="smallest width (default: 0.25)")
    add(
        "--divisor",
        type=int,
        default=8,
        help="size of the blocks in which channels come and go (default: 8)",
    )
    add_widths_argument(parser, "--widths-grid", "the only widths of the model: ")
    add(
        "--staircase",
        default="nested",
        help="rule for the widths at which channels appear: nested (default), paper",
    )
    add_stages_argument(parser)
    add(
        "--readouts",
        type=parse_words,
        default=(),
        help="names of the layers that end the any-width part, separated by commas "
        "(default: the last one before each output)",
    )
    add(
        "--keep-whole",
        type=parse_words,
        default=(),
        help="patterns of the names of layers that keep all channels at every width, "
        "separated by commas; all layers before them stay whole, too",
    )
    add(
        "--width-multiplier",
        type=parse_multiplier,
        default=1.0,
        help="factor on the channels of an untrained model: a number (default: 1), or "
        "balanced, with which an exported file keeps about the MACs and weights of "
        "the plain network",
    )
    add(
        "--order",
        default="keep",
        help="order of channels: keep (default); for a trained model also importance "
        "or reading",
    )


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
            f"{output} already exists and may be trained. Remove the file, or name "
            "another file with `--output`."
        )
    check_can_write(output, "--output")
    if args.width_multiplier == "balanced":
        write_line("Searching for the balanced factor: some seconds for each trial.")
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
    write_line(
        "Compile and fit the model as any Keras model, then run it at any width."
    )
