"""Normalization of each channel by itself."""

from __future__ import annotations

import keras

from awn_keras.rules.registry import LayerCall, WidthRule, register_width_rule


def _check(call: LayerCall) -> None:
    if call.layer.axis not in (-1, len(call.input_shapes[0]) - 1):
        raise call.error(f"`axis` must be the last. Received: axis={call.layer.axis}")


register_width_rule(
    keras.layers.BatchNormalization,
    WidthRule(
        in_axes=dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), 0),
        check=_check,
        shifts=("beta", "moving_mean"),
        importance="gamma",
        tail="one set of batch statistics cannot serve all widths",
    ),
)
