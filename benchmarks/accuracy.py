"""Accuracy of networks with attention, normalization or recurrence at all widths.

    python -m benchmarks.accuracy [--names GRU ...] [--seeds 0 1 2] [--data-dir DIR]
        [--aeon DIR]

Each network is trained twice: as a plain network, and after
`to_any_width(network, min_width=0.25)`. Optimizer and number of epochs are equal:

- ConvNeXtTiny of keras.applications and MobileViT-XXS (Mehta and Rastegari, ICLR 2022)
  train on the first images of CIFAR-10 (32x32, randomly mirrored). The test uses all
  10,000 test images.
- Two layers of GRU train on BasicMotions (6 channels, 100 steps) and on JapaneseVowels
  (12 channels, 7 to 29 steps, padded and masked). The package aeon has copies of these
  data sets. This script reads only the files of aeon, so `pip install --no-deps aeon`
  is enough.

The optimizer is AdamW with a warm-up over a tenth of the steps, then half a cosine.
Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import count_macs, to_any_width, trade_off_curve
from awn_keras.data import load_data
from awn_keras.environment import environment
from awn_keras.files import write_whole
from tests.zoo.attention import mobilevit_block
from tests.zoo.blocks import conv, inverted

L = keras.layers
OUTPUT = Path(__file__).parents[1] / "results" / "accuracy.json"
WIDTHS = (0.25, 0.5, 0.75, 1.0)
MIN_WIDTH = WIDTHS[0]
#: Training samples and labels, then test samples and labels.
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


# ------------------------------------------------------------------------ networks


def convnext_tiny(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Builds the stock network. Its stem turns 32x32 pixels into 8x8 positions."""
    return keras.applications.ConvNeXtTiny(
        input_tensor=L.RandomFlip("horizontal")(keras.Input(shape)),
        classes=classes,
        weights=None,
        classifier_activation=None,
    )


