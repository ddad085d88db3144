"""The registry of width rules: a `WidthRule` describes a layer class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.graph import data_tensors, is_stock, named_constants, named_shapes
from awn_keras.layers.base import TriangularKernel, TriLayer
from awn_keras.rules.entries import acts_on_entries, weights_on_channels
from awn_keras.rules.kinds import Axes, CallSize, Channels, Flow, Kind, Labelled


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer in the graph, the argument of a rule's functions.

    Args:
        node: The Keras node.
        kinds: Kinds of the input tensors. Rules get Fixed and Labelled tensors.
        channels: All labels of the graph.
        last: Whether a path from here to an output of the model has no further layer
            that mixes channels.
        converting: Whether the model is being converted to an any-width model.
        as_tri: Whether to treat a plain layer as the Tri layer that it will become.
    """

    node: Any
    kinds: tuple[Kind, ...]
    channels: Channels
    last: bool = False
    converting: bool = False
    as_tri: bool = False

    def new_channels(self, count: int) -> Labelled:
        """The kind of a tensor with `count` new channels, which this layer makes."""
        return Labelled(self.channels.of(self.layer, count))

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

    @property
    def constants(self) -> dict[str, Any]:
        """Arguments of the call that are not tensors of the graph, by name."""
        return named_constants(self.node)

    def flow(self, inputs: tuple[Kind, ...], output: Kind) -> Flow:
        """Makes the `Flow` of this call with the given kinds."""
        return Flow(
            inputs,
            output,
            self.input_shapes,
            self.output_shape,
            named_shapes(self.node),
            self.constants,
        )

    def labels(self) -> np.ndarray:
        """Labels of the only input's channels, int `(channels,)`.

        Raises:
            ValueError: If the input is Fixed, or if there are several inputs.
        """
        if len(self.kinds) != 1 or not isinstance(self.kinds[0], Labelled):
            raise self.error(
                "must have one input, whose channels come and go with the width."
            )
        return self.kinds[0].labels

    def error(self, reason: str) -> ArgumentError:
        """Makes an error that names this layer."""
        return ArgumentError(
            f"Layer '{self.layer.name}' ({type(self.layer).__name__}): {reason}"
        )


def per_channel(call: LayerCall) -> Kind:
    """Rule of a layer that treats each channel separately.

    Args:
        call: A call with one input tensor, or with several tensors of equal kind.

    Returns:
        The kind of the input.

    Raises:
        ValueError: If channels are not the last axis, if their number changes, or if
            the layer's activation mixes channels.
    """
    check_channels_last(call)
    check_activation(call)
    if len(call.kinds) > 1:
        return merge(call)
    if call.output_shape[-1] != call.input_shapes[0][-1]:
        raise call.error(
            "a per-channel layer must keep the number of channels. Received: "
            f"{call.input_shapes[0][-1]} input channels and {call.output_shape[-1]} "
            "output channels"
        )
    return call.kinds[0]


def per_sample(call: LayerCall) -> Kind:
    """Rule of a layer that mixes channels but no samples, for use after the readout.

    Args:
        call: A call before the readout.

    Raises:
        ValueError: Always. (After the readout, `kind` is not called.)
    """
    raise call.error(
        "mixes channels, which come and go with the width. Put the layer after the "
        "readout."
    )


def merge(call: LayerCall) -> Kind:
    """Rule of a layer that combines tensors channel by channel, such as Add.

    Args:
        call: A call with inputs of equal rank. Inputs with fewer channels than others
            are broadcast.

    Returns:
        The kind of the inputs with the most channels.

    Raises:
        ValueError: If channels that come and go are combined with channels that do not.
    """
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
        if isinstance(first, Labelled) and isinstance(kind, Labelled):
            call.channels.join(first.labels, kind.labels)
        elif kind != first:
            raise call.error(
                "combines channels that come and go with the width with a tensor of "
                f"{channels} channels that is the same at every width. Put a stem "
                "(Conv, Dense) or a Tri layer on the tensor that is the same at every "
                "width, or use Concatenate."
            )
    return first


def accepts_all(call: LayerCall) -> None:
    """The default check of a rule, which accepts every call."""


