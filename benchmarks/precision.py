"""Measures the accuracy of exported files at each precision and width.

    python -m benchmarks.precision MODEL.keras --dataset fashion_mnist [--output FILE]

`MODEL.keras` is a trained any-width model, for example from `awn train`. A file holds 4
widths. The ranges of int8 come from 200 training images. With quantization-aware
training (extra `quantization`), each width has its own file. The slim network of the
width trains for 200 more steps of 128 images with SGD with momentum, at a rate of 3e-4.

LiteRT runs the files on all test images. The result has the accuracy, the bytes, the
largest difference of an output from the float model, and the part of the images with an
equal answer. Takes five minutes for LeNet-3C1L.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras import export_tflite
from awn_keras.data import ImageData, load_data
from awn_keras.deploy import convert_int8, quantize_aware
from awn_keras.deploy.converter import PRECISIONS
from awn_keras.deploy.litert import run_tflite
from awn_keras.environment import environment
from awn_keras.loading import load_model

OUTPUT = Path(__file__).parents[1] / "results" / "precision.json"


QUANTIZATION_AWARE = "int8, quantization-aware"
STEPS = 200


def exported_at(
    precision: str, model: Any, widths: list[float], data: ImageData
) -> dict[float, tuple[bytes, str]]:
    """Exports a model; returns the file and the signature name of each width."""
    representative = data.train(200)[0][0]
    if precision == QUANTIZATION_AWARE:
        return {
            width: (trained_file(model, width, data, representative), "serve")
            for width in widths
        }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        exported = export_tflite(
            model,
            path,
            widths=widths,
            precision=precision,
            representative=representative if precision == "int8" else None,
            samples=data.test(100)[0][0],
        )
        content = path.read_bytes()
    return {record.width: (content, record.signature) for record in exported}


def trained_file(
    model: Any, width: float, data: ImageData, representative: np.ndarray
) -> bytes:
    """Makes the int8 file of a width, with quantization-aware training."""
    quantized = quantize_aware(model, width, representative=representative)
    import tf_keras  # after `quantize_aware`, as tfmot must choose the Keras version

    tf_keras.utils.set_random_seed(0)
    quantized.compile(
        tf_keras.optimizers.SGD(3e-4, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batches = data.train(128)
    for step in range(STEPS):
        quantized.train_on_batch(*batches[step])
    return convert_int8(quantized, "serve")


def main() -> None:
    """Exports the files, runs them, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    model = load_model(args.model)
    data = load_data(args.dataset, data_dir=args.data_dir)
    images, labels = data.test(batch_size=len(data.y_test))[0]
    widths = np.linspace(model.min_width, 1.0, 4).round(4).tolist()
    wanted = {}
    for width in widths:
        model.width = width
        wanted[width] = model.predict(images, verbose=0)
    rows = []
    for precision in (*PRECISIONS, QUANTIZATION_AWARE):
        files = exported_at(precision, model, widths, data)
        file_bytes = sum(map(len, {content for content, _ in files.values()}))
        for width, (content, signature) in files.items():
            (scores,) = run_tflite(content, [images], signature)
            expected = wanted[width]
            row = {
                "precision": precision,
                "width": width,
                "file_bytes": file_bytes,
                "accuracy": float(np.mean(scores.argmax(-1) == labels)),
                "model_accuracy": float(np.mean(expected.argmax(-1) == labels)),
                "largest_error": float(np.abs(scores - expected).max()),
                "largest_output": float(np.abs(expected).max()),
                "agreement": float(np.mean(scores.argmax(-1) == expected.argmax(-1))),
            }
            rows.append(row)
            print(
                f"{precision:14} {width:.2f} {file_bytes:8,} bytes, "
                f"{row['accuracy']:.2%} (model {row['model_accuracy']:.2%}), "
                f"same answer {row['agreement']:.2%}",
                flush=True,
            )
    result = {
        "what": f"{model.name} on the {len(labels):,} test images of {data.name}",
        "representative": 200,
        "steps": STEPS,
        "rows": rows,
        "environment": environment(),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
