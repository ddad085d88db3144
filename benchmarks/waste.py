"""Counts operations and weights of networks that no output depends on.

    python -m benchmarks.waste [--output FILE]

Networks are converted with `min_width=0.25`, in blocks of 8 channels and of 1 channel,
with the paper's staircase and with a nested staircase.

- *Unread*: the multiply-accumulates and weights that the plain network has, but the
  any-width network at full width does not compute and store, because no output depends
  on their channels.
- *Networks*: the number of widths at which a channel appears.
- *Answers*: the number of these widths whose outputs differ in any bit, for one random
  input. Only for blocks of 8.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import AnyWidthModel, count_macs, count_parameters, to_any_width
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.layers.base import TriangularKernel
from benchmarks.networks import autoencoder, u_net

OUTPUT = Path(__file__).parents[1] / "results" / "waste.json"
WIDTHS = (0.25, 0.5, 0.75, 1.0)
STAIRCASES = ("paper", "nested")
DIVISORS = (8, 1)


def application(name: str, **arguments: Any) -> keras.Model:
    """Builds a network of `keras.applications` for 96x96 images and 10 classes."""
    return getattr(keras.applications, name)(
        input_shape=(96, 96, 3),
        weights=None,
        classes=10,
        classifier_activation=None,
        **arguments,
    )


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "MobileNetV2": partial(application, "MobileNetV2"),
    "MobileNetV2, alpha 0.35": partial(application, "MobileNetV2", alpha=0.35),
    "EfficientNetB0": partial(application, "EfficientNetB0"),
    "MobileNetV3Small": partial(application, "MobileNetV3Small"),
    "U-Net, separable": partial(u_net, separable=True),
    "U-Net, decoder of 16": partial(u_net, decoder=(16, 16, 16, 16)),
    "autoencoder, code of 8": autoencoder,
}


def thresholds(model: AnyWidthModel) -> np.ndarray:
    """Returns the widths at which a channel appears; `min_width` is the first."""
    grades = [
        grades
        for layer in model.layers
        if isinstance(layer, TriangularKernel)
        for grades in (layer.in_grades, layer.out_grades)
        if grades is not None
    ]
    every = np.unique(np.concatenate(grades))
    return np.append(model.min_width, every[every > model.min_width])


def answers(model: AnyWidthModel, widths: np.ndarray) -> int:
    """Counts the different outputs of a model with random weights at some widths."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        value = rng.uniform(0.5, 1.0, weight.shape)
        if "kernel" in weight.path:
            value /= np.prod(weight.shape[:-1])
        weight.assign(value)
    x = rng.uniform(0.1, 1.0, (1, *model.input.shape[1:])).astype("float32")
    outputs = set()
    for width in widths:
        model.width = float(width)
        outputs.add(keras.ops.convert_to_numpy(model(x)).tobytes())
    return len(outputs)


def measure(name: str, staircase: str, divisor: int) -> dict[str, Any]:
    """Converts a network and returns its counts."""
    plain = NETWORKS[name]()
    model = to_any_width(plain, divisor=divisor, staircase=staircase)
    widths = thresholds(model)
    row = {
        "network": name,
        "staircase": staircase,
        "divisor": divisor,
        "macs": count_macs(plain),
        "parameters": count_parameters(plain),
        "unread_macs": 1 - count_macs(model) / count_macs(plain),
        "unread_parameters": 1 - count_parameters(model) / count_parameters(plain),
        "relative_macs": [
            count_macs(model, width) / count_macs(plain) for width in WIDTHS
        ],
        "networks": len(widths),
        # Blocks of one channel have thousands of widths, too many to run.
        "answers": answers(model, widths) if divisor > 1 else None,
        "distinct_widths": len(model.distinct_widths),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Counts for all networks, and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    rows = [
        measure(name, staircase, divisor)
        for name in NETWORKS
        for divisor in DIVISORS
        for staircase in STAIRCASES
    ]
    result = {
        "what": "min_width=0.25, 96x96 images (U-Nets 128x128)",
        "widths": WIDTHS,
        "rows": rows,
        "environment": environment(),
    }
    write_whole(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
