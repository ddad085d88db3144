"""The command `awn`: each subcommand calls the library and prints a table."""

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
from awn_keras.cli.output import describe_os_error
from awn_keras.errors import AwnError

#: Class name of TensorFlow's error for a lack of memory. A name, so that this module
#: does not import TensorFlow.
_OUT_OF_MEMORY = "ResourceExhaustedError"
#: Modules of the commands, in the order of `awn --help`. Each has `HELP`, `add` (which
#: adds the arguments) and `run`.
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
        argv: Arguments. `None` takes those of the process.
        log: File for the traceback of a fault of awn_keras. `None` makes a new file.

    Returns:
        The exit code: 0 after success; 1 after a fault of awn_keras; 2 after an error
        that the user can fix; 130 after Ctrl-C. One line on stderr explains an error.
        For a model that cannot be converted, there is a line for each reason.
    """
    args = build_parser().parse_args(argv)
    try:
        _run(args)
    except (AwnError, OSError) as error:
        return _tell(args, f"error: {_explain(error, args.parser)}", 2)
    except KeyboardInterrupt:
        return _tell(args, "interrupted", 130)
    except Exception as error:  # noqa: BLE001 -- reported as a fault, with a log
        if isinstance(error, MemoryError) or type(error).__name__ == _OUT_OF_MEMORY:
            said = textwrap.shorten(str(error), 300)
            return _tell(args, f"error: there is not enough memory: {said}", 2)
        return _tell(args, describe_fault(error, log), 1)
    return 0


def _run(args: argparse.Namespace) -> None:
    # Import Keras only now, so that `--help` and wrong options are answered at once.
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
    """The message of an error, with options of the command instead of arguments."""
    if isinstance(error, OSError) and not isinstance(error, AwnError):
        message = describe_os_error(error)
    else:
        message = error.message(parser.option)
        if error.has_lines:
            return message
    return " ".join(message.split())


def build_parser() -> Parser:
    """Builds the parser of all commands.

    Returns:
        The parser. Parsed arguments have the command's `run` and `parser`.
    """
    parser = Parser(
        prog="awn",
        description="Any-width networks: train one network, run it at any width.",
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
