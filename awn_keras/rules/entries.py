"""Finds functions and layers whose code treats each entry of a tensor separately.

A user's own activation, or a layer with a factor for each channel, runs operations of
`keras.ops` that act on single entries. A call on symbolic tensors, with symbolic
weights, shows which operations run on which tensors.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np

from awn_keras.errors import AwnError
from awn_keras.graph import copy_layer, data_tensors, graph_nodes, is_stock, replay

_NAMES = (
    "Abs Absolute Angle Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Array "
    "BinaryCrossentropy BitwiseAnd BitwiseInvert BitwiseLeftShift BitwiseNot "
    "BitwiseOr BitwiseRightShift BitwiseXor Cast Cbrt Ceil Celu Clip Conj Conjugate "
    "ConvertToTensor Copy Cos Cosh Deg2rad Divide DivideNoNan Elu EmptyLike Equal "
    "Erf Erfc Erfinv Exp Exp2 Expm1 Fabs Floor FloorDivide Fmax Fmin Fmod FullLike "
    "Gcd Gelu Greater GreaterEqual HardShrink HardSigmoid HardSilu HardTanh "
    "Heaviside Hypot I0 Imag Isclose Isfinite Isinf Isnan Isneginf Isposinf Isreal "
    "Lcm Ldexp LeakyRelu LeftShift Less LessEqual Log Log10 Log1p Log2 LogSigmoid "
    "Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr LogicalXor Maximum "
    "Minimum Mish Mod Multiply NanToNum Negative Nextafter NotEqual OnesLike Polar "
    "Power Rad2deg ReLU Real Reciprocal Relu Relu6 RightShift Round Rsqrt "
    "SaturateCast Select Selu Sigmoid Sign Signbit Silu Sin Sinc Sinh SoftShrink "
    "Softplus Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus StopGradient "
    "Tan Tanh TanhShrink Threshold TrueDivide Trunc View Where ZerosLike Add "
    "Subtract"
)
#: Operations of `keras.ops` that compute each entry of the output from the entries at
#: the same place in the inputs.
ENTRIES = frozenset(_NAMES.split())
#: Operations that keep the order of a weight's entries, and may add axes before the
#: last.
_RESHAPES = {"ExpandDims", "Reshape", "Squeeze"}
_SAMPLES = 2
#: Size of rows and cols that are not known.
_UNKNOWN = 8
#: Equal operations on equal numbers differ by less, even in half precision. Code that
#: computes something else on numbers differs by more.
_TOLERANCE = 2e-2
_READ: WeakKeyDictionary[Any, WeightsOnChannels | None] = WeakKeyDictionary()


class _CodeError(AwnError):
    """A user's code failed on symbolic tensors, or on another number of channels."""


@contextmanager
def _run_as_code() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a user's code may raise any error
        raise _CodeError from error


@dataclass(frozen=True)
class WeightsOnChannels:
    """The weights of a layer that acts on single entries.

    Args:
        names: Names of the weights whose last axis has an entry for each channel.
        argument: The constructor's argument for the number of channels. `None` if the
            layer takes the number from its input.
    """

    names: list[str]
    argument: str | None


@lru_cache(maxsize=1024)
def acts_on_entries(function: Callable[..., Any]) -> bool:
    """Whether a function computes each entry from the entry at its place in the input.

    Args:
        function: A function, such as an activation.
    """
    x = keras.Input(batch_shape=(_SAMPLES, 3, 5, 4))
    try:
        with _run_as_code():
            with _without_traces():
                y = function(x)
            return _on_entries([x], y) and _computes([x], y, function, [])
    except _CodeError:
        return False


