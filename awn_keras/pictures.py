"""Pictures of curves, of training and of kernels."""

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

#: Okabe and Ito's colors, which color-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: Markers, so that a reader can tell curves apart without color.
MARKERS = "osD^vP"
#: Color map for ordered things such as widths: dark to bright for every reader.
ORDERED = "viridis"
_COSTS = {"width": "width", "macs": "MACs (millions)", "parameters": "parameters (k)"}
_UNITS = {"width": 1.0, "macs": 1e6, "parameters": 1e3}


def axes_or_new(ax: Any, width: float = 6.0, height: float = 4.0) -> Any:
    """Returns Matplotlib axes to draw on.

    Args:
        ax: The user's axes. `None` makes new axes, which a notebook shows.
        width: Width of a new figure, in inches.
        height: Height of a new figure, in inches.

    Returns:
        The axes.

    Raises:
        ImportError: If `ax` is `None` and Matplotlib is not installed.
        TypeError: If `ax` is a path.
    """
    if isinstance(ax, str | Path):
        raise ArgumentTypeError(
            "`ax` must be Matplotlib axes. To write a picture, leave `ax` out and call "
            f"`.figure.savefig({str(ax)!r})` on the returned axes. Received: ax={ax!r}"
        )
    if ax is not None:
        return ax
    check_installed("A picture", "matplotlib")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def new_figure(width: float = 6.0, height: float = 4.0, **kwargs: Any) -> Any:
    """Makes a figure for a file. No window and no notebook shows it.

    Args:
        width: Width in inches.
        height: Height in inches.
        **kwargs: As in Matplotlib's `Figure.subplots`.

    Returns:
        The figure, and its axes.
    """
    check_installed("A picture", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**kwargs)


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Writes a figure as PNG. If writing fails, an old file stays as it was.

    Args:
        figure: A Matplotlib figure.
        path: File to write.
        dpi: Pixels per inch.

    Raises:
        OSError: If the file cannot be written.
    """
    content = io.BytesIO()
    # Without the version of Matplotlib, equal figures give equal files.
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    write_whole(path, content.getvalue())


def ordered_colors(count: int) -> list[Any]:
    """Returns colours for ordered things such as widths.

    Args:
        count: Number of colours.

    Returns:
        RGBA colours, from dark to bright.
    """
    check_installed("A picture", "matplotlib")
    import matplotlib as mpl

    # The brightest tenth of the map is hard to see on white.
    last = max(count - 1, 1)
    return [mpl.colormaps[ORDERED](0.9 * i / last) for i in range(count)]


class Curve(Protocol):
    """Attributes that `plot_curves` needs. `TradeOffCurve` has them."""

    widths: Sequence[float]
    accuracy: Sequence[float] | None
    macs: Sequence[int]
    parameters: Sequence[int]

    @property
    def auc(self) -> float:
        """The mean accuracy over widths; raises if there is no accuracy."""


def plot_curves(curves: Mapping[str, Curve], x: str = "width", ax: Any = None) -> Any:
    """Draws the accuracy of several models over width, MACs or parameters.

    Args:
        curves: A mapping from names for the legend to `TradeOffCurve`. A curve of a
            single width is drawn as a point.
        x: `"width"`, `"macs"` or `"parameters"`. Use MACs to compare networks of
            different kinds.
        ax: Matplotlib axes. `None` makes new axes.

    Returns:
        The axes. `.figure.savefig(path)` writes a picture.

    Raises:
        ImportError: If `ax` is `None` and Matplotlib is not installed.
        TypeError: If `curves` is not a mapping, or if `ax` is a path.
        ValueError: If `x` is unknown, if `curves` is empty, or if a curve has no
            accuracy.
    """
    if x not in _COSTS:
        raise ArgumentError(f"`x` must be one of {sorted(_COSTS)}. Received: x={x!r}")
    if not isinstance(curves, Mapping):
        raise ArgumentTypeError(
            "`curves` must be a dict from names to curves, such as `{'mine': curve}`. "
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
        history: The result of `fit`, or its `history`, a dict of lists.
        metric: Name of the metric, such as `"accuracy"` or `"loss"`. If `fit`
            validated, the validation metric is drawn, otherwise the training metric.
        ax: Matplotlib axes. `None` makes new axes.

    Returns:
        The axes. `.figure.savefig(path)` writes a picture. Accuracies are in percent.

    Raises:
        ImportError: If `ax` is `None` and Matplotlib is not installed.
        TypeError: If `history` is neither a result of `fit` nor a mapping, or if `ax`
            is a path.
        ValueError: If `history` has the metric at no width.
    """
    logs = getattr(history, "history", history)
    if not isinstance(logs, Mapping):
        raise ArgumentTypeError(
            "`history` must be the result of `fit`, or its `history`. Received: "
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
            f"`history` must have '{prefix}{metric}' at some widths. Compile with "
            "`metrics=['accuracy']`, and do not set `report_widths=[]`. Received: "
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
    """Draws a layer's kernel as a matrix of input channels and output channels.

    Args:
        layer: A built Tri layer of an `AnyWidthModel`, or a stock layer with a `kernel`
            of at least two axes.
        ax: Matplotlib axes. `None` makes new axes.

    Returns:
        The axes. Input channels run from left to right, output channels from top to
        bottom. The colour is the root mean square of the weights over the window. White
        entries are forbidden by the triangle.

    Raises:
        ImportError: If `ax` is `None` and Matplotlib is not installed.
        TypeError: If `layer` has no kernel, or if `ax` is a path.
        ValueError: If `layer` is not built.

    Reference:
        Vu et al., Any-Width Networks (2020), figure 3.
    """
    # Imported here, because reports of files are drawn on machines without Keras.
    import keras

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
            f"`layer` must be built: layer '{layer.name}' has no kernel yet. Call the "
            "layer on a tensor, or take the layer from a model."
        )
    weights, allowed = _sizes(layer)
    image = np.ma.masked_array(weights, ~allowed)
    ax = axes_or_new(ax, 5.0, 4.2)
    picture = ax.imshow(image.T, cmap="viridis", aspect="auto", interpolation="none")
    ax.set(xlabel="input channel", ylabel="output channel", title=layer.name)
    ax.figure.colorbar(picture, ax=ax, label="weight (root mean square)")
    return ax


def _sizes(layer: keras.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the weights, and the mask of allowed entries: arrays `(in, out)`."""
    import keras

    if not hasattr(layer, "masked_kernel"):
        size = _over_window(keras.ops.convert_to_numpy(layer.kernel))
        return size, np.ones(size.shape, bool)
    kernel, mask = layer.masked_kernel()
    return _over_window(kernel), mask


def _over_window(kernel: np.ndarray) -> np.ndarray:
    window = tuple(range(kernel.ndim - 2))
    return np.sqrt(np.mean(np.square(kernel, dtype="float64"), axis=window))
