"""Image data sets: scikit-learn's digits, and the paper's through TFDS."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, AwnError

#: The data sets of the paper and the embedded one, with the shape of their images.
DATASETS = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
}
#: Those whose training images the paper shifts and flips.
AUGMENTED = ("cifar10", "cifar100")


class DatasetUnavailableError(AwnError, RuntimeError):
    """A data set is not on this machine and could not be fetched."""


class Batches(keras.utils.PyDataset):
    """Batches of normalized images for `fit` and `evaluate`.

    Order and augmentation of an epoch depend on the seed and the epoch's number only,
    so that training resumed at `first_epoch` sees what it would have seen. (Pass
    `shuffle=False` to `fit`; otherwise Keras shuffles the batches once more.)

    Args:
        images: uint8 array `(n, rows, cols, channels)`.
        labels: Integer array `(n,)`.
        mean: Mean of each channel, `(channels,)`, in the unit of `images`.
        std: Standard deviation of each channel, likewise.
        batch_size: Samples in a batch; the last may be smaller.
        shuffle: Whether to draw a new order in every epoch.
        augment: Whether to shift each image by up to 4 pixels (over a border of the
            mean colour) and flip it left to right at random.
        seed: Integer seed of order and augmentation.
        first_epoch: Number of the epoch that comes first.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.images = images
        self.labels = labels
        self.mean = np.asarray(mean, "float32")
        self.std = np.asarray(std, "float32")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment
        self.seed = seed
        self.epoch = first_epoch
        self._order = self._new_order()

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images `(batch, rows, cols, channels)`, float32, and labels."""
        start = index * self.batch_size
        chosen = self._order[start : start + self.batch_size]
        images = (self.images[chosen] - self.mean) / self.std
        if self.augment:
            rng = np.random.default_rng((self.seed, self.epoch, index + 1))
            images = shift_and_flip(images, rng)
        return images, self.labels[chosen]

    def on_epoch_end(self) -> None:
        """Draws the next epoch's order; Keras calls it."""
        self.epoch += 1
        self._order = self._new_order()

    def _new_order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.images))
        rng = np.random.default_rng((self.seed, self.epoch, 0))
        return rng.permutation(len(self.images))


def shift_and_flip(
    images: np.ndarray, rng: np.random.Generator, padding: int = 4
) -> np.ndarray:
    """Crops each image at random from itself with a border, and flips half of them.

    Args:
        images: float32 array `(n, rows, cols, channels)`, normalized: the border is
            0, the mean colour.
        rng: Source of randomness.
        padding: Pixels of border on each side.

    Returns:
        Array of the same shape and dtype.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1 (CIFAR).
    """
    count, rows, cols, _ = images.shape
    border = (padding, padding)
    padded = np.pad(images, ((0, 0), border, border, (0, 0)))
    tops, lefts = rng.integers(0, 2 * padding + 1, (2, count))
    flips = rng.integers(0, 2, (count,))
    shifted = np.empty_like(images)
    # Copying slices takes a third of the time of one fancy index.
    for i, (top, left, flip) in enumerate(zip(tops, lefts, flips, strict=True)):
        crop = padded[i, top : top + rows, left : left + cols]
        shifted[i] = crop[:, ::-1] if flip else crop
    return shifted


