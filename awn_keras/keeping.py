"""Finds layers that a user names: readouts, and layers that stay whole."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import keras

from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.graph import data_tensors, graph_nodes
from awn_keras.propagation import Trace
from awn_keras.rules import Fixed, Labelled, mixes_channels
from awn_keras.stages import Stages, literally


def chosen_readouts(model: keras.Model, names: Sequence[str]) -> set[int]:
    """Finds the layers that the argument `readouts` names.

    Args:
        model: A functional model.
        names: Names of layers.

    Returns:
        `id` of each layer.

    Raises:
        TypeError: If `names` is not a sequence of strings.
        ValueError: If there is no such layer, or if it does not mix channels.
    """
    names = _checked(names, "readouts")
    layers = {node.operation.name: node.operation for node in graph_nodes(model)}
    for name in names:
        if name not in layers:
            raise ArgumentError(
                f"`readouts` must name layers of model '{model.name}'. Received: "
                f"{name!r}. Layers that can be readouts: {', '.join(_mixers(model))}"
            )
        if not mixes_channels(layers[name]):
            raise ArgumentError(
                "`readouts` must name layers that mix channels (Conv, Dense). "
                f"Received: '{name}' ({type(layers[name]).__name__}). Layers that can "
                f"be readouts: {', '.join(_mixers(model))}"
            )
    return {id(layers[name]) for name in names}


def check_chosen(traced: Trace, chosen: set[int]) -> None:
    """Checks that the layers that `readouts` names became readouts.

    Args:
        traced: The channels of the model.
        chosen: `id` of each layer.

    Raises:
        ValueError: If a layer does not read channels that come and go.
    """
    for node in traced.propagation.nodes:
        kind = traced.propagation.flows[id(node)].inputs[0]
        if id(node.operation) in chosen and not isinstance(kind, Labelled):
            where = "after another readout"
            if isinstance(kind, Fixed):
                where = "on a tensor that is the same at every width, like the inputs"
            raise ArgumentError(
                "`readouts` must name layers that read channels which come and go with "
                f"the width. Received: '{node.operation.name}', which is {where}"
            )


def kept_whole(traced: Trace, patterns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Finds the layers whose channels must all be active at every width.

    A channel that is active at every width may read only channels that are active at
    every width. So a layer stays whole only if all layers before it stay whole.

    Args:
        traced: The channels of the model.
        patterns: Patterns of layer names, matched as in a shell: `"block_1_*"`.

    Returns:
        Stages that keep these layers, and all layers before them, whole.

    Raises:
        TypeError: If `patterns` is not a sequence of strings.
        ValueError: If a pattern matches no layer, or if all layers would stay whole.
    """
    patterns = _checked(patterns, "keep_whole")
    nodes = traced.propagation.nodes
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(n.operation.name, pattern) for n in nodes):
            raise ArgumentError(
                "`keep_whole` must match names of layers. Received: "
                f"keep_whole={list(patterns)}, of which {pattern!r} matches none"
            )
    needed: set[int] = set()  # tensors
    kept: set[int] = set()  # layers
    for node in reversed(nodes):
        chosen = any(fnmatch.fnmatchcase(node.operation.name, p) for p in patterns)
        if chosen or any(id(x) in needed for x in node.outputs):
            kept.add(id(node.operation))
            needed.update(id(x) for x in data_tensors(node))
    makers = [layer for layer, _ in traced.makers()]
    if makers and all(id(layer) in kept for layer in makers):
        raise ArgumentError(
            "`keep_whole` must leave layers that become narrower. Received: "
            f"keep_whole={list(patterns)}, which stay whole with all layers before "
            "them"
        )
    return {
        literally(layer.name): {"min_width": 1.0}
        for layer in makers
        if id(layer) in kept
    }


def with_kept(
    traced: Trace, patterns: Sequence[str], stages: Stages | None
) -> Stages | None:
    """Puts the stages of layers that stay whole before the stages of the user."""
    patterns = _checked(patterns, "keep_whole")
    return {**kept_whole(traced, patterns), **(stages or {})} if patterns else stages


def _checked(names: Any, argument: str) -> tuple[str, ...]:
    listed = () if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) for name in listed):
        raise ArgumentTypeError(
            f"`{argument}` must be a list of names of layers. Received: "
            f"{argument}={names!r}"
        )
    return listed


def _mixers(model: keras.Model) -> list[str]:
    nodes = graph_nodes(model)
    return [n.operation.name for n in nodes if mixes_channels(n.operation)]