def weights_on_channels(layer: Any) -> WeightsOnChannels | None:
    """Finds whether a user's own layer acts on single entries, and its weights.

    Args:
        layer: Any layer or operation.

    Returns:
        The weights that follow the channels. `None` if the layer does more than to act
        on single entries of one tensor `(batch, ..., channels)`, in training or not, or
        if its code does not show it.
    """
    own = isinstance(layer, keras.Layer) and not is_stock(layer) and layer.built
    if not own or isinstance(layer, keras.Model | keras.layers.Wrapper):
        return None
    if layer not in _READ:
        try:
            with _run_as_code():
                _READ[layer] = _read(layer)
        except _CodeError:
            _READ[layer] = None
    return _READ[layer]


def _read(layer: keras.Layer) -> WeightsOnChannels | None:
    shape = (layer.get_build_config() or {}).get("input_shape")
    parameters = set(inspect.signature(layer.call).parameters) - {"mask"}
    places = _places(layer)
    if not shape or len(places) != len(layer.weights) or _has_parts(layer):
        return None
    if len(parameters - {"training"}) != 1:
        return None
    x = keras.Input(batch_shape=(_SAMPLES, *shape[1:]), dtype=layer.compute_dtype)
    weights = [_input_like(weight, layer.compute_dtype) for weight in layer.weights]
    for training in (True, False) if "training" in parameters else (None,):
        kwargs = {} if training is None else {"training": training}
        with _without_traces(), _replaced(layer, places, weights):
            y = layer.call(x, **kwargs)
        # In training, each sample may have its own random factor.
        if not _on_entries([x, *weights], y, factors=bool(training)):
            return None
    if not _computes([x, *weights], y, partial(layer, **kwargs), layer.get_weights()):
        return None
    channels = shape[-1]
    names = [w.name for w in layer.weights if tuple(w.shape[-1:]) == (channels,)]
    return _resized(layer, tuple(shape), names)


def _has_parts(layer: keras.Layer) -> bool:
    return any(part is not layer for part in layer._flatten_layers())


def _places(layer: keras.Layer) -> list[str]:
    """Names of the attributes that hold a layer's weights, in the order of weights."""
    names = {id(value): name for name, value in vars(layer).items()}
    return [names[id(w)] for w in layer.weights if id(w) in names]


def _input_like(weight: Any, dtype: str) -> Any:
    is_float = "float" in keras.backend.standardize_dtype(weight.dtype)
    return keras.Input(
        batch_shape=tuple(weight.shape), dtype=dtype if is_float else weight.dtype
    )


@contextmanager
def _replaced(
    layer: keras.Layer, names: Sequence[str], tensors: Sequence[Any]
) -> Iterator[None]:
    """Replaces a layer's weights by tensors for a while."""
    attributes = vars(layer)
    before = {name: attributes[name] for name in names}
    attributes.update(zip(names, tensors, strict=True))
    try:
        yield
    finally:
        attributes.update(before)


@contextmanager
def _without_traces() -> Iterator[None]:
    """Lets code draw random numbers without lasting effect.

    Raises:
        ValueError: If the code adds losses, because a loss may depend on all channels.
    """
    with keras.StatelessScope(collect_losses=True) as scope:
        yield
    if scope.losses:
        raise ValueError("adds losses")


def _on_entries(inputs: Sequence[Any], output: Any, *, factors: bool = False) -> bool:
    """Whether a tensor is computed from another tensor entry by entry.

    Args:
        inputs: The other tensor, then weights.
        output: The computed tensor.
        factors: Whether arrays may have a number for each sample.
    """
    x, *_ = inputs
    data = {id(x)}
    for node in graph_nodes(keras.Model(inputs, output)):
        operation, (result, *others) = node.operation, node.outputs
        tensors, arrays = data_tensors(node), _arrays(node)
        name = type(operation).__name__
        if isinstance(operation, keras.Layer) or not is_stock(operation) or others:
            return False
        if not data & {id(tensor) for tensor in tensors}:
            if arrays or not _keeps_last_axis(name, node, tensors, result):
                return False
            continue
        weights = [tuple(t.shape) for t in tensors if id(t) not in data]
        if name not in ENTRIES or tuple(result.shape) != tuple(x.shape):
            return False
        if not all(_fits(shape, x.shape, {1, x.shape[-1]}) for shape in weights):
            return False
        if not all(_fits(shape, x.shape, {1}, factors=factors) for shape in arrays):
            return False
        data.add(id(result))
    return id(output) in data


