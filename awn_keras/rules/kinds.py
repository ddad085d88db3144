"""The kinds of tensors in a graph, and the inputs and outputs of a layer.

Each tensor of a functional graph has one of three kinds:

- `Fixed`: the tensor is the same at every width (inputs, and tensors computed only
  from inputs);
- `Graded`: channels come and go with the width, but an active channel has the same
  value at every width;
- `PerWidth`: the values depend on the width (class scores).

Width rules run before there are grades. They use `Labelled` in place of `Graded`, with
a label for each channel. Labels of channels that must come and go together (at an Add,
or before shared weights) are joined. Grades are assigned only after that, so that both
inputs of an Add have equal grades.
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
    """A tensor whose channels come and go, at widths that are not known yet.

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
    """A tensor whose values depend on the width. All its channels are active.

    Args:
        readout: Name of the layer that first mixed all active channels.
    """

    readout: str = field(compare=False)


@dataclass(frozen=True)
class Unknown:
    """A tensor of unknown kind, because the layer that computes it is refused."""


Kind = Fixed | Labelled | Graded | PerWidth | Unknown


def comes_and_goes(kind: Kind) -> bool:
    """Whether the channels of a tensor come and go with the width."""
    return isinstance(kind, Labelled | Graded)


def grades_of(kind: Kind, shape: tuple[Any, ...]) -> np.ndarray:
    """Grades of a tensor's channels, float64 `(channels,)`; 0 if always active."""
    return kind.grades if isinstance(kind, Graded) else np.zeros(shape[-1] or 1)


@dataclass(frozen=True)
class Flow:
    """Inputs and outputs of a layer's call.

    Args:
        inputs: Kinds of the inputs.
        output: Kind of the first output.
        input_shapes: Shapes of the inputs, batch first.
        output_shape: Shape of the first output, batch first.
        named_shapes: Shapes of the call's arguments, by name.
        constants: Arguments of the call that are not tensors, by name.
        sources: For an operation that gets another number of channels: the place that
            each new output channel had before, int `(new channels,)`. Otherwise empty.
    """

    inputs: tuple[Kind, ...]
    output: Kind
    input_shapes: list[tuple[Any, ...]]
    output_shape: tuple[Any, ...]
    named_shapes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    sources: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def grades(self) -> tuple[np.ndarray, np.ndarray]:
        """Grades of the channels of the first input and of the output; 0 if Fixed."""
        return (
            grades_of(self.inputs[0], self.input_shapes[0]),
            grades_of(self.output, self.output_shape),
        )

    def channels(self) -> tuple[int, int]:
        """Numbers of channels of the first input and of the output at full width."""
        return self.input_shapes[0][-1] or 1, self.output_shape[-1] or 1


