"""The scale of a model's inputs: pixels, or normalized numbers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from awn_keras.graph import graph_nodes

_SCALING = (keras.layers.Rescaling, keras.layers.Normalization)
#: Operations that a model may use to scale its inputs, instead of such a layer.
_ARITHMETIC = {"Add", "Divide", "Multiply", "Subtract", "TrueDivide"}


def scales_inputs(model: keras.Model) -> bool:
    """Checks whether a model scales its inputs itself.

    Args:
        model: A functional model.

    Returns:
        Whether there is a `Rescaling`, `Normalization`, `BatchNormalization` or
        arithmetic between the inputs and the first layer with weights.
    """
    reached = {id(x) for x in model.inputs}
    scaling = (*_SCALING, keras.layers.BatchNormalization)
    for node in graph_nodes(model):
        if not any(id(x) in reached for x in node.input_tensors):
            continue
        operation = node.operation
        if isinstance(operation, scaling) or type(operation).__name__ in _ARITHMETIC:
            return True
        if not getattr(operation, "weights", []):
            reached |= {id(x) for x in node.outputs}
    return False


def random_inputs(model: keras.Model, count: int) -> list[np.ndarray]:
    """Draws inputs that are standard normal at the first kernels of a model.

    Args:
        model: A functional model.
        count: Number of samples.

    Returns:
        For each input of the model an array `(count, ...)`, float64. Every call returns
        the same numbers.
    """
    rng = np.random.default_rng(0)
    return [
        _before(model, x, rng.normal(size=(count, *x.shape[1:]))) for x in model.inputs
    ]


def _before(model: keras.Model, tensor: Any, values: np.ndarray) -> np.ndarray:
    """Inputs that the scaling layers turn into `values`."""
    layers = []
    for node in graph_nodes(model):
        if node.input_tensors[0] is tensor and isinstance(node.operation, _SCALING):
            layers.append(node.operation)
            tensor = node.outputs[0]
    for layer in reversed(layers):
        if isinstance(layer, keras.layers.Rescaling):
            values = (values - np.asarray(layer.offset)) / np.asarray(layer.scale)
            continue
        mean, variance = map(keras.ops.convert_to_numpy, (layer.mean, layer.variance))
        deviation = np.sqrt(variance)
        if layer.invert:
            values = (values - mean) / np.maximum(deviation, keras.config.epsilon())
        else:
            values = values * deviation + mean
    return values
