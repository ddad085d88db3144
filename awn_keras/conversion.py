"""From any functional Keras model to an any-width model."""

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
_NAMED = 2  # layers that a message names one by one, beside the first


class ConversionError(ArgumentError):
    """A model cannot become any-width.

    Args:
        name: Name of the model.
        findings: Every reason, each with the layers that it holds for.
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
    """Makes an any-width model of a functional or Sequential Keras model.

    The first layer on each input that mixes channels (Conv, Dense, SeparableConv,
    ConvTranspose) is a stem and stays as it is; so does the last one before each
    output, the readout, and all that follows it. Each one between them becomes its
    Tri layer, and so does a recurrent layer that is a stem, as its units read each
    other. Nested models are dissolved into the graph; layers keep their names, but
    one of a nested model that is called like another gets that model's name before it.

    The weights of a trained model are kept; a Tri layer forgets what its triangle
    forbids, so that the model needs some epochs of fine-tuning at all widths. An
    untrained model (all biases and statistics have their initial values) gets fresh
    weights, drawn for the triangle.

    Args:
        model: A functional or built Sequential model, such as one of
            `keras.applications`, or a subclassed one that was called on data and is
            made of layers; it is left as it is. Inputs of a subclassed one are float32;
            for others, convert `keras.Model(inputs, model(inputs))`.
        min_width: Smallest width in (0, 1]. `None` for the first of `widths_grid`,
            else 0.25.
        divisor: Channels come and go in blocks of this size, or smaller ones where a
            layer would have less than four; 8 suits phones.
        widths_grid: If only a few widths are needed; see `AnyWidthModel`.
        staircase: `"nested"`, or `"paper"`; see `AnyWidthModel`.
        stages: Layers whose channels come at other widths, or in blocks of another
            size; see `AnyWidthModel`.
        readouts: Names of layers (Conv, Dense) at which the trunk is to end: each is
            a readout, and all that follows it stays as it is, whatever it does to
            channels (recurrent layers, attention, distances). Outputs that no such
            layer is before have the last layer that mixes channels as their readout.
        keep_whole: Names of layers that are to be whole at every width, or patterns of
            names, as in `["block_1_*"]`. All layers before them stay whole, too, as a
            channel may read only those that are there whenever it is; so do layers
            whose outputs are added to theirs. What stays whole keeps its weights.
        width_multiplier: Widens layers of the trunk; numbers of channels are rounded
            to multiples of `divisor`. A number above 0 for all of them: the paper's
            `2**0.5` makes up for the half of each kernel that the triangle forbids. A
            mapping from names of layers to numbers, others keep their size. A function
            that takes a layer and returns its number. `"balanced"`: as much as leaves
            the work and the weights of an exported file at full width near the plain
            network's, in the layers whose zeros a file does not compute; the others
            keep their size (it tries several numbers, seconds each for a large
            network). Readouts and tail keep their size. Only for an untrained model,
            since weights do not fit.
        order: `"keep"`, or for a trained model `"importance"`: the strongest channels
            of each layer come first, and so belong to the narrow widths; see
            `reorder_channels`. `"reading"`: channels come in the order in which the
            triangle forbids least of what they read, which takes some seconds.
        fade: For a trained model: over how many optimizer steps what the triangle
            forbids fades out, by `(1 - t) ** 3`, or a schedule of
            `keras.optimizers.schedules` from 1 to 0. `fit` starts from the model as it
            was, and ends with the triangle; choose about two thirds of its steps. What
            fades acts in training steps alone (the log `fade` says how much), so that
            evaluation, `slim` and files are those of the triangle all the time, and of
            little use before the end. `None` to drop it at once.
        bn_momentum: Of the moving statistics of all BatchNormalization. Those of
            `keras.applications` have 0.99 or 0.999, with which they follow the
            network's new values only after hundreds or thousands of steps; about 20
            times as many steps as `1 / (1 - bn_momentum)` are safe. `None` to leave
            each layer its own.

    Returns:
        The any-width model, not compiled.

    Raises:
        TypeError: If `model` has no graph and its inputs are not known, or is
            any-width already.
        ConversionError: A `ValueError`, if the model has what cannot be converted; it
            names every such layer with its reason.
        ValueError: If an argument is out of range, or a trained model is to be widened
            or an untrained one to be ordered.

    Warns:
        UserWarning: If layers that were frozen (`trainable=False`) are trainable
            again: of a trained model those that lost weights, and BatchNormalization
            after them.

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
            f"Model '{model.name}' is trained, and its weights do not fit layers of "
            "another size. Leave `width_multiplier` at 1, or convert an untrained "
            "model (`weights=None`, or `keras.models.clone_model(model)`). Received: "
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
    """Copies a trained model with the strongest channels of each layer first.

    The copy computes what the model computes, in another order: channels that are
    added to each other, or go through the same depthwise convolution, move together.
    Only channels between a stem and a readout move; see `to_any_width`.

    A channel's importance is the mean size of its factors `gamma` in the
    BatchNormalizations that it goes through, else the L1 norm of the kernels that make
    it.

    Args:
        model: A trained functional or Sequential model; it is left as it is.
        readouts: See `to_any_width`.

    Returns:
        A functional `keras.Model` of the same layers, not compiled.

    Raises:
        TypeError: See `to_any_width`.
        ConversionError: See `to_any_width`.
        ValueError: If the model is untrained or has Tri layers.

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
    """Unfreezes layers that lost weights, and statistics that no longer hold."""
    cut: list[str] = []
    unfrozen: list[str] = []
    for node in model.propagation.nodes:
        layer = node.operation
        if not getattr(layer, "weights", []):
            continue
        loses = isinstance(layer, TriLayer) and layer.cuts_weights()
        # Frozen normalization keeps the statistics of the network as it was.
        follows = cut and isinstance(layer, keras.layers.BatchNormalization)
        if loses:
            cut.append(layer.name)
        if (loses or follows) and not layer.trainable:
            layer.trainable = True
            unfrozen.append(layer.name)
    if unfrozen:
        warnings.warn(
            f"Model '{model.name}': {_named(unfrozen)} are trainable again, although "
            "they were frozen: layers that lost what the triangle forbids must learn "
            "to do without, and normalization after them has other statistics. Freeze "
            "them (`layer.trainable = False`) if that is not meant, or keep them whole "
            "by `stages`, as in `stages={'block_1_*': {'min_width': 1.0}}`.",
            stacklevel=3,
        )


# ------------------------------------------------------------------------ analysis


def dissolved(model: keras.Model) -> keras.Model:
    """Copies a model to be converted without nested ones, or gives it as it is.

    Channel shuffles become one operation each.

    Args:
        model: What the user gave.

    Returns:
        A functional model.

    Raises:
        TypeError: See `to_any_width`.
    """
    if not isinstance(model, keras.Model):
        raise ArgumentTypeError(
            "`model` must be a Keras model; `keras.saving.load_model(path)` reads one "
            f"from a file. Received: {type(model)}"
        )
    if isinstance(model, AnyWidthModel):
        raise ArgumentTypeError(
            f"Model '{model.name}' is any-width already. For other widths convert the "
            "plain model that it was made of."
        )
    if not (has_graph(model) or isinstance(model, keras.Sequential)):
        model = with_inputs(model) or model
    nodes = graph_nodes(model)
    if has_own_call(model):
        raise ArgumentTypeError(
            f"Model '{model.name}' ({type(model).__name__}) has a `call` of its own, "
            "which its graph does not show. Convert a plain functional model."
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
    """Whether a layer is made of layers, and nothing is known of it as a whole."""
    return is_block(layer) and rule_of(layer) is None


def _graph_of(
    model: str,
    inner: dict[int, keras.Layer],
    layer: Any,
    args: Any,
    kwargs: dict[str, Any],
) -> keras.Model | None:
    """The graph of a layer; `inner` holds those of wrappers, which may be shared."""
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
        except Exception as fault:  # whatever a user's class raises, its code as well
            raise ConversionError(model, [str(error)]) from fault
        return None  # it may stand where it is; if not, findings say why


def traced_channels(model: keras.Model, readouts: Sequence[str] = ()) -> Trace:
    """Follows the channels of a model to be converted.

    Args:
        model: What `dissolved` gives.
        readouts: See `to_any_width`.

    Returns:
        The channels.

    Raises:
        TypeError: If `readouts` is no sequence of names.
        ConversionError: With all findings.
        ValueError: If `readouts` names what cannot be one.
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
                "called inside of the trunk and as a readout, and cannot be both. Use "
                "one layer for each."
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
            f"{error} Here {', '.join(names) or 'no layers'} are the last to mix "
            "channels before an output, and so would be readouts. If an output is a "
            "feature map, give it a readout of its own first, such as a Dense after "
            "pooling."
        )
        raise ConversionError(model.name, [finding]) from error
    return traced


