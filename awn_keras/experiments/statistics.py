"""Batch statistics of a BatchNormalization at each width during training (figure 2)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.data import ImageData
from awn_keras.files import read_json, write_whole
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.run import Trace
from awn_keras.schemas import fields, items, number, real
from awn_keras.slimming import slim
from awn_keras.training import backends

WIDTHS = (0.25, 0.5, 0.75, 1.0)


class StatisticsTrace(Trace):
    """Compares batch statistics of a channel at several widths with moving statistics.

    After every `every` steps, the model is slimmed to each width, and a fixed batch of
    images runs through it in training mode. The trace records mean and variance of the
    channel before the normalization, and the moving mean and variance that the
    normalization would use at this width.

    Args:
        images: The batch, `(n, rows, cols, channels)`.
        path: File that is written after every epoch, and read when a run is resumed.
            `None` for no file; the records are in `statistics`.
        every: Number of steps between two records.
        layer: Name of the BatchNormalization.
        channel: Index of the channel. It must be active at all widths.
        widths: Widths to record.

    Reference:
        Vu et al., Any-Width Networks (2020), figure 2.
    """

    def __init__(
        self,
        images: np.ndarray,
        path: Path | None = None,
        *,
        every: int = 50,
        layer: str = "bn2",
        channel: int = 0,
        widths: Sequence[float] = WIDTHS,
    ) -> None:
        super().__init__()
        self.images = images
        self.path = path
        self.every = every
        self.layer = layer
        self.channel = channel
        self.widths = tuple(widths)
        self.rows: list[dict[str, Any]] = []

    @property
    def statistics(self) -> dict[str, Any]:
        """The records, in types of JSON."""
        return {
            "layer": self.layer,
            "channel": self.channel,
            "widths": list(self.widths),
            "rows": self.rows,
        }

    def on_train_begin(self, logs: Any = None) -> None:
        """Reads the records of an interrupted run, up to the step of the model."""
        done = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        self.rows = []
        if done and self.path is not None and self.path.exists():
            kept = read_json(self.path, check_statistics)["rows"]
            self.rows = [row for row in kept if row["step"] <= done]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Records the statistics."""
        backends.sync_state(self.model)
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        if step % self.every == 0:
            start = time.perf_counter()
            self.rows.append({"step": step, **self._look()})
            self.seconds += time.perf_counter() - start

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the file."""
        if self.path is not None:
            write_whole(self.path, json.dumps(self.statistics) + "\n")

    def _look(self) -> dict[str, list[float]]:
        seen: dict[str, list[float]] = {
            name: [] for name in ("mean", "variance", "moving_mean", "moving_variance")
        }
        for width in self.widths:
            network = slim(self.model, width)
            normalization = network.get_layer(self.layer)
            inner = keras.Model(network.input, normalization.input)
            x = keras.ops.convert_to_numpy(inner(self.images, training=True))
            values = x[..., self.channel]
            seen["mean"].append(float(values.mean()))
            seen["variance"].append(float(values.var()))
            for name in ("moving_mean", "moving_variance"):
                tracked = keras.ops.convert_to_numpy(getattr(normalization, name))
                seen[name].append(float(tracked[self.channel]))
        return seen


def check_statistics(value: Any, where: str) -> None:
    """Checks the records of a `StatisticsTrace`; see `awn_keras.schemas`."""
    fields({"widths": items(number(0, 1))})(value, where)
    count = len(value["widths"])

    def each_width(value: Any, where: str) -> None:
        items(real, count)(value[:count] if isinstance(value, list) else value, where)

    names = ("mean", "variance", "moving_mean", "moving_variance")
    row = {"step": number(0, whole=True), **dict.fromkeys(names, each_width)}
    fields({"rows": items(fields(row))})(value, where)


def trace_of(recipe: Recipe, every: int) -> Callable[[ImageData, Path], Trace]:
    """Makes the argument `trace` of `run`: records of the first training batch.

    Args:
        recipe: The recipe of the run.
        every: Number of steps between two records.

    Returns:
        A function of the data and the folder that makes a `StatisticsTrace`.
    """

    def make(data: ImageData, folder: Path) -> StatisticsTrace:
        images = data.train(recipe.batch_size, seed=recipe.seed)[0][0]
        return StatisticsTrace(images, folder / "statistics.json", every=every)

    return make
