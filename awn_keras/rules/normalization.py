"""Width rules of normalization, and of softmax over positions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from awn_keras.layers import TRI_CLASSES
from awn_keras.layers.base import TriLayer
from awn_keras.layers.normalization import PrefixNormalization
from awn_keras.rules.kinds import CallSize, Kind
from awn_keras.rules.refused import NORMALIZES, SUMS
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    check_channels_last,
    register_width_rule,
)


def _check_axis(call: LayerCall) -> None:
    if call.layer.axis not in (-1, len(call.input_shapes[0]) - 1):
        raise call.error(f"`axis` must be the last. Received: axis={call.layer.axis}")


def _check_last_axis(call: LayerCall) -> None:
    axes, rank = np.ravel(call.layer.axis), len(call.input_shapes[0])
    if (axes % rank).tolist() != [rank - 1]:
        raise call.error(
            "`axis` must be the last, before the readout. GroupNormalization with "
            "`groups=-1` normalizes each channel over its positions. Received: "
            f"axis={axes.tolist()} for an input of shape {call.input_shapes[0]}"
        )


def _prefix(call: LayerCall) -> Kind:
    """Rule of a normalization over channels, or over channels of no larger grade."""
    if not isinstance(call.layer, TriLayer) and not call.converting:
        tri = TRI_CLASSES[type(call.layer)].__name__
        raise call.error(
            "cannot stand before the readout: it normalizes over the channels, which "
            f"come and go with the width. Use {tri}, which normalizes each channel "
            "over the channels that are active whenever it is, or BatchNormalization."
        )
    return call.kinds[0]


def _prefix_macs(layer: Any, size: CallSize) -> Any:
    if not isinstance(layer, PrefixNormalization):
        return size.inputs * 0
    macs = layer.macs(size.inputs)
    return macs * size.output_positions if np.any(macs) else macs


def _check_groups(call: LayerCall) -> None:
    _check_axis(call)
    groups, channels = call.layer.groups, call.input_shapes[0][-1]
    if groups not in (-1, channels):
        raise call.error(
            f"cannot stand before the readout: {NORMALIZES}, or `groups=-1`, which "
            f"normalizes each channel by itself. Received: groups={groups} for "
            f"{channels} channels"
        )


def _check_positions(call: LayerCall, mixes: str) -> None:
    """Checks that a layer normalizes over positions only, not channels or samples."""
    check_channels_last(call)
    axes, rank = call.layer.axis, len(call.input_shapes[0])
    numbers = {axis % rank for axis in np.ravel(axes).tolist()}
    if rank - 1 in numbers:
        raise call.error(
            f"cannot stand before the readout: {mixes}. It can if it acts over "
            "positions only: `axis` must not include the last axis. Received: "
            f"axis={axes} for an input of shape {call.input_shapes[0]}"
        )
    if 0 in numbers:
        raise call.error(f"`axis` must not be the batch axis. Received: axis={axes}")


def _check_unit_normalization(call: LayerCall) -> None:
    _check_positions(call, NORMALIZES)


def _check_softmax(call: LayerCall) -> None:
    _check_positions(call, SUMS)
    masks = keras.tree.flatten(call.node.arguments.kwargs.get("mask"))
    if any(mask is not None and mask.shape[-1] != 1 for mask in masks):
        raise call.error(
            "`mask` must have size 1 on the last axis, and so be the same for all "
            "channels, because channels come and go with the width."
        )


register_width_rule(
    keras.layers.BatchNormalization,
    WidthRule(
        in_axes=dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), 0),
        check=_check_axis,
        shifts=("beta", "moving_mean"),
        importance="gamma",
        tail="one set of batch statistics cannot serve all widths",
    ),
)
register_width_rule(
    keras.layers.GroupNormalization,
    WidthRule(
        in_axes=dict.fromkeys(("gamma", "beta"), 0),
        channels="groups",  # each channel is a group
        check=_check_groups,
        importance="gamma",
    ),
)
for _layer_class, _weights in (
    (keras.layers.LayerNormalization, ("gamma", "beta")),
    (keras.layers.RMSNormalization, ("scale",)),
):
    register_width_rule(
        _layer_class,
        WidthRule(
            _prefix,
            in_axes=dict.fromkeys(_weights, 0),
            check=_check_last_axis,
            triangular=TRI_CLASSES[_layer_class],
            macs=_prefix_macs,
            reads_prefix=True,
            importance=_weights[0],
        ),
    )
register_width_rule(
    keras.layers.UnitNormalization, WidthRule(check=_check_unit_normalization)
)
register_width_rule(keras.layers.Softmax, WidthRule(check=_check_softmax))
