"""The data set of a command: by name, or a folder of photos."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awn_keras.cli.arguments import Parser, add_data_arguments
from awn_keras.cli.output import write_note, write_warning
from awn_keras.errors import ArgumentError


def add_set_arguments(parser: Parser, what: str, *, required: bool = False) -> None:
    """Adds `--dataset` and `--data`, of which one may be given.

    Args:
        parser: The command's.
        what: What is done with the set, for the help.
        required: Whether one must be given.
    """
    sets = parser.add_mutually_exclusive_group(required=required)
    sets.add_argument(
        "--dataset", help=f"{what}: digits, mnist, fashion_mnist, cifar10, cifar100"
    )
    sets.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="the same of a folder of photos, with a folder for each class",
    )
    add_data_arguments(parser)


@dataclass(frozen=True)
class _Wanted:
    """What a model or a file takes and gives.

    Args:
        name: What to call it.
        inputs: Shapes of its inputs, without the batch.
        outputs: Shapes of its outputs, likewise.
        trained_on: What it was trained on, as `read_set` says; `None` if unknown.
        class_names: Its classes; `None` if unknown.
        scaled: Whether it scales pixels itself; `None` if unknown.
    """

    name: str
    inputs: list[tuple[Any, ...]]
    outputs: list[tuple[Any, ...]]
    trained_on: dict[str, Any] | None
    class_names: list[str] | None
    scaled: bool | None


def load_dataset(args: argparse.Namespace, path: Path, model: Any = None) -> Any:
    """Loads the data set of `--dataset` or `--data`, for a model or a file.

    Photos get the size of its inputs, and belong to its classes by their folders'
    names, which lie beside it in `data.json` (of a file in its manifest, too).
    Without these the folders are taken in the order of their names.

    Args:
        args: The command's arguments.
        path: Where the model or file lies.
        model: The model, if `path` is one.

    Returns:
        The `ImageData`, or `None` if none is given.

    Raises:
        ValueError: If there is no such data set, or it does not fit.
        DatasetUnavailableError: If it is missing on this machine.
        OSError: If the folder cannot be read.
    """
    if not args.dataset and not args.data:
        return None
    from awn_keras.data import load_data

    wanted = _of_file(path) if model is None else _of_model(model, path)
    if args.dataset:
        data = load_data(args.dataset, data_dir=args.data_dir, download=args.download)
    else:
        data = _load_photos(args.data, wanted)
    _check_fits("--dataset" if args.dataset else "--data", wanted, data)
    if wanted.scaled is False:
        write_warning(
            f"{wanted.name} has no layer that scales its inputs, and gets the set's "
            f"pixels as they are, 0 to {data.largest_pixel}: is that what it was "
            "trained on?"
        )
    return data


def some_of(images: Any, count: int) -> Any:
    """Images from all over a set, whose order may be that of its classes.

    Args:
        images: The set's, of any number.
        count: How many to take at most.

    Returns:
        Their pixels, float32.
    """
    import numpy as np

    chosen = np.linspace(0, len(images) - 1, min(count, len(images)))
    return np.asarray(images[chosen.round().astype(int)], "float32")


def _load_photos(folder: Path, wanted: _Wanted) -> Any:
    from awn_keras.data import load_folder
    from awn_keras.runs.sets import SPLIT_SEED

    shape = wanted.inputs[0] if len(wanted.inputs) == 1 else ()
    if len(shape) != 3 or None in shape or shape[2] not in (1, 3):
        raise ArgumentError(
            f"`--data` is for networks of one input, a grey or RGB image of one size. "
            f"{wanted.name} has inputs of shape {wanted.inputs}"
        )
    trained_on = wanted.trained_on or {}
    same = trained_on.get("folder") == str(folder.expanduser().resolve())
    held_out = trained_on.get("held_out") if same else None
    data = load_folder(
        folder,
        size=shape[:2],
        channels=shape[2],
        # Those that were trained on would say too much good.
        held_out=1 if held_out is None else held_out,
        seed=SPLIT_SEED,
        class_names=wanted.class_names,
    )
    which = "that training held out" if len(data.x_train) else "of the folder, all"
    write_note(f"{len(data.x_test):,} photos to test on, {which}")
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
        # A file says what it takes, and is given that.
        None,
    )


def _check_fits(option: str, wanted: _Wanted, data: Any) -> None:
    if wanted.inputs != [data.input_shape]:
        raise ArgumentError(
            f"`{option}` must have images of shape {wanted.inputs}. Received: "
            f"{data.name}, of {data.input_shape}"
        )
    if wanted.outputs != [(data.classes,)]:
        raise ArgumentError(
            f"`{option}` must have classes for outputs of shape {wanted.outputs}. "
            f"Received: {data.name}, of {data.classes} classes"
        )
