"""Sums in a batch of one sample, which Keras on TensorFlow takes for a bias."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import keras

from awn_keras.graph import graph_nodes, is_nested, is_stock, rebuild

Shape = tuple[int | None, ...]


def with_plain_sums(model: keras.Model) -> keras.Model:
    """Writes the sums of a model so that one sample is added as a batch is.

    `keras.ops.add(x, y)` calls `tf.nn.bias_add` if only one axis of `y` is longer than
    1. A TFLite file has a batch of one sample: there a tensor `y` of shape
    `(1, steps, 1)` is taken for a bias of the last axis, which gives wrong numbers, or
    for a bias of axis 1, on which TFLite's converter fails.

    Args:
        model: A functional or Sequential model; it is left as it is.

    Returns:
        `model` itself if it has no such sum. Else a functional model of the same
        layers, with another layer in place of each such sum. This model runs on
        TensorFlow.
    """
    if not _is_misread(model):
        return model
    return keras.Model(*rebuild(model, _call), name=model.name)


def _is_misread(model: keras.Model) -> bool:
    return any(
        _is_misread(node.operation)
        if is_nested(node.operation)
        else _adds_as_bias(node.operation, keras.tree.flatten(node.arguments.args))
        for node in graph_nodes(model)
    )


def _call(node: Any, *args: Any, **kwargs: Any) -> Any:
    operation = node.operation
    if is_nested(operation):
        return with_plain_sums(operation)(*args, **kwargs)
    summands = keras.tree.flatten(args)
    if not _adds_as_bias(operation, summands):
        return operation(*args, **kwargs)
    total = _Sum(name=f"{operation.name}_plain", autocast=False)(summands)
    is_mean = type(operation).__name__ == "Average"
    return keras.ops.divide(total, len(summands)) if is_mean else total


class _Sum(keras.layers.Layer):
    """Adds by TensorFlow's own operator, which takes no tensor for a bias.

    Differences, `x - (0 - y)`, would need no layer. But if reshapes come before them,
    TensorFlow's optimizer of graphs makes `x - y` of them.
    """

    def call(self, summands: list[Any]) -> Any:
        return reduce(operator.add, summands)


def _adds_as_bias(operation: Any, summands: list[Any]) -> bool:
    """Whether an operation adds, and Keras would misread one of the summands."""
    if type(operation).__name__ not in ("Add", "Average") or not is_stock(operation):
        return False
    # A summand of a known batch, as a constant, is misread in the model, too. Its file
    # must compute what the model does.
    shapes = [getattr(x, "shape", ()) for x in summands]
    if any(not shape or shape[0] is not None for shape in shapes):
        return False
    total: Shape = (1, *shapes[0][1:])
    for shape in shapes[1:]:
        summand = (1, *shape[1:])
        if len(summand) != len(total):  # Keras reshapes such summands first
            return False
        if _is_misread_bias(total, summand):
            return True
        pairs = zip(total, summand, strict=True)
        total = tuple(theirs if size == 1 else size for size, theirs in pairs)
    return False


def _is_misread_bias(total: Shape, summand: Shape) -> bool:
    """Whether `keras.ops.add` of such shapes adds a bias to another axis, or axis 1."""
    longer = [axis for axis, size in enumerate(summand) if size != 1]
    if len(longer) != 1 or summand[longer[0]] is None:
        return False
    size, last = summand[longer[0]], len(total) - 1
    if longer[0] == last and total[last] == size:
        return False  # a bias of the last axis is just this sum
    return size in (total[1], total[last])
