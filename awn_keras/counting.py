"""What a width costs: multiply-accumulates and weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, UnsupportedError
from awn_keras.graph import graph_nodes
from awn_keras.layers.base import TriangularKernel
from awn_keras.layouts import LAYOUTS, Cut, candidates, choose_cuts, default_widths
from awn_keras.multi_width import MultiWidthModel, check_any_width_model
from awn_keras.rules import (
    CallSize,
    Channels,
    Fixed,
    Flow,
    LayerCall,
    WidthRule,
    rule_of,
    traits_of,
)
from awn_keras.slices import channel_axis, weights_of
from awn_keras.widths import check_width, check_widths


def count_macs(
    model: keras.Model,
    width: float | None = None,
    *,
    layout: str = "dense",
    widths: Sequence[float] | None = None,
) -> int:
    """Counts multiply-accumulate operations for one sample.

    Counted are convolutions and dense layers. Bias, normalization (folded into a
    convolution on devices), activations and pooling do not count.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.
        width: Width in [min_width, 1]. `None` for 1.
        layout: `"dense"`: what a slimmed model computes, multiplications by zeros of
            the triangle included. `"auto"` or `"triangular"`: what a file computes that
            `export_tflite` writes with this layout. Models that have no triangles are
            dense at any layout.
        widths: Widths that the file holds, where its kernels are cut; also at `width`,
            if that is another. `None` for those of `export_tflite`.

    Returns:
        The number of MACs.

    Raises:
        ValueError: If a width is out of range, `layout` is none of these, or the
            model's spatial sizes are not known.
        NotImplementedError: If the model has a layer with kernels of another kind
            (recurrent, attention), which cannot be counted.
    """
    if layout not in LAYOUTS:
        raise ArgumentError(f"`layout` must be one of {LAYOUTS}. Received: {layout!r}")
    if widths is not None:
        widths = check_widths(widths, getattr(model, "min_width", 0.0))
        if not widths:
            raise ArgumentError(
                "`widths` must have at least one width. Received: widths=[]"
            )
    return int(macs_at(model, _one_width(model, width), layout, widths)[0])


def count_parameters(model: keras.Model, width: float | None = None) -> int:
    """Counts the weights that a slimmed model has, trainable or not.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.
        width: Width in [min_width, 1]. `None` for 1.

    Returns:
        The number of weights, as `slim(model, width).count_params()` gives it.

    Raises:
        ValueError: If the width is out of range.
    """
    return int(parameters_at(model, _one_width(model, width))[0])


def count_active_parameters(model: MultiWidthModel, width: float) -> int:
    """Counts the weights that act at a width: those that no triangle forbids.

    Args:
        model: An `AnyWidthModel`, or a system of `awn_keras.baselines`.
        width: Width in [min_width, 1].

    Returns:
        `count_parameters` without the zeros of the triangles.

    Raises:
        TypeError: If `model` has one width only.
        ValueError: If the width is out of range.
    """
    check_any_width_model(model)
    return int(active_parameters_at(model, [check_width(width, model.min_width)])[0])


def _one_width(model: keras.Model, width: float | None) -> list[float]:
    if isinstance(model, MultiWidthModel):
        return [check_width(1.0 if width is None else width, model.min_width)]
    if width not in (None, 1.0):
        raise ArgumentError(
            f"Model '{model.name}' has one width only. Received: width={width}"
        )
    return [1.0]


# --------------------------------------------------------- counting at many widths


def macs_at(
    model: keras.Model,
    widths: Sequence[float],
    layout: str = "dense",
    held: Sequence[float] | None = None,
) -> np.ndarray:
    """Counts as `count_macs` does, at several widths at once.

    Args:
        model: See `count_macs`.
        widths: Widths `(n,)` that the model has; not checked.
        layout: See `count_macs`.
        held: Widths that the file holds; see there.

    Returns:
        int64 array `(n,)`.

    Raises:
        ValueError: If the model's spatial sizes are not known.
        NotImplementedError: See `count_macs`.
    """
    total = np.zeros(len(widths), np.int64)
    total = sum((use.macs(widths) for use in layer_uses(model)), total)
    if layout == "dense" or not isinstance(model, MultiWidthModel):
        return total
    held = default_widths(model) if held is None else held
    cuts = choose_cuts(model, held, layout)
    return total - _zeros_left_out(model, widths, held, cuts)


def executed_macs(
    model: MultiWidthModel, widths: Sequence[float], cuts: Mapping[str, Cut]
) -> np.ndarray:
    """Counts what a file computes whose kernels are cut in a known way.

    Args:
        model: The model.
        widths: The widths of the file `(n,)`.
        cuts: Its cuts by layer name, as `choose_cuts` gives them.

    Returns:
        int64 array `(n,)`: multiply-accumulates for one sample.
    """
    return macs_at(model, widths) - _zeros_left_out(model, widths, widths, cuts)


def executed_at_full_width(model: MultiWidthModel) -> tuple[int, int]:
    """Counts what a file that `export_tflite` writes computes and stores at width 1.

    Args:
        model: The model.

    Returns:
        Multiply-accumulates for one sample, and weights.
    """
    held = default_widths(model)
    cuts = choose_cuts(model, held)
    layers = candidates(model)
    weights = sum(
        layers[name].area * layers[name].left_out(1.0, option)
        for name, option in cuts.items()
    )
    macs = int(executed_macs(model, held, cuts)[-1])
    return macs, count_parameters(model) - weights


def _zeros_left_out(
    model: MultiWidthModel,
    widths: Sequence[float],
    held: Sequence[float],
    cuts: Mapping[str, Cut],
) -> np.ndarray:
    total = np.zeros(len(widths), np.int64)
    layers = candidates(model)
    calls = Counter(node.operation.name for node in model.propagation.nodes)
    for name, option in cuts.items():
        layer = layers[name]
        ends = [out for _, out in option.ends]
        zeros = [
            layer.unit_macs * layer.left_out(width, layer.cut_at([*held, width], ends))
            for width in widths
        ]
        total += calls[name] * np.array(zeros, np.int64)
    return total


def parameters_at(model: keras.Model, widths: Sequence[float]) -> np.ndarray:
    """Counts as `count_parameters` does, at several widths at once.

    Args:
        model: See `count_parameters`.
        widths: Widths `(n,)` that the model has; not checked.

    Returns:
        int64 array `(n,)`.
    """
    total = np.zeros(len(widths), np.int64)
    return sum((use.parameters(widths) for use in layer_uses(model)), total)


def active_parameters_at(model: MultiWidthModel, widths: Sequence[float]) -> np.ndarray:
    """Counts as `count_active_parameters` does, at several widths at once.

    Args:
        model: See there.
        widths: Widths `(n,)` that the model has; not checked.

    Returns:
        int64 array `(n,)`.
    """
    total = parameters_at(model, widths)
    for use in layer_uses(model):
        if not isinstance(use.layer, TriangularKernel):
            continue
        rule = rule_of(use.layer) or WidthRule()
        for name, kernel in use.layer.triangular_variables.items():
            forbidden = ~np.broadcast_to(use.layer.masks[name], kernel.shape[-2:])
            counts = []
            for axes, grades in zip(
                (rule.in_axes, rule.out_axes), use.flows[0].grades(), strict=True
            ):
                axis = axes[name] % len(kernel.shape) - len(kernel.shape)
                along = np.repeat(grades, kernel.shape[axis] // len(grades))
                # In the order in which they come.
                forbidden = np.take(forbidden, np.argsort(along, kind="stable"), axis)
                forbidden = forbidden.cumsum(axis)
                counts.append((axis, np.searchsorted(np.sort(along), widths, "right")))
            (_, rows), (_, cols) = sorted(counts)
            zeros = np.pad(forbidden, ((1, 0), (1, 0)))[rows, cols]
            total = total - zeros * math.prod(kernel.shape[:-2])
    return total


@dataclass(frozen=True, eq=False)
class LayerUse:
    """A layer of a model with all its calls, to be counted at several widths.

    Args:
        layer: The layer, or an operation of `keras.ops`.
        flows: What comes in and goes out at each of its calls; at least one.
    """

    layer: Any
    flows: list[Flow]

    def channels(self, widths: Sequence[float]) -> np.ndarray:
        """Active channels of the first call's output, int64 `(widths,)`."""
        return _active_counts(self.flows[0], widths)[1]

    def macs(self, widths: Sequence[float]) -> np.ndarray:
        """MACs of all calls for one sample, int64 `(widths,)`."""
        total = np.zeros(len(widths), np.int64)
        for flow in self.flows:
            total += _macs(self.layer, flow, widths)
        return total

    def parameters(self, widths: Sequence[float]) -> np.ndarray:
        """Weights, those of several calls once, int64 `(widths,)`."""
        flow = self.flows[0]
        rule = rule_of(self.layer) or WidthRule()
        sides = [
            (axes, len(grades), counts)
            for axes, grades, counts in zip(
                (rule.in_axes, rule.out_axes),
                flow.grades(),
                _active_counts(flow, widths),
                strict=True,
            )
        ]
        total = np.zeros(len(widths), np.int64)
        for weight in weights_of(self.layer):
            sizes: list[Any] = list(weight.shape)
            for axes, channels, counts in sides:
                axis, each = channel_axis(weight, axes, channels)
                if axis is not None:
                    sizes[axis] = each * counts
            total += math.prod(sizes)
        return total


