"""New orders for the channels of a trained model, so that little is lost."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.propagation import Trace
from awn_keras.rules import Kind, Labelled, WidthRule, rule_of
from awn_keras.slices import channel_axes, weights_of

#: Upper limit of rounds. In trials, later rounds improved no order by 1 %.
_ROUNDS = 10


def moves_of(traced: Trace) -> np.ndarray:
    """Orders channels by importance, the strongest first.

    Channels change places only with channels that go through the same layers.

    Args:
        traced: The channels of a trained model.

    Returns:
        int array `(labels,)`: for each label, the label of the channel that takes its
        place.
    """
    importance = importance_of(traced)
    moves = np.arange(len(importance))
    for places in _groups(traced):
        moves[places] = places[np.argsort(-importance[places], kind="stable")]
    return moves


def _groups(traced: Trace) -> list[np.ndarray]:
    """Groups of labels that may change places, each in the order of its places."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    homes: dict[int, list[int]] = defaultdict(list)
    order: dict[int, None] = {}  # labels, ordered by their first place
    for index, (_, labels) in enumerate(traced.makers()):
        for label in labels.tolist():
            homes[label].append(index)
            order.setdefault(label)
    # If a slice takes a part of a layer, channels also stay inside their part.
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
    """The share of each input channel in the input of each output channel of a layer.

    Args:
        read: Labels of the input channels, `(in,)`.
        readers: Labels of the output channels, `(out,)`. `None` for a readout, whose
            outputs are active at every width.
        parts: float64 array `(in, out)`; the sum over a layer is 1.
    """

    read: np.ndarray
    readers: np.ndarray | None
    parts: np.ndarray


def moves_for_reading(traced: Trace, grades: np.ndarray) -> np.ndarray:
    """Orders channels so that the triangle forbids little of what they read.

    The loss of a channel is the share of its input that comes from channels which
    appear later than the channel. A share is measured by squared kernel entries, times
    the squared size of the input channel. Important channels count more. A readout
    loses inactive channels; their share counts by the part of the widths at which they
    are inactive.

    The search starts from the order of importance. It goes through the groups of
    channels, and gives the channels of a group the places with the least loss while all
    other channels stay. It ends when nothing changes.

    Args:
        traced: The channels of a trained model.
        grades: float64 array `(labels,)`: the grade of each place.

    Returns:
        int array `(labels,)`: for each label, the label of the channel that takes its
        place.

    Raises:
        ValueError: If a weight has a value that is not finite.
    """
    check_finite(node.operation for node in traced.propagation.nodes)
    moves = moves_of(traced)
    readings = _readings_of(traced)
    groups = [(places, _of_channels(readings, places)) for places in _groups(traced)]
    # The grade of each channel, by its label, is the grade of its present place.
    now = np.empty(len(moves))
    now[moves] = grades[np.arange(len(moves))]
    for _ in range(_ROUNDS):
        before = moves.copy()
        for places, of_group in groups:
            levels = np.unique(grades[places])
            if len(levels) == 1:
                continue
            lost = np.zeros((len(moves), len(levels)))
            for reading in of_group:
                _add_losses(lost, reading, now, levels)
            channels = np.sort(moves[places])
            of_places = np.searchsorted(levels, grades[places])
            of_channels = _cheapest_levels(lost[channels], np.bincount(of_places))
            by_level = np.argsort(of_places, kind="stable")
            moves[places[by_level]] = channels[np.argsort(of_channels, kind="stable")]
            now[moves[places]] = grades[places]
        if np.array_equal(now[before], now[moves]):
            break
    return moves


def check_finite(operations: Iterable[Any]) -> None:
    """Checks that the weights of layers can be compared.

    Args:
        operations: The layers, and operations of `keras.ops`.

    Raises:
        ValueError: If a weight has a value that is not finite.
    """
    for operation in operations:
        for weight in weights_of(operation):
            if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
                raise ArgumentError(
                    f"Layer '{operation.name}': weight '{weight.name}' has a value "
                    "that is not finite, so the channels of the model cannot be "
                    'rotated, or ordered by `order="reading"`. Train the model again '
                    "with a smaller learning rate, or load other weights."
                )


def _of_channels(readings: list[_Reading], labels: np.ndarray) -> list[_Reading]:
    """Returns the readings in which some of the channels read or are read."""
    return [
        reading
        for reading in readings
        if np.isin(labels, reading.read).any()
        or (reading.readers is not None and np.isin(labels, reading.readers).any())
    ]


