"""The networks that a recipe can name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from awn_keras.architectures import lenet_3c1l, mobilenet_v2
from awn_keras.data import ImageData

if TYPE_CHECKING:
    from awn_keras.runs.recipe import Recipe


@dataclass(frozen=True)
class Network:
    """A network that a recipe can name.

    Args:
        build: Builds the network of a recipe for a data set: an `AnyWidthModel`, or
            a plain one where the recipe's system is not `awn`.
        unused: Fields of a recipe that mean nothing to this network.
    """

    build: Callable[[Recipe, ImageData], keras.Model]
    unused: tuple[str, ...] = ()


def _shared_arguments(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    names = (
        *("width_multiplier", "weight_decay", "bn_momentum"),
        *("min_width", "divisor", "widths_grid", "staircase", "stages"),
    )
    arguments = {name: getattr(recipe, name) for name in names}
    return {
        **arguments,
        "triangular": recipe.system == "awn",
        "preprocessing": data.preprocessing(),
    }


def _lenet_3c1l(recipe: Recipe, data: ImageData) -> keras.Model:
    small = min(data.input_shape[:2]) < 16
    return lenet_3c1l(
        data.input_shape,
        data.classes,
        filters=recipe.filters,
        padding="same" if small else "valid",
        **_shared_arguments(recipe, data),
    )


def _mobilenet_v2(recipe: Recipe, data: ImageData) -> keras.Model:
    arguments = _shared_arguments(recipe, data)
    return mobilenet_v2(data.input_shape, data.classes, **arguments)


#: Networks by the name of their architecture.
NETWORKS = {
    "lenet_3c1l": Network(_lenet_3c1l),
    "mobilenet_v2": Network(_mobilenet_v2, unused=("filters",)),
}
