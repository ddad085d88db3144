"""Accuracy with normalization over channels, compared with BatchNormalization.

    python -m benchmarks.normalization [--seeds 0 1]

A small ConvNeXt (three blocks of 32 channels) trains on the digits of scikit-learn
(8x8). The optimizer is AdamW with a rate of 0.002 (a warm-up, then half a cosine) and
batches of 32. The arms are:

- plain: the plain network.
- narrow: the plain network with 8 channels, as many as at the narrowest width.
- any_width: `to_any_width(plain, min_width=0.25)`, with widths by the sandwich rule.
- any_width_long: like any_width, with three times as many epochs.

Finished arms are not run again. A seed takes ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from awn_keras import to_any_width, trade_off_curve
from awn_keras.data import ImageData, load_data
from awn_keras.environment import environment
from awn_keras.files import write_whole

OUTPUT = Path(__file__).parents[1] / "results" / "normalization.json"
NORMALIZATIONS: dict[str, type[keras.Layer]] = {
    "batch": keras.layers.BatchNormalization,
    "layer": keras.layers.LayerNormalization,
    "rms": keras.layers.RMSNormalization,
}
ARMS = ("plain", "narrow", "any_width", "any_width_long")
CHANNELS, NARROW, MIN_WIDTH = 32, 8, 0.25
EPOCHS, RATE, BATCH = 20, 2e-3, 32


def network(normalize: Callable[[], keras.Layer], channels: int) -> keras.Model:
    """Builds three blocks of ConvNeXt at one resolution."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(channels, 2, padding="same")(layers.Rescaling(1 / 16)(inputs))
    x = normalize()(x)
    for _ in range(3):
        y = normalize()(layers.DepthwiseConv2D(3, padding="same")(x))
        y = layers.Dense(2 * channels, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(channels)(y)])
    x = normalize()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def measured(name: str, arm: str, seed: int, data: ImageData) -> dict[str, Any]:
    """Trains an arm and returns its results on the test set."""
    keras.utils.set_random_seed(seed)
    model = network(NORMALIZATIONS[name], NARROW if arm == "narrow" else CHANNELS)
    is_any_width = arm.startswith("any_width")
    if is_any_width:
        model = to_any_width(model, min_width=MIN_WIDTH)
    epochs = EPOCHS * (3 if arm == "any_width_long" else 1)
    steps = epochs * (len(data.x_train) // BATCH)
    rates = keras.optimizers.schedules.CosineDecay(
        RATE / 10, steps - 50, warmup_target=RATE, warmup_steps=50
    )
    model.compile(
        keras.optimizers.AdamW(rates),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images = data.x_train.astype("float32"), data.x_test.astype("float32")
    model.fit(images[0], data.y_train, batch_size=BATCH, epochs=epochs, verbose=0)
    record = {"normalization": name, "arm": arm, "seed": seed, "epochs": epochs}
    if is_any_width:
        curve = trade_off_curve(model, images[1], data.y_test)
        record["auc"] = curve.auc
        record["narrowest"], record["accuracy"] = curve.accuracy[0], curve.accuracy[-1]
    else:
        result = model.evaluate(images[1], data.y_test, verbose=0, return_dict=True)
        record["accuracy"] = result["accuracy"]
    return record


def main() -> None:
    """Runs the arms that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(), "runs": []}
    if args.output.exists():
        result = json.loads(args.output.read_text())
    keys = ("normalization", "arm", "seed")
    done = {tuple(run[key] for key in keys) for run in result["runs"]}
    data = load_data("digits")
    for seed, name, arm in itertools.product(args.seeds, NORMALIZATIONS, ARMS):
        if (name, arm, seed) in done:
            continue
        keras.backend.clear_session()
        result["runs"].append(measured(name, arm, seed, data))
        print(result["runs"][-1], flush=True)
        write_whole(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
