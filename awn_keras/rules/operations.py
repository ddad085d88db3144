"""Functions of `keras.ops`, such as the `+` between tensors."""

from __future__ import annotations

import keras
import numpy as np

from awn_keras.rules.kinds import Kind
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    merge,
    per_sample,
    register_operations,
)


def _element_wise(call: LayerCall) -> Kind:
    constants = [
        value
        for value in keras.tree.flatten(
            (call.node.arguments.args, call.node.arguments.kwargs)
        )
        if not isinstance(value, keras.KerasTensor) and np.ndim(value)
    ]
    if constants:
        raise call.error("an array cannot follow the channels; use a layer.")
    return merge(call)


def _reduction(call: LayerCall) -> Kind:
    """A mean or maximum over positions."""
    axes, rank = call.layer.axis, len(call.input_shapes[0])
    if axes is None or any(axis % rank in (0, rank - 1) for axis in np.ravel(axes)):
        raise call.error(
            f"`axis` must name neither batch nor channels. Received: axis={axes}"
        )
    return call.kinds[0]


register_operations("Add Subtract", WidthRule(_element_wise, alike=True))
register_operations(
    "Absolute Clip Divide Exp Elu Gelu HardSigmoid HardSilu LeakyRelu Maximum "
    "Minimum Multiply Negative ReLU Relu Relu6 Sigmoid Silu Softplus Sqrt Square "
    "Tanh TrueDivide",
    WidthRule(_element_wise),
)
register_operations("LogSoftmax Softmax", WidthRule(per_sample))
register_operations("Max Mean", WidthRule(_reduction))
