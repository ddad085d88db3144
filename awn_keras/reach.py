"""The width from which on each channel of a graph reaches an output.

An output channel of a Tri layer reads the input channels of at most its own grade. So
at a width, a channel reaches an output only through a chain of active readers with
ascending grades. Below the first width with such a chain, the channel is computed in
vain. If there is no such width, the channel is always computed in vain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from awn_keras.rules import Channels, Flow, Labelled, WidthRule, per_sample, rule_of

_NO_RULE = WidthRule(per_sample)


@dataclass(frozen=True)
class Readings:
    """The readers of the channels of a graph.

    Args:
        pairs: Pairs of labels that are read and labels that read them, from the last
            layer to the first.
        by_outputs: bool array `(labels,)`: whether an output reads the channel at every
            width at which the channel is active.
    """

    pairs: list[tuple[np.ndarray, np.ndarray]]
    by_outputs: np.ndarray

    @classmethod
    def of(
        cls, nodes: Sequence[Any], flows: Mapping[int, Flow], channels: Channels
    ) -> Readings:
        """Collects the readers of all channels.

        Args:
            nodes: Calls of the graph, in order.
            flows: Flow of each call, by `id` of the node, with resolved labels.
            channels: All labels.

        Returns:
            The readings.
        """
        by_outputs = np.zeros(len(channels.resolve()), bool)
        pairs = []
        for node in reversed(nodes):
            flow = flows[id(node)]
            labels = [kind.labels for kind in flow.inputs if isinstance(kind, Labelled)]
            read = np.unique(np.concatenate([np.zeros(0, int), *labels]))
            if not isinstance(flow.output, Labelled):
                by_outputs[read] = True
                continue
            rule = rule_of(node.operation) or _NO_RULE
            if len(flow.inputs) == 1 and rule.apart:
                continue  # channels only move; no channel reads another
            readers = np.unique(flow.output.labels)
            if id(node.operation) not in channels.made and not rule.reads_prefix:
                # Channels pass through. Other inputs, such as a gate, act on them.
                read = np.setdiff1d(read, readers)
            if len(read):
                pairs.append((read, readers))
        return cls(pairs, by_outputs)

    def reached(self, grades: np.ndarray) -> np.ndarray:
        """Finds the widths from which on channels reach an output.

        Args:
            grades: float64 array `(labels,)`: the grade of each channel.

        Returns:
            float64 array `(labels,)`: the smallest width at which each channel reaches
            an output, at least its grade; infinite if it never does.
        """
        return self._spread(grades, later=False)

    def raised(self, grades: np.ndarray) -> np.ndarray:
        """Raises grades, so that a channel appears when a reader needs it.

        A channel that appears later may read more. A channel that would appear after
        all its readers appears with the last of them.

        Args:
            grades: See `reached`.

        Returns:
            float64 array `(labels,)`: grades with which each channel reaches an output
            as soon as it appears.
        """
        result = self._spread(grades, later=True)
        result[grades == 0] = 0.0  # each layer needs channels that are always active
        while np.isinf(result).any():
            lost = np.isinf(result)
            last = np.full(len(grades), -1.0)
            for read, readers in self.pairs:
                latest = result[readers[~lost[readers]]].max(initial=-1.0)
                last[read] = np.maximum(last[read], latest)
            known = lost & (last >= 0)
            if not known.any():  # labels that no tensor has
                result[lost] = grades[lost]
            result[known] = last[known]
        return result

    def _spread(self, grades: np.ndarray, *, later: bool) -> np.ndarray:
        """Goes from the outputs back to the channels that they read, width by width.

        Args:
            grades: The grade of each channel.
            later: Whether grades will be raised to the result, so that a channel may
                read what its raised grade allows.

        Returns:
            See `reached`.
        """
        result = np.full(len(grades), np.inf)
        for width in np.unique(grades[self.by_outputs]):
            result[self.by_outputs & (grades == width)] = width
            changed = True
            while changed:  # a residual stage reads itself
                changed = False
                for read, readers in self.pairs:
                    there = readers[result[readers] == width]
                    if not len(there):
                        continue
                    last = width if later else grades[there].max()
                    new = read[(grades[read] <= last) & np.isinf(result[read])]
                    result[new] = width
                    changed = changed or bool(len(new))
        return result
