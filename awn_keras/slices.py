"""Which part of a layer's weights belongs to some of its channels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from awn_keras.rules import Flow, Kind, WidthRule, axes_of, grades_of, rule_of
from awn_keras.rules.kinds import Axes


def weights_of(operation: Any) -> list[Any]:
    """The weights of a layer; an operation of `keras.ops` has none."""
    return getattr(operation, "weights", [])


def names_of(weight: Any) -> tuple[str, str]:
    """What a `WidthRule` may call a weight.

    Returns:
        Its name, and this with the name of the layer before it that has the weight,
        `query/kernel`. Keras numbers weights that a layer adds without a name; they
        are all `variable`.
    """
    name = re.sub(r"^variable_\d+$", "variable", weight.name)
    return name, "/".join([*weight.path.split("/")[-2:-1], name])


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
    into, out = np.asarray(into, int), np.asarray(out, int)
    sides = [(rule.in_axes, into, size[0]), (rule.out_axes, out, size[1])]
    if rule.inner is not None:
        count, channels = (
            rule.inner.count(layer, places) for places in (out, np.arange(size[1]))
        )
        sides.append((rule.inner.axes, np.arange(count), channels))
    slices = []
    for weight in weights_of(layer):
        index = [np.arange(size) for size in weight.shape]
        for axes, chosen, channels in sides:
            for axis, entries in channel_axes(weight, axes, channels):
                own = chosen[chosen < entries.shape[1]]
                index[axis] = entries[:, own].ravel()
        slices.append(tuple(index))
    return slices


def channel_axes(
    weight: Any, axes: Mapping[str, Axes], channels: int
) -> list[tuple[int, np.ndarray]]:
    """Says which axes of a weight follow the channels of a tensor.

    Args:
        weight: A variable of a layer.
        axes: `in_axes` or `out_axes` of the layer's `WidthRule`, or those of `inner`.
        channels: Number of the tensor's channels at full width.

    Returns:
        For each such axis, its number and the places of each channel on it, int
        `(gates, channels, k)`: of the first part of the channels, if the tensor has
        them several times. None if the weight does not follow the channels, or all of
        them share it (PReLU's shared axes).
    """
    followed = []
    named = next((axes[name] for name in names_of(weight) if name in axes), ())
    for each in axes_of(named):
        entries = each.entries(weight.shape[each.axis], channels)
        if entries is not None:
            followed.append((each.axis % len(weight.shape), entries))
    return followed


def sides(layer: Any, flow: Flow) -> list[tuple[Mapping[str, Axes], np.ndarray]]:
    """The channels that a layer's weights may follow, for `channel_axes`.

    Args:
        layer: See `active_slices`.
        flow: What comes in and goes out.

    Returns:
        What the rule says of axes, and grades `(channels,)`: of the input channels, of
        the output channels, and of those inside of the layer, if there are such.
    """
    rule, (into, out) = rule_of(layer) or WidthRule(), flow.grades()
    result = [(rule.in_axes, into), (rule.out_axes, out)]
    if rule.inner is not None:
        inner = np.full(rule.inner.count(layer, np.arange(len(out))), np.inf)
        for grade in np.unique(out)[::-1]:
            inner[: rule.inner.count(layer, np.flatnonzero(out <= grade))] = grade
        result.append((rule.inner.axes, inner))
    return result


def along(entries: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Gives each place on an axis what its channel has.

    Args:
        entries: The places of each channel, as `channel_axes` gives them.
        values: A number of each channel, `(channels,)`; of which there may be more.

    Returns:
        An array of the axis' size.
    """
    placed = np.empty(entries.size, np.asarray(values).dtype)
    placed[entries] = values[: entries.shape[1], None]
    return placed