def layer_uses(model: keras.Model) -> list[LayerUse]:
    """Lists the layers and operations of a model, each once.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.

    Returns:
        They with their calls, in the order of the first call; inputs left out.

    Raises:
        TypeError: If the model has no graph.
    """
    if isinstance(model, MultiWidthModel):
        flows = model.propagation.flows
        calls = [(node.operation, flows[id(node)]) for node in model.propagation.nodes]
    else:
        calls = _graph_flows(model)
    uses: dict[int, LayerUse] = {}
    for layer, flow in calls:
        uses.setdefault(id(layer), LayerUse(layer, [])).flows.append(flow)
    return list(uses.values())


def _graph_flows(model: keras.Model) -> list[tuple[Any, Flow]]:
    """Lists the calls of a plain functional model with their shapes.

    Args:
        model: A functional model of one width.

    Returns:
        Operation and flow of each call; every kind is Fixed.

    Raises:
        TypeError: If the model has no graph.
    """
    calls = [LayerCall(node, (), Channels()) for node in graph_nodes(model)]
    return [
        (
            call.layer,
            Flow(
                (Fixed(),) * len(call.input_shapes),
                Fixed(),
                call.input_shapes,
                call.output_shape,
            ),
        )
        for call in calls
    ]


def _active_counts(
    flow: Flow, widths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Active channels of the first input and of the output, each `(widths,)`."""
    into, out = (
        np.searchsorted(np.sort(grades), widths, side="right")
        for grades in flow.grades()
    )
    return into, out


def _macs(layer: Any, flow: Flow, widths: Sequence[float]) -> int | np.ndarray:
    """MACs of one call, `(widths,)` or the same at all of them."""
    if isinstance(layer, keras.Model):
        return count_macs(layer)
    if not any("kernel" in weight.name for weight in weights_of(layer)):
        return 0
    macs = traits_of(layer).macs
    if macs is None:
        raise UnsupportedError(
            f"Cannot count the MACs of layer '{layer.name}' ({type(layer).__name__}). "
            "Say how in the `macs` of its `WidthRule`."
        )
    shapes = (flow.input_shapes[0], flow.output_shape)
    return macs(layer, CallSize(layer.name, *shapes, *_active_counts(flow, widths)))
