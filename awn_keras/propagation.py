"""How width flows through a functional graph.

Walking the graph, each tensor is one of three kinds:

- `Fixed`: the same at every width (the inputs, and what is computed from them);
- `Graded`: channels come and go with width, but one that is there has the same value
  at every width;
- `PerWidth`: its values depend on the width (the class scores).

One `WidthRule` per layer class says which kind comes out and how the layer's weights
follow its channels. A plain Conv or Dense on a Fixed tensor is a *stem*; on a Graded
one it is a *readout*, and what follows is the *tail*. All before is the *trunk*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from awn_keras.graph import graph_nodes, replay
from awn_keras.layers import TriConv2D, TriDense

# ---------------------------------------------------------------- kinds and rules


@dataclass(frozen=True)
class Fixed:
    """A tensor that is the same at every width."""


@dataclass(frozen=True, eq=False)
class Graded:
    """A tensor whose channels come and go, each with the same value at every width.

    Args:
        grades: float64 array `(channels,)`: the smallest width of each channel.
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


def _grades(kind: Kind, shape: tuple[Any, ...]) -> np.ndarray:
    """Grades of a tensor's channels; 0 for those that are always there."""
    return kind.grades if isinstance(kind, Graded) else np.zeros(shape[-1] or 1)


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer in the graph, as a rule sees it.

    Args:
        node: The Keras node.
        kinds: Kinds of the input tensors; in a rule they are Fixed and Graded.
        new_grades: `new_grades(channels)`: grades that a layer with so many channels
            has in this model.
    """

    node: Any
    kinds: tuple[Kind, ...]
    new_grades: Callable[[int], np.ndarray]

    @property
    def layer(self) -> Any:
        """The layer, or an operation of `keras.ops`."""
        return self.node.operation

    @property
    def input_shapes(self) -> list[tuple[Any, ...]]:
        """Shapes of the input tensors, batch first."""
        return [tuple(x.shape) for x in self.node.input_tensors]

    @property
    def output_shape(self) -> tuple[Any, ...]:
        """Shape of the first output tensor, batch first."""
        return tuple(self.node.outputs[0].shape)

    def grades(self) -> np.ndarray:
        """Grades of the only input, all 0 if it is Fixed."""
        (kind,) = self.kinds
        return _grades(kind, self.input_shapes[0])

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
            (`layer.weights[i].name`).
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

    Example:
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


def _is_stock_operation(operation: Any) -> bool:
    return not isinstance(operation, keras.Layer) and type(
        operation
    ).__module__.startswith(("keras.src.ops", "keras.src.activations"))


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
    if isinstance(call.kinds[0], Graded):
        _check_mixes_no_samples(call)
        return PerWidth(call.layer.name)
    _check_activation(call)
    return Graded(call.new_grades(call.output_shape[-1]))


def _check_mixes_no_samples(call: LayerCall) -> None:
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
    if _is_stock_operation(layer) and getattr(layer, "axis", -1) == 0:
        raise call.error("`axis` must not be the batch's. Received: axis=0")


def _triangular(call: LayerCall) -> Kind:
    _check_activation(call)
    return Graded(call.new_grades(call.output_shape[-1]))


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
        "must keep the channels as the last axis, or flatten. Received: target_shape="
        f"{call.layer.target_shape} for an input of shape {call.input_shapes[0]}"
    )


def _permute(call: LayerCall) -> Kind:
    if call.layer.dims[-1] != len(call.layer.dims):
        raise call.error(
            f"must keep the channels last. Received: dims={call.layer.dims}"
        )
    return call.kinds[0]


def _merge(call: LayerCall) -> Kind:
    """Add, Multiply and the like: one grade per channel, the same on all sides."""
    if len({len(shape) for shape in call.input_shapes}) != 1:
        raise call.error("inputs must have the same number of axes.")
    counts = [shape[-1] for shape in call.input_shapes]
    channels = max(counts)
    kinds = [
        kind
        for kind, count in zip(call.kinds, counts, strict=True)
        if count == channels
    ]
    if any(kind != kinds[0] for kind in kinds):
        raise call.error(
            "its inputs must have equal grades: the same channels at every width. "
            f"Received: {', '.join(map(_describe, kinds))}. Give both sides the same "
            "number of channels from a Tri layer or the stem, or use Concatenate."
        )
    return kinds[0]


def _concatenate(call: LayerCall) -> Kind:
    rank = len(call.output_shape)
    if call.layer.axis not in (-1, rank - 1):
        return _merge(call)
    parts = map(_grades, call.kinds, call.input_shapes)
    return Graded(np.concatenate(list(parts)))


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


def _describe(kind: Kind) -> str:
    if isinstance(kind, Graded):
        return f"{len(kind.grades)} graded channels"
    return "a tensor that is the same at every width"


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
_NORMALIZATION = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), 0)

_RULES.update({getattr(_L, name): WidthRule() for name in _PER_CHANNEL})
_RULES.update({getattr(_L, name): WidthRule(_merge) for name in _MERGES})
for _dimensions in _DIMENSIONS:
    for _name in ("GlobalAveragePooling", "GlobalMaxPooling"):
        _RULES[getattr(_L, _name + _dimensions)] = WidthRule(_global_pooling)
    _RULES[getattr(_L, "Conv" + _dimensions)] = WidthRule(
        _plain, **_CONV, channels="filters", stem=True
    )
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
        TriConv2D: WidthRule(_triangular, **_CONV, channels="filters", stem=True),
        TriDense: WidthRule(_triangular, **_DENSE, channels="units", stem=True),
    }
)
_OPERATION_RULES = {
    name: WidthRule(_operation)
    for name in _words(
        "Absolute Add Clip Divide Exp Elu Gelu HardSigmoid HardSilu LeakyRelu Maximum "
        "Minimum Multiply Negative ReLU Relu Relu6 Sigmoid Silu Softplus Sqrt Square "
        "Subtract Tanh TrueDivide"
    )
}

_OPERATION_RULES.update(dict.fromkeys(("LogSoftmax", "Softmax"), WidthRule(per_sample)))

_TRIANGULAR = (TriConv2D, TriDense)
_MIXES_CHANNELS = {
    _L.LayerNormalization: "it normalizes over the channels, and these come and go "
    "with the width. Use BatchNormalization, which an any-width network keeps exact",
    _L.Softmax: "it divides by a sum over the channels, and these come and go with "
    "the width. Put it after the readout",
    _L.Masking: "it looks at all channels of a step at once",
}
for _name in ("GroupNormalization", "RMSNormalization", "UnitNormalization"):
    _MIXES_CHANNELS[getattr(_L, _name)] = _MIXES_CHANNELS[_L.LayerNormalization]


# --------------------------------------------------------------------- propagation


@dataclass(frozen=True)
class Flow:
    """What comes in and goes out of a layer: the same at each of its calls.

    Args:
        inputs: Kinds of the inputs.
        output: Kind of the outputs.
        input_shapes: Shapes of the inputs, batch first.
        output_shape: Shape of the first output, batch first.
    """

    inputs: tuple[Kind, ...]
    output: Kind
    input_shapes: list[tuple[Any, ...]]
    output_shape: tuple[Any, ...]

    def grades(self) -> tuple[np.ndarray, np.ndarray]:
        """Grades of the first input's and the output's channels, 0 where Fixed."""
        return (
            _grades(self.inputs[0], self.input_shapes[0]),
            _grades(self.output, self.output_shape),
        )


@dataclass(frozen=True)
class Propagation:
    """Kinds of all tensors of a functional model.

    Args:
        nodes: The graph's calls in order.
        kinds: Kind of each tensor, by `id`.
        flows: Kinds and shapes at each call, by `id` of the node.
    """

    nodes: list[Any]
    kinds: dict[int, Kind]
    flows: dict[int, Flow]


def propagate(
    model: keras.Model, new_grades: Callable[[int], np.ndarray]
) -> Propagation:
    """Finds the kind of every tensor in a functional model.

    Args:
        model: A functional model.
        new_grades: Grades of a layer with so many channels, `int -> (channels,)`.

    Returns:
        The kinds. The model is left as it is.

    Raises:
        ValueError: If a layer breaks the rule of any-width networks, or the model has
            no readout.
        NotImplementedError: If there is no width rule for a layer.
        TypeError: If the model has no graph.
    """
    kinds: dict[int, Kind] = {id(x): Fixed() for x in model.inputs}
    flows: dict[int, Flow] = {}
    seen: dict[int, Flow] = {}
    nodes = graph_nodes(model)
    for node in nodes:
        inputs = tuple(kinds[id(x)] for x in node.input_tensors)
        call = LayerCall(node, inputs, new_grades)
        output = _output_kind(call)
        flow = Flow(inputs, output, call.input_shapes, call.output_shape)
        _check_rule_fits(call, flow)
        first = seen.setdefault(id(node.operation), flow)
        moved = (first.inputs, first.output) != (inputs, output)
        if moved and _weights(call.layer):
            raise call.error(
                "is shared between places with different grades, and its weights can "
                "have one place only. Use one layer for each place."
            )
        flows[id(node)] = flow
        kinds.update((id(x), output) for x in node.outputs)
    _check_outputs(model, kinds)
    return Propagation(nodes, kinds, flows)


def _output_kind(call: LayerCall) -> Kind:
    layer = call.layer
    rule = rule_of(layer)
    if any(isinstance(kind, PerWidth) for kind in call.kinds):
        return _tail(call, rule)
    if isinstance(layer, keras.Model):
        return _nested(call)
    fixed = all(isinstance(kind, Fixed) for kind in call.kinds)
    if rule is not None:
        return Fixed() if fixed and not rule.stem else rule.kind(call)
    if fixed and not getattr(layer, "trainable_weights", None):
        # Whatever it computes, it computes the same at every width.
        return Fixed()
    reason = _MIXES_CHANNELS.get(type(layer))
    if reason is not None:
        raise call.error(f"cannot stand before the readout: {reason}.")
    name = type(layer).__name__
    way_out = (
        f"If it treats each channel by itself, say so with `register_width_rule({name})"
        "`; otherwise it can only stand after the readout."
    )
    if not isinstance(layer, keras.Layer):
        way_out = "Use a Keras layer in its place, or wrap it in a layer of your own."
    raise NotImplementedError(
        f"No width rule for layer '{layer.name}' ({name}). {way_out}"
    )


def _check_rule_fits(call: LayerCall, flow: Flow) -> None:
    """A rule speaks of weights and channels that the layer must really have."""
    rule = rule_of(call.layer)
    if rule is None or not isinstance(flow.output, Graded):
        return
    into, out = flow.grades()
    if len(out) != call.output_shape[-1]:
        raise call.error(
            f"its width rule gives {len(out)} grades for {call.output_shape[-1]} "
            "channels."
        )
    weights = {weight.name: weight.shape for weight in _weights(call.layer)}
    for argument, axes, grades in (
        ("in_axes", rule.in_axes, into),
        ("out_axes", rule.out_axes, out),
    ):
        if weights and axes and not set(weights) & {*rule.in_axes, *rule.out_axes}:
            raise call.error(
                f"its width rule names none of the layer's weights {sorted(weights)}. "
                f"Received: {argument}={dict(axes)}"
            )
        for name in set(axes) & set(weights):
            shape, axis = weights[name], axes[name]
            fits = -len(shape) <= axis < len(shape)
            if not fits or shape[axis] not in (1, len(grades)):
                raise call.error(
                    f"axis {axis} of weight '{name}' of shape {tuple(shape)} does not "
                    f"follow {len(grades)} channels. Received: {argument}={dict(axes)}"
                )


def _nested(call: LayerCall) -> Kind:
    fixed = all(isinstance(kind, Fixed) for kind in call.kinds)
    if fixed and not call.layer.trainable_weights:
        return Fixed()  # such as a Sequential of augmentation layers
    raise NotImplementedError(
        f"Nested model '{call.layer.name}' ({type(call.layer).__name__}): only models "
        "without trainable weights that preprocess the inputs can be nested. Call its "
        "layers on the outer tensors instead, so that they are part of one graph."
    )


def _tail(call: LayerCall, rule: WidthRule | None) -> Kind:
    """Below a readout all channels are there, but their values depend on the width."""
    readout = next(k.readout for k in call.kinds if isinstance(k, PerWidth))
    if any(isinstance(kind, Graded) for kind in call.kinds):
        raise call.error(
            f"joins graded channels with what the readout '{readout}' gave. Put a "
            "readout (Dense, Conv) on the graded channels first."
        )
    hint = (
        f"'{readout}' is a plain {{}} on graded channels, which makes it a readout: "
        "its outputs depend on the width. If it belongs to the trunk, use a Tri layer "
        "(TriConv2D, TriDense) in its place"
    ).format("layer")
    if isinstance(call.layer, _TRIANGULAR):
        raise call.error(f"cannot stand after a readout. {hint}.")
    if isinstance(call.layer, keras.layers.BatchNormalization):
        raise call.error(
            "cannot stand after a readout, because one set of batch statistics cannot "
            f"serve all widths. {hint}; else leave the normalization out."
        )
    _check_mixes_no_samples(call)
    name = type(call.layer).__name__
    stock = type(call.layer).__module__.startswith("keras.src.layers")
    refused = (_L.Lambda, _L.Wrapper, keras.Model)
    if rule is None and (not stock or isinstance(call.layer, refused)):
        way_out = (
            "If it computes each sample of a batch by itself, say so with "
            f"`register_width_rule({name}, WidthRule(per_sample))`."
        )
        if not isinstance(call.layer, keras.Layer):
            way_out = "Use a Keras layer in its place."
        raise NotImplementedError(
            f"No width rule for layer '{call.layer.name}' ({name}) after the readout "
            f"'{readout}'. {way_out}"
        )
    return PerWidth(readout)


def _check_outputs(model: keras.Model, kinds: dict[int, Kind]) -> None:
    graded = [
        output._keras_history.operation.name
        for output in model.outputs
        if isinstance(kinds[id(output)], Graded)
    ]
    if graded:
        raise ValueError(
            f"The model has no readout before its output '{graded[0]}', whose channels "
            "come and go with the width. End with a plain layer, such as "
            "`keras.layers.Dense(classes)`: its outputs are there at every width."
        )
    if not any(isinstance(kinds[id(output)], PerWidth) for output in model.outputs):
        raise ValueError(
            "No output of the model depends on the width. An any-width network has a "
            "stem (Conv2D or Dense on the input), Tri layers, and a readout."
        )


def graph_flows(model: keras.Model) -> list[tuple[Any, Flow]]:
    """Lists the calls of a plain functional model with their shapes.

    Args:
        model: A functional model of one width.

    Returns:
        Operation and flow of each call; every kind is Fixed.

    Raises:
        TypeError: If the model has no graph.
    """
    calls = [LayerCall(node, (), np.zeros) for node in graph_nodes(model)]
    return [
        (
            call.layer,
            Flow(
                (Fixed(),) * len(call.input_shapes),
                Fixed(),
                call.input_shapes,
                call.output_shape,
            ),
        )
        for call in calls
    ]


# ------------------------------------------------------------------ trunk and tail


@dataclass(frozen=True)
class Split:
    """A model cut at its readouts.

    Args:
        trunk: From the model's inputs to the tensors that the tail reads.
        tail: From those tensors to the model's outputs.
        grades: For each tensor between them the grades of its channels, or `None` if
            it is the same at every width.
    """

    trunk: keras.Model
    tail: keras.Model
    grades: list[np.ndarray | None]


def split(model: keras.Model, propagation: Propagation) -> Split:
    """Cuts a model into trunk and tail, which share its layers.

    Args:
        model: A functional model.
        propagation: Its kinds.

    Returns:
        The two parts; running one after the other is running the model.
    """
    kinds = propagation.kinds
    tail_nodes = [
        node
        for node in propagation.nodes
        if isinstance(propagation.flows[id(node)].output, PerWidth)
    ]
    read = [x for node in tail_nodes for x in node.input_tensors] + model.outputs
    between = {id(x): x for x in read if not isinstance(kinds[id(x)], PerWidth)}
    entries = list(between.values())
    tensors = {
        id(x): keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse)
        for x in entries
    }
    inputs = list(tensors.values())
    replay(tail_nodes, tensors)
    outputs = keras.tree.map_structure(lambda x: tensors[id(x)], model.output)
    return Split(
        keras.Model(model.input, entries, name=f"{model.name}_trunk"),
        keras.Model(inputs, outputs, name=f"{model.name}_tail"),
        [getattr(kinds[id(x)], "grades", None) for x in entries],
    )


# ------------------------------------------------------------- channels at a width


def _weights(operation: Any) -> list[Any]:
    return getattr(operation, "weights", [])  # an operation of `keras.ops` has none


def active(kind: Kind, shape: tuple[Any, ...], width: float) -> np.ndarray:
    """Says which channels of a tensor are there at a width.

    Args:
        kind: The tensor's kind.
        shape: Its shape, channels last.
        width: Width in (0, 1].

    Returns:
        bool array `(channels,)`.
    """
    return _grades(kind, shape) <= width


def active_slices(layer: Any, flow: Flow, width: float) -> list[tuple[np.ndarray, ...]]:
    """For each weight of a layer, the part that acts at a width.

    Args:
        layer: A layer with a width rule, or one whose weights do not follow the
            width.
        flow: What comes in and goes out.
        width: Width in (0, 1].

    Returns:
        For each of `layer.weights` (an operation of `keras.ops` has none) an index
        array per axis, as `np.ix_` takes them.
    """
    rule = rule_of(layer) or WidthRule()
    into = active(flow.inputs[0], flow.input_shapes[0], width)
    out = active(flow.output, flow.output_shape, width)
    slices = []
    for weight in _weights(layer):
        index = [np.arange(size) for size in weight.shape]
        for axes, mask in ((rule.in_axes, into), (rule.out_axes, out)):
            axis = axes.get(weight.name)
            # A weight that all channels share (PReLU's shared_axes) stays whole.
            if axis is not None and weight.shape[axis] == len(mask):
                index[axis] = np.flatnonzero(mask)
        slices.append(tuple(index))
    return slices
