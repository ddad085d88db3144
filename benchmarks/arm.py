"""Runs exported files on x86 and on ARM, and compares the outputs; see `.ci/arm`.

    python -m benchmarks.arm write|run|compare FOLDER

`write` exports a file of each precision and runs the files. `run` runs the same files
on another machine, which needs only LiteRT, NumPy and Pillow. `compare` writes the
differences to results/arm.json, and ends with exit code 1 if outputs differ by more
than `TOLERANCES`.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras import AnyWidthInterpreter

OUTPUT = Path(__file__).parents[1] / "results" / "arm.json"
#: Largest difference for each precision, relative to the largest output. float32: the
#: processors sum in different orders. float16: weights are converted to float32 before
#: use, so the tolerance is the same. int8: kernels of the two processors may round a
#: value differently by a step of 1/255, and later layers enlarge the difference.
TOLERANCES = {"float32": 1e-5, "float16": 1e-5, "dynamic_range": 2e-2, "int8": 2e-2}
WIDTHS = (0.25, 0.5, 1.0)
_SAMPLES = 20


def write(folder: Path) -> None:
    """Exports a file of each precision.

    Args:
        folder: The folder to write to.
    """
    import keras

    from awn_keras import export_tflite
    from awn_keras.environment import environment
    from tests.deploy.classifiers import of_pixels, pixels

    keras.utils.set_random_seed(0)
    model = of_pixels()
    folder.mkdir(parents=True, exist_ok=True)
    images = pixels(_SAMPLES).astype("float32")
    np.save(folder / "images.npy", images)
    for precision in TOLERANCES:
        export_tflite(
            model,
            folder / f"{precision}.tflite",
            widths=WIDTHS,
            precision=precision,
            representative=images if precision == "int8" else None,
            outputs="model",
            verbose=0,
        )
    (folder / "environment.json").write_text(json.dumps(environment()))
    run(folder)


def run(folder: Path) -> None:
    """Runs the files on this processor, and writes their outputs.

    Args:
        folder: The folder that `write` wrote to.
    """
    images = np.load(folder / "images.npy")
    outputs: dict[str, Any] = {}
    for precision in TOLERANCES:
        runner = AnyWidthInterpreter(folder / f"{precision}.tflite")
        for width in WIDTHS:
            scores = np.asarray(runner.run(images, width=width))
            outputs[f"{precision} {width}"] = scores.tolist()
    kept = {
        "python": platform.python_version(),
        "litert": version("ai-edge-litert"),
        "outputs": outputs,
    }
    (folder / f"{platform.machine()}.json").write_text(json.dumps(kept))


def compare(folder: Path) -> bool:
    """Compares the outputs that `run` wrote on x86 and on ARM.

    Args:
        folder: The folder that `run` wrote to on both machines.

    Returns:
        Whether all differences are within `TOLERANCES`.
    """
    here, there = (
        json.loads((folder / f"{machine}.json").read_text())
        for machine in ("x86_64", "aarch64")
    )
    rows, agree = [], True
    for name, scores in here["outputs"].items():
        ours, theirs = np.asarray(scores), np.asarray(there["outputs"][name])
        precision, width = name.split()
        difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
        agree &= difference <= TOLERANCES[precision]
        rows.append(
            {
                "precision": precision,
                "width": float(width),
                "difference": difference,
                "same_class": same,
            }
        )
        print(f"{precision:>13} {width:>5}: {difference:.1e}, same class {same:.0%}")
    result = {
        "arm": {key: there[key] for key in ("python", "litert")},
        "emulated_by": "qemu-aarch64-static",
        "samples": _SAMPLES,
        "rows": rows,
        "environment": json.loads((folder / "environment.json").read_text()),
    }
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")
    return agree


if __name__ == "__main__":
    action, place = sys.argv[1], Path(sys.argv[2])
    actions = {"write": write, "run": run, "compare": compare}
    sys.exit(actions[action](place) is False)
