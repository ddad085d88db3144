"""One `WidthRule` for each layer class: all that the package knows of the class."""

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
    """One call of a layer in the graph, as a rule sees it.

    Args:
        node: The Keras node.
        kinds: Kinds of the input tensors; in a rule they are Fixed and Labelled.
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

    def new_channels(self, count: int) -> Labelled:
        """The kind of a tensor whose `count` channels this layer makes."""
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
        """Arguments of the call that are no tensors of the graph, by name."""
        return named_constants(self.node)

    def flow(self, inputs: tuple[Kind, ...], output: Kind) -> Flow:
        """What comes in and goes out, of these kinds."""
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
            ValueError: If it is Fixed, or there are several.
        """
        if len(self.kinds) != 1 or not isinstance(self.kinds[0], Labelled):
            raise self.error("must have one input, of graded channels.")
        return self.kinds[0].labels

    def error(self, reason: str) -> ArgumentError:
        """An error that names this layer."""
        return ArgumentError(
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
    check_channels_last(call)
    check_activation(call)
    if len(call.kinds) > 1:
        return merge(call)
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


def merge(call: LayerCall) -> Kind:
    """Rule of a layer that joins tensors of the same channels, such as Add.

    Args:
        call: A call with inputs of equal rank. Those of fewer channels than others are
            broadcast.

    Returns:
        The kind of the inputs of most channels.

    Raises:
        ValueError: If channels that come and go are joined with others that do not.
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
                "joins channels that come and go with the width with a tensor of "
                f"{channels} channels that is the same at every width. Put a Tri layer "
                "or a stem (Conv, Dense) on the latter, or use Concatenate."
            )
    return first


def accepts_all(call: LayerCall) -> None:
    """The check of a rule that has nothing to check."""


@dataclass(frozen=True)
class Inner:
    """Channels inside of a layer, neither its inputs nor its outputs: heads, say.

    Those that are there at a width are the first ones.

    Args:
        axes: For each weight that follows them, its name and the axis; as `in_axes` of
            a `WidthRule`.
        count: `count(layer, out)` gives how many of them are there while the output
            channels `out`, an int array of their places, are.
        sized: `sized(layer, count)` gives the constructor's arguments of a layer that
            has so many of them.
    """

    axes: Mapping[str, Axes]
    count: Callable[[Any, np.ndarray], int]
    sized: Callable[[Any, int], dict[str, Any]]


@dataclass(frozen=True)
class WidthRule:
    """All that awn_keras knows of a layer class.

    After the readout any rule only says that the layer computes each sample of a
    batch by itself.

    Args:
        kind: `kind(call)` takes a `LayerCall` and returns the kind of the output, or
            a list of kinds for several outputs that differ: `per_channel`,
            `per_sample`, or a function of your own that raises `call.error(reason)` for
            what it cannot do.
        in_axes: For each weight that follows the *input* channels, its name and the
            axis, as in `{"scale": -1}`. Names are those of the variables
            (`layer.weights[i].name`), `variable` for those without, and
            `query/kernel` for that of a layer `query` inside of it. The axis may hold
            `k` entries for each channel, one after the other. A `ChannelAxis` in the
            place of the axis says more, and a tuple names several axes. Of an operation
            of `keras.ops` they are arguments that are arrays, and the axis is negative.
        out_axes: Likewise for weights that follow the *output* channels.
        inner: Channels inside of the layer that come and go, too; `None` if there are
            none.
        channels: Name of the constructor argument that holds the number of output
            channels while these come and go, or `None`. Or `channels(layer, count)`,
            which gives the constructor's arguments, as `get_config` does, of a layer
            of `count` output channels.
        stem: Whether the layer starts the trunk when its input is Fixed. Other
            layers on Fixed inputs give Fixed outputs.
        check: `check(call)` raises `call.error(reason)` for what the layer cannot do
            before the readout, whatever the kind.
        triangular: The Tri layer that a conversion puts in the layer's place, and that
            gets this rule, too. `None` if there is none.
        makes: The `kind` of the Tri layer. `None` if it just makes channels of its own.
        recurs: Whether output channels read each other, step by step: then a conversion
            puts the Tri layer also where the input is whole at every width.
        macs: `macs(layer, size)` gives the multiply-accumulates of one call for one
            sample; `size` is a `CallSize`, whose channels may be arrays. `None` for a
            layer without kernels.
        resize: `resize(layer, flow, ends)` gives the arguments that change when the
            layer has another number of input channels (`channels` apart): of its
            constructor, of an operation of `keras.ops` also of its call; or a function
            that takes the operation's place. `ends` is an array `(channels + 1,)`: how
            many there are before each place of the old ones; the last is their number.
            Each call of such a layer is copied by itself. `None` if there are none.
        apart: Whether each output channel is computed from one input channel. `None`
            for what `kind` says: true of `per_channel`.
        cuts: Whether an exported file may hold the layer's kernel in blocks of
            channels. The layer needs `use_bias` and `activation` then.
        reads_prefix: Whether an output channel depends on all input channels whose
            grade is at most its own, though each of them is a channel of its own.
        flattens: Whether it gives all channels of the first position first, then those
            of the next.
        inert: Whether it only acts in training.
        alike: Whether outside training it does the same to all channels, and is
            linear: of sums of channels it gives the sums of what it gives of each.
        shifts: Names of weights that add a constant. If they are 0, the layer is linear
            outside training. A sum may then go through it term by term, and only the
            first term keeps these weights. Empty if the layer is not of this kind.
        importance: Name of a weight whose size tells how important each of its input
            channels is, or `None`.
        tail: Why it cannot stand after a readout, or `None` if it can.
        no_operator: `no_operator(layer)` says what of the layer TFLite has no builtin
            operator for, and what to use in its place, or `None` if it has.
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
        """The constructor's arguments of a layer of another number of channels.

        Args:
            layer: The layer.
            channels: The number of output channels.

        Returns:
            The arguments that change, as `get_config` gives them.
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
        """Checks a call before the readout and gives the kind of its outputs.

        Raises:
            ValueError: If the layer cannot do that.
        """
        self.check(call)
        return self.kind(call)


_NO_RULE = WidthRule(per_sample)
_NO_GRADES = "no channels come and go there"  # why a Tri layer is no tail
_RULES: dict[type, WidthRule] = {}
#: For classes whose rule depends on the layer's arguments, or on one inside of it.
_DERIVED: dict[type, Callable[[Any], WidthRule | None]] = {}
_OPERATIONS: dict[str, WidthRule] = {}
_Macs = Callable[[Any, CallSize], Any]
#: How the MACs of a class are counted that has no rule.
_MACS: dict[type, _Macs] = {}
_OPERATION_MACS: dict[str, _Macs | None] = {}
#: Why a layer class cannot stand before the readout, and what to do.
_REFUSALS: dict[type, str] = {}


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
    """Gives operations of `keras.ops` a rule.

    Args:
        names: Names of their classes, separated by spaces.
        rule: The rule.
    """
    _OPERATIONS.update(dict.fromkeys(names.split(), rule))


def register_derived_rule(
    layer_class: type[keras.layers.Layer],
    rule_for: Callable[[Any], WidthRule | None],
) -> None:
    """Gives layers of a class a rule of their own.

    Args:
        layer_class: The class.
        rule_for: Takes a layer of the class and gives its rule, or `None` if it has
            that of its class.
    """
    _DERIVED[layer_class] = rule_for


def refuse(layer_class: type[keras.layers.Layer], reason: str) -> None:
    """Says why a layer class cannot stand before the readout.

    Args:
        layer_class: The class.
        reason: The reason and the way out, without a full stop.
    """
    _REFUSALS[layer_class] = reason


def count_by(macs: _Macs, *layer_classes: type[keras.layers.Layer]) -> None:
    """Says how the MACs of layer classes are counted that have no `WidthRule`.

    Args:
        macs: See `WidthRule`.
        *layer_classes: The classes. It holds for their subclasses, too.
    """
    _MACS.update(dict.fromkeys(layer_classes, macs))


def count_operations_by(macs: _Macs | None, names: str) -> None:
    """Says how the MACs of operations of `keras.ops` are counted.

    Args:
        macs: See `WidthRule`. `None` if they have MACs that are not counted.
        names: Names of their classes, separated by spaces.
    """
    _OPERATION_MACS.update(dict.fromkeys(names.split(), macs))


def has_unknown_macs(operation: Any) -> bool:
    """Whether an operation of `keras.ops` has MACs that are not counted."""
    name = type(operation).__name__
    return is_stock_operation(operation) and (
        name in _OPERATION_MACS and _OPERATION_MACS[name] is None
    )


def refusal_of(operation: Any) -> str | None:
    """Why a layer cannot stand before the readout, if that is known of its class."""
    return _REFUSALS.get(type(operation))


def is_opaque(operation: Any) -> bool:
    """Whether a layer runs a function or a layer of the user's own inside."""
    return isinstance(operation, keras.layers.Lambda | keras.layers.Wrapper)


def rule_of_class(layer_class: type[keras.layers.Layer]) -> WidthRule:
    """The rule that layers of a class have unless they have one of their own."""
    return _RULES[layer_class]


def rule_of(operation: Any) -> WidthRule | None:
    """The rule of a layer or of an operation of `keras.ops`, if there is one."""
    derived = _DERIVED.get(type(operation))
    rule = None if derived is None else derived(operation)
    if rule is None:
        rule = _RULES.get(type(operation))
    if rule is None and is_stock_operation(operation):
        rule = _OPERATIONS.get(type(operation).__name__)
    return rule or _rule_of_code(operation)


def _rule_of_code(operation: Any) -> WidthRule | None:
    """The rule of a layer of a user's own whose code shows it."""
    read = weights_on_channels(operation)
    if read is None:
        return None
    return WidthRule(in_axes=dict.fromkeys(read.names, -1), channels=read.argument)


def traits_of(operation: Any) -> WidthRule:
    """What is known of a layer, its base classes' rules included.

    A subclass of a stock layer has no rule of its own, as it may do something else to
    its channels; it has its base's kernels all the same.

    Args:
        operation: A layer, or an operation of `keras.ops`.

    Returns:
        Its rule, else that of the first base class that has one, else an empty one.
        `macs` and `tail`, where the rule does not say them, are those of base classes.
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
    """How the MACs of an operation are counted that has no rule."""
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
    """Whether an operation can be a stem, a Tri layer or a readout."""
    rule = rule_of(operation)
    return rule is not None and rule.stem


def keeps_channels_apart(operation: Any) -> bool:
    """Whether a layer computes each output channel from one input channel.

    Args:
        operation: A layer on one tensor. Operations of `keras.ops` count as not.
    """
    rule = rule_of(operation)
    return isinstance(operation, keras.Layer) and rule is not None and bool(rule.apart)


def merges_channels(operation: Any) -> bool:
    """Whether a layer joins tensors of equal channels, such as `Add`."""
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
    """Says that a function acts on each entry of a tensor by itself."""
    _CHANNELWISE_ACTIVATIONS.add(function)


def check_activation(call: LayerCall, layer: Any = None) -> None:
    """Checks that a layer's activations act on each channel by themselves.

    Args:
        call: The call.
        layer: The layer that has them. `None` for the one that is called.

    Raises:
        ValueError: If it is not known to.
    """
    for name in ("activation", "recurrent_activation"):
        _check_function(call, getattr(layer or call.layer, name, None))


def _check_function(call: LayerCall, activation: Any) -> None:
    if activation is None or activation in _CHANNELWISE_ACTIVATIONS:
        return
    # A layer that treats each channel by itself, and has no weights.
    rule = rule_of(activation)
    if rule is not None and replace(rule, inert=False, alike=False) == WidthRule():
        return
    if inspect.isfunction(activation) and acts_on_entries(activation):
        return
    name = getattr(activation, "__name__", str(activation))
    if call.last and isinstance(call.layer, TriangularKernel):
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


def check_channels_last(call: LayerCall) -> None:
    """Checks that channels are the last axis.

    Raises:
        ValueError: If they are not.
    """
    if getattr(call.layer, "data_format", None) == "channels_first":
        raise call.error("`data_format` must be 'channels_last'.")


#: Layers that may mix along any axis, the batch's too.
_ALONG_AN_AXIS = (
    keras.layers.Concatenate,
    keras.layers.Softmax,
    keras.layers.UnitNormalization,
)


def check_mixes_no_samples(call: LayerCall) -> None:
    """Checks a call below the readout: there a batch holds several widths.

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
        raise call.error("`stateful` must be False: a batch holds several widths.")
    axes, rank = getattr(layer, "axis", -1), len(call.input_shapes[0])
    if isinstance(layer, _ALONG_AN_AXIS) and 0 in np.ravel(axes) % rank:
        raise call.error(f"`axis` must not be the batch's. Received: axis={axes}")


def makes_channels(call: LayerCall) -> Kind:
    """Rule of a layer whose output channels are new ones, such as a Tri layer."""
    check_activation(call)
    return call.new_channels(call.output_shape[-1])
