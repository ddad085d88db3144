"""The width-accuracy trade-off curve, and what a width costs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.files import write_whole
from awn_keras.layers.base import TriangularKernel
from awn_keras.multi_width import MultiWidthModel, check_any_width_model
from awn_keras.pictures import COLORS, MARKERS, axes_or_new
from awn_keras.propagation import Flow, active_slices, channel_axis, graph_flows
from awn_keras.rules import WidthRule, rule_of
from awn_keras.training.metrics import area_under_curve
from awn_keras.widths import check_width, check_widths

_L = keras.layers
_TRANSPOSED = (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
_DEPTHWISE = (_L.DepthwiseConv1D, _L.DepthwiseConv2D)
_SEPARABLE = (_L.SeparableConv1D, _L.SeparableConv2D)
#: Stock layers whose MACs are known: what has a convolution's or a dense kernel.
KERNEL_LAYERS = (
    *(_L.Conv1D, _L.Conv2D, _L.Conv3D, _L.Dense),
    *_TRANSPOSED,
    *_DEPTHWISE,
    *_SEPARABLE,
)


@dataclass(frozen=True)
class TradeOffCurve:
    """What each width achieves and costs. Lists have one entry for each width.

    Args:
        widths: Widths in (0, 1], ascending.
        accuracy: Accuracy in [0, 1]; empty if the model has no accuracy metric.
        loss: The compiled loss, regularization included.
        macs: Multiply-accumulate operations for one sample; see `count_macs`.
        parameters: Number of weights; see `count_parameters`.
        metrics: All compiled metrics by name.
    """

    widths: list[float]
    accuracy: list[float]
    loss: list[float]
    macs: list[int]
    parameters: list[int]
    metrics: dict[str, list[float]]

    @property
    def auc(self) -> float:
        """Area under the accuracy curve over the length of its range, in [0, 1].

        Raises:
            ValueError: If there is no accuracy.

        Reference:
            Vu et al., Any-Width Networks (2020), section 5.1.
        """
        self._need_accuracy()
        return area_under_curve(self.widths, self.accuracy)

    def _need_accuracy(self) -> None:
        if not self.accuracy:
            raise ValueError(
                "The curve has no accuracy. Compile the model with "
                "`metrics=['accuracy']`. Received: "
                f"metrics={sorted(self.metrics)}"
            )

    def __str__(self) -> str:
        """The curve as a table."""
        lines = [
            f"{'width':>8} {'accuracy':>9} {'loss':>8} {'MACs':>13} {'parameters':>11}"
        ]
        accuracy = self.accuracy or [float("nan")] * len(self.widths)
        rows = zip(
            *(self.widths, accuracy, self.loss, self.macs, self.parameters), strict=True
        )
        for width, right, loss, macs, parameters in rows:
            lines.append(
                f"{width:8.4f} {100 * right:7.2f} % {loss:8.4f} {macs:13,} "
                f"{parameters:11,}"
            )
        return "\n".join(lines)

    def to_json(self, path: str | Path) -> None:
        """Writes the curve, and its AUC where there is one, as JSON.

        Args:
            path: File to write.

        Raises:
            OSError: If it cannot be written.
        """
        content = asdict(self)
        if self.accuracy:
            content["auc"] = self.auc
        write_whole(Path(path), json.dumps(content, indent=1) + "\n")

    def to_csv(self, path: str | Path) -> None:
        """Writes a row for each width.

        Args:
            path: File to write; its columns are `width`, `accuracy` (if there is
                one), `loss`, `macs`, `parameters` and the metrics.

        Raises:
            OSError: If it cannot be written.
        """
        columns: dict[str, Sequence[float]] = {"width": self.widths}
        if self.accuracy:
            columns["accuracy"] = self.accuracy
        columns.update(loss=self.loss, macs=self.macs, parameters=self.parameters)
        columns.update({k: v for k, v in self.metrics.items() if k not in columns})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_whole(Path(path), text.getvalue())

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Draws accuracy over width.

        Args:
            ax: Matplotlib axes to draw on. `None` for new ones.
            label: Name of the curve in the legend. `None` for its AUC.

        Returns:
            The axes; `.figure.savefig(path)` writes a picture.

        Raises:
            TypeError: If `ax` is a path.
            ValueError: If there is no accuracy.
        """
        self._need_accuracy()
        ax = axes_or_new(ax)
        label = f"AUC {100 * self.auc:.2f} %" if label is None else label
        percent = 100 * np.asarray(self.accuracy)
        index = len(ax.get_lines())
        ax.plot(
            *(self.widths, percent),
            color=COLORS[index % len(COLORS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=3,
            label=label,
        )
        ax.set(xlabel="width", ylabel="accuracy (%)")
        ax.grid(alpha=0.3)
        ax.legend(loc="lower right")
        return ax


def trade_off_curve(
    model: MultiWidthModel,
    *args: Any,
    widths: Sequence[float] | None = None,
    **kwargs: Any,
) -> TradeOffCurve:
    """Evaluates a model at many widths, by one pass over the data.

    Args:
        model: A compiled model.
        *args: Data, as in `model.evaluate`: a data set, or `x` and `y`.
        widths: Widths in [min_width, 1], in any order. `None` for all that differ.
        **kwargs: As in `model.evaluate`; `verbose` is 0 if not given.

    Returns:
        The curve.

    Raises:
        TypeError: If `model` has one width only.
        ValueError: If the model is not compiled, a width is out of range, or `x` and
            `y` are given as one tuple.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import lenet_3c1l, trade_off_curve
        >>> model = lenet_3c1l((8, 8, 1), padding="same", widths_grid=[0.5, 1.0])
        >>> loss = "sparse_categorical_crossentropy"
        >>> model.compile("sgd", loss, metrics=["accuracy"])
        >>> curve = trade_off_curve(model, np.zeros((4, 8, 8, 1)), np.zeros(4))
        >>> curve.widths, curve.macs
        ([0.5, 1.0], [530472, 2004120])
    """
    check_any_width_model(model)
    if len(args) == 1 and isinstance(args[0], tuple) and "y" not in kwargs:
        raise ValueError(
            "Data must be given as for `evaluate`: `trade_off_curve(model, x, y)`, or "
            f"one data set. Received: a tuple of {len(args[0])} entries"
        )
    chosen = model.distinct_widths if widths is None else widths
    widths = sorted(set(check_widths(chosen, model.min_width)))
    results = model.evaluate_widths(*args, widths=widths, **{"verbose": 0, **kwargs})
    loss = results.pop("loss").tolist()
    metrics = {name: values.tolist() for name, values in results.items()}
    return TradeOffCurve(
        widths=widths,
        accuracy=metrics.get(model.accuracy_name or "", []),
        loss=loss,
        macs=macs_at(model, widths).tolist(),
        parameters=parameters_at(model, widths).tolist(),
        metrics=metrics,
    )


def count_macs(model: keras.Model, width: float | None = None) -> int:
    """Counts multiply-accumulate operations for one sample.

    Counted are convolutions and dense layers, as the dense kernels of a slimmed model
    run them; a multiplication by a zero of the triangle counts. Bias, normalization
    (folded into a convolution on devices), activations and pooling do not.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.
        width: Width in [min_width, 1]. `None` for 1.

    Returns:
        The number of MACs.

    Raises:
        ValueError: If the width is out of range, or the model's spatial sizes are not
            known.
        NotImplementedError: If the model has a layer with kernels of another kind
            (recurrent, attention), which cannot be counted.
    """
    return int(macs_at(model, _one_width(model, width))[0])


def count_parameters(model: keras.Model, width: float | None = None) -> int:
    """Counts the weights that a slimmed model has, trainable or not.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.
        width: Width in [min_width, 1]. `None` for 1.

    Returns:
        The number of weights, as `slim(model, width).count_params()` gives it.

    Raises:
        ValueError: If the width is out of range.
    """
    return int(parameters_at(model, _one_width(model, width))[0])


def count_active_parameters(model: MultiWidthModel, width: float) -> int:
    """Counts the weights that act at a width: those that no triangle forbids.

    Args:
        model: An `AnyWidthModel`, or a system of `awn_keras.baselines`.
        width: Width in [min_width, 1].

    Returns:
        `count_parameters` without the zeros of the triangles.

    Raises:
        TypeError: If `model` has one width only.
        ValueError: If the width is out of range.
    """
    check_any_width_model(model)
    width = check_width(width, model.min_width)
    masked = 0
    for use in layer_uses(model):
        if isinstance(use.layer, TriangularKernel):
            kernel = use.layer.triangular_variable
            allowed = kernel.constraint.mask(kernel.shape)
            allowed = np.broadcast_to(allowed, kernel.shape)
            slices = active_slices(use.layer, use.flows[0], width)
            for weight, index in zip(use.layer.weights, slices, strict=True):
                if weight is kernel:
                    masked += int(np.count_nonzero(~allowed[np.ix_(*index)]))
    return count_parameters(model, width) - masked


def _one_width(model: keras.Model, width: float | None) -> list[float]:
    if isinstance(model, MultiWidthModel):
        return [check_width(1.0 if width is None else width, model.min_width)]
    if width not in (None, 1.0):
        raise ValueError(
            f"Model '{model.name}' has one width only. Received: width={width}"
        )
    return [1.0]


# --------------------------------------------------------- counting at many widths


def macs_at(model: keras.Model, widths: Sequence[float]) -> np.ndarray:
    """Counts as `count_macs` does, at several widths at once.

    Args:
        model: See `count_macs`.
        widths: Widths `(n,)` that the model has; not checked.

    Returns:
        int64 array `(n,)`.

    Raises:
        ValueError: If the model's spatial sizes are not known.
        NotImplementedError: See `count_macs`.
    """
    total = np.zeros(len(widths), np.int64)
    return sum((use.macs(widths) for use in layer_uses(model)), total)


def parameters_at(model: keras.Model, widths: Sequence[float]) -> np.ndarray:
    """Counts as `count_parameters` does, at several widths at once.

    Args:
        model: See `count_parameters`.
        widths: Widths `(n,)` that the model has; not checked.

    Returns:
        int64 array `(n,)`.
    """
    total = np.zeros(len(widths), np.int64)
    return sum((use.parameters(widths) for use in layer_uses(model)), total)


@dataclass(frozen=True, eq=False)
class LayerUse:
    """A layer of a model with all its calls, to be counted at several widths.

    Args:
        layer: The layer, or an operation of `keras.ops`.
        flows: What comes in and goes out at each of its calls; at least one.
    """

    layer: Any
    flows: list[Flow]

    def channels(self, widths: Sequence[float]) -> np.ndarray:
        """Active channels of the first call's output, int64 `(widths,)`."""
        return _active_counts(self.flows[0], widths)[1]

    def macs(self, widths: Sequence[float]) -> np.ndarray:
        """MACs of all calls for one sample, int64 `(widths,)`."""
        total = np.zeros(len(widths), np.int64)
        for flow in self.flows:
            total += _macs(self.layer, flow, widths)
        return total

    def parameters(self, widths: Sequence[float]) -> np.ndarray:
        """Weights, those of several calls once, int64 `(widths,)`."""
        flow = self.flows[0]
        rule = rule_of(self.layer) or WidthRule()
        sides = [
            (axes, len(grades), counts)
            for axes, grades, counts in zip(
                (rule.in_axes, rule.out_axes),
                flow.grades(),
                _active_counts(flow, widths),
                strict=True,
            )
        ]
        total = np.zeros(len(widths), np.int64)
        for weight in getattr(self.layer, "weights", []):  # an operation has none
            sizes: list[Any] = list(weight.shape)
            for axes, channels, counts in sides:
                axis, each = channel_axis(weight, axes, channels)
                if axis is not None:
                    sizes[axis] = each * counts
            total += math.prod(sizes)
        return total


def layer_uses(model: keras.Model) -> list[LayerUse]:
    """Lists the layers and operations of a model, each once.

    Args:
        model: An `AnyWidthModel`, a system of `awn_keras.baselines`, or
            another functional model.

    Returns:
        They with their calls, in the order of the first call; inputs left out.

    Raises:
        TypeError: If the model has no graph.
    """
    if isinstance(model, MultiWidthModel):
        flows = model.propagation.flows
        calls = [(node.operation, flows[id(node)]) for node in model.propagation.nodes]
    else:
        calls = graph_flows(model)
    uses: dict[int, LayerUse] = {}
    for layer, flow in calls:
        uses.setdefault(id(layer), LayerUse(layer, [])).flows.append(flow)
    return list(uses.values())


def _active_counts(
    flow: Flow, widths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Active channels of the first input and of the output, each `(widths,)`."""
    into, out = (
        np.searchsorted(np.sort(grades), widths, side="right")
        for grades in flow.grades()
    )
    return into, out


def _macs(layer: Any, flow: Flow, widths: Sequence[float]) -> int | np.ndarray:
    """MACs of one call, `(widths,)` or the same at all of them."""
    if isinstance(layer, keras.Model):
        return count_macs(layer)
    if not any("kernel" in weight.name for weight in getattr(layer, "weights", [])):
        return 0
    if not isinstance(layer, KERNEL_LAYERS):
        raise NotImplementedError(
            f"Cannot count the MACs of layer '{layer.name}' ({type(layer).__name__})."
        )
    transposed = isinstance(layer, _TRANSPOSED)
    shape = flow.input_shapes[0] if transposed else flow.output_shape
    if None in shape[1:]:
        raise ValueError(
            f"MACs need a known shape. Received: layer '{layer.name}' with shape "
            f"{shape}. Give the `Input` a full shape."
        )
    into, out = _active_counts(flow, widths)
    positions = math.prod(shape[1:-1])
    window = math.prod(getattr(layer, "kernel_size", (1,)))
    if isinstance(layer, _DEPTHWISE):
        return positions * window * out
    if isinstance(layer, _SEPARABLE):
        between = into * layer.depth_multiplier
        return positions * (window * between + between * out)
    return positions * window * (into // getattr(layer, "groups", 1)) * out
