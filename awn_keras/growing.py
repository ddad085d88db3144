"""Growing: a trained network becomes the narrowest width of a larger network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.conversion import Copies, dissolved, traced_channels
from awn_keras.errors import ArgumentError
from awn_keras.graph import assign, rebuild
from awn_keras.layers.base import TriangularKernel
from awn_keras.model import AnyWidthModel
from awn_keras.propagation import Trace, trace
from awn_keras.rules import Kind, Labelled, PerWidth
from awn_keras.slices import chosen_slices
from awn_keras.stages import Stages, Widths, literally
from awn_keras.widening import new_sizes
from awn_keras.widths import block_size


def grow(
    model: keras.Model,
    factor: float = 2.0,
    *,
    divisor: int = 8,
    readouts: Sequence[str] = (),
    name: str | None = None,
) -> AnyWidthModel:
    """Makes a larger any-width network whose narrowest width is a trained network.

    The old channels are active at every width, and read only old channels. So at
    `min_width`, about `1 / factor`, the new model has exactly the weights of the
    trained network. New channels read old and new channels. The readout starts with
    zero weights for new channels, so before training the outputs are equal at every
    width. To keep the trained network unchanged while the new channels are trained,
    call `compile(frozen_up_to=model.min_width)`.

    Unlike `to_any_width`, growing loses no weights. The full width has about `factor **
    2` times the MACs of the trained network.

    Args:
        model: A functional or built Sequential model. It does not change.
        factor: Factor, above 1, on the number of channels at full width. Numbers of
            channels are rounded to multiples of `divisor`.
        divisor: Size of the blocks in which new channels come and go.
        readouts: See `to_any_width`.
        name: Name of the new model. `None` takes the name of `model`.

    Returns:
        The any-width model, not compiled.

    Raises:
        TypeError: See `to_any_width`.
        ConversionError: See `to_any_width`.
        ValueError: If `factor` is not above 1, if it is too small to add a channel, or
            if it does not give a whole number of attention heads.

    Examples:
        >>> import keras
        >>> from awn_keras import grow
        >>> base = keras.applications.MobileNetV2(
        ...     (32, 32, 3), alpha=0.35, weights=None, classes=10)
        >>> grow(base, 2.0).min_width
        0.5
    """
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not 1 < factor < math.inf:
        raise ArgumentError(
            f"`factor` must be a number above 1. Received: factor={factor!r}"
        )
    source = dissolved(model)
    traced = traced_channels(source, readouts)
    sizes = new_sizes(traced, lambda _: factor, Widths.of(divisor=divisor))
    if not any(size > len(labels) for labels, size in _sizes(traced, sizes)):
        raise ArgumentError(
            f"`factor` must add channels to a layer of '{model.name}'. Numbers of "
            f"channels are rounded to multiples of divisor={divisor}: choose a larger "
            f"`factor` or a smaller `divisor`. Received: factor={factor}"
        )
    # The old channels are always active, so they read no new channel at any width.
    stages = _always_on(traced, sizes, divisor)
    copies = Copies(traced, sizes)
    grown = AnyWidthModel(
        *rebuild(source, copies.call),
        name=name or model.name,
        min_width=min(stage["min_width"] for stage in stages.values()),
        divisor=divisor,
        stages=stages,
    )
    _put_in_place(copies, traced, trace(grown))
    return grown


def _sizes(traced: Trace, sizes: dict[int, int]) -> list[tuple[np.ndarray, int]]:
    """Labels and new number of channels of each layer that makes channels."""
    return [
        (labels, sizes.get(id(layer), len(labels))) for layer, labels in traced.makers()
    ]


def _always_on(traced: Trace, sizes: dict[int, int], divisor: int) -> Stages:
    """Stages that make exactly the old channels of each layer always active."""
    stages = {}
    for layer, labels in traced.makers():
        size = sizes.get(id(layer), len(labels))
        parts = [len(part) for part in traced.channels.classes(labels)]
        pairs = [(old, old * size // len(labels)) for old in parts]
        # The old channels must be whole blocks of the new ones.
        fitting = next(
            block
            for block in range(divisor, 0, -1)
            if all(old % block_size(new, block) == 0 for old, new in pairs)
        )
        min_width = len(labels) / size
        stages[literally(layer.name)] = {"min_width": min_width, "divisor": fitting}
    return stages


def _put_in_place(copies: Copies, old: Trace, new: Trace) -> None:
    """Copies the old weights into the new ones; sets new rows of readouts to zero."""
    new_label = _new_labels(copies, old, new)
    flows = {
        id(node.operation): new.propagation.flows[id(node)]
        for node in new.propagation.nodes
    }
    for layer, copy, before in copies.copies.values():
        after = flows[id(copy)]
        size = after.channels()
        into = _places(before.inputs[0], after.inputs[0], size[0], new_label)
        out = _places(before.output, after.output, size[1], new_label)
        values = []
        slices = chosen_slices(copy, size, into, out)
        if any(
            tuple(map(len, index)) != weight.shape
            for index, weight in zip(slices, layer.weights, strict=True)
        ):
            raise ArgumentError(
                f"`factor` cannot grow layer '{layer.name}' ({type(layer).__name__}): "
                "its heads must grow by the same factor as its channels, so that the "
                "old heads are active at every width. Choose a factor that gives a "
                "whole number of heads."
            )
        for value, weight, index in zip(
            layer.get_weights(), copy.weights, slices, strict=True
        ):
            drawn = keras.ops.convert_to_numpy(weight)
            # A readout ignores the new channels at first, so the grown model gives the
            # outputs of the old model at every width. New channels themselves need
            # random weights: from zeros they could not learn different things.
            reads_new = isinstance(after.output, PerWidth)
            placed = np.zeros_like(drawn) if reads_new else np.array(drawn)
            placed[np.ix_(*index)] = value
            values.append(placed)
        assign(copy, values)
        if isinstance(copy, TriangularKernel):
            copy.apply_masks()


def _new_labels(copies: Copies, old: Trace, new: Trace) -> dict[int, int]:
    """A dict from each label of the old graph to its label in the new graph."""
    labels: dict[int, int] = {}
    for layer, copy, _ in copies.copies.values():
        if id(layer) in old.channels.made:
            made = old.channels.made[id(layer)], new.channels.made[id(copy)]
            parts = (
                graph.channels.classes(own)
                for graph, own in zip((old, new), made, strict=True)
            )
            for before, after in zip(*parts, strict=True):
                labels.update(zip(before.tolist(), after.tolist(), strict=False))
    always = old.channels.fixed().tolist(), new.channels.fixed().tolist()
    labels.update(zip(*always, strict=True))
    return labels


def _places(before: Kind, after: Kind, size: int, new_label: dict[int, int]) -> Any:
    """For each channel of an old tensor, its place in the new tensor."""
    if not isinstance(before, Labelled) or not isinstance(after, Labelled):
        return np.arange(size)
    # A label may occur several times, for example after Flatten: keep places in order.
    places: dict[int, list[int]] = defaultdict(list)
    for place in range(len(after.labels) - 1, -1, -1):
        places[int(after.labels[place])].append(place)
    return np.array(
        [places[new_label[label]].pop() for label in before.labels.tolist()]
    )
