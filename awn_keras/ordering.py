"""How important each channel of a trained model is, and the place that it gets."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import keras
import numpy as np

from awn_keras.propagation import Trace
from awn_keras.rules import Kind, Labelled, WidthRule, rule_of
from awn_keras.slices import weights_of


def moves_of(traced: Trace) -> np.ndarray:
    """For each label that of the channel that takes its place, the strongest first.

    Channels change places only with those that go through the same layers.

    Args:
        traced: The channels of a trained model.

    Returns:
        int array `(labels,)`.
    """
    importance = importance_of(traced)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    homes: dict[int, list[int]] = defaultdict(list)
    order: dict[int, None] = {}  # of first places, in the layer that gives the grade
    for index, (_, labels) in enumerate(traced.makers()):
        for label in labels.tolist():
            homes[label].append(index)
            order.setdefault(label)
    fixed = set(traced.channels.fixed().tolist())
    for label in order:
        if label not in fixed:
            groups[tuple(homes[label])].append(label)
    moves = np.arange(len(importance))
    for group in groups.values():
        places = np.array(group)
        moves[places] = places[np.argsort(-importance[places], kind="stable")]
    return moves


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
                axis = rule.out_axes[weight.name] % size.ndim
                axes = set(range(size.ndim)) - {axis}
                np.add.at(norms, labels, size.sum(axis=tuple(axes)))
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
