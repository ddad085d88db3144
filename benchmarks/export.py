"""Bytes and milliseconds of exported files: one for all widths, against one a width.

    python benchmarks/export.py [--models 'NAME;...'] [--runs 30] [--output FILE]
                                [--files FOLDER] [--only-convert]

For LeNet-3C1L with 45 and 128 channels (28x28x1) and `keras.applications.MobileNetV2`
made any-width with `width_multiplier=sqrt(2)` (1000 classes, 96x96 and 224x224):

- bytes of one file with 4 and with 8 widths, of a triangular one with the full width
  only, of a dense one with it, and of a dense one a width;
- milliseconds of each of 4 widths, kernels laid out by `layout="auto"`, against dense
  ones; of the full width in the file with 8;
- what a user would take instead: plain networks (`alpha`, or filters) with as many
  weights as are active, and with as many multiply-accumulates;
- bytes of the same widths of an S-Net, which needs a file for each.

LiteRT (XNNPACK), one thread, medians; all signatures of a model take turns in one
process, so that drift of the machine meets all of them. Weights are random: they
change neither bytes nor time. `--only-convert` converts alone, beside other work: files
that a later run finds in the folder are not made again. Remove them when what makes
them has changed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from awn_keras.counting import count_active_parameters
from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut
from awn_keras.deploy.signatures import width_signature
from awn_keras.deploy.timing import time_signatures
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.layouts import choose_cuts
from awn_keras.multi_width import MultiWidthModel

OUTPUT = Path(__file__).parents[1] / "results" / "export.json"
ROOT_2 = math.sqrt(2)


def mobilenet(size: int, alpha: float = 1.0) -> keras.Model:
    """What Keras has; `alpha` is its width multiplier."""
    return keras.applications.MobileNetV2(
        input_shape=(size, size, 3),
        alpha=alpha,
        weights=None,
        classes=1000,
        classifier_activation=None,
    )


def lenet(filters: int) -> keras.Model:
    """A plain LeNet-3C1L with so many filters."""
    return lenet_3c1l(
        (28, 28, 1), filters=filters, width_multiplier=1.0, triangular=False
    )


@dataclass(frozen=True)
class Case:
    """A network to export.

    Args:
        model: Makes the any-width model.
        plain: `plain(size)` is the ordinary network of that size.
        sizes: Sizes that alternatives may have.
        usual: The ordinary network that was widened, which an S-Net would be made of.
    """

    model: Callable[[], AnyWidthModel]
    plain: Callable[[float], keras.Model]
    sizes: np.ndarray
    usual: float


def _mobilenet_case(size: int) -> Case:
    return Case(
        lambda: to_any_width(
            mobilenet(size), width_multiplier=ROOT_2, min_width=0.35, divisor=8
        ),
        lambda alpha: mobilenet(size, alpha),
        np.arange(0.25, 1.5, 0.025),
        1.0,
    )


def _lenet_case(filters: int) -> Case:
    return Case(
        lambda: lenet_3c1l((28, 28, 1), filters=filters, width_multiplier=1.0),
        lambda size: lenet(int(size)),
        np.arange(4, filters + 1),
        round(filters / ROOT_2),
    )


CASES = {
    "LeNet-3C1L, 45 channels": _lenet_case(45),
    "LeNet-3C1L, 128 channels": _lenet_case(128),
    "MobileNetV2, 96x96": _mobilenet_case(96),
    "MobileNetV2, 224x224": _mobilenet_case(224),
}


def widths_of(model: AnyWidthModel, count: int) -> list[float]:
    """So many widths, evenly spaced."""
    return np.linspace(model.min_width, 1.0, count).round(4).tolist()


def names_of(widths: list[float]) -> dict[float, str]:
    """The signature of each width."""
    return {width: width_signature(width) for width in widths}


def one_file(
    model: MultiWidthModel,
    widths: list[float],
    layout: str,
    ends: list[float] | None = None,
) -> bytes:
    """A file of some widths; its layout may be that of a file of others, `ends`."""
    cuts = choose_cuts(model, ends or widths, layout)
    names = names_of(widths)
    return convert({names[one]: cut(slim(model, one), cuts) for one in widths})


def plain_file(case: Case, size: float) -> bytes:
    """A file of an ordinary network."""
    return convert({"plain": case.plain(size)})


@dataclass(frozen=True)
class Arm:
    """A file: how it is made, and its signatures by width (by size, if plain)."""

    make: Callable[[], bytes]
    names: dict[float, str]


def arms_of(
    case: Case, model: AnyWidthModel, few: list[float], many: list[float]
) -> dict[str, Arm]:
    """The files of an any-width model."""

    def arm(widths: list[float], layout: str, ends: Any = None) -> Arm:
        make = partial(one_file, model, widths, layout, ends)
        return Arm(make, names_of(widths))

    return {
        "dense, 4 widths": arm(few, "dense"),
        "auto, 4 widths": arm(few, "auto"),
        "auto, 8 widths": arm(many, "auto"),
        "auto, full width": arm([1.0], "auto"),
        "triangular, full width": arm([1.0], "triangular", few),
        "dense, full width": arm([1.0], "dense"),
    }


def kept(file: Path, make: Callable[[], bytes]) -> bytes:
    """What a file holds, which is made if it is missing."""
    if not file.exists():
        start = time.perf_counter()
        write_whole(file, make())
        seconds = time.perf_counter() - start
        print(f"{file}: {file.stat().st_size:,} bytes, {seconds:.0f} s", flush=True)
    return file.read_bytes()


def alternatives(
    case: Case, model: AnyWidthModel, widths: list[float]
) -> list[dict[str, Any]]:
    """Plain networks of equal weights, and of equal multiply-accumulates."""
    plain = [(float(size), case.plain(size)) for size in case.sizes]
    costs = [(size, count_parameters(one), count_macs(one)) for size, one in plain]
    found = []
    for width in widths:
        active = count_active_parameters(model, width)
        macs = count_macs(model, width)
        for by, wanted, index in (("weights", active, 1), ("macs", macs, 2)):
            best = min(costs, key=lambda one: abs(one[index] - wanted))
            found.append(
                {
                    "width": width,
                    "equal": by,
                    "size": best[0],
                    "weights": best[1],
                    "macs": best[2],
                }
            )
    return found


def measure(name: str, runs: int, folder: Path) -> dict[str, Any] | None:
    """All numbers of one network; with no `runs` its files are made, and no more."""
    case = CASES[name]
    model = case.model()
    few, many = widths_of(model, 4), widths_of(model, 8)
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    arms = arms_of(case, model, few, many)
    contents = {
        label: kept(folder / f"{label}.tflite", arm.make) for label, arm in arms.items()
    }
    files = {label: len(content) for label, content in contents.items()}
    plain = case.plain(case.usual)
    s_net = SNet(plain.input, plain.output, widths=few)
    for label, system in (("S-Net", s_net), ("dense", model)):
        files[f"{label}, a file a width"] = sum(
            len(
                kept(
                    folder / f"{label}, {width:g}.tflite",
                    partial(one_file, system, [width], "dense"),
                )
            )
            for width in few
        )
    others = alternatives(case, model, few)
    for size in sorted({one["size"] for one in others}):
        label = f"plain {size:g}"
        arms[label] = Arm(partial(plain_file, case, size), {size: "plain"})
        contents[label] = kept(folder / f"{label}.tflite", arms[label].make)
    if not runs:
        return None
    print(f"{name}: timing", flush=True)
    names = {label: arm.names for label, arm in arms.items()}
    times = time_in_turns(contents, names, runs)
    for one in others:
        one["ms"] = times[f"plain {one['size']:g}", one["size"]]
    return {
        "network": name,
        "full_width_weights": count_parameters(model, 1.0),
        "full_width_macs": count_macs(model, 1.0),
        "bytes": files,
        "widths": [
            {
                "width": width,
                "macs": count_macs(model, width),
                "active_weights": count_active_parameters(model, width),
                "dense_ms": times["dense, 4 widths", width],
                "auto_ms": times["auto, 4 widths", width],
                "ratio": times["dense, 4 widths", width]
                / times["auto, 4 widths", width],
            }
            for width in few
        ],
        "full_width_ms": {
            label: times[label, 1.0] for label in arms if "width" in label
        },
        "alternatives": others,
    }


def time_in_turns(
    contents: dict[str, bytes], names: dict[str, dict[float, str]], runs: int
) -> dict[tuple[str, float], float]:
    """Medians of each signature of each file, in five rounds over all of them."""
    found: dict[tuple[str, float], list[float]] = {}
    rounds = 5
    for _ in range(rounds):
        for label, content in contents.items():
            times = time_signatures(
                content, list(names[label].values()), runs=max(1, runs // rounds)
            )
            for width, name in names[label].items():
                found.setdefault((label, width), []).extend(times[name])
    return {key: statistics.median(values) for key, values in found.items()}


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=";".join(CASES), help="separated by ;")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--files", type=Path, help="folder to keep files in")
    parser.add_argument("--only-convert", action="store_true")
    args = parser.parse_args()
    if args.only_convert and not args.files:
        parser.error("--only-convert needs --files")
    with tempfile.TemporaryDirectory() as folder:
        _measure_all(args, args.files or Path(folder))


def _measure_all(args: argparse.Namespace, folder: Path) -> None:
    if args.only_convert:
        for name in args.models.split(";"):
            measure(name, 0, folder)
        return
    found = {}
    if args.output.exists():  # of networks that are not measured now
        old = json.loads(args.output.read_text())["networks"]
        found = {row["network"]: row for row in old}
    for name in args.models.split(";"):
        row = measure(name, args.runs, folder)
        row = found[name] = {**row, "runs": args.runs, "environment": environment()}
        result = {
            "what": "LiteRT, XNNPACK, one thread, float32, batch 1",
            "networks": [found[case] for case in CASES if case in found],
            "environment": environment(),
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n")
        for one in row["widths"]:
            print(
                f"  {one['width']:.4g}: dense {one['dense_ms']:.3f} ms, "
                f"auto {one['auto_ms']:.3f} ms, {one['ratio']:.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
