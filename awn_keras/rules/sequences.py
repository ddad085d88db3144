"""MACs of layers that have no width rule, such as RNN with cells and spectrograms.

Such layers stand where no channels come and go, so only their cost must be known.
Products with kernels count, and in attention the products of queries, keys and values.
Operations on single values do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras

from awn_keras.errors import UnsupportedError
from awn_keras.rules.kinds import CallSize
from awn_keras.rules.registry import count_by, count_operations_by, traits_of

_L = keras.layers
_GATES = {_L.LSTMCell: 4, _L.GRUCell: 3, _L.SimpleRNNCell: 1}


def _unknown(layer: Any, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"Cannot count the MACs of layer '{layer.name}' ({type(layer).__name__}): "
        f"{reason}."
    )


# ----------------------------------------------------------------------- recurrent


def _recurrent_macs(layer: Any, size: CallSize) -> Any:
    """Each step multiplies its features and the state by the kernels of all gates."""
    cells = getattr(layer.cell, "cells", [layer.cell])
    features, macs = size.inputs, 0
    for cell in cells:
        gates = next((n for kind, n in _GATES.items() if isinstance(cell, kind)), None)
        if gates is None:
            raise _unknown(layer, f"its cell is a {type(cell).__name__}")
        macs += gates * (features + cell.units) * cell.units
        features = cell.units
    return size.input_positions * macs


def _recurrent_convolution_macs(layer: Any, size: CallSize) -> Any:
    """The kernels of four gates read the image of the step and the state."""
    steps, *_ = size.known(size.input_shape)[1:]
    sequences = getattr(layer, "return_sequences", False)
    positions = math.prod(size.known(size.output_shape)[2 if sequences else 1 : -1])
    window = math.prod(layer.kernel_size)
    gates = 4 * layer.filters
    return steps * positions * window * (size.inputs + layer.filters) * gates


def _spectrogram_macs(layer: Any, size: CallSize) -> Any:
    """Each frame of each channel is multiplied by real and imaginary waves."""
    if layer.data_format != "channels_last":
        raise _unknown(layer, f"its `data_format` is '{layer.data_format}'")
    frames = size.known(size.output_shape)[1]
    waves = sum(math.prod(weight.shape) for weight in layer.weights)
    return frames * size.inputs * waves


def _inner_macs(layer: Any, inner: Any, size: CallSize) -> Any:
    macs = traits_of(inner).macs
    if macs is None and not any("kernel" in w.name for w in inner.weights):
        return 0
    if macs is None:
        raise _unknown(layer, f"it wraps a {type(inner).__name__}")
    return macs(inner, size)


def _bidirectional_macs(layer: Any, size: CallSize) -> Any:
    return sum(
        _inner_macs(
            layer, inner, replace(size, outputs=getattr(inner, "units", size.outputs))
        )
        for inner in (layer.forward_layer, layer.backward_layer)
    )


def _each_step_macs(layer: Any, size: CallSize) -> Any:
    steps = size.known(size.input_shape)[1]
    step = CallSize(
        layer.layer.name,
        (None, *size.input_shape[2:]),
        (None, *size.output_shape[2:]),
        size.inputs,
        size.outputs,
    )
    return steps * _inner_macs(layer, layer.layer, step)


def _normalized_kernel_macs(layer: Any, size: CallSize) -> Any:
    # The wrapper normalizes the kernel only in training.
    return _inner_macs(layer, layer.layer, size)


# ----------------------------------------------------------------------- attention


def _attention_macs(
    size: CallSize,
    shapes: Sequence[tuple[Any, ...]],
    kernels: tuple[Any, Any, Any, Any],
    scores: Any,
    context: Any,
    axes: Sequence[int],
) -> Any:
    """Counts projections, scores, and sums of values weighted by scores.

    Args:
        size: Size of the call.
        shapes: Shapes of query, value and key.
        kernels: Numbers of weights of the kernels that read a position of the query,
            of the value, of the key, and of the result.
        scores: MACs for the score of two positions, over all heads.
        context: MACs for a score times the channels of a value, over all heads.
        axes: Axes along which positions attend to each other.
    """
    query, value, key = (size.known(shape)[:-1] for shape in shapes)
    targets, sources, keys = (math.prod(x[1:]) for x in (query, value, key))
    of_query, of_value, of_key, of_result = kernels
    pairs = targets * math.prod(value[axis] for axis in axes)
    return (
        targets * (of_query + of_result)
        + sources * of_value
        + keys * of_key
        + pairs * (scores + context)
    )


def _query_value_key(layer: Any, size: CallSize) -> list[tuple[Any, ...]]:
    named = size.named_shapes
    if "query" not in named or "value" not in named:
        raise _unknown(layer, "its arguments `query` and `value` cannot be told apart")
    return [named["query"], named["value"], named.get("key", named["value"])]


def _of_inputs(size: CallSize, shapes: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Active channels of query, value and key. If they come and go, they are equal."""
    query = shapes[0][-1]
    return [size.inputs if shape[-1] == query else shape[-1] for shape in shapes]


