"""How a network's kernels lie in a file: whole, or cut where widths end.

A triangular kernel that is cut into *row blocks* stores and computes no zeros: block j
holds the outputs between two ends, and reads only the inputs that the last of them may
read. If every exported width ends at the end of a block, a narrower network consists
of the first blocks of a wider one, byte for byte. A *readout* reads all active
channels, and is cut on its input side: its output is the sum over blocks of channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from awn_keras.graph import assign, graph_nodes, rebuild
from awn_keras.model import AnyWidthModel
from awn_keras.multi_width import MultiWidthModel
from awn_keras.propagation import Flow, chosen_slices
from awn_keras.rules import (
    TRI_CLASSES,
    Graded,
    PerWidth,
    WidthRule,
    keeps_channels_apart,
    merges_channels,
    rule_of,
)


@dataclass(frozen=True)
class Cut:
    """Where a layer's kernel is cut.

    Args:
        ends: For each block, ascending, how many input and how many output channels
            lie before its end. A row block has the outputs since the end of the one
            before it and reads all inputs up to its own; a readout's block reads the
            inputs since the end of the one before it and gives all outputs.
        readout: Whether the layer is a readout.
    """

    ends: tuple[tuple[int, int], ...]
    readout: bool = False

    def until(self, inputs: int, outputs: int) -> Cut:
        """The cut of a narrower network's layer, which has fewer channels.

        Args:
            inputs: Its input channels.
            outputs: Its output channels.

        Returns:
            The first of the blocks.

        Raises:
            ValueError: If the layer does not end where a block does.
        """
        side = 0 if self.readout else 1
        size = (inputs, outputs)[side]
        ends = [end for end in self.ends if end[side] <= size]
        if not ends or ends[-1][side] != size:
            raise ValueError(
                f"A layer of {inputs} input and {outputs} output channels does not end "
                f"where a block does. Received: ends={self.ends}"
            )
        return Cut(tuple(ends), self.readout)


def cut(model: keras.Model, cuts: Mapping[str, Cut]) -> keras.Model:
    """Cuts kernels of a slim model into blocks, each a layer of its own.

    Args:
        model: A plain functional model, as `slim` returns it. It is left as it is;
            layers that are not cut are shared with it.
        cuts: Cuts of some of its layers, by name; for wider networks' too, as long as
            a block ends where the model's layer does.

    Returns:
        A functional model that computes the same. Layers that treat each channel by
        itself follow the blocks, so that a converter can still fold them into the
        convolution before them.

    Raises:
        ValueError: If a layer does not end where one of its blocks does.
    """
    return _Cutter(cuts).apply(model)


class _Blocks:
    """A tensor in pieces along its channels."""

    def __init__(self, parts: Sequence[Any], name: Callable[[str], str]) -> None:
        self.parts = list(parts)
        self._name = name
        self.ends = np.cumsum([part.shape[-1] for part in parts]).tolist()
        self._joined: dict[tuple[int, int], Any] = {}

    def between(self, start: int, end: int) -> Any:
        """Channels `start` to `end` as one tensor."""
        starts = [0, *self.ends[:-1]]
        if start not in starts or end not in self.ends:
            whole = self.between(0, self.ends[-1])
            return _Channels(start, end, name=self._name("channels"))(whole)
        first, last = starts.index(start), self.ends.index(end)
        if (first, last) not in self._joined:
            parts = self.parts[first : last + 1]
            self._joined[first, last] = (
                parts[0]
                if len(parts) == 1
                else keras.layers.Concatenate(
                    name=self._name("joined"), dtype=parts[0].dtype
                )(parts)
            )
        return self._joined[first, last]


def _channels(x: Any) -> int:
    return x.ends[-1] if isinstance(x, _Blocks) else x.shape[-1]


class _Channels(keras.Layer):
    """Takes some of the channels. A layer, so that it can be given a name."""

    def __init__(self, start: int, end: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.start, self.end = start, end

    def compute_output_spec(self, x: Any) -> Any:
        # Keras takes what some of its operations give for sparse.
        return keras.KerasTensor((*x.shape[:-1], self.end - self.start), x.dtype)

    def call(self, x: Any) -> Any:
        return x[..., self.start : self.end]


def _whole(x: Any) -> Any:
    return x.between(0, x.ends[-1]) if isinstance(x, _Blocks) else x


class _Cutter:
    """One walk over a model's graph."""

    def __init__(self, cuts: Mapping[str, Cut]) -> None:
        self._cuts = cuts
        self._names: set[str] = set()
        self._blocks: dict[tuple[int, ...], keras.Layer] = {}
        self._sums: dict[int, keras.Layer] = {}
        # Flatten layers and what they were given, by `id` of what they gave.
        self._flattened: dict[int, tuple[keras.Layer, Any]] = {}

    def apply(self, model: keras.Model) -> keras.Model:
        # A loaded model has names that Keras would give again.
        self._names.update(node.operation.name for node in graph_nodes(model))
        self._names.update(x._keras_history.operation.name for x in model.inputs)
        inputs, outputs = rebuild(model, self._call)
        outputs = keras.tree.map_structure(_whole, outputs)
        return keras.Model(inputs, outputs, name=model.name)

    def _call(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        layer = node.operation
        found = self._cuts.get(layer.name)
        if len(args) == 1 and not any(x is not None for x in kwargs.values()):
            (x,) = args
            if found is not None:
                return (self._readout if found.readout else self._rows)(layer, x, found)
            if isinstance(x, _Blocks) and keeps_channels_apart(layer):
                return self._apart(layer, x)
            if isinstance(x, list) and merges_channels(layer) and _same_ends(x):
                parts = zip(*(one.parts for one in x), strict=True)
                return _Blocks([layer(list(part)) for part in parts], self._name)
        whole = keras.tree.map_structure(_whole, (args, kwargs))
        outputs = layer(*whole[0], **whole[1])
        if isinstance(layer, keras.layers.Flatten) and args:
            self._flattened[id(outputs)] = (layer, args[0])
        elif isinstance(layer, keras.layers.Dropout) and args:
            before = self._flattened.get(id(args[0]))
            if before is not None:
                self._flattened[id(outputs)] = before
        return outputs

    def _name(self, wanted: str) -> str:
        """A name that no other layer has."""
        name, index = wanted, 0
        while name in self._names:
            index += 1
            name = f"{wanted}_{index}"
        self._names.add(name)
        return name

    def _between(self, x: Any, start: int, end: int) -> Any:
        """Channels `start` to `end` of a tensor, whole or in blocks."""
        if isinstance(x, _Blocks):
            return x.between(start, end)
        if end - start == x.shape[-1]:
            return x
        return _Channels(start, end, name=self._name("channels"), dtype=x.dtype)(x)

    def _rows(self, layer: keras.Layer, x: Any, found: Cut) -> _Blocks:
        """One layer for each block of outputs."""
        size = (_channels(x), _outputs(layer))
        parts: list[Any] = []
        start = 0
        for inputs, end in found.until(*size).ends:
            indices = (np.arange(inputs), np.arange(start, end))
            part = self._between(x, 0, inputs)
            parts.append(self._block(layer, len(parts), part, size, indices))
            start = end
        return _Blocks(parts, self._name)

    def _readout(self, layer: Any, x: Any, found: Cut) -> Any:
        """The sum of a layer for each block of inputs; the first one has the bias."""
        flatten, x = self._flattened.get(id(x), (None, x))
        channels, outputs = _channels(x), _outputs(layer)
        features = channels if flatten is None else flatten(_whole(x)).shape[-1]
        # A flattened tensor has all channels of its first position first.
        positions = np.arange(0, features, channels)[:, None]
        terms: list[Any] = []
        start = 0
        for end, _ in found.until(channels, outputs).ends:
            inputs = (positions + np.arange(start, end)).ravel()
            part = self._between(x, start, end)
            terms.append(
                self._block(
                    *(layer, len(terms), part if flatten is None else flatten(part)),
                    *((features, outputs), (inputs, np.arange(outputs))),
                    activation=None,
                    use_bias=layer.use_bias and not terms,
                )
            )
            start = end
        total = terms[0]
        if len(terms) > 1:
            name = self._name(f"{layer.name}_sum")
            total = keras.layers.Add(name=name, dtype=total.dtype)(terms)
        # Under the layer's own name, which may be that of an output.
        last = self._sums.setdefault(
            id(layer),
            keras.layers.Activation(
                layer.activation, name=layer.name, dtype=total.dtype
            ),
        )
        return last(total)

    def _apart(self, layer: Any, x: _Blocks) -> _Blocks:
        """A layer that treats each channel by itself, on each block."""
        if not getattr(layer, "weights", []):
            return _Blocks([layer(part) for part in x.parts], self._name)
        each = getattr(layer, "depth_multiplier", 1)
        size = (_channels(x), _channels(x) * each)
        parts: list[Any] = []
        start = 0
        for part, end in zip(x.parts, x.ends, strict=True):
            indices = (np.arange(start, end), np.arange(start * each, end * each))
            parts.append(self._block(layer, len(parts), part, size, indices))
            start = end
        return _Blocks(parts, self._name)

    def _block(
        self,
        layer: Any,
        index: int,
        x: Any,
        size: tuple[int, int],
        indices: tuple[np.ndarray, np.ndarray],
        **changes: Any,
    ) -> Any:
        """Calls a layer of the same class that holds a part of the channels.

        Args:
            layer: The layer.
            index: Which of its blocks.
            x: What to call it on.
            size: How many input and output channels the layer has.
            indices: Those that the block has.
            **changes: Changes of its configuration.
        """
        key = (id(layer), *(int(one[end]) for one in indices for end in (0, -1)))
        block = self._blocks.get(key)
        if block is not None:
            return block(x)
        rule = rule_of(layer) or WidthRule()
        name = self._name(f"{layer.name}_part{index}")
        config = {**layer.get_config(), **changes, "name": name}
        if rule.channels is not None:
            config[rule.channels] = len(indices[1])
        # Initializers may hold arrays of the whole layer's shape.
        config.update((k, "zeros") for k in config if k.endswith("_initializer"))
        block = self._blocks[key] = type(layer).from_config(config)
        outputs = block(x)
        slices = chosen_slices(layer, size, *(one.tolist() for one in indices))
        values = [
            value[np.ix_(*chosen)]
            for value, chosen in zip(layer.get_weights(), slices, strict=True)
        ]
        # Without its bias a readout has the kernel only.
        assign(block, values[: len(block.weights)])
        return outputs


def _outputs(layer: Any) -> int:
    rule = rule_of(layer)
    return getattr(layer, rule.channels) if rule and rule.channels else 0


def _same_ends(values: list[Any]) -> bool:
    return all(isinstance(x, _Blocks) for x in values) and all(
        x.ends == values[0].ends for x in values
    )


# -------------------------------------------------------------------- where to cut

LAYOUTS = ("auto", "dense", "triangular")


@dataclass(frozen=True)
class Candidate:
    """A layer that can be cut.

    Args:
        layer: The layer.
        in_grades: Grades of its input channels, ascending; before a Flatten, if one
            comes first.
        out_grades: Grades of its output channels, ascending; 0 for a readout.
        in_shape: Rows and cols of its input; of what a Flatten before it is given.
        out_shape: Rows and cols of its output.
        readout: Whether it is a readout.
    """

    layer: Any
    in_grades: np.ndarray
    out_grades: np.ndarray
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    readout: bool

    @property
    def area(self) -> int:
        """Number of positions that an output reads."""
        if self.readout and len(self.in_shape) > len(self.out_shape):
            return math.prod(self.in_shape)  # flattened
        return math.prod(getattr(self.layer, "kernel_size", (1,)))

    def channels(self, width: float) -> tuple[int, int]:
        """Active input and output channels at a width."""
        return int((self.in_grades <= width).sum()), int(
            (self.out_grades <= width).sum()
        )

    def cut(self, widths: Sequence[float], more: Sequence[int] = ()) -> Cut:
        """Where to cut the kernel.

        Args:
            widths: Widths at which a block must end.
            more: Numbers of output channels after which more row blocks may end. A
                block that would read all that the next one reads is not made.

        Returns:
            The cut, with one block at least.
        """
        ends = {self.channels(width) for width in widths}
        if self.readout:
            return Cut(tuple(sorted(ends)), readout=True)
        needed = {out for _, out in ends}
        found: list[tuple[int, int]] = []
        for out in sorted(needed.union(more), reverse=True):
            if 0 < out <= max(needed):
                reads = int((self.in_grades <= self.out_grades[out - 1]).sum())
                if out in needed or reads < found[-1][0]:
                    found.append((reads, out))
        return Cut(tuple(found[::-1]))

    def options(self, widths: Sequence[float]) -> list[Cut]:
        """Cuts worth a look: at the widths alone, and with more ends between them."""
        last = self.channels(max(widths))[1]
        options = [self.cut(widths)]
        for blocks in () if self.readout else (2, 3, 4, 6, 8):
            # XNNPACK computes 16 outputs at a time.
            more = [16 * round(last * k / blocks / 16) for k in range(1, blocks)]
            options.append(self.cut(widths, more))
        return [one for one in dict.fromkeys(options) if len(one.ends) > 1]


def candidates(model: MultiWidthModel) -> dict[str, Candidate]:
    """Finds the layers of a model that can be cut.

    Args:
        model: An any-width model. Systems of ordinary convolutions have none: their
            kernels have no zeros.

    Returns:
        By name, Tri layers and readouts whose channels come in the order of their
        grades: after a Concatenate they do not, and such a layer stays whole. So does
        a separable convolution, whose blocks would filter the same inputs again.
    """
    if not isinstance(model, AnyWidthModel) or any(
        getattr(x, "_keras_mask", None) is not None
        for node in model.propagation.nodes
        for x in node.outputs
    ):
        return {}  # masks do not go through blocks
    found: dict[str, Candidate] = {}
    refused = set()
    flattened: dict[int, Flow] = {}
    for node in model.propagation.nodes:
        layer, flow = node.operation, model.propagation.flows[id(node)]
        before = flattened.get(id(node.input_tensors[0]))
        if isinstance(layer, keras.layers.Flatten):
            before = flow
        if isinstance(layer, keras.layers.Flatten | keras.layers.Dropout) and before:
            flattened[id(node.outputs[0])] = before
        if (
            type(layer) not in (*TRI_CLASSES, *TRI_CLASSES.values())
            or not isinstance(flow.inputs[0], Graded)
            or "pointwise_kernel" in rule_of(layer).in_axes  # type: ignore[union-attr]
        ):
            continue
        readout = isinstance(flow.output, PerWidth)
        source = before if readout and before else flow
        grades = (source.grades()[0], flow.grades()[1])
        if all(np.all(np.diff(one) >= 0) for one in grades):
            shapes = (source.input_shapes[0][1:-1], flow.output_shape[1:-1])
            one = Candidate(layer, *grades, *shapes, readout)
            if not _alike(one, found.setdefault(layer.name, one)):
                refused.add(layer.name)
    return {name: one for name, one in found.items() if name not in refused}


def _alike(one: Candidate, other: Candidate) -> bool:
    """Whether two calls of a layer may be cut in the same way."""
    return np.array_equal(one.in_grades, other.in_grades) and (
        one.in_shape == other.in_shape
    )


class Work(NamedTuple):
    """What a layer does, or what that takes in microseconds.

    Args:
        operators: Operators run.
        macs: Multiply-accumulates; outputs come in sixteens.
        outputs: Values computed, in sixteens.
        weights: Weights read.
        pieces: Runs of memory copied to cut a tensor, or to join one.
        copied: Values copied.
    """

    operators: float
    macs: float
    outputs: float
    weights: float
    pieces: float
    copied: float


#: Microseconds of each, on one thread: fitted by `benchmarks/layouts.py`, which keeps
#: them in results/layouts.json. What counts is how they compare: a slower processor
#: copies more slowly, too.
COSTS = Work(1.72, 2.15e-05, 0.00045, 0.000122, 0.00297, 0.000188)


def work(candidate: Candidate, width: float, found: Cut | None) -> Work:
    """Counts what a layer does at a width, cut or whole.

    Args:
        candidate: The layer.
        width: The width.
        found: Its cut, for this width or a wider one. `None` if whole.
    """
    inputs, outputs = candidate.channels(width)
    whole = Cut(((inputs, outputs),), candidate.readout)
    ends = (found or whole).until(inputs, outputs).ends
    positions = math.prod(candidate.out_shape)
    sources = math.prod(candidate.in_shape)
    area = candidate.area
    # A transposed convolution sends each input to `area` outputs.
    transposed = "Transpose" in type(candidate.layer).__name__
    spots = sources if transposed else positions
    total = np.zeros(len(Work._fields))
    last = (0, 0)
    for into, out in ends:
        if candidate.readout:
            reads, gives = into - last[0], outputs
        else:
            reads, gives = into, out - last[1]
        padded = 16 * math.ceil(gives / 16)
        total += (1, spots * area * reads * padded, positions * padded, 0, 0, 0)
        total += (0, 0, 0, area * reads * gives, 0, 0)
        if reads < inputs:
            total += (1, 0, 0, 0, sources, sources * reads)
        last = (into, out)
    if len(ends) > 1 and candidate.readout:  # the sum
        total += (1, 0, positions * outputs * len(ends), 0, 0, 0)
    elif len(ends) > 1:  # joined again
        total += (1, 0, 0, 0, positions * len(ends), positions * outputs)
    return Work(*total)


Milliseconds = Callable[[Candidate, float, "Cut | None"], float]


def estimate(candidate: Candidate, width: float, found: Cut | None) -> float:
    """Milliseconds that a layer takes by the cost model; see `work`."""
    return float(np.dot(work(candidate, width, found), COSTS)) / 1e3


#: By how much longer a file may take to be shorter: 1 % for 5 %.
_TIME_PER_BYTES = 0.2


def choose_cuts(
    model: MultiWidthModel,
    widths: Sequence[float],
    layout: str = "auto",
    milliseconds: Milliseconds = estimate,
) -> dict[str, Cut]:
    """Decides which kernels of a file are cut, and where.

    Args:
        model: The model.
        widths: Widths that the file is to hold.
        layout: `"dense"` for none, `"triangular"` for all that can be, at the widths,
            `"auto"` for those that are faster so, each at the ends that suit it best;
            a file's length counts a little, too.
        milliseconds: For `"auto"`, `milliseconds(candidate, width, cut)`: what a layer
            takes, whole if `cut` is `None`.

    Returns:
        Cuts by layer name; layers that are not named stay whole.

    Raises:
        ValueError: If `layout` is none of these.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {LAYOUTS}. Received: {layout!r}")
    found = candidates(model)
    if layout == "dense":
        return {}
    if layout == "triangular":
        return {name: one.cut(widths) for name, one in found.items()}
    times = [
        sum(estimate(one, width, None) for one in found.values()) for width in widths
    ]
    weights = sum(work(one, max(widths), None).weights for one in found.values())

    def cost(one: Candidate, option: Cut | None) -> float:
        relative = [
            milliseconds(one, width, option) / time
            for width, time in zip(widths, times, strict=True)
        ]
        if option is None:  # a copy for each width
            held = sum(work(one, width, None).weights for width in widths)
        else:
            held = work(one, max(widths), option).weights
        return float(np.mean(relative)) + _TIME_PER_BYTES * held / weights

    chosen = {}
    for name, one in found.items():
        best = min([None, *one.options(widths)], key=lambda option: cost(one, option))
        if best is not None:
            chosen[name] = best
    return chosen
