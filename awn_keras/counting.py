"""Counts multiply-accumulates (MACs) and weights of a model at a width."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, UnsupportedError
from awn_keras.graph import graph_nodes, has_graph
from awn_keras.layers.base import TriangularKernel
from awn_keras.layouts import LAYOUTS, Cut, candidates, choose_cuts, default_widths
from awn_keras.multi_width import MultiWidthModel, check_any_width_model
from awn_keras.rules import (
    CallSize,
    Channels,
    Fixed,
    Flow,
    LayerCall,
    has_unknown_macs,
    traits_of,
)
from awn_keras.slices import along, channel_axes, sides, weights_of
from awn_keras.widths import check_width, check_widths


def count_macs(
    model: keras.Model,
    width: float | None = None,
    *,
    layout: str = "dense",
    widths: Sequence[float] | None = None,
) -> int:
    """Counts multiply-accumulate operations (MACs) for one sample.

    Convolutions, dense layers, recurrent layers and attention count. Bias,
    normalization (devices fold it into a convolution), activations and pooling do not
    count.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.
        width: Width in [min_width, 1]. `None` for 1.
        layout: `"dense"` counts the MACs of a slimmed model, with multiplications by
            zeros of the triangle. `"auto"` and `"triangular"` count the MACs of a file
            that `export_tflite` writes with this layout. For a model without triangles,
            all layouts count as `"dense"`.
        widths: Widths of the file. Kernels are cut at these widths and at `width`.
            `None` for the default widths of `export_tflite`.

    Returns:
        The number of MACs.

    Raises:
        ValueError: If a width is out of range, if `layout` has no such value, or if the
            model's rows, cols or steps are not known.
        NotImplementedError: If the MACs of a layer are not known, such as those of your
            own layer with a kernel and without `macs` in its `WidthRule`. The message
            names all layers that are not counted. `summarize`, `list_networks` and
            `trade_off_curve` count the other layers.
    """
    if layout not in LAYOUTS:
        raise ArgumentError(f"`layout` must be one of {LAYOUTS}. Received: {layout!r}")
    if widths is not None:
        widths = check_widths(widths, getattr(model, "min_width", 0.0))
        if not widths:
            raise ArgumentError(
                "`widths` must have at least one width. Received: widths=[]"
            )
    return int(macs_at(model, _one_width(model, width), layout, widths)[0])


def count_parameters(model: keras.Model, width: float | None = None) -> int:
    """Counts the weights of a slimmed model, trainable or not.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.
        width: Width in [min_width, 1]. `None` for 1.

    Returns:
        The number of weights, equal to `slim(model, width).count_params()`.

    Raises:
        ValueError: If the width is out of range.
    """
    return int(parameters_at(model, _one_width(model, width))[0])


def count_active_parameters(model: MultiWidthModel, width: float) -> int:
    """Counts the weights that act at a width: the weights that no triangle forbids.

    Args:
        model: An `AnyWidthModel`, or a system of `awn_keras.baselines`.
        width: Width in [min_width, 1].

    Returns:
        `count_parameters` without the zeros of the triangles.

    Raises:
        TypeError: If `model` has only one width.
        ValueError: If the width is out of range.
    """
    check_any_width_model(model)
    return int(active_parameters_at(model, [check_width(width, model.min_width)])[0])


def _one_width(model: keras.Model, width: float | None) -> list[float]:
    if isinstance(model, MultiWidthModel):
        return [check_width(1.0 if width is None else width, model.min_width)]
    if width not in (None, 1.0):
        raise ArgumentError(
            f"`width` must be 1 or None: model '{model.name}' has only one width. "
            f"Received: width={width}"
        )
    return [1.0]


# --------------------------------------------------------- counting at many widths


def macs_at(
    model: keras.Model,
    widths: Sequence[float],
    layout: str = "dense",
    held: Sequence[float] | None = None,
) -> np.ndarray:
    """Counts MACs as `count_macs` does, at several widths at once.

    Args:
        model: See `count_macs`.
        widths: Widths of the model `(n,)`, which are not checked.
        layout: See `count_macs`.
        held: Widths of the file; see `widths` of `count_macs`.

    Returns:
        int64 array `(n,)`.

    Raises:
        ValueError: If the model's rows, cols or steps are not known.
        NotImplementedError: See `count_macs`.
    """
    count = known_macs(model, widths, layout, held)
    if count.uncounted:
        raise _all_uncounted(count.uncounted)
    return count.macs


@dataclass(frozen=True)
class Uncounted:
    """A layer whose MACs are not known.

    Args:
        name: Name of the layer. In a nested model, the model's name comes before it.
        error: The error with the reason.
    """

    name: str
    error: ArgumentError | UnsupportedError


@dataclass(frozen=True, eq=False)
class MacCount:
    """MACs of a model, as far as they are known.

    Args:
        macs: int64 array `(widths,)`: MACs of the layers that can be counted.
        uncounted: The layers that cannot be counted, each once.
    """

    macs: np.ndarray
    uncounted: tuple[Uncounted, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the layers that are not counted."""
        return [layer.name for layer in self.uncounted]

    def __add__(self, other: MacCount) -> MacCount:
        """The sum of two counts."""
        layers = {layer.name: layer for layer in (*self.uncounted, *other.uncounted)}
        return MacCount(self.macs + other.macs, tuple(layers.values()))


