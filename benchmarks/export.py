"""Measures exported files: weights, bytes, executed operations and milliseconds.

    python -m benchmarks.export [--networks 'NAME;...'] [--runs 100] [--output FILE]
                                [--files FOLDER] [--only-convert]
    python -m benchmarks.export --seconds [--before CHECKOUT]

Each network is converted to an any-width network in several ways (`ARMS`): with the
paper's staircase or a nested staircase, widened by sqrt(2) in all layers or balanced.
For each network, the script measures:

- One file of four widths for each arm: its bytes and stored weights. For each width:
  multiply-accumulates of the slim network and of the file, active weights, and
  milliseconds. The default arm is also measured with dense kernels and with eight
  widths.
- Plain networks that a user could ship instead. All their layers are scaled by the same
  factor, so that they have as many weights as are active in the file, or as many
  multiply-accumulates as the file executes.
- An S-Net of the plain network, which has a copy of the weights for each of the four
  widths.

Times are medians with LiteRT (XNNPACK) on one thread. The files take turns in one
process, and each width runs some times in a row. Weights are random, because their
values change neither bytes nor time. `--only-convert` writes the files without timing
them, so it may run beside other work. A later run uses the files that are already in
the folder. Remove the files after a change of the code that makes them.

`--seconds` measures how long an export takes, compared with one conversion of the full
width by TensorFlow's converter. Each runs in a separate process. `--before` names a
checkout of an earlier version to compare with.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import (
    AnyWidthModel,
    count_macs,
    count_parameters,
    lenet_3c1l,
    slim,
    to_any_width,
)
from awn_keras.baselines import SNet
from awn_keras.counting import active_parameters_at, executed_macs, macs_at
from awn_keras.deploy.converter import constants, convert
from awn_keras.deploy.cutting import cut_networks
from awn_keras.deploy.signatures import width_signature
from awn_keras.deploy.timing import time_signatures
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.layouts import choose_cuts
from awn_keras.multi_width import MultiWidthModel
from benchmarks.networks import u_net

OUTPUT = Path(__file__).parents[1] / "results" / "export.json"
ROOT_2 = math.sqrt(2)
#: The arm that is also measured with dense kernels and with eight widths.
DEFAULT = "nested, balanced"
ARMS: dict[str, dict[str, Any]] = {
    "paper's, sqrt(2)": {"staircase": "paper", "width_multiplier": ROOT_2},
    "nested, sqrt(2)": {"width_multiplier": ROOT_2},
    DEFAULT: {"width_multiplier": "balanced"},
    "nested, balanced, blocks of 32": {
        "width_multiplier": "balanced",
        "divisor": 32,
    },
}
#: Factors on the channels of all layers of a plain network.
SIZES = np.arange(0.25, 1.46, 0.05).round(2).tolist()


@dataclass(frozen=True)
class Case:
    """A network to export.

    Args:
        plain: Makes the plain network.
        min_width: The smallest width.
        divisor: Channels of a block, in arms that set no `divisor`.
        s_net: Whether to measure an S-Net of the network, too.
    """

    plain: Callable[[], keras.Model]
    min_width: float
    divisor: int = 8
    s_net: bool = False

    def model(self, arm: Mapping[str, Any]) -> AnyWidthModel:
        """Builds the any-width model of an arm."""
        options = {"min_width": self.min_width, "divisor": self.divisor, **arm}
        return to_any_width(self.plain(), **options)

    def of_size(self, size: float) -> AnyWidthModel:
        """Builds the network with all channels times `size`, at full width only."""
        return to_any_width(
            self.plain(), width_multiplier=size, min_width=1.0, divisor=self.divisor
        )


def application(name: str) -> keras.Model:
    """Builds a network of `keras.applications` for 224x224 images and 1000 classes."""
    return getattr(keras.applications, name)(
        input_shape=(224, 224, 3), weights=None, classifier_activation=None
    )


CASES = {
    "LeNet-3C1L, 28x28": Case(
        partial(lenet_3c1l, width_multiplier=1.0, triangular=False),
        min_width=0.25,
        divisor=1,
        s_net=True,
    ),
    "U-Net, 128x128": Case(u_net, min_width=0.25),
    "MobileNetV2, 224x224": Case(
        partial(application, "MobileNetV2"), min_width=0.35, s_net=True
    ),
    "EfficientNetB0, 224x224": Case(
        partial(application, "EfficientNetB0"), min_width=0.35
    ),
}


def widths_of(min_width: float, count: int) -> list[float]:
    """Returns `count` evenly spaced widths.

    Widths are rounded up to 4 digits. If they were rounded down, a width could lie just
    below the width at which a block appears.
    """
    even = np.linspace(min_width, 1.0, count)
    return [min_width, *(np.ceil(even[1:] * 1e4 - 1e-6) / 1e4).tolist()]


@dataclass
class File:
    """A file of one network at some widths.

    Args:
        label: A description of the contents.
        content: The bytes of the file.
        names: For each width, the name of its signature.
        rows: For each width, the numbers known about it.
    """

    label: str
    content: bytes
    names: dict[float, str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """The size of the file in bytes, and the number of weights in it."""
        return {
            "bytes": len(self.content),
            "stored_weights": constants(self.content).stored // 4,
        }


class Files:
    """Files of a network. A file is made only if it is missing.

    Args:
        folder: The folder that keeps the files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def _kept(self, label: str, make: Callable[[], bytes]) -> bytes:
        path = self.folder / f"{label.replace('/', '_')}.tflite"
        if not path.exists():
            start = time.perf_counter()
            write_whole(path, make())
            print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
        return path.read_bytes()

    def of_model(
        self, label: str, model: MultiWidthModel, widths: Sequence[float], layout: str
    ) -> File:
        """Returns a file of some widths of a model."""
        cuts = choose_cuts(model, widths, layout)
        names = {width: width_signature(width) for width in widths}

        def make() -> bytes:
            return convert(cut_networks(model, widths, cuts))

        rows = [
            {"width": width, "macs": macs, "executed_macs": executed, "active": active}
            for width, macs, executed, active in zip(
                widths,
                macs_at(model, widths).tolist(),
                executed_macs(model, widths, cuts).tolist(),
                active_parameters_at(model, widths).tolist(),
                strict=True,
            )
        ]
        return File(label, self._kept(label, make), names, rows)

    def of_plain(self, case: Case, costs: dict[str, Any]) -> File:
        """Returns a file of a plain network whose size is `costs["size"]`."""
        label = f"plain, {costs['size']:g}"

        def make() -> bytes:
            return convert({"plain": slim(case.of_size(costs["size"]), 1.0)})

        return File(label, self._kept(label, make), {1.0: "plain"}, [dict(costs)])


