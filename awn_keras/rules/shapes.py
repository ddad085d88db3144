"""Width rules of layers that change the shape of positions and channels."""

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

    If positions move into the axis of channels (Flatten, or `(rows, cols, channels)` to
    `(rows, cols * channels)`), the labels of channels repeat. If positions move out of
    the axis (the features of a Dense to `(rows, cols, channels)`), all features that
    become one channel come and go together.

    Args:
        call: A call with one input tensor.

    Returns:
        The kind of the output.

    Raises:
        ValueError: If an output channel would hold parts of several input channels, or
            if sizes are not known.
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
        f"would make one channel of all {features}. Then all of them would have to be "
        "active at every width"
        if channels == 1
        else "must keep the channels as the last axis, or flatten, or make whole "
        "positions of them: the old number of channels must be a multiple of the new "
        "number, or the reverse (`to_any_width` turns a complete channel shuffle of "
        "Reshape, Permute, Reshape into `keras.ops.take(x, order, axis=-1)`)"
    )
    raise call.error(
        f"{reason}. Put it after the readout, or a Dense or Conv of another size before"
        f" it. Received: a new shape of {call.output_shape} for an input of shape "
        f"{call.input_shapes[0]}"
    )


def _resized_target(layer: Any, flow: Flow, ends: np.ndarray) -> dict[str, Any]:
    *positions, channels = flow.output_shape[1:]
    features = flow.input_shapes[0][-1]
    # The number of positions stays; the number of channels changes in proportion.
    shape = (
        *(-1 if n is None else n for n in positions),
        round(ends[-1]) * channels // features,
    )
    return {"target_shape": shape}


register_width_rule(
    keras.layers.Flatten, WidthRule(arranged, check=check_channels_last, flattens=True)
)
register_width_rule(keras.layers.Reshape, WidthRule(arranged, resize=_resized_target))