def known_macs(
    model: keras.Model,
    widths: Sequence[float],
    layout: str = "dense",
    held: Sequence[float] | None = None,
) -> MacCount:
    """Counts MACs as `count_macs` does, but leaves out layers that it cannot count.

    Args:
        model: See `count_macs`.
        widths: Widths of the model `(n,)`, which are not checked.
        layout: See `count_macs`.
        held: Widths of the file; see `widths` of `count_macs`.

    Returns:
        The known MACs, and the layers that are not counted.
    """
    total = MacCount(np.zeros(len(widths), np.int64))
    # A layer counts once for each call, because each call computes.
    total = sum((use.macs(widths) for use in layer_uses(model)), total)
    # Only kernels with triangles have zeros to leave out.
    if layout == "dense" or not isinstance(model, MultiWidthModel):
        return total
    held = default_widths(model) if held is None else held
    cuts = choose_cuts(model, held, layout)
    zeros = _zeros_left_out(model, widths, held, cuts)
    return MacCount(total.macs - zeros, total.uncounted)


def _all_uncounted(layers: Sequence[Uncounted]) -> Exception:
    """One error that names all layers whose MACs are not known."""
    errors = [layer.error for layer in layers]
    if len(errors) == 1:
        return errors[0]
    names = ", ".join(f"'{layer.name}'" for layer in layers)
    unsupported = [e for e in errors if isinstance(e, UnsupportedError)]
    return type((unsupported or errors)[0])(
        f"Cannot count the MACs of {len(layers)} layers: {names}. "
        + " ".join(dict.fromkeys(map(str, (unsupported or errors)[:1])))
    )


def warn_of_uncounted(name: str, layers: Sequence[Uncounted], stacklevel: int) -> None:
    """Warns that counts of MACs lack layers. Does nothing if they lack none.

    Args:
        name: Name of the model.
        layers: The layers that are not counted.
        stacklevel: `stacklevel` of `warnings.warn`, as if the caller called it.
    """
    if layers:
        warnings.warn(
            f"{WARNING} '{name}' are the MACs of only a part of its layers. "
            f"{_all_uncounted(layers)}",
            stacklevel=stacklevel + 1,
        )


#: First words of the warning that counts lack layers.
WARNING = "MACs of model"


def macs_cell(macs: int, uncounted: Sequence[str]) -> str:
    """A number of MACs in a table, with a plus if layers are not counted.

    Args:
        macs: The number.
        uncounted: Names of the layers that are not counted.
    """
    return f"{macs:,}" + "+" * bool(uncounted)


def uncounted_note(uncounted: Sequence[str]) -> list[str]:
    """The line below a table that explains the plus.

    Args:
        uncounted: Names of the layers that are not counted.

    Returns:
        A list with the line; empty if all layers are counted.
    """
    if not uncounted:
        return []
    names = ", ".join(f"'{name}'" for name in uncounted)
    return [f"+: plus the MACs of layers that cannot be counted: {names}"]


