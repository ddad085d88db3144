"""Times a training step of networks of normalization and attention blocks.

    python -m benchmarks.blocks [--steps 30] [--batch-size 32] [--output FILE]

The networks are a vision transformer (4 blocks of 192 channels and 4 heads on 64
tokens) and a ConvNeXt (4 blocks of 96 channels on 8x8 positions). Each network has
three arms: plain, any-width from 0.25 in blocks of 8 channels, and any-width with a
grid of 4 widths. An any-width step trains 4 widths. The arms take turns in one process,
so that a change in the speed of the machine affects all arms. Takes two minutes on two
cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import keras
import numpy as np

from awn_keras import to_any_width
from awn_keras.environment import environment
from awn_keras.files import write_whole
from benchmarks.train_step import compile_model, keras_step, measure

L = keras.layers
OUTPUT = Path(__file__).parents[1] / "results" / "blocks.json"
CLASSES = 10


def transformer() -> keras.Model:
    """Builds four blocks of attention over 64 tokens and two dense layers."""
    inputs = keras.Input((64, 48))
    x = L.Dense(192)(inputs)
    for _ in range(4):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(4, 48)(y, y)])
        y = L.Dense(768, activation="gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(192)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def convnext() -> keras.Model:
    """Builds four blocks of depthwise convolution, normalization and dense layers."""
    inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(96, 2, 2)(inputs)
    for _ in range(4):
        y = L.LayerNormalization()(L.DepthwiseConv2D(7, padding="same")(x))
        x = L.Add()([x, L.Dense(96)(L.Dense(384, activation="gelu")(y))])
    x = L.GlobalAveragePooling2D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


NETWORKS = {"transformer": transformer, "ConvNeXt": convnext}


def main() -> None:
    """Times all networks and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = []
    for name, build in NETWORKS.items():
        arms = {
            "plain": compile_model(build()),
            "any-width, blocks of 8": to_any_width(build()),
            "any-width, grid of 4 widths": to_any_width(
                build(), widths_grid=[0.25, 0.5, 0.75, 1.0]
            ),
        }
        shape = (args.batch_size, *arms["plain"].input_shape[1:])
        x = rng.normal(size=shape).astype("float32")
        y = rng.integers(0, CLASSES, args.batch_size)
        steps = {
            arm: keras_step(
                model if arm == "plain" else compile_model(model, report_widths=[]),
                x,
                y,
            )
            for arm, model in arms.items()
        }
        rows += [{"network": name, **row} for row in measure(steps, args.steps)]
    result = {
        "batch_size": args.batch_size,
        "steps": args.steps,
        "rows": rows,
        "environment": environment(),
    }
    write_whole(args.output, json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
