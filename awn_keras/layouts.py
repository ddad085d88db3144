"""Chooses which kernels of a file are cut and where, by the cost of each choice."""

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
    """The blocks into which a layer's kernel is cut.

    Args:
        ends: For each block, ascending, the numbers of input and output channels before
            its end. A block of a Tri layer computes the outputs from the end of the
            previous block to its own end, and reads all inputs up to its own end. A
            block of a readout reads the inputs from the end of the previous block to
            its own end, and adds to all outputs.
        readout: Whether the layer is a readout.
    """

    ends: tuple[tuple[int, int], ...]
    readout: bool = False

    def until(self, inputs: int, outputs: int) -> Cut:
        """Returns the cut of the layer in a narrower network.

        Args:
            inputs: Input channels of the layer in the narrower network.
            outputs: Output channels of the layer in the narrower network.

        Returns:
            A cut with the first blocks.

        Raises:
            ValueError: If no block ends at the end of the layer.
        """
        side = 0 if self.readout else 1
        size = (inputs, outputs)[side]
        ends = [end for end in self.ends if end[side] <= size]
        if not ends or ends[-1][side] != size:
            raise ArgumentError(
                f"A block must end at the end of the layer: {inputs} input and "
                f"{outputs} output channels. Received: ends={self.ends}"
            )
        return Cut(tuple(ends), self.readout)


@dataclass(frozen=True)
class Candidate:
    """A layer that can be cut.

    Args:
        layer: The layer.
        in_grades: Grades of the input channels, ascending. If a Flatten comes first,
            those before the Flatten.
        out_grades: Grades of the output channels, ascending; 0 for a readout.
        in_shape: Rows and cols of the input. If a Flatten comes first, those before the
            Flatten.
        out_shape: Rows and cols of the output.
        readout: Whether the layer is a readout.
    """

    layer: Any
    in_grades: np.ndarray
    out_grades: np.ndarray
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    readout: bool

    @property
    def flattened(self) -> bool:
        """Whether the layer is a readout after a Flatten, and reads all positions."""
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
        """Makes a cut of the kernel.

        Args:
            widths: Widths at which a block must end.
            more: Numbers of output channels after which further blocks may end. A block
                that would read as many inputs as the next block is not made.

        Returns:
            The cut, with at least one block.
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
        """Cuts to compare: at the widths only, and with further ends between them."""
        last = self.channels(max(widths))[1]
        options = [self.cut_at(widths)]
        for blocks in () if self.readout else (2, 3, 4, 6, 8):
            # XNNPACK computes 16 outputs at a time, so other sizes would waste work.
            more = [16 * round(last * k / blocks / 16) for k in range(1, blocks)]
            options.append(self.cut_at(widths, more))
        return [option for option in dict.fromkeys(options) if len(option.ends) > 1]

    def left_out(self, width: float, option: Cut) -> int:
        """Counts the zeros that a cut leaves out.

        Args:
            width: A width at which a block ends.
            option: The cut.

        Returns:
            Number of pairs of an input and an output channel whose kernel entries are
            left out; 0 for a readout.
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
    """Lists the widths of an exported file for which the user names no widths.

    Args:
        model: The model.

    Returns:
        Four widths, evenly spaced from `min_width` to 1, or fewer if some of them run
        the same network. For a model with `widths_grid`: all grid widths if there are
        at most four networks, otherwise the grid widths of the networks at the four
        widths.
    """
    networks = model.networks
    even = np.linspace(model.min_width, 1.0, _DEFAULT_WIDTHS)
    # Round up to four digits: just below a width, its last blocks are not active yet.
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
        model: An any-width model. A model of `awn_keras.baselines` has no such layers,
            because its kernels have no zeros.

    Returns:
        A dict from names to Tri layers and readouts whose channels are in the order of
        their grades. Other layers stay whole: layers whose channels are in another
        order (as after a Concatenate), separable convolutions (whose blocks would
        filter their inputs several times), and layers of unknown rows, cols or steps.
    """
    if not isinstance(model, AnyWidthModel) or any(
        mask_of(x) is not None for node in model.propagation.nodes for x in node.outputs
    ):
        return {}  # blocks do not pass Keras masks on
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
            continue  # the cost cannot be computed
        readout = isinstance(flow.output, PerWidth)
        source = before if readout and before else flow
        grades = (source.grades()[0], flow.grades()[1])
        # Compare, do not subtract: channels that nothing reads have infinite grades.
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
    """Counts of a layer's work, or the microseconds that each unit takes.

    XNNPACK computes 16 outputs at a time, so outputs are rounded up to multiples of 16.

    Args:
        operators: Number of operators.
        macs: Multiply-accumulates, with rounded outputs.
        outputs: Computed values, with rounded outputs.
        weights: Number of weights that are read.
        pieces: Number of contiguous runs of memory that are copied to cut or join
            tensors.
        copied: Number of copied values.
    """

    operators: float
    macs: float
    outputs: float
    weights: float
    pieces: float
    copied: float


#: Microseconds for each unit of work on one thread, fitted by `benchmarks/layouts.py`
#: (stored in results/layouts.json). Only their ratios matter for the choice of cuts.
COSTS = Work(1.72, 2.15e-05, 0.00045, 0.000122, 0.00297, 0.000188)


def work_of(candidate: Candidate, width: float, option: Cut | None) -> Work:
    """Counts the work of a layer at a width, cut or whole.

    Args:
        candidate: The layer.
        width: The width.
        option: Cut of the layer, for `width` or a wider width. `None` if whole.
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
        padded = 16 * math.ceil(gives / 16)  # XNNPACK computes 16 outputs at a time
        total += (1, unit_macs * reads * padded, positions * padded, 0, 0, 0)
        total += (0, 0, 0, area * reads * gives, 0, 0)
        if reads < inputs:
            total += (1, 0, 0, 0, sources, sources * reads)
        last = (into, out)
    # The blocks of a readout are added. Other blocks are joined along the channels.
    if len(ends) > 1 and candidate.readout:
        total += (1, 0, positions * outputs * len(ends), 0, 0, 0)
    elif len(ends) > 1:
        total += (1, 0, 0, 0, positions * len(ends), positions * outputs)
    return Work(*total)


