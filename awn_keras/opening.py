"""Layers made of layers, wrappers and functions, as graphs.

A layer of a user's own that calls other layers hides them from whoever walks the graph,
as a `Lambda` hides what its function does. Called on symbolic tensors, its `call` says
which layers and operations it runs on what.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import UnitSpectralNorm
from awn_keras.errors import UnsupportedError
from awn_keras.graph import (
    any_input_size,
    copy_layer,
    fill,
    graph_nodes,
    is_nested,
    is_stock,
    replay,
)

#: Rows, cols or steps of what a layer and its graph are compared on, if not known.
_UNKNOWN = 8
_SAMPLES = 2
#: Samples that a layer's code is told of, where it asks for `ops.shape(x)[0]`: a prime,
#: so that a number that it divides was made of it.
_BATCH = 1009


def is_block(layer: Any) -> bool:
    """Whether a layer is of a user's own and made of layers, or runs a function."""
    return type(layer) is keras.layers.Lambda or (
        isinstance(layer, keras.Layer)
        and not is_stock(layer)
        and not is_nested(layer)
        and len(_parts(layer)) > 0
    )


def opened(layer: keras.Layer, args: Any, kwargs: dict[str, Any]) -> keras.Model:
    """Makes a functional model of what a layer computes outside training.

    Args:
        layer: A built layer that `is_block`; it is left as it is.
        args: What it is called on: symbolic tensors, or structures of them.
        kwargs: Likewise.

    Returns:
        A model of the tensors in `args` and `kwargs`, in order. It shares the layer's
        parts, of which several may have the same name.

    Raises:
        NotImplementedError: If the layer has weights that none of its parts has, its
            code needs more than symbolic tensors, or what it computes depends on more
            than its inputs.
    """
    title = _title(layer)
    own = {w.path for w in layer.weights}
    own -= {weight.path for part in _parts(layer) for weight in part.weights}
    if own:
        raise UnsupportedError(
            f"{title} is made of layers, and has weights of its own besides: "
            f"{sorted(own)}. Put them into a layer of their own, with a width rule."
        )
    given = keras.tree.map_structure(_input_like, (args, kwargs))
    inputs = [x for x in keras.tree.flatten(given) if isinstance(x, keras.KerasTensor)]
    args, kwargs = given
    if "training" in inspect.signature(layer.call).parameters:
        # Neither: parts learn when the model runs whether it trains.
        kwargs = {**kwargs, "training": None}
    with _own_names(layer), any_input_size(_parts(layer)):
        try:
            outputs = layer.call(*args, **kwargs)
            graph = keras.Model(inputs, outputs, name=layer.name)
            if any(x.shape[0] == _BATCH for x in inputs):
                graph = _of_any_batch(graph, outputs)
        except UnsupportedError as error:
            raise UnsupportedError(f"{title} {error}") from error
        except Exception as error:  # whatever a user's code raises on symbolic tensors
            reason = re.sub(rf"\b{_BATCH}\b", "None", str(error))
            raise UnsupportedError(
                f"{title}: what it does to the channels cannot be seen, since its code "
                f"fails on symbolic tensors ({reason}). Call its layers on the tensors "
                "of the model instead, or write it with `keras.ops`."
            ) from error
    _check_same(layer, graph, args, kwargs)
    return graph


def _title(layer: keras.Layer) -> str:
    return f"Layer '{layer.name}' ({type(layer).__name__})"


def _of_any_batch(graph: keras.Model, outputs: Any) -> keras.Model:
    """Lets a graph of `_BATCH` samples take any number of them.

    Args:
        graph: The graph.
        outputs: Its outputs, in their structure.

    Raises:
        NotImplementedError: If an operation needs to know the number.
    """
    inputs = [
        keras.Input(
            batch_shape=(None if x.shape[0] == _BATCH else x.shape[0], *x.shape[1:]),
            dtype=x.dtype,
            sparse=x.sparse,
        )
        for x in graph.inputs
    ]
    tensors = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
    replay(graph_nodes(graph), tensors, _on_any_batch)
    outputs = keras.tree.map_structure(lambda x: tensors[id(x)], outputs)
    return keras.Model(inputs, outputs, name=graph.name)


