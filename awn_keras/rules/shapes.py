"""Layers that arrange positions and channels anew."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from awn_keras.rules.kinds import Flow, Kind, Labelled
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    check_channels_last,
    register_width_rule,
)


def tiled(call: LayerCall) -> Kind:
    """Rule of a layer that flattens: all channels of one position after the other."""
    features = call.output_shape[-1]
    if features is None:
        raise call.error(
            "rows and cols must be known here. Give the `Input` a full shape, or use "
            "global pooling."
        )
    labels = call.labels()
    return Labelled(np.tile(labels, features // len(labels)))


def _reshape(call: LayerCall) -> Kind:
    if call.output_shape[-1] == call.input_shapes[0][-1]:
        return call.kinds[0]
    if len(call.output_shape) == 2:
        return tiled(call)
    raise call.error(
        "must keep the channels as the last axis, or flatten (a channel shuffle does "
        f"neither). Received: target_shape={call.layer.target_shape} for an input of "
        f"shape {call.input_shapes[0]}"
    )


def _resized_target(layer: Any, flow: Flow, inputs: int) -> dict[str, Any]:
    old = flow.output_shape[1:]
    if old[-1] != flow.input_shapes[0][-1]:
        return {"target_shape": (-1,)}  # it flattens
    return {"target_shape": (*(-1 if n is None else n for n in old[:-1]), inputs)}


register_width_rule(
    keras.layers.Flatten, WidthRule(tiled, check=check_channels_last, flattens=True)
)
register_width_rule(keras.layers.Reshape, WidthRule(_reshape, resize=_resized_target))
