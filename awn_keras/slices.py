"""Which part of a layer's weights belongs to some of its channels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from awn_keras.rules import Flow, Kind, WidthRule, grades_of, rule_of


def weights_of(operation: Any) -> list[Any]:
    """The weights of a layer; an operation of `keras.ops` has none."""
    return getattr(operation, "weights", [])


def name_of(weight: Any) -> str:
    """What a `WidthRule` calls a weight: its name.

    Keras numbers those that a layer adds without a name; they are all `variable`.
    """
    return re.sub(r"^variable_\d+$", "variable", weight.name)


def active(kind: Kind, shape: tuple[Any, ...], width: float) -> np.ndarray:
    """Says which channels of a tensor are there at a width.

    Args:
        kind: The tensor's kind.
        shape: Its shape, channels last.
        width: Width in (0, 1].

    Returns:
        bool array `(channels,)`.
    """
    return grades_of(kind, shape) <= width


def active_slices(layer: Any, flow: Flow, width: float) -> list[tuple[np.ndarray, ...]]:
    """For each weight of a layer, the part that acts at a width.

    Args:
        layer: A layer with a width rule, or one whose weights do not follow the
            width.
        flow: What comes in and goes out.
        width: Width in (0, 1].

    Returns:
        For each of `layer.weights` (an operation of `keras.ops` has none) an index
        array per axis, as `np.ix_` takes them.
    """
    into = active(flow.inputs[0], flow.input_shapes[0], width)
    out = active(flow.output, flow.output_shape, width)
    size = (len(into), len(out))
    return chosen_slices(layer, size, np.flatnonzero(into), np.flatnonzero(out))


def chosen_slices(
    layer: Any, size: tuple[int, int], into: ArrayLike, out: ArrayLike
) -> list[tuple[np.ndarray, ...]]:
    """For each weight of a layer, the part that belongs to some of its channels.

    Args:
        layer: See `active_slices`.
        size: How many input and output channels it has.
        into: Indices of input channels, in any order.
        out: Indices of output channels, in any order.

    Returns:
        See `active_slices`.
    """
    rule = rule_of(layer) or WidthRule()
    into, of_a_group = np.asarray(into, int), size[0] // rule.groups
    sides = (
        (rule.in_axes, into[into < of_a_group], of_a_group),
        (rule.out_axes, np.asarray(out, int), size[1]),
    )
    slices = []
    for weight in weights_of(layer):
        index = [np.arange(size) for size in weight.shape]
        for axes, chosen, channels in sides:
            axis, each = channel_axis(weight, axes, channels)
            if axis is not None:
                index[axis] = (chosen[:, None] * each + np.arange(each)).ravel()
        slices.append(tuple(index))
    return slices


def channel_axis(
    weight: Any, axes: Mapping[str, int], channels: int
) -> tuple[int | None, int]:
    """Says which axis of a weight follows the channels.

    Args:
        weight: A variable of a layer.
        axes: `in_axes` or `out_axes` of the layer's `WidthRule`.
        channels: Number of these channels at full width.

    Returns:
        The axis, and the number of entries for each channel. The axis is `None` if the
        weight does not follow them, or all channels share it (PReLU's shared axes).
    """
    axis = axes.get(name_of(weight))
    if axis is None or weight.shape[axis] % channels:
        return None, 0
    return axis, weight.shape[axis] // channels
