"""Pictures of curves, of training and of kernels, and what all pictures share."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.extras import check_installed
from awn_keras.files import write_whole
from awn_keras.widths import split_name_at_width

if TYPE_CHECKING:
    import keras

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: Marks, so that curves differ without colour, too.
MARKERS = "osD^vP"
#: For what is ordered, such as widths: from dark to bright at any kind of sight.
ORDERED = "viridis"
_COSTS = {"width": "width", "macs": "MACs (millions)", "parameters": "parameters (k)"}
_UNITS = {"width": 1.0, "macs": 1e6, "parameters": 1e3}


def axes_or_new(ax: Any, width: float = 6.0, height: float = 4.0) -> Any:
    """Gives Matplotlib axes to draw on.

    Args:
        ax: What the user gave: axes, or `None` for new ones, which a notebook shows.
        width: Of the new figure, in inches.
        height: Of the new figure, in inches.

    Returns:
        The axes.

    Raises:
        TypeError: If `ax` is a path.
    """
    if isinstance(ax, str | Path):
        raise ArgumentTypeError(
            "`ax` must be Matplotlib axes. To write a picture, leave it out and call "
            f"`.figure.savefig({str(ax)!r})` on what is returned. Received: ax={ax!r}"
        )
    if ax is not None:
        return ax
    check_installed("A picture", "matplotlib")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def new_figure(width: float = 6.0, height: float = 4.0, **kwargs: Any) -> Any:
    """Makes a figure that no window and no notebook shows, for files.

    Args:
        width: In inches.
        height: In inches.
        **kwargs: As in Matplotlib's `Figure.subplots`.

    Returns:
        The figure, and its axes.
    """
    check_installed("A picture", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**kwargs)


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Writes a figure as PNG, whole or not at all.

    Args:
        figure: A Matplotlib figure.
        path: File to write.
        dpi: Pixels per inch.

    Raises:
        OSError: If it cannot be written.
    """
    content = io.BytesIO()
    # No date in it: the same runs give the same file.
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    write_whole(path, content.getvalue())


def ordered_colors(count: int) -> list[Any]:
    """Colours for things in an order, such as widths.

    Args:
        count: How many.

    Returns:
        RGBA colours, the first one dark.
    """
    check_installed("A picture", "matplotlib")
    import matplotlib as mpl

    # The brightest tenth is hardly seen on white.
    last = max(count - 1, 1)
    return [mpl.colormaps[ORDERED](0.9 * i / last) for i in range(count)]


class Curve(Protocol):
    """What `plot_curves` draws; see `TradeOffCurve`, which is one."""

    widths: Sequence[float]
    accuracy: Sequence[float] | None
    macs: Sequence[int]
    parameters: Sequence[int]

    @property
    def auc(self) -> float:
        """The mean accuracy over widths; an error if there is no accuracy."""


def plot_curves(curves: Mapping[str, Curve], x: str = "width", ax: Any = None) -> Any:
    """Draws the accuracy of several models over width, MACs or parameters.

    Args:
        curves: Each a `TradeOffCurve`, by the names that the legend shows; one of a
            single width is drawn as a point.
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
        raise ArgumentError(f"`x` must be one of {sorted(_COSTS)}. Received: x={x!r}")
    if not isinstance(curves, Mapping):
        raise ArgumentTypeError(
            "`curves` must be a dict of curves by name, such as `{'mine': curve}`. "
            f"Received: {type(curves).__name__}"
        )
    if not curves:
        raise ArgumentError("`curves` must hold at least one curve. Received: {}")
    heights = {
        name: (curve.auc, 100 * np.asarray(curve.accuracy))  # `auc` needs accuracy
        for name, curve in curves.items()
    }
    ax = axes_or_new(ax)
    for i, (name, (auc, accuracy)) in enumerate(heights.items()):
        costs = np.asarray(getattr(curves[name], "widths" if x == "width" else x))
        points = len(costs) == 1
        ax.plot(
            costs / _UNITS[x],
            accuracy,
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
        raise ArgumentTypeError(
            "`history` must be what `fit` returned, or its `history`. Received: "
            f"{type(history).__name__}"
        )
    lines: dict[float, list[float]] = {}
    prefix = "val_" if any(name.startswith("val_") for name in logs) else ""
    for name, values in logs.items():
        parts = split_name_at_width(name)
        if parts is not None and parts[0] == prefix + metric:
            lines[parts[1]] = values
    if not lines:
        raise ArgumentError(
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
    import keras  # Reports of files are drawn where there is none, too.

    if not isinstance(layer, keras.Layer) or not (
        hasattr(layer, "masked_kernel") or hasattr(layer, "kernel")
    ):
        raise ArgumentTypeError(
            "`layer` must be a layer with a kernel, such as "
            "`model.get_layer('tri_conv2d')`. Received: "
            f"{getattr(layer, 'name', layer)!r} of {type(layer).__name__}"
        )
    if not layer.built:
        raise ArgumentError(
            f"Layer '{layer.name}' is not built: it has no kernel yet. Call it on a "
            "tensor, or take it from a model."
        )
    weights, allowed = _sizes(layer)
    image = np.ma.masked_array(weights, ~allowed)
    ax = axes_or_new(ax, 5.0, 4.2)
    picture = ax.imshow(image.T, cmap="viridis", aspect="auto", interpolation="none")
    ax.set(xlabel="input channel", ylabel="output channel", title=layer.name)
    ax.figure.colorbar(picture, ax=ax, label="weight (root mean square)")
    return ax


def _sizes(layer: keras.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the weights, and whether they may act: two arrays `(in, out)`."""
    import keras

    if not hasattr(layer, "masked_kernel"):
        size = _over_window(keras.ops.convert_to_numpy(layer.kernel))
        return size, np.ones(size.shape, bool)
    kernel, mask = layer.masked_kernel()
    return _over_window(kernel), mask


def _over_window(kernel: np.ndarray) -> np.ndarray:
    window = tuple(range(kernel.ndim - 2))
    return np.sqrt(np.mean(np.square(kernel, dtype="float64"), axis=window))
