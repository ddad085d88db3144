"""Width rule of EinsumDense, for equations that are those of a dense layer."""

from __future__ import annotations

from typing import Any

import keras

from awn_keras.layers import TriEinsumDense
from awn_keras.layers.einsum import einsum_axes
from awn_keras.rules.kinds import CallSize, Kind
from awn_keras.rules.mixing import mixing
from awn_keras.rules.registry import LayerCall, WidthRule, register_derived_rule


def _is_dense(equation: str) -> bool:
    """Whether an equation is a product of the last axis with a matrix."""
    operands, result = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    into, out = einsum_axes(equation)
    return (
        len(kernel) == 2
        and len(into) == len(out) == 1
        and inputs[-1] == kernel[into[0]]
        and result == inputs[:-1] + kernel[out[0]]
        and len(inputs) > 1
    )


def _other(call: LayerCall) -> Kind:
    raise call.error(
        "before the readout, an EinsumDense must multiply the last axis by a matrix, "
        "as in 'abc,cd->abd'; other equations are not built. Use Dense, "
        "Reshape and MultiHeadAttention. Received: "
        f"equation={call.layer.equation!r}"
    )


def _rule(layer: Any) -> WidthRule:
    if not _is_dense(layer.equation):
        return WidthRule(_other)
    (into,), (out,) = einsum_axes(layer.equation)
    return WidthRule(
        mixing,
        in_axes={"kernel": into},
        out_axes={"kernel": out, "bias": -1},
        channels=_sized,
        stem=True,
        triangular=TriEinsumDense,
        macs=_macs,
    )


def _macs(_: Any, size: CallSize) -> Any:
    # Positions of the output are not known if `output_shape` has `None`.
    return size.input_positions * size.inputs * size.outputs


def _sized(layer: Any, channels: int) -> dict[str, Any]:
    """The arguments of a layer with `channels` output channels."""
    return {"output_shape": (*layer.partial_output_shape[:-1], channels)}


def _of_the_tri_layer(layer: Any) -> WidthRule:
    return _rule(layer).of_the_tri_layer()


register_derived_rule(keras.layers.EinsumDense, _rule)
register_derived_rule(TriEinsumDense, _of_the_tri_layer)
