"""Do two runs of `awn benchmark` say the same? Do medians rise with width?

    python benchmarks/repeatability.py FILE.tflite --dataset fashion_mnist

`FILE.tflite` is an export of a trained model, best at 8 widths. It is measured twice on
the CPU, one thread, and once on LiteRT's GPU engine if there is a GPU (one in software
gives right numbers, but no speed to speak of). Reported are both runs, the accuracy of
each width, Spearman's rank correlation of width and median, and the largest difference
between the two runs of a width's median relative to the full width's. Five minutes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from awn_keras.data import load_data
from awn_keras.deploy.benchmark import Report, accuracies, benchmark_tflite
from awn_keras.environment import environment

OUTPUT = Path(__file__).parents[1] / "results" / "benchmark.json"


def medians(report: Report) -> np.ndarray:
    """Medians on the CPU, widths ascending."""
    return np.array([r.median_ms for r in report.sorted() if r.target == "cpu"])


def spearman(values: np.ndarray) -> float:
    """Rank correlation with their order."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(np.arange(len(values)), ranks)[0, 1])


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    data = load_data(args.dataset, data_dir=args.data_dir)
    accuracy = accuracies(args.file, *data.test(len(data.y_test))[0])
    # This machine changes its pace from second to second: many short repetitions.
    how = {"accuracy": accuracy, "repeats": args.repeats, "min_seconds": 0.1}
    first = benchmark_tflite(args.file, **how)
    second = benchmark_tflite(args.file, **how)
    on_gpu = benchmark_tflite(args.file, targets=["gpu"], accuracy=accuracy, repeats=3)
    first = first.merged([on_gpu])
    one, other = medians(first), medians(second)
    ratios = (one / one[-1]) / (other / other[-1])
    gpu = [row for row in first.rows if row.target == "gpu"]
    result = {
        "what": f"{args.file.stem} at {len(one)} widths, {len(data.y_test):,} images",
        "spearman": [spearman(one), spearman(other)],
        "largest_difference": float(np.abs(ratios - 1).max()),
        "gpu_error": max((row.largest_error or 0.0 for row in gpu), default=None),
        "gpu_fully_accelerated": all(row.fully_accelerated for row in gpu)
        and bool(gpu),
        "runs": [
            {
                # Without the machine's name.
                "rows": [
                    {**asdict(row), "device": environment()["processor"]}
                    for row in report.sorted()
                ],
                "failures": [str(failure) for failure in report.failures],
            }
            for report in (first, second)
        ],
        "environment": environment(),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(first.table())
    print(second.table())
    for line in (*first.warnings(), *second.warnings(), *map(str, first.failures)):
        print(line)
    print({key: result[key] for key in ("spearman", "largest_difference", "gpu_error")})


if __name__ == "__main__":
    main()
