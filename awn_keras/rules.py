"""What each layer class does to width: kinds of tensors, and one rule per class.

Walking a functional graph, each tensor is one of three kinds:

- `Fixed`: the same at every width (the inputs, and what is computed from them);
- `Graded`: channels come and go with width, but one that is there has the same value
  at every width;
- `PerWidth`: its values depend on the width (the class scores).

One `WidthRule` per layer class says which kind comes out and how the layer's weights
follow its channels. While rules are asked, each channel has a *label* in place of its
grade. Labels that must come and go together (at an Add, or before weights that two
places share) are joined; only then grades are given, so that both sides of an Add have
the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from awn_keras.graph import data_tensors, is_stock
from awn_keras.layers import (
    TriConv1D,
    TriConv2D,
    TriConv2DTranspose,
    TriDense,
    TriSeparableConv2D,
)

#: The Tri layer of each stock layer that has one.
TRI_CLASSES: dict[type, type] = {
    layer_class.stock_class: layer_class
    for layer_class in (
        TriConv1D,
        TriConv2D,
        TriConv2DTranspose,
        TriSeparableConv2D,
        TriDense,
    )
}

# ---------------------------------------------------------------- kinds and rules


@dataclass(frozen=True)
class Fixed:
    """A tensor that is the same at every width."""


@dataclass(frozen=True, eq=False)
class Graded:
    """A tensor whose channels come and go, each with the same value at every width.

    Args:
        grades: float64 array `(channels,)`: the smallest width of each channel. In a
            rule, an integer label of each channel, which rules only rearrange.
    """

    grades: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graded) and np.array_equal(self.grades, other.grades)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class PerWidth:
    """A tensor whose values depend on the width; all its channels are there.

    Args:
        readout: Name of the layer that first mixed all active channels.
    """

    readout: str = field(compare=False)


Kind = Fixed | Graded | PerWidth


def grades_of(kind: Kind, shape: tuple[Any, ...]) -> np.ndarray:
    """Grades of a tensor's channels, float64 `(channels,)`; 0 where always there."""
    return kind.grades if isinstance(kind, Graded) else np.zeros(shape[-1] or 1)


