"""What the user of the package can mend, as one family of exceptions."""

from __future__ import annotations

from collections.abc import Callable


class AwnError(Exception):
    """Something that the user can mend; the message says how.

    What stands in backticks in a message is code. "`name`" and "`name=value`" there are
    arguments of the Python function that was called, and a command has its own names
    for these.
    """

    #: Whether the message has a line for each thing that is wrong.
    has_lines = False
    # By this TensorFlow knows, when an error leaves a traced function, that another
    # one of the same class can be made of a message.
    __init__ = Exception.__init__

    def message(self, typed: Callable[[str, str | None], str | None]) -> str:
        """Gives the message in the words of a command.

        Args:
            typed: From an argument's name and its value (`None` if the message does
                not say it) to what a user types for it. `None` if it is no argument
                of the command: the Python name then stays.

        Returns:
            The message, such as "`--precision int8` needs `--representative`".
        """
        parts = str(self).split("`")
        for index in range(1, len(parts), 2):
            name, equals, value = parts[index].partition("=")
            parts[index] = typed(name, value if equals else None) or parts[index]
        return "`".join(parts)


class ArgumentError(AwnError, ValueError):
    """An argument, or a file, has a value that is not allowed."""


class ArgumentTypeError(AwnError, TypeError):
    """An argument is of a kind that is not allowed."""


class UnsupportedError(AwnError, NotImplementedError):
    """What is asked for is not implemented, or not on this backend."""


class StateError(AwnError, RuntimeError):
    """A call comes at a moment, or in a place, where it cannot be done."""


class WeightsUnavailableError(AwnError, RuntimeError):
    """Trained weights are not on this machine and could not be fetched."""


class DivergedError(AwnError, RuntimeError):
    """Training came to NaN or infinite numbers."""


class ExportError(AwnError, RuntimeError):
    """A converted file has foreign operators or does not compute what it should."""
