"""Loads the data set of a recipe, and describes it in the directory of a run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from awn_keras.data import ImageData, load_data, load_folder
from awn_keras.errors import ArgumentError
from awn_keras.files import read_json, write_whole
from awn_keras.runs.recipe import Recipe
from awn_keras.schemas import (
    SCHEMAS,
    fields,
    items,
    number,
    of_kind,
    or_null,
    text,
    values,
)

#: Seed that chooses the held-out photos, so that runs with different seeds are tested
#: on the same photos.
SPLIT_SEED = 0
_FILE = "data.json"
_COUNTS = values(number(0, whole=True))
_SET = of_kind(
    "run",
    fields(
        {
            "class_names": items(text()),
            "train": _COUNTS,
            "test": _COUNTS,
            "name": text(),
            "folder": or_null(text()),
            "held_out": or_null(number(0, 1)),
            "input_shape": items(number(1, whole=True)),
            "largest_pixel": or_null(number(0)),
            "fingerprint": or_null(text()),
        },
        needed=("class_names",),
    ),
)


def load_set(
    recipe: Recipe,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    cache: Path | None = None,
    verbose: bool = True,
) -> ImageData:
    """Loads a recipe's data set.

    Args:
        recipe: The recipe.
        data_dir: See `load_data`.
        download: See `load_data`.
        cache: See `load_folder`.
        verbose: See `load_folder`.

    Returns:
        The data, augmented as the recipe says.

    Raises:
        ValueError: See `load_data` and `load_folder`.
        OSError: See `load_folder`.
        DatasetUnavailableError: See `load_data`.
    """
    if recipe.folder is None or recipe.size is None:
        data = load_data(recipe.dataset, data_dir=data_dir, download=download)
    else:
        data = load_folder(
            recipe.folder,
            size=recipe.size,
            held_out=recipe.held_out,
            seed=SPLIT_SEED,
            cache=cache,
            verbose=verbose,
        )
        if not len(data.x_train):
            raise ArgumentError(
                "`held_out` must be below 1, to leave photos to train on. Received: "
                f"held_out={recipe.held_out}"
            )
    changes: dict[str, Any] = {
        name: getattr(recipe, name)
        for name in ("flip", "shift")
        if getattr(recipe, name) is not None
    }
    return replace(data, **changes)


def describe_set(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    """Describes the data set of a run, in types of JSON.

    Args:
        recipe: The recipe.
        data: The recipe's data set.

    Returns:
        A dict with name and folder, the classes in the order of the model's outputs,
        the number of images of each class, shape and largest pixel of the images, and
        for photos a fingerprint.
    """
    counts = {
        part: {
            name: Counter(labels.tolist())[label]
            for label, name in enumerate(data.class_names)
        }
        for part, labels in (("train", data.y_train), ("test", data.y_test))
    }
    return {
        "name": data.name,
        "folder": str(Path(recipe.folder).resolve()) if recipe.folder else None,
        "held_out": recipe.held_out if recipe.folder else None,
        "class_names": list(data.class_names),
        **counts,
        "input_shape": list(data.input_shape),
        "largest_pixel": data.largest_pixel,
        "fingerprint": data.fingerprint,
    }


def write_set(recipe: Recipe, data: ImageData, directory: Path) -> None:
    """Writes `data.json`; see `describe_set`."""
    content = {"schema": SCHEMAS["run"], **describe_set(recipe, data)}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_whole(directory / _FILE, text + "\n")


def read_set(directory: Path) -> dict[str, Any] | None:
    """Reads `data.json`, which `write_set` wrote.

    Args:
        directory: Directory of a model.

    Returns:
        The description; see `describe_set`. `None` if there is no file.

    Raises:
        ValueError: If the file is damaged, or has a later schema.
    """
    path = directory / _FILE
    if not path.exists():
        return None
    return read_json(path, _SET, "a file of a training run: remove it")


def check_same_set(data: ImageData, directory: Path) -> None:
    """Checks that the run in a directory was trained on these photos.

    Args:
        data: The data set.
        directory: Directory of the run.

    Raises:
        ValueError: If the run was trained on other photos.
    """
    kept = read_set(directory) if (directory / "model.keras").exists() else None
    if kept is None or kept.get("fingerprint") == data.fingerprint:
        return
    before = sum(sum(kept.get(part, {}).values()) for part in ("train", "test"))
    now = len(data.y_train) + len(data.y_test)
    raise ArgumentError(
        f"The photos of {data.name} are not the photos that the run in {directory} "
        f"was trained on: there were {before:,}, now there are {now:,}, or some "
        "have other names or contents. Restore the old photos, or name another "
        "directory."
    )
