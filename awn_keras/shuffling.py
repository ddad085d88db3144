"""Replaces channel shuffles by a single operation.

A shuffle reshapes `(rows, cols, channels)` to `(rows, cols, groups, n)`, transposes
to `(rows, cols, n, groups)` and reshapes back. In between, channels are on two axes,
and a narrower network would need equal channels in each group. `take` with constant
indices moves channels to the same places, and needs no groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.graph import data_tensors, graph_nodes, is_stock, rebuild

_RESHAPES = ("Flatten", "Reshape")
_TRANSPOSES = ("Moveaxis", "Permute", "Swapaxes", "Transpose")


@dataclass(frozen=True)
class _Spread:
    """A tensor whose last axes hold the channels of an earlier tensor.

    Args:
        node: The call that first reshaped or transposed the channels.
        positions: Shape of the axes before the channels, batch first.
        order: int array of the shape of the last axes: the index that each channel had
            in the earlier tensor.
    """

    node: Any
    positions: tuple[Any, ...]
    order: np.ndarray


def shuffles(model: keras.Model) -> dict[int, tuple[Any, list[int]]]:
    """Finds sequences of reshapes and transpositions that only move channels.

    Args:
        model: A functional model.

    Returns:
        By `id` of the last call of a sequence: the first call, and for each channel of
        the last call's output its index in the first call's input.
    """
    spreads: dict[int, _Spread] = {}
    moved = {}
    for node in graph_nodes(model):
        name = type(node.operation).__name__
        if not is_stock(node.operation) or name not in _RESHAPES + _TRANSPOSES:
            continue
        (x,), (y,) = data_tensors(node), node.outputs
        *positions, channels = x.shape
        before = spreads.get(id(x))
        if before is None:
            # The channels are not spread yet. Only one axis of unknown size can be
            # followed through a reshape.
            if len(x.shape) < 2 or None in (*positions[1:][:-1], channels):
                continue
            before = _Spread(node, tuple(positions), np.arange(channels))
        first = len(before.positions)
        if name in _RESHAPES:
            kept, spread = tuple(y.shape[:first]), tuple(y.shape[first:])
            fits = kept == before.positions and None not in spread
            if not fits or np.prod(spread, dtype=int) != before.order.size:
                continue
            order = before.order.reshape(spread)
        else:
            axes = _axes(node.operation, len(x.shape))
            if axes[:first] != [*range(first)]:
                continue
            order = before.order.transpose([axis - first for axis in axes[first:]])
        spreads[id(y)] = _Spread(before.node, before.positions, order)
        if order.ndim == 1 and not np.array_equal(order, np.arange(len(order))):
            moved[id(node)] = (before.node, order.tolist())
    return moved


def _axes(operation: Any, rank: int) -> list[int]:
    """For each axis of a transposition's output, the axis of the input."""
    if isinstance(operation, keras.layers.Permute):
        return [0, *operation.dims]
    array = np.empty(range(1, rank + 1))  # axis i has i + 1 entries
    name = type(operation).__name__
    if name == "Transpose":
        array = np.transpose(array, operation.axes)
    elif name == "Moveaxis":
        array = np.moveaxis(array, operation.source, operation.destination)
    else:
        array = np.swapaxes(array, operation.axis1, operation.axis2)
    return [size - 1 for size in array.shape]


def with_shuffles_taken(model: keras.Model) -> keras.Model:
    """Replaces reshapes that shuffle channels by `keras.ops.take`.

    Args:
        model: A functional model.

    Returns:
        A functional model that computes the same with the same layers, or `model`
        itself if it has no shuffles.
    """
    moved = shuffles(model)
    given: dict[int, Any] = {}

    def call(node: Any, *args: Any, **kwargs: Any) -> Any:
        if id(node) in moved:
            first, order = moved[id(node)]
            return keras.ops.take(given[id(first)], order, axis=-1)
        given[id(node)] = args[0] if args else None
        return node.operation(*args, **kwargs)

    return keras.Model(*rebuild(model, call), name=model.name) if moved else model