def _arrays(node: Any) -> list[tuple[int, ...]]:
    """Shapes of the arrays among the arguments of an operation and of its call."""
    arguments = node.arguments
    values = keras.tree.flatten((arguments.args, arguments.kwargs))
    values += arrays_within(node.operation)
    shapes = [np.shape(x) for x in values if not isinstance(x, keras.KerasTensor)]
    return [tuple(shape) for shape in shapes if shape]


def arrays_within(operation: Any) -> list[Any]:
    """Finds arguments of an operation's constructor that are arrays, as in `clip`.

    Keras does not save such arrays, and they cannot be changed.

    Args:
        operation: An operation of `keras.ops`.
    """
    names = inspect.signature(type(operation).__init__).parameters
    arguments: Iterator[Any] = (getattr(operation, name, None) for name in names)
    return [value for value in arguments if np.ndim(value) and hasattr(value, "shape")]


def _keeps_last_axis(name: str, node: Any, tensors: list[Any], result: Any) -> bool:
    """Whether an operation on weights keeps the entries of the last axis there."""
    if name in ENTRIES:
        return True
    if name == "GetItem":
        key = node.arguments.args[1]
        keys = key if isinstance(key, tuple) else (key,)
        if any(part not in (None, Ellipsis, slice(None)) for part in keys):
            return False
    elif name not in _RESHAPES:
        return False
    (weight,) = tensors
    before, after = tuple(weight.shape), tuple(result.shape)
    return before[-1:] == after[-1:] or math.prod(before) == 1


def _fits(
    shape: tuple[int, ...],
    of_data: tuple[Any, ...],
    last: set[Any],
    *,
    factors: bool = False,
) -> bool:
    """Whether a weight or array is broadcast to the data, equally for all samples."""
    if len(shape) > len(of_data) or (shape and shape[-1] not in last):
        return False
    return len(shape) < len(of_data) or shape[0] == 1 or factors


def _computes(
    inputs: Sequence[Any], output: Any, run: Callable[..., Any], weights: Sequence[Any]
) -> bool:
    """Whether code computes on numbers what it computes on symbolic tensors."""
    shape = [_UNKNOWN if size is None else size for size in inputs[0].shape]
    values = np.random.default_rng(0).normal(size=shape)
    values = keras.ops.cast(values, inputs[0].dtype)
    numbers = [values, *map(keras.ops.convert_to_tensor, weights)]
    tensors = {id(x): y for x, y in zip(inputs, numbers, strict=True)}
    replay(graph_nodes(keras.Model(inputs, output)), tensors)
    got, wanted = (
        keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
        for y in (tensors[id(output)], run(values))
    )
    return np.allclose(got, wanted, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _resized(
    layer: keras.Layer, shape: tuple[Any, ...], names: list[str]
) -> WeightsOnChannels | None:
    """Finds the constructor's argument for the number of channels by trying."""
    channels = shape[-1]
    other = channels - 1 or 2
    wanted = [
        (*w.shape[:-1], other) if w.name in names else tuple(w.shape)
        for w in layer.weights
    ]
    arguments = [k for k, v in layer.get_config().items() if v == channels]
    for argument in (None, *arguments):
        changes: dict[str, Any] = {} if argument is None else {argument: other}
        try:
            with _run_as_code():
                copy = copy_layer(layer, **changes)
                copy(keras.Input(batch_shape=(None, *shape[1:-1], other)))
        except _CodeError:  # this argument is not the number of channels
            continue
        if [tuple(w.shape) for w in copy.weights] == wanted:
            return WeightsOnChannels(names, argument)
    return None