class Channels:
    """The labels of all channels of a graph, and which of them are one."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._fixed: list[int] = []
        #: Labels of the channels that each layer makes, by `id` of the layer.
        self.made: dict[int, np.ndarray] = {}

    def of(self, layer: Any, count: int) -> np.ndarray:
        """Labels of the channels that a layer makes, the same at each of its calls."""
        labels = self.made.get(id(layer))
        if labels is None or len(labels) != count:
            start = len(self._parents)
            self._parents.extend(range(start, start + count))
            labels = self.made[id(layer)] = np.arange(start, start + count)
        return labels

    def always_on(self, count: int) -> np.ndarray:
        """Labels of channels that are there at every width, such as the inputs'."""
        labels = np.arange(len(self._parents), len(self._parents) + count)
        self._parents.extend(labels.tolist())
        self._fixed.extend(labels.tolist())
        return labels

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """States that two tensors have the same channels, in the same order."""
        if one is other:
            return
        for left, right in zip(one.tolist(), other.tolist(), strict=True):
            first, second = sorted((self._root(left), self._root(right)))
            self._parents[second] = first

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = label = parents[parents[label]]
        return label

    def resolve(self) -> np.ndarray:
        """For each label that of the first channel joined with it, `(labels,)`."""
        return np.array([self._root(i) for i in range(len(self._parents))], int)

    def fixed(self) -> np.ndarray:
        """Labels, resolved, of the channels that are there at every width."""
        return np.unique(self.resolve()[np.asarray(self._fixed, int)])

    def grades(self, new_grades: Callable[[int], np.ndarray]) -> np.ndarray:
        """Gives each label its grade.

        Joined layers of different size follow the smallest: where a layer of 32
        channels is added to a concatenation of two of 16, each half of it rises as its
        layer of 16 does, so that none of the three is ever empty.

        Args:
            new_grades: Grades of a layer with so many channels, `int -> (channels,)`.

        Returns:
            float64 array `(labels,)`.
        """
        roots = self.resolve()
        grades = np.full(len(roots), np.nan)
        grades[self.fixed()] = 0.0
        for labels in sorted(self.made.values(), key=len):
            own = roots[labels]
            free = np.isnan(grades[own])
            # Backwards: if a channel is here twice, its first place counts.
            grades[own[free][::-1]] = new_grades(len(own))[free][::-1]
        return grades[roots]


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer in the graph, as a rule sees it.

    Args:
        node: The Keras node.
        kinds: Kinds of the input tensors; in a rule they are Fixed and Graded.
        channels: All labels of the graph.
        last: Whether an output of the model is reached from here without another
            layer that mixes channels.
        converting: Whether the model is to be converted to an any-width one.
        as_tri: Whether to take a plain layer for a Tri layer, since it is to become
            one.
    """

    node: Any
    kinds: tuple[Kind, ...]
    channels: Channels
    last: bool = False
    converting: bool = False
    as_tri: bool = False

    def new_channels(self, count: int) -> Graded:
        """The kind of a tensor whose `count` channels this layer makes."""
        return Graded(self.channels.of(self.layer, count))

    @property
    def layer(self) -> Any:
        """The layer, or an operation of `keras.ops`."""
        return self.node.operation

    @property
    def input_shapes(self) -> list[tuple[Any, ...]]:
        """Shapes of the input tensors, batch first."""
        return [tuple(x.shape) for x in data_tensors(self.node)]

    @property
    def output_shape(self) -> tuple[Any, ...]:
        """Shape of the first output tensor, batch first."""
        return tuple(self.node.outputs[0].shape)

    def grades(self) -> np.ndarray:
        """Labels of the only input's channels.

        Raises:
            ValueError: If it is Fixed, or there are several.
        """
        if len(self.kinds) != 1 or not isinstance(self.kinds[0], Graded):
            raise self.error("must have one input, of graded channels.")
        return self.kinds[0].grades

    def error(self, reason: str) -> ValueError:
        """An error that names this layer."""
        return ValueError(
            f"Layer '{self.layer.name}' ({type(self.layer).__name__}): {reason}"
        )


def per_channel(call: LayerCall) -> Kind:
    """Rule of a layer that treats each channel by itself: the kind stays.

    Args:
        call: A call with one input tensor, or with several of equal kind.

    Returns:
        The input's kind.

    Raises:
        ValueError: If channels are not last, their number changes, or the layer's
            activation mixes them.
    """
    _check_channels_last(call)
    _check_activation(call)
    if len(call.kinds) > 1:
        return _merge(call)
    if call.output_shape[-1] != call.input_shapes[0][-1]:
        raise call.error(
            "a per-channel layer must keep the number of channels. Received: "
            f"{call.input_shapes[0][-1]} channels, gives {call.output_shape[-1]}"
        )
    return call.kinds[0]


def per_sample(call: LayerCall) -> Kind:
    """Rule of a layer that mixes channels, but no samples: only after the readout.

    Args:
        call: A call before the readout.

    Raises:
        ValueError: Always; below the readout no rule is asked.
    """
    raise call.error(
        "mixes channels, and these come and go with the width. Put it after the "
        "readout."
    )


@dataclass(frozen=True)
class WidthRule:
    """What a layer class does to width.

    After the readout any rule only says that the layer computes each sample of a
    batch by itself.

    Args:
        kind: `kind(call)` takes a `LayerCall` and returns the kind of the output:
            `per_channel`, `per_sample`, or a function of your own that raises
            `call.error(reason)` for what it cannot do.
        in_axes: For each weight that follows the *input* channels, its name and the
            axis, as in `{"scale": -1}`. Names are those of the variables
            (`layer.weights[i].name`). The axis may hold `k` entries for each channel,
            one after the other.
        out_axes: Likewise for weights that follow the *output* channels.
        channels: Name of the constructor argument that holds the number of output
            channels, or `None`.
        stem: Whether the layer starts the trunk when its input is Fixed. Other
            layers on Fixed inputs give Fixed outputs.
    """

    kind: Callable[[LayerCall], Kind] = per_channel
    in_axes: Mapping[str, int] = field(default_factory=dict)
    out_axes: Mapping[str, int] = field(default_factory=dict)
    channels: str | None = None
    stem: bool = False


_RULES: dict[type, WidthRule] = {}


def register_width_rule(
    layer_class: type[keras.layers.Layer], rule: WidthRule | None = None
) -> None:
    """Teaches awn_keras a layer class of your own.

    A rule holds for exactly this class, not for its subclasses: these may do
    something else.

    Args:
        layer_class: The class.
        rule: Its rule. `None` for a layer that treats each channel by itself and has
            no weights.

    Raises:
        TypeError: If `layer_class` is not a Keras layer class, or `rule` not a
            `WidthRule`.

    Examples:
        >>> import keras
        >>> from awn_keras import WidthRule, register_width_rule
        >>> class Scale(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.scale = self.add_weight(name="scale", shape=(shape[-1],))
        ...     def call(self, x):
        ...         return x * self.scale
        >>> register_width_rule(Scale, WidthRule(in_axes={"scale": -1}))
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Layer)):
        raise TypeError(
            "`layer_class` must be a Keras layer class. Received: "
            f"layer_class={layer_class!r}"
        )
    rule = WidthRule() if rule is None else rule
    if not isinstance(rule, WidthRule):
        raise TypeError(f"`rule` must be a `WidthRule`. Received: rule={rule!r}")
    _RULES[layer_class] = rule


