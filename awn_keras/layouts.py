"""Which kernels of a file are cut, and where: what each way costs, and the choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.graph import mask_of
from awn_keras.model import AnyWidthModel
from awn_keras.multi_width import MultiWidthModel
from awn_keras.rules import CallSize, Flow, Graded, PerWidth, WidthRule, rule_of

LAYOUTS = ("auto", "dense", "triangular")
_DEFAULT_WIDTHS = 4


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
            raise ArgumentError(
                f"A layer of {inputs} input and {outputs} output channels does not end "
                f"where a block does. Received: ends={self.ends}"
            )
        return Cut(tuple(ends), self.readout)


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
    def flattened(self) -> bool:
        """Whether the layer reads all positions as one, after a Flatten."""
        return self.readout and len(self.in_shape) > len(self.out_shape)

    @property
    def area(self) -> int:
        """Number of positions that an output reads."""
        if self.flattened:
            return math.prod(self.in_shape)
        return math.prod(getattr(self.layer, "kernel_size", (1,)))

    @property
    def unit_macs(self) -> int:
        """Multiply-accumulates for one input channel and one output channel."""
        macs = (rule_of(self.layer) or WidthRule()).macs
        if self.flattened or macs is None:
            return self.area
        size = CallSize(
            self.layer.name,
            input_shape=(None, *self.in_shape, 1),
            output_shape=(None, *self.out_shape, 1),
            inputs=1,
            outputs=1,
        )
        return macs(self.layer, size)

    def channels(self, width: float) -> tuple[int, int]:
        """Active input and output channels at a width."""
        return int((self.in_grades <= width).sum()), int(
            (self.out_grades <= width).sum()
        )

    def cut_at(self, widths: Sequence[float], more: Sequence[int] = ()) -> Cut:
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
        blocks: list[tuple[int, int]] = []  # from the last to the first
        for out in sorted(needed.union(more), reverse=True):
            if 0 < out <= max(needed):
                reads = int((self.in_grades <= self.out_grades[out - 1]).sum())
                if out in needed or reads < blocks[-1][0]:
                    blocks.append((reads, out))
        return Cut(tuple(blocks[::-1]))

    def options(self, widths: Sequence[float]) -> list[Cut]:
        """Cuts worth a look: at the widths alone, and with more ends between them."""
        last = self.channels(max(widths))[1]
        options = [self.cut_at(widths)]
        for blocks in () if self.readout else (2, 3, 4, 6, 8):
            # XNNPACK computes 16 outputs at a time.
            more = [16 * round(last * k / blocks / 16) for k in range(1, blocks)]
            options.append(self.cut_at(widths, more))
        return [option for option in dict.fromkeys(options) if len(option.ends) > 1]

    def left_out(self, width: float, option: Cut) -> int:
        """Counts pairs of channels of which a cut leaves out the zeros between them.

        Args:
            width: A width at which one of the blocks ends.
            option: The cut.

        Returns:
            Pairs of an input and an output channel; none for a readout.
        """
        inputs, outputs = self.channels(width)
        if self.readout:
            return 0
        done, start = 0, 0
        for into, out in option.until(inputs, outputs).ends:
            done += into * (out - start)
            start = out
        return inputs * outputs - done


def default_widths(model: MultiWidthModel) -> list[float]:
    """Lists the widths that a file holds unless others are asked for.

    Args:
        model: The model.

    Returns:
        Four widths, evenly spaced from `min_width` to 1, or fewer if some of them run
        the same network; of a grid its own widths, all of them if they are no more.
    """
    networks = model.networks
    even = np.linspace(model.min_width, 1.0, _DEFAULT_WIDTHS)
    # To four digits and up: below the width at which blocks appear there are less.
    rounded = np.minimum(np.ceil(even * 1e4 - 1e-6) / 1e4, 1.0)
    rounded[0] = model.min_width
    levels = networks.level_of(rounded)
    if networks.widths_grid is not None:  # the grid's own widths
        if len(networks.starts) <= _DEFAULT_WIDTHS:
            levels = np.arange(len(networks.starts))
        rounded = networks.starts[levels]
    narrowest = dict(zip(levels.tolist()[::-1], rounded.tolist()[::-1], strict=True))
    return [*(narrowest[level] for level in sorted(narrowest)[:-1]), 1.0]


def candidates(model: MultiWidthModel) -> dict[str, Candidate]:
    """Finds the layers of a model that can be cut.

    Args:
        model: An any-width model. Systems of ordinary convolutions have none: their
            kernels have no zeros.

    Returns:
        By name, Tri layers and readouts whose channels come in the order of their
        grades: after a Concatenate they do not, and such a layer stays whole. So does
        a separable convolution, whose blocks would filter the same inputs again, and a
        layer of unknown rows, cols or steps.
    """
    if not isinstance(model, AnyWidthModel) or any(
        mask_of(x) is not None for node in model.propagation.nodes for x in node.outputs
    ):
        return {}  # masks do not go through blocks
    by_name: dict[str, Candidate] = {}
    refused = set()
    flattened: dict[int, Flow] = {}
    for node in model.propagation.nodes:
        layer, flow = node.operation, model.propagation.flows[id(node)]
        before = flattened.get(id(node.input_tensors[0]))
        rule = rule_of(layer) or WidthRule()
        if rule.flattens:
            before = flow
        if (rule.flattens or rule.inert) and before:
            flattened[id(node.outputs[0])] = before
        if not rule.cuts or not isinstance(flow.inputs[0], Graded):
            continue
        if None in (*flow.input_shapes[0][1:], *flow.output_shape[1:]):
            continue  # what it takes is not known
        readout = isinstance(flow.output, PerWidth)
        source = before if readout and before else flow
        grades = (source.grades()[0], flow.grades()[1])
        # No differences: channels that nothing reads have infinite grades.
        if all(np.all(side[1:] >= side[:-1]) for side in grades):
            shapes = (source.input_shapes[0][1:-1], flow.output_shape[1:-1])
            candidate = Candidate(layer, *grades, *shapes, readout)
            if not _alike(candidate, by_name.setdefault(layer.name, candidate)):
                refused.add(layer.name)
    return {name: each for name, each in by_name.items() if name not in refused}


def _alike(candidate: Candidate, other: Candidate) -> bool:
    """Whether two calls of a layer may be cut in the same way."""
    return np.array_equal(candidate.in_grades, other.in_grades) and (
        candidate.in_shape == other.in_shape
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


def work_of(candidate: Candidate, width: float, option: Cut | None) -> Work:
    """Counts what a layer does at a width, cut or whole.

    Args:
        candidate: The layer.
        width: The width.
        option: Its cut, for this width or a wider one. `None` if whole.
    """
    inputs, outputs = candidate.channels(width)
    whole = Cut(((inputs, outputs),), candidate.readout)
    ends = (option or whole).until(inputs, outputs).ends
    positions = math.prod(candidate.out_shape)
    sources = math.prod(candidate.in_shape)
    area = candidate.area
    unit_macs = candidate.unit_macs
    total = np.zeros(len(Work._fields))
    last = (0, 0)
    for into, out in ends:
        if candidate.readout:
            reads, gives = into - last[0], outputs
        else:
            reads, gives = into, out - last[1]
        padded = 16 * math.ceil(gives / 16)
        total += (1, unit_macs * reads * padded, positions * padded, 0, 0, 0)
        total += (0, 0, 0, area * reads * gives, 0, 0)
        if reads < inputs:
            total += (1, 0, 0, 0, sources, sources * reads)
        last = (into, out)
    if len(ends) > 1 and candidate.readout:  # the sum
        total += (1, 0, positions * outputs * len(ends), 0, 0, 0)
    elif len(ends) > 1:  # joined again
        total += (1, 0, 0, 0, positions * len(ends), positions * outputs)
    return Work(*total)


def adding_pays(
    in_positions: int, out_positions: int, ends: Sequence[int], outputs: int
) -> bool:
    """Whether a row block is faster with a kernel for each block of its inputs.

    Args:
        in_positions: Rows times cols of its input.
        out_positions: Rows times cols of its output.
        ends: Ends of the blocks that it reads, ascending.
        outputs: Its output channels.

    Returns:
        Whether adding the kernels' results takes less time than joining the inputs.
    """
    blocks = len(ends)
    padded = 16 * math.ceil(outputs / 16)
    joined = Work(1, 0, 0, 0, in_positions * blocks, in_positions * ends[-1])
    more = blocks - 1  # so many convolutions and additions
    added = Work(2 * more, 0, 2 * more * out_positions * padded, 0, 0, 0)
    return blocks > 1 and bool(np.dot(added, COSTS) < np.dot(joined, COSTS))


Milliseconds = Callable[[Candidate, float, "Cut | None"], float]


def estimate(candidate: Candidate, width: float, option: Cut | None) -> float:
    """Milliseconds that a layer takes by the cost model; see `work_of`."""
    return float(np.dot(work_of(candidate, width, option), COSTS)) / 1e3


#: By how much longer a file may take to be shorter: 7 % for 10 %. In whole networks
#: cutting costs less than `COSTS` say, which measure a layer alone: less than this.
_TIME_PER_BYTES = 0.7


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
        raise ArgumentError(f"`layout` must be one of {LAYOUTS}. Received: {layout!r}")
    layers = candidates(model)
    if layout == "dense":
        return {}
    if layout == "triangular":
        return {name: layer.cut_at(widths) for name, layer in layers.items()}
    times = [
        sum(estimate(layer, width, None) for layer in layers.values())
        for width in widths
    ]
    widest = max(widths)
    weights = sum(work_of(layer, widest, None).weights for layer in layers.values())

    def cost(layer: Candidate, option: Cut | None) -> float:
        relative = [
            milliseconds(layer, width, option) / time
            for width, time in zip(widths, times, strict=True)
        ]
        if option is None:  # a copy for each width
            held = sum(work_of(layer, width, None).weights for width in widths)
        else:
            held = work_of(layer, widest, option).weights
        return float(np.mean(relative)) + _TIME_PER_BYTES * held / weights

    chosen = {}
    for name, layer in layers.items():
        best = min([None, *layer.options(widths)], key=partial(cost, layer))
        if best is not None:
            chosen[name] = best
    return chosen
