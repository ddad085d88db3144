"""Opens layers that are made of layers or functions, and gives their graphs.

A user's own layer that calls other layers hides them from a walk over the graph, and a
`Lambda` hides its function. A call on symbolic tensors shows which layers and
operations such a layer runs, and on which tensors.
"""

from __future__ import annotations

import inspect
import re
import textwrap
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

#: Rows, cols or steps, where not known, of the samples on which a layer and its graph
#: are compared.
_UNKNOWN = 8
_SAMPLES = 2
#: The batch size that a layer's code sees in `ops.shape(x)[0]`. It is a prime, so that
#: a number that it divides must come from the batch size.
_BATCH = 1009


def is_block(layer: Any) -> bool:
    """Whether a layer is a user's own and made of layers, or is a `Lambda`."""
    return type(layer) is keras.layers.Lambda or (
        isinstance(layer, keras.Layer)
        and not is_stock(layer)
        and not is_nested(layer)
        and len(_parts(layer)) > 0
    )


def opened(layer: keras.Layer, args: Any, kwargs: dict[str, Any]) -> keras.Model:
    """Makes a functional model that computes what a layer computes outside training.

    Args:
        layer: A built layer for which `is_block` is true. It does not change.
        args: Positional arguments of the call: symbolic tensors, or structures of them.
        kwargs: Keyword arguments of the call.

    Returns:
        A model whose inputs are the tensors in `args` and `kwargs`, in order. It shares
        the inner layers of `layer`, and several of them may have the same name.

    Raises:
        NotImplementedError: If the layer has weights that no inner layer has, if its
            code does not run on symbolic tensors, or if its outputs depend on more than
            its inputs.
    """
    title = _title(layer)
    own = {w.path for w in layer.weights}
    own -= {weight.path for part in _parts(layer) for weight in part.weights}
    if own:
        raise UnsupportedError(
            f"{title} is made of layers, but also has weights of its own: "
            f"{sorted(own)}. Put these weights into a separate layer with a width rule."
        )
    given = keras.tree.map_structure(_input_like, (args, kwargs))
    inputs = [x for x in keras.tree.flatten(given) if isinstance(x, keras.KerasTensor)]
    args, kwargs = given
    if "training" in inspect.signature(layer.call).parameters:
        # `None` leaves it open: inner layers get `training` when the model runs.
        kwargs = {**kwargs, "training": None}
    with _own_names(layer), any_input_size(_parts(layer)):
        try:
            outputs = layer.call(*args, **kwargs)
            graph = keras.Model(inputs, outputs, name=layer.name)
            if any(x.shape[0] == _BATCH for x in inputs):
                graph = _of_any_batch(graph, outputs)
        except UnsupportedError as error:
            raise UnsupportedError(f"{title} {error}") from error
        except Exception as error:  # a user's code may raise any error
            # Some errors of Keras are pages of code. The beginning has the reason.
            said = textwrap.shorten(str(error) or type(error).__name__, 120)
            reason = re.sub(rf"\b{_BATCH}\b", "None", said)
            calls = "Call its layers on the tensors of the model instead, or w"
            raise UnsupportedError(
                f"{title}: its effect on the channels cannot be seen, because its code "
                f"fails on symbolic tensors ({reason}). "
                f"{calls if _parts(layer) else 'W'}rite its code with `keras.ops`, or "
                "as a layer class of your own with a width rule "
                "(`register_width_rule`)."
            ) from error
    _check_same(layer, graph, args, kwargs)
    return graph


def _title(layer: keras.Layer) -> str:
    return f"Layer '{layer.name}' ({type(layer).__name__})"