def _why_closed(node: Any) -> Exception | None:
    """Why a layer that is made of layers could not be opened, if it is one."""
    if _opens(node.operation):
        try:
            opened(node.operation, node.arguments.args, node.arguments.kwargs)
        except UnsupportedError as error:
            return error
    return None


def _findings(refusals: list[tuple[Any, Exception]]) -> list[str]:
    """One text for each reason, with all layers that it holds for.

    Sizes of tensors do not make another reason of it.
    """
    layers: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, str] = {}
    for operation, error in refusals:
        reason = str(error).replace(repr(operation.name), "{}")
        reason = re.sub(r"\b(\d+|None)\b", "#", reason)
        texts.setdefault(reason, str(error))
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
    """The first names in full, the number of the others."""
    text = ", ".join(map(repr, names[:_NAMED]))
    return text + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")


def is_trained(model: keras.Model) -> bool:
    """Says whether a weight that starts from a constant has another value.

    These are biases, and the factors and statistics of normalization. A model without
    any is taken for trained, so that nothing is lost.

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
            continue  # an LSTM starts from another bias than its initializer's
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
            f"Model '{name}' is untrained: it has nothing worth keeping that could "
            f"fade out. Leave `fade` out. Received: fade={fade}"
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
    """Gives all BatchNormalization of a functional model another momentum.

    Args:
        model: The model, with no model nested in it.
        momentum: Of the moving statistics, in [0, 1).
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum


