"""Accuracy on photos of any-width networks that start from trained weights.

    python -m benchmarks.photos [--photos cifar10 elpv] [--arms a,b] [--seeds 0 1]
        [--directory runs/photos] [--data-dir DIR]

The network is EfficientNet-Lite0 with ImageNet weights (extra `pretrained`). There are
two sets of photos:

- `cifar10`: images of CIFAR-10, written as JPEG of 96x96. Each of the 10 classes has
  500 photos for training and 200 for the test.
- `elpv`: the 2,624 photos of solar cells of the package elpv-dataset, in the classes
  defective and functional. A fifth is held out for the test.

Training takes 4 epochs, or 12 in arms whose name ends with `_12`. The optimizer is SGD
with a rate of 0.02 (a warm-up, then half a cosine) and batches of 32. Photos are
flipped and shifted. Each step trains four widths by the sandwich rule, with the mean of
their losses.

`ARMS` lists what differs between the arms. Runs are those of `awn_keras.runs`: a killed
run continues, and a finished run is not run again. A run takes six to fifteen minutes
on two cores; all runs take a night.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from awn_keras.data import load_data
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.runs.presets import (
    TRAINED_WIDTHS,
    paper_recipe,
    recommended_recipe,
    without_triangle,
)
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.run import run

OUTPUT = Path(__file__).parents[1] / "results" / "photos.json"
NETWORK = "efficientnet_lite0"
SIZE = 96
#: Settings of all arms that do not set them, those from scratch too.
STEPS: Mapping[str, Any] = {"batch_size": 32, "learning_rate": 0.02}
#: Photos of each class of CIFAR-10, for training and for the test.
TRAIN, TEST = 500, 200
EPOCHS = 4
GRID = (0.25, 0.5, 0.75, 1.0)
WIDE = (0.5, 0.67, 0.83, 1.0)
#: Keeps the first stages whole. They have most of the work and few of the weights.
EARLY = {"stem_*": {"min_width": 1.0}, "block[1-5]_*": {"min_width": 1.0}}

#: How trained weights come into the triangle: order of channels, and fading over 0.7 of
#: the steps.
FADE: Mapping[str, Any] = {"order": "reading", "fade": 0.7}
ROTATED: Mapping[str, Any] = {**FADE, "rotate": True}


def in_widths(*widths: float) -> Mapping[str, Any]:
    """Returns the part of a recipe that trains only these widths."""
    return {"widths_grid": widths, "min_width": widths[0], "widths": widths}


IN_WIDE = in_widths(*WIDE)
#: The recipe of `awn train --weights imagenet`.
DEFAULT: Mapping[str, Any] = {**ROTATED, **in_widths(*TRAINED_WIDTHS)}
PLAIN: Mapping[str, Any] = {"system": "plain"}
ROTATED_WIDE: Mapping[str, Any] = {**ROTATED, **IN_WIDE}
LONG = {"epochs": 3 * EPOCHS}

#: What each arm adds to the recipe of `awn train --weights imagenet`, after that recipe
#: has lost its own settings for the triangle (`without_triangle`).
ARMS: Mapping[str, Mapping[str, Any]] = {
    # Plain networks and other systems. Only "plain_scratch" has no ImageNet weights.
    "plain": PLAIN,
    "plain_scratch": {**PLAIN, "weights": None},
    "s_net": {"system": "s_net"},
    "us_net": {"system": "us_net", "calibrations": (4,)},
    # (a) The triangle from the first step, without fading.
    "hard": {"order": "importance"},
    "scratch": {"weights": None},
    # (b) Fading over other parts of the steps.
    "rotated_wide_hard": {**ROTATED_WIDE, "fade": 0.0},
    "rotated_wide_fade_0.5": {**ROTATED_WIDE, "fade": 0.5},
    "rotated_wide_fade_0.9": {**ROTATED_WIDE, "fade": 0.9},
    # (c) Distillation from the full width.
    "rotated_wide_distilled": {**ROTATED_WIDE, "distillation": 0.5, "late": 0.0},
    # (d) Orders of the channels, without and with rotation.
    "wide_keep": {"fade": FADE["fade"], **IN_WIDE},
    "wide_importance": {**FADE, **IN_WIDE, "order": "importance"},
    "wide_reading": {**FADE, **IN_WIDE},
    "rotated_wide": ROTATED_WIDE,
    # (e) Fewer widths, other widths, whole early stages, other weights in the loss.
    "rotated_grid": {**ROTATED, **in_widths(*GRID)},
    "rotated_wide_early": {**ROTATED_WIDE, "stages": EARLY},
    "rotated_two": {**ROTATED, **in_widths(0.5, 1.0), "num_widths": 2},
    "rotated_three": {**ROTATED, **in_widths(0.71, 0.86, 1.0), "num_widths": 3},
    "default": DEFAULT,
    "rotated_wide_all": {**ROTATED_WIDE, "sampler": "all"},
    "rotated_wide_power": {**ROTATED_WIDE, "width_power": 1.0},
    # (f) Growing.
    "grown": {"grow": 2**0.5},
    # (g) Other rates, smaller batches, more epochs.
    "rotated_wide_0.04": {**ROTATED_WIDE, "learning_rate": 0.04},
    "rotated_wide_0.01": {**ROTATED_WIDE, "learning_rate": 0.01},
    "rotated_wide_16": {**ROTATED_WIDE, "batch_size": 16},
    "plain_12": {**PLAIN, **LONG},
    "rotated_wide_12": {**ROTATED_WIDE, **LONG},
    "rotated_wide_0.04_12": {**ROTATED_WIDE, **LONG, "learning_rate": 0.04},
    "rotated_two_12": {**ROTATED, **in_widths(0.5, 1.0), "num_widths": 2, **LONG},
    "default_12": {**DEFAULT, **LONG},
    "grown_12": {"grow": 2**0.5, **LONG},
    # (h) Augmentation: a largest shift in pixels. Other arms shift by an eighth of the
    # side, 12 pixels. Then smoothed labels.
    "plain_shift_0": {**PLAIN, "shift": 0},
    "plain_shift_4": {**PLAIN, "shift": 4},
    "rotated_wide_shift_0": {**ROTATED_WIDE, "shift": 0},
    "rotated_wide_shift_4": {**ROTATED_WIDE, "shift": 4},
    "plain_shift_4_12": {**PLAIN, "shift": 4, **LONG},
    "rotated_wide_shift_4_12": {**ROTATED_WIDE, "shift": 4, **LONG},
    "plain_smoothed": {**PLAIN, "label_smoothing": 0.1},
    "rotated_wide_smoothed": {**ROTATED_WIDE, "label_smoothing": 0.1},
}


def main() -> None:
    """Runs the arms that are not finished, one seed after another."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--photos", nargs="+", choices=PHOTOS, default=["cifar10"])
    add("--directory", type=Path, default=Path("runs/photos"))
    add("--arms", help="separated by commas (default: all)")
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--data-dir", type=Path, help="folder of prepared TFDS data sets")
    add("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    chosen = args.arms.split(",") if args.arms else list(ARMS)
    for photos, seed, arm in itertools.product(args.photos, args.seeds, chosen):
        folder = args.directory / photos
        if not folder.exists():
            PHOTOS[photos](folder, args.data_dir)
        if find(args.output, photos, arm, seed) is None:
            save(args.output, measured(arm, seed, folder, args.directory))


def write_cifar10(folder: Path, data_dir: Path | None) -> None:
    """Writes images of CIFAR-10 as photos, in a folder for each class."""
    data = load_data("cifar10", data_dir=data_dir)
    for part, images, labels, count in (
        ("train", data.x_train, data.y_train, TRAIN),
        ("test", data.x_test, data.y_test, TEST),
    ):
        rng = np.random.default_rng(0)
        for label, name in enumerate(data.class_names):
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            of_class = np.flatnonzero(labels == label)
            for number, index in enumerate(rng.permutation(of_class)[:count]):
                image = Image.fromarray(images[index])
                image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                image.save(place / f"{number:04d}.jpg", quality=90)


def write_elpv(folder: Path, _: Path | None) -> None:
    """Writes the photos of elpv-dataset (CC BY-NC-SA), in a folder for each class."""
    from elpv_dataset.utils import load_dataset

    images, probabilities, _ = load_dataset()
    pairs = zip(images, probabilities, strict=True)
    for number, (image, probability) in enumerate(pairs):
        place = folder / ("defective" if probability > 0.5 else "functional")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:04d}.png")