def _of_any_batch(graph: keras.Model, outputs: Any) -> keras.Model:
    """Lets a graph that was made for `_BATCH` samples take any number of samples.

    Args:
        graph: The graph.
        outputs: Outputs of the graph, in their structure.

    Raises:
        NotImplementedError: If an operation needs the number of samples.
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
    """Calls the operation of a node, made for `_BATCH` samples, on any number."""
    operation = node.operation
    if isinstance(operation, keras.Layer):
        return operation(*args, **kwargs)
    name = type(operation).__name__
    if name == "Reshape" and _of_batch(operation.newshape):
        shape = tuple(node.outputs[0].shape)
        if _of_batch(shape[1:]) or None in shape[1:]:
            raise UnsupportedError(
                "moves the samples of a batch to another axis than the first, or makes "
                "tensors whose sizes are not known (give the `Input` a full shape). "
                f"Received: reshape to {_open(operation.newshape)}"
            )
        return keras.ops.reshape(*args, (-1, *shape[1:]))
    arguments = vars(operation), node.arguments.args, node.arguments.kwargs
    for value in keras.tree.flatten(arguments):
        is_tensor = isinstance(value, keras.KerasTensor)
        if not is_tensor and _of_batch([value, *getattr(value, "shape", ())]):
            raise UnsupportedError(
                "needs the number of samples in a batch, which is not known. Use "
                "broadcasting instead, as in `x + token` or `x[:, :1] * 0 + token`. "
                f"Received: the operation `{name}`"
            )
    return operation(*args, **kwargs)


def _of_batch(values: Any) -> bool:
    """Whether a number among `values` comes from the number of samples."""
    numbers = [x for x in values if isinstance(x, int | np.integer) and x > 0]
    return any(number % _BATCH == 0 for number in numbers)


def _open(shape: Any) -> tuple[Any, ...]:
    """A shape for messages, with `None` in place of `_BATCH`."""
    return tuple(None if _of_batch([size]) else size for size in shape)


def with_inputs(model: keras.Model) -> keras.Model | None:
    """Makes a functional model whose only layer is a subclassed model.

    Args:
        model: A subclassed model. It does not change.

    Returns:
        A functional model. Its inputs are float32, because Keras does not keep the
        dtypes. `None` if `model` was neither called on data nor built, or if its `call`
        needs several arguments, because Keras keeps only the shape of the first.
    """
    parameters = inspect.signature(model.call).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None or len(needed) != 1:
        return None
    inputs = _inputs_of(shapes)
    return keras.Model(inputs, model(inputs), name=model.name)


def _inputs_of(shapes: Any, name: str | None = None) -> Any:
    """Inputs for a structure of shapes, batch first. Keys of dicts become names."""
    if isinstance(shapes, Mapping):
        return {key: _inputs_of(shape, key) for key, shape in shapes.items()}
    if any(isinstance(shape, Sequence) for shape in shapes):
        return [_inputs_of(shape) for shape in shapes]
    return keras.Input(tuple(shapes)[1:], name=name)


def divides_kernel(layer: Any) -> bool:
    """Whether a layer is a wrapper that only divides the inner kernel in training."""
    return type(layer) is keras.layers.SpectralNormalization


def with_constraint(
    wrapper: keras.layers.SpectralNormalization, shape: tuple[Any, ...]
) -> keras.Layer:
    """Copies the inner layer of a wrapper, with a constraint that divides its kernel.

    Args:
        wrapper: A built layer for which `divides_kernel` is true. It does not change.
        shape: Shape of the input, batch first.

    Returns:
        A built layer that computes the same outside training.

    Raises:
        NotImplementedError: If the inner layer takes no constraint, or has one already.
    """
    inner = wrapper.layer
    names = ("kernel_constraint", "depthwise_constraint", "embeddings_constraint")
    config = inner.get_config()
    name = next((name for name in names if name in config), None)
    if name is None or config[name] is not None:
        reason = "has no" if name is None else "has another"
        raise UnsupportedError(
            f"Layer '{wrapper.name}' (SpectralNormalization of {type(inner).__name__} "
            f"'{inner.name}'): becomes the inner layer with the constraint "
            f"`UnitSpectralNorm()`, but the inner layer {reason} constraint of its "
            "kernel. Use the inner layer in its place."
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
    """Gives inner layers unique names, and restores names and calls at the end."""
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
    """Compares a layer with its graph, because a graph may not show all of its code."""
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
    except Exception as error:  # a backend may raise any error
        raise UnsupportedError(
            f"{title}: its code runs on symbolic tensors, but fails on random numbers "
            f"({error}). Call its layers on the tensors of the model instead."
        ) from error
    if not _agree(map(keras.ops.convert_to_numpy, got), expected):
        raise UnsupportedError(
            f"{title} does not compute the same on symbolic tensors as on numbers. "
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
            f"{title} calls a layer on a value that is no tensor of the model, such as "
            "an Embedding on constant positions. The weights of the layer would become "
            f"constants: {sorted(w.path for w in hidden)}. Put them into a separate "
            "layer with a width rule that is called on a tensor of the model."
        )


def _agree(got: Iterable[np.ndarray], wanted: Iterable[np.ndarray]) -> bool:
    """Whether arrays are equal, with a tolerance for operations that are fused."""
    return all(
        np.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(got, wanted, strict=True)
    )
