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
from awn_keras.model import AnyWidthModel, area_under_curve
from awn_keras.propagation import Flow, active, active_slices, graph_flows
from awn_keras.widths import check_width, check_widths

_L = keras.layers
_TRANSPOSED = (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
_DEPTHWISE = (_L.DepthwiseConv1D, _L.DepthwiseConv2D)
_SEPARABLE = (_L.SeparableConv1D, _L.SeparableConv2D)
_COUNTED = (
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
        if isinstance(ax, str | Path):
            raise TypeError(
                "`ax` must be Matplotlib axes. To write a picture: "
                f"`curve.plot().figure.savefig({str(ax)!r})`. Received: ax={ax!r}"
            )
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6, 4), layout="constrained").add_subplot()
        label = f"AUC {100 * self.auc:.2f} %" if label is None else label
        percent = 100 * np.asarray(self.accuracy)
        ax.plot(self.widths, percent, marker="o", markersize=3, label=label)
        ax.set(xlabel="width", ylabel="accuracy (%)")
        ax.grid(alpha=0.3)
        ax.legend(loc="lower right")
        return ax


def trade_off_curve(
    model: AnyWidthModel,
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
        TypeError: If `model` is not an `AnyWidthModel`.
        ValueError: If the model is not compiled, or a width is out of range.

    Example:
    >>> import numpy as np
    >>> from awn_keras import lenet_3c1l, trade_off_curve
    >>> model = lenet_3c1l((8, 8, 1), padding="same", widths_grid=[0.5, 1.0])
    >>> loss = "sparse_categorical_crossentropy"
    >>> model.compile("sgd", loss, metrics=["accuracy"])
    >>> curve = trade_off_curve(model, np.zeros((4, 8, 8, 1)), np.zeros(4))
    >>> curve.widths, curve.macs
    ([0.5, 1.0], [270894, 990000])
    """
    if not isinstance(model, AnyWidthModel):
        raise TypeError(
            f"`model` must be an `AnyWidthModel`. Received: {type(model).__name__}"
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
        macs=[count_macs(model, width) for width in widths],
        parameters=[count_parameters(model, width) for width in widths],
        metrics=metrics,
    )


def count_macs(model: keras.Model, width: float | None = None) -> int:
    """Counts multiply-accumulate operations for one sample.

    Counted are convolutions and dense layers, as the dense kernels of a slimmed model
    run them; a multiplication by a zero of the triangle counts. Bias, normalization
    (folded into a convolution on devices), activations and pooling do not.

    Args:
        model: An `AnyWidthModel` or another functional model.
        width: Width in [min_width, 1]. `None` for 1.

    Returns:
        The number of MACs.

    Raises:
        ValueError: If the width is out of range, or the model's spatial sizes are not
            known.
        NotImplementedError: If the model has a layer with kernels of another kind
            (recurrent, attention), which cannot be counted.
    """
    return sum(_macs(layer, flow, width) for layer, flow in _flows_at(model, width))


def count_parameters(model: keras.Model, width: float | None = None) -> int:
    """Counts the weights that a slimmed model has, trainable or not.

    Args:
        model: An `AnyWidthModel` or another functional model.
        width: Width in [min_width, 1]. `None` for 1.

    Returns:
        The number of weights, as `slim(model, width).count_params()` gives it.

    Raises:
        ValueError: If the width is out of range.
    """
    layers = {id(layer): (layer, flow) for layer, flow in _flows_at(model, width)}
    return sum(
        math.prod(len(index) for index in indices)
        for layer, flow in layers.values()
        for indices in active_slices(layer, flow, 1.0 if width is None else width)
    )


def _flows_at(model: keras.Model, width: float | None) -> list[tuple[Any, Flow]]:
    if isinstance(model, AnyWidthModel):
        check_width(1.0 if width is None else width, model.min_width)
        propagation = model.propagation
        return [
            (node.operation, propagation.flows[id(node)]) for node in propagation.nodes
        ]
    if width not in (None, 1.0):
        raise ValueError(
            f"Model '{model.name}' has one width only. Received: width={width}"
        )
    return graph_flows(model)


def _macs(layer: Any, flow: Flow, width: float | None) -> int:
    if isinstance(layer, keras.Model):
        return count_macs(layer)
    kernels = [w.shape for w in getattr(layer, "weights", []) if "kernel" in w.name]
    if not kernels:
        return 0
    if not isinstance(layer, _COUNTED):
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
    positions = math.prod(shape[1:-1])
    width = 1.0 if width is None else width
    out = int(active(flow.output, flow.output_shape, width).sum())
    into = int(active(flow.inputs[0], flow.input_shapes[0], width).sum())
    window = math.prod(getattr(layer, "kernel_size", (1,)))
    if isinstance(layer, _DEPTHWISE):
        return positions * window * out
    if isinstance(layer, _SEPARABLE):
        between = into * layer.depth_multiplier
        return positions * (window * between + between * out)
    return positions * window * (into // getattr(layer, "groups", 1)) * out
