"""The nodes of a functional Keras model, in order, and how to run them again.

A node is one call of one operation (a layer, or a function of `keras.ops`). This is
the only module that reads Keras' graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras


def graph_nodes(model: keras.Model) -> list[Any]:
    """Lists the calls that make up a functional model, inputs left out.

    Args:
        model: A functional or built Sequential model.

    Returns:
        Keras nodes, each after those that it depends on. A node has `operation`,
        `arguments`, `input_tensors` and `outputs`.

    Raises:
        TypeError: If the model has no graph (it is subclassed, or not built).
    """
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs)
    by_depth = getattr(model, "_nodes_by_depth", None)
    if by_depth is None:
        raise TypeError(
            f"`model` must be a functional model, or a Sequential one that is built. "
            f"Received: '{model.name}' ({type(model).__name__})"
        )
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def replay(
    nodes: Iterable[Any],
    tensors: dict[int, Any],
    call: Callable[..., Any] = lambda operation, *args, **kwargs: operation(
        *args, **kwargs
    ),
) -> None:
    """Runs nodes on other tensors.

    Args:
        nodes: Nodes in order, as `graph_nodes` gives them.
        tensors: Maps `id` of a tensor of the old graph to its new value; the nodes'
            outputs are added.
        call: `call(operation, *args, **kwargs)`, to run something else than the
            node's own operation.
    """
    for node in nodes:
        args, kwargs = node.arguments.fill_in(tensors)
        outputs = keras.tree.flatten(call(node.operation, *args, **kwargs))
        for old, new in zip(node.outputs, outputs, strict=True):
            tensors[id(old)] = new
