"""Times an early answer and its refinement, compared with the wide width alone.

    python -m benchmarks.refinement [--models 'NAME;...'] [--runs 100] [--files FOLDER]
                                    [--only-convert] [--output FILE]

The networks are LeNet-3C1L with 128 channels and `keras.applications.MobileNetV2` (1000
classes), converted with `width_multiplier=sqrt(2)`. For each network, the script
measures:

- milliseconds of `AnytimeInterpreter.run` at the narrow width;
- milliseconds of `AnytimeInterpreter.run` and `refine` together;
- milliseconds of the wide width alone, in the same LiteRT engine (CompiledModel) and in
  the engine of `AnyWidthInterpreter`;
- bytes of the file with and without the two signatures that a refinement needs;
- bytes of the activations that stay in memory between the two signatures.

Times are medians with XNNPACK on one thread, for one sample; all calls take turns in
one process. Weights are random. `--only-convert` makes the files for a later run with
the same `--files`. Remove the files after a change of the code that makes them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ai_edge_litert.compiled_model import CompiledModel

from awn_keras import (
    AnytimeInterpreter,
    AnyWidthInterpreter,
    AnyWidthModel,
    export_tflite,
    lenet_3c1l,
    to_any_width,
)
from awn_keras.deploy.litert import TFLiteFile
from awn_keras.deploy.signatures import Refinement, width_signature
from awn_keras.environment import environment
from benchmarks.export import ROOT_2

OUTPUT = Path(__file__).parents[1] / "results" / "refinement.json"


def mobilenet(size: int) -> AnyWidthModel:
    """Builds MobileNetV2 for square images of a size, and 1000 classes."""
    plain = keras.applications.MobileNetV2(
        input_shape=(size, size, 3), weights=None, classifier_activation=None
    )
    return to_any_width(plain, width_multiplier=ROOT_2, min_width=0.35, divisor=8)


NETWORKS: dict[str, Callable[[], AnyWidthModel]] = {
    "LeNet-3C1L, 128 channels": partial(lenet_3c1l, filters=128, width_multiplier=1.0),
    "MobileNetV2, 96x96": partial(mobilenet, 96),
    "MobileNetV2, 224x224": partial(mobilenet, 224),
}


def files_of(name: str, folder: Path) -> tuple[Path, Path, Refinement]:
    """Returns a file with a refinement, a file without, and the pair of widths.

    Missing files are made.
    """
    with_it, without = (folder / f"{name}, {kind}.tflite" for kind in ("both", "one"))
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    pair = Refinement(model.min_width, 1.0)
    for path, refine in ((without, None), (with_it, (pair.narrow, pair.wide))):
        if not path.exists():
            widths = [pair.narrow, pair.wide]
            export_tflite(model, path, widths=widths, refine=refine)
            print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
    return with_it, without, pair


def alone(path: Path, signature: str, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """Makes a function that runs a signature in the engine of `AnytimeInterpreter`."""
    model = CompiledModel.from_file(str(path))
    known = model.get_signature_list()[signature]
    inputs, outputs = (
        {name: make(signature, name) for name in known[kind]}
        for kind, make in (
            ("inputs", model.create_input_buffer_by_name),
            ("outputs", model.create_output_buffer_by_name),
        )
    )
    (given,), (gives,) = inputs.values(), outputs.values()

    def run(x: np.ndarray) -> np.ndarray:
        given.write(x)
        model.run_by_name(signature, inputs, outputs)
        return gives.read(int(np.prod(shape)), np.float32).reshape(shape)

    return run


def measure(name: str, runs: int, folder: Path) -> dict[str, Any] | None:
    """Measures one network. If `runs` is 0, only makes the files; returns `None`."""
    path, without, pair = files_of(name, folder)
    if not runs:
        return None
    known = TFLiteFile(path).signatures
    wide = width_signature(pair.wide)
    (image,), (scores,) = known[wide].inputs, known[wide].outputs
    kept = [x for x in known[pair.refine].inputs if x.name != image.name]
    x = np.random.default_rng(0).random(image.shape, "float32")
    anytime, switching = AnytimeInterpreter(path), AnyWidthInterpreter(path)
    compiled = alone(path, wide, scores.shape)
    calls: dict[str, Callable[[], Any]] = {
        "first": lambda: anytime.run(x),
        "both": lambda: (anytime.run(x), anytime.refine())[1],
        "wide": lambda: compiled(x),
        "wide, AnyWidthInterpreter": lambda: switching.run(x),
    }
    times: dict[str, list[float]] = {key: [] for key in calls}
    for turn in range(runs + 5):
        for key, call in calls.items():
            call()  # warms the caches, as the frame before does for a camera
            start = time.perf_counter()
            call()
            if turn >= 5:
                times[key].append(1e3 * (time.perf_counter() - start))
    answers = [calls[key]() for key in ("both", "wide")]
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {
        "network": name,
        "widths": [pair.narrow, pair.wide],
        "ms": medians,
        "ratio": medians["both"] / medians["wide"],
        "ratio_to_any_width_interpreter": medians["both"]
        / medians["wide, AnyWidthInterpreter"],
        "bytes": path.stat().st_size,
        "bytes_without": without.stat().st_size,
        "activations_kept": len(kept),
        "activation_bytes": sum(4 * int(np.prod(each.shape)) for each in kept),
        "largest_difference": float(np.abs(answers[0] - answers[1]).max()),
    }


def main() -> None:
    """Measures the networks, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=";".join(NETWORKS), help="separated by ;")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--files", type=Path, help="folder to keep files in")
    parser.add_argument("--only-convert", action="store_true")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if args.only_convert and not args.files:
        parser.error("--only-convert needs --files")
    rows = {}
    if args.output.exists():  # keeps the rows of networks that are not measured now
        old = json.loads(args.output.read_text())["networks"]
        rows = {row["network"]: row for row in old}
    measured = False
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.models.split(";"):
            runs = 0 if args.only_convert else args.runs
            row = measure(name, runs, args.files or Path(temporary))
            if row is None:
                continue
            rows[name] = {**row, "runs": args.runs}
            measured = True
            print(
                f"{name}: first {row['ms']['first']:.3f} ms, with the refined answer "
                f"{row['ms']['both']:.3f} ms, wide alone {row['ms']['wide']:.3f} ms: "
                f"{row['ratio']:.2f}x",
                flush=True,
            )
    if measured:
        result = {
            "what": "LiteRT, XNNPACK, one thread, float32, batch 1",
            "networks": [rows[name] for name in NETWORKS if name in rows],
            "environment": environment(),
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
