"""The place that each channel of a trained model gets, so that little is lost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.propagation import Trace
from awn_keras.rules import Kind, Labelled, WidthRule, rule_of
from awn_keras.slices import channel_axes, weights_of

#: Rounds after which no order was seen to get better by a hundredth.
_ROUNDS = 10


def moves_of(traced: Trace) -> np.ndarray:
    """For each label that of the channel that takes its place, the strongest first.

    Channels change places only with those that go through the same layers.

    Args:
        traced: The channels of a trained model.

    Returns:
        int array `(labels,)`.
    """
    importance = importance_of(traced)
    moves = np.arange(len(importance))
    for places in _groups(traced):
        moves[places] = places[np.argsort(-importance[places], kind="stable")]
    return moves


def _groups(traced: Trace) -> list[np.ndarray]:
    """Labels of channels that may change places, those of early places first."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    homes: dict[int, list[int]] = defaultdict(list)
    order: dict[int, None] = {}  # of first places, in the layer that gives the grade
    for index, (_, labels) in enumerate(traced.makers()):
        for label in labels.tolist():
            homes[label].append(index)
            order.setdefault(label)
    # Nor do they leave the part that is taken of a layer.
    parts = traced.channels.classes(np.array(list(order), int))
    for index, part in enumerate(parts):
        for label in part.tolist():
            homes[label].append(-index)
    fixed = set(traced.channels.fixed().tolist())
    for label in order:
        if label not in fixed:
            groups[tuple(homes[label])].append(label)
    return [np.array(group) for group in groups.values()]


@dataclass(frozen=True)
class _Reading:
    """How much of what each channel reads comes from which other channel.

    Args:
        read: Labels of the channels that are read, `(in,)`.
        readers: Labels of those that read them, `(out,)`. `None` for a readout, which
            reads at every width.
        parts: float64 array `(in, out)`; the sum over a layer is 1.
    """

    read: np.ndarray
    readers: np.ndarray | None
    parts: np.ndarray


def moves_for_reading(traced: Trace, grades: np.ndarray) -> np.ndarray:
    """For each label that of the channel that takes its place, so that little is lost.

    What is lost is the part of each channel's input, in squares of kernel entries
    times the squared size of what they multiply, that comes from channels which appear
    later than the channel itself; important channels count more. A readout loses what
    is not there, at the mean over widths. From the order of importance on, the
    channels of one group after another get the places that lose least while all others
    stay, until nothing changes.

    Args:
        traced: The channels of a trained model.
        grades: float64 array `(labels,)`: the grade of each place.

    Returns:
        int array `(labels,)`.
    """
    from scipy.optimize import linear_sum_assignment

    moves = moves_of(traced)
    groups, readings = _groups(traced), _readings_of(traced)
    # The grade of each channel, by its label: that of its place.
    now = np.empty(len(moves))
    now[moves] = grades[np.arange(len(moves))]
    for _ in range(_ROUNDS):
        before = moves.copy()
        for places in groups:
            levels = np.unique(grades[places])
            if len(levels) == 1:
                continue
            lost = np.zeros((len(moves), len(levels)))
            for reading in readings:
                _add_losses(lost, reading, now, levels)
            channels = np.sort(moves[places])
            at = np.searchsorted(levels, grades[places])
            rows, columns = linear_sum_assignment(lost[channels][:, at])
            moves[places[columns]] = channels[rows]
            now[moves[places]] = grades[places]
        if np.array_equal(now[before], now[moves]):
            break
    return moves


def _add_losses(
    lost: np.ndarray, reading: _Reading, now: np.ndarray, levels: np.ndarray
) -> None:
    """Adds what each channel of a layer would lose, or take from others, at levels."""
    for column, level in enumerate(levels):
        if reading.readers is None:
            np.add.at(lost[:, column], reading.read, level * reading.parts[:, 0])
            continue
        by_readers = reading.parts @ (now[reading.readers] < level)
        np.add.at(lost[:, column], reading.read, by_readers)
        from_read = (now[reading.read] > level) @ reading.parts
        np.add.at(lost[:, column], reading.readers, from_read)


