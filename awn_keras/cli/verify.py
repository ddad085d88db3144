"""`awn verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from awn_keras.cli.arguments import (
    Parser,
)
from awn_keras.cli.output import (
    AGREEMENT_HEAD,
    agreement,
    told_on_stderr,
    write_line,
)
from awn_keras.cli.sets import add_set_arguments, load_dataset, some_of
from awn_keras.errors import ArgumentError

HELP = "Compare the outputs of a TFLite file with those of its model."


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", type=Path, help="a .tflite file")
    parser.add_argument(
        "--against", type=Path, required=True, help="the model, a .keras file"
    )
    parser.add_argument(
        "--precision",
        help="precision of the file, which sets the tolerance (default: as stored in "
        "the file)",
    )
    add_set_arguments(parser, "compare on 500 test images of a data set")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.deploy import verify_tflite
    from awn_keras.deploy.calibration import WARNING
    from awn_keras.deploy.verification import TOLERANCES, default_tolerance
    from awn_keras.loading import load_model

    precision = args.precision
    if precision is not None and precision not in TOLERANCES:
        raise ArgumentError(
            f"`--precision` must be one of {', '.join(TOLERANCES)}. Received: "
            f"{precision}"
        )
    model = load_model(args.against)
    data = load_dataset(args, args.against, model)
    tolerance = None if precision is None else default_tolerance(model, precision)
    samples = None if data is None else some_of(data.x_test, 500)
    with told_on_stderr(WARNING):
        verified = verify_tflite(args.file, model, samples=samples, tolerance=tolerance)
    write_line(f"{'width':>8} {AGREEMENT_HEAD}  signature")
    for network in verified:
        write_line(f"{network.width:8.4g} {agreement(network)}  {network.signature}")