@dataclass(frozen=True)
class CallSize:
    """The size of a layer's call, at one width or at several.

    Args:
        name: Name of the layer.
        input_shape: Shape of the first input, batch first.
        output_shape: Shape of the first output, batch first.
        inputs: Number of active input channels, or an int array `(widths,)`.
        outputs: Number of active output channels, or an int array `(widths,)`.
        input_shapes: Shapes of all inputs, batch first.
        named_shapes: Shapes of the call's arguments, by name.
        inner: Number of active channels inside the layer, or an int array `(widths,)`.
            `None` if the layer's rule has no `inner`.
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
        """Checks that a shape is known, except the batch.

        Args:
            shape: Shape of an input or output of the call, batch first.

        Returns:
            The shape.

        Raises:
            ValueError: If a size of the shape is not known.
        """
        if None in shape[1:]:
            raise ArgumentError(
                f"MACs need a known shape. Received: layer '{self.name}' with shape "
                f"{shape}. Give the `Input` a full shape."
            )
        return shape


@dataclass(frozen=True)
class ChannelAxis:
    """An axis of a weight that follows channels, which may repeat on it.

    Args:
        axis: The axis.
        gates: Number of times that the axis repeats all channels, as for the gates of a
            recurrent layer. In each repetition, a channel has `k` neighbouring entries.
        copies: Number of times that the layer's tensor repeats all channels while the
            axis has them only once. It is 2 for a recurrent layer that concatenates
            both directions.
    """

    axis: int
    gates: int = 1
    copies: int = 1

    def entries(self, size: int, channels: int) -> np.ndarray | None:
        """Finds the places of each channel on the axis.

        Args:
            size: Size of the axis.
            channels: Number of the tensor's channels at full width.

        Returns:
            int array `(gates, channels / copies, k)` of places on the axis. `None` if
            the axis does not follow the channels, such as an axis of size 1 that all
            channels share.
        """
        own = channels // self.copies
        if channels % self.copies or size % (self.gates * own):
            return None
        return np.arange(size).reshape(self.gates, own, -1)


#: Type by which a rule names one or several axes of a weight that follow channels.
Axes = int | ChannelAxis | tuple[int | ChannelAxis, ...]


def axes_of(axes: Axes) -> tuple[ChannelAxis, ...]:
    """The axes that a rule names for a weight, each as a `ChannelAxis`."""
    several = axes if isinstance(axes, tuple) else (axes,)
    return tuple(
        ChannelAxis(axis) if isinstance(axis, int) else axis for axis in several
    )


def unique(labels: np.ndarray) -> np.ndarray:
    """Each label once, in the order of first places."""
    return np.array(list(dict.fromkeys(labels.tolist())), int)


class Channels:
    """The labels of all channels of a graph, and which of them are joined."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._fixed: list[int] = []
        self._constant: list[int] = []
        self._parts: list[np.ndarray] = []
        self._in_parts: dict[int, tuple[tuple[int, int], ...]] | None = None
        #: Labels of the channels that each layer makes, by `id` of the layer.
        self.made: dict[int, np.ndarray] = {}

    def of(self, layer: Any, count: int) -> np.ndarray:
        """Labels of the channels that a layer makes, equal at all its calls."""
        labels = self.made.get(id(layer))
        if labels is None or len(labels) != count:
            start = len(self._parents)
            self._parents.extend(range(start, start + count))
            labels = self.made[id(layer)] = np.arange(start, start + count)
        return labels

    def always_on(self, count: int) -> np.ndarray:
        """Labels of channels that are active at every width, such as the inputs'."""
        labels = np.arange(len(self._parents), len(self._parents) + count)
        self._parents.extend(labels.tolist())
        self._fixed.extend(labels.tolist())
        return labels

    def constant(self, count: int) -> np.ndarray:
        """Labels of constant channels, which no layer makes.

        They come and go with the channels that they are joined with. If no layer makes
        any of those channels, all of them are active at every width.
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
        """States that a tensor is a part of another tensor's channels.

        If a layer's channels are in several parts, each part gets the grades of a layer
        of its size. So no part is empty at any width.

        Args:
            labels: Labels of the part.
        """
        self._parts.append(labels)
        self._in_parts = None

    def classes(self, labels: np.ndarray) -> list[np.ndarray]:
        """Sorts channels by the parts that they are in.

        Args:
            labels: Labels, in the order of their places.

        Returns:
            The resolved labels of each class, each label once. Channels are in one
            class if they are in the same parts equally often. There is a single class
            if no parts are taken.
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
        """For each label, the label of the first channel joined with it."""
        return np.array([self._root(i) for i in range(len(self._parents))], int)

    def fixed(self) -> np.ndarray:
        """Resolved labels of the channels that are active at every width."""
        roots = self.resolve()
        made = np.concatenate([np.zeros(0, int), *self.made.values()])
        constant = np.setdiff1d(roots[np.asarray(self._constant, int)], roots[made])
        return np.union1d(roots[np.asarray(self._fixed, int)], constant)

    def grades(self, new_grades: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """Assigns a grade to each label.

        Joined layers of different size get the grades of the smallest. For example, a
        layer of 32 channels is added to a concatenation of two layers of 16. Then each
        half of the 32 channels gets the grades of a layer of 16, so that none of the
        layers is empty at any width. Parts of a layer get grades in the same way;
        see `parted`.

        Args:
            new_grades: `new_grades(key, channels)` returns the grades `(channels,)` of
                the layer whose `id` is `key`, or of a part of the layer.

        Returns:
            float64 array `(labels,)`.
        """
        roots = self.resolve()
        grades = np.full(len(roots), np.nan)
        grades[self.fixed()] = 0.0
        # If a layer makes one channel at several places (a Dense before a Reshape),
        # the first place counts.
        made = [
            (key, part)
            for key, labels in self.made.items()
            for part in self.classes(labels)
        ]
        for key, own in sorted(made, key=lambda item: len(item[1])):
            free = np.isnan(grades[own])
            grades[own[free]] = new_grades(key, len(own))[free]
        return grades[roots]
