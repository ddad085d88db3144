"""The data set of a command: a known data set, or a folder of photos."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awn_keras.cli.arguments import Parser, add_data_arguments
from awn_keras.cli.output import write_note, write_warning
from awn_keras.errors import ArgumentError


def add_set_arguments(parser: Parser, what: str, *, required: bool = False) -> None:
    """Adds `--dataset` and `--data`, which exclude each other.

    Args:
        parser: Parser of the command.
        what: What the command does with the data set, for the help.
        required: Whether one of the two options is required.
    """
    sets = parser.add_mutually_exclusive_group(required=required)
    sets.add_argument(
        "--dataset", help=f"{what}: digits, mnist, fashion_mnist, cifar10, cifar100"
    )
    sets.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="your photos instead of --dataset: a folder with a folder for each class",
    )
    add_data_arguments(parser)


@dataclass(frozen=True)
class _Wanted:
    """Requirements of a model or a file on a data set.

    Args:
        name: Name of the model or file for messages.
        inputs: Shapes of the inputs, without the batch.
        outputs: Shapes of the outputs, without the batch.
        trained_on: Data set of the training, from `read_set`; `None` if unknown.
        class_names: Names of the classes; `None` if unknown.
        scaled: Whether the model scales pixels itself; `None` if unknown.
    """

    name: str
    inputs: list[tuple[Any, ...]]
    outputs: list[tuple[Any, ...]]
    trained_on: dict[str, Any] | None
    class_names: list[str] | None
    scaled: bool | None


def load_dataset(args: argparse.Namespace, path: Path, model: Any = None) -> Any:
    """Loads the data set of `--dataset` or `--data`, for a model or a file.

    Photos are scaled to the size of the inputs. The name of a photo's folder is the
    name of its class. The class names are in `data.json` beside the model or file, and
    in a file's manifest. Without class names, the folders are sorted by name.

    Args:
        args: Arguments of the command.
        path: Path of the model or file.
        model: The model, if `path` is a model.

    Returns:
        The `ImageData`, or `None` without `--dataset` and `--data`.

    Raises:
        ValueError: If there is no such data set, or if it does not fit.
        DatasetUnavailableError: If the data set is missing on this machine.
        OSError: If the folder cannot be read.
    """
    if not args.dataset and not args.data:
        return None
    from awn_keras.data import load_data

    wanted = _of_file(path) if model is None else _of_model(model, path)
    if args.dataset:
        data = load_data(args.dataset, data_dir=args.data_dir, download=args.download)
    else:
        data = _load_photos(args.data, wanted, path)
    _check_fits("--dataset" if args.dataset else "--data", wanted, data)
    if wanted.scaled is False:
        write_warning(
            f"{wanted.name} has no layer that scales its inputs, so it gets pixels, 0 "
            f"to {data.largest_pixel}. If it was trained on other values, the results "
            "are wrong."
        )
    return data


def some_of(images: Any, count: int) -> Any:
    """Takes images evenly from a data set, which may be sorted by class.

    Args:
        images: Images of the data set.
        count: Largest number of images to take.

    Returns:
        Pixels of the images, float32.
    """
    import numpy as np

    chosen = np.linspace(0, len(images) - 1, min(count, len(images)))
    return np.asarray(images[chosen.round().astype(int)], "float32")


def _load_photos(folder: Path, wanted: _Wanted, path: Path) -> Any:
    from awn_keras.data import load_folder
    from awn_keras.runs.sets import SPLIT_SEED

    shape = wanted.inputs[0] if len(wanted.inputs) == 1 else ()
    if len(shape) != 3 or None in shape or shape[2] not in (1, 3):
        raise ArgumentError(
            "`--data` needs a network with one input, a grey or RGB image of a fixed "
            f"size. Received: {wanted.name}, with inputs of shape {wanted.inputs}"
        )
    trained_on = wanted.trained_on or {}
    same = trained_on.get("folder") == str(folder.expanduser().resolve())
    held_out = trained_on.get("held_out") if same else None
    data = load_folder(
        folder,
        size=shape[:2],
        channels=shape[2],
        # Photos of the training would give too high an accuracy.
        held_out=1 if held_out is None else held_out,
        seed=SPLIT_SEED,
        class_names=wanted.class_names,
    )
    which = "which training held out" if len(data.x_train) else "all of the folder"
    if wanted.trained_on is None:
        which += f": no data.json beside {path} says what training held out"
    write_note(f"Testing on {len(data.x_test):,} photos, {which}.")
    return data


def _of_model(model: Any, path: Path) -> _Wanted:
    from awn_keras.data.inputs import scales_inputs
    from awn_keras.runs.sets import read_set

    trained_on = read_set(path.parent)
    return _Wanted(
        f"'{model.name}'",
        [tuple(x.shape[1:]) for x in model.inputs],
        [tuple(x.shape[1:]) for x in model.outputs],
        trained_on,
        None if trained_on is None else trained_on["class_names"],
        scales_inputs(model),
    )


def _of_file(path: Path) -> _Wanted:
    from awn_keras.deploy.litert import open_tflite
    from awn_keras.runs.sets import read_set

    file = open_tflite(path)
    widest = list(file.by_width.values())[-1]
    trained_on = read_set(path.parent)
    names = list(file.labels) or (trained_on or {}).get("class_names")
    return _Wanted(
        str(path),
        [tensor.sample_shape for tensor in widest.inputs],
        [tensor.sample_shape for tensor in widest.outputs],
        trained_on,
        names,
        None,  # a file says itself how pixels become inputs
    )


def _check_fits(option: str, wanted: _Wanted, data: Any) -> None:
    if wanted.inputs != [data.input_shape]:
        raise ArgumentError(
            f"`{option}` must have images of shape {wanted.inputs}. Received: "
            f"{data.name}, with images of shape {data.input_shape}"
        )
    if wanted.outputs != [(data.classes,)]:
        raise ArgumentError(
            f"`{option}` must have as many classes as there are outputs, which have "
            f"the shape {wanted.outputs}. Received: {data.name}, with {data.classes} "
            "classes"
        )
