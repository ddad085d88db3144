"""Data sets by name: scikit-learn's digits, and those of the paper through TFDS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.data.images import ImageData
from awn_keras.errors import ArgumentError, AwnError
from awn_keras.extras import check_installed

#: Data sets, with the shape of their images.
DATASETS = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
}


#: Data sets whose training images the paper flips, and shifts by up to 4 pixels.
_AUGMENTED = ("cifar10", "cifar100")


class DatasetUnavailableError(AwnError, RuntimeError):
    """A data set is not on this machine, or cannot be read or downloaded."""


def load_data(
    name: str, *, data_dir: str | Path | None = None, download: bool = False
) -> ImageData:
    """Loads a data set.

    `digits` is part of scikit-learn (1,437 training images, 360 test images). The other
    data sets are read through `tensorflow_datasets` (TFDS).

    Args:
        name: `"digits"`, `"mnist"`, `"fashion_mnist"`, `"cifar10"` or `"cifar100"`.
        data_dir: Folder of the prepared TFDS data sets. `None` takes TFDS's default:
            the environment variable `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
        download: Whether TFDS may download and prepare a missing data set.

    Returns:
        The data.

    Raises:
        ImportError: If scikit-learn, or `tensorflow_datasets`, is not installed.
        ValueError: If there is no data set of this name.
        DatasetUnavailableError: If the data set is not on this machine, or is damaged.
            The message names the way out.
    """
    if name not in DATASETS and Path(name).is_dir():
        raise ArgumentError(
            f"`name` must be a known data set: '{name}' is a folder. For a folder of "
            "photos, use `--data` (in Python `load_folder`)."
        )
    if name not in DATASETS:
        raise ArgumentError(
            f"`name` must be one of {sorted(DATASETS)}. Received: name={name!r}"
        )
    return _digits() if name == "digits" else _from_tfds(name, data_dir, download)


def _digits() -> ImageData:
    check_installed("The data set 'digits'", "sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images.astype("uint8")[..., None]
    labels = digits.target.astype("int64")
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=360, random_state=0, stratify=labels
    )
    names = tuple(map(str, digits.target_names))
    return ImageData(
        "digits", x_train, y_train, x_test, y_test, names, largest_pixel=16
    )


def _from_tfds(name: str, data_dir: str | Path | None, download: bool) -> ImageData:
    check_installed(f"The data set '{name}'", "tensorflow_datasets", "tensorflow")
    import tensorflow_datasets as tfds

    directory = None if data_dir is None else str(Path(data_dir).expanduser())
    try:
        builder = tfds.builder(name, data_dir=directory)
    except Exception as error:  # TFDS may raise anything for a damaged data set
        raise _damaged(name, directory or "TFDS's folder", error) from error
    if not builder.is_prepared():
        if not download:
            raise DatasetUnavailableError(_how_to_get(name, builder.data_path))
        try:
            builder.download_and_prepare()
        except (OSError, tfds.download.DownloadError) as error:
            # `requests` raises an OSError without internet access.
            raise DatasetUnavailableError(
                f"{_how_to_get(name, builder.data_path)} Download failed: {error}"
            ) from error

    def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
        data: Any = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        return data["image"], data["label"].astype("int64")

    try:
        names = tuple(builder.info.features["label"].names)
        changes: dict[str, Any] = {}
        if name in _AUGMENTED:
            changes = {"flip": True, "shift": 4}
        return ImageData(name, *arrays("train"), *arrays("test"), names, **changes)
    except Exception as error:  # damaged files raise errors of many types
        raise _damaged(name, builder.data_path, error) from error


def _damaged(name: str, path: Any, error: Exception) -> DatasetUnavailableError:
    return DatasetUnavailableError(
        f"Data set '{name}' cannot be read from {path}. Prepare the data set again, or "
        "name another folder of prepared TFDS data sets with `--data-dir` or "
        f"TFDS_DATA_DIR. TFDS says: {error}"
    )


def _how_to_get(name: str, path: Any) -> str:
    return (
        f"Data set '{name}' is not prepared at {path}. With internet access, allow the "
        "download (`--download`, or `load_data(..., download=True)`). Without internet "
        "access, copy a folder of prepared TFDS data sets to this machine, and name "
        "the folder with `--data-dir` or TFDS_DATA_DIR."
    )
