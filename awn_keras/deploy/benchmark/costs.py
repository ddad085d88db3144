"""Counts the costs of a TFLite file's signatures from the file, without a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from awn_keras.deploy.litert import TFLiteFile
from awn_keras.deploy.operators import kinds_of


@dataclass(frozen=True)
class Costs:
    """The costs of one run of a signature on one sample.

    Args:
        macs: Multiply-accumulates (MACs) of convolutions, dense layers and products of
            activations, counted on the operators in the file. Zeros that the cut of a
            kernel leaves out do not count. `None` if the signature has operators that
            cannot be counted, such as loops.
        parameters: Elements of the constants that the signature reads.
        constant_bytes: Bytes of the constants that the signature reads. Signatures
            share constants, so the sum over signatures exceeds the bytes in the file.
        activation_bytes: Largest number of bytes of activations that must be in memory
            at the same time, if operators run in the order of the file and no operator
            works in place. An interpreter may need more.
        operators: Number of operators.
    """

    macs: int | None
    parameters: int
    constant_bytes: int
    activation_bytes: int
    operators: int


def costs_of(content: bytes | TFLiteFile, file: str = "content") -> dict[str, Costs]:
    """Counts the costs of each signature in a TFLite file.

    Args:
        content: The file's content, or the open file. All shapes must be fixed.
        file: Name of the file in errors.

    Returns:
        Costs by name of the signature.

    Raises:
        ValueError: If `content` is not a TFLite file, or has no signatures.
    """
    opened = TFLiteFile.of(content, file)
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(opened.content, 0))
    # Old converters fill only the one-byte field `deprecatedBuiltinCode`.
    kinds = kinds_of(
        max(code.builtinCode, code.deprecatedBuiltinCode)
        for code in model.operatorCodes
    )
    return {
        definition.signatureKey.decode(): _Graph(
            model, definition.subgraphIndex, kinds
        ).costs()
        for definition in model.signatureDefs
    }


class _Graph:
    """One subgraph of a file."""

    def __init__(self, model: Any, index: int, kinds: list[str]) -> None:
        self._model, self._kinds = model, kinds
        self._graph = model.subgraphs[index]

    def costs(self) -> Costs:
        graph = self._graph
        constants = {
            index
            for index, tensor in enumerate(graph.tensors)
            if self._data(tensor) is not None
        }
        # Equal constants, such as biases of zeros, share a buffer and count once.
        stored = {graph.tensors[index].buffer: index for index in constants}.values()
        return Costs(
            macs=self._all_macs(),
            parameters=sum(map(self._size, stored)),
            constant_bytes=sum(len(self._data(graph.tensors[i])) for i in stored),
            activation_bytes=self._activation_bytes(constants),
            operators=len(graph.operators),
        )

    def _data(self, tensor: Any) -> Any:
        """The data of a constant; `None` for a tensor that is computed."""
        data = self._model.buffers[tensor.buffer].data
        return data if data is not None and len(data) else None

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self._graph.tensors[index].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def _size(self, index: int) -> int:
        return math.prod(self._shape(index))

    def _activation_bytes(self, constants: set[int]) -> int:
        graph = self._graph
        last = {int(index): len(graph.operators) for index in graph.outputs}
        first = {int(index): -1 for index in graph.inputs}
        for position, operator in enumerate(graph.operators):
            for index in map(int, operator.inputs):
                last[index] = max(last.get(index, -1), position)
            for index in map(int, operator.outputs):
                first.setdefault(index, position)
        changes = np.zeros(len(graph.operators) + 2, np.int64)
        for index, position in first.items():
            if index >= 0 and index not in constants:
                size = self._size(index) * _item_size(graph.tensors[index].type)
                changes[position + 1] += size
                if last.get(index, position) < len(graph.operators):
                    changes[last.get(index, position) + 2] -= size
        return int(np.cumsum(changes).max())

    def _all_macs(self) -> int | None:
        counts = [self._macs(operator) for operator in self._graph.operators]
        return None if None in counts else sum(count or 0 for count in counts)

    def _macs(self, operator: Any) -> int | None:
        kind = self._kinds[operator.opcodeIndex]
        if kind in _UNCOUNTED:
            return None
        count = _MACS.get(kind)
        if count is None:
            return 0
        return count(
            [self._shape(int(i)) for i in operator.inputs if i >= 0],
            [self._shape(int(i)) for i in operator.outputs],
        )


Shapes = list[tuple[int, ...]]

#: Functions that compute the MACs from the shapes of inputs and outputs. A kernel is
#: (out, rows, cols, in); the kernel of a depthwise convolution is (1, rows, cols, out).
_MACS: dict[str, Callable[[Shapes, Shapes], int]] = {
    "CONV_2D": lambda x, y: math.prod(y[0]) * math.prod(x[1][1:]),
    "DEPTHWISE_CONV_2D": lambda x, y: math.prod(y[0]) * math.prod(x[1][1:3]),
    # Inputs are (output shape, kernel, input, bias). Each input element adds to
    # rows x cols x out outputs.
    "TRANSPOSE_CONV": lambda x, y: math.prod(x[2][:-1]) * math.prod(x[1]),
    "FULLY_CONNECTED": lambda x, y: math.prod(x[0]) * x[1][0],
    # The result is (..., rows, cols). Which axis of the first factor gives the rows
    # depends on a flag of the operator; the other axis is summed over.
    "BATCH_MATMUL": lambda x, y: math.prod(y[0]) * math.prod(x[0][-2:]) // y[0][-2],
    "CONV_3D": lambda x, y: math.prod(y[0]) * math.prod(x[1][:4]),
}


#: Loops, because the file does not have the number of iterations, and operators of old
#: converters.
_UNCOUNTED = {
    *("WHILE", "IF", "CALL", "CUSTOM", "RNN", "LSTM", "SVDF", "CONV_3D_TRANSPOSE"),
    *("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN"),
    *("BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN"),
}


def _item_size(kind: int) -> int:
    """Bytes of an element of a tensor of type `kind`."""
    from ai_edge_litert import schema_py_generated as schema

    sizes = {
        **dict.fromkeys(("INT8", "UINT8", "BOOL"), 1),
        **dict.fromkeys(("INT16", "UINT16", "FLOAT16"), 2),
        **dict.fromkeys(("INT64", "UINT64", "FLOAT64", "COMPLEX64"), 8),
    }
    by_kind = {getattr(schema.TensorType, name): size for name, size in sizes.items()}
    return by_kind.get(kind, 4)
