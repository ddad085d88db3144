"""Checks of arguments that several modules take."""

from __future__ import annotations

import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError


def check_integer(value: int, name: str, least: int) -> None:
    """Checks an argument that must be an integer.

    Args:
        value: Value of the argument.
        name: Name of the argument, for the message.
        least: The smallest allowed value.

    Raises:
        TypeError: If `value` is not an integer.
        ValueError: If `value` is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(
            f"`{name}` must be an integer. Received: {name}={value!r}"
        )
    if value < least:
        raise ArgumentError(
            f"`{name}` must be at least {least}. Received: {name}={value}"
        )
