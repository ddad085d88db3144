"""Widening the layers for which it pays: as much work and as many weights as before.

A triangle forbids about half of a kernel, and wider layers make up for it. An exported
file stores and computes no zeros where it cuts a kernel, so that a wider layer costs
what the plain one did. Where cutting does not pay (few channels, many pixels) all
zeros are computed, and a wider layer costs more for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras

from awn_keras.counting import count_parameters, executed_at_full_width, known_macs
from awn_keras.errors import ArgumentError
from awn_keras.layouts import candidates, choose_cuts, default_widths
from awn_keras.model import AnyWidthModel
from awn_keras.propagation import Trace
from awn_keras.widening import Multiplier

#: The paper's, with which a triangle has as many weights as the plain kernel.
_PAPERS = 2**0.5
#: Within so much of the balance no other multiplier is tried.
_CLOSE = 0.02
_TRIALS = 6


def balanced(
    plain: keras.Model, traced: Trace, build: Callable[[Multiplier], AnyWidthModel]
) -> Multiplier:
    """Finds by how much to widen the layers of a model.

    Layers that an exported file cuts get one number, with those whose channels are
    added to theirs; all others keep their size. At full width the file's
    multiply-accumulates and weights then differ from the plain network's by factors
    whose product is 1.

    Args:
        plain: The plain model.
        traced: Its channels.
        build: Makes an any-width model of it, widened so.

    Returns:
        The number of each layer.

    Raises:
        ValueError: If the model's rows, cols or steps are not known.
    """
    unknown = [x for x in plain.inputs if None in x.shape[1:]]
    if unknown:
        raise ArgumentError(
            "`width_multiplier='balanced'` weighs the work of layers, and needs an "
            f"`Input` of a full shape. Received: input '{unknown[0].name}' of shape "
            f"{tuple(unknown[0].shape)}. Give a number, such as 1.0."
        )
    wide = build(lambda layer: _PAPERS)
    cut = set(choose_cuts(wide, default_widths(wide)))
    cut -= {name for name, layer in candidates(wide).items() if layer.readout}
    makers = traced.makers()
    labels = {
        label for layer, own in makers if layer.name in cut for label in own.tolist()
    }
    chosen = {id(layer) for layer, own in makers if labels.intersection(own.tolist())}
    if not chosen:
        return lambda layer: 1.0
    # Layers that cannot be counted stay as they are.
    wanted = int(known_macs(plain, [1.0]).macs[0]), count_parameters(plain)

    def multiplier(number: float) -> Multiplier:
        return lambda layer: number if id(layer) in chosen else 1.0

    def excess(model: AnyWidthModel) -> float:
        return sum(
            math.log(have / want)
            for have, want in zip(executed_at_full_width(model), wanted, strict=True)
        )

    low, high = 1.0, _PAPERS
    below, above = (excess(build(multiplier(number))) for number in (low, high))
    number = low if abs(below) < abs(above) else high
    for _ in range(_TRIALS):
        if not below < 0 < above:
            break  # already at 1 there is more than before, or at sqrt(2) still less
        # Costs rise about as a power of the number.
        share = min(max(below / (below - above), 0.1), 0.9)
        number = low * (high / low) ** share
        now = excess(build(multiplier(number)))
        if abs(now) < _CLOSE:
            break
        low, high = (number, high) if now < 0 else (low, number)
        below, above = (now, above) if now < 0 else (below, now)
    return multiplier(number)
