"""Pictures of curves, of training and of kernels. All return Matplotlib axes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from awn_keras.evaluation import TradeOffCurve
from awn_keras.layers.base import TriangularKernel
from awn_keras.style import COLORS, MARKERS, axes_or_new, ordered_colors
from awn_keras.widths import label_width

_COSTS = {"width": "width", "macs": "MACs (millions)", "parameters": "parameters (k)"}
_UNITS = {"width": 1.0, "macs": 1e6, "parameters": 1e3}


def plot_curves(
    curves: Mapping[str, TradeOffCurve], x: str = "width", ax: Any = None
) -> Any:
    """Draws the accuracy of several models over width, MACs or parameters.

    Args:
        curves: Curves by the names that the legend shows; one of a single width is
            drawn as a point.
        x: `"width"`, `"macs"` or `"parameters"`. MACs make networks of different
            kinds comparable.
        ax: Matplotlib axes to draw on. `None` for new ones.

    Returns:
        The axes; `.figure.savefig(path)` writes a picture.

    Raises:
        TypeError: If `curves` is not a mapping, or `ax` a path.
        ValueError: If `x` is unknown, there is no curve, or one has no accuracy.
    """
    if x not in _COSTS:
        raise ValueError(f"`x` must be one of {sorted(_COSTS)}. Received: x={x!r}")
    if not isinstance(curves, Mapping):
        raise TypeError(
            "`curves` must be a dict of curves by name, such as `{'mine': curve}`. "
            f"Received: {type(curves).__name__}"
        )
    if not curves:
        raise ValueError("`curves` must hold at least one curve. Received: {}")
    heights = {
        name: (curve.auc, 100 * np.asarray(curve.accuracy))  # `auc` needs accuracy
        for name, curve in curves.items()
    }
    ax = axes_or_new(ax)
    for i, (name, (auc, accuracy)) in enumerate(heights.items()):
        costs = np.asarray(getattr(curves[name], "widths" if x == "width" else x))
        points = len(costs) == 1
        ax.plot(
            *(costs / _UNITS[x], accuracy),
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=6 if points else 3,
            linestyle="none" if points else "-",
            label=name if points else f"{name}, AUC {100 * auc:.2f} %",
        )
    ax.set(xlabel=_COSTS[x], ylabel="accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return ax


def plot_history(history: Any, metric: str = "accuracy", ax: Any = None) -> Any:
    """Draws a metric at each reported width over the epochs, and the AUC.

    Args:
        history: What `fit` returned, or its `history`, a dict of lists.
        metric: Name of the metric, such as `"accuracy"` or `"loss"`. Of validation
            where there is one, else of training.
        ax: Matplotlib axes to draw on. `None` for new ones.

    Returns:
        The axes; `.figure.savefig(path)` writes a picture. Accuracies are in percent.

    Raises:
        TypeError: If `history` is neither, or `ax` a path.
        ValueError: If it does not have the metric at any width.
    """
    logs = getattr(history, "history", history)
    if not isinstance(logs, Mapping):
        raise TypeError(
            "`history` must be what `fit` returned, or its `history`. Received: "
            f"{type(history).__name__}"
        )
    lines: dict[float, list[float]] = {}
    prefix = "val_" if any(name.startswith("val_") for name in logs) else ""
    for name, values in logs.items():
        match = re.fullmatch(re.escape(prefix + metric) + r"_w(\d{3}(?:_\d+)?)", name)
        width = label_width(match[1]) if match else None
        if width is not None:
            lines[width] = values
    if not lines:
        raise ValueError(
            f"`history` has no '{prefix}{metric}' at any width: compile with "
            "`metrics=['accuracy']` and do not set `report_widths=[]`. Received: "
            f"{sorted(logs)}"
        )
    percent = metric.endswith("accuracy")
    ax = axes_or_new(ax)
    colors = ordered_colors(len(lines))
    for color, (width, values) in zip(colors, sorted(lines.items()), strict=True):
        y = np.asarray(values) * (100 if percent else 1)
        ax.plot(_epochs(y), y, color=color, label=f"width {width:.3g}")
    if percent and "val_auc" in logs:
        y = 100 * np.asarray(logs["val_auc"])
        ax.plot(_epochs(y), y, "k--", label="AUC")
    of = "validation " if prefix else "training "
    ax.set(xlabel="epoch", ylabel=f"{of}{metric}{' (%)' if percent else ''}")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def _epochs(values: np.ndarray) -> np.ndarray:
    return np.arange(1, len(values) + 1)


def plot_kernel(layer: keras.Layer, ax: Any = None) -> Any:
    """Draws a layer's kernel: which output channel reads which input channel.

    Args:
        layer: A built Tri layer of an `AnyWidthModel`, or a stock layer with a
            `kernel` of at least two axes.
        ax: Matplotlib axes to draw on. `None` for new ones.

    Returns:
        The axes: inputs from left to right, outputs downwards; the colour is the root
        mean square over the window, white is what the triangle forbids.

    Raises:
        TypeError: If `layer` has no kernel that mixes channels, or `ax` is a path.
        ValueError: If it is not built.

    Reference:
        Vu et al., Any-Width Networks (2020), figure 3.
    """
    if not isinstance(layer, keras.Layer) or not (
        isinstance(layer, TriangularKernel) or hasattr(layer, "kernel")
    ):
        raise TypeError(
            "`layer` must be a layer with a kernel, such as "
            "`model.get_layer('tri_conv2d')`. Received: "
            f"{getattr(layer, 'name', layer)!r} of {type(layer).__name__}"
        )
    if not layer.built:
        raise ValueError(
            f"Layer '{layer.name}' is not built: it has no kernel yet. Call it on a "
            "tensor, or take it from a model."
        )
    weights, allowed = _kernel(layer)
    image = np.ma.masked_array(weights, ~allowed)
    ax = axes_or_new(ax, 5.0, 4.2)
    picture = ax.imshow(image.T, cmap="viridis", aspect="auto", interpolation="none")
    ax.set(xlabel="input channel", ylabel="output channel", title=layer.name)
    ax.figure.colorbar(picture, ax=ax, label="weight (root mean square)")
    return ax


def _kernel(layer: keras.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the weights, and whether they may act: two arrays `(in, out)`."""
    if not isinstance(layer, TriangularKernel):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        size = _over_window(kernel)
        return size, np.ones(size.shape, bool)
    variable = layer.triangular_variable
    size = _over_window(keras.ops.convert_to_numpy(layer.masked(variable)))
    triangle = variable.constraint
    mask = np.broadcast_to(triangle.mask(variable.shape), size.shape)
    return (size.T, mask.T) if triangle.transposed else (size, mask)


def _over_window(kernel: np.ndarray) -> np.ndarray:
    window = tuple(range(kernel.ndim - 2))
    return np.sqrt(np.mean(np.square(kernel, dtype="float64"), axis=window))
