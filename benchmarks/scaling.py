"""Estimates the step time of MobileNetV2 on 1 to 1024 devices from one measured step.

    python -m benchmarks.scaling --measure [--steps 10] [--batch-size 32]
    python -m benchmarks.scaling [--accelerator 100]

With `--measure`, the script times a training step on one device of this machine. The
model is `mobilenet_v2` as `awn train` builds it for the shape of ImageNet, with four
widths by the sandwich rule. This takes some minutes on two cores and needs a quiet
machine. Without `--measure`, the time comes from results/scaling.json. The rest is
arithmetic, not measurement:

- Each device keeps its batch size. So n devices train n times as many samples in a
  step.
- The gradients of a step have 4 bytes for each trainable weight. A ring sums them: each
  device sends 2 (n - 1) / n times their size.
- Links reach their quoted speed. Sending does not overlap with computing, and messages
  have no latency. Real libraries overlap, which makes a step faster. Real links are
  slower than quoted, and latency grows with n, which makes a step slower.
- An accelerator is `--accelerator` times faster than this machine. This is an
  assumption, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import SandwichWidths, mobilenet_v2
from awn_keras.environment import environment

RESULT = Path(__file__).parents[1] / "results" / "scaling.json"
SHAPE, CLASSES = (224, 224, 3), 1000
DEVICES = (1, 2, 4, 8, 64, 512, 1024)

#: GB/s (1e9 bytes) that a device sends in one direction, and the source of the number.
LINKS = {
    "NVLink 4": (450.0, "quoted for H100 SXM: 900 GB/s, both directions together"),
    "TPU v5p": (600.0, "cloud.google.com/tpu/docs/v5p: 1200 GB/s, bidirectional"),
    "PCIe 4.0 x16": (31.5, "nominal: 16 lanes of 16 GT/s, 128 of 130 bits are data"),
    "100 GbE": (12.5, "nominal: 100 Gbit/s"),
    "10 GbE": (1.25, "nominal: 10 Gbit/s"),
}


def build() -> keras.Model:
    """Builds the model and compiles it as a user would."""
    model = mobilenet_v2(SHAPE, CLASSES)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        widths=SandwichWidths(model.min_width, 1.0, num_widths=4),
    )
    return model


def measure(model: keras.Model, batch_size: int, steps: int) -> float:
    """Returns the median time of a training step in milliseconds."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *SHAPE)).astype("float32")
    labels = rng.integers(0, CLASSES, batch_size)
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        model.train_on_batch(images, labels)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])  # the first traces, the second warms up


def project(step_ms: float, gradient_bytes: float) -> list[dict[str, Any]]:
    """Estimates the step time for each number of devices and each link.

    Args:
        step_ms: Time of a step on one device, in ms.
        gradient_bytes: Size of all gradients.

    Returns:
        A row for each number of devices. For each link, a row has the time of the sum
        and of the whole step in ms, and as `efficiency` the part of the whole step that
        computing takes.
    """
    rows = []
    for count in DEVICES:
        sent = 2 * (count - 1) / count * gradient_bytes
        links = {}
        for name, (speed, _) in LINKS.items():
            sum_ms = 1000 * sent / (speed * 1e9)
            links[name] = {
                "all_reduce_ms": sum_ms,
                "step_ms": step_ms + sum_ms,
                "efficiency": step_ms / (step_ms + sum_ms),
            }
        rows.append({"devices": count, "bytes_sent": sent, "links": links})
    return rows


def main() -> None:
    """Measures if asked to, makes the estimates, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--accelerator", type=float, default=100.0)
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.measure:
        model = build()
        weights = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        measured = {
            "step_ms": measure(model, args.batch_size, args.steps),
            "batch_size": args.batch_size,
            "steps": args.steps,
            "trainable_weights": weights,
            "environment": environment(),
        }
    elif args.output.exists():
        measured = json.loads(args.output.read_text())["measured"]
    else:
        parser.error(f"there is no {args.output} yet: run it with `--measure`")
    gradient_bytes = 4 * measured["trainable_weights"]
    result = {
        "what": "MobileNetV2 at 224x224x3, 1000 classes, 4 widths a step, float32",
        "measured": measured,
        "gradient_bytes": gradient_bytes,
        "accelerator": args.accelerator,
        "links": {
            name: {"gigabytes_per_second": speed, "source": source}
            for name, (speed, source) in LINKS.items()
        },
        "here": project(measured["step_ms"], gradient_bytes),
        "accelerated": project(measured["step_ms"] / args.accelerator, gradient_bytes),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{measured['step_ms']:.0f} ms a step, {gradient_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
