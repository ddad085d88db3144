"""Finds how each tensor of a functional graph depends on the width.

A plain Conv or Dense on a Fixed tensor is a *stem*. A plain Conv or Dense on a Graded
tensor is a *readout*. The layers after a readout are the *tail*; the layers before it
are the *trunk*.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, UnsupportedError
from awn_keras.graph import (
    data_tensors,
    graph_nodes,
    is_stock,
    operation_of,
)
from awn_keras.layers.base import TriLayer
from awn_keras.reach import Readings
from awn_keras.rules import (
    Channels,
    Fixed,
    Flow,
    Graded,
    Kind,
    Labelled,
    LayerCall,
    PerWidth,
    Unknown,
    WidthRule,
    axes_of,
    check_each_sample_alone,
    check_mixes_no_samples,
    comes_and_goes,
    is_opaque,
    mixes_channels,
    refusal_of,
    rule_of,
    traits_of,
    unique,
)
from awn_keras.slices import names_of, weights_of
from awn_keras.stages import Widths


@dataclass(frozen=True)
class Propagation:
    """Kinds of all tensors of a functional model.

    Args:
        nodes: Calls of the graph, in order.
        kinds: Kind of each tensor, by `id` of the tensor.
        flows: Kinds and shapes at each call, by `id` of the node.
    """

    nodes: list[Any]
    kinds: dict[int, Kind]
    flows: dict[int, Flow]


@dataclass(frozen=True)
class Trace:
    """Labels of all channels in a functional model, before they get grades.

    Channels with equal labels come and go together.

    Args:
        propagation: Kinds of all tensors, with `Labelled` in place of `Graded`.
        channels: All labels.
    """

    propagation: Propagation
    channels: Channels

    def makers(self) -> list[tuple[Any, np.ndarray]]:
        """Layers that make channels, with labels, by ascending number of channels."""
        roots, made = self.channels.resolve(), self.channels.made
        layers = {id(node.operation): node.operation for node in self.propagation.nodes}
        pairs = [(layers[key], roots[labels]) for key, labels in made.items()]
        return sorted(pairs, key=lambda pair: len(unique(pair[1])))

    def standard_grades(self, widths: Widths) -> np.ndarray:
        """Grades as each layer would have them alone. Joined layers share grades.

        Args:
            widths: The widths at which channels may appear.

        Returns:
            float64 array `(labels,)`.

        Raises:
            ValueError: If a stage applies to no layer.
        """
        names = {id(layer): layer.name for layer, _ in self.makers()}
        widths.check_names(list(names.values()))
        return self.channels.grades(
            lambda key, channels: widths.grades(channels, names[key])
        )

    def grades(self, widths: Widths) -> np.ndarray:
        """Grades of all channels in this graph; see `standard_grades`."""
        standard = self.standard_grades(widths)
        nested = widths.staircase == "nested"
        return self.readings().raised(standard) if nested else standard

    def with_grades(self, grades: np.ndarray) -> Propagation:
        """Replaces labels by grades.

        Args:
            grades: float64 array `(labels,)`.

        Returns:
            The kinds of all tensors.

        Raises:
            ValueError: If a layer would have no channel at the smallest width.
        """
        propagation = _each_kind(
            self.propagation, lambda kind: Graded(grades[kind.labels])
        )
        read = {id(x) for node in propagation.nodes for x in node.input_tensors}
        for node in propagation.nodes:
            # No layer may read a part of a `split`, and then its grades do not matter.
            kinds = [propagation.kinds[id(x)] for x in node.outputs if id(x) in read]
            if any(isinstance(k, Graded) and k.grades.min() > 0 for k in kinds):
                raise ArgumentError(
                    f"Layer '{node.operation.name}' ({type(node.operation).__name__}) "
                    "would have no channel at the smallest width. Its channels are "
                    "joined (by Add, or by a shared layer) with channels that appear "
                    "only at larger widths."
                )
        return propagation

    def kept_grades(self) -> np.ndarray:
        """Grades of Tri layers that were part of a model before.

        Returns:
            float64 array `(labels,)`; NaN for a channel without an earlier grade.
        """
        kept = np.full(len(self.channels.resolve()), np.nan)
        for node in self.propagation.nodes:
            flow, layer = self.propagation.flows[id(node)], node.operation
            if not isinstance(layer, TriLayer):
                continue
            sides = (flow.inputs[0], layer.in_grades), (flow.output, layer.out_grades)
            for kind, grades in sides:
                if isinstance(kind, Labelled) and grades is not None:
                    # Grades that do not fit give an error later, in `set_grades`.
                    fits = len(grades) == len(kind.labels)
                    kept[kind.labels] = grades if fits else np.nan
        return kept

    def readings(self) -> Readings:
        """The channels that each channel reads."""
        traced = self.propagation
        return Readings.of(traced.nodes, traced.flows, self.channels)


def trace(
    model: keras.Model,
    as_tri: Collection[int] | None = None,
    refusals: list[tuple[Any, Exception]] | None = None,
) -> Trace:
    """Follows the channels through a functional model.

    Args:
        model: A functional model.
        as_tri: In a conversion, `id` of each plain layer that becomes a Tri layer.
            `None` outside a conversion.
        refusals: A list that gets the operation and the error of each call that breaks
            a rule; the walk then continues. `None` raises the first error.

    Returns:
        Labels of all channels. Channels that must come and go together have equal
        labels.

    Raises:
        ValueError: If a layer breaks the rule of any-width networks.
        NotImplementedError: If there is no width rule for a layer.
        TypeError: If the model has no graph.
    """
    channels = Channels()
    kinds: dict[int, Kind] = {id(x): Fixed() for x in model.inputs}
    flows: dict[int, Flow] = {}
    seen: dict[int, Flow] = {}
    nodes = graph_nodes(model)
    last = last_mixers(model, nodes)
    for node in nodes:
        inputs = tuple(kinds[id(x)] for x in data_tensors(node))
        call = LayerCall(
            node,
            inputs,
            channels,
            last=id(node) in last,
            converting=as_tri is not None,
            as_tri=id(node.operation) in (as_tri or ()),
        )
        try:
            outputs = _output_kinds(call)
            flow = call.flow(inputs, outputs[0])
            _check_rule_fits(call, flow)
            _join_calls(call, seen.setdefault(id(node.operation), flow), flow)
        except (NotImplementedError, ValueError) as error:
            if refusals is None:
                raise
            refusals.append((node.operation, error))
            # A guess, so that one cause is not reported again at each later layer.
            outputs = [_likely_kind(call)] * len(node.outputs)
            flow = call.flow(inputs, outputs[0])
        flows[id(node)] = flow
        kinds.update(zip(map(id, node.outputs), outputs, strict=True))
    roots = channels.resolve()
    traced = _each_kind(
        Propagation(nodes, kinds, flows), lambda kind: Labelled(roots[kind.labels])
    )
    return Trace(traced, channels)


def propagate(
    model: keras.Model, widths: Widths, as_tri: Collection[int] | None = None
) -> Propagation:
    """Finds the kind of every tensor in a functional model.

    Args:
        model: A functional model.
        widths: The widths at which channels may appear.
        as_tri: `id` of each plain layer whose channels come and go like those of a Tri
            layer. `None` for a model with its own Tri layers.

    Returns:
        The kinds. The model does not change.

    Raises:
        ValueError: If a layer breaks the rule of any-width networks, or if the model
            has no readout.
        NotImplementedError: If there is no width rule for a layer.
        TypeError: If the model has no graph.
    """
    traced = trace(model, as_tri)
    check_outputs(model, traced.propagation)
    return traced.with_grades(traced.standard_grades(widths))


def propagate_triangles(
    model: keras.Model, widths: Widths
) -> tuple[Propagation, Propagation]:
    """Finds the grades of all channels, for the triangles and for the outputs.

    Args:
        model: A functional model with its own Tri layers.
        widths: See `propagate`. In a nested staircase a channel appears only at the
            width at which an output first depends on the channel.

    Returns:
        The kinds of all tensors twice. The first have the grades of the triangles. The
        second have as grade the smallest width at which an output depends on the
        channel, or infinity. In a nested staircase, first and second are equal unless
        layers keep grades from another model.

    Raises:
        ValueError: See `propagate`.
        NotImplementedError: See `propagate`.
        TypeError: See `propagate`.
    """
    traced = trace(model)
    check_outputs(model, traced.propagation)
    standard = traced.standard_grades(widths)
    readings = traced.readings()
    grades = traced.grades(widths)
    kept = traced.kept_grades()
    has_place = ~np.isnan(kept)
    # Layers of another model, or of a file, keep their grades if the grades are widths
    # of this model. In the other model, other readers may have raised some grades.
    same_start = np.array_equal(kept[has_place] == 0, standard[has_place] == 0)
    # With stages, each layer has its own widths, so a grade of this model may be a
    # grade of another layer.
    known = np.isin(kept[has_place], standard).all() and not widths.stages
    same = np.array_equal(kept[has_place], grades[has_place])
    if same_start and (known or same):
        grades = np.where(has_place, kept, grades)
    return traced.with_grades(grades), traced.with_grades(readings.reached(grades))


def _each_kind(
    propagation: Propagation, relabelled: Callable[[Labelled], Kind]
) -> Propagation:
    """Replaces each `Labelled` of a propagation."""

    def new(kind: Kind) -> Kind:
        return relabelled(kind) if isinstance(kind, Labelled) else kind

    return Propagation(
        propagation.nodes,
        {key: new(kind) for key, kind in propagation.kinds.items()},
        {
            key: replace(
                flow, inputs=tuple(map(new, flow.inputs)), output=new(flow.output)
            )
            for key, flow in propagation.flows.items()
        },
    )


def last_mixers(model: keras.Model, nodes: list[Any]) -> set[int]:
    """Finds the calls of the last layers before an output that mix channels.

    Args:
        model: A functional model.
        nodes: Calls of the model, in order.

    Returns:
        `id` of each node that mixes channels and from which a path leads to an output
        without another such node.
    """
    # Tensors from which a path without a mixing layer leads to an output. In reversed
    # order, all readers of a tensor come before the call that makes the tensor.
    exposed = {id(x) for x in model.outputs}
    last = set()
    for node in reversed(nodes):
        if not any(id(x) in exposed for x in node.outputs):
            continue
        if mixes_channels(node.operation):
            last.add(id(node))
        else:
            exposed.update(id(x) for x in node.input_tensors)
    return last


def inner_mixers(model: keras.Model) -> set[int]:
    """Finds the layers of a plain model that mix channels and are not readouts.

    Args:
        model: A functional model.

    Returns:
        `id` of each layer.
    """
    nodes = graph_nodes(model)
    last = last_mixers(model, nodes)
    return {
        id(node.operation)
        for node in nodes
        if mixes_channels(node.operation) and id(node) not in last
    }


def _join_calls(call: LayerCall, first: Flow, flow: Flow) -> None:
    """Joins the channels of all calls of a shared layer, because they share weights."""
    # Without weights, calls have nothing in common.
    if not weights_of(call.layer) or first is flow:
        return
    for before, now in zip(
        (*first.inputs, first.output), (*flow.inputs, flow.output), strict=True
    ):
        if isinstance(before, Unknown) or isinstance(now, Unknown):
            continue
        if isinstance(before, Labelled) and isinstance(now, Labelled):
            call.channels.join(before.labels, now.labels)
        elif before != now:
            raise call.error(
                "is called several times, but only some of the calls have channels "
                "that come and go with the width. Weights cannot do both. Use a layer "
                "for each call."
            )


def _likely_kind(call: LayerCall) -> Kind:
    """A kind for the output of a refused call that causes no further refusals."""
    tail = [kind for kind in call.kinds if isinstance(kind, PerWidth)]
    others = [kind for kind in call.kinds if isinstance(kind, Labelled | Unknown)]
    if tail and not others:
        return tail[0]
    for kind, shape in zip(call.kinds, call.input_shapes, strict=True):
        if isinstance(kind, Labelled) and shape == call.output_shape:
            return kind
    return Unknown() if others else Fixed()


def _after_refusal(call: LayerCall) -> Kind | list[Kind]:
    """The kind of a call's output if the call reads the output of a refused call.

    Layers without a rule, and layers that mix channels, are checked as if the unknown
    inputs had channels that are always active. So a layer that no graded channels suit
    is reported as well. Other layers are not checked.
    """
    rule = rule_of(call.layer)
    if rule is None or rule.stem:
        known = [
            Labelled(call.channels.always_on(shape[-1] or 1))
            if isinstance(kind, Unknown)
            else kind
            for kind, shape in zip(call.kinds, call.input_shapes, strict=True)
        ]
        return _output_kind(replace(call, kinds=tuple(known)))
    return _likely_kind(call)


def _output_kinds(call: LayerCall) -> list[Kind]:
    """The kind of each output."""
    kinds = _output_kind(call)
    return kinds if isinstance(kinds, list) else [kinds] * len(call.node.outputs)


def _output_kind(call: LayerCall) -> Kind | list[Kind]:
    layer = call.layer
    rule = rule_of(layer)
    if any(isinstance(kind, Unknown) for kind in call.kinds):
        return _after_refusal(call)
    if any(isinstance(kind, PerWidth) for kind in call.kinds):
        return _tail(call, rule)
    if all(isinstance(kind, Fixed) for kind in call.kinds):
        return _on_fixed(call, rule)
    if isinstance(layer, keras.Model):
        raise _nested(call)
    if rule is not None:
        return rule.output(call)
    reason = refusal_of(layer)
    if reason is not None:
        raise call.error(f"cannot stand before the readout: {reason}.")
    raise _no_rule(call)


def _on_fixed(call: LayerCall, rule: WidthRule | None) -> Kind | list[Kind]:
    """The output kind of a call whose inputs are equal at every width."""
    layer = call.layer
    # The last mixing layer before an output is no stem: its outputs must always exist.
    if rule is not None and rule.stem and not call.last:
        return rule.output(call)
    if rule is None and getattr(layer, "trainable_weights", None):
        # Without this error, a backbone inside the layer would silently keep its size.
        if isinstance(layer, keras.Model):
            raise _nested(call)
        if not is_stock(layer) or is_opaque(layer):
            raise _no_rule(call)
    return Fixed()


def _no_rule(call: LayerCall) -> UnsupportedError:
    name = type(call.layer).__name__
    if not isinstance(call.layer, keras.Layer):
        return UnsupportedError(
            f"No width rule for operation '{call.layer.name}' ({name}) before the "
            "readout. Use a layer in its place: a stock layer, or your own layer with "
            "`register_width_rule`."
        )
    return UnsupportedError(
        f"No width rule for layer '{call.layer.name}' ({name}). If the layer treats "
        f"each channel separately, call `register_width_rule({name})`. Otherwise the "
        "layer can only stand after the readout."
    )


def _check_rule_fits(call: LayerCall, flow: Flow) -> None:
    """Checks that a layer has the weights and channels that its width rule names."""
    rule = rule_of(call.layer)
    if isinstance(flow.output, Graded):
        raise call.error(
            "its width rule must return `Labelled(labels)`, with labels from "
            "`call.labels()`. Received: Graded"
        )
    if rule is None or not isinstance(flow.output, Labelled):
        return
    if len(flow.output.labels) != call.output_shape[-1]:
        raise call.error(
            f"its width rule gives {len(flow.output.labels)} labels for "
            f"{call.output_shape[-1]} channels."
        )
    weights = {
        name: weight.shape
        for weight in weights_of(call.layer)
        for name in names_of(weight)[::-1]
    }
    _check_names_weights(call, flow, rule, weights)
    for argument, axes, channels in zip(
        ("in_axes", "out_axes"),
        (rule.in_axes, rule.out_axes),
        flow.channels(),
        strict=True,
    ):
        if weights and axes and not set(weights) & {*rule.in_axes, *rule.out_axes}:
            names = sorted({weight.name for weight in weights_of(call.layer)})
            raise call.error(
                f"its width rule names none of the layer's weights {names}. "
                f"Received: {argument}={dict(axes)}"
            )
        for name in set(axes) & set(weights):
            shape = weights[name]
            for each in axes_of(axes[name]):
                fits = -len(shape) <= each.axis < len(shape) and (
                    shape[each.axis] == 1
                    or each.entries(shape[each.axis], channels) is not None
                )
                if not fits:
                    raise call.error(
                        f"axis {each.axis} of weight '{name}' of shape {tuple(shape)} "
                        f"does not follow {channels} channels. Received: "
                        f"{argument}={dict(axes)}"
                    )


def _check_names_weights(
    call: LayerCall, flow: Flow, rule: WidthRule, weights: Mapping[str, Any]
) -> None:
    """Checks that a rule names weights if weights of the layer have channels.

    Training does not show the mistake. Only a slim network has weights of another
    shape.
    """
    if rule.in_axes or rule.out_axes:
        return
    following = [
        name
        for name, shape in weights.items()
        if "/" not in name and set(flow.channels()) & {*shape} - {1}
    ]
    if following:
        raise call.error(
            f"its width rule names no weights, but {sorted(following)} have as many "
            "entries as there are channels. Name these weights in `in_axes` or "
            "`out_axes`. (A layer that consists of layers needs no rule, because the "
            "conversion opens it.)"
        )


def _nested(call: LayerCall) -> UnsupportedError:
    return UnsupportedError(
        f"Nested model '{call.layer.name}' ({type(call.layer).__name__}): a nested "
        "model must have no trainable weights, and must only preprocess the inputs. "
        "Call its layers on the outer tensors instead, so that all layers are in one "
        "graph."
    )


def _tail(call: LayerCall, rule: WidthRule | None) -> Kind:
    """The kind after a readout: all channels exist, but values depend on the width."""
    readout = next(k.readout for k in call.kinds if isinstance(k, PerWidth))
    if any(isinstance(kind, Labelled) for kind in call.kinds):
        raise call.error(
            "joins channels that come and go with the width with outputs of the "
            f"readout '{readout}'. Put a readout (Dense, Conv) on the channels that "
            "come and go first."
        )
    hint = (
        f"'{readout}' is a plain layer on channels that come and go with the width, so "
        f"it is a readout: its outputs depend on the width. If '{readout}' belongs "
        "before the readout, use its Tri layer (TriConv2D, TriDense)"
    )
    if call.converting:
        hint = (
            f"'{readout}' is the last layer that mixes channels before an output of "
            "the model, so it is the readout: its outputs depend on the width. If the "
            "model ends in features (`include_top=False`), add a readout first, such "
            "as a Dense layer after pooling"
        )
    reason = traits_of(call.layer).tail
    if reason is not None:
        raise call.error(
            f"cannot stand after a readout, because {reason}. {hint}. Otherwise leave "
            "the layer out."
        )
    if not isinstance(call.layer, keras.Layer):
        check_each_sample_alone(call)
        return PerWidth(readout)
    check_mixes_no_samples(call)
    name = type(call.layer).__name__
    # Code that the walk cannot see may mix the samples of a batch.
    hides = is_opaque(call.layer) or isinstance(call.layer, keras.Model)
    if rule is None and (hides or not is_stock(call.layer)):
        raise UnsupportedError(
            f"No width rule for layer '{call.layer.name}' ({name}) after the readout "
            f"'{readout}'. If the layer computes each sample of a batch separately, "
            f"call `register_width_rule({name}, WidthRule(per_sample))`."
        )
    return PerWidth(readout)


def check_outputs(model: keras.Model, propagation: Propagation) -> None:
    """Checks that all outputs exist at every width, and that some depend on the width.

    Args:
        model: A functional model.
        propagation: Kinds of the model's tensors.

    Raises:
        ValueError: If an output has channels that come and go, or if no output depends
            on the width.
    """
    kinds = propagation.kinds
    graded = [
        operation_of(output).name
        for output in model.outputs
        if comes_and_goes(kinds[id(output)])
    ]
    if graded:
        raise ArgumentError(
            f"The model has no readout before its output '{graded[0]}', whose channels "
            "come and go with the width. End the model with a plain layer, such as "
            "`keras.layers.Dense(classes)`, whose outputs exist at every width."
        )
    if not any(isinstance(kinds[id(output)], PerWidth) for output in model.outputs):
        raise ArgumentError(
            "No output of the model depends on the width. An any-width network has a "
            "stem (a plain Conv2D or Dense on the input), Tri layers, and a readout. "
            "End the model with a plain layer, such as `keras.layers.Dense(classes)`."
        )