def rule_of(operation: Any) -> WidthRule | None:
    """The rule of a layer or of an operation of `keras.ops`, if there is one."""
    rule = _RULES.get(type(operation))
    if rule is None and _is_stock_operation(operation):
        rule = _OPERATION_RULES.get(type(operation).__name__)
    return rule


def keeps_channels_apart(operation: Any) -> bool:
    """Whether a layer computes each output channel from one input channel.

    Args:
        operation: A layer on one tensor. Operations of `keras.ops` count as not.
    """
    rule = rule_of(operation)
    apart = (per_channel, _batch_normalization, _depthwise, _dropout, _global_pooling)
    return rule is not None and rule.kind in apart


def merges_channels(operation: Any) -> bool:
    """Whether a layer joins tensors of equal channels, such as `Add`."""
    return isinstance(operation, keras.Layer) and (
        (rule := rule_of(operation)) is not None and rule.kind is _merge
    )


def _is_stock_operation(operation: Any) -> bool:
    return not isinstance(operation, keras.Layer) and is_stock(operation)


# ------------------------------------------------------------------------- checks


def _words(text: str) -> list[str]:
    return text.split()


_L = keras.layers
_A = keras.activations
_CHANNELWISE_ACTIVATIONS = {
    getattr(_A, name)
    for name in _words(
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh "
        "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink "
        "softplus softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink "
        "threshold"
    )
}


def _check_activation(call: LayerCall) -> None:
    activation = getattr(call.layer, "activation", None)
    if activation is None or activation in _CHANNELWISE_ACTIVATIONS:
        return
    if isinstance(activation, keras.Layer):
        rule = rule_of(activation)
        if rule == WidthRule():  # per channel, and without weights
            return
    name = getattr(activation, "__name__", str(activation))
    if call.last and type(call.layer) in TRI_CLASSES.values():
        stock = type(call.layer).stock_class.__name__
        raise call.error(
            f"the activation `{name}` needs all channels, and those of a Tri layer "
            "come and go with the width. As the last layer of the network use a plain "
            f"`keras.layers.{stock}`, the readout, in its place."
        )
    raise call.error(
        f"the activation `{name}` is not known to act on each channel by itself, and "
        "channels come and go with the width. Use a stock element-wise activation, a "
        "layer of your own with `register_width_rule`, or move it below the readout."
    )


