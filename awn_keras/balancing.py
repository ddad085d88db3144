"""Widens the layers whose zeros a file does not compute, at equal total cost.

A triangle forbids about half of a kernel, and a wider layer compensates for it. Where
an exported file cuts a kernel, the file stores and computes few zeros, so a wider layer
costs about as much as the plain layer. Where cutting does not pay (few channels, many
pixels), the file computes all zeros, and a wider layer would cost more without gain.
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

#: The paper's multiplier, with which a triangle has as many weights as a plain kernel.
_PAPERS = 2**0.5
#: The search stops if the logarithm of the cost ratio is below this.
_CLOSE = 0.02
_TRIALS = 6


def balanced(
    plain: keras.Model, traced: Trace, build: Callable[[Multiplier], AnyWidthModel]
) -> Multiplier:
    """Finds the width multiplier of each layer.

    All layers that an exported file cuts get one multiplier. Layers whose channels are
    added to those of a cut layer get it, too. Other layers keep their size. At full
    width, the file's MACs and weights then differ from the plain network's by two
    factors whose product is about 1.

    Args:
        plain: The plain model.
        traced: Channels of the plain model.
        build: Function that makes the any-width model for given multipliers.

    Returns:
        A function that gives the multiplier of a layer.

    Raises:
        ValueError: If the model's rows, cols or steps are not known.
    """
    unknown = [x for x in plain.inputs if None in x.shape[1:]]
    if unknown:
        raise ArgumentError(
            "`width_multiplier='balanced'` counts the MACs of layers, and needs an "
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
    # `known_macs` leaves out layers that cannot be counted. They keep their size.
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
            break  # no balance between the limits 1 and sqrt(2)
        # Costs grow about as a power of the multiplier, so interpolate its logarithm.
        share = min(max(below / (below - above), 0.1), 0.9)
        number = low * (high / low) ** share
        now = excess(build(multiplier(number)))
        if abs(now) < _CLOSE:
            break
        low, high = (number, high) if now < 0 else (low, number)
        below, above = (now, above) if now < 0 else (below, now)
    return multiplier(number)