def _readings_of(traced: Trace) -> list[_Reading]:
    importance, readings = importance_of(traced), []
    for node in traced.propagation.nodes:
        layer, flow = node.operation, traced.propagation.flows[id(node)]
        rule, into = rule_of(layer) or WidthRule(), flow.inputs[0]
        if rule.triangular is None or not isinstance(into, Labelled):
            continue
        readers = flow.output.labels if isinstance(flow.output, Labelled) else None
        for kernel in layer.weights:
            read = channel_axes(kernel, rule.in_axes, len(into.labels))
            out = channel_axes(kernel, rule.out_axes, flow.output_shape[-1])
            labels = into.labels
            if readers is not None and len(out) > 1:  # units that read each other
                read, labels = out, readers
            if not (read and out) or kernel.name not in rule.kernels:
                continue
            energy = _energy(kernel, read[0], out[-1])
            labels = labels[: len(energy)]
            energy *= np.square(importance[labels])[:, None]
            # BatchNormalization after the layer makes each channel's size its factor.
            parts = energy / np.maximum(energy.sum(axis=0), 1e-30)
            if readers is None:
                parts = energy.sum(axis=1, keepdims=True)
            else:
                parts *= importance[readers[: parts.shape[1]]]
            parts /= max(parts.sum(), 1e-30)
            own = None if readers is None else readers[: parts.shape[1]]
            readings.append(_Reading(labels, own, parts))
    return readings


def _energy(
    kernel: Any, read: tuple[int, np.ndarray], out: tuple[int, np.ndarray]
) -> np.ndarray:
    """Squares of a kernel's entries, summed for each two channels `(in, out)`.

    Args:
        kernel: The weight.
        read: The axis of the channels that are read, with the places of each.
        out: That of those that read them.
    """
    squares = np.square(keras.ops.convert_to_numpy(kernel).astype("float64"))
    squares = np.moveaxis(squares, (read[0], out[0]), (-2, -1))
    squares = squares.sum(axis=tuple(range(squares.ndim - 2)))
    by_reader = squares[:, out[1]].sum(axis=(1, 3))
    return by_reader[read[1]].sum(axis=(0, 2))


def importance_of(traced: Trace) -> np.ndarray:
    """Gives the importance of the channel of each label.

    Args:
        traced: The channels of a trained model.

    Returns:
        float64 array `(labels,)`: the mean size of the channel's factors in the
        normalizations that it goes through, else the L1 norm of the kernels that make
        it.
    """
    roots = traced.channels.resolve()
    norms, factors, counts = np.zeros((3, len(roots)))
    for layer, labels in traced.makers():
        rule = rule_of(layer) or WidthRule()
        for weight in layer.weights:
            if weight.name in rule.out_axes and len(weight.shape) > 1:  # no bias
                size = np.abs(keras.ops.convert_to_numpy(weight))
                axis, entries = channel_axes(weight, rule.out_axes, len(labels))[-1]
                axes = set(range(size.ndim)) - {axis}
                of_each = size.sum(axis=tuple(axes))[entries].sum(axis=(0, 2))
                np.add.at(norms, labels[: len(of_each)], of_each)
    for node in traced.propagation.nodes:
        layer, flow = node.operation, traced.propagation.flows[id(node)]
        rule = rule_of(layer) or WidthRule()
        if isinstance(flow.output, Labelled):
            for weight in weights_of(layer):
                if weight.name == rule.importance:
                    factor = np.abs(keras.ops.convert_to_numpy(weight))
                    np.add.at(factors, flow.output.labels, factor)
                    np.add.at(counts, flow.output.labels, 1)
    return np.where(counts > 0, factors / np.maximum(counts, 1), norms)


def sources_of(kind: Kind, shape: tuple[Any, ...], moves: np.ndarray) -> list[int]:
    """For each place in a tensor, the place whose channel comes there.

    Args:
        kind: The tensor's kind; channels move where it is `Labelled`.
        shape: Its shape, channels last.
        moves: What `moves_of` gives.
    """
    if not isinstance(kind, Labelled):
        return list(range(shape[-1] or 1))
    # A label may be here several times (after Flatten, say); then its first place is
    # filled from the first of the other label, and so on.
    wanted = np.argsort(moves[kind.labels], kind="stable")
    sources = np.empty(len(wanted), int)
    sources[wanted] = np.argsort(kind.labels, kind="stable")
    return sources.tolist()
