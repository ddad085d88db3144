"""Accuracy of exported files at each precision and width, by running them.

    python benchmarks/precision.py MODEL.keras --dataset fashion_mnist [--output FILE]

`MODEL.keras` is a trained any-width model, such as `awn train` writes. Each file holds
4 widths; int8 ranges come from 200 training images. All test images go through LiteRT.
Reported are accuracy, bytes, the largest difference of outputs from the float model,
and for how many images the answer is the same. Three minutes for LeNet-3C1L.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from awn_keras import export_tflite
from awn_keras.data import load_data
from awn_keras.deploy.converter import PRECISIONS
from awn_keras.deploy.verification import run_tflite
from awn_keras.environment import environment
from awn_keras.loading import load_model

OUTPUT = Path(__file__).parents[1] / "results" / "precision.json"


def main() -> None:
    """Exports, runs, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    model = load_model(args.model)
    data = load_data(args.dataset, data_dir=args.data_dir)
    images, labels = data.test(batch_size=len(data.y_test))[0]
    representative = data.train(200)[0][0]
    widths = np.linspace(model.min_width, 1.0, 4).round(4).tolist()
    wanted = {}
    for width in widths:
        model.width = width
        wanted[width] = model.predict(images, verbose=0)
    rows = []
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            exported = export_tflite(
                *(model, path),
                widths=widths,
                precision=precision,
                representative=representative if precision == "int8" else None,
                samples=images[:100],
            )
            content = path.read_bytes()
        for one in exported:
            (scores,) = run_tflite(content, [images], one.signature)
            expected = wanted[one.width]
            row = {
                "precision": precision,
                "width": one.width,
                "file_bytes": one.bytes,
                "accuracy": float(np.mean(scores.argmax(-1) == labels)),
                "model_accuracy": float(np.mean(expected.argmax(-1) == labels)),
                "largest_error": float(np.abs(scores - expected).max()),
                "largest_output": float(np.abs(expected).max()),
                "agreement": float(np.mean(scores.argmax(-1) == expected.argmax(-1))),
            }
            rows.append(row)
            print(
                f"{precision:14} {one.width:.2f} {row['file_bytes']:8,} bytes, "
                f"{row['accuracy']:.2%} (model {row['model_accuracy']:.2%}), "
                f"same answer {row['agreement']:.2%}",
                flush=True,
            )
    result = {
        "what": f"{model.name} on the {len(labels):,} test images of {data.name}",
        "representative": len(representative),
        "rows": rows,
        "environment": environment(),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
