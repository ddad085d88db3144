"""Converts families of `keras.applications` and checks slimming on each.

    python -m benchmarks.families [--families MobileNetV2 ...] [--output FILE]

Each network is built with new weights at its usual size (224x224; 299x299 for
InceptionV3 and Xception). The script converts the network with
`to_any_width(min_width=0.35, divisor=8)` and gives it random biases and statistics. At
three widths, the script compares the model with `slim(model, width)` on one image. The
reported difference is the largest difference of a logit, relative to the largest logit.
Each time is from one run.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import ConversionError, list_networks, slim, to_any_width
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.layers.base import TriLayer

FAMILIES = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *("EfficientNetB0", "EfficientNetV2B0", "ResNet50", "ResNet50V2"),
    *("DenseNet121", "InceptionV3", "Xception", "VGG16", "NASNetMobile"),
    "ConvNeXtTiny",
)
SIZES = {"InceptionV3": 299, "Xception": 299}
WIDTHS = (0.35, 0.65, 1.0)
OUTPUT = Path(__file__).parents[1] / "results" / "families.json"


def randomize(model: keras.Model) -> None:
    """Gives biases, factors and statistics random values, like those of training.

    With the initial values 0 and 1, wrong slices of these weights would go unnoticed.
    """
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "variance" in weight.path or "gamma" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif "kernel" not in weight.path:
            weight.assign(rng.normal(scale=0.3, size=weight.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def measure(family: str) -> dict[str, Any]:
    """Builds, converts and compares one family."""
    size = SIZES.get(family, 224)
    start = time.perf_counter()
    plain = getattr(keras.applications, family)(
        input_shape=(size, size, 3), weights=None, classifier_activation=None
    )
    row: dict[str, Any] = {
        "family": family,
        "size": size,
        "layers": len(plain.layers),
        "build_seconds": time.perf_counter() - start,
    }
    start = time.perf_counter()
    try:
        model = to_any_width(plain, min_width=WIDTHS[0], divisor=8)
    except ConversionError as error:
        return {**row, "converts": False, "findings": error.findings}
    row["convert_seconds"] = time.perf_counter() - start
    del plain
    networks = list_networks(model)
    randomize(model)
    image = (
        np.random.default_rng(1).uniform(-1, 1, (1, size, size, 3)).astype("float32")
    )
    differences = []
    for width in WIDTHS:
        model.width = width
        wanted = np.asarray(model(image, training=False))
        got = np.asarray(slim(model, width)(image, training=False))
        differences.append(float(np.abs(got - wanted).max() / np.abs(wanted).max()))
    return {
        **row,
        "converts": True,
        "tri_layers": sum(isinstance(x, TriLayer) for x in model.layers),
        "networks": len(networks),
        "macs": [networks.macs[0], networks.macs[-1]],
        "parameters": [networks.parameters[0], networks.parameters[-1]],
        "differences": differences,
    }


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    # TensorFlow sets itself up in its first call. That time belongs to no family.
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3)])
    rows = []
    for family in args.families:
        rows.append(measure(family))
        gc.collect()
        print(json.dumps(rows[-1]), flush=True)
    result = {"widths": WIDTHS, "rows": rows, "environment": environment()}
    write_whole(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
