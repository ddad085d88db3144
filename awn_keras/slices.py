"""Finds the part of a layer's weights that belongs to some of its channels."""

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
    """The names by which a `WidthRule` may refer to a weight.

    Returns:
        The weight's name, and the name after the name of the layer that has the weight,
        as in `query/kernel`. Keras numbers weights without a name; here all of them
        have the name `variable`.
    """
    name = re.sub(r"^variable_\d+$", "variable", weight.name)
    return name, "/".join([*weight.path.split("/")[-2:-1], name])


def active(kind: Kind, shape: tuple[Any, ...], width: float) -> np.ndarray:
    """Finds the channels of a tensor that are active at a width.

    Args:
        kind: Kind of the tensor.
        shape: Shape of the tensor, channels last.
        width: Width in (0, 1].

    Returns:
        bool array `(channels,)`.
    """
    return grades_of(kind, shape) <= width


def active_slices(layer: Any, flow: Flow, width: float) -> list[tuple[np.ndarray, ...]]:
    """For each weight of a layer, the part that acts at a width.

    Args:
        layer: A layer with a width rule, or a layer whose weights do not depend on the
            width.
        flow: Inputs and outputs of the layer.
        width: Width in (0, 1].

    Returns:
        For each of `layer.weights` an index array per axis, as `np.ix_` takes them. An
        operation of `keras.ops` has no weights.
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
        size: Numbers of input and output channels of the layer.
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
    """Finds the axes of a weight that follow the channels of a tensor.

    Args:
        weight: A variable of a layer.
        axes: `in_axes` or `out_axes` of the layer's `WidthRule`, or the axes of its
            `inner`.
        channels: Number of the tensor's channels at full width.

    Returns:
        A list with the number of each such axis and the places of each channel on it,
        int `(gates, channels, k)`. If the tensor has the channels several times (see
        `ChannelAxis.copies`), only the first of them. The list is empty if the weight
        does not follow the channels, or if all channels share it (PReLU's shared axes).
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
        flow: Inputs and outputs of the layer.

    Returns:
        Pairs of the rule's axes and the grades `(channels,)` that they follow: for
        input channels, for output channels, and for channels inside the layer, if any.
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
    """Gives each place on an axis the value of its channel.

    Args:
        entries: The places of each channel, as `channel_axes` gives them.
        values: A value for each channel, `(channels,)`. More values are ignored.

    Returns:
        An array of the axis' size.
    """
    placed = np.empty(entries.size, np.asarray(values).dtype)
    placed[entries] = values[: entries.shape[1], None]
    return placed
