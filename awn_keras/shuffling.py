"""Channel shuffles as one operation.

`(rows, cols, channels)` is reshaped to `(rows, cols, groups, n)`, transposed to `(rows,
cols, n, groups)` and reshaped back. In between channels are on two axes, so that some
of them can be there only where each group has the same ones. `take` of constant indices
moves the channels likewise, and needs no groups.
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
    """A tensor whose last axes hold the channels of another one.

    Args:
        node: The call that first reshaped or transposed them.
        positions: Shape of the axes before them, batch first.
        order: int array of the shape of these axes: the number of each channel.
    """

    node: Any
    positions: tuple[Any, ...]
    order: np.ndarray


def shuffles(model: keras.Model) -> dict[int, tuple[Any, list[int]]]:
    """Finds reshapes and transpositions that move channels and nothing else.

    Args:
        model: A functional model.

    Returns:
        By `id` of the last call of each, the first call, and for each channel of what
        the last one gives its number in what the first one is given.
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
            # Not spread yet. Of axes of unknown size only one can be told.
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
    """Where each axis of what a transposition gives comes from."""
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
    """Puts `keras.ops.take` in the place of reshapes that shuffle channels.

    Args:
        model: A functional model.

    Returns:
        A functional model that computes the same, of the same layers; the model itself
        if it has no shuffles.
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
