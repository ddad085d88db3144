"""Reads the operators of a TFLite file, and checks those that LiteRT cannot compute."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Any

import numpy as np

from awn_keras.errors import ArgumentError

#: Requantization scales of convolutions and dense layers must be below this number; see
#: `check_scales`.
SCALE_LIMIT = 256
#: The operators with this limit, and the places of input and kernel among their inputs.
LAYERS = {
    "CONV_2D": (0, 1),
    "DEPTHWISE_CONV_2D": (0, 1),
    "FULLY_CONNECTED": (0, 1),
    "TRANSPOSE_CONV": (2, 1),
}


def kinds_of(codes: Iterable[int]) -> list[str]:
    """Returns the names of operators, such as `"CONV_2D"`.

    Args:
        codes: The numbers of builtin operators in the schema of TFLite.

    Returns:
        A name for each number; an empty name for a number that LiteRT does not know.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if not name.startswith("_")
    }
    return [names.get(code, "") for code in codes]


def check_scales(content: bytes | mmap.mmap, name: str) -> None:
    """Checks that LiteRT can run the convolutions and dense layers of an int8 file.

    Such an operator sums products of integers, and rounds the sum to an integer of the
    output. The factor is the *requantization scale*: the step of the products divided
    by the step of the output. XNNPACK, with which LiteRT runs files on CPUs, takes no
    scale of 256 or more. Without the check, LiteRT would fail with an error that names
    no operator. If the file also has an activation such as swish, LiteRT 2.3.0 would
    even end the process, because it frees a lookup table twice (google/XNNPACK, pull
    request 9935, mends a double free of this kind).

    Args:
        content: Content of a TFLite file that LiteRT has opened, so it is well-formed.
        name: Name of the file for errors.

    Raises:
        ValueError: If a requantization scale is 256 or more.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    codes = map(model.OperatorCodes, range(model.OperatorCodesLength()))
    kinds = kinds_of(code.BuiltinCode() for code in codes)
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for number in range(graph.OperatorsLength()):
            operator = graph.Operators(number)
            kind = kinds[operator.OpcodeIndex()]
            if kind not in LAYERS:
                continue
            scale = _requantization_scale(graph, operator, LAYERS[kind])
            if scale >= SCALE_LIMIT:
                raise ArgumentError(
                    f"'{name}' cannot run on CPUs: operator {number} ({kind}) rounds "
                    f"integers by the factor {scale:.3g}, and LiteRT's XNNPACK takes "
                    f"factors below {SCALE_LIMIT}. The range of the operator's output "
                    "is too narrow. Most often the output was 0 for all representative "
                    "samples. Export the model again, with representative samples that "
                    "look like training data."
                )


def _requantization_scale(graph: Any, operator: Any, places: tuple[int, int]) -> float:
    """The largest scale of an operator's channels; 0 for an operator of floats."""
    if operator.InputsLength() <= max(places) or not operator.OutputsLength():
        return 0.0  # LiteRT says what is wrong
    indices = [*map(operator.Inputs, places), operator.Outputs(0)]
    if not all(0 <= index < graph.TensorsLength() for index in indices):
        return 0.0
    quantizations = [graph.Tensors(index).Quantization() for index in indices]
    if any(entry is None or not entry.ScaleLength() for entry in quantizations):
        return 0.0
    x, kernel, output = (entry.ScaleAsNumpy() for entry in quantizations)
    # A scale of 0 stands for a tensor of floats.
    return float(np.max(x) * np.max(kernel) / np.min(output)) if np.all(output) else 0.0
