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


def arranged(call: LayerCall) -> Kind:
    """Rule of a layer that keeps all values in their order, in another shape.

    Where an axis of channels takes in positions (Flatten, or `(rows, cols, channels)`
    to `(rows, cols * channels)`), channels are repeated. Where positions are taken out
    of it (the features of a Dense to `(rows, cols, channels)`), the features of all
    positions of a channel come and go together.

    Args:
        call: A call with one input tensor.

    Returns:
        The kind of the output.

    Raises:
        ValueError: If an input channel would be in parts of several output channels,
            or sizes are not known.
    """
    labels, channels = call.labels(), call.output_shape[-1]
    if channels is None:
        raise call.error(
            "rows and cols must be known here. Give the `Input` a full shape, or use "
            "global pooling."
        )
    features = len(labels)
    if channels % features == 0:
        return Labelled(np.tile(labels, channels // features))
    if features % channels == 0 and channels > 1:
        first, *others = labels.reshape(-1, channels)
        for other in others:
            call.channels.join(first, other)
        return Labelled(first)
    reason = (
        "would make one channel of all, which is there at every width, and so would "
        f"all {features} be"
        if channels == 1
        else "must keep the channels as the last axis, or flatten, or make whole "
        "positions of them: the number of channels before must be a multiple of that "
        "after, or the other way round (of a channel shuffle `to_any_width` makes "
        "`keras.ops.take(x, order, axis=-1)`, if it is whole: Reshape, Permute, "
        "Reshape)"
    )
    raise call.error(
        f"{reason}. Put it after the readout, or a Dense or Conv of another size before"
        f" it. Received: a new shape of {call.output_shape} for an input of shape "
        f"{call.input_shapes[0]}"
    )


def _resized_target(layer: Any, flow: Flow, ends: np.ndarray) -> dict[str, Any]:
    *positions, channels = flow.output_shape[1:]
    features = flow.input_shapes[0][-1]
    # As many positions as before, each with what is left of the channels.
    shape = (
        *(-1 if n is None else n for n in positions),
        round(ends[-1]) * channels // features,
    )
    return {"target_shape": shape}


register_width_rule(
    keras.layers.Flatten, WidthRule(arranged, check=check_channels_last, flattens=True)
)
register_width_rule(keras.layers.Reshape, WidthRule(arranged, resize=_resized_target))
