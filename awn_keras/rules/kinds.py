"""What a tensor of a graph can be, and what comes in and goes out of a layer.

Walking a functional graph, each tensor is one of three kinds:

- `Fixed`: the same at every width (the inputs, and what is computed from them);
- `Graded`: channels come and go with width, but one that is there has the same value
  at every width;
- `PerWidth`: its values depend on the width (the class scores).

While rules are asked, there are no grades yet: `Labelled` stands in the place of
`Graded`, with a label of each channel. Labels that must come and go together (at an
Add, or before weights that two places share) are joined; only then grades are given, so
that both sides of an Add have the same ones.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from awn_keras.errors import ArgumentError


@dataclass(frozen=True)
class Fixed:
    """A tensor that is the same at every width."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A tensor whose channels come and go, while it is not known yet at which widths.

    Args:
        labels: int array `(channels,)`: the label of each channel.
    """

    labels: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labelled) and np.array_equal(self.labels, other.labels)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Graded:
    """A tensor whose channels come and go, each with the same value at every width.

    Args:
        grades: float64 array `(channels,)`: the smallest width of each channel.
    """

    grades: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graded) and np.array_equal(self.grades, other.grades)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class PerWidth:
    """A tensor whose values depend on the width; all its channels are there.

    Args:
        readout: Name of the layer that first mixed all active channels.
    """

    readout: str = field(compare=False)


@dataclass(frozen=True)
class Unknown:
    """A tensor of which nothing is known, since the layer that gives it is refused."""


Kind = Fixed | Labelled | Graded | PerWidth | Unknown


def comes_and_goes(kind: Kind) -> bool:
    """Whether the channels of a tensor come and go with the width."""
    return isinstance(kind, Labelled | Graded)


def grades_of(kind: Kind, shape: tuple[Any, ...]) -> np.ndarray:
    """Grades of a tensor's channels, float64 `(channels,)`; 0 where always there."""
    return kind.grades if isinstance(kind, Graded) else np.zeros(shape[-1] or 1)


@dataclass(frozen=True)
class Flow:
    """What comes in and goes out of a layer: the same at each of its calls.

    Args:
        inputs: Kinds of the inputs.
        output: Kind of the first output.
        input_shapes: Shapes of the inputs, batch first.
        output_shape: Shape of the first output, batch first.
        named_shapes: Shapes of the arguments of the call, by name.
        constants: Arguments of the call that are no tensors, by name.
        sources: Of an operation that is to have other channels: for each of its output
            the place of that which stood there, int `(new channels,)`. Else empty.
    """

    inputs: tuple[Kind, ...]
    output: Kind
    input_shapes: list[tuple[Any, ...]]
    output_shape: tuple[Any, ...]
    named_shapes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    sources: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def grades(self) -> tuple[np.ndarray, np.ndarray]:
        """Grades of the first input's and the output's channels, 0 where Fixed."""
        return (
            grades_of(self.inputs[0], self.input_shapes[0]),
            grades_of(self.output, self.output_shape),
        )

    def channels(self) -> tuple[int, int]:
        """Numbers of the first input's and the output's channels at full width."""
        return self.input_shapes[0][-1] or 1, self.output_shape[-1] or 1