def _cheapest_levels(costs: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Distributes channels over levels so that the sum of their costs is least.

    Args:
        costs: float64 array `(channels, levels)`.
        sizes: int array `(levels,)`: the number of channels that each level takes.
            Their sum is the number of channels.

    Returns:
        int array `(channels,)`: the level of each channel.
    """
    channels, levels = costs.shape
    if levels**2 <= channels:
        return _by_shortest_paths(costs, sizes)
    from scipy.optimize import linear_sum_assignment

    of_places = np.repeat(np.arange(levels), sizes)
    return of_places[linear_sum_assignment(costs[:, of_places])[1]]


def _by_shortest_paths(costs: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Does the work of `_cheapest_levels` fast if levels are few.

    For 1,152 channels and 4 levels, `linear_sum_assignment` takes 20 times as long,
    because all places of a level have equal costs.

    Each channel first takes its cheapest level. While a level has too many channels,
    one channel moves along each step of the cheapest path from such a level to a level
    with room. These are the successive shortest paths of a flow of least cost (Ahuja,
    Magnanti and Orlin, Network Flows, 1993, section 9.7), so the result is exact.
    """
    each = np.arange(len(sizes))
    of_channels = costs.argmin(axis=1)
    counts = np.bincount(of_channels, minlength=len(sizes))
    # For each step from a level to a level: the least extra cost, and which channel
    # moves for it.
    extra = np.empty((len(sizes), len(sizes)))
    moving = np.zeros((len(sizes), len(sizes)), int)

    def find_steps(level: int) -> None:
        extra[level] = np.inf
        members = np.flatnonzero(of_channels == level)
        if len(members):
            of_members = costs[members] - costs[members, level, None]
            cheapest = of_members.argmin(axis=0)
            extra[level] = of_members[cheapest, each]
            moving[level] = members[cheapest]

    for level in range(len(sizes)):
        find_steps(level)
    rounding = 1e-12 * np.abs(costs).max()
    while (counts > sizes).any():
        distance = np.where(counts > sizes, 0.0, np.inf)
        previous = np.full(len(sizes), -1)
        while True:  # the shortest paths, by Bellman and Ford
            sums = distance[:, None] + extra
            nearest = sums.argmin(axis=0)
            shorter = sums[nearest, each] < distance - rounding
            if not shorter.any():
                break
            distance[shorter] = sums[nearest, each][shorter]
            previous[shorter] = nearest[shorter]
        path = [int(np.where(counts < sizes, distance, np.inf).argmin())]
        while previous[path[-1]] >= 0:
            path.append(int(previous[path[-1]]))
        for end, start in itertools.pairwise(path):
            of_channels[moving[start, end]] = end
        counts[path[0]] += 1
        counts[path[-1]] -= 1
        for level in path:
            find_steps(level)
    return of_channels


def _add_losses(
    lost: np.ndarray, reading: _Reading, now: np.ndarray, levels: np.ndarray
) -> None:
    """Adds the loss that each channel of a layer would have or cause at each level."""
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
            if readers is not None and len(out) > 1:  # a recurrent kernel
                read, labels = out, readers
            if not (read and out) or kernel.name not in rule.kernels:
                continue
            energy = _energy(kernel, read[0], out[-1])
            labels = labels[: len(energy)]
            energy *= np.square(importance[labels])[:, None]
            # After a BatchNormalization the size of a channel is its factor `gamma`.
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
    """Squared kernel entries, summed for each pair of channels, `(in, out)`.

    Args:
        kernel: The weight.
        read: Axis of the input channels, and the places of each channel on it.
        out: Axis of the output channels, and the places of each channel on it.
    """
    squares = np.square(keras.ops.convert_to_numpy(kernel).astype("float64"))
    squares = np.moveaxis(squares, (read[0], out[0]), (-2, -1))
    squares = squares.sum(axis=tuple(range(squares.ndim - 2)))
    by_reader = squares[:, out[1]].sum(axis=(1, 3))
    return by_reader[read[1]].sum(axis=(0, 2))


def importance_of(traced: Trace) -> np.ndarray:
    """Computes the importance of the channel of each label.

    Args:
        traced: The channels of a trained model.

    Returns:
        float64 array `(labels,)`: the mean absolute factor of the channel in the
        normalizations that it goes through. Without normalization, the L1 norm of the
        kernel entries that make the channel.
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
    """For each place in a tensor, the old place of the channel that moves to it.

    Args:
        kind: Kind of the tensor. Channels move only if it is `Labelled`.
        shape: Shape of the tensor, channels last.
        moves: Result of `moves_of`.
    """
    if not isinstance(kind, Labelled):
        return list(range(shape[-1] or 1))
    # A label may occur several times, for example after Flatten. Then its first place
    # is filled from the first place of the other label, and so on.
    wanted = np.argsort(moves[kind.labels], kind="stable")
    sources = np.empty(len(wanted), int)
    sources[wanted] = np.argsort(kind.labels, kind="stable")
    return sources.tolist()
