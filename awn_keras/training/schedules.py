"""Numbers that may change with the training step."""

from __future__ import annotations

from typing import Any, TypeAlias

import keras
import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError

#: A number, or a Keras schedule over optimizer steps, as for learning rates.
Schedule: TypeAlias = Any


def is_schedule(value: Any) -> bool:
    """Whether a value is a Keras schedule."""
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)


def is_on(value: Schedule) -> bool:
    """Whether a value is, or may become, other than 0."""
    return is_schedule(value) or value != 0


def at_step(value: Schedule, step: Any) -> Any:
    """Returns the value at an optimizer step.

    Args:
        value: A number or a schedule.
        step: Integer scalar tensor.

    Returns:
        The number, or a float32 tensor.
    """
    if is_schedule(value):
        return keras.ops.cast(value(step), "float32")
    return value


#: Number of optimizer steps of a fade, or a schedule of the factor from 1 to 0.
Fade: TypeAlias = Any


def fade_schedule(fade: Fade) -> Schedule | None:
    """Makes a schedule from the user's `fade`.

    Args:
        fade: Number of optimizer steps, a schedule, a schedule that Keras has
            serialized, or `None`.

    Returns:
        A schedule from 1 to 0, or `None`. A number t of steps becomes `(1 - step / t)
        ** 3`.

    Raises:
        TypeError: If `fade` is none of these.
        ValueError: If `fade` is a number below 1.

    Reference:
        Zhu and Gupta, To Prune, or not to Prune (2017), equation 1.
    """
    if isinstance(fade, dict):
        fade = keras.saving.deserialize_keras_object(fade)
    if fade is None or is_schedule(fade):
        return fade
    if isinstance(fade, bool) or not isinstance(fade, int | np.integer):
        raise ArgumentTypeError(
            "`fade` must be a number of optimizer steps, or a schedule of "
            f"`keras.optimizers.schedules`. Received: fade={fade!r}"
        )
    if fade < 1:
        raise ArgumentError(f"`fade` must be at least 1. Received: fade={fade}")
    return keras.optimizers.schedules.PolynomialDecay(1.0, int(fade), 0.0, power=3.0)


def check_share(value: Any, name: str) -> Schedule:
    """Checks a number in [0, 1], or a schedule of it.

    Args:
        value: The value.
        name: Name of the argument for the message.

    Returns:
        The value.

    Raises:
        TypeError: If the value is neither a number nor a schedule.
        ValueError: If the value is a number outside [0, 1].
    """
    if is_schedule(value):
        return value
    if isinstance(value, bool) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise ArgumentTypeError(
            f"`{name}` must be a number in [0, 1], or a schedule of "
            f"`keras.optimizers.schedules`. Received: {name}={value!r}"
        )
    if not 0 <= value <= 1:
        raise ArgumentError(f"`{name}` must be in [0, 1]. Received: {name}={value}")
    return float(value)
