"""Layers that run a layer of another class inside."""

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
    """A call of the layer inside of a TimeDistributed, at each of its steps."""

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
            "what is inside would become a Tri layer, or change its number of "
            "channels, which only a layer by itself can. Use the inner layer in its "
            "place: Dense treats each step alone; of Conv1D and Conv2D do so Conv2D "
            "and Conv3D, with a kernel of size 1 along the steps"
        )
    if inner.reads_prefix:
        raise step.error(
            "what is inside would become a Tri layer, which only a layer by itself "
            "can. Use the inner layer in its place: it treats each step alone"
        )
    if inner.channels is not None or inner.resize is not None:
        raise step.error(
            "what is inside has another size at each width, which a TimeDistributed "
            "cannot follow. Put it after the readout, or leave it out"
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
        check=accepts_all,  # the inner rule has its own
        macs=None,  # counted as where it has no rule: see `sequences`
        channels=None,
        resize=None,
        triangular=None,
        cuts=False,
        flattens=False,
        shifts=(),
        no_operator=partial(_no_operator, inner),
    )


register_derived_rule(keras.layers.TimeDistributed, _of_each_step)
