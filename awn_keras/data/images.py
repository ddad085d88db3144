"""A data set of labelled images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from awn_keras.data.batches import Batches
from awn_keras.errors import ArgumentError

#: Number of photos for mean and standard deviation. Named data sets use all images.
_SAMPLED = 2000
#: Number of images that are copied to float64 at a time, to limit memory.
_AT_ONCE = 32


@dataclass(frozen=True)
class ImageData:
    """A data set: training and test images, their labels, and class names.

    Args:
        name: Name of the data set.
        x_train: uint8 pixels `(n, rows, cols, channels)`: an array, or `Photos`, which
            are read on access.
        y_train: int64 array `(n,)`.
        x_test: Like `x_train`.
        y_test: Like `y_train`.
        class_names: Names of the classes, in the order of the labels.
        flip: Whether training images are flipped left to right at random.
        shift: Largest random shift of training images, in pixels. The uncovered border
            gets the mean colour.
        augment_layers: Keras preprocessing layers for images, such as
            `keras.layers.RandomRotation(0.1)`, applied to the pixels of training images
            after flip and shift.
        fingerprint: Hash of a folder of photos, which distinguishes folders of equal
            names. `None` for named data sets.
        largest_pixel: Largest possible value of a pixel.
        notes: Lines about files that were left out, with the reason.
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
        """Checks the shift.

        Raises:
            ValueError: If `shift` is negative, or not below the rows and cols of the
                images.
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

    @cached_property  # computing it takes seconds for CIFAR
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel."""
        images = self.x_train
        chosen = np.arange(len(images))
        if self.fingerprint is not None and len(images) > _SAMPLED:
            rng = np.random.default_rng(0)
            chosen = np.sort(rng.choice(len(images), _SAMPLED, replace=False))
        total = squares = np.zeros(self.input_shape[2])
        for start in range(0, len(chosen), _AT_ONCE):
            # float64 holds these sums of integers exactly.
            pixels = images[chosen[start : start + _AT_ONCE]].astype("float64")
            total = total + pixels.sum(axis=(0, 1, 2))
            squares = squares + (pixels**2).sum(axis=(0, 1, 2))
        count = len(chosen) * self.input_shape[0] * self.input_shape[1]
        mean = total / count
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))

    @property
    def mean(self) -> np.ndarray:
        """Mean of each channel over the training images, float32 `(channels,)`.

        For a folder of photos, the mean over at most 2,000 photos, which are drawn with
        a fixed seed.
        """
        return self._moments[0].astype("float32")

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each channel, float32 `(channels,)`; see `mean`."""
        return self._moments[1].astype("float32")

    def preprocessing(self) -> keras.layers.Layer:
        """Makes a layer that normalizes pixels to mean 0 and standard deviation 1.

        Put the layer into the network, right after the input. Then the network takes
        pixels, also in an exported file.

        Returns:
            A new `keras.layers.Normalization` with the name "preprocessing". Its mean
            and variance are constants, not weights. A channel without any deviation
            becomes 0.
        """
        mean, std = self._moments
        # float32, because half precision would round a mean of 130.7 to 131.
        return keras.layers.Normalization(
            mean=mean.tolist(),
            variance=(np.where(std > 0, std, 1.0) ** 2).tolist(),
            dtype="float32",
            name="preprocessing",
        )

    def train(
        self, batch_size: int = 128, *, seed: int = 0, first_epoch: int = 0
    ) -> Batches:
        """Makes training batches, shuffled and augmented as the data set says.

        Args:
            batch_size: Samples in a batch.
            seed: Integer seed of order and augmentation.
            first_epoch: Number of the first epoch.

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
        """Makes test batches, in order.

        Args:
            batch_size: Samples in a batch.

        Returns:
            Batches for `evaluate` and `trade_off_curve`.
        """
        return Batches(self.x_test, self.y_test, batch_size)