def _moves(order: str, traced: Trace, widths: Widths) -> np.ndarray | None:
    """For each label that of the channel that takes its place, if they move."""
    if order == "importance":
        return moves_of(traced)
    if order == "reading":
        return moves_for_reading(traced, traced.grades(widths))
    return None


def _check_can_be_ordered(model: keras.Model, trained: bool) -> None:
    if not trained:
        raise ArgumentError(
            f"Model '{model.name}' is untrained: its channels have no importance yet. "
            "Use `order='keep'`, or load trained weights first."
        )
    tri = [layer.name for layer in model.layers if isinstance(layer, TriLayer)]
    if tri:
        raise ArgumentError(
            f"Model '{model.name}' has Tri layers, such as '{tri[0]}', whose channels "
            "have their order. Use `order='keep'`."
        )


# -------------------------------------------------------------------------- copies


class Copies:
    """The layers of a new graph, each made from one of the old graph.

    Args:
        traced: The old graph's channels.
        sizes: New numbers of channels, by `id` of the layer.
        tri: Whether layers of the trunk that mix channels become Tri layers.
        moves: For each label the label of the channel that takes its place, if they
            move; their number stays then.
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
            # A shared Reshape, say, may have a shape of its own at each of its calls.
            copy = self._resized(rule.resize, layer, flow)
        elif id(layer) in self.copies:
            copy = self.copies[id(layer)][1]
        else:
            copy = self._copy(layer, flow, *args)
            self.copies[id(layer)] = (layer, copy, flow)
        return copy(*args, **kwargs)

    def _ends(self, flow: Flow) -> np.ndarray:
        """How many channels a widened tensor has before each place; see `WidthRule`."""
        return self._ends_of(flow.inputs[0], flow.input_shapes[0])

    def _ends_of(self, kind: Kind, shape: tuple[Any, ...]) -> np.ndarray:
        if not isinstance(kind, Labelled):
            return np.arange(shape[-1] + 1)
        return np.append(0, np.cumsum(self._counts[kind.labels]))

    def _check_arrays(self, operation: Any, flow: Flow) -> None:
        """An array has no entries for new channels."""
        arrays = arrays_of_channels(operation, flow)
        if not arrays or not isinstance(flow.output, Labelled):
            return
        if (self._counts[flow.output.labels] != 1).any():
            name, (array, _) = next(iter(arrays.items()))
            raise ArgumentError(
                f"Operation '{operation.name}' ({type(operation).__name__}): "
                f"`{name}`, an array of shape {np.shape(array)}, has an entry for each "
                "channel, and none for those of a model of another size. Use a layer "
                "that makes it of the shape of its input, with a width rule, or leave "
                "the layers before it as they are: `width_multiplier` may be a mapping "
                "from names of layers to numbers."
            )

    def _sources(self, flow: Flow) -> np.ndarray:
        """For each channel of the new output the place of the old one; see `Flow`."""
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
            # A layer that makes no channels has as many of each as before.
            old = flow.output_shape[-1]
            each = old // flow.input_shapes[0][-1]
            new = self.sizes.get(id(layer), old) if mixes else args[0].shape[-1] * each
            changes.update(rule.sized(layer, new))
        graded = comes_and_goes(flow.inputs[0]) and comes_and_goes(flow.output)
        if self.tri and (graded or (mixes and rule.recurs)):
            layer_class = rule.triangular or layer_class
        if issubclass(layer_class, TriLayer):
            changes.update(dict.fromkeys(layer_class.place_arguments))  # a new place
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
        """A layer that does to the new channels what the old one did to its own."""
        changes = resize(layer, flow, self._ends(flow))
        if id(layer) in self.copies:
            changes["name"] = f"{layer.name}_{keras.backend.get_uid('again')}"
        copy = copy_layer(layer, **changes)
        self.copies.setdefault(id(layer), (layer, copy, flow))
        return copy

    def assign(self, *, redraw: bool = False) -> None:
        """Copies the weights.

        Args:
            redraw: Whether Tri layers and widened ones keep the weights drawn for
                them. What a frozen or an adapted layer holds is copied anyway.
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