def _on_any_batch(node: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a node's operation, which knows `_BATCH` samples, on any number of them."""
    operation = node.operation
    if isinstance(operation, keras.Layer):
        return operation(*args, **kwargs)
    name = type(operation).__name__
    if name == "Reshape" and _of_batch(operation.newshape):
        shape = tuple(node.outputs[0].shape)
        if _of_batch(shape[1:]) or None in shape[1:]:
            raise UnsupportedError(
                "puts samples of a batch on another axis than the first, or makes "
                "tensors of sizes that are not known (give the `Input` a full shape). "
                f"Received: reshape to {_open(operation.newshape)}"
            )
        return keras.ops.reshape(*args, (-1, *shape[1:]))
    arguments = vars(operation), node.arguments.args, node.arguments.kwargs
    for value in keras.tree.flatten(arguments):
        is_tensor = isinstance(value, keras.KerasTensor)
        if not is_tensor and _of_batch([value, *getattr(value, "shape", ())]):
            raise UnsupportedError(
                "needs the number of samples in a batch, which is not known. "
                "Broadcasting, as in `x + token` or `x[:, :1] * 0 + token`, does not. "
                f"Received: the operation `{name}`"
            )
    return operation(*args, **kwargs)


def _of_batch(values: Any) -> bool:
    """Whether one of some numbers was made of the number of samples."""
    numbers = [x for x in values if isinstance(x, int | np.integer) and x > 0]
    return any(number % _BATCH == 0 for number in numbers)


def _open(shape: Any) -> tuple[Any, ...]:
    """A shape as a user knows it, who knows no `_BATCH`."""
    return tuple(None if _of_batch([size]) else size for size in shape)


def with_inputs(model: keras.Model) -> keras.Model | None:
    """Makes a functional model of a subclassed one, which is its only layer.

    Args:
        model: A subclassed model; it is left as it is.

    Returns:
        A functional model. Its inputs are float32, as Keras keeps no dtypes. `None` if
        it was neither called on data nor built, or takes several arguments, of which
        Keras keeps the first one's shape only.
    """
    parameters = inspect.signature(model.call).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None or len(needed) != 1:
        return None
    inputs = _inputs_of(shapes)
    return keras.Model(inputs, model(inputs), name=model.name)


def _inputs_of(shapes: Any, name: str | None = None) -> Any:
    """Inputs of shapes, batch first, or of structures of them, named by their keys."""
    if isinstance(shapes, Mapping):
        return {key: _inputs_of(shape, key) for key, shape in shapes.items()}
    if any(isinstance(shape, Sequence) for shape in shapes):
        return [_inputs_of(shape) for shape in shapes]
    return keras.Input(tuple(shapes)[1:], name=name)


def divides_kernel(layer: Any) -> bool:
    """Whether a layer only divides another one's kernel in training."""
    return type(layer) is keras.layers.SpectralNormalization


def with_constraint(
    wrapper: keras.layers.SpectralNormalization, shape: tuple[Any, ...]
) -> keras.Layer:
    """Makes the layer inside of a wrapper, which a constraint divides.

    Args:
        wrapper: A built layer that `divides_kernel`; it is left as it is.
        shape: Shape of its input, batch first.

    Returns:
        A built layer that computes the same outside training.

    Raises:
        NotImplementedError: If the layer takes no constraint, or has one already.
    """
    inner = wrapper.layer
    names = ("kernel_constraint", "depthwise_constraint", "embeddings_constraint")
    config = inner.get_config()
    name = next((name for name in names if name in config), None)
    if name is None or config[name] is not None:
        reason = "has no" if name is None else "has another"
        raise UnsupportedError(
            f"Layer '{wrapper.name}' (SpectralNormalization of {type(inner).__name__} "
            f"'{inner.name}'): becomes the layer inside with the constraint "
            f"`UnitSpectralNorm()`, but that {reason} constraint of its kernel. Use "
            "the layer inside in its place."
        )
    copy = copy_layer(inner, **{name: UnitSpectralNorm()})
    copy.build(shape)
    fill(copy, inner, inner.get_weights())
    return copy


def _parts(layer: keras.Layer) -> list[keras.Layer]:
    return [part for part in layer._flatten_layers() if part is not layer]


def _input_like(x: Any) -> Any:
    if not isinstance(x, keras.KerasTensor):
        return x
    batch, *sizes = x.shape
    shape = (_BATCH if batch is None else batch, *sizes)
    return keras.Input(batch_shape=shape, dtype=x.dtype, sparse=x.sparse)


@contextmanager
def _own_names(layer: keras.Layer) -> Iterator[None]:
    """Gives the parts of a layer names of their own, and takes their new calls back."""
    parts = _parts(layer)
    before = [(part, part.name, list(part._inbound_nodes)) for part in parts]
    for number, part in enumerate(parts):
        part.name = f"{number}_{part.name}"
    try:
        yield
    finally:
        for part, name, nodes in before:
            part.name, part._inbound_nodes = name, nodes


def _check_same(layer: keras.Layer, graph: keras.Model, args: Any, kwargs: Any) -> None:
    """Compares a layer with its graph: its code may do what a graph does not show."""
    rng = np.random.default_rng(0)
    title = _title(layer)

    def random(x: Any) -> Any:
        if not isinstance(x, keras.KerasTensor):
            return x
        batch, *sizes = x.shape
        shape = [_SAMPLES if batch == _BATCH else batch]
        shape += [_UNKNOWN if size is None else size for size in sizes]
        values = rng.uniform(0, 2, shape)  # integers: 0 and 1
        return keras.ops.cast(values, x.dtype)

    args, kwargs = keras.tree.map_structure(random, (args, kwargs))
    values = [x for x in keras.tree.flatten((args, kwargs)) if hasattr(x, "shape")]

    def computed() -> list[Any]:
        outputs = keras.tree.flatten(layer(*args, **kwargs))
        return [keras.ops.convert_to_numpy(output) for output in outputs]

    try:
        expected = computed()
        got = keras.tree.flatten(graph(values))
    except Exception as error:  # whatever a backend raises for what it cannot compute
        raise UnsupportedError(
            f"{title}: its code, tried on symbolic tensors, cannot be tried on random "
            f"numbers ({error}). Call its layers on the tensors of the model instead."
        ) from error
    if not _agree(map(keras.ops.convert_to_numpy, got), expected):
        raise UnsupportedError(
            f"{title} computes something else on symbolic tensors than on numbers. "
            "Call its layers on the tensors of the model instead."
        )
    shown = {id(weight) for weight in graph.weights}
    hidden = [w for w in layer.weights if id(w) not in shown and "float" in w.dtype]
    before = [keras.ops.convert_to_numpy(weight) for weight in hidden]
    for weight in hidden:
        weight.assign(rng.uniform(0, 2, weight.shape))
    same = not hidden or _agree(computed(), expected)
    for weight, value in zip(hidden, before, strict=True):
        weight.assign(value)
    if not same:
        raise UnsupportedError(
            f"{title} calls a layer on what is no tensor of the model, such as an "
            "Embedding on constant positions, so that its weights would be constants: "
            f"{sorted(w.path for w in hidden)}. Put them into a layer of their own "
            "that is called on a tensor of the model, with a width rule."
        )


def _agree(got: Iterable[np.ndarray], wanted: Iterable[np.ndarray]) -> bool:
    """Whether arrays are the same but for operations that are fused in another way."""
    return all(
        np.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(got, wanted, strict=True)
    )