def executed_macs(
    model: MultiWidthModel, widths: Sequence[float], cuts: Mapping[str, Cut]
) -> np.ndarray:
    """Counts the MACs that a file with given cuts computes.

    Args:
        model: The model.
        widths: The widths of the file `(n,)`.
        cuts: The cuts by layer name, as `choose_cuts` gives them.

    Returns:
        int64 array `(n,)`: MACs for one sample, without layers that cannot be counted.
    """
    zeros = _zeros_left_out(model, widths, widths, cuts)
    return known_macs(model, widths).macs - zeros


def executed_at_full_width(model: MultiWidthModel) -> tuple[int, int]:
    """Counts the MACs and the weights at width 1 of a file from `export_tflite`.

    Args:
        model: The model.

    Returns:
        MACs for one sample (see `executed_macs`), and the number of stored weights.
    """
    held = default_widths(model)
    cuts = choose_cuts(model, held)
    layers = candidates(model)
    weights = sum(
        layers[name].area * layers[name].left_out(1.0, option)
        for name, option in cuts.items()
    )
    macs = int(executed_macs(model, held, cuts)[-1])
    return macs, count_parameters(model) - weights


def _zeros_left_out(
    model: MultiWidthModel,
    widths: Sequence[float],
    held: Sequence[float],
    cuts: Mapping[str, Cut],
) -> np.ndarray:
    total = np.zeros(len(widths), np.int64)
    layers = candidates(model)
    calls = Counter(node.operation.name for node in model.propagation.nodes)
    for name, option in cuts.items():
        layer = layers[name]
        ends = [out for _, out in option.ends]
        # A file holds each kernel once, so the blocks of all its widths together decide
        # which zeros a width leaves out.
        zeros = [
            layer.unit_macs * layer.left_out(width, layer.cut_at([*held, width], ends))
            for width in widths
        ]
        total += calls[name] * np.array(zeros, np.int64)
    return total


def parameters_at(model: keras.Model, widths: Sequence[float]) -> np.ndarray:
    """Counts weights as `count_parameters` does, at several widths at once.

    Args:
        model: See `count_parameters`.
        widths: Widths of the model `(n,)`, which are not checked.

    Returns:
        int64 array `(n,)`.
    """
    total = np.zeros(len(widths), np.int64)
    return sum((use.parameters(widths) for use in layer_uses(model)), total)


def active_parameters_at(model: MultiWidthModel, widths: Sequence[float]) -> np.ndarray:
    """Counts weights as `count_active_parameters` does, at several widths at once.

    Args:
        model: See `count_active_parameters`.
        widths: Widths of the model `(n,)`, which are not checked.

    Returns:
        int64 array `(n,)`.
    """
    total = parameters_at(model, widths)
    for use in layer_uses(model):
        if not isinstance(use.layer, TriangularKernel):
            continue
        followed = sides(use.layer, use.flows[0])
        for name, kernel in use.layer.triangular_variables.items():
            forbidden = ~use.layer.masks[name]
            sizes = list(kernel.shape)
            places: list[Any] = [0] * len(sizes)
            for axes, grades in followed:
                for axis, entries in channel_axes(kernel, axes, len(grades)):
                    of_axis = along(entries, grades)
                    # Cumulative sums in the order of grades, with a 0 in front for a
                    # width at which no channel is active.
                    order, last = np.argsort(of_axis, kind="stable"), axis - len(sizes)
                    forbidden = np.take(forbidden, order, last).cumsum(last)
                    none = np.zeros_like(np.take(forbidden, [0], last))
                    forbidden = np.concatenate([none, forbidden], last)
                    places[axis] = np.searchsorted(of_axis[order], widths, "right")
                    sizes[axis] = 1  # the sums over the mask include this axis
            zeros = forbidden[tuple(places[-forbidden.ndim :])]
            total = total - zeros * math.prod(sizes)
    return total


