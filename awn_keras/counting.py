"""What a width costs: multiply-accumulates and weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, UnsupportedError
from awn_keras.graph import graph_nodes
from awn_keras.layers.base import TriangularKernel
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
from awn_keras.slices import active_slices, channel_axis, weights_of
from awn_keras.widths import check_width


def count_macs(model: keras.Model, width: float | None = None) -> int:
    """Counts multiply-accumulate operations for one sample.

    Counted are convolutions and dense layers, as the dense kernels of a slimmed model
    run them; a multiplication by a zero of the triangle counts. Bias, normalization
    (folded into a convolution on devices), activations and pooling do not.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.
        width: Width in [min_width, 1]. `None` for 1.

    Returns:
        The number of MACs.

    Raises:
        ValueError: If the width is out of range, or the model's spatial sizes are not
            known.
        NotImplementedError: If the model has a layer with kernels of another kind
            (recurrent, attention), which cannot be counted.
    """
    return int(macs_at(model, _one_width(model, width))[0])


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
    width = check_width(width, model.min_width)
    masked = 0
    for use in layer_uses(model):
        if isinstance(use.layer, TriangularKernel):
            slices = active_slices(use.layer, use.flows[0], width)
            masks = use.layer.masks
            for weight, index in zip(use.layer.weights, slices, strict=True):
                if weight.name in masks:
                    allowed = np.broadcast_to(masks[weight.name], weight.shape)
                    masked += int(np.count_nonzero(~allowed[np.ix_(*index)]))
    return count_parameters(model, width) - masked


def _one_width(model: keras.Model, width: float | None) -> list[float]:
    if isinstance(model, MultiWidthModel):
        return [check_width(1.0 if width is None else width, model.min_width)]
    if width not in (None, 1.0):
        raise ArgumentError(
            f"Model '{model.name}' has one width only. Received: width={width}"
        )
    return [1.0]


# --------------------------------------------------------- counting at many widths


def macs_at(model: keras.Model, widths: Sequence[float]) -> np.ndarray:
    """Counts as `count_macs` does, at several widths at once.

    Args:
        model: See `count_macs`.
        widths: Widths `(n,)` that the model has; not checked.

    Returns:
        int64 array `(n,)`.

    Raises:
        ValueError: If the model's spatial sizes are not known.
        NotImplementedError: See `count_macs`.
    """
    total = np.zeros(len(widths), np.int64)
    return sum((use.macs(widths) for use in layer_uses(model)), total)


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
