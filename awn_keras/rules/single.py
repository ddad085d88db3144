"""Width rules of layers that treat each channel separately, such as pooling."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np

from awn_keras.rules.registry import LayerCall, WidthRule, register_width_rule

_L = keras.layers


def _check_dropout(call: LayerCall) -> None:
    shape = call.layer.noise_shape
    if shape is not None and shape[-1] not in (None, 1):
        raise call.error(
            "the last entry of `noise_shape` must be None or 1, because channels come "
            "and go with the width. "
            f"Received: noise_shape={shape}"
        )


def _check_rescaling(call: LayerCall) -> None:
    if np.ndim(call.layer.scale) or np.ndim(call.layer.offset):
        raise call.error(
            "`scale` and `offset` must be numbers, because channels come and go with "
            "the width."
        )


def _check_permute(call: LayerCall) -> None:
    if call.layer.dims[-1] != len(call.layer.dims):
        raise call.error(
            "must keep the channels last. For a channel shuffle use "
            "`keras.ops.take(x, order, axis=-1)`, or Reshape, Permute, Reshape, which "
            f"`to_any_width` replaces by it. Received: dims={call.layer.dims}"
        )


def _no_windows(layer: Any) -> str | None:
    if len(getattr(layer, "pool_size", getattr(layer, "output_size", ()))) < 3:
        return None
    return (
        "windows of steps, rows and cols. Use Conv3D with `strides`, pooling of rows "
        "and cols by `TimeDistributed`, or GlobalAveragePooling3D"
    )


_LAYERS = "Activation ELU LeakyReLU ReLU RepeatVector Resizing"
_LAYERS_OF_DIMENSIONS = "GlobalMaxPooling UpSampling"
_ALIKE = "Cropping GlobalAveragePooling ZeroPadding"
_IN_TRAINING_ONLY = (
    "ActivityRegularization AlphaDropout GaussianDropout GaussianNoise Identity "
    "SpatialDropout1D SpatialDropout2D SpatialDropout3D"
)
for _name in _LAYERS.split():
    register_width_rule(getattr(_L, _name))
for _dimensions in ("1D", "2D", "3D"):
    for _name in _LAYERS_OF_DIMENSIONS.split():
        register_width_rule(getattr(_L, _name + _dimensions))
    for _name in _ALIKE.split():
        register_width_rule(getattr(_L, _name + _dimensions), WidthRule(alike=True))
    for _name in ("AdaptiveMaxPooling", "MaxPooling"):
        register_width_rule(
            getattr(_L, _name + _dimensions), WidthRule(no_operator=_no_windows)
        )
    for _name in ("AdaptiveAveragePooling", "AveragePooling"):
        register_width_rule(
            getattr(_L, _name + _dimensions),
            WidthRule(alike=True, no_operator=_no_windows),
        )
for _name in _IN_TRAINING_ONLY.split():
    register_width_rule(getattr(_L, _name), WidthRule(inert=True, alike=True))
register_width_rule(_L.CenterCrop, WidthRule(alike=True))
register_width_rule(_L.Dropout, WidthRule(check=_check_dropout, inert=True, alike=True))
register_width_rule(_L.Rescaling, WidthRule(check=_check_rescaling))
register_width_rule(_L.Permute, WidthRule(check=_check_permute))
# ConvNeXt's own layers, which `keras.applications` does not export.
_CONVNEXT = sys.modules[keras.applications.ConvNeXtTiny.__module__]
register_width_rule(
    _CONVNEXT.LayerScale,
    WidthRule(in_axes={"variable": 0}, channels="projection_dim"),
)
register_width_rule(_CONVNEXT.StochasticDepth, WidthRule(inert=True, alike=True))
register_width_rule(_L.PReLU, WidthRule(in_axes={"alpha": -1}))
