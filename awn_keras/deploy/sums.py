"""Sums that Keras on TensorFlow mistakes for a bias in a batch of one sample."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import keras

from awn_keras.graph import graph_nodes, is_nested, is_stock, rebuild

Shape = tuple[int | None, ...]


def with_plain_sums(model: keras.Model) -> keras.Model:
    """Replaces sums that Keras would compute wrongly in a batch of one sample.

    `keras.ops.add(x, y)` calls `tf.nn.bias_add` if only one axis of `y` is longer than
    1. A TFLite file has a batch of one sample. There, Keras mistakes a tensor `y` of
    shape `(1, steps, 1)` for a bias. A bias of the last axis gives wrong numbers; on a
    bias of axis 1 TFLite's converter fails.

    Args:
        model: A functional or Sequential model. It does not change.

    Returns:
        `model` itself if it has no such sum. Otherwise a functional model of the same
        layers, with a new layer in place of each such sum. The new model runs only on
        TensorFlow.
    """
    if not _is_misread(model):
        return model
    # The new model has no name, because a nested model may be called twice, and Keras
    # wants names to be unique.
    return keras.Model(*rebuild(model, _call))


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
    total = _Sum(autocast=False)(summands)
    is_mean = type(operation).__name__ == "Average"
    return keras.ops.divide(total, len(summands)) if is_mean else total


class _Sum(keras.layers.Layer):
    """Adds with TensorFlow's own operator, which treats no summand as a bias.

    Differences, `x - (0 - y)`, would need no layer. But after reshapes, TensorFlow's
    graph optimizer turns such a difference into the wrong `x - y`.
    """

    def call(self, summands: list[Any]) -> Any:
        return reduce(operator.add, summands)


def _adds_as_bias(operation: Any, summands: list[Any]) -> bool:
    """Whether an operation is a sum in which Keras mistakes a summand for a bias."""
    if type(operation).__name__ not in ("Add", "Average") or not is_stock(operation):
        return False
    # Keras mistakes a summand with a known batch size, such as a constant, in the model
    # as well. The file must compute what the model computes.
    shapes = [getattr(x, "shape", ()) for x in summands]
    if any(not shape or shape[0] is not None for shape in shapes):
        return False
    total: Shape = (1, *shapes[0][1:])
    for shape in shapes[1:]:
        summand = (1, *shape[1:])
        if len(summand) != len(total):  # Keras reshapes summands of unequal rank first
            return False
        if _is_misread_bias(total, summand):
            return True
        pairs = zip(total, summand, strict=True)
        total = tuple(theirs if size == 1 else size for size, theirs in pairs)
    return False


def _is_misread_bias(total: Shape, summand: Shape) -> bool:
    """Whether `keras.ops.add` adds to the wrong axis, or adds a bias of axis 1."""
    longer = [axis for axis, size in enumerate(summand) if size != 1]
    if len(longer) != 1 or summand[longer[0]] is None:
        return False
    size, last = summand[longer[0]], len(total) - 1
    if longer[0] == last and total[last] == size:
        return False  # here the bias of the last axis is the correct sum
    return size in (total[1], total[last])
