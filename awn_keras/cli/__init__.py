"""The command `awn`: arguments in, one call, a table out."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import awn_keras
from awn_keras.cli import (
    benchmark,
    convert,
    demo,
    evaluate,
    export,
    pick,
    predict,
    reproduce,
    summary,
    train,
    verify,
    web,
)
from awn_keras.cli.arguments import Parser
from awn_keras.cli.faults import describe_fault
from awn_keras.errors import AwnError

#: What TensorFlow raises, which need not be imported, instead of a MemoryError.
_OUT_OF_MEMORY = "ResourceExhaustedError"
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
    "predict": predict,
    "web": web,
    "benchmark": benchmark,
    "pick": pick,
}


def main(argv: Sequence[str] | None = None, log: Path | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments. `None` for the process's own.
        log: File for the traceback of a fault of awn_keras. `None` for a new one.

    Returns:
        The exit code. 0; 2 after what the user can mend, which one line on stderr
        explains (of a model that cannot be converted, one line for each reason); 1
        after a fault of awn_keras, of which the line says so; 130 after Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    try:
        _run(args)
    except (AwnError, OSError) as error:
        return _tell(args, f"error: {_explain(error, args.parser)}", 2)
    except KeyboardInterrupt:
        return _tell(args, "interrupted", 130)
    except Exception as error:  # noqa: BLE001 -- told as what it is, and kept
        if isinstance(error, MemoryError) or type(error).__name__ == _OUT_OF_MEMORY:
            said = textwrap.shorten(str(error), 300)
            return _tell(args, f"error: there is not enough memory: {said}", 2)
        return _tell(args, describe_fault(error, log), 1)
    return 0


def _run(args: argparse.Namespace) -> None:
    # Not before: a question about options, or a wrong one, is answered at once.
    awn_keras._load()
    try:
        args.run(args)
    except ModuleNotFoundError as error:
        missing = awn_keras._missing(error)
        raise awn_keras._needs("This command", missing) from error


def _tell(args: argparse.Namespace, text: str, code: int) -> int:
    sys.stderr.write(f"awn {args.command}: {text}\n")
    return code


def _explain(error: AwnError | OSError, parser: Parser) -> str:
    """The message of an error, with the command's options in place of arguments."""
    if isinstance(error, AwnError):
        message = error.message(parser.option)
        if error.has_lines:
            return message
    else:
        message = str(error)
    return " ".join(message.split())


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
