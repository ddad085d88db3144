"""Cosine between the gradients of widths, by layer, during joint training.

    python -m benchmarks.conflict [--epochs 5] [--seeds 0 1] [--data-dir DIR]
        [--output FILE]

LeNet-3C1L trains on CIFAR-10 by the recipe of `awn train`. Before training and after
each epoch, this script computes the gradient of the loss of each width, for the same
`SAMPLES` training images. For each pair of widths it compares the gradients over the
weights that act at both: 1 means that a step for one width helps the other width as
much as its own step would, 0 that the steps do not concern each other, and below 0 they
conflict. The last row compares the gradients of full width for two sets of images. It
shows how much of a difference is chance.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from awn_keras.data import ImageData, load_data
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.model import AnyWidthModel
from awn_keras.runs.build import build
from awn_keras.runs.presets import recommended_recipe
from awn_keras.training.freezing import acting_from

OUTPUT = Path(__file__).parents[1] / "results" / "conflict.json"
WIDTHS = (0.25, 0.5, 0.75, 1.0)
#: Images for a gradient, and images in a pass.
SAMPLES, BATCH = 2048, 256


def gradients(
    model: AnyWidthModel, width: float, x: np.ndarray, y: np.ndarray
) -> list[np.ndarray]:
    """Computes the gradient of the loss of one width, without regularization.

    Args:
        model: A compiled model. Its weights do not change.
        width: The width.
        x: Images, in a number that `BATCH` divides.
        y: Labels.

    Returns:
        An array for each trainable variable, the mean over all batches.
    """
    kept = model.get_weights()
    total: list[Any] = [0.0] * len(model.trainable_variables)
    view = model.at(width)
    variables = [variable.value for variable in model.trainable_variables]
    for start in range(0, len(x), BATCH):
        part = slice(start, start + BATCH)
        with tf.GradientTape() as tape:
            # Training mode uses the statistics of the batch, as a step does.
            loss = tf.reduce_mean(model.loss(y[part], view(x[part], training=True)))
        for index, value in enumerate(tape.gradient(loss, variables)):
            if value is not None:
                total[index] = total[index] + value.numpy()
    model.set_weights(kept)  # the moving statistics have moved
    batches = len(x) // BATCH
    return [np.asarray(value) / batches for value in total]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The cosine between two arrays; 0 if one of them is zero."""
    size = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.vdot(first, second) / size) if size else 0.0


def compared(model: AnyWidthModel, data: ImageData) -> list[dict[str, Any]]:
    """Compares the gradients of all pairs of widths, by layer.

    Args:
        model: A compiled model.
        data: The data set.

    Returns:
        For each pair and each layer with a kernel: cosine, and the size of the first
        gradient divided by the size of the second.
    """
    images = data.x_train.astype("float32")
    sets = [slice(0, SAMPLES), slice(SAMPLES, 2 * SAMPLES)]
    x, y = images[sets[0]], data.y_train[sets[0]]
    by_width = {width: gradients(model, width, x, y) for width in WIDTHS}
    other = gradients(model, 1.0, images[sets[1]], data.y_train[sets[1]])
    acting = {
        id(variable): levels
        for variable, levels in acting_from(model.propagation, model.networks)
    }
    pairs: list[tuple[float, float, list[np.ndarray], list[np.ndarray]]] = [
        (narrow, wide, by_width[narrow], by_width[wide])
        for narrow, wide in itertools.combinations(WIDTHS, 2)
    ]
    pairs.append((1.0, 1.0, by_width[1.0], other))
    rows = []
    for narrow, wide, first, second in pairs:
        level = model.networks.level_of(narrow)
        for index, variable in enumerate(model.trainable_variables):
            if variable.name != "kernel":
                continue
            levels = acting.get(id(variable), np.zeros(()))
            there = np.broadcast_to(levels <= level, variable.shape)
            ours, others = first[index][there], second[index][there]
            rows.append(
                {
                    "narrow": narrow,
                    "wide": wide,
                    "layer": variable.path.split("/")[-2],
                    "cosine": cosine(ours, others),
                    "size": float(np.linalg.norm(ours) / np.linalg.norm(others)),
                }
            )
    return rows


class _Comparison(keras.callbacks.Callback):
    """Compares the gradients before training and after each epoch."""

    def __init__(self, data: ImageData, seed: int) -> None:
        super().__init__()
        self.data = data
        self.seed = seed
        self.rows: list[dict[str, Any]] = []

    def _compare(self, epoch: int) -> None:
        about = {"seed": self.seed, "epoch": epoch}
        self.rows += [{**about, **row} for row in compared(self.model, self.data)]

    def on_train_begin(self, logs: Any = None) -> None:
        self._compare(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._compare(epoch + 1)


def main() -> None:
    """Trains, compares, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS data")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    data = load_data("cifar10", data_dir=args.data_dir)
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        recipe = recommended_recipe("cifar10")
        recipe = replace(recipe, epochs=args.epochs, seed=seed)
        model = build(recipe, data)
        comparison = _Comparison(data, seed)
        batches = data.train(recipe.batch_size, seed=seed)
        model.fit(
            batches,
            epochs=args.epochs,
            shuffle=False,
            callbacks=[comparison],
            verbose=2,
        )
        rows += comparison.rows
    result = {"samples": SAMPLES, "environment": environment(), "rows": rows}
    write_whole(args.output, json.dumps(result, indent=1) + "\n")
    last = [row for row in rows if row["epoch"] == args.epochs]
    for row in last:
        print({key: row[key] for key in ("narrow", "wide", "layer", "cosine", "size")})


if __name__ == "__main__":
    main()