@dataclass(frozen=True)
class Inner:
    """Inner channels of a layer, which are neither inputs nor outputs, such as heads.

    The active inner channels at a width are the first ones.

    Args:
        axes: Names and axes of the weights that follow the inner channels, as `in_axes`
            of a `WidthRule`.
        count: Function `count(layer, out)` that returns the number of inner channels
            that are active with the output channels `out`, an int array of indices.
        sized: Function `sized(layer, count)` that returns the constructor's arguments
            of a layer with `count` inner channels.
    """

    axes: Mapping[str, Axes]
    count: Callable[[Any, np.ndarray], int]
    sized: Callable[[Any, int], dict[str, Any]]


@dataclass(frozen=True)
class WidthRule:
    """Describes what a layer class does to channels that come and go with the width.

    After the readout, a rule only states that the layer computes each sample of a batch
    separately.

    Args:
        kind: Function `kind(call)` that takes a `LayerCall` and returns the kind of the
            output, or a list of kinds for several different outputs. Use `per_channel`,
            `per_sample`, or your own function, which raises `call.error(reason)` for a
            call that the layer cannot do.
        in_axes: A dict from the name of each weight that follows the *input* channels
            to the axis of the channels, such as `{"scale": -1}`. Names are those of the
            variables (`layer.weights[i].name`), `variable` for unnamed variables, and
            `query/kernel` for the kernel of an inner layer `query`. The axis may have
            `k` neighbouring entries for each channel. Instead of an axis you may give a
            `ChannelAxis`, or a tuple for several axes. For an operation of `keras.ops`,
            the names are those of array arguments, and the axis is negative.
        out_axes: A dict like `in_axes`, for weights that follow the *output* channels.
        inner: Inner channels of the layer that come and go, too, or `None`.
        channels: Name of the constructor argument with the number of output channels,
            if these come and go, or `None`. Or a function `channels(layer, count)` that
            returns the constructor's arguments, as in `get_config`, of a layer with
            `count` output channels.
        stem: Whether the layer starts the trunk if its input is Fixed. Other layers
            with Fixed inputs have Fixed outputs.
        check: Function `check(call)` that raises `call.error(reason)` for calls that
            the layer cannot do before the readout.
        triangular: The Tri layer that replaces the layer in a conversion. The Tri layer
            gets this rule, too. `None` if there is none.
        makes: The `kind` of the Tri layer. `None` if the Tri layer makes new channels.
        recurs: Whether output channels read each other, step by step. Then a conversion
            uses the Tri layer even if the input is whole at every width.
        macs: Function `macs(layer, size)` that returns the MACs of one call for one
            sample. `size` is a `CallSize`, whose numbers of channels may be arrays.
            `None` for a layer without kernels.
        resize: Function `resize(layer, flow, ends)` that returns the arguments that
            change with the number of input channels (other than `channels`): arguments
            of the constructor, or, for an operation of `keras.ops`, also of the call.
            It may return a function that replaces the operation. `ends` is an array
            `(channels + 1,)`: entry i is the number of new channels before the old
            channel i, and the last entry is the new number of channels. Each call of
            such a layer gets a separate copy. `None` if no argument changes.
        apart: Whether each output channel is computed from a single input channel.
            `None` means: if `kind` is `per_channel`.
        cuts: Whether an exported file may store the layer's kernel in blocks of
            channels. The layer then needs the attributes `use_bias` and `activation`.
        reads_prefix: Whether an output channel depends on all input channels of at most
            its own grade, although the layer keeps the channels.
        flattens: Whether the layer outputs all channels of the first position, then
            those of the next position, and so on.
        inert: Whether the layer only acts in training.
        alike: Whether, outside training, the layer is linear and treats all channels
            equally. Then the output for a sum of channels is the sum of their outputs.
        shifts: Names of weights that add a constant. If they are 0, the layer is linear
            outside training. Then the terms of a sum may go through the layer
            separately, and only the first term keeps these weights. Empty for other
            layers.
        importance: Name of a weight whose absolute value is the importance of each
            input channel, or `None`.
        tail: Reason why the layer cannot be after a readout, or `None` if it can.
        no_operator: Function `no_operator(layer)` that returns the part of the layer
            for which TFLite has no builtin operator, and what to use instead; or `None`
            if TFLite has all operators.
    """

    kind: Callable[[LayerCall], Kind | list[Kind]] = per_channel
    in_axes: Mapping[str, Axes] = field(default_factory=dict)
    out_axes: Mapping[str, Axes] = field(default_factory=dict)
    inner: Inner | None = None
    channels: str | Callable[[Any, int], dict[str, Any]] | None = None
    stem: bool = False
    check: Callable[[LayerCall], None] = accepts_all
    triangular: type[TriLayer] | None = None
    makes: Callable[[LayerCall], Kind] | None = None
    recurs: bool = False
    macs: Callable[[Any, CallSize], Any] | None = None
    resize: Callable[[Any, Flow, np.ndarray], Any] | None = None
    apart: bool | None = None
    cuts: bool = False
    reads_prefix: bool = False
    flattens: bool = False
    inert: bool = False
    alike: bool = False
    shifts: tuple[str, ...] = ()
    importance: str | None = None
    tail: str | None = None
    no_operator: Callable[[Any], str | None] | None = None

    def __post_init__(self) -> None:
        if self.apart is None:
            object.__setattr__(self, "apart", self.kind is per_channel)

    @property
    def kernels(self) -> list[str]:
        """Names of the weights that mix channels."""
        return [name for name in self.in_axes if name in self.out_axes]

    def sized(self, layer: Any, channels: int) -> dict[str, Any]:
        """Returns the constructor's arguments for another number of channels.

        Args:
            layer: The layer.
            channels: The new number of output channels.

        Returns:
            The arguments that change, as in `get_config`.
        """
        if self.channels is None:
            return {}
        if callable(self.channels):
            return self.channels(layer, channels)
        return {self.channels: channels}

    def of_the_tri_layer(self) -> WidthRule:
        """The rule of `triangular`."""
        kind = self.makes or (makes_channels if self.stem else self.kind)
        return replace(self, kind=kind, triangular=None, tail=_NO_GRADES)

    def output(self, call: LayerCall) -> Kind | list[Kind]:
        """Checks a call before the readout, and returns the kind of its outputs.

        Raises:
            ValueError: If the layer cannot do the call.
        """
        self.check(call)
        return self.kind(call)


