"""Batches of images, whose order and augmentation depend on a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.photos import PhotoError


class Batches(keras.utils.PyDataset):
    """Batches of images for `fit` and `evaluate`: unscaled pixels, in float32.

    Order and augmentation of an epoch depend only on the seed and the number of the
    epoch. So a training that resumes at `first_epoch` gets the batches of an
    uninterrupted training. Pass `shuffle=False` to `fit`; otherwise Keras shuffles the
    batches again.

    Args:
        images: uint8 pixels `(n, rows, cols, channels)`: an array, or an object that
            has `shape` and a length, and returns an array for an array of indices.
        labels: Integer array `(n,)`.
        batch_size: Samples in a batch. The last batch may be smaller.
        shuffle: Whether to draw a new order in every epoch.
        flip: Whether to flip each image left to right with a probability of 1/2.
        shift: Largest random shift of an image, in pixels, vertical and horizontal.
        border: Pixel `(channels,)`, or one number, for the area that a shift uncovers;
            black by default.
        layers: Keras preprocessing layers for images, such as
            `keras.layers.RandomRotation`, applied after flip and shift.
        seed: Integer seed of order and augmentation.
        first_epoch: Number of the first epoch.

    Attributes:
        fault: The error of a photo that could not be read, or `None`. Backends replace
            the exception by their own, so callers read this attribute.
    """

    def __init__(
        self,
        images: Any,
        labels: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool = False,
        flip: bool = False,
        shift: int = 0,
        border: Any = 0,
        layers: Sequence[Any] = (),
        seed: int = 0,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.flip = flip
        self.shift = shift
        self.border = border
        self.layers = tuple(layers)
        self.seed = seed
        self.epoch = first_epoch
        self.fault: PhotoError | None = None
        self._order = self._new_order()

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images `(batch, rows, cols, channels)`, float32, and labels."""
        start = index * self.batch_size
        chosen = self._order[start : start + self.batch_size]
        try:
            images = np.asarray(self.images[chosen])
        except PhotoError as error:
            self.fault = error
            raise
        rng = np.random.default_rng((self.seed, self.epoch, index + 1))
        if self.flip or self.shift:
            images = shift_and_flip(
                images, rng, shift=self.shift, flip=self.flip, border=self.border
            )
        images = images.astype("float32")
        for layer in self.layers:
            images = _transformed(layer, images, int(rng.integers(2**31)))
        return images, self.labels[chosen]

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch. Keras calls this method."""
        self.epoch += 1
        self._order = self._new_order()

    def _new_order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.images))
        rng = np.random.default_rng((self.seed, self.epoch, 0))
        return rng.permutation(len(self.images))


def shift_and_flip(
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    shift: int = 4,
    flip: bool = True,
    border: Any = 0,
) -> np.ndarray:
    """Shifts each image at random, and flips half of the images.

    A shift adds a border to the image, and crops a random part of the original size.

    Args:
        images: Array `(n, rows, cols, channels)`.
        rng: Random generator.
        shift: Largest shift, and width of the border, in pixels.
        flip: Whether to flip images.
        border: Pixel of the border, `(channels,)` or one number.

    Returns:
        Array of the same shape and dtype.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1 (CIFAR).
    """
    count, rows, cols, channels = images.shape
    padded = np.empty((rows + 2 * shift, cols + 2 * shift, channels), images.dtype)
    padded[:] = border
    tops, lefts = rng.integers(0, 2 * shift + 1, (2, count))
    # Draw flips even if they are off, so that the other random numbers stay the same.
    flips = rng.integers(0, 2, (count,)) * flip
    shifted = np.empty_like(images)
    # Copying slices takes a third of the time of fancy indexing.
    for i, (top, left, flipped) in enumerate(zip(tops, lefts, flips, strict=True)):
        padded[shift : shift + rows, shift : shift + cols] = images[i]
        crop = padded[top : top + rows, left : left + cols]
        shifted[i] = crop[:, ::-1] if flipped else crop
    return shifted


def _transformed(layer: Any, images: np.ndarray, seed: int) -> np.ndarray:
    """Applies a Keras layer to images, with a seed."""
    # The random generators of a layer continue from call to call, and some layers
    # ignore the `seed` of `get_random_transformation`. Setting the state of the
    # generators gives equal results after a resume.
    states = [v for v in layer.variables if v.name == "seed_generator_state"]
    for index, state in enumerate(states):
        state.assign(np.array([seed, index], state.dtype))
    return keras.ops.convert_to_numpy(layer(images, training=True)).astype("float32")