def heads_macs(layer: Any, size: CallSize) -> Any:
    """MACs of a `MultiHeadAttention`; see `WidthRule`."""
    shapes = _query_value_key(layer, size)
    query, value, key = _of_inputs(size, shapes)
    config = layer.get_config()
    heads = config["num_heads"] if size.inner is None else size.inner
    of_keys = heads * config["key_dim"]
    of_values = heads * (config["value_dim"] or config["key_dim"])
    gate = of_values * query if config.get("use_gate") else 0
    kernels = (
        of_keys * query + gate,
        of_values * value,
        of_keys * key,
        of_values * size.outputs,
    )
    rank = len(shapes[0])
    given = config["attention_axes"] or range(1, rank - 1)
    axes = [axis % rank for axis in given]
    return _attention_macs(size, shapes, kernels, of_keys, of_values, axes)


def grouped_heads_macs(layer: Any, size: CallSize) -> Any:
    """MACs of a `GroupQueryAttention`; see `WidthRule`."""
    shapes = _query_value_key(layer, size)
    query, value, key = _of_inputs(size, shapes)
    groups = layer.num_key_value_heads if size.inner is None else size.inner
    repeats = layer.num_query_heads // layer.num_key_value_heads
    others = groups * layer.head_dim
    queries = others * repeats
    gate = queries * query if getattr(layer, "use_gate", False) else 0
    kernels = (
        queries * query + gate,
        others * value,
        others * key,
        queries * size.outputs,
    )
    return _attention_macs(size, shapes, kernels, queries, queries, [1])


def _plain_attention_macs(layer: Any, size: CallSize) -> Any:
    query, value, *key = size.input_shapes[:3]
    shapes = [query, value, *(key or [value])]
    return _attention_macs(size, shapes, (0, 0, 0, 0), query[-1], value[-1], [1])


# ---------------------------------------------------------------------- contractions


def _einsum_macs(layer: Any, size: CallSize) -> int:
    """The product of the sizes of all indices in the equation."""
    operands, result = layer.equation.replace(" ", "").split("->")
    labels, kernel = operands.split(",")
    shape = (1, *size.known(size.input_shape)[1:])  # one sample
    left, dots, right = labels.partition("...")
    more = math.prod(shape[len(left) : len(shape) - len(right)]) if dots else 1
    of_input = dict(
        zip(
            left + right,
            (*shape[: len(left)], *shape[len(shape) - len(right) :]),
            strict=True,
        )
    )
    of_kernel = dict(zip(kernel.replace("...", ""), layer.kernel.shape, strict=True))
    # An index of only one operand that is not in the result is summed beforehand.
    shared = (set(of_input) & set(of_kernel)) | set(result)
    sizes = {**of_input, **of_kernel}
    return more * math.prod(n for label, n in sizes.items() if label in shared)


def _dot_macs(layer: Any, size: CallSize) -> int:
    first = size.known(size.input_shapes[0])
    axes = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    # Each output is a sum over the contracted axis.
    return math.prod(size.known(size.output_shape)[1:]) * first[axes]


def _matmul_macs(operation: Any, size: CallSize) -> int:
    first = size.named_shapes.get("x1")
    if first is None or first[-1] is None:
        raise _unknown(operation, "the length of its rows is not known")
    return math.prod(size.known(size.output_shape)[1:]) * first[-1]


count_by(_recurrent_macs, _L.RNN)
count_by(_spectrogram_macs, _L.STFTSpectrogram)
count_by(_recurrent_convolution_macs, _L.ConvLSTM1D, _L.ConvLSTM2D, _L.ConvLSTM3D)
count_by(_bidirectional_macs, _L.Bidirectional)
count_by(_each_step_macs, _L.TimeDistributed)
count_by(_normalized_kernel_macs, _L.SpectralNormalization)
count_by(heads_macs, _L.MultiHeadAttention)
count_by(grouped_heads_macs, _L.GroupQueryAttention)
count_by(_plain_attention_macs, _L.Attention, _L.AdditiveAttention)
count_by(_einsum_macs, _L.EinsumDense)
count_by(_dot_macs, _L.Dot)
count_operations_by(_matmul_macs, "Matmul")
count_operations_by(
    None,
    "Conv ConvTranspose Dot DotProductAttention Einsum Inner "
    "SeparableConv Tensordot Vdot",
)