@dataclass(frozen=True)
class CallSize:
    """How large one call of a layer is, at one width or at several.

    Args:
        name: Name of the layer.
        input_shape: Shape of the first input, batch first.
        output_shape: Shape of the first output, batch first.
        inputs: Active input channels: a number, or an int array `(widths,)`.
        outputs: Active output channels, likewise.
        input_shapes: Shapes of all inputs, batch first.
        named_shapes: Shapes of the arguments of the call, by name.
        inner: Active channels inside of the layer, likewise, if its rule has such.
    """

    name: str
    input_shape: tuple[Any, ...]
    output_shape: tuple[Any, ...]
    inputs: Any
    outputs: Any
    input_shapes: Sequence[tuple[Any, ...]] = ()
    named_shapes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    inner: Any = None

    @property
    def input_positions(self) -> int:
        """Positions (rows times cols) of the input.

        Raises:
            ValueError: If they are not known.
        """
        return self._positions(self.input_shape)

    @property
    def output_positions(self) -> int:
        """Positions (rows times cols) of the output.

        Raises:
            ValueError: If they are not known.
        """
        return self._positions(self.output_shape)

    def _positions(self, shape: tuple[Any, ...]) -> int:
        return math.prod(self.known(shape)[1:-1])

    def known(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Checks that a shape is known, the batch apart.

        Args:
            shape: Shape of an input or output of the call, batch first.

        Returns:
            The shape.

        Raises:
            ValueError: If it is not known.
        """
        if None in shape[1:]:
            raise ArgumentError(
                f"MACs need a known shape. Received: layer '{self.name}' with shape "
                f"{shape}. Give the `Input` a full shape."
            )
        return shape


@dataclass(frozen=True)
class ChannelAxis:
    """An axis of a weight that follows channels, more than one after the other.

    Args:
        axis: The axis.
        gates: How many times all channels lie side by side on it, as those of the gates
            of a recurrent layer do. Within each, a channel has `k` neighbouring
            entries.
        copies: How many times all channels lie side by side in the layer's tensor, of
            which the axis has one: 2 of the units of a recurrent layer that runs in
            both directions.
    """

    axis: int
    gates: int = 1
    copies: int = 1

    def entries(self, size: int, channels: int) -> np.ndarray | None:
        """Says where on the axis each channel is.

        Args:
            size: Size of the axis.
            channels: Number of the tensor's channels at full width.

        Returns:
            int array `(gates, channels / copies, k)` of places on the axis. `None` if
            it does not follow them, as one of size 1 that all of them share.
        """
        own = channels // self.copies
        if channels % self.copies or size % (self.gates * own):
            return None
        return np.arange(size).reshape(self.gates, own, -1)


#: How a rule names the axis of a weight that follows channels, or several of them.
Axes = int | ChannelAxis | tuple[int | ChannelAxis, ...]


def axes_of(axes: Axes) -> tuple[ChannelAxis, ...]:
    """What a rule says of a weight's axes, each as a `ChannelAxis`."""
    several = axes if isinstance(axes, tuple) else (axes,)
    return tuple(
        ChannelAxis(axis) if isinstance(axis, int) else axis for axis in several
    )


def unique(labels: np.ndarray) -> np.ndarray:
    """Each label once, in the order of their first places."""
    return np.array(list(dict.fromkeys(labels.tolist())), int)


class Channels:
    """The labels of all channels of a graph, and which of them are one."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._fixed: list[int] = []
        self._constant: list[int] = []
        self._parts: list[np.ndarray] = []
        self._in_parts: dict[int, tuple[tuple[int, int], ...]] | None = None
        #: Labels of the channels that each layer makes, by `id` of the layer.
        self.made: dict[int, np.ndarray] = {}

    def of(self, layer: Any, count: int) -> np.ndarray:
        """Labels of the channels that a layer makes, the same at each of its calls."""
        labels = self.made.get(id(layer))
        if labels is None or len(labels) != count:
            start = len(self._parents)
            self._parents.extend(range(start, start + count))
            labels = self.made[id(layer)] = np.arange(start, start + count)
        return labels

    def always_on(self, count: int) -> np.ndarray:
        """Labels of channels that are there at every width, such as the inputs'."""
        labels = np.arange(len(self._parents), len(self._parents) + count)
        self._parents.extend(labels.tolist())
        self._fixed.extend(labels.tolist())
        return labels

    def constant(self, count: int) -> np.ndarray:
        """Labels of channels that no layer makes, as they are the same for all inputs.

        They come and go with those that they are joined with. If no layer makes these
        either, all are there at every width.
        """
        labels = np.arange(len(self._parents), len(self._parents) + count)
        self._parents.extend(labels.tolist())
        self._constant.extend(labels.tolist())
        return labels

    def join(self, labels: np.ndarray, others: np.ndarray) -> None:
        """States that two tensors have the same channels, in the same order."""
        if labels is others:
            return
        self._in_parts = None
        for left, right in zip(labels.tolist(), others.tolist(), strict=True):
            first, second = sorted((self._root(left), self._root(right)))
            self._parents[second] = first

    def parted(self, labels: np.ndarray) -> None:
        """States that a tensor is a part of another one, of which some must be there.

        A layer whose channels are in several parts gives those of each the grades that
        a layer of their number has: no part is ever empty, or late as a whole.

        Args:
            labels: The part's.
        """
        self._parts.append(labels)
        self._in_parts = None

    def classes(self, labels: np.ndarray) -> list[np.ndarray]:
        """Sorts channels by the parts that they are in.

        Args:
            labels: Labels, in the order of their places.

        Returns:
            Labels, resolved, each once, of each class: channels that are in the same
            parts equally often. A single class where nothing is taken apart.
        """
        if self._in_parts is None:
            self._in_parts = defaultdict(tuple)
            for index, part in enumerate(self._parts):
                counts = Counter(map(self._root, part.tolist()))
                for label, count in counts.items():
                    self._in_parts[label] += ((index, count),)
        classes: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for label in dict.fromkeys(map(self._root, labels.tolist())):
            classes[self._in_parts.get(label, ())].append(label)
        return [np.array(labels) for labels in classes.values()]

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = label = parents[parents[label]]
        return label

    def resolve(self) -> np.ndarray:
        """For each label that of the first channel joined with it, `(labels,)`."""
        return np.array([self._root(i) for i in range(len(self._parents))], int)

    def fixed(self) -> np.ndarray:
        """Labels, resolved, of the channels that are there at every width."""
        roots = self.resolve()
        made = np.concatenate([np.zeros(0, int), *self.made.values()])
        constant = np.setdiff1d(roots[np.asarray(self._constant, int)], roots[made])
        return np.union1d(roots[np.asarray(self._fixed, int)], constant)

    def grades(self, new_grades: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """Gives each label its grade.

        Joined layers of different size follow the smallest: where a layer of 32
        channels is added to a concatenation of two of 16, each half of it rises as its
        layer of 16 does, so that none of the three is ever empty. So does each part
        that is taken of a layer; see `parted`.

        Args:
            new_grades: `new_grades(key, channels)` gives the grades `(channels,)` of
                the layer whose `id` is `key`, or of a part of it.

        Returns:
            float64 array `(labels,)`.
        """
        roots = self.resolve()
        grades = np.full(len(roots), np.nan)
        grades[self.fixed()] = 0.0
        # A channel that a layer makes at several places (a Dense before a Reshape) is
        # one channel, and its first place counts.
        made = [
            (key, part)
            for key, labels in self.made.items()
            for part in self.classes(labels)
        ]
        for key, own in sorted(made, key=lambda item: len(item[1])):
            free = np.isnan(grades[own])
            grades[own[free]] = new_grades(key, len(own))[free]
        return grades[roots]
