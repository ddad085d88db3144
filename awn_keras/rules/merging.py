"""Width rules of layers that join several tensors."""

from __future__ import annotations

import keras
import numpy as np

from awn_keras.rules.kinds import Kind, Labelled
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    merge,
    register_operations,
    register_width_rule,
)


def _concatenate(call: LayerCall) -> Kind:
    rank = len(call.output_shape)
    if call.layer.axis not in (-1, rank - 1):
        return merge(call)
    parts = [
        kind.labels
        if isinstance(kind, Labelled)
        else call.channels.always_on(shape[-1])
        for kind, shape in zip(call.kinds, call.input_shapes, strict=True)
    ]
    return Labelled(np.concatenate(parts))


for _name in ("Maximum", "Minimum", "Multiply"):
    register_width_rule(getattr(keras.layers, _name), WidthRule(merge))
for _name in ("Add", "Average", "Subtract"):
    register_width_rule(getattr(keras.layers, _name), WidthRule(merge, alike=True))
register_width_rule(keras.layers.Concatenate, WidthRule(_concatenate))
register_operations("Concatenate", WidthRule(_concatenate))
