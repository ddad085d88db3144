"""Checks that two runs of `awn benchmark` agree, and that times rise with the width.

    python -m benchmarks.repeatability FILE.tflite --dataset fashion_mnist

`FILE.tflite` is an export of a trained model, preferably at 8 widths. The script
measures the file twice on the CPU, on one thread. If there is a GPU, the script also
measures the file once on LiteRT's GPU engine. A GPU in software gives correct outputs,
but its times mean nothing.

The result has both runs, the accuracy of each width, and Spearman's rank correlation of
width and median. It also has the largest difference between the two runs. For this
difference, each median is divided by the median of the full width in its run. Takes
five minutes.
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
    """Returns the medians on the CPU, in the order of the widths."""
    return np.array([r.median_ms for r in report.sorted() if r.target == "cpu"])


def spearman(values: np.ndarray) -> float:
    """Returns the rank correlation of values with their positions."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(np.arange(len(values)), ranks)[0, 1])


def main() -> None:
    """Measures the file, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    data = load_data(args.dataset, data_dir=args.data_dir)
    accuracy = accuracies(args.file, *data.test(len(data.y_test))[0])
    # The speed of a shared machine changes from second to second. Medians of many short
    # repetitions are steadier.
    how = {"accuracy": accuracy, "repeats": args.repeats, "min_seconds": 0.1}
    first = benchmark_tflite(args.file, **how)
    second = benchmark_tflite(args.file, **how)
    on_gpu = benchmark_tflite(args.file, targets=["gpu"], accuracy=accuracy, repeats=3)
    first = first.merged([on_gpu])
    ours, theirs = medians(first), medians(second)
    ratios = (ours / ours[-1]) / (theirs / theirs[-1])
    gpu = [row for row in first.rows if row.target == "gpu"]
    result = {
        "what": f"{args.file.stem} at {len(ours)} widths, {len(data.y_test):,} images",
        "spearman": [spearman(ours), spearman(theirs)],
        "largest_difference": float(np.abs(ratios - 1).max()),
        "gpu_error": max((row.largest_error or 0.0 for row in gpu), default=None),
        "gpu_fully_accelerated": all(row.fully_accelerated for row in gpu)
        and bool(gpu),
        "runs": [
            {
                # The report names the machine. Results show only its processor.
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
