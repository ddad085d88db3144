"""What several commands read from their arguments."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NoReturn

WIDTHS_HELP = "widths in (0, 1], separated by commas, as in 0.25,0.5,1"


class Parser(argparse.ArgumentParser):
    """Answers bad arguments by one line, and knows which option an argument is.

    Attributes:
        renamed: The library's arguments whose option is called otherwise, each with
            the name under which the parser keeps that option.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.renamed: dict[str, str] = {}

    def error(self, message: str) -> NoReturn:
        """Ends the process with one line, without the usage."""
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line} (see `{self.prog} --help`)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as its parent, which takes `--option=--` for an empty list."""
        parsed, left = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            empty = isinstance(value, list) and (not value or [] in value)
            if action.nargs is None and empty and value != action.default:
                name = "/".join(action.option_strings) or action.dest
                self.error(f"argument {name}: expected one argument")
        return parsed, left

    def option(self, argument: str, value: str | None = None) -> str | None:
        """Names the option by which a user gives an argument of the library.

        Args:
            argument: Name of the argument, such as "single_file".
            value: Its value in Python, such as "'int8'" or "False". `None` if it does
                not matter.

        Returns:
            What is typed, such as "--precision int8" or "--separate". `None` if there
            is no such option.
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
            if value == str(action.const):  # a flag, on or off
                return typed
        return None


def add_data_arguments(parser: Parser) -> None:
    """Adds where a data set is read from.

    Args:
        parser: The command's; it has `--dataset`.
    """
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS sets")
    parser.add_argument(
        "--download", action="store_true", help="let TFDS fetch a missing set"
    )
    parser.renamed["name"] = "dataset"  # `load_data(name)`


def add_widths_argument(parser: Parser, option: str = "--widths") -> None:
    """Adds an option that takes widths.

    Args:
        parser: The command's.
        option: What it is called.
    """
    parser.add_argument(option, type=parse_widths, metavar="W,W,...", help=WIDTHS_HELP)


def add_stages_argument(parser: Parser) -> None:
    """Adds the option that takes stages.

    Args:
        parser: The command's.
    """
    parser.add_argument(
        "--stages",
        type=parse_stages,
        metavar="JSON",
        help="min_width, divisor or widths_grid of some layers, by a pattern of their "
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
    """Reads an object of JSON."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise argparse.ArgumentTypeError(f"a name stands twice in {text!r}")
        return dict(pairs)

    try:
        stages = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        stages = None
    if not isinstance(stages, dict):
        raise argparse.ArgumentTypeError(
            """an object of JSON, as in '{"block_1_*": {"divisor": 16}}'. Received: """
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
    """Reads the shape of an input, or those of several: `image=96,96,3;age=1`."""
    shapes = {}
    for part in text.split(";"):
        name, _, sizes = part.rpartition("=")
        shapes[name.strip()] = parse_integers(sizes)
    return shapes[""] if list(shapes) == [""] else shapes


def add_input_shape_argument(parser: Parser) -> None:
    """Adds the option that takes the sizes of an input.

    Args:
        parser: The command's.
    """
    parser.add_argument(
        "--input-shape",
        type=parse_shape,
        metavar="N,N,...",
        help="size of the input, as in 128,128,1, where the model leaves it open; of "
        "several inputs by name, as in 'image=96,96,3;series=50,8'",
    )


def parse_words(text: str) -> tuple[str, ...]:
    """Reads words, separated by commas."""
    return tuple(text.split(","))


def metadata_of(data: Any) -> dict[str, Any]:
    """What those who run a file must know of its outputs.

    Args:
        data: The `ImageData` that the model was trained on.

    Returns:
        A dict of JSON's types, for `export_tflite`.
    """
    return {"class_names": list(data.class_names)}
