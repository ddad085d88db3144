"""Lists the nodes of a functional Keras model in order, and runs them again.

A node is a call of an operation (a layer, or a function of `keras.ops`). Only this
module reads Keras' graph, and only this module depends on names of Keras' modules.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras.src.backend.common import masking

from awn_keras.errors import ArgumentError, ArgumentTypeError


def graph_nodes(model: keras.Model) -> list[Any]:
    """Lists the calls of a functional model, without inputs.

    Args:
        model: A functional or built Sequential model.

    Returns:
        Keras nodes. Each node comes after the nodes that it depends on. A node has
        `operation`, `arguments`, `input_tensors` and `outputs`.

    Raises:
        TypeError: If the model has no graph (it is subclassed, or not built).
    """
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs)
    by_depth = getattr(model, "_nodes_by_depth", None)
    if by_depth is None:
        way_out = (
            "Make a functional model of a subclassed one: `inputs = "
            "keras.Input(shape)`, then `keras.Model(inputs, model.call(inputs))`."
        )
        if isinstance(model, keras.Sequential):
            way_out = (
                "Begin the model with `keras.Input(shape)`, or call "
                "`model.build((None, *shape))` first."
            )
        raise ArgumentTypeError(
            "`model` must be a functional model, or a Sequential one that is built. "
            f"{way_out} Received: '{getattr(model, 'name', model)}' "
            f"({type(model).__name__})"
        )
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def operation_of(tensor: Any) -> Any:
    """The layer, or operation of `keras.ops`, that computes a tensor of a graph.

    Args:
        tensor: A `keras.KerasTensor`. The operation of an input is its `InputLayer`.

    Returns:
        The operation. It has a `name`.
    """
    return tensor._keras_history.operation


def is_stock(operation: Any) -> bool:
    """Whether a layer's or operation's class, or a function, is part of Keras.

    Args:
        operation: A layer, an operation of `keras.ops`, or a function.
    """
    own = operation if hasattr(operation, "__qualname__") else type(operation)
    return own.__module__.startswith("keras.src.")


def mask_of(tensor: Any) -> Any:
    """The mask that Keras keeps with a tensor, or `None`."""
    return masking.get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Lets Keras keep a mask with a tensor.

    Args:
        tensor: The tensor, `(batch, ...)`.
        mask: Bool tensor with the shape of the tensor's first axes. `None` for no mask.
    """
    if mask is not None:
        masking.set_keras_mask(tensor, mask)


def data_tensors(node: Any) -> list[Any]:
    """A node's input tensors without masks, which Keras passes along with the data.

    If a layer takes several tensors, each mask has the name of its tensor, as in
    `query_mask`.
    """
    kwargs = node.arguments.kwargs
    given = [name for name in kwargs if name.endswith("mask")]
    if not given:
        return list(node.input_tensors)
    names = {"mask", *(f"{name}_mask" for name in named_arguments(node))}
    masks = keras.tree.flatten([kwargs[name] for name in given if name in names])
    return [x for x in node.input_tensors if not any(x is mask for mask in masks)]


def named_arguments(node: Any) -> dict[str, Any]:
    """The arguments of a call.

    Args:
        node: The call.

    Returns:
        Values by name of the argument in the operation's `call`.
    """
    arguments = node.arguments
    try:
        signature = inspect.signature(node.operation.call)
        bound = signature.bind_partial(*arguments.args, **arguments.kwargs)
    except (TypeError, ValueError):  # Keras adds a mask that `call` does not name
        return {}
    return bound.arguments


def named_shapes(node: Any) -> dict[str, tuple[Any, ...]]:
    """The shapes of a call's arguments, batch first; see `named_arguments`.

    Args:
        node: The call.

    Returns:
        Shapes by name. Arguments without a shape are left out.
    """
    return {
        name: tuple(value.shape)
        for name, value in named_arguments(node).items()
        if hasattr(value, "shape")
    }


def named_constants(node: Any) -> dict[str, Any]:
    """The arguments of a call that are not tensors of the graph; see `named_arguments`.

    Args:
        node: The call.

    Returns:
        Values by name. Arguments that contain a tensor of the graph are left out.
    """
    return {
        name: value
        for name, value in named_arguments(node).items()
        if not any(
            isinstance(part, keras.KerasTensor) for part in keras.tree.flatten(value)
        )
    }


def has_graph(model: keras.Model) -> bool:
    """Whether the layers of a model and their order are known."""
    return getattr(model, "_nodes_by_depth", None) is not None or (
        isinstance(model, keras.Sequential) and model.built
    )