def _check_channels_last(call: LayerCall) -> None:
    if getattr(call.layer, "data_format", None) == "channels_first":
        raise call.error("`data_format` must be 'channels_last'.")


# ------------------------------------------------------------- rules of stock layers


def _batch_normalization(call: LayerCall) -> Kind:
    rank = len(call.input_shapes[0])
    if call.layer.axis not in (-1, rank - 1):
        raise call.error(f"`axis` must be the last. Received: axis={call.layer.axis}")
    return per_channel(call)


def _dropout(call: LayerCall) -> Kind:
    if call.layer.noise_shape is not None and call.layer.noise_shape[-1] not in (
        *(None, 1),
    ):
        raise call.error(
            "the last of `noise_shape` must be None or 1 on graded channels. "
            f"Received: noise_shape={call.layer.noise_shape}"
        )
    return per_channel(call)


def _keeps_last_axis(call: LayerCall) -> Kind:
    return call.kinds[0]


def _rescaling(call: LayerCall) -> Kind:
    if np.ndim(call.layer.scale) or np.ndim(call.layer.offset):
        raise call.error("`scale` and `offset` must be numbers on graded channels.")
    return per_channel(call)


def _global_pooling(call: LayerCall) -> Kind:
    _check_channels_last(call)
    return call.kinds[0]


def _depthwise(call: LayerCall) -> Kind:
    _check_channels_last(call)
    _check_activation(call)
    # Output channel t * depth_multiplier + m reads input channel t only.
    return Graded(np.repeat(call.grades(), call.layer.depth_multiplier))


def _plain(call: LayerCall) -> Kind:
    """Conv and Dense: a stem on Fixed input, else a readout."""
    _check_channels_last(call)
    if getattr(call.layer, "groups", 1) != 1:
        raise call.error("`groups` must be 1; use DepthwiseConv2D for one a channel.")
    if isinstance(call.kinds[0], Graded) and not call.as_tri:
        check_mixes_no_samples(call)
        return PerWidth(call.layer.name)
    _check_activation(call)
    if isinstance(call.kinds[0], Graded) and type(call.layer) not in TRI_CLASSES:
        raise call.error(
            "there is no Tri layer for it, and between the stem and the readout only "
            f"these can mix channels: {', '.join(c.__name__ for c in TRI_CLASSES)}."
        )
    return call.new_channels(call.output_shape[-1])


def check_mixes_no_samples(call: LayerCall) -> None:
    """Below the readout the widths of a step are folded into the batch."""
    layer = call.layer
    if isinstance(getattr(layer, "activation", None), keras.layers.BatchNormalization):
        raise call.error(
            "BatchNormalization as `activation` cannot stand after a readout, because "
            "one set of batch statistics cannot serve all widths."
        )
    if isinstance(layer, keras.layers.Concatenate) and layer.axis == 0:
        raise call.error("`axis` must not be the batch's. Received: axis=0")
    if getattr(layer, "stateful", False):
        raise call.error("`stateful` must be False: a batch holds several widths.")
    axes, rank = getattr(layer, "axis", -1), len(call.input_shapes[0])
    if _is_stock_operation(layer) and (
        axes is None or any(axis % rank == 0 for axis in np.ravel(axes))
    ):
        raise call.error(f"`axis` must not be the batch's. Received: axis={axes}")


def _triangular(call: LayerCall) -> Kind:
    _check_activation(call)
    return call.new_channels(call.output_shape[-1])


def _flatten(call: LayerCall) -> Kind:
    _check_channels_last(call)
    return _tiled(call)


