"""Widens measured ranges that would give an int8 file that LiteRT cannot run.

A layer can give 0 for all representative samples, as after a ReLU. Then its measured
range is a point, and LiteRT cannot run the file (see `check_scales` of `operators`).
This happens most often at narrow widths, where a layer has few channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from awn_keras.deploy.joining import pack
from awn_keras.deploy.operators import LAYERS, SCALE_LIMIT, kinds_of

# Widened ranges keep half of the distance to a limit, because the converter rounds.
_MARGIN = 2
# A kernel has 127 steps on each side of 0.
_KERNEL_STEPS = 127
# LiteRT's HARD_SWISH takes an output with steps down to 1/128 of the input's steps.
_HARD_SWISH_LIMIT = 128
# Measured ranges of points are [0, 1.2e-38]. Ranges below 2e-6 become 2e-6 in the file.
_POINT = 1e-30
# Operators that move values, or choose among values. The converter gives their outputs
# and inputs the same range: the range of the output.
_SAME_RANGE = {
    *("AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "CONCATENATION"),
    *("DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER", "GATHER_ND", "MAXIMUM", "MAX_POOL_2D"),
    *("MINIMUM", "MIRROR_PAD", "PACK", "PAD", "PADV2", "REDUCE_MAX", "REDUCE_MIN"),
    *("RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    *("REVERSE_V2", "SELECT", "SELECT_V2", "SLICE", "SPACE_TO_BATCH_ND"),
    *("SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE"),
    *("TRANSPOSE", "UNPACK"),
}


def widen_ranges(content: bytes) -> bytes:
    """Widens ranges of activations that are too narrow for LiteRT.

    The range of a convolution or a dense layer is widened only if its steps are more
    than 128 times finer than the steps of the products that the layer sums. So the
    layer loses no precision. A range that is a point becomes as wide as the layer's
    products. Then the layer can also compute samples that are unlike the representative
    samples.

    Args:
        content: A TFLite file of floats with the ranges that the converter has
            measured, before the converter turns floats into integers.

    Returns:
        The file with the widened ranges.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    kinds = kinds_of(code.builtinCode for code in model.operatorCodes)
    changed = False
    for graph in model.subgraphs:
        ranges = _Ranges(graph.tensors, model.buffers)
        # Operators are in the order of computation, so a range that is widened can
        # widen the ranges after it.
        for operator in graph.operators or ():
            kind = kinds[operator.opcodeIndex]
            inputs, outputs = operator.inputs.tolist(), operator.outputs.tolist()
            changed |= ranges.widen(kind, inputs, outputs)
    return pack(model) if changed else content


class _Ranges:
    """The ranges of the activations of a graph.

    Args:
        tensors: The tensors of the graph, LiteRT's `TensorT`.
        buffers: The constants of the file, LiteRT's `BufferT`.
    """

    def __init__(self, tensors: Sequence[Any], buffers: Sequence[Any]) -> None:
        self._tensors = tensors
        self._buffers = buffers
        self._least: dict[int, float] = {}

    def widen(self, kind: str, inputs: Sequence[int], outputs: Sequence[int]) -> bool:
        """Widens the outputs of an operator. Returns whether a range changed."""
        least, instead_of_point = self._needed(kind, inputs)
        changed = [self._widen(index, least, instead_of_point) for index in outputs]
        return any(changed)

    def _needed(self, kind: str, inputs: Sequence[int]) -> tuple[float, float]:
        """Returns the least width of an output, and its width if it is a point."""
        if kind in LAYERS:
            x, kernel = (inputs[place] for place in LAYERS[kind])
            products = self._width(x) * self._largest(kernel)
            return products / _KERNEL_STEPS * _MARGIN / SCALE_LIMIT, products
        # Other operators get a point if they read the zeros of a layer. Then the next
        # layer has the same problem.
        widest = max(map(self._width, inputs), default=0.0)
        if kind == "HARD_SWISH":
            return widest * _MARGIN / _HARD_SWISH_LIMIT, widest
        if kind in _SAME_RANGE:
            return max(self._least.get(index, 0.0) for index in inputs), widest
        return 0.0, widest

    def _widen(self, index: int, least: float, instead_of_point: float) -> bool:
        limits = self._limits(index)
        if limits is None:
            return False
        self._least[index] = least
        low, high = limits
        width = high - low
        if width < _POINT:
            wide = (0.0, instead_of_point)
        elif width < least:
            wide = (low * least / width, high * least / width)
        else:
            return False
        quantization = self._tensors[index].quantization
        quantization.min, quantization.max = ([end] for end in wide)
        return True

    def _limits(self, index: int) -> tuple[float, float] | None:
        """The range of an activation, with 0 inside; `None` if it was not measured."""
        quantization = self._tensors[index].quantization if index >= 0 else None
        ends = () if quantization is None else (quantization.min, quantization.max)
        if not ends or any(end is None or len(end) != 1 for end in ends):
            return None
        return min(0.0, float(ends[0][0])), max(0.0, float(ends[1][0]))

    def _width(self, index: int) -> float:
        low, high = self._limits(index) or (0.0, 0.0)
        return high - low

    def _largest(self, kernel: int) -> float:
        """The largest absolute value of a kernel."""
        data = self._buffers[self._tensors[kernel].buffer].data
        if data is None:  # a kernel that the graph computes
            return self._width(kernel)
        return float(np.abs(np.frombuffer(bytes(data), np.float32)).max(initial=0))
