"""Freezing of narrow networks while wider networks are trained.

After the optimizer's step, weight entries that act at a frozen width get their old
values back. So momentum and weight decay cannot change them either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.propagation import Propagation
from awn_keras.slices import along, channel_axes, sides
from awn_keras.training import backends
from awn_keras.training.schedules import (
    Schedule,
    at_step,
    check_share,
    is_on,
    is_schedule,
)
from awn_keras.widths import Networks, check_width


def check_frozen_up_to(value: Any, min_width: float) -> Schedule:
    """Checks the width up to which networks are frozen.

    Args:
        value: 0, a width in [min_width, 1), or a schedule.
        min_width: The model's smallest width.

    Returns:
        The value.

    Raises:
        TypeError: If the value is neither a number nor a schedule.
        ValueError: If the value is out of range.
    """
    value = check_share(value, "frozen_up_to")
    if not is_schedule(value) and value:
        check_width(value, min_width, "frozen_up_to")
        if value == 1:
            raise ArgumentError(
                "`frozen_up_to` must be below 1, because at 1 no weight would be "
                "trained. Received: frozen_up_to=1"
            )
    return value


def check_can_freeze(optimizer: Any) -> None:
    """Checks that an optimizer does not change weights outside of its step.

    Args:
        optimizer: The compiled optimizer.

    Raises:
        ValueError: If the optimizer replaces weights by their moving averages.
    """
    if getattr(optimizer, "use_ema", False):
        raise ArgumentError(
            "`frozen_up_to` needs an optimizer without moving averages, because they "
            "replace the frozen weights. Use an optimizer with `use_ema=False`. "
            f"Received: optimizer={type(optimizer).__name__} with use_ema=True"
        )


def acting_from(
    propagation: Propagation, networks: Networks
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Finds the smallest level at which each entry of each weight acts.

    Args:
        propagation: Kinds of the model's tensors.
        networks: The model's networks.

    Returns:
        A list of pairs: a float weight, and an int32 array of levels that broadcasts
        against the weight.
    """
    levels_of: dict[int, tuple[keras.Variable, np.ndarray]] = {}
    for node in propagation.nodes:
        layer, flow = node.operation, propagation.flows[id(node)]
        followed = sides(layer, flow)
        for weight in getattr(layer, "weights", []):
            levels = np.zeros([1] * len(weight.shape), "int32")
            for axes, grades in followed:
                for axis, entries in channel_axes(weight, axes, len(grades)):
                    shape = [1] * len(weight.shape)
                    shape[axis] = -1
                    of_axis = along(entries, networks.level_of(grades))
                    levels = np.maximum(levels, of_axis.reshape(shape))
            if keras.backend.is_float_dtype(weight.dtype):
                levels_of[id(weight)] = (weight, levels)
    return list(levels_of.values())


@dataclass(frozen=True)
class Frozen:
    """Values of variables before a step, and masks of the frozen entries.

    Args:
        variables: The variables.
        values: A copy of each variable.
        masks: For each variable a bool tensor that broadcasts against it; true for
            frozen entries.
    """

    variables: Sequence[keras.Variable]
    values: Sequence[Any]
    masks: Sequence[Any]

    def put_back(self) -> None:
        """Restores the frozen entries after a step."""
        backends.assign_where(self.variables, self.masks, self.values)


def keep_frozen(
    acting_from: Callable[[], Sequence[tuple[keras.Variable, np.ndarray]]],
    networks: Networks,
    width: Schedule,
    step: Any,
) -> Frozen:
    """Copies the weights before a step, and marks the frozen entries.

    Args:
        acting_from: Function that returns weights and levels; see `acting_from` above.
        networks: The model's networks.
        width: Networks up to this width are frozen. Below the smallest width, none is.
        step: Number of the optimizer step, an integer scalar tensor.

    Returns:
        The values and masks for `Frozen.put_back` after the step.
    """
    if not is_on(width):
        return Frozen([], [], [])
    width = keras.ops.convert_to_tensor(at_step(width, step), "float32")
    reached = keras.ops.greater_equal(width, networks.thresholds.astype("float32"))
    level = keras.ops.sum(keras.ops.cast(reached, "int32"))
    any_frozen = keras.ops.greater_equal(width, np.float32(networks.min_width))
    level = keras.ops.where(any_frozen, level, -1)
    acting = acting_from()
    return Frozen(
        [variable for variable, _ in acting],
        [keras.ops.copy(variable.value) for variable, _ in acting],
        [keras.ops.less_equal(levels, level) for _, levels in acting],
    )
