"""A data set of labelled images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from awn_keras.data.batches import Batches

#: Those whose training images the paper shifts and flips.
AUGMENTED = ("cifar10", "cifar100")


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
