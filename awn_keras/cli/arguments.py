"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NoReturn

WIDTHS_HELP = "widths in (0, 1], separated by commas, as in 0.25,0.5,1"


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors, which knows the options of arguments.

    Attributes:
        renamed: A dict from arguments of the library to the `dest` of their option, for
            options with another name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.renamed: dict[str, str] = {}

    def error(self, message: str) -> NoReturn:
        """Writes the error as one line, without the usage, and ends the process."""
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line} (see `{self.prog} --help`)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as in the base class, but refuses `--option=--`.

        The base class accepts it as an empty list.
        """
        parsed, left = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            empty = isinstance(value, list) and (not value or [] in value)
            if action.nargs is None and empty and value != action.default:
                name = "/".join(action.option_strings) or action.dest
                self.error(f"argument {name}: expected one argument")
        return parsed, left

    def option(self, argument: str, value: str | None = None) -> str | None:
        """Returns the option of an argument of the library.

        Args:
            argument: Name of the argument, such as "single_file".
            value: Value of the argument in Python, such as "'int8'" or "False". `None`
                if the value does not matter.

        Returns:
            The option as a user types it, such as "--precision int8" or "--separate".
            `None` if there is no such option.
        """
        name = self.renamed.get(argument, argument)
        for action in self._actions:
            if action.dest != name or not action.option_strings:
                continue
            typed = action.option_strings[0]
            if value is None:
                return typed
            if action.nargs != 0:
                if value.startswith("("):  # a tuple is typed as 128,128,1
                    value = value.strip("(,)").replace(" ", "")
                return typed + " " + value.strip("'")
            if value == str(action.const):  # a flag that sets this value
                return typed
        return None


def add_data_arguments(parser: Parser) -> None:
    """Adds the options for the place of a data set.

    Args:
        parser: Parser of a command with `--dataset`.
    """
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder of prepared TFDS data sets (default: TFDS's own)",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="let TFDS download a data set that is missing",
    )
    parser.renamed["name"] = "dataset"  # `load_data(name)`


def add_widths_argument(
    parser: Parser, option: str = "--widths", what: str = ""
) -> None:
    """Adds an option that takes widths.

    Args:
        parser: Parser of the command.
        option: Name of the option.
        what: Beginning of the help.
    """
    parser.add_argument(
        option, type=parse_widths, metavar="W,W,...", help=what + WIDTHS_HELP
    )


def add_stages_argument(parser: Parser) -> None:
    """Adds the option that takes stages.

    Args:
        parser: Parser of the command.
    """
    parser.add_argument(
        "--stages",
        type=parse_stages,
        metavar="JSON",
        help="min_width, divisor or widths_grid for some layers, by patterns of their "
        """names, as in '{"block_1_*": {"divisor": 16}}'""",
    )


# ------------------------------------------------------------------------- parsing


def parse_widths(text: str) -> tuple[float, ...]:
    """Reads widths in (0, 1], separated by commas."""
    from awn_keras.widths import check_width

    try:
        return tuple(check_width(float(part)) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{WIDTHS_HELP}. Received: {text!r}"
        ) from error


def parse_multiplier(text: str) -> float | str:
    """Reads a number, or the word `balanced`."""
    try:
        return text if text == "balanced" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"a number above 0, or balanced. Received: {text!r}"
        ) from error


def parse_stages(text: str) -> dict[str, Any]:
    """Reads a JSON object."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise argparse.ArgumentTypeError(
                f"each name may occur only once in {text!r}"
            )
        return dict(pairs)

    try:
        stages = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        stages = None
    if not isinstance(stages, dict):
        raise argparse.ArgumentTypeError(
            """a JSON object, as in '{"block_1_*": {"divisor": 16}}'. Received: """
            f"{text!r}"
        )
    return stages


def parse_integers(text: str) -> tuple[int, ...]:
    """Reads integers, separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"integers, separated by commas. Received: {text!r}"
        ) from error


def parse_size(text: str) -> tuple[int, int]:
    """Reads rows and cols, or one number for both."""
    numbers = parse_integers(text)
    if len(numbers) > 2 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(
            f"rows and cols, as in 96 or 96,128. Received: {text!r}"
        )
    return numbers[0], numbers[-1]


def parse_shape(text: str) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """Reads a shape, or shapes of several inputs such as `image=96,96,3;age=1`."""
    shapes = {}
    for part in text.split(";"):
        name, _, sizes = part.rpartition("=")
        shapes[name.strip()] = parse_integers(sizes)
    return shapes[""] if list(shapes) == [""] else shapes


def add_input_shape_argument(parser: Parser) -> None:
    """Adds the option that takes the shape of an input.

    Args:
        parser: Parser of the command.
    """
    parser.add_argument(
        "--input-shape",
        type=parse_shape,
        metavar="N,N,...",
        help="shape of the input, as in 128,128,1, for a model with unknown sizes; "
        "for several inputs by name, as in 'image=96,96,3;series=50,8'",
    )


def parse_words(text: str) -> tuple[str, ...]:
    """Reads words, separated by commas."""
    return tuple(text.split(","))


def metadata_of(data: Any) -> dict[str, Any]:
    """The `metadata` of an export: the class names.

    Args:
        data: The `ImageData` of the training.

    Returns:
        A dict for `export_tflite`.
    """
    return {"class_names": list(data.class_names)}