def alternatives(
    case: Case, files: Files, arms: Sequence[File]
) -> tuple[list[File], list[dict[str, Any]]]:
    """Finds plain networks like the files, by weights and by executed operations.

    Returns:
        The files of all chosen networks, and a row for each choice, which says what
        the choice is equal to: the arm, its width, and weights or multiply-accumulates.
    """
    plain = []
    for size in SIZES:
        model = case.of_size(size)
        macs, weights = count_macs(model), count_parameters(model)
        plain.append({"size": size, "macs": macs, "weights": weights})
    chosen = []
    for file in arms:
        for row in file.rows:
            wanted = {"weights": row["active"], "macs": row["executed_macs"]}
            for equal, count in wanted.items():
                nearest = min(
                    range(len(plain)),
                    key=partial(_distance, plain, equal, count),
                )
                chosen.append(
                    {
                        "arm": file.label,
                        "width": row["width"],
                        "equal": equal,
                        "size": plain[nearest]["size"],
                    }
                )
    sizes = {row["size"] for row in chosen}
    return [files.of_plain(case, row) for row in plain if row["size"] in sizes], chosen


def _distance(
    plain: Sequence[Mapping[str, Any]], equal: str, count: int, index: int
) -> int:
    return abs(plain[index][equal] - count)


def measure(name: str, runs: int, folder: Path) -> dict[str, Any] | None:
    """Measures one network. If `runs` is 0, only makes the files; returns `None`."""
    case, files = CASES[name], Files(folder / name)
    few, many = (widths_of(case.min_width, count) for count in (4, 8))
    arms, more = [], []
    for label, changes in ARMS.items():
        if case.divisor == 1 and "divisor" in changes:
            continue  # this network has too few channels for blocks of 32
        model = case.model(changes)
        arms.append(files.of_model(label, model, few, "auto"))
        if label == DEFAULT:
            more += [
                files.of_model("dense kernels", model, few, "dense"),
                files.of_model("8 widths", model, many, "auto"),
            ]
    if case.s_net:
        plain = case.plain()
        s_net = SNet(plain.input, plain.output, widths=few, divisor=case.divisor)
        more.append(files.of_model("S-Net", s_net, few, "dense"))
    others, chosen = alternatives(case, files, arms)
    if not runs:
        return None
    print(f"{name}: timing", flush=True)
    every = [*arms, *more, *others]
    times = time_in_turns(every, runs)
    for file in every:
        for row, width in zip(file.rows, file.names, strict=True):
            row["ms"] = times[file.label, width]
    by_size = {file.rows[0]["size"]: file for file in others}
    return {
        "network": name,
        "plain": {
            "macs": count_macs(case.plain()),
            "weights": count_parameters(case.plain()),
        },
        "files": {
            file.label: {**file.facts, "widths": file.rows} for file in [*arms, *more]
        },
        "alternatives": [
            {**row, **by_size[row["size"]].facts, **by_size[row["size"]].rows[0]}
            for row in chosen
        ],
    }


