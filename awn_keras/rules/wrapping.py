"""Width rules of layers that wrap another layer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import keras

from awn_keras.errors import ArgumentError
from awn_keras.rules.kinds import Kind, Labelled
from awn_keras.rules.mixing import mixing
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    accepts_all,
    register_derived_rule,
    rule_of,
)


class _StepCall(LayerCall):
    """The call of a TimeDistributed's inner layer at a single step."""

    @property
    def layer(self) -> Any:
        return self.node.operation.layer

    @property
    def input_shapes(self) -> list[tuple[Any, ...]]:
        return [(shape[0], *shape[2:]) for shape in super().input_shapes]

    @property
    def output_shape(self) -> tuple[Any, ...]:
        batch, _, *rest = super().output_shape
        return (batch, *rest)

    def error(self, reason: str) -> ArgumentError:
        outer = self.node.operation
        return ArgumentError(
            f"Layer '{outer.name}' ({type(outer).__name__} of "
            f"{type(self.layer).__name__} '{self.layer.name}'): {reason}"
        )


def _each_step(inner: WidthRule, call: LayerCall) -> Kind | list[Kind]:
    step = _StepCall(**vars(call))
    if inner.stem:
        if isinstance(call.kinds[0], Labelled) and not call.as_tri:
            return mixing(step)  # a readout
        raise step.error(
            "the inner layer would become a Tri layer, or change its number of "
            "channels, which a wrapped layer cannot. Use the inner layer in its place: "
            "Dense treats each step separately. In place of Conv1D and Conv2D use "
            "Conv2D and Conv3D, with a kernel of size 1 along the steps"
        )
    if inner.reads_prefix:
        raise step.error(
            "the inner layer would become a Tri layer, which a wrapped layer cannot. "
            "Use the inner layer in its place: it treats each step separately"
        )
    if inner.channels is not None or inner.resize is not None:
        raise step.error(
            "the inner layer has another size at each width, but a TimeDistributed "
            "cannot change its size. Put the layer after the readout, or leave it out"
        )
    return inner.output(step)


def _no_operator(inner: WidthRule, layer: Any) -> str | None:
    return None if inner.no_operator is None else inner.no_operator(layer.layer)


def _of_each_step(layer: Any) -> WidthRule | None:
    inner = rule_of(layer.layer)
    if inner is None or inner.recurs:
        return None
    return replace(
        inner,
        kind=partial(_each_step, inner),
        check=accepts_all,  # `inner.output` runs the check of the inner rule
        macs=None,  # `sequences` counts the MACs
        channels=None,
        resize=None,
        triangular=None,
        cuts=False,
        flattens=False,
        shifts=(),
        no_operator=partial(_no_operator, inner),
    )


register_derived_rule(keras.layers.TimeDistributed, _of_each_step)
