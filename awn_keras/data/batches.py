"""Batches of images, in an order and with an augmentation that a seed decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.photos import PhotoError


class Batches(keras.utils.PyDataset):
    """Batches of images for `fit` and `evaluate`: pixels as they are, in float32.

    Order and augmentation of an epoch depend on the seed and the epoch's number only,
    so that training resumed at `first_epoch` sees what it would have seen. (Pass
    `shuffle=False` to `fit`; otherwise Keras shuffles the batches once more.)

    Args:
        images: uint8 pixels `(n, rows, cols, channels)`: an array, or anything else
            that has `shape`, a length, and gives an array for an array of indices.
        labels: Integer array `(n,)`.
        batch_size: Samples in a batch; the last may be smaller.
        shuffle: Whether to draw a new order in every epoch.
        flip: Whether to flip half of the images left to right, drawn at random.
        shift: Pixels by which an image is shifted at most, up or down and to a side.
        border: What a shift uncovers, a pixel `(channels,)`; by default black.
        layers: Keras layers for preprocessing images, such as
            `keras.layers.RandomRotation`, applied after flip and shift.
        seed: Integer seed of order and augmentation.
        first_epoch: Number of the epoch that comes first.

    Attributes:
        fault: What is wrong with a photo that could not be read; backends make of the
            exception that says so one of their own.
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
        """Draws the next epoch's order; Keras calls it."""
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
    """Crops each image at random from itself with a border, and flips half of them.

    Args:
        images: Array `(n, rows, cols, channels)`.
        rng: Source of randomness.
        shift: Pixels of border on each side.
        flip: Whether to flip any.
        border: The border's pixel, `(channels,)` or one number.

    Returns:
        Array of the same shape and dtype.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1 (CIFAR).
    """
    count, rows, cols, channels = images.shape
    padded = np.empty((rows + 2 * shift, cols + 2 * shift, channels), images.dtype)
    padded[:] = border
    tops, lefts = rng.integers(0, 2 * shift + 1, (2, count))
    # Drawn in any case: without flips the shifts of the next batch stay the same.
    flips = rng.integers(0, 2, (count,)) * flip
    shifted = np.empty_like(images)
    # Copying slices takes a third of the time of one fancy index.
    for i, (top, left, flipped) in enumerate(zip(tops, lefts, flips, strict=True)):
        padded[shift : shift + rows, shift : shift + cols] = images[i]
        crop = padded[top : top + rows, left : left + cols]
        shifted[i] = crop[:, ::-1] if flipped else crop
    return shifted


def _transformed(layer: Any, images: np.ndarray, seed: int) -> np.ndarray:
    """What a Keras layer makes of images with a seed."""
    # A layer draws from generators that go on from call to call, and some ignore the
    # `seed` of `get_random_transformation`. Set, they draw alike after a resume, too.
    states = [v for v in layer.variables if v.name == "seed_generator_state"]
    for index, state in enumerate(states):
        state.assign(np.array([seed, index], state.dtype))
    return keras.ops.convert_to_numpy(layer(images, training=True)).astype("float32")
