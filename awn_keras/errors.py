"""The package's own exceptions: errors that the user can correct."""

from __future__ import annotations

from collections.abc import Callable


class AwnError(Exception):
    """An error that the user can correct. The message says how.

    Text in backticks in a message is code. "`name`" and "`name=value`" are arguments of
    the Python function that was called. Commands replace them by their own options.
    """

    #: Whether the message has a line for each thing that is wrong.
    has_lines = False
    # When an error leaves a traced function, TensorFlow makes a new error of its class
    # from a message. It does so only if the class has the constructor of `Exception`.
    __init__ = Exception.__init__

    def message(self, typed: Callable[[str, str | None], str | None]) -> str:
        """Returns the message with the options of a command.

        Args:
            typed: Function of an argument's name and value (`None` if the message has
                no value) that returns the option as a user types it, or `None` if the
                command has no such option. Then the Python name stays.

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
    """An argument has a type that is not allowed."""


class UnsupportedError(AwnError, NotImplementedError):
    """A feature is not implemented, or not on this backend."""


class StateError(AwnError, RuntimeError):
    """A call is not possible in the present state or place."""


class WeightsUnavailableError(AwnError, RuntimeError):
    """Trained weights are not on this machine and could not be fetched."""


class DivergedError(AwnError, RuntimeError):
    """Training produced NaN or infinite numbers."""


class ExportError(AwnError, RuntimeError):
    """A model cannot be exported, or a file does not run or computes wrong numbers."""