_NO_RULE = WidthRule(per_sample)
_NO_GRADES = "no channels come and go there"  # why a Tri layer cannot be in the tail
_RULES: dict[type, WidthRule] = {}
#: For classes whose rule depends on a layer's arguments, or on its inner layer.
_DERIVED: dict[type, Callable[[Any], WidthRule | None]] = {}
_OPERATIONS: dict[str, WidthRule] = {}
_Macs = Callable[[Any, CallSize], Any]
#: Functions that count the MACs of classes without a rule.
_MACS: dict[type, _Macs] = {}
_OPERATION_MACS: dict[str, _Macs | None] = {}
#: Reasons why a layer class cannot be before the readout, with the way out.
_REFUSALS: dict[type, str] = {}


def register_width_rule(
    layer_class: type[keras.layers.Layer], rule: WidthRule | None = None
) -> None:
    """Registers a rule for your own layer class.

    The rule is used for this class only, not for its subclasses, which may act
    differently. To check a rule, use `awn_keras.testing.check_width_rule`.

    Args:
        layer_class: The class.
        rule: Rule of the class. `None` is the rule for a layer that treats each channel
            separately and has no weights.

    Raises:
        TypeError: If `layer_class` is not a Keras layer class, or if `rule` is not a
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
        raise ArgumentTypeError(
            "`layer_class` must be a Keras layer class. Received: "
            f"layer_class={layer_class!r}"
        )
    rule = WidthRule() if rule is None else rule
    if not isinstance(rule, WidthRule):
        raise ArgumentTypeError(
            f"`rule` must be a `WidthRule`. Received: rule={rule!r}"
        )
    _RULES[layer_class] = rule
    if rule.triangular is not None:
        _RULES[rule.triangular] = rule.of_the_tri_layer()


def register_operations(names: str, rule: WidthRule) -> None:
    """Registers a rule for operations of `keras.ops`.

    Args:
        names: Class names of the operations, separated by spaces.
        rule: The rule.
    """
    _OPERATIONS.update(dict.fromkeys(names.split(), rule))


def register_derived_rule(
    layer_class: type[keras.layers.Layer],
    rule_for: Callable[[Any], WidthRule | None],
) -> None:
    """Registers a function that chooses the rule of each layer of a class.

    Args:
        layer_class: The class.
        rule_for: Function from a layer of the class to its rule, or to `None` if the
            layer has the rule of its class.
    """
    _DERIVED[layer_class] = rule_for


def refuse(layer_class: type[keras.layers.Layer], reason: str) -> None:
    """Registers the reason why a layer class cannot be before the readout.

    Args:
        layer_class: The class.
        reason: The reason and the way out, without a full stop.
    """
    _REFUSALS[layer_class] = reason


def count_by(macs: _Macs, *layer_classes: type[keras.layers.Layer]) -> None:
    """Registers a count of MACs for layer classes without a `WidthRule`.

    Args:
        macs: See `WidthRule`.
        *layer_classes: The classes. Their subclasses are counted in the same way.
    """
    _MACS.update(dict.fromkeys(layer_classes, macs))


def count_operations_by(macs: _Macs | None, names: str) -> None:
    """Registers a count of MACs for operations of `keras.ops`.

    Args:
        macs: See `WidthRule`. `None` if the operations have MACs that cannot be
            counted.
        names: Class names of the operations, separated by spaces.
    """
    _OPERATION_MACS.update(dict.fromkeys(names.split(), macs))


def has_unknown_macs(operation: Any) -> bool:
    """Whether an operation of `keras.ops` has MACs that cannot be counted."""
    name = type(operation).__name__
    return is_stock_operation(operation) and (
        name in _OPERATION_MACS and _OPERATION_MACS[name] is None
    )


def refusal_of(operation: Any) -> str | None:
    """The reason why a layer cannot be before the readout, or `None`."""
    return _REFUSALS.get(type(operation))


def is_opaque(operation: Any) -> bool:
    """Whether a layer runs a user's function or wraps another layer."""
    return isinstance(operation, keras.layers.Lambda | keras.layers.Wrapper)


