"""A data set of labelled images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from awn_keras.data.batches import Batches
from awn_keras.errors import ArgumentError

#: Photos of which mean and standard deviation are taken; of named sets it is all.
_SAMPLED = 2000
#: Images of which float64 copies are in memory at a time.
_AT_ONCE = 32


@dataclass(frozen=True)
class ImageData:
    """A data set: training and test images, with what their labels mean.

    Args:
        name: Its name.
        x_train: uint8 pixels `(n, rows, cols, channels)`: an array, or `Photos`,
            which are read on access.
        y_train: int64 array `(n,)`.
        x_test: Like `x_train`.
        y_test: Like `y_train`.
        class_names: What the labels mean, in their order.
        flip: Whether training images are flipped left to right at random.
        shift: By how many pixels they are shifted at most, over a border of the mean
            colour.
        augment_layers: Keras layers for preprocessing images, such as
            `keras.layers.RandomRotation(0.1)`, that change training images after
            that. They see pixels.
        fingerprint: Tells this set from another one of the same name. `None` for sets
            that their name decides.
        largest_pixel: The brightest that pixels can be.
        notes: Lines on what was left out of the set, and why.
    """

    name: str
    x_train: Any = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: Any = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    class_names: tuple[str, ...] = field(default=(), repr=False)
    flip: bool = field(default=False, repr=False)
    shift: int = field(default=0, repr=False)
    augment_layers: tuple[Any, ...] = field(default=(), repr=False)
    fingerprint: str | None = field(default=None, repr=False)
    largest_pixel: int = field(default=255, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Checks how images are changed.

        Raises:
            ValueError: If `shift` is negative, or as large as the images.
        """
        if not 0 <= self.shift < min(self.input_shape[:2]):
            raise ArgumentError(
                "`shift` must be at least 0, and below the images' rows and cols, "
                f"{self.input_shape[:2]}. Received: shift={self.shift}"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of an image, `(rows, cols, channels)`."""
        return tuple(self.x_train.shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names) or int(self.y_train.max()) + 1

    @cached_property  # seconds for CIFAR
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel."""
        images = self.x_train
        chosen = np.arange(len(images))
        if self.fingerprint is not None and len(images) > _SAMPLED:
            rng = np.random.default_rng(0)
            chosen = np.sort(rng.choice(len(images), _SAMPLED, replace=False))
        total = squares = np.zeros(self.input_shape[2])
        for start in range(0, len(chosen), _AT_ONCE):
            # Sums of integers, which float64 holds exactly.
            pixels = images[chosen[start : start + _AT_ONCE]].astype("float64")
            total = total + pixels.sum(axis=(0, 1, 2))
            squares = squares + (pixels**2).sum(axis=(0, 1, 2))
        count = len(chosen) * self.input_shape[0] * self.input_shape[1]
        mean = total / count
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))

    @property
    def mean(self) -> np.ndarray:
        """Mean of each channel over the training images, `(channels,)`.

        Of a folder of photos, over 2,000 of them at most, chosen at random, always the
        same ones.
        """
        return self._moments[0].astype("float32")

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each channel over the training images, likewise."""
        return self._moments[1].astype("float32")

    def preprocessing(self) -> keras.layers.Layer:
        """The layer that makes of pixels what networks like: mean 0, deviation 1.

        It belongs into the network, right after the input, so that the network takes
        pixels wherever it goes.

        Returns:
            A new `keras.layers.Normalization`, called "preprocessing"; its numbers
            are constants, not weights. A channel without any deviation becomes 0.
        """
        mean, std = self._moments
        # In half precision 130.7 would be 131.
        return keras.layers.Normalization(
            mean=mean.tolist(),
            variance=(np.where(std > 0, std, 1.0) ** 2).tolist(),
            dtype="float32",
            name="preprocessing",
        )

    def train(
        self, batch_size: int = 128, *, seed: int = 0, first_epoch: int = 0
    ) -> Batches:
        """Training batches: shuffled, and augmented as the set says.

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
            batch_size,
            shuffle=True,
            flip=self.flip,
            shift=self.shift,
            border=np.rint(self.mean).astype("uint8") if self.shift else 0,
            layers=self.augment_layers,
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
        return Batches(self.x_test, self.y_test, batch_size)
