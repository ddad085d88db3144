"""Computes the number of channels of each layer when a model is widened."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.propagation import Trace
from awn_keras.rules import mixes_channels, unique
from awn_keras.stages import Widths
from awn_keras.widths import round_half_up

#: Type of the argument `width_multiplier`: a number for all layers, numbers by layer
#: name, a function that takes a layer and returns a number, or `"balanced"`.
WidthMultiplier = (
    float | Mapping[str, float] | Callable[[keras.layers.Layer], float] | str
)
#: Function that returns the width multiplier of a layer.
Multiplier = Callable[[Any], float]


def multiplier_of(width_multiplier: Any, names: Collection[str]) -> Multiplier:
    """Reads the argument `width_multiplier`.

    Args:
        width_multiplier: A number, a mapping from names of layers to numbers, or a
            function that takes a layer and returns a number.
        names: Names of the model's layers.

    Returns:
        A function that returns the multiplier of a layer, which is 1 for a layer that
        is not in the mapping.

    Raises:
        TypeError: If `width_multiplier` or a value in it has a wrong type.
        ValueError: If a number is not above 0, or if a name is not the name of a layer.
    """
    if isinstance(width_multiplier, Mapping):
        numbers = {
            name: _check(value, f"of layer {name!r}")
            for name, value in width_multiplier.items()
        }
        unknown = sorted(set(numbers) - set(names))
        if unknown:
            raise ArgumentError(
                "`width_multiplier` must name layers of the model. Received: the "
                f"unknown names {unknown}"
            )
        return lambda layer: numbers.get(layer.name, 1.0)
    if callable(width_multiplier):
        return lambda layer: _check(
            width_multiplier(layer), f"returned for layer {layer.name!r}"
        )
    number = _check(width_multiplier)
    return lambda layer: number


def _check(value: Any, of: str = "") -> float:
    received = f"Received: width_multiplier={value!r}{of and ' '}{of}"
    number = int | float | np.integer | np.floating
    if isinstance(value, bool) or not isinstance(value, number):
        raise ArgumentTypeError(
            "`width_multiplier` must be a number above 0, a mapping from names of "
            "layers to numbers, a function that takes a layer and returns a number, or "
            f"'balanced'. {received}"
        )
    if not 0 < value < math.inf:
        raise ArgumentError(f"`width_multiplier` must be above 0. {received}")
    return float(value)


def new_sizes(traced: Trace, multiplier: Multiplier, widths: Widths) -> dict[int, int]:
    """Numbers of channels after widening, by `id` of the layer.

    If operations take parts of a layer's channels, each part keeps its share, so that
    it has a whole number of channels. A layer that is added to a concatenation gets the
    number of channels that the concatenation has after rounding. Of layers that are
    added to each other, the first decides the number.

    Args:
        traced: The channels of the model.
        multiplier: Function that returns the multiplier of a layer that mixes channels.
        widths: Gives the divisor of each layer. Numbers of channels are rounded to
            multiples of the divisor, except in layers that keep their size.

    Returns:
        The new numbers of channels, only of layers whose number changes.

    Raises:
        ValueError: If a layer is added to parts of other layers.
    """
    fixed = set(traced.channels.fixed().tolist())
    owners: dict[int, int] = {}
    owned: dict[int, int] = {}
    widened: dict[int, int] = {}
    sizes = {}
    for layer, labels in traced.makers():
        own = {label for label in labels.tolist() if label not in fixed} - set(owners)
        owners.update(dict.fromkeys(own, id(layer)))
        owned[id(layer)] = len(own)
        # A layer with a single channel, such as a spatial gate, keeps one channel.
        widens = mixes_channels(layer) and len(unique(labels)) > 1
        by = multiplier(layer) if widens else 1.0
        divisor = widths.divisor_of(layer.name)
        sizes_of_parts = [
            len(own.intersection(part.tolist()))
            for part in traced.channels.classes(labels)
        ]
        shared = math.gcd(*sizes_of_parts)
        new = shared if by == 1 else _rounded(shared * by, divisor)
        widened[id(layer)] = len(own) // max(shared, 1) * new
        counts: dict[int | None, int] = defaultdict(int)
        for label in labels.tolist():
            counts[owners.get(label)] += 1
        size = counts.pop(None, 0)
        for owner, count in counts.items():
            if owner is not None and widened[owner] == owned[owner]:
                size += count
                continue
            if owner is None or count % owned[owner]:
                raise ArgumentError(
                    f"`width_multiplier` cannot widen layer '{layer.name}': it is "
                    "added to parts of other layers. Use `width_multiplier=1`."
                )
            size += count // owned[owner] * widened[owner]
        if size != len(labels):
            sizes[id(layer)] = size
    return sizes


def counts_of_labels(traced: Trace, sizes: Mapping[int, int]) -> np.ndarray:
    """The number of channels in a wider model that replace each channel.

    Args:
        traced: The channels of the model.
        sizes: Numbers of channels from `new_sizes`.

    Returns:
        float64 array `(labels,)`.
    """
    counts = np.full(len(traced.channels.resolve()), np.nan)
    counts[traced.channels.fixed()] = 1
    for layer, labels in traced.makers():
        known = counts[labels]
        own = np.isnan(known)
        rest = sizes.get(id(layer), len(labels)) - np.nansum(known)
        counts[labels[own]] = rest / max(own.sum(), 1)
    return np.nan_to_num(counts, nan=1.0)


def _rounded(channels: float, divisor: int) -> int:
    if channels < divisor:
        return max(round_half_up(channels), min(1, math.ceil(channels)))
    return round_half_up(channels / divisor) * divisor
