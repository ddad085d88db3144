"""How many channels each layer has when a model is widened."""

from __future__ import annotations

import math
from collections import defaultdict

from awn_keras.errors import ArgumentError
from awn_keras.propagation import Trace
from awn_keras.rules import mixes_channels
from awn_keras.widths import round_half_up


def new_sizes(traced: Trace, width_multiplier: float, divisor: int) -> dict[int, int]:
    """Numbers of channels after widening, by `id` of the layer.

    A layer that is added to a concatenation has as many as that has, after rounding.

    Args:
        traced: The channels of the model.
        width_multiplier: Above 0.
        divisor: Numbers of channels are rounded to its multiples.

    Returns:
        The numbers; empty for a multiplier of 1.

    Raises:
        ValueError: If a layer is added to parts of other layers.
    """
    if width_multiplier == 1:
        return {}
    fixed = set(traced.channels.fixed().tolist())
    owners: dict[int, int] = {}
    owned: dict[int, int] = {}
    widened: dict[int, int] = {}
    sizes = {}
    for layer, labels in traced.makers():
        own = {label for label in labels.tolist() if label not in fixed} - set(owners)
        owners.update(dict.fromkeys(own, id(layer)))
        owned[id(layer)] = len(own)
        # One channel for all others, such as a spatial gate, stays one.
        widens = mixes_channels(layer) and len(labels) > 1
        multiplier = width_multiplier if widens else 1.0
        widened[id(layer)] = _rounded(len(own) * multiplier, divisor if widens else 1)
        counts: dict[int | None, int] = defaultdict(int)
        for label in labels.tolist():
            counts[owners.get(label)] += 1
        size = counts.pop(None, 0)
        for owner, count in counts.items():
            if owner is None or count % owned[owner]:
                raise ArgumentError(
                    f"`width_multiplier` cannot widen layer '{layer.name}': it is "
                    "added to parts of other layers. Use `width_multiplier=1`."
                )
            size += count // owned[owner] * widened[owner]
        sizes[id(layer)] = size
    return sizes


def _rounded(channels: float, divisor: int) -> int:
    if channels < divisor:
        return max(round_half_up(channels), min(1, math.ceil(channels)))
    return round_half_up(channels / divisor) * divisor