@dataclass(frozen=True, eq=False)
class LayerUse:
    """A layer of a model with all its calls, for counts at several widths.

    Args:
        layer: The layer, or an operation of `keras.ops`.
        flows: Inputs and outputs of each call; at least one call.
    """

    layer: Any
    flows: list[Flow]

    def channels(self, widths: Sequence[float]) -> np.ndarray:
        """Active channels of the first call's output, int64 `(widths,)`."""
        return _active_counts(self.flows[0], widths)[1]

    def macs(self, widths: Sequence[float]) -> MacCount:
        """MACs of all calls for one sample."""
        total = MacCount(np.zeros(len(widths), np.int64))
        for flow in self.flows:
            total += _macs(self.layer, flow, widths)
        return total

    def parameters(self, widths: Sequence[float]) -> np.ndarray:
        """Number of weights, int64 `(widths,)`. All calls share the weights."""
        followed = sides(self.layer, self.flows[0])
        total = np.zeros(len(widths), np.int64)
        for weight in weights_of(self.layer):
            sizes: list[Any] = list(weight.shape)
            for axes, grades in followed:
                for axis, entries in channel_axes(weight, axes, len(grades)):
                    of_axis = np.sort(along(entries, grades))
                    sizes[axis] = np.searchsorted(of_axis, widths, side="right")
            total += math.prod(sizes)
        return total


def layer_uses(model: keras.Model) -> list[LayerUse]:
    """Lists the layers and operations of a model, each once.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.

    Returns:
        The layers with their calls, in the order of the first call, without inputs.

    Raises:
        TypeError: If the model has no graph.
    """
    if isinstance(model, MultiWidthModel):
        flows = model.propagation.flows
        calls = [(node.operation, flows[id(node)]) for node in model.propagation.nodes]
    else:
        calls = _graph_flows(model)
    uses: dict[int, LayerUse] = {}
    for layer, flow in calls:
        uses.setdefault(id(layer), LayerUse(layer, [])).flows.append(flow)
    return list(uses.values())


def _graph_flows(model: keras.Model) -> list[tuple[Any, Flow]]:
    """Lists the calls of a plain functional model with their shapes.

    Args:
        model: A functional model of one width.

    Returns:
        Operation and flow of each call. Every kind is Fixed.

    Raises:
        TypeError: If the model has no graph.
    """
    calls = [LayerCall(node, (), Channels()) for node in graph_nodes(model)]
    return [
        (
            call.layer,
            call.flow((Fixed(),) * len(call.input_shapes), Fixed()),
        )
        for call in calls
    ]


def _active_counts(
    flow: Flow, widths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Active channels of the first input and of the output, each `(widths,)`."""
    into, out = (
        np.searchsorted(np.sort(grades), widths, side="right")
        for grades in flow.grades()
    )
    return into, out


def _inner_counts(layer: Any, flow: Flow, widths: Sequence[float]) -> Any:
    """Active channels inside the layer `(widths,)`; `None` if there are none."""
    _, _, *inner = sides(layer, flow)
    return np.searchsorted(inner[0][1], widths, side="right") if inner else None


def _macs(layer: Any, flow: Flow, widths: Sequence[float]) -> MacCount:
    """MACs of one call."""
    nothing = np.zeros(len(widths), np.int64)
    if isinstance(layer, keras.Model) and has_graph(layer):
        inner = known_macs(layer, [1.0])
        return MacCount(
            nothing + inner.macs,
            tuple(
                Uncounted(f"{layer.name}/{part.name}", part.error)
                for part in inner.uncounted
            ),
        )
    macs = traits_of(layer).macs
    try:
        if macs is not None:
            size = CallSize(
                layer.name,
                flow.input_shapes[0],
                flow.output_shape,
                *_active_counts(flow, widths),
                input_shapes=flow.input_shapes,
                named_shapes=flow.named_shapes,
                inner=_inner_counts(layer, flow, widths),
            )
            return MacCount(nothing + macs(layer, size))
        _check_has_no_macs(layer)
    except (ArgumentError, UnsupportedError) as error:
        return MacCount(nothing, (Uncounted(layer.name, error),))
    return MacCount(nothing)


def _check_has_no_macs(layer: Any) -> None:
    kind = f"layer '{layer.name}' ({type(layer).__name__})"
    if has_unknown_macs(layer):
        raise UnsupportedError(
            f"Cannot count the MACs of {kind}, an operation of `keras.ops`. Use a "
            "layer in its place."
        )
    if any("kernel" in weight.name for weight in weights_of(layer)):
        raise UnsupportedError(
            f"Cannot count the MACs of {kind}. Give its `WidthRule` a function `macs`."
        )
