"""A slider for notebooks that shows a TFLite file's predictions at each width."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.deploy.benchmark.costs import costs_of
from awn_keras.deploy.benchmark.host import accuracies
from awn_keras.deploy.checks import check_integer
from awn_keras.deploy.litert import TFLiteFile
from awn_keras.errors import ArgumentError
from awn_keras.extras import check_installed
from awn_keras.pictures import COLORS, new_figure

_TIMED_RUNS = 50


def explore_widths(
    path: str | Path,
    x: np.ndarray,
    y: np.ndarray,
    *,
    class_names: Sequence[str] = (),
    images: np.ndarray | None = None,
    shown: int = 8,
) -> Any:
    """Shows a slider over the widths of a TFLite file, for a notebook.

    When the slider moves, the file runs at the new width. The widget shows predictions
    for some samples (right predictions in blue with a tick, wrong ones in orange with a
    cross), the accuracy on all samples, the MACs, and the latency of one sample in ms.
    The latency is measured now, on this machine, with LiteRT on one thread (median of
    50 runs).

    Args:
        path: A file of `export_tflite` with an output of scores, `(1, classes)`.
        x: Samples as inputs of the file, `(n, rows, cols, channels)`.
        y: Classes of the samples, integers `(n,)`.
        class_names: Names of the classes. If empty, class numbers are shown.
        images: Pictures of the samples, `(n, rows, cols, 1 or 3)`, uint8 or floats in
            [0, 1]. `None` shows `x`, scaled to [0, 1].
        shown: Number of samples to show, from the first on, at least 1.

    Returns:
        An `ipywidgets.VBox` with a slider, a line of numbers and a picture. As the last
        expression of a cell, it appears below the cell.

    Raises:
        ImportError: If ipywidgets or Matplotlib is not installed.
        TypeError: If `shown` is not an integer.
        ValueError: If `shown` is below 1, or if the file, the samples or the labels do
            not fit.
        OSError: If the file cannot be read.

    Examples:
        >>> export_tflite(model, "model.tflite", widths=[0.25, 0.5, 0.75, 1.0])
        >>> explore_widths("model.tflite", x_test[:500], y_test[:500])
    """
    check_installed("`explore_widths`", "ipywidgets", "matplotlib")
    import ipywidgets

    check_integer(shown, "shown", 1)
    view = _View.of(path, x, y, class_names, images, shown)
    slider = ipywidgets.SelectionSlider(
        options=[(f"{width:.3g}", width) for width in view.widths],
        value=view.widths[-1],
        description="width",
        continuous_update=False,
    )
    numbers = ipywidgets.HTML()
    picture = ipywidgets.Image(format="png")

    def update(change: Any = None) -> None:
        numbers.value = view.numbers(slider.value)
        picture.value = view.picture(slider.value)

    slider.observe(update, names="value")
    update()
    return ipywidgets.VBox([slider, numbers, picture])


class _View:
    """The contents of the widget, without the slider."""

    def __init__(
        self,
        file: TFLiteFile,
        accuracy: dict[str, float],
        macs: dict[str, int | None],
        samples: tuple[np.ndarray, np.ndarray, np.ndarray],
        class_names: Sequence[str],
    ) -> None:
        self._file = file
        self.accuracy = accuracy
        self.macs = macs
        self.x, self.y, self.images = samples
        self.class_names = class_names

    @classmethod
    def of(
        cls,
        path: str | Path,
        x: np.ndarray,
        y: np.ndarray,
        class_names: Sequence[str],
        images: np.ndarray | None,
        shown: int,
    ) -> _View:
        x, y = np.asarray(x), np.asarray(y)
        _check_samples(x, y)
        names = list(class_names)
        if names and len(names) <= y.max():
            raise ArgumentError(
                "`class_names` must have a name for each class. Received: "
                f"{len(names)} names, labels up to {y.max()}"
            )
        pictures = _scaled(x[:shown]) if images is None else np.asarray(images[:shown])
        if len(pictures) != len(x[:shown]) or pictures.shape[3:] not in ((1,), (3,)):
            raise ArgumentError(
                "`images` must be pictures of the samples, (n, rows, cols, 1 or 3). "
                f"Received: shape {np.shape(x if images is None else images)} for "
                f"{len(x)} samples"
            )
        file = TFLiteFile(path)
        return cls(
            file,
            accuracies(file, x, y),
            {name: costs.macs for name, costs in costs_of(file).items()},
            (x[:shown], y[:shown], pictures),
            names,
        )

    @property
    def widths(self) -> list[float]:
        """The widths of the file, ascending."""
        return list(self._file.by_width)

    def _scores(self, width: float, x: np.ndarray) -> np.ndarray:
        (scores,) = self._file.by_width[width].run(x).values()
        return scores

    def numbers(self, width: float) -> str:
        """The line of numbers, as HTML."""
        name = self._file.by_width[width].name
        macs = self.macs[name]
        million = "?" if macs is None else f"{macs / 1e6:.2f} M"
        return (
            f"<b>{100 * self.accuracy[name]:.1f} %</b> right &nbsp; "
            f"<b>{million}</b> multiply-accumulates &nbsp; "
            f"<b>{self._milliseconds(width):.3g} ms</b> an image"
        )

    def _milliseconds(self, width: float) -> float:
        times = []
        for _ in range(_TIMED_RUNS):
            start = time.perf_counter()
            self._scores(width, self.x[:1])
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    def picture(self, width: float) -> bytes:
        """The samples with the predictions of the file, as PNG."""
        guesses = self._scores(width, self.x).argmax(1)
        columns = min(len(self.x), 8)
        rows = -(-len(self.x) // columns)
        figure, axes = new_figure(
            1.3 * columns, 1.6 * rows, nrows=rows, ncols=columns, squeeze=False
        )
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, image, guess, label in zip(
            axes.flat, self.images, guesses, self.y, strict=False
        ):
            right = guess == label
            ax.imshow(image, cmap="gray")
            name = self.class_names[guess] if self.class_names else str(guess)
            ax.set_title(
                f"{name} {'✓' if right else '✗'}",
                color=COLORS[0] if right else COLORS[1],
                fontsize=9,
            )
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=90)
        return content.getvalue()


def _check_samples(x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 4 or not len(x):
        raise ArgumentError(
            "`x` must be images, (n, rows, cols, channels), at least one. Received: "
            f"an array of shape {x.shape}"
        )
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise ArgumentError(
            "`y` must have an integer class for each sample, (n,). Received: an array "
            f"of {y.dtype} of shape {y.shape} for {len(x)} samples"
        )


def _scaled(x: np.ndarray) -> np.ndarray:
    low, high = float(x.min()), float(x.max())
    return (x - low) / (high - low or 1.0)