def _tiled(call: LayerCall) -> Kind:
    features = call.output_shape[-1]
    if features is None:
        raise call.error(
            "rows and cols must be known here. Give the `Input` a full shape, or use "
            "global pooling."
        )
    grades = call.grades()
    return Graded(np.tile(grades, features // len(grades)))


def _reshape(call: LayerCall) -> Kind:
    if call.output_shape[-1] == call.input_shapes[0][-1]:
        return call.kinds[0]
    if len(call.output_shape) == 2:
        return _tiled(call)
    raise call.error(
        "must keep the channels as the last axis, or flatten (a channel shuffle does "
        f"neither). Received: target_shape={call.layer.target_shape} for an input of "
        f"shape {call.input_shapes[0]}"
    )


def _permute(call: LayerCall) -> Kind:
    if call.layer.dims[-1] != len(call.layer.dims):
        raise call.error(
            f"must keep the channels last. Received: dims={call.layer.dims}"
        )
    return call.kinds[0]


def _merge(call: LayerCall) -> Kind:
    """Add, Multiply and the like: the same channels on all sides."""
    if len({len(shape) for shape in call.input_shapes}) != 1:
        raise call.error("inputs must have the same number of axes.")
    counts = [shape[-1] for shape in call.input_shapes]
    channels = max(counts)
    first, *others = (
        kind
        for kind, count in zip(call.kinds, counts, strict=True)
        if count == channels
    )
    for kind in others:
        if isinstance(first, Graded) and isinstance(kind, Graded):
            call.channels.join(first.grades, kind.grades)
        elif kind != first:
            raise call.error(
                "joins channels that come and go with the width with a tensor of "
                f"{channels} channels that is the same at every width. Put a Tri layer "
                "or a stem (Conv, Dense) on the latter, or use Concatenate."
            )
    return first


def _concatenate(call: LayerCall) -> Kind:
    rank = len(call.output_shape)
    if call.layer.axis not in (-1, rank - 1):
        return _merge(call)
    parts = [
        kind.grades if isinstance(kind, Graded) else call.channels.always_on(shape[-1])
        for kind, shape in zip(call.kinds, call.input_shapes, strict=True)
    ]
    return Graded(np.concatenate(parts))


def _reduction(call: LayerCall) -> Kind:
    """A mean or maximum over positions."""
    axes, rank = call.layer.axis, len(call.input_shapes[0])
    if axes is None or any(axis % rank in (0, rank - 1) for axis in np.ravel(axes)):
        raise call.error(
            f"`axis` must name neither batch nor channels. Received: axis={axes}"
        )
    return call.kinds[0]


def _operation(call: LayerCall) -> Kind:
    """An element-wise function of `keras.ops`, such as the `+` between tensors."""
    constants = [
        value
        for value in keras.tree.flatten(
            (call.node.arguments.args, call.node.arguments.kwargs)
        )
        if not isinstance(value, keras.KerasTensor) and np.ndim(value)
    ]
    if constants:
        raise call.error("an array cannot follow the channels; use a layer.")
    return _merge(call)


_DIMENSIONS = ("1D", "2D", "3D")
_PER_CHANNEL = [
    *_words(
        "Activation ActivityRegularization AlphaDropout ELU GaussianDropout "
        "GaussianNoise Identity LeakyReLU ReLU Resizing"
    ),
    *(
        name + dimensions
        for name in _words(
            "AveragePooling Cropping MaxPooling SpatialDropout UpSampling ZeroPadding"
        )
        for dimensions in _DIMENSIONS
    ),
]
_MERGES = _words("Add Average Maximum Minimum Multiply Subtract")

_CONV = {"in_axes": {"kernel": -2}, "out_axes": {"kernel": -1, "bias": 0}}
_DENSE = {"in_axes": {"kernel": 0}, "out_axes": {"kernel": 1, "bias": 0}}
_DEPTHWISE = WidthRule(_depthwise, in_axes={"kernel": -2}, out_axes={"bias": 0})
_TRANSPOSED = {"in_axes": {"kernel": -1}, "out_axes": {"kernel": -2, "bias": 0}}
_SEPARABLE = {
    "in_axes": {"depthwise_kernel": -2, "pointwise_kernel": -2},
    "out_axes": {"pointwise_kernel": -1, "bias": 0},
}
_NORMALIZATION = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), 0)