PHOTOS = {"cifar10": write_cifar10, "elpv": write_elpv}


class _OfFourWidths(Recipe):
    """A recipe whose curve has only four widths.

    S-Net and US-Net need a pass over the test set for each width, so a curve with all
    widths would take too long.
    """

    def curve_widths(self, _: Any) -> list[float]:
        """Returns the four widths of `GRID`."""
        return list(GRID)


def recipe_of(arm: str, seed: int, photos: Path) -> Recipe:
    """Returns the recipe of an arm."""
    changes = dict(ARMS[arm])
    weights = changes.pop("weights", "imagenet")
    system = changes.pop("system", None)
    if system is None:
        recipe = recommended_recipe(photos.name, NETWORK, weights=weights, folder=True)
        recipe = without_triangle(recipe)
    else:
        recipe = paper_recipe(photos.name, NETWORK, system, weights=weights)
        if system != "plain":
            recipe = _OfFourWidths(**vars(recipe))
    # Small steps preserve trained weights. Arms from scratch do not need small steps,
    # but take them, too, so that only the settings of the arm differ.
    common = {"epochs": EPOCHS, "seed": seed, "size": (SIZE, SIZE), **STEPS}
    return replace(recipe, folder=str(photos.resolve()), **{**common, **changes})


def measured(arm: str, seed: int, photos: Path, directory: Path) -> dict[str, Any]:
    """Trains an arm, or continues; returns its results at up to four widths."""
    keras.backend.clear_session()
    recipe = recipe_of(arm, seed, photos)
    place = directory / f"{photos.name}_{arm}_seed{seed}"
    result = run(recipe, place, resume=True, verbose=2)
    curve = result.curve
    widths = _widths(recipe, min(curve.widths))
    at = [max(i for i, w in enumerate(curve.widths) if w <= x + 1e-9) for x in widths]
    return {
        "photos": photos.name,
        "arm": arm,
        "seed": seed,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "widths": list(widths),
        "accuracy": [curve.accuracy[i] for i in at],
        "macs": [curve.macs[i] for i in at],
        "parameters": [curve.parameters[i] for i in at],
        "auc": curve.auc,
        "full_width_by_epoch": [logs.get("val_accuracy") for logs in result.history],
        "seconds": sum(logs["seconds"] for logs in result.history),
        "environment": environment(),
    }