def _call_again(node: Any, *args: Any, **kwargs: Any) -> Any:
    return node.operation(*args, **kwargs)


def replay(
    nodes: Iterable[Any],
    tensors: dict[int, Any],
    call: Callable[..., Any] = _call_again,
) -> None:
    """Runs nodes on other tensors.

    Args:
        nodes: Nodes in order, as `graph_nodes` gives them.
        tensors: Maps `id` of a tensor of the old graph to its new value. This function
            adds the outputs of the nodes.
        call: `call(node, *args, **kwargs)` runs instead of the node's operation.
    """
    for node in nodes:
        args, kwargs = node.arguments.fill_in(tensors)
        outputs = keras.tree.flatten(call(node, *args, **kwargs))
        for old, new in zip(node.outputs, outputs, strict=True):
            tensors[id(old)] = new


def rebuild(
    model: keras.Model,
    call: Callable[..., Any] = _call_again,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[Any, Any]:
    """Builds the graph of a functional model again, on new inputs.

    Args:
        model: The model. It does not change.
        call: See `replay`.
        shapes: Shapes of the new inputs without the batch, by name. `None` for the
            model's own shapes.

    Returns:
        New inputs and outputs, in the structure of the model's. The new inputs have the
        names of the old inputs.
    """
    inputs = keras.tree.map_structure(
        partial(_same_input, shapes=shapes or {}), _input(model)
    )
    tensors = {
        id(old): new
        for old, new in zip(model.inputs, keras.tree.flatten(inputs), strict=True)
    }
    replay(graph_nodes(model), tensors, call)
    outputs = keras.tree.map_structure(lambda x: tensors[id(x)], _output(model))
    return inputs, outputs


def _same_input(x: Any, shapes: Mapping[str, Sequence[int]]) -> Any:
    # The tensor of an unnamed input has the name `keras_tensor`, so the name is taken
    # from its layer.
    name = operation_of(x).name
    shape = (x.shape[0], *shapes.get(name, x.shape[1:]))
    return keras.Input(batch_shape=shape, dtype=x.dtype, name=name, sparse=x.sparse)


# `Sequential.input` and `output` are the tensors of its first call, not of its graph.
def _input(model: keras.Model) -> Any:
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _output(model: keras.Model) -> Any:
    return model.outputs[0] if isinstance(model, keras.Sequential) else model.output


# -------------------------------------------------------------------------- copies


def copy_layer(
    layer: keras.Layer,
    /,
    layer_class: type[keras.Layer] | None = None,
    *,
    drawn: bool = False,
    resized: bool = False,
    without: Sequence[str] = (),
    **changes: Any,
) -> keras.Layer:
    """Makes a copy of a layer without its weights, which `fill` sets later.

    Args:
        layer: The layer. It does not change.
        layer_class: Class of the copy. `None` for the layer's class.
        drawn: Whether the copy may keep the weights that it draws. If not, its
            initializers are zeros until `fill`, because drawing takes long: JAX
            compiles it for each shape.
        resized: Whether drawn weights have other shapes than the layer's weights. Then
            an initializer that holds an array does not fit, and the default initializer
            of the class replaces it.
        without: Arguments of the layer that the class of the copy does not have.
        **changes: Arguments of the copy that differ from the layer's, in the form of
            `get_config`.

    Returns:
        The copy, not built.

    Raises:
        ValueError: If the layer's class cannot read its own config.
    """
    if isinstance(layer, keras.layers.Lambda):
        return _same_lambda(layer, **changes)
    config = _unbuilt({**_config_of(layer), **changes}, changes.get("dtype"))
    for name in without:
        config.pop(name, None)
    for name, value in _initializers(config).items():
        if not drawn and name in vars(layer):
            config[name] = "zeros"
        elif _holds_array(value) and (resized or not drawn):
            del config[name]
    for name in config.keys() & vars(layer).keys() - changes.keys():
        value = vars(layer)[name]
        if inspect.isfunction(value) and not is_stock(value):
            config[name] = value  # an activation that is not registered with Keras
    try:
        return (layer_class or type(layer)).from_config(config)
    except Exception as error:  # a user's class may raise any error
        raise _not_made_again(layer, error) from error


def _not_made_again(layer: keras.Layer, reason: object) -> ArgumentError:
    return ArgumentError(
        f"Layer '{layer.name}' ({type(layer).__name__}): cannot be made again from its "
        f"config ({reason}). `get_config` of its class must return all arguments of "
        "the constructor."
    )


def _config_of(layer: keras.Layer) -> dict[str, Any]:
    """The config of a layer.

    Raises:
        ValueError: If the class cannot make a config.
    """
    try:
        with warnings.catch_warnings():
            # The warning concerns saving, and this config is not saved.
            warnings.filterwarnings("ignore", message=".*includes a `lambda`")
            config = layer.get_config()
    except NotImplementedError as error:
        # Keras cannot make a config if `dtype` is a policy, as in
        # `Identity(dtype=policy)`. It can if `dtype` is the name of the policy.
        _, *parameters = inspect.signature(type(layer).__init__).parameters.values()
        if any(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters):
            reason, *_ = str(error).split("Example:")
            raise _not_made_again(layer, " ".join(reason.split())) from error
        return {
            "name": layer.name,
            "trainable": layer.trainable,
            "dtype": layer.dtype_policy.name,
        }
    if is_stock(layer) and hasattr(layer, "output_padding"):
        config["output_padding"] = layer.output_padding  # Keras before 3.15 forgets
    return config


def _same_lambda(layer: keras.layers.Lambda, **changes: Any) -> keras.layers.Lambda:
    """A Lambda with the function of another. Keras refuses to load it from a config."""
    arguments = {"name": layer.name, "dtype": layer.dtype_policy, **changes}
    return keras.layers.Lambda(
        layer.function, layer._output_shape, layer.mask, layer.arguments, **arguments
    )


def _unbuilt(config: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """A wrapper's config whose inner layers are built in the first call.

    With the old config, Keras would build the inner layers at once, in their old size.

    Args:
        config: The config of any layer.
        dtype: Dtype policy of the inner layers. `None` keeps theirs.
    """
    inner = {}
    for name in ("layer", "backward_layer"):
        old = config.get(name)
        if isinstance(old, dict) and isinstance(old.get("config"), dict):
            new = {key: value for key, value in old.items() if key != "build_config"}
            changes = {} if dtype is None else {"dtype": dtype}
            inner[name] = {
                **new,
                "config": _unbuilt({**old["config"], **changes}, dtype),
            }
    return {**config, **inner}


def fill(copy: keras.Layer, layer: keras.Layer, values: Sequence[np.ndarray]) -> None:
    """Sets the weights of a copy, and gives it the layer's initializers.

    With the initializers, clones of the copy draw weights as clones of the layer do.

    Args:
        copy: The built copy from `copy_layer`.
        layer: The layer.
        values: An array for each of `copy.weights`.
    """
    assign(copy, values)
    for name, value in _initializers(_config_of(layer)).items():
        if name not in vars(layer) or not hasattr(copy, name):
            continue
        initializer = keras.initializers.get(value)
        weight = getattr(copy, name.removesuffix("_initializer"), None)
        if not _holds_array(value) or (
            # A copy with a part of the channels cannot use an initializer whose array
            # has all channels.
            np.shape(initializer.value) == tuple(getattr(weight, "shape", ()))
        ):
            setattr(copy, name, initializer)


def _initializers(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in config.items()
        if name.endswith("_initializer") and value is not None
    }


def _holds_array(initializer: Any) -> bool:
    """Whether a serialized initializer holds an array."""
    return np.ndim(getattr(keras.initializers.get(initializer), "value", 0)) > 0


def assign(layer: keras.Layer, values: Sequence[np.ndarray]) -> None:
    """Sets a layer's weights, and values that the layer derives from its weights.

    Args:
        layer: A built layer.
        values: An array for each of `layer.weights`.
    """
    layer.set_weights(list(values))
    for part in layer._flatten_layers():
        # `Normalization` computes with values that it derives from its weights.
        if hasattr(part, "finalize_state"):
            part.finalize_state()


def functions_of(model: keras.Model) -> dict[str, Callable[..., Any]]:
    """Finds the functions that layers hold, such as activations, by name.

    Args:
        model: A model or a layer. Layers inside its layers count, too.
    """
    return {
        value.__name__: value
        for layer in model._flatten_layers()
        for value in vars(layer).values()
        if inspect.isfunction(value)
    }


@contextmanager
def any_input_size(layers: Sequence[keras.Layer]) -> Iterator[None]:
    """Lets nested models be called on symbolic tensors with any rows and cols.

    Only on symbolic tensors does Keras demand the rows and cols that a nested model was
    built for.

    Args:
        layers: Layers. Some of them may be functional models.
    """
    name = "_manual_input_spec"
    models = [getattr(x, "_functional", x) for x in layers if is_nested(x)]
    models = [x for x in models if name not in vars(x)]
    for model in models:
        model.input_spec = None
    try:
        yield
    finally:
        for model in models:
            delattr(model, name)


def has_own_call(model: keras.Model) -> bool:
    """Whether a model's class has its own `call`, so that its graph may be wrong."""
    return not is_stock(type(model).call)


def is_nested(operation: Any) -> bool:
    """Whether an operation is a model with a known graph."""
    if not isinstance(operation, keras.Model) or has_own_call(operation):
        return False
    return has_graph(operation)


def _given(model: keras.Model, *args: Any, **kwargs: Any) -> dict[int, Any]:
    """The tensor that a call of a nested model passes to each input, by `id`."""
    structure = next(iter((*args, *kwargs.values())))
    if isinstance(structure, dict) and not isinstance(_input(model), dict):
        structure = [structure[x.name] for x in model.inputs]
    given = {}
    for old, new in zip(model.inputs, keras.tree.flatten(structure), strict=True):
        if len(old.shape) != len(new.shape):
            raise ArgumentError(
                f"Nested model '{model.name}' is called on a tensor of shape "
                f"{tuple(new.shape)} for its input of shape {tuple(old.shape)}. "
                "Reshape the tensor first."
            )
        # Keras casts tensors the same way when it calls the model.
        given[id(old)] = (
            new if new.dtype == old.dtype else keras.ops.cast(new, old.dtype)
        )
    return given


#: Names of the layers whose graphs `inline` took the operations from.
_OUTER: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
#: Function that returns the graph of a layer called on `(args, kwargs)`, or `None`.
GraphOf = Callable[[Any, Any, dict[str, Any]], keras.Model | None]


def outer_layer(operation: Any) -> str | None:
    """Names the layer of a user's own that an operation of a copied model is from.

    Args:
        operation: An operation of a model that `inline` made.

    Returns:
        The name. `None` if the operation is from no graph of a layer.
    """
    return _OUTER.get(operation)


def _taken_from(layer: str, operation: Any) -> Any:
    """Notes the layer, if there is one, that an operation is from."""
    if layer:
        _OUTER[operation] = layer
    return operation


def inline(model: keras.Model, graph_of: GraphOf = lambda *_: None) -> keras.Model:
    """Copies a model so that the layers of nested models are part of its own graph.

    Layers keep their names. If a layer of a nested model has the name of another layer,
    the nested model's name is put before it.

    Args:
        model: A functional model. It does not change.
        graph_of: Function that returns the graph of a layer, whose inputs are the
            tensors that the layer is called on. It returns `None` for a layer that
            stays a layer.

    Returns:
        A functional model that computes the same, with its own weights.
    """
    copies: dict[int, tuple[keras.Layer, keras.Layer]] = {}
    names = {operation_of(x).name for x in model.inputs}
    names.update(node.operation.name for node in graph_nodes(model))

    def copy_of(layer: keras.Layer, prefix: str) -> keras.Layer:
        if id(layer) not in copies:
            name = layer.name
            while prefix and name in names:
                name = f"{prefix}_{name}"
            names.add(name)
            copies[id(layer)] = (layer, copy_layer(layer, name=name))
        return copies[id(layer)][1]

    def call(
        node: Any, *args: Any, prefix: str = "", inside: str = "", **kwargs: Any
    ) -> Any:
        operation = node.operation
        if not isinstance(operation, keras.Layer):
            return _taken_from(inside, operation)(*args, **kwargs)
        graph = operation
        if is_nested(operation):
            for name in ("training", "mask"):  # Keras passes those of the outer model
                kwargs.pop(name, None)
            tensors = _given(operation, *args, **kwargs)
        else:
            graph = graph_of(operation, args, kwargs)
            if graph is None:
                copy = copy_of(operation, prefix)
                return _taken_from(inside, copy)(*args, **kwargs)
            inside = operation.name
            given = keras.tree.flatten((args, kwargs))
            given = [x for x in given if isinstance(x, keras.KerasTensor)]
            tensors = {id(x): y for x, y in zip(graph.inputs, given, strict=True)}
        name = f"{prefix}_{operation.name}" if prefix else operation.name
        replay(graph_nodes(graph), tensors, partial(call, prefix=name, inside=inside))
        return keras.tree.map_structure(lambda x: tensors[id(x)], _output(graph))

    inlined = keras.Model(*rebuild(model, call), name=model.name)
    for layer, copy in copies.values():
        fill(copy, layer, layer.get_weights())
    return inlined
