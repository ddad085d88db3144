"""Slimming: a plain Keras model of one width of an any-width model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import UnitSpectralNorm
from awn_keras.errors import ArgumentError
from awn_keras.graph import copy_layer, fill, rebuild
from awn_keras.layers.base import TriLayer
from awn_keras.multi_width import MultiWidthModel, check_any_width_model
from awn_keras.rules import Flow, WidthRule, comes_and_goes, resized, rule_of
from awn_keras.slices import active, active_slices
from awn_keras.widths import check_width


def slim(
    model: MultiWidthModel, width: float, *, dtype: str | None = None
) -> keras.Model:
    """Copies the active part of a model into stock Keras layers.

    The slim model computes what the model computes at the width, with fewer weights and
    operations. The slim model needs no awn_keras to run or load. Layers keep their
    names.

    Args:
        model: An `AnyWidthModel`, or a model of `awn_keras.baselines`. It does not
            change.
        width: Width in [min_width, 1].
        dtype: Dtype policy of the new layers, such as `"float32"` for a model trained
            in mixed precision. `None` keeps the policy of each layer.

    Returns:
        A new functional `keras.Model`, not compiled. A kernel `(rows, cols, in, out)`
        keeps its active channels of `in` and `out`.

    Raises:
        TypeError: If `model` has one width only.
        ValueError: If `width` is outside [min_width, 1], or if the width rule of a
            layer gives a weight the wrong shape.

    Examples:
        >>> from awn_keras import lenet_3c1l, slim
        >>> model = lenet_3c1l()
        >>> small = slim(model, 0.5)
        >>> small.get_layer("conv2").kernel.shape
        (3, 3, 23, 23)

    Reference:
        Vu et al., Any-Width Networks (2020), section 4.1.
    """
    check_any_width_model(model)
    width = check_width(width, model.min_width)
    with model.state_at_hand():
        return _slim(model, width, dtype)


def slim_alike(
    model: MultiWidthModel, widths: Sequence[float], *, dtype: str
) -> list[keras.Model]:
    """Copies the networks of several widths as graphs with equal nodes.

    `slim` may use a simpler layer at some widths, for example for a normalization with
    a single block of channels. This function does not.

    Args:
        model: See `slim`.
        widths: Widths in [min_width, 1].
        dtype: See `slim`.

    Returns:
        A network for each width.
    """
    with model.state_at_hand():
        return [_slim(model, width, dtype, alike=True) for width in widths]


def _slim(
    model: MultiWidthModel, width: float, dtype: str | None, *, alike: bool = False
) -> keras.Model:
    flows = model.propagation.flows
    copies: dict[int, Any] = {}
    made: list[tuple[keras.Layer, keras.Layer, Flow]] = []

    def call(node: Any, *args: Any, **kwargs: Any) -> Any:
        layer, flow = node.operation, flows[id(node)]
        if not isinstance(layer, keras.Layer):
            run = resized(
                layer,
                flow,
                lambda: _ends(flow, width),
                lambda: np.flatnonzero(active(flow.output, flow.output_shape, width)),
            )
            return run(*args, **kwargs)
        copy = copies.get(id(layer))
        if copy is None and isinstance(layer, TriLayer):
            there = active(flow.output, flow.output_shape, width)
            copy = copies[id(layer)] = layer.stock_call(there, alike=alike, dtype=dtype)
        if copy is not None and not isinstance(copy, keras.Layer):
            return copy(*args)
        rule = rule_of(layer)
        if copy is None or (rule is not None and rule.resize is not None):
            # A shared layer such as Reshape may need another shape at each call.
            copy = _slim_layer(layer, flow, width, dtype, first=copy is None)
            if copies.get(id(layer)) is None:
                copies[id(layer)] = copy
            made.append((layer, copy, flow))
        return copy(*args, **kwargs)

    slimmed = keras.Model(*rebuild(model, call), name=model.name)
    for layer, copy, flow in made:
        _copy_weights(layer, copy, flow, width, model.weight_values(layer, width))
    return slimmed


def _ends(flow: Flow, width: float) -> np.ndarray:
    """Number of active input channels before each place; see `WidthRule`."""
    there = active(flow.inputs[0], flow.input_shapes[0], width)
    return np.append(0, np.cumsum(there))


def _copy_weights(
    layer: keras.Layer,
    copy: keras.Layer,
    flow: Flow,
    width: float,
    values: list[np.ndarray],
) -> None:
    slices = active_slices(layer, flow, width)
    values = [
        value[np.ix_(*index)] for value, index in zip(values, slices, strict=True)
    ]
    for weight, value in zip(copy.weights, values, strict=True):
        if tuple(weight.shape) != value.shape:
            raise ArgumentError(
                f"Layer '{layer.name}' ({type(layer).__name__}): its `WidthRule` gives "
                f"weight '{weight.name}' the shape {value.shape} at width {width}, but "
                f"the slim layer needs {tuple(weight.shape)}. Add the weight to "
                "`in_axes` or `out_axes` of the rule."
            )
    fill(copy, layer, values)


def _slim_layer(
    layer: keras.Layer, flow: Flow, width: float, dtype: str | None, *, first: bool
) -> keras.Layer:
    """Makes a stock layer for the active channels, without their weights yet."""
    changes: dict[str, Any] = {}
    if not first:
        changes["name"] = f"{layer.name}_at_{keras.backend.get_uid(layer.name)}"
    if dtype is not None:
        changes["dtype"] = dtype
    # A part of the kernel has another spectral norm than the whole.
    constraints = {n: v for n, v in vars(layer).items() if n.endswith("_constraint")}
    changes.update(
        (n, None) for n, v in constraints.items() if isinstance(v, UnitSpectralNorm)
    )
    rule = rule_of(layer) or WidthRule()
    if comes_and_goes(flow.output):
        channels = np.flatnonzero(active(flow.output, flow.output_shape, width))
        changes.update(rule.sized(layer, len(channels)))
        if rule.inner is not None:
            count = rule.inner.count(layer, channels)
            changes.update(rule.inner.sized(layer, count))
    if rule.resize is not None and comes_and_goes(flow.output):
        changes.update(rule.resize(layer, flow, _ends(flow, width)))
    if isinstance(layer, TriLayer):
        places = layer.place_arguments
        return copy_layer(layer, layer.stock_class, without=places, **changes)
    return copy_layer(layer, **changes)
