"""The command `awn`: arguments in, one call, a table out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from awn_keras.cli import (
    benchmark,
    convert,
    demo,
    evaluate,
    export,
    pick,
    reproduce,
    summary,
    train,
    verify,
)
from awn_keras.cli.arguments import Parser

#: Modules of the commands, in the order of `awn --help`; each has `HELP`, `add` (its
#: arguments) and `run`.
COMMANDS = {
    "demo": demo,
    "train": train,
    "reproduce": reproduce,
    "convert": convert,
    "evaluate": evaluate,
    "summary": summary,
    "export": export,
    "verify": verify,
    "benchmark": benchmark,
    "pick": pick,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments. `None` for the process's own.

    Returns:
        The exit code: 0, or 2 after bad input, which one line on stderr explains (of
        a model that cannot be converted, one line for each reason).
    """
    args = build_parser().parse_args(argv)
    from awn_keras.conversion import ConversionError
    from awn_keras.data import DatasetUnavailableError
    from awn_keras.deploy.benchmark import DeviceError
    from awn_keras.deploy.converter import ExportError
    from awn_keras.deploy.engine import EngineError
    from awn_keras.errors import AwnError

    try:
        args.run(args)
    except (
        DatasetUnavailableError,
        DeviceError,
        EngineError,
        ExportError,
        benchmark.IncompleteError,
        NotImplementedError,
        OSError,
        TypeError,
        ValueError,
    ) as error:
        message = AwnError(str(error)).message(args.parser.option)
        if not isinstance(error, ConversionError):  # which has a line for each finding
            message = " ".join(message.split())
        sys.stderr.write(f"awn {args.command}: error: {message}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"awn {args.command}: interrupted\n")
        return 130
    return 0


def build_parser() -> Parser:
    """Builds the parser of all commands.

    Returns:
        It; what it parses has the command's `run` and `parser`.
    """
    parser = Parser(
        prog="awn", description="Any-width networks: train once, run any width."
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.HELP, description=command.HELP)
        command.add(own)
        own.set_defaults(run=command.run, parser=own)
    return parser


def _version() -> str:
    from awn_keras import __version__

    return f"awn_keras {__version__}"
