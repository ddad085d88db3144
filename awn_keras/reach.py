"""At which width each channel of a graph reaches an output.

An output channel of a Tri layer reads the input channels whose grades are at most its
own. So a channel reaches an output at a width only along a chain of readers with
ascending grades, all of which are there. Before the first such width the channel is
computed for nothing; if there is no such width, always.
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
    """Which channels of a graph read which.

    Args:
        pairs: Labels that are read, and those that read them, from the last layer to
            the first.
        by_outputs: bool array `(labels,)`: whether an output reads the channel at every
            width at which it is there.
    """

    pairs: list[tuple[np.ndarray, np.ndarray]]
    by_outputs: np.ndarray

    @classmethod
    def of(
        cls, nodes: Sequence[Any], flows: Mapping[int, Flow], channels: Channels
    ) -> Readings:
        """Lists who reads whom.

        Args:
            nodes: The graph's calls in order.
            flows: What comes in and goes out at each call, by `id` of the node;
                labels are resolved.
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
                continue  # channels move: none reads another
            readers = np.unique(flow.output.labels)
            if id(node.operation) not in channels.made and not rule.reads_prefix:
                # Channels go through; what does not, such as a gate, acts on the rest.
                read = np.setdiff1d(read, readers)
            if len(read):
                pairs.append((read, readers))
        return cls(pairs, by_outputs)

    def reached(self, grades: np.ndarray) -> np.ndarray:
        """Finds the widths from which on channels reach an output.

        Args:
            grades: float64 array `(labels,)`: the grade of each.

        Returns:
            float64 array `(labels,)`: the smallest such width of each, at least its
            grade; infinite for a channel that never does.
        """
        return self._spread(grades, later=False)

    def raised(self, grades: np.ndarray) -> np.ndarray:
        """Lets channels appear when something reads them, and not before.

        A channel that appears later may read more. A channel that would come after all
        its readers comes with the last of them.

        Args:
            grades: See `reached`.

        Returns:
            float64 array `(labels,)`: grades with which each channel reaches an output
            as soon as it appears.
        """
        result = self._spread(grades, later=True)
        result[grades == 0] = 0.0  # always there, or no layer would have any
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
        """Goes from the outputs to what they depend on, width by width.

        Args:
            grades: The grade of each channel.
            later: Whether grades are to be raised to what is returned, so that a
                channel reads what it may read then.

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
