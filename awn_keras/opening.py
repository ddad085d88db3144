"""Layers made of layers, wrappers and functions, as graphs.

A layer of a user's own that calls other layers hides them from whoever walks the graph,
as a `Lambda` hides what its function does. Called on symbolic tensors, its `call` says
which layers and operations it runs on what.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import UnitSpectralNorm
from awn_keras.errors import UnsupportedError
from awn_keras.graph import copy_layer, fill, is_nested, is_stock

#: Rows, cols or steps of what a layer and its graph are compared on, if not known.
_UNKNOWN = 8
_SAMPLES = 2


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
    title = f"Layer '{layer.name}' ({type(layer).__name__})"
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
    with _own_names(layer):
        try:
            outputs = layer.call(*args, **kwargs)
            graph = keras.Model(inputs, outputs, name=layer.name)
        except Exception as error:  # whatever a user's code raises on symbolic tensors
            raise UnsupportedError(
                f"{title}: what it does to the channels cannot be seen, since its code "
                f"fails on symbolic tensors ({error}). Call its layers on the tensors "
                "of the model instead, or write it with `keras.ops`."
            ) from error
    _check_same(layer, graph, args, kwargs, title)
    return graph


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
    return keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse)


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


def _check_same(
    layer: keras.Layer, graph: keras.Model, args: Any, kwargs: Any, title: str
) -> None:
    """Compares a layer with its graph: its code may do what a graph does not show."""
    rng = np.random.default_rng(0)

    def random(x: Any) -> Any:
        if not isinstance(x, keras.KerasTensor):
            return x
        sizes = [_UNKNOWN if size is None else size for size in x.shape[1:]]
        values = rng.uniform(0, 2, (_SAMPLES, *sizes))  # integers: 0 and 1
        return keras.ops.cast(values, x.dtype)

    args, kwargs = keras.tree.map_structure(random, (args, kwargs))
    values = [x for x in keras.tree.flatten((args, kwargs)) if hasattr(x, "shape")]
    expected = keras.tree.flatten(layer(*args, **kwargs))
    got = keras.tree.flatten(graph(values))
    for ours, theirs in zip(got, expected, strict=True):
        ours, theirs = map(keras.ops.convert_to_numpy, (ours, theirs))
        # The same operations, perhaps fused in another way.
        if not np.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
            raise UnsupportedError(
                f"{title} computes something else on symbolic tensors than on numbers. "
                "Call its layers on the tensors of the model instead."
            )