@dataclass(frozen=True)
class ImageData:
    """A data set in memory.

    Args:
        name: Its name.
        x_train: uint8 array `(n, rows, cols, channels)`.
        y_train: int64 array `(n,)`.
        x_test: Like `x_train`.
        y_test: Like `y_train`.
        class_names: What the labels mean, in their order.
        augment: Whether training images are shifted and flipped. `None` for what the
            paper does: those of `AUGMENTED`.
    """

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    class_names: tuple[str, ...] = field(default=(), repr=False)
    augment: bool | None = field(default=None, repr=False)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of an image, `(rows, cols, channels)`."""
        return self.x_train.shape[1:]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y_train.max()) + 1

    @cached_property  # seconds for CIFAR
    def mean(self) -> np.ndarray:
        """Mean of each channel over the training images, `(channels,)`."""
        return self.x_train.mean(axis=(0, 1, 2), dtype="float64").astype("float32")

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation of each channel over the training images."""
        return self.x_train.std(axis=(0, 1, 2), dtype="float64").astype("float32")

    def train(
        self, batch_size: int = 128, *, seed: int = 0, first_epoch: int = 0
    ) -> Batches:
        """Training batches: shuffled, and augmented where `augment` says so.

        Args:
            batch_size: Samples in a batch.
            seed: Integer seed of order and augmentation.
            first_epoch: Number of the epoch that comes first.

        Returns:
            Batches for `fit`.
        """
        return Batches(
            self.x_train,
            self.y_train,
            self.mean,
            self.std,
            batch_size,
            shuffle=True,
            augment=self.name in AUGMENTED if self.augment is None else self.augment,
            seed=seed,
            first_epoch=first_epoch,
        )

    def test(self, batch_size: int = 500) -> Batches:
        """Test batches, in order.

        Args:
            batch_size: Samples in a batch.

        Returns:
            Batches for `evaluate` and `trade_off_curve`.
        """
        return Batches(self.x_test, self.y_test, self.mean, self.std, batch_size)


def load_data(
    name: str, *, data_dir: str | Path | None = None, download: bool = False
) -> ImageData:
    """Loads a data set.

    `digits` (1,437 training and 360 test images) comes with scikit-learn; the others
    are read through `tensorflow_datasets`.

    Args:
        name: `"digits"`, `"mnist"`, `"fashion_mnist"`, `"cifar10"` or `"cifar100"`.
        data_dir: Folder of the prepared TFDS data sets. `None` for TFDS's default,
            the environment variable `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
        download: Whether TFDS may fetch and prepare a set that is missing.

    Returns:
        The data.

    Raises:
        ValueError: If there is no data set of this name.
        DatasetUnavailableError: If it is not on this machine, or damaged; the message
            says what to do.
    """
    if name not in DATASETS:
        raise ArgumentError(
            f"`name` must be one of {sorted(DATASETS)}. Received: name={name!r}"
        )
    return _digits() if name == "digits" else _from_tfds(name, data_dir, download)


def _digits() -> ImageData:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images.astype("uint8")[..., None]
    labels = digits.target.astype("int64")
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=360, random_state=0, stratify=labels
    )
    names = tuple(map(str, digits.target_names))
    return ImageData("digits", x_train, y_train, x_test, y_test, names)


def _from_tfds(name: str, data_dir: str | Path | None, download: bool) -> ImageData:
    import tensorflow_datasets as tfds

    directory = None if data_dir is None else str(Path(data_dir).expanduser())
    try:
        builder = tfds.builder(name, data_dir=directory)
    except Exception as error:  # whatever its readers of damaged files raise
        raise _damaged(name, directory or "TFDS's folder", error) from error
    if not builder.is_prepared():
        if not download:
            raise DatasetUnavailableError(_how_to_get(name, builder.data_path))
        try:
            builder.download_and_prepare()
        except (OSError, tfds.download.DownloadError) as error:
            # OSError covers what `requests` raises without internet access.
            raise DatasetUnavailableError(
                f"{_how_to_get(name, builder.data_path)} Download failed: {error}"
            ) from error

    def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
        data: Any = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        return data["image"], data["label"].astype("int64")

    try:
        names = tuple(builder.info.features["label"].names)
        return ImageData(name, *arrays("train"), *arrays("test"), names)
    except Exception as error:  # as above
        raise _damaged(name, builder.data_path, error) from error


def _damaged(name: str, path: Any, error: Exception) -> DatasetUnavailableError:
    return DatasetUnavailableError(
        f"Data set '{name}' cannot be read from {path}. Prepare it again, or name "
        "another folder of prepared TFDS data sets with `--data-dir` or TFDS_DATA_DIR. "
        f"TFDS says: {error}"
    )


def _how_to_get(name: str, path: Any) -> str:
    return (
        f"Data set '{name}' is not prepared at {path}. With internet access, allow the "
        "download (`--download`, or `load_data(..., download=True)`); "
        "without, copy a folder of prepared TFDS data sets here and name it with "
        "`--data-dir` or TFDS_DATA_DIR."
    )