def mobilevit_xxs(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Builds MobileViT-XXS with the paper's channels and depths, for 32x32 pixels.

    The stem and the last stage keep the resolution, because attention needs patches of
    2x2 positions.
    """
    inputs = keras.Input(shape)
    x = L.RandomFlip("horizontal")(L.Rescaling(1 / 127.5, offset=-1)(inputs))
    x = inverted(conv(x, 16, activation="silu"), 16, 2, activation="silu")
    for strides in (2, 1, 1):
        x = inverted(x, 24, 2, strides=strides, activation="silu")
    for channels, size, depth, strides in ((48, 64, 2, 2), (64, 80, 4, 2)):
        x = inverted(x, channels, 2, strides=strides, activation="silu")
        x = mobilevit_block(x, size, depth)
    x = mobilevit_block(inverted(x, 80, 2, activation="silu"), 96, 3)
    x = L.GlobalAveragePooling2D()(conv(x, 320, 1, activation="silu"))
    return keras.Model(inputs, L.Dense(classes)(x))


def gru(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Builds two layers of 64 units. Steps that contain only zeros are padding."""
    inputs = keras.Input(shape)
    x = L.GRU(64, return_sequences=True)(L.Masking()(inputs))
    return keras.Model(inputs, L.Dense(classes)(L.GRU(64)(x)))


# ---------------------------------------------------------------------------- data


def cifar10(count: int, args: argparse.Namespace) -> Data:
    """Loads CIFAR-10. Only the first `count` images are for training."""
    data = load_data("cifar10", data_dir=args.data_dir)
    return data.x_train[:count], data.y_train[:count], data.x_test, data.y_test


def series(name: str, args: argparse.Namespace) -> Data:
    """Loads series of the UEA archive.

    Channels are standardized with the mean and deviation of the training set. Then all
    series are padded with zeros to the longest length.
    """
    train, test = (read_ts(args.aeon / name / f"{name}_{p}.ts") for p in PARTS)
    steps = np.concatenate(train[0])
    mean, deviation = steps.mean(axis=0), steps.std(axis=0)
    longest = max(len(x) for x in train[0] + test[0])
    classes = sorted(set(train[1]))

    def prepared(
        samples: list[np.ndarray], labels: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        x = np.zeros((len(samples), longest, len(mean)), "float32")
        for place, sample in zip(x, samples, strict=True):
            place[: len(sample)] = (sample - mean) / deviation
        return x, np.array([classes.index(label) for label in labels])

    return (*prepared(*train), *prepared(*test))


PARTS = ("TRAIN", "TEST")


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Reads a file of time series with one `channel:channel:...:label` line per sample.

    Args:
        path: A `.ts` file that has no time stamps and no missing values.

    Returns:
        Arrays `(steps, channels)` and the labels.
    """
    lines = path.read_text().splitlines()
    samples, labels = [], []
    for line in lines[lines.index("@data") + 1 :]:
        *channels, label = line.strip().split(":")
        samples.append(np.stack([np.fromstring(c, sep=",") for c in channels], -1))
        labels.append(label)
    return samples, labels


@dataclass(frozen=True)
class Case:
    """A network, its data, and the settings of its training."""

    network: Callable[[tuple[int, ...], int], keras.Model]
    data: Callable[[argparse.Namespace], Data]
    epochs: int
    batch: int
    rate: float


CASES: dict[tuple[str, str], Case] = {
    # A step of ConvNeXtTiny takes seconds on two cores.
    ("ConvNeXtTiny", "CIFAR-10"): Case(
        convnext_tiny, partial(cifar10, 4_000), epochs=3, batch=64, rate=1e-3
    ),
    ("MobileViT-XXS", "CIFAR-10"): Case(
        mobilevit_xxs, partial(cifar10, 10_000), epochs=4, batch=64, rate=2e-3
    ),
    ("GRU", "BasicMotions"): Case(
        gru, partial(series, "BasicMotions"), epochs=60, batch=8, rate=3e-3
    ),
    ("GRU", "JapaneseVowels"): Case(
        gru, partial(series, "JapaneseVowels"), epochs=30, batch=16, rate=3e-3
    ),
}
ARMS = ("plain", "any_width")


def measured(case: Case, arm: str, seed: int, data: Data) -> dict[str, Any]:
    """Trains a network; returns accuracy and multiply-accumulates at its widths."""
    keras.utils.set_random_seed(seed)
    x, y, x_test, y_test = data
    model = case.network(x.shape[1:], int(y.max()) + 1)
    if arm == "any_width":
        model = to_any_width(model, min_width=MIN_WIDTH)
    steps = case.epochs * -(-len(x) // case.batch)
    rates = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=case.rate, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(rates),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=case.batch, epochs=case.epochs, verbose=2)
    if arm == "any_width":
        curve = trade_off_curve(model, x_test, y_test, widths=WIDTHS, batch_size=256)
        return {"widths": curve.widths, "accuracy": curve.accuracy, "macs": curve.macs}
    result = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
    return {
        "widths": [1.0],
        "accuracy": [result["accuracy"]],
        "macs": [count_macs(model)],
    }


def main() -> None:
    """Runs all runs that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    networks = sorted({name for name, _ in CASES})
    parser.add_argument("--names", nargs="+", choices=networks, default=networks)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS data")
    parser.add_argument(
        "--aeon", type=Path, default=aeon_folder(), help="folder of series"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    if args.output.exists():
        runs = json.loads(args.output.read_text())["runs"]
    keys = ("network", "data", "arm", "seed")
    done = {tuple(run[key] for key in keys) for run in runs}
    for seed, (name, arm) in itertools.product(
        args.seeds, itertools.product(CASES, ARMS)
    ):
        if name[0] not in args.names or (*name, arm, seed) in done:
            continue
        keras.backend.clear_session()
        case = CASES[name]
        record = dict(zip(keys, (*name, arm, seed), strict=True))
        data = case.data(args)
        record |= {"samples": [len(data[1]), len(data[3])], "epochs": case.epochs}
        record |= measured(case, arm, seed, data)
        record["environment"] = environment()
        print(name, arm, seed, np.round(record["accuracy"], 4), flush=True)
        runs.append(record)
        result = {"min_width": MIN_WIDTH, "runs": runs}
        write_whole(args.output, json.dumps(result, indent=1) + "\n")


def aeon_folder() -> Path:
    """Returns the folder of the series in the package aeon, without importing aeon."""
    package = importlib.util.find_spec("aeon")
    if package is None or package.origin is None:
        return Path("aeon/datasets/data")  # the error about missing files names it
    return Path(package.origin).parent / "datasets" / "data"


if __name__ == "__main__":
    main()