def time_in_turns(files: Sequence[File], runs: int) -> dict[tuple[str, float], float]:
    """Times each signature of each file, in five rounds over all files.

    Returns:
        Median milliseconds, by label of the file and width.
    """
    times: dict[tuple[str, float], list[float]] = {}
    rounds = 5
    each = -(-runs // rounds)
    for _ in range(rounds):
        for file in files:
            names = list(file.names.values())
            measured = time_signatures(file.content, names, runs=each, turns=1)
            for width, name in file.names.items():
                times.setdefault((file.label, width), []).extend(measured[name])
    return {key: statistics.median(values) for key, values in times.items()}


# ------------------------------------------------------------------- seconds of export

#: A program for a separate process, whose PYTHONPATH names the version to measure.
_EXPORT = """
import json, math, sys, tempfile, time
import keras
import tensorflow as tf
from awn_keras import export_tflite, slim, to_any_width
from awn_keras.deploy import export as module

plain = keras.applications.MobileNetV2((224, 224, 3), weights=None)
model = to_any_width(
    plain, width_multiplier=math.sqrt(2), min_width=0.35, divisor=8
)
what, count = sys.argv[1], int(sys.argv[2])
verified = [0.0]
compare = module.compare


def timed(*args, **kwargs):
    start = time.perf_counter()
    try:
        return compare(*args, **kwargs)
    finally:
        verified[0] += time.perf_counter() - start


module.compare = timed
if what == "stock":
    network = slim(model, 1.0)
    start = time.perf_counter()
    size = len(tf.lite.TFLiteConverter.from_keras_model(network).convert())
else:
    widths = [0.35 + 0.65 * i / (count - 1) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        records = export_tflite(model, folder + "/model.tflite", widths=widths)
    size = records[0].bytes
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "verification": verified[0], "bytes": size}))
"""


def seconds_of(what: str, count: int, checkout: Path) -> dict[str, Any]:
    """Measures how long an export or a stock conversion takes."""
    result = subprocess.run(
        [sys.executable, "-c", _EXPORT, what, str(count)],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    measured = json.loads(result.stdout.splitlines()[-1])
    row = {"what": what, "widths": count, **measured}
    print(row, flush=True)
    return row


def measure_seconds(before: Path | None) -> Iterator[dict[str, Any]]:
    """Times exports of MobileNetV2; yields all results so far after each export."""
    here = Path(__file__).parents[1]
    runs = [("stock", 1, here), ("now", 4, here), ("now", 8, here)]
    if before is not None:
        runs += [("before", 4, before), ("before", 8, before)]
    rows = []
    for run in runs:
        rows.append(seconds_of(*run))
        yield {
            "what": "MobileNetV2 at 224x224, widened by sqrt(2): export with "
            "verification",
            "rows": rows,
            "environment": environment(),
        }


def main() -> None:
    """Measures the networks, then writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", default=";".join(CASES), help="separated by ;")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--files", type=Path, help="folder to keep files in")
    parser.add_argument("--only-convert", action="store_true")
    parser.add_argument("--seconds", action="store_true")
    parser.add_argument("--before", type=Path, help="checkout of an earlier version")
    args = parser.parse_args()
    if args.only_convert and not args.files:
        parser.error("--only-convert needs --files")
    result = {"what": "LiteRT, XNNPACK, one thread, float32, batch 1", "networks": []}
    if args.output.exists():
        result = json.loads(args.output.read_text())
    if args.seconds:
        for seconds in measure_seconds(args.before):
            result["seconds"] = seconds
            write_whole(args.output, json.dumps(result, indent=1) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks.split(";"):
            runs = 0 if args.only_convert else args.runs
            row = measure(name, runs, args.files or Path(folder))
            if row is None:
                continue
            rows = {old["network"]: old for old in result["networks"]}
            rows[name] = {**row, "runs": runs, "environment": environment()}
            result["networks"] = [rows[case] for case in CASES if case in rows]
            result["environment"] = environment()
            write_whole(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
