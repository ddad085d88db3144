"""Callbacks that show each width of a model while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentTypeError
from awn_keras.extras import check_installed
from awn_keras.multi_width import MultiWidthModel
from awn_keras.pictures import COLORS, new_figure
from awn_keras.training.callbacks import WidthProgbar, without_widths
from awn_keras.widths import name_at_width, split_name_at_width

__all__ = ["WidthProgbar", "WidthTensorBoard"]


class WidthTensorBoard(keras.callbacks.TensorBoard):
    """TensorBoard with a line for each width, the AUC, and the curve as a picture.

    This callback logs all that `keras.callbacks.TensorBoard` logs. After each epoch it
    also logs:

    - loss and metrics at the report widths (see `AnyWidthModel.compile`), in separate
      runs `train_w025`, `validation_w025` and so on. The tags are those of the model,
      so the chart `epoch_accuracy` has a line for each width;
    - in the run `validation`, `epoch_auc`, the accuracy averaged over all widths, and
      under Images `trade_off_curve`, accuracy over width.

    The run `validation` needs `validation_data` in `fit`. The AUC and the picture need
    an accuracy among the model's metrics.

    Args:
        log_dir: Directory of the logs. To show them, run `tensorboard --logdir
            log_dir`.
        **kwargs: As in `keras.callbacks.TensorBoard`.

    Raises:
        ImportError: If the package `tensorboard` or Matplotlib is not installed.
        TypeError: In `fit`, if the model has one width only.

    Examples:
        >>> callback = WidthTensorBoard("logs/first")
        >>> model.fit(data, validation_data=test_data, callbacks=[callback])
    """

    def __init__(self, log_dir: str | Path = "logs", **kwargs: Any) -> None:
        check_installed("`WidthTensorBoard`", "tensorboard", "matplotlib")
        super().__init__(log_dir, **kwargs)
        self._width_writers: dict[str, Any] = {}

    def set_model(self, model: keras.Model) -> None:
        """Sets the model whose training is logged."""
        if not isinstance(model, MultiWidthModel):
            raise ArgumentTypeError(
                "`WidthTensorBoard` needs an `AnyWidthModel`, or a model of "
                "`awn_keras.baselines`. For other models, use "
                f"`keras.callbacks.TensorBoard`. Received: {type(model).__name__} "
                f"'{model.name}'"
            )
        super().set_model(model)
        self._width_writers = {}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the epoch's scalars and the curve."""
        logs = logs or {}
        super().on_epoch_end(epoch, without_widths(logs))
        for name in logs:
            if parts := split_name_at_width(name):
                metric, width = parts
                part = "validation" if name.startswith("val_") else "train"
                run = name_at_width(part, width)
                tag = f"epoch_{metric.removeprefix('val_')}"
                with self._writer(run).as_default():
                    self.summary.scalar(tag, logs[name], step=epoch)
        if any(name.startswith("val_") for name in logs):
            self._write_curve(epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Writes the scalars of the step, if `update_freq` says so."""
        super().on_train_batch_end(batch, without_widths(logs))

    def on_test_end(self, logs: Any = None) -> None:
        """Writes the evaluation's scalars."""
        super().on_test_end(without_widths(logs))

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the files."""
        super().on_train_end(logs)
        for writer in self._width_writers.values():
            writer.close()

    def _writer(self, run: str) -> Any:
        if run not in self._width_writers:
            path = str(Path(self.log_dir) / run)
            self._width_writers[run] = self.summary.create_file_writer(path)
        return self._width_writers[run]

    def _write_curve(self, epoch: int) -> None:
        widths, results = self.model.last_evaluation()
        accuracy = results.get(self.model.accuracy_name or "")
        if accuracy is not None:
            with self._writer("validation").as_default():
                picture = _picture(widths, 100 * accuracy, f"epoch {epoch + 1}")
                self.summary.image("trade_off_curve", picture, step=epoch)


def _picture(widths: tuple[float, ...], percent: np.ndarray, title: str) -> np.ndarray:
    """The curve as an image `(1, rows, cols, 3)`, uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, ax = new_figure(5, 3.5)
    ax.plot(widths, percent, color=COLORS[0], marker="o", markersize=3)
    ax.set(xlabel="width", ylabel="validation accuracy (%)", title=title)
    ax.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[None, ..., :3].copy()