_RULES.update({getattr(_L, name): WidthRule() for name in _PER_CHANNEL})
_RULES.update({getattr(_L, name): WidthRule(_merge) for name in _MERGES})
for _dimensions in _DIMENSIONS:
    for _name in ("GlobalAveragePooling", "GlobalMaxPooling"):
        _RULES[getattr(_L, _name + _dimensions)] = WidthRule(_global_pooling)
    for _name, _axes in (("Conv", _CONV), ("Conv{}Transpose", _TRANSPOSED)):
        _name = _name.format(_dimensions) if "{}" in _name else _name + _dimensions
        _RULES[getattr(_L, _name)] = WidthRule(
            _plain, **_axes, channels="filters", stem=True
        )
for _class in (_L.SeparableConv1D, _L.SeparableConv2D):
    _RULES[_class] = WidthRule(_plain, **_SEPARABLE, channels="filters", stem=True)
_RULES.update(
    {
        _L.BatchNormalization: WidthRule(_batch_normalization, in_axes=_NORMALIZATION),
        _L.Concatenate: WidthRule(_concatenate),
        _L.Dense: WidthRule(_plain, **_DENSE, channels="units", stem=True),
        _L.DepthwiseConv1D: _DEPTHWISE,
        _L.DepthwiseConv2D: _DEPTHWISE,
        _L.Dropout: WidthRule(_dropout),
        _L.Flatten: WidthRule(_flatten),
        _L.Permute: WidthRule(_permute),
        _L.PReLU: WidthRule(in_axes={"alpha": -1}),
        _L.RepeatVector: WidthRule(_keeps_last_axis),
        _L.Rescaling: WidthRule(_rescaling),
        _L.Reshape: WidthRule(_reshape),
    }
)
for _stock, _tri in TRI_CLASSES.items():
    _RULES[_tri] = replace(_RULES[_stock], kind=_triangular)
_OPERATION_RULES = {
    name: WidthRule(_operation)
    for name in _words(
        "Absolute Add Clip Divide Exp Elu Gelu HardSigmoid HardSilu LeakyRelu Maximum "
        "Minimum Multiply Negative ReLU Relu Relu6 Sigmoid Silu Softplus Sqrt Square "
        "Subtract Tanh TrueDivide"
    )
}

_OPERATION_RULES.update(dict.fromkeys(("LogSoftmax", "Softmax"), WidthRule(per_sample)))
_OPERATION_RULES.update(dict.fromkeys(("Max", "Mean"), WidthRule(_reduction)))
_OPERATION_RULES["Concatenate"] = WidthRule(_concatenate)

MIXES_CHANNELS = {
    _L.LayerNormalization: "it normalizes over the channels, and these come and go "
    "with the width. Use BatchNormalization, which an any-width network keeps exact",
    _L.Softmax: "it divides by a sum over the channels, and these come and go with "
    "the width. Put it after the readout, the last layer that mixes channels: a plain "
    "Dense or Conv, no Tri layer",
    _L.Masking: "it looks at all channels of a step at once",
    _L.Lambda: "what its function does to the channels cannot be seen. Use a layer of "
    "your own with `register_width_rule`",
    _L.TimeDistributed: "what its inner layer does to the channels cannot be seen. Use "
    "the inner layer itself where it treats each step alone, as Dense does",
}
for _names, _reason in (
    (
        "GroupNormalization RMSNormalization UnitNormalization",
        MIXES_CHANNELS[_L.LayerNormalization],
    ),
    (
        "AdditiveAttention Attention GroupQueryAttention MultiHeadAttention",
        "attention mixes all channels of a position. It can only stand after the "
        "readout, the last Dense or Conv",
    ),
    (
        "Bidirectional ConvLSTM1D ConvLSTM2D ConvLSTM3D GRU LSTM RNN SimpleRNN",
        "its state mixes all channels of a step. It can only stand after the readout, "
        "the last Dense or Conv, or on the inputs",
    ),
):
    for _name in _words(_names):
        MIXES_CHANNELS[getattr(_L, _name)] = _reason