def _widths(recipe: Recipe, smallest: float) -> tuple[float, ...]:
    if recipe.system == "plain":
        return (1.0,)
    if recipe.grow is not None:
        return tuple(np.linspace(smallest, 1.0, 4).round(4).tolist())
    return recipe.widths_grid or GRID


def find(path: Path, photos: str, arm: str, seed: int) -> dict[str, Any] | None:
    """Returns the record of a finished arm, or `None`."""
    if not path.exists():
        return None
    for record in json.loads(path.read_text()):
        if (record["photos"], record["arm"], record["seed"]) == (photos, arm, seed):
            return record
    return None


def save(path: Path, record: dict[str, Any]) -> None:
    """Adds a record to the file and sorts all records by photos, arm and seed."""
    records = json.loads(path.read_text()) if path.exists() else []
    sets, arms = list(PHOTOS), list(ARMS)

    def place(each: dict[str, Any]) -> tuple[int, int, int]:
        return sets.index(each["photos"]), arms.index(each["arm"]), each["seed"]

    records = sorted([*records, record], key=place)
    write_whole(path, json.dumps(records, indent=1) + "\n")
    print(
        record["photos"],
        record["arm"],
        record["seed"],
        np.round(record["accuracy"], 4),
        flush=True,
    )


if __name__ == "__main__":
    main()