def adding_pays(
    in_positions: int, out_positions: int, ends: Sequence[int], outputs: int
) -> bool:
    """Whether a block is faster with a separate kernel for each block of its inputs.

    Args:
        in_positions: Rows times cols of the input.
        out_positions: Rows times cols of the output.
        ends: Ends of the input blocks, ascending.
        outputs: Output channels of the block.

    Returns:
        Whether adding the results of several kernels takes less time than joining the
        inputs first.
    """
    blocks = len(ends)
    padded = 16 * math.ceil(outputs / 16)
    joined = Work(1, 0, 0, 0, in_positions * blocks, in_positions * ends[-1])
    more = blocks - 1  # further convolutions, and as many additions
    added = Work(2 * more, 0, 2 * more * out_positions * padded, 0, 0, 0)
    return blocks > 1 and bool(np.dot(added, COSTS) < np.dot(joined, COSTS))


Milliseconds = Callable[[Candidate, float, "Cut | None"], float]


def estimate(candidate: Candidate, width: float, option: Cut | None) -> float:
    """Estimates the milliseconds of a layer by the cost model; see `work_of`."""
    return float(np.dot(work_of(candidate, width, option), COSTS)) / 1e3


#: How much latency to trade for size: a 10 % smaller file may be up to 7 % slower. The
#: trade is smaller in practice: `COSTS` were measured on single layers, and cutting
#: costs less than that in whole networks.
_TIME_PER_BYTES = 0.7


def choose_cuts(
    model: MultiWidthModel,
    widths: Sequence[float],
    layout: str = "auto",
    milliseconds: Milliseconds = estimate,
) -> dict[str, Cut]:
    """Chooses the kernels of a file that are cut, and their cuts.

    Args:
        model: The model.
        widths: Widths of the file.
        layout: `"dense"` cuts no kernel. `"triangular"` cuts all kernels that can be
            cut, at the widths. `"auto"` cuts the kernels that are faster when cut, each
            with its fastest cut; a smaller file also counts.
        milliseconds: For `"auto"`: a function `milliseconds(candidate, width, cut)`
            that returns the time of a layer in ms. `cut=None` is the whole layer.

    Returns:
        A dict from layer names to cuts. Layers that are not in it stay whole.

    Raises:
        ValueError: If `layout` is not one of these.
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
        if option is None:  # the file holds a copy of the kernel for each width
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
