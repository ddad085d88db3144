"""Accuracy with the paper's staircase, with a nested one, and of plain networks.

    python -m benchmarks.grades --directory runs/grades [--seeds 0 1] [--data-dir DIR]

Four networks train on Fashion-MNIST. Each is converted with `min_width=0.25`:

- autoencoder: the network of MLPerf Tiny, with 784 inputs and a code of 8 channels.
  Measure: mean squared error of standardized pixels. 10 epochs.
- u_net: finds the pixels of a garment in noise, 32x32. The decoder has 16 channels in
  all stages. Measure: intersection over union. 4,000 images, 6 epochs.
- lenet: LeNet-3C1L (45 channels). Measure: accuracy. 4 epochs.
- mobilenet: `keras.applications.MobileNetV2` with `alpha=0.35`, 32x32. Measure:
  accuracy. 10,000 images, 4 epochs.

The optimizer is Adam; its rate starts at 1e-3 and falls along half a cosine. Each step
trains 4 widths by the sandwich rule, with the mean of their losses. The arm `plain` is
the network before conversion. In the arm `stages`, the code of the autoencoder never
has fewer than half of its channels. Finished arms are kept in `--directory` and not run
again. Two seeds take an hour and a half on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import SandwichWidths, count_macs, lenet_3c1l, to_any_width
from awn_keras.data import ImageData, load_data
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.stages import Stages
from benchmarks.networks import autoencoder, u_net

OUTPUT = Path(__file__).parents[1] / "results" / "grades.json"
ARMS = ("plain", "paper", "nested", "stages")
WIDTHS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Task:
    """A network and its training.

    Args:
        network: Makes the plain network.
        divisor: Channels of a block.
        loss: The loss.
        metric: Makes the metric to report.
        epochs: Passes over the training data.
        batch_size: Samples in a step.
        data: A function of the images. It returns inputs and targets for training, then
            inputs and targets for the test.
        stages: The stages of the arm `stages`. `None` leaves out this arm.
    """

    network: Callable[[], keras.Model]
    divisor: int
    loss: Any
    metric: Callable[[], keras.metrics.Metric]
    epochs: int
    batch_size: int
    data: Callable[[ImageData], tuple[np.ndarray, ...]]
    stages: Stages | None = None


def _standardized(images: ImageData) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        ((x.astype("float32") - images.mean) / images.std)
        for x in (images.x_train, images.x_test)
    )


def _same(images: ImageData) -> tuple[np.ndarray, ...]:
    train, test = (x.reshape(len(x), -1) for x in _standardized(images))
    return train, train, test, test


def _garments(images: ImageData) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for x in (images.x_train[:4000], images.x_test[:1000]):
        padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))).astype("float32") / 255
        noise = rng.normal(scale=0.4, size=padded.shape).astype("float32")
        arrays += [padded + noise, (padded > 0.1).astype("float32")]
    return tuple(arrays)


def _classes(images: ImageData) -> tuple[np.ndarray, ...]:
    train, test = _standardized(images)
    return train, images.y_train, test, images.y_test


def _mobilenet() -> keras.Model:
    model = keras.applications.MobileNetV2(
        (32, 32, 1), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # 0.999 would need more steps than these runs have
    return model


def _padded(images: ImageData) -> tuple[np.ndarray, ...]:
    train, test = (
        np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))) for x in _standardized(images)
    )
    return train[:10_000], images.y_train[:10_000], test, images.y_test


_CLASSIFIER: dict[str, Any] = {
    "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "metric": partial(keras.metrics.SparseCategoricalAccuracy, name="result"),
}
TASKS = {
    "autoencoder": Task(
        partial(autoencoder, 784),
        divisor=8,
        loss="mse",
        metric=partial(keras.metrics.MeanSquaredError, name="result"),
        epochs=10,
        batch_size=256,
        data=_same,
        stages={"code": {"min_width": 0.5}},
    ),
    "u_net": Task(
        partial(u_net, 32, (16, 32, 64), (16, 16)),
        divisor=8,
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metric=partial(
            keras.metrics.BinaryIoU, target_class_ids=[1], threshold=0.0, name="result"
        ),
        epochs=6,
        batch_size=32,
        data=_garments,
    ),
    "lenet": Task(
        partial(lenet_3c1l, triangular=False),
        divisor=1,
        **_CLASSIFIER,
        epochs=4,
        batch_size=128,
        data=_classes,
    ),
    "mobilenet": Task(
        _mobilenet,
        divisor=8,
        **_CLASSIFIER,
        epochs=4,
        batch_size=64,
        data=_padded,
    ),
}


def build(task: Task, arm: str) -> keras.Model:
    """Builds the untrained network of an arm."""
    model = task.network()
    if arm == "plain":
        return model
    return to_any_width(
        model,
        divisor=task.divisor,
        staircase="paper" if arm == "paper" else "nested",
        stages=task.stages if arm == "stages" else None,
    )


def relative_macs(task: Task, arm: str) -> list[float]:
    """Counts multiply-accumulates at each width, relative to the plain network."""
    plain, model = task.network(), build(task, arm)
    widths = [1.0] if arm == "plain" else WIDTHS
    return [count_macs(model, width) / count_macs(plain) for width in widths]


def train(name: str, arm: str, seed: int, images: ImageData) -> dict[str, Any]:
    """Trains one network and returns its test result at each width."""
    task = TASKS[name]
    keras.utils.set_random_seed(seed)
    model = build(task, arm)
    compiled: dict[str, Any] = {}
    evaluated: dict[str, Any] = {"return_dict": True}
    if arm != "plain":
        sampler = SandwichWidths(0.25, 1.0, 4, seed)
        compiled = {"widths": sampler, "width_reduction": "mean"}
        evaluated = {"widths": WIDTHS}
    x, y, x_test, y_test = task.data(images)
    steps = task.epochs * -(-len(x) // task.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(
        keras.optimizers.Adam(schedule), task.loss, metrics=[task.metric()], **compiled
    )
    model.fit(x, y, batch_size=task.batch_size, epochs=task.epochs, verbose=0)
    evaluate = model.evaluate if arm == "plain" else model.evaluate_widths
    result = evaluate(x_test, y_test, batch_size=250, verbose=0, **evaluated)["result"]
    row = {
        "network": name,
        "arm": arm,
        "seed": seed,
        "result": np.ravel(result).astype(float).tolist(),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Trains the arms that are not finished, and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    images = load_data("fashion_mnist", data_dir=args.data_dir)
    rows = []
    for name in TASKS:
        for seed in args.seeds:
            for arm in ARMS if TASKS[name].stages else ARMS[:-1]:
                path = args.directory / f"{name}_{arm}_{seed}.json"
                if not path.exists():
                    row = train(name, arm, seed, images)
                    write_whole(path, json.dumps(row) + "\n")
                rows.append(json.loads(path.read_text()))
    arms = {(row["network"], row["arm"]) for row in rows}
    macs = {key: relative_macs(TASKS[key[0]], key[1]) for key in sorted(arms)}
    for row in rows:
        row["relative_macs"] = macs[row["network"], row["arm"]]
    result = {
        "what": "Fashion-MNIST, Adam, sandwich rule with 4 widths",
        "widths": WIDTHS,
        "rows": rows,
        "environment": environment(),
    }
    write_whole(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
