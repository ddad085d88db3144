"""What a pretrained start is worth on photos, and how much of it a triangle keeps.

    python -m benchmarks.photos --photos photos --directory runs/photos [--arms a,b]
        [--seeds 0 1] [--data-dir DIR]

EfficientNet-Lite0 with ImageNet weights (extra `pretrained`), trained on photos of 10
classes, 500 each, and tested on 200 each: images of CIFAR-10, written as JPEG of 96x96
to `--photos`, if that is not there. 4 epochs, 12 in arms that say so; SGD from 0.05 (a
warm-up, then half a cosine) with batches of 64, flipped and shifted, the mean of four
widths' losses by the sandwich rule.

`ARMS` says what differs. A run is one of `awn_keras.runs`: one that was killed goes on,
and finished ones are not run again. Six to fifteen minutes a run on two cores; all of
them take a night. The teacher's arm needs `plain` of the same seed first.
"""

from __future__ import annotations

import argparse
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
from awn_keras.runs.presets import paper_recipe, recommended_recipe
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.run import run

OUTPUT = Path(__file__).parents[1] / "results" / "photos.json"
NETWORK = "efficientnet_lite0"
SIZE = 96
#: Photos of each class, to train and to test on.
TRAIN, TEST = 500, 200
EPOCHS = 4
GRID = (0.25, 0.5, 0.75, 1.0)
WIDE = (0.5, 2 / 3, 5 / 6, 1.0)
#: The first stages, in which most of the work and few of the weights are, stay whole.
EARLY = {"stem_*": {"min_width": 1.0}, "block[1-5]_*": {"min_width": 1.0}}

#: What each arm changes of the recommended recipe for trained weights with neither an
#: order nor a fade.
ARMS: Mapping[str, Mapping[str, Any]] = {
    # Plain networks and other systems, from the same weights.
    "plain": {"system": "plain"},
    "plain_scratch": {"system": "plain", "weights": None},
    "s_net": {"system": "s_net"},
    "us_net": {"system": "us_net"},
    # (a) The triangle at once.
    "hard": {"order": "importance"},
    "scratch": {"weights": None},
    # (b) Fading.
    "fade_0.3": {"order": "reading", "fade": 0.3},
    "fade_0.5": {"order": "reading", "fade": 0.5},
    "fade_0.7": {"order": "reading", "fade": 0.7},
    # (c) Distillation from the full width.
    "distilled": {"order": "reading", "fade": 0.5, "distillation": 0.5},
    # (d) Orders.
    "order_keep": {"order": "keep", "fade": 0.5},
    "order_importance": {"order": "importance", "fade": 0.5},
    # (e) Few widths, early stages that are whole.
    "grid": {"order": "reading", "fade": 0.5, "widths_grid": GRID},
    "wide_grid": {
        "order": "reading",
        "fade": 0.5,
        "widths_grid": WIDE,
        "min_width": 0.5,
        "widths": WIDE,
    },
    "early": {"order": "reading", "fade": 0.5, "widths_grid": GRID, "stages": EARLY},
    # (f) Growing.
    "grown": {"grow": 2**0.5},
    # (g) More steps, other rates.
    "early_batch_32": {
        "order": "reading",
        "fade": 0.5,
        "widths_grid": GRID,
        "stages": EARLY,
        "batch_size": 32,
    },
    "early_rate_0.1": {
        "order": "reading",
        "fade": 0.5,
        "widths_grid": GRID,
        "stages": EARLY,
        "learning_rate": 0.1,
    },
    "plain_12": {"system": "plain", "epochs": 3 * EPOCHS},
    "early_batch_32_12": {
        "order": "reading",
        "fade": 0.5,
        "widths_grid": GRID,
        "stages": EARLY,
        "batch_size": 32,
        "epochs": 3 * EPOCHS,
    },
}


def main() -> None:
    """Runs the arms that are not finished, one seed after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--photos", type=Path, default=Path("runs/photos/photos"))
    add("--directory", type=Path, default=Path("runs/photos"))
    add("--arms", help="separated by commas (default: all)")
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--data-dir", type=Path, help="folder of prepared TFDS data sets")
    add("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if not args.photos.exists():
        write_photos(args.photos, args.data_dir)
    chosen = args.arms.split(",") if args.arms else list(ARMS)
    for seed in args.seeds:
        for arm in chosen:
            if find(args.output, arm, seed) is None:
                save(args.output, measured(arm, seed, args.photos, args.directory))


def write_photos(folder: Path, data_dir: Path | None) -> None:
    """Writes images of CIFAR-10 as photos in folders of classes."""
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


def recipe_of(arm: str, seed: int, photos: Path) -> Recipe:
    """The recipe of an arm."""
    changes = dict(ARMS[arm])
    weights = changes.pop("weights", "imagenet")
    system = changes.pop("system", None)
    if system is None:
        recipe = recommended_recipe(photos.name, NETWORK, weights=weights, folder=True)
        recipe = replace(recipe, order=Recipe.order, fade=Recipe.fade)
    else:
        recipe = paper_recipe(photos.name, NETWORK, system, weights=weights)
    common = {"epochs": EPOCHS, "seed": seed, "size": (SIZE, SIZE)}
    return replace(recipe, folder=str(photos.resolve()), **{**common, **changes})


def measured(arm: str, seed: int, photos: Path, directory: Path) -> dict[str, Any]:
    """Trains an arm, or goes on; what it reached at its four widths."""
    keras.backend.clear_session()
    recipe = recipe_of(arm, seed, photos)
    result = run(recipe, directory / f"{arm}_seed{seed}", resume=True, verbose=2)
    curve = result.curve
    widths = _widths(recipe, min(curve.widths))
    at = [max(i for i, w in enumerate(curve.widths) if w <= x + 1e-9) for x in widths]
    return {
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


def find(path: Path, arm: str, seed: int) -> dict[str, Any] | None:
    """What is finished of an arm."""
    if not path.exists():
        return None
    for record in json.loads(path.read_text()):
        if (record["arm"], record["seed"]) == (arm, seed):
            return record
    return None


def save(path: Path, record: dict[str, Any]) -> None:
    """Adds a record, in the order of `ARMS`."""
    records = json.loads(path.read_text()) if path.exists() else []
    order = list(ARMS)
    records = sorted(
        [*records, record], key=lambda each: (order.index(each["arm"]), each["seed"])
    )
    write_whole(path, json.dumps(records, indent=1) + "\n")
    print(record["arm"], record["seed"], np.round(record["accuracy"], 4), flush=True)


if __name__ == "__main__":
    main()
