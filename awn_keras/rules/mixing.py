"""Width rules of layers that mix channels, and of depthwise layers.

A convolution in groups mixes channels within each group, and all groups become narrower
together. With one input channel per group, the convolution is depthwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from awn_keras.layers import TRI_CLASSES
from awn_keras.layers.base import (
    PLAIN,
    SEPARABLE,
    TRANSPOSED,
    KernelAxes,
    TriangularKernel,
)
from awn_keras.rules.kinds import CallSize, ChannelAxis, Kind, Labelled, PerWidth
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    check_activation,
    check_channels_last,
    check_mixes_no_samples,
    layers_with_a_tri_layer,
    register_derived_rule,
    register_width_rule,
    rule_of,
    rule_of_class,
)


def mixing(call: LayerCall) -> Kind:
    """Rule of a plain layer that mixes channels, such as Conv and Dense.

    On a Fixed tensor, the layer is a stem. On channels that come and go, the layer is a
    readout, or becomes a Tri layer.

    Args:
        call: A call with one input tensor.

    Returns:
        The kind of the layer's new channels, or `PerWidth` of a readout.

    Raises:
        ValueError: If the layer must become a Tri layer but has none, or if its
            activation mixes channels.
    """
    if isinstance(call.kinds[0], Labelled) and not call.as_tri:
        check_mixes_no_samples(call)
        return PerWidth(call.layer.name)
    check_activation(call)
    rule = rule_of(call.layer)
    if isinstance(call.kinds[0], Labelled) and (rule is None or not rule.triangular):
        raise call.error(
            "there is no Tri layer for it, and between the stem and the readout only "
            f"these can mix channels: {', '.join(layers_with_a_tri_layer())}."
        )
    return call.new_channels(call.output_shape[-1])


def depthwise(call: LayerCall) -> Kind:
    """Rule of a layer that makes one or more output channels of each input channel."""
    check_activation(call)
    labels = call.labels()
    # Output channel t * multiplier + m reads only input channel t.
    return Labelled(np.repeat(labels, call.output_shape[-1] // len(labels)))


def in_groups(
    groups: int, kind: Callable[[LayerCall], Kind | list[Kind]], call: LayerCall
) -> Kind | list[Kind]:
    """Rule of a layer in groups: the k-th channels of all groups come and go together.

    Args:
        groups: Number of groups.
        kind: The rule of the layer without groups.
        call: A call with one input tensor.

    Returns:
        The result of `kind`.

    Raises:
        ValueError: See `kind`; if a Tri layer has groups of one channel.
    """
    if isinstance(call.layer, TriangularKernel) and call.layer.kernel.shape[-2] == 1:
        stock = call.layer.stock_class.__name__
        raise call.error(
            "a group of one channel has no triangle. Use a plain "
            f"`keras.layers.{stock}` with as many groups in its place."
        )
    outputs = kind(call)
    for each in (call.kinds[0], outputs):
        if isinstance(each, Labelled):
            first, *others = each.labels.reshape(groups, -1)
            for other in others:
                call.channels.join(first, other)
    return outputs


# ------------------------------------------------------------ multiply-accumulates


def _window(layer: Any) -> int:
    return math.prod(getattr(layer, "kernel_size", (1,)))


def convolution_macs(layer: Any, size: CallSize) -> Any:
    """MACs of a layer that computes each output position from a window of inputs.

    The window of a Dense has size 1.
    """
    inputs = size.inputs // getattr(layer, "groups", 1)
    return size.output_positions * _window(layer) * inputs * size.outputs


def _transposed_macs(layer: Any, size: CallSize) -> Any:
    # A transposed convolution adds each input position to a window of outputs.
    return size.input_positions * _window(layer) * size.inputs * size.outputs


def _depthwise_macs(layer: Any, size: CallSize) -> Any:
    return size.output_positions * _window(layer) * size.outputs


def _separable_macs(layer: Any, size: CallSize) -> Any:
    between = size.inputs * layer.depth_multiplier
    return size.output_positions * (_window(layer) * between + between * size.outputs)


# ------------------------------------------------------------------------- classes


def _register(
    layer_class: type[keras.Layer],
    kernels: Mapping[str, KernelAxes],
    macs: Callable[[Any, CallSize], Any],
    *,
    channels: str = "filters",
    cuts: bool = True,
    filters: Mapping[str, int] | None = None,
    no_operator: Callable[[Any], str | None] | None = None,
) -> None:
    triangular = TRI_CLASSES.get(layer_class)
    rule = WidthRule(
        mixing,
        in_axes={
            **(filters or {}),
            **{name: axes.inputs for name, axes in kernels.items()},
        },
        out_axes={
            **{name: axes.outputs for name, axes in kernels.items()},
            "bias": 0,
        },
        channels=channels,
        stem=True,
        check=check_channels_last,
        triangular=triangular,
        macs=macs,
        cuts=cuts and triangular is not None,
        no_operator=no_operator,
    )
    register_width_rule(layer_class, rule)


def _no_dilation(layer: Any) -> str | None:
    if max(layer.dilation_rate) == 1:
        return None
    return "its `dilation_rate` above 1. Use a larger kernel, or `strides`"


_L = keras.layers
for _layer_class in (_L.Conv1D, _L.Conv2D):
    _register(_layer_class, PLAIN, convolution_macs)
_register(_L.Conv3D, PLAIN, convolution_macs, no_operator=_no_dilation)
for _layer_class in (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose):
    _register(_layer_class, TRANSPOSED, _transposed_macs, no_operator=_no_dilation)
for _layer_class in (_L.SeparableConv1D, _L.SeparableConv2D):
    _register(
        _layer_class,
        SEPARABLE,
        _separable_macs,
        cuts=False,  # each block would repeat the depthwise convolution of its inputs
        filters={"depthwise_kernel": -2},
    )
_register(_L.Dense, PLAIN, convolution_macs, channels="units")
_DEPTHWISE = WidthRule(
    depthwise,
    in_axes={"kernel": -2},
    out_axes={"bias": 0},
    check=check_channels_last,
    macs=_depthwise_macs,
    apart=True,
)
for _layer_class in (_L.DepthwiseConv1D, _L.DepthwiseConv2D):
    register_width_rule(_layer_class, _DEPTHWISE)
#: Rule of a convolution whose groups have one input channel, with a kernel
#: `(..., 1, filters)`.
_IN_GROUPS_OF_ONE = replace(
    _DEPTHWISE,
    in_axes={},
    out_axes={"kernel": -1, "bias": 0},
    channels=lambda layer, count: {
        "filters": count,
        "groups": count * layer.groups // layer.filters,
    },
)


def _rule_in_groups(layer: Any) -> WidthRule | None:
    if layer.groups == 1 or not layer.built:
        return None
    if layer.kernel.shape[-2] == 1 and not isinstance(layer, TriangularKernel):
        rule = _IN_GROUPS_OF_ONE
    else:
        rule = rule_of_class(type(layer))
        kind = partial(in_groups, layer.groups, rule.kind)
        # A kernel has the input channels of one group, and all groups have equal
        # grades.
        in_axes = {
            name: ChannelAxis(axes.inputs, copies=layer.groups)
            for name, axes in PLAIN.items()
        }
        rule = replace(rule, kind=kind, in_axes=in_axes, cuts=False)
    return replace(rule, no_operator=_no_groups)


def _no_groups(layer: Any) -> str | None:
    if layer.rank < 3:
        return None
    return "its `groups`. Use `TimeDistributed` of a DepthwiseConv2D, or `groups=1`"


for _layer_class in (_L.Conv1D, _L.Conv2D, _L.Conv3D):
    register_derived_rule(_layer_class, _rule_in_groups)
    register_derived_rule(TRI_CLASSES[_layer_class], _rule_in_groups)