def rule_of_class(layer_class: type[keras.layers.Layer]) -> WidthRule:
    """The rule of a class, without rules that depend on a layer's arguments."""
    return _RULES[layer_class]


def rule_of(operation: Any) -> WidthRule | None:
    """The rule of a layer or of an operation of `keras.ops`, or `None`."""
    derived = _DERIVED.get(type(operation))
    rule = None if derived is None else derived(operation)
    if rule is None:
        rule = _RULES.get(type(operation))
    if rule is None and is_stock_operation(operation):
        rule = _OPERATIONS.get(type(operation).__name__)
    return rule or _rule_of_code(operation)


def _rule_of_code(operation: Any) -> WidthRule | None:
    """The rule of a user's layer, if its code shows that it acts on each entry."""
    read = weights_on_channels(operation)
    if read is None:
        return None
    return WidthRule(in_axes=dict.fromkeys(read.names, -1), channels=read.argument)


def traits_of(operation: Any) -> WidthRule:
    """Returns what is known of a layer, from its rule and those of its base classes.

    A subclass of a stock layer has no rule, because it may treat channels differently.
    But it still has the kernels of its base class.

    Args:
        operation: A layer, or an operation of `keras.ops`.

    Returns:
        The rule of the layer, or that of the first base class with a rule, or an empty
        rule. If `macs` or `tail` are not set, they come from base classes.
    """
    own = rule_of(operation)
    bases = [_RULES[base] for base in type(operation).__mro__ if base in _RULES]
    rules = [*([] if own is None else [own]), *bases, _NO_RULE]
    return replace(
        rules[0],
        macs=next((rule.macs for rule in rules if rule.macs), _macs_of(operation)),
        tail=next((rule.tail for rule in rules if rule.tail), None),
    )


def _macs_of(operation: Any) -> _Macs | None:
    """The function that counts the MACs of an operation without a rule, or `None`."""
    if is_stock_operation(operation):
        return _OPERATION_MACS.get(type(operation).__name__)
    bases = type(operation).__mro__
    return next((_MACS[base] for base in bases if base in _MACS), None)


def layers_with_a_tri_layer() -> list[str]:
    """Names of the layer classes that become Tri layers with kernels."""
    return [
        layer_class.__name__
        for layer_class, rule in _RULES.items()
        if rule.triangular and rule.stem
    ]


def mixes_channels(operation: Any) -> bool:
    """Whether an operation can be a stem, a readout, or become a Tri layer."""
    rule = rule_of(operation)
    return rule is not None and rule.stem


