"""Conversion of a functional Keras model to an any-width model."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from awn_keras.balancing import balanced
from awn_keras.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from awn_keras.graph import (
    assign,
    copy_layer,
    graph_nodes,
    has_graph,
    has_own_call,
    inline,
    is_nested,
    outer_layer,
    rebuild,
)
from awn_keras.keeping import check_chosen, chosen_readouts, with_kept
from awn_keras.layers.base import TriangularKernel, TriLayer
from awn_keras.model import AnyWidthModel
from awn_keras.opening import (
    divides_kernel,
    is_block,
    opened,
    with_constraint,
    with_inputs,
)
from awn_keras.ordering import moves_for_reading, moves_of, sources_of
from awn_keras.propagation import (
    Trace,
    check_outputs,
    inner_mixers,
    last_mixers,
    trace,
)
from awn_keras.rules import (
    Flow,
    Kind,
    Labelled,
    WidthRule,
    arrays_of_channels,
    comes_and_goes,
    mixes_channels,
    resized,
    rule_of,
)
from awn_keras.shuffling import shuffles, with_shuffles_taken
from awn_keras.slices import chosen_slices
from awn_keras.stages import Stages, Widths
from awn_keras.training.schedules import Fade, fade_schedule
from awn_keras.widening import (
    WidthMultiplier,
    counts_of_labels,
    multiplier_of,
    new_sizes,
)

ORDERS = ("keep", "importance", "reading")
_NAMED = 2  # a message names so many layers and counts the rest


class ConversionError(ArgumentError):
    """A model cannot become any-width. The message lists all reasons at once.

    Args:
        name: Name of the model.
        findings: A text for each reason, with the layers that it concerns.
    """

    has_lines = True

    def __init__(self, name: str, findings: Sequence[str]) -> None:
        self.findings = list(findings)
        lines = "".join(f"\n- {finding}" for finding in self.findings)
        super().__init__(f"Model '{name}' cannot become any-width:{lines}")


def to_any_width(
    model: keras.Model,
    *,
    min_width: float | None = None,
    divisor: int = 8,
    widths_grid: Sequence[float] | None = None,
    staircase: str = "nested",
    stages: Stages | None = None,
    readouts: Sequence[str] = (),
    keep_whole: Sequence[str] = (),
    width_multiplier: WidthMultiplier = 1.0,
    order: str = "keep",
    fade: Fade = None,
    bn_momentum: float | None = None,
) -> AnyWidthModel:
    """Converts a functional or Sequential Keras model to an any-width model.

    A layer mixes channels if each output channel reads several input channels, as in
    Conv, Dense, SeparableConv and ConvTranspose. The first such layer on each input is
    a stem and stays as it is. The last such layer before each output is the readout;
    the readout and all layers after it stay as they are. Each layer between stem and
    readout that mixes channels becomes its Tri layer. A recurrent stem becomes a Tri
    layer, too, because its units read each other.

    Nested models are dissolved into the graph. Layers keep their names. If a layer of a
    nested model has the name of another layer, the name of the nested model is put
    before it.

    The weights of a trained model are kept, but a Tri layer loses the entries that its
    triangle forbids. So the model needs some epochs of fine-tuning at all widths. An
    untrained model (all biases and statistics have their initial values) gets new
    weights, drawn for the triangle.

    Args:
        model: A functional or built Sequential model, such as a model of
            `keras.applications`. A subclassed model is accepted if it consists of
            layers and was called on data; its inputs are taken as float32. If they have
            another dtype, convert `keras.Model(inputs, model(inputs))`. `model` does
            not change.
        min_width: Smallest width in (0, 1]. `None` takes the first of `widths_grid`, or
            0.25 without a grid.
        divisor: Size of the blocks in which channels come and go. A layer that would
            have fewer than four blocks gets smaller blocks. 8 suits phones.
        widths_grid: The widths of a model that needs only a few; see `AnyWidthModel`.
        staircase: `"nested"`, or `"paper"`; see `AnyWidthModel`.
        stages: Settings for layers whose channels appear at other widths, or in blocks
            of another size; see `AnyWidthModel`.
        readouts: Names of layers (Conv, Dense) that are to be readouts. All layers
            after a readout stay as they are, even layers that an any-width trunk cannot
            hold (recurrent layers, attention, distances). An output without a named
            readout before it takes the last layer that mixes channels as its readout.
        keep_whole: Names of layers, or patterns of names such as `["block_1_*"]`, that
            keep all channels at every width. All layers before them stay whole, too,
            because a channel may read only channels that are active whenever it is.
            Layers whose outputs are added to those of a whole layer also stay whole. A
            whole layer keeps all its weights.
        width_multiplier: Factor on the number of channels of layers in the trunk (the
            layers before the readout). Numbers of channels are rounded to multiples of
            `divisor`. Readout and tail (the layers after the readout) keep their size.
            Only for an untrained model, because trained weights do not fit another
            size. One of:

            - a number above 0 for all layers. The paper's `2**0.5` compensates for the
              half of each kernel that the triangle forbids;
            - a mapping from layer names to numbers. Other layers keep their size;
            - a function that takes a layer and returns its number;
            - `"balanced"`: a number for the layers whose zeros an exported file does
              not compute; the other layers keep their size. The function searches for
              the number with which the file at full width has about the MACs and
              weights of the plain network. In a large network each of several trials
              takes seconds.
        order: Order of the channels of each layer. `"keep"` keeps it. The other orders
            need a trained model. `"importance"` puts the strongest channels first, so
            that they belong to the narrow widths; see `reorder_channels`. `"reading"`
            searches for the order in which the triangle forbids least of what channels
            read, which takes some seconds.
        fade: For a trained model: the number of optimizer steps in which forbidden
            entries fade out by the factor `(1 - t) ** 3`, or a schedule of
            `keras.optimizers.schedules` from 1 to 0. `fit` starts from the original
            network and ends with the triangle. Choose about two thirds of the steps of
            `fit`. Entries that fade out act only in training steps; the log `fade`
            shows their factor. Evaluation, `slim` and exported files always use the
            triangle, so they are of little use before the fade ends. `None` drops
            forbidden entries at once.
        bn_momentum: Momentum of the moving statistics of all BatchNormalization, in [0,
            1). `keras.applications` use 0.99 or 0.999, so that statistics need hundreds
            or thousands of steps to follow the changed network. A training of `20 / (1
            - bn_momentum)` steps or more is safe. `None` keeps the momentum of each
            layer.

    Returns:
        The any-width model, not compiled.

    Raises:
        TypeError: If `model` is no Keras model, if it has no graph and its inputs are
            not known, or if it is any-width already.
        ConversionError: A `ValueError`, if the model cannot be converted. The message
            lists every layer that prevents it, with the reason.
        ValueError: If an argument is out of range, if a trained model is to be widened,
            or if an untrained model is to be ordered or faded.

    Warns:
        UserWarning: If frozen layers (`trainable=False`) of a trained model become
            trainable. Layers that lost weights do, and BatchNormalization after them.

    Examples:
        >>> import keras
        >>> from awn_keras import to_any_width
        >>> base = keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=10)
        >>> model = to_any_width(base, min_width=0.35, width_multiplier=2**0.5)
        >>> model.get_layer("Conv_1")
        <TriConv2D name=Conv_1, built=True>

    Reference:
        Vu et al., Any-Width Networks (2020), sections 3.2 and 5.1.
    """
    if order not in ORDERS:
        raise ArgumentError(
            f"`order` must be one of {ORDERS}. Received: order={order!r}"
        )
    source = dissolved(model)
    traced = traced_channels(source, readouts)
    stages = with_kept(traced, keep_whole, stages)
    widths = Widths.of(min_width, divisor, widths_grid, staircase, stages)
    trained = is_trained(source)
    if order != "keep":
        _check_can_be_ordered(source, trained)
    fade = _check_fade(fade, model.name, trained)
    _check_momentum(bn_momentum)

    moves = _moves(order, traced, widths)

    def build(sizes: dict[int, int]) -> tuple[AnyWidthModel, Copies]:
        copies = Copies(traced, sizes, moves=moves)
        built = AnyWidthModel(
            *rebuild(source, copies.call),
            name=model.name,
            min_width=min_width,
            divisor=divisor,
            widths_grid=widths_grid,
            staircase=staircase,
            stages=stages,
            fade=fade,
        )
        return built, copies

    is_balanced = isinstance(width_multiplier, str) and width_multiplier == "balanced"
    if not is_balanced:
        names = {layer.name for layer in source.layers}
        multiplier = multiplier_of(width_multiplier, names)
    elif not trained:
        multiplier = balanced(
            source, traced, lambda trial: build(new_sizes(traced, trial, widths))[0]
        )
    sizes = {} if trained and is_balanced else new_sizes(traced, multiplier, widths)
    if trained and (sizes or is_balanced):
        raise ArgumentError(
            "`width_multiplier` must be 1 for a trained model: the weights of "
            f"'{model.name}' do not fit layers of another size. Leave "
            "`width_multiplier` out, or convert an untrained model (`weights=None`, or "
            "`keras.models.clone_model(model)`). Received: "
            f"width_multiplier={width_multiplier}"
        )
    converted, copies = build(sizes)
    if bn_momentum is not None:
        set_momentum(converted, bn_momentum)
    copies.assign(redraw=not trained)
    if trained:
        _unfreeze(converted)
    return converted


def reorder_channels(
    model: keras.Model, *, readouts: Sequence[str] = ()
) -> keras.Model:
    """Copies a trained model and puts the strongest channels of each layer first.

    The copy computes the same outputs. Channels that are added to each other move
    together, and so do those before and after a depthwise convolution. Only channels
    between a stem and a readout move; see `to_any_width`.

    The importance of a channel is the mean absolute `gamma` of the channel in all
    BatchNormalization that it goes through. Without BatchNormalization, it is the L1
    norm of the kernel entries that make the channel.

    Args:
        model: A trained functional or Sequential model; it does not change.
        readouts: See `to_any_width`.

    Returns:
        A functional `keras.Model` of the same layers, not compiled.

    Raises:
        TypeError: See `to_any_width`.
        ConversionError: See `to_any_width`.
        ValueError: If the model is untrained or has Tri layers, or if a name in
            `readouts` cannot be a readout.

    Reference:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming
        (2017), for gamma as importance.
    """
    source = dissolved(model)
    traced = traced_channels(source, readouts)
    _check_can_be_ordered(source, is_trained(source))
    copies = Copies(traced, {}, tri=False, moves=moves_of(traced))
    reordered = keras.Model(*rebuild(source, copies.call), name=model.name)
    copies.assign()
    return reordered


def _unfreeze(model: AnyWidthModel) -> None:
    """Unfreezes layers that lost weights, and the BatchNormalization after them."""
    cut: list[str] = []
    unfrozen: list[str] = []
    for node in model.propagation.nodes:
        layer = node.operation
        if not getattr(layer, "weights", []):
            continue
        loses = isinstance(layer, TriLayer) and layer.cuts_weights()
        # A frozen BatchNormalization would keep the statistics of the old network.
        follows = cut and isinstance(layer, keras.layers.BatchNormalization)
        if loses:
            cut.append(layer.name)
        if (loses or follows) and not layer.trainable:
            layer.trainable = True
            unfrozen.append(layer.name)
    if unfrozen:
        warnings.warn(
            f"Model '{model.name}': {_named(unfrozen)} were frozen and are trainable "
            "now. Layers that lost the entries that the triangle forbids must be "
            "trained again, and normalization after them needs new statistics. To keep "
            "layers frozen, set `layer.trainable = False` after the conversion, or "
            "keep them whole with `keep_whole=['block_1_*']`.",
            stacklevel=3,
        )


# ------------------------------------------------------------------------ analysis


def dissolved(model: keras.Model) -> keras.Model:
    """Copies a model with its nested models dissolved into one graph.

    Each channel shuffle becomes one operation.

    Args:
        model: The user's model.

    Returns:
        A functional model; `model` itself if there is nothing to dissolve.

    Raises:
        TypeError: See `to_any_width`.
    """
    if not isinstance(model, keras.Model):
        raise ArgumentTypeError(
            "`model` must be a Keras model. To read one from a file, call "
            f"`keras.saving.load_model(path)`. Received: {type(model)}"
        )
    if isinstance(model, AnyWidthModel):
        raise ArgumentTypeError(
            f"`model` must be a plain model: '{model.name}' is any-width already. For "
            "other widths, convert the plain model that it was made from."
        )
    if not (has_graph(model) or isinstance(model, keras.Sequential)):
        model = with_inputs(model) or model
    nodes = graph_nodes(model)
    if has_own_call(model):
        raise ArgumentTypeError(
            f"Model '{model.name}' ({type(model).__name__}) overrides `call`, so its "
            "graph does not show what it computes. Convert a plain functional model."
        )
    if not any(_dissolves(n.operation) for n in nodes) and not shuffles(model):
        return model
    try:
        inlined = inline(model, partial(_graph_of, model.name, {}))
    except ConversionError:
        raise
    except ArgumentError as error:  # a layer that cannot be copied
        raise ConversionError(model.name, [str(error)]) from error
    return with_shuffles_taken(inlined)


def _dissolves(layer: Any) -> bool:
    return is_nested(layer) or _opens(layer) or divides_kernel(layer)


def _opens(layer: Any) -> bool:
    """Whether a layer is made of layers, and has no width rule as a whole."""
    return is_block(layer) and rule_of(layer) is None


def _graph_of(
    model: str,
    inner: dict[int, keras.Layer],
    layer: Any,
    args: Any,
    kwargs: dict[str, Any],
) -> keras.Model | None:
    """Returns the graph of a layer that is to be opened, or `None`.

    `inner` holds the inner layers of wrappers, because a wrapper may be called twice.
    """
    if divides_kernel(layer):
        (x,) = args
        try:
            if id(layer) not in inner:
                inner[id(layer)] = with_constraint(layer, x.shape)
        except UnsupportedError as error:
            raise ConversionError(model, [str(error)]) from error
        x = keras.Input(batch_shape=x.shape, dtype=x.dtype)
        return keras.Model(x, inner[id(layer)](x))
    if not _opens(layer):
        return None
    try:
        return opened(layer, args, kwargs)
    except UnsupportedError as error:
        try:
            copy_layer(layer)(*args, **kwargs)
        except Exception as fault:  # a user's class may raise anything
            raise ConversionError(model, [str(error)]) from fault
        # The closed layer may still be allowed at its place, for example in the tail.
        # If not, `traced_channels` reports the reason.
        return None


def traced_channels(model: keras.Model, readouts: Sequence[str] = ()) -> Trace:
    """Follows the channels through a model that is to be converted.

    Args:
        model: A model from `dissolved`.
        readouts: See `to_any_width`.

    Returns:
        The channels.

    Raises:
        TypeError: If `readouts` is not a sequence of names.
        ConversionError: If the model cannot be converted, with all reasons.
        ValueError: If a name in `readouts` cannot be a readout.
    """
    chosen = chosen_readouts(model, readouts)
    nodes = graph_nodes(model)
    last = last_mixers(model, nodes)
    last |= {id(node) for node in nodes if id(node.operation) in chosen}
    mixers = [node for node in nodes if mixes_channels(node.operation)]
    as_tri = inner_mixers(model) - chosen
    refusals: list[tuple[Any, Exception]] = []
    for node in mixers:
        if id(node) in last and id(node.operation) in as_tri:
            error = ArgumentError(
                f"Layer '{node.operation.name}' ({type(node.operation).__name__}): is "
                "called both inside the trunk and as a readout. Use a separate layer "
                "for each call."
            )
            refusals.append((node.operation, error))
    traced = trace(model, as_tri, refusals)
    calls = {id(node.operation): node for node in nodes}
    refusals = [
        (layer, _why_closed(calls[id(layer)]) or error) for layer, error in refusals
    ]
    if refusals:
        raise ConversionError(model.name, _findings(refusals))
    check_chosen(traced, chosen)
    try:
        check_outputs(model, traced.propagation)
    except ValueError as error:
        names = [repr(n.operation.name) for n in mixers if id(n) in last]
        finding = (
            f"{error} In this model {', '.join(names) or 'no layers'} are the last "
            "layers that mix channels before an output, so they would be the readouts. "
            "If an output is a feature map, put a readout before it, such as a Dense "
            "layer after pooling."
        )
        raise ConversionError(model.name, [finding]) from error
    return traced


def _why_closed(node: Any) -> Exception | None:
    """The reason why a layer made of layers could not be opened, or `None`."""
    if _opens(node.operation):
        try:
            opened(node.operation, node.arguments.args, node.arguments.kwargs)
        except UnsupportedError as error:
            return error
    return None


def _findings(refusals: list[tuple[Any, Exception]]) -> list[str]:
    """A text for each reason, with all layers that the reason concerns.

    Texts that differ only in names and sizes are one reason.
    """
    layers: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, str] = {}
    for operation, error in refusals:
        reason = str(error).replace(repr(operation.name), "{}")
        reason = re.sub(r"\b(\d+|None)\b", "#", reason)
        text, outer = str(error), outer_layer(operation)
        if outer and repr(outer) not in text:  # the user wrote that one
            title = f"Layer {operation.name!r} ({type(operation).__name__})"
            text = text.replace(title, f"{title} in layer {outer!r}", 1)
        texts.setdefault(reason, text)
        if operation.name not in layers[reason]:
            layers[reason].append(operation.name)
    findings = []
    for reason, (_, *others) in layers.items():
        text = texts[reason]
        if others:
            text += f" The same holds for {_named(others)}."
        findings.append(text)
    return findings


def _named(names: Sequence[str]) -> str:
    """Lists the first names, and counts the others."""
    text = ", ".join(map(repr, names[:_NAMED]))
    return text + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")


def is_trained(model: keras.Model) -> bool:
    """Checks whether the weights with a constant initial value have changed.

    These weights are biases, and the factors and statistics of normalization. A model
    without such weights counts as trained, so that its weights are kept.

    Args:
        model: The model.

    Returns:
        Whether it seems to be trained.
    """
    constants = (
        keras.initializers.Zeros,
        keras.initializers.Ones,
        keras.initializers.Constant,
    )
    has_constants = False
    for layer in model.layers:
        if getattr(layer, "unit_forget_bias", False):
            continue  # an LSTM changes the bias that its initializer gives
        for weight in layer.weights:
            initializer = getattr(layer, f"{weight.name}_initializer", None)
            if isinstance(initializer, constants):
                has_constants = True
                start = initializer(weight.shape, dtype=weight.dtype)
                if not np.array_equal(
                    keras.ops.convert_to_numpy(weight),
                    keras.ops.convert_to_numpy(start),
                ):
                    return True
    return not has_constants


def _check_fade(fade: Fade, name: str, trained: bool) -> Fade:
    fade = fade_schedule(fade)
    if fade is not None and not trained:
        raise ArgumentError(
            f"`fade` needs a trained model: '{name}' is untrained, so there is nothing "
            f"to keep while it fades out. Leave `fade` out. Received: fade={fade}"
        )
    return fade


def _check_momentum(momentum: float | None) -> None:
    if momentum is None:
        return
    number = isinstance(momentum, int | float) and not isinstance(momentum, bool)
    if not number or not 0 <= momentum < 1:
        raise ArgumentError(
            f"`bn_momentum` must be in [0, 1). Received: bn_momentum={momentum!r}"
        )


def set_momentum(model: keras.Model, momentum: float) -> None:
    """Sets the momentum of all BatchNormalization in a functional model.

    Args:
        model: The model, without nested models.
        momentum: Momentum of the moving statistics, in [0, 1).
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum


def _moves(order: str, traced: Trace, widths: Widths) -> np.ndarray | None:
    """For each label, the label of the channel that takes its place, or `None`."""
    if order == "importance":
        return moves_of(traced)
    if order == "reading":
        return moves_for_reading(traced, traced.grades(widths))
    return None


def _check_can_be_ordered(model: keras.Model, trained: bool) -> None:
    if not trained:
        raise ArgumentError(
            f"Channels can be ordered only in a trained model: '{model.name}' is "
            "untrained, so its channels have no importance yet. Load trained weights "
            "first, or leave the order as it is."
        )
    tri = [layer.name for layer in model.layers if isinstance(layer, TriLayer)]
    if tri:
        raise ArgumentError(
            f"Channels can be ordered only in a plain model: '{model.name}' has Tri "
            f"layers, such as '{tri[0]}', whose order is fixed. Leave the order as it "
            "is."
        )


# -------------------------------------------------------------------------- copies


class Copies:
    """The layers of a new graph, each made from a layer of the old graph.

    Args:
        traced: The channels of the old graph.
        sizes: New numbers of channels, by `id` of the layer.
        tri: Whether layers of the trunk that mix channels become Tri layers.
        moves: For each label, the label of the channel that takes its place. `None` if
            no channel moves. With moves, numbers of channels must not change.
    """

    def __init__(
        self,
        traced: Trace,
        sizes: dict[int, int],
        tri: bool = True,
        moves: np.ndarray | None = None,
    ) -> None:
        self.flows = traced.propagation.flows
        self.sizes = sizes
        self.tri = tri
        self.moves = moves
        self.copies: dict[int, tuple[keras.Layer, keras.Layer, Flow]] = {}
        #: How many channels each label stands for.
        self._counts = counts_of_labels(traced, sizes)

    def call(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the copy of a node's layer."""
        layer, flow = node.operation, self.flows[id(node)]
        if not isinstance(layer, keras.Layer):
            self._check_arrays(layer, flow)
            run = resized(
                layer, flow, lambda: self._ends(flow), lambda: self._sources(flow)
            )
            return run(*args, **kwargs)
        rule = rule_of(layer) or WidthRule()
        if rule.resize is not None and comes_and_goes(flow.output):
            # A shared layer such as Reshape may need another shape at each call.
            copy = self._resized(rule.resize, layer, flow)
        elif id(layer) in self.copies:
            copy = self.copies[id(layer)][1]
        else:
            copy = self._copy(layer, flow, *args)
            self.copies[id(layer)] = (layer, copy, flow)
        return copy(*args, **kwargs)

    def _ends(self, flow: Flow) -> np.ndarray:
        """Number of channels of a widened tensor before each place; see `WidthRule`."""
        return self._ends_of(flow.inputs[0], flow.input_shapes[0])

    def _ends_of(self, kind: Kind, shape: tuple[Any, ...]) -> np.ndarray:
        if not isinstance(kind, Labelled):
            return np.arange(shape[-1] + 1)
        return np.append(0, np.cumsum(self._counts[kind.labels]))

    def _check_arrays(self, operation: Any, flow: Flow) -> None:
        """Refuses to widen an operation on an array with an entry for each channel."""
        arrays = arrays_of_channels(operation, flow)
        if not arrays or not isinstance(flow.output, Labelled):
            return
        if (self._counts[flow.output.labels] != 1).any():
            name, (array, _) = next(iter(arrays.items()))
            raise ArgumentError(
                f"Operation '{operation.name}' ({type(operation).__name__}): "
                f"`{name}`, an array of shape {np.shape(array)}, has an entry for each "
                "channel, but no entries for added channels. Replace the array by a "
                "layer with a width rule that creates its values for any number of "
                "channels, or do not widen the layers before it: `width_multiplier` "
                "may be a mapping from layer names to numbers."
            )

    def _sources(self, flow: Flow) -> np.ndarray:
        """For each channel of the new output, its place in the old one; see `Flow`."""
        ends = self._ends_of(flow.output, flow.output_shape)
        middles = np.arange(round(ends[-1])) + 0.5
        places = np.searchsorted(ends, middles, side="right") - 1
        if self.moves is not None:
            places = np.array(sources_of(flow.output, flow.output_shape, self.moves))
        return places

    def _copy(self, layer: keras.Layer, flow: Flow, *args: Any) -> keras.Layer:
        layer_class = type(layer)
        changes: dict[str, Any] = {}
        rule = rule_of(layer) or WidthRule()
        mixes = rule.stem and comes_and_goes(flow.output)
        if rule.channels is not None and comes_and_goes(flow.output):
            # A layer that makes no channels keeps its number of outputs per input.
            old = flow.output_shape[-1]
            each = old // flow.input_shapes[0][-1]
            new = self.sizes.get(id(layer), old) if mixes else args[0].shape[-1] * each
            changes.update(rule.sized(layer, new))
        graded = comes_and_goes(flow.inputs[0]) and comes_and_goes(flow.output)
        if self.tri and (graded or (mixes and rule.recurs)):
            layer_class = rule.triangular or layer_class
        if issubclass(layer_class, TriLayer):
            # The new model sets the grades.
            changes.update(dict.fromkeys(layer_class.place_arguments))
        channels = flow.output_shape[-1]
        inputs = [tuple(x.shape) for x in keras.tree.flatten(args)]
        resized = (
            self.sizes.get(id(layer), channels) != channels
            or inputs != flow.input_shapes
        )
        return copy_layer(layer, layer_class, drawn=True, resized=resized, **changes)

    def _resized(
        self,
        resize: Callable[[Any, Flow, np.ndarray], dict[str, Any]],
        layer: keras.Layer,
        flow: Flow,
    ) -> keras.Layer:
        """Copies a layer, with its shapes changed for the new channels."""
        changes = resize(layer, flow, self._ends(flow))
        if id(layer) in self.copies:
            changes["name"] = f"{layer.name}_{keras.backend.get_uid('again')}"
        copy = copy_layer(layer, **changes)
        self.copies.setdefault(id(layer), (layer, copy, flow))
        return copy

    def assign(self, *, redraw: bool = False) -> None:
        """Copies the weights to the new layers.

        Args:
            redraw: Whether Tri layers and widened layers keep their new random weights.
                Other layers, for example frozen or adapted ones, get the old weights in
                any case.
        """
        for layer, copy, flow in self.copies.values():
            values = layer.get_weights()
            same = [x.shape for x in values] == [tuple(w.shape) for w in copy.weights]
            if redraw and (not same or isinstance(copy, TriangularKernel)):
                continue
            if self.moves is not None:
                into = sources_of(flow.inputs[0], flow.input_shapes[0], self.moves)
                out = sources_of(flow.output, flow.output_shape, self.moves)
                slices = chosen_slices(layer, (len(into), len(out)), into, out)
                values = [
                    value[np.ix_(*index)]
                    for value, index in zip(values, slices, strict=True)
                ]
            assign(copy, values)
            if isinstance(copy, TriangularKernel) and not copy.keeps_forbidden:
                copy.apply_masks()