def keeps_channels_apart(operation: Any) -> bool:
    """Whether a layer computes each output channel from a single input channel.

    Args:
        operation: A layer with one input. For operations of `keras.ops`, False.
    """
    rule = rule_of(operation)
    return isinstance(operation, keras.Layer) and rule is not None and bool(rule.apart)


def merges_channels(operation: Any) -> bool:
    """Whether a layer combines tensors channel by channel, such as `Add`."""
    rule = rule_of(operation)
    return isinstance(operation, keras.Layer) and (
        rule is not None and rule.kind is merge
    )


def is_stock_operation(operation: Any) -> bool:
    """Whether this is an operation of `keras.ops`, not a layer."""
    return not isinstance(operation, keras.Layer) and is_stock(operation)


# ------------------------------------------------------------------------- checks

_CHANNELWISE_NAMES = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu "
    "linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus "
    "softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink threshold"
)
_CHANNELWISE_ACTIVATIONS = {
    getattr(keras.activations, name) for name in _CHANNELWISE_NAMES.split()
}


def accept_activation(function: Callable[..., Any]) -> None:
    """Registers a function that acts on each entry of a tensor separately."""
    _CHANNELWISE_ACTIVATIONS.add(function)


def check_activation(call: LayerCall, layer: Any = None) -> None:
    """Checks that a layer's activations act on each channel separately.

    Args:
        call: The call.
        layer: The layer with the activations. `None` takes the called layer.

    Raises:
        ValueError: If an activation is not known to act so.
    """
    for name in ("activation", "recurrent_activation"):
        _check_function(call, getattr(layer or call.layer, name, None))


def _check_function(call: LayerCall, activation: Any) -> None:
    if activation is None or activation in _CHANNELWISE_ACTIVATIONS:
        return
    # A layer that treats each channel separately, and has no weights.
    rule = rule_of(activation)
    if rule is not None and replace(rule, inert=False, alike=False) == WidthRule():
        return
    if inspect.isfunction(activation) and acts_on_entries(activation):
        return
    name = getattr(activation, "__name__", str(activation))
    if call.last and isinstance(call.layer, TriangularKernel):
        stock = type(call.layer).stock_class.__name__
        raise call.error(
            f"the activation `{name}` needs all channels, but the channels of a Tri "
            "layer come and go with the width. For the last layer of the network, the "
            f"readout, use a plain `keras.layers.{stock}`."
        )
    raise call.error(
        f"the activation `{name}` must act on each channel alone, because channels "
        "come and go with the width, but it is not known to do so. Use a stock "
        "element-wise activation or your own layer with `register_width_rule`, or move "
        "the activation after the readout."
    )


def check_channels_last(call: LayerCall) -> None:
    """Checks that channels are the last axis.

    Raises:
        ValueError: If `data_format` is `"channels_first"`.
    """
    if getattr(call.layer, "data_format", None) == "channels_first":
        raise call.error("`data_format` must be 'channels_last'.")


#: Layers that can mix along any axis, also along the batch axis.
_ALONG_AN_AXIS = (
    keras.layers.Concatenate,
    keras.layers.Softmax,
    keras.layers.UnitNormalization,
)


def check_mixes_no_samples(call: LayerCall) -> None:
    """Checks a call after the readout, where a batch holds several widths.

    Raises:
        ValueError: If the layer mixes the samples of a batch.
    """
    layer = call.layer
    if traits_of(getattr(layer, "activation", None)).tail is not None:
        raise call.error(
            f"{type(layer.activation).__name__} as `activation` cannot stand after a "
            f"readout, because {traits_of(layer.activation).tail}."
        )
    if getattr(layer, "stateful", False):
        raise call.error(
            "`stateful` must be False after a readout, because a batch holds several "
            "widths there."
        )
    axes, rank = getattr(layer, "axis", -1), len(call.input_shapes[0])
    if isinstance(layer, _ALONG_AN_AXIS) and 0 in np.ravel(axes) % rank:
        raise call.error(f"`axis` must not be the batch axis. Received: axis={axes}")


def makes_channels(call: LayerCall) -> Kind:
    """Rule of a layer that makes new output channels, such as a Tri layer."""
    check_activation(call)
    return call.new_channels(call.output_shape[-1])
