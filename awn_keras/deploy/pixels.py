"""Conversion of pixels to the numbers that a file takes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.photos import read_photo


@dataclass(frozen=True)
class Pixels:
    """How pixels 0..255 become inputs: `(pixels - mean) / std`.

    Args:
        mean: One number for all channels, or a number for each channel, in the unit of
            pixels.
        std: As `mean`; numbers above 0.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, said: Any) -> Pixels | None:
        """Reads the normalization from a manifest or from `metadata`.

        Args:
            said: A mapping with `mean` and `std`, which are numbers or lists of
                numbers, in the unit of pixels. Any other value is ignored.

        Returns:
            The normalization; `None` if `said` is not such a mapping.

        Raises:
            ValueError: If `mean` or `std` has values that cannot be used.
        """
        if not isinstance(said, Mapping) or not {"mean", "std"} <= set(said):
            return None
        try:
            mean, std = (np.ravel(np.asarray(said[k], float)) for k in ("mean", "std"))
        except (TypeError, ValueError) as error:
            raise _unusable(said) from error
        fits = {len(mean), len(std)} <= {1, 3}
        if not fits or not np.isfinite([*mean, *std]).all() or not (std > 0).all():
            raise _unusable(said)
        return cls(tuple(map(float, mean)), tuple(map(float, std)))

    def of_channels(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std of each channel, float32.

        Raises:
            ValueError: If the number of means or stds is neither 1 nor `channels`.
        """
        if not {len(self.mean), len(self.std)} <= {1, channels}:
            raise ArgumentError(
                "`metadata['normalization']` must have one mean and std, or a mean "
                f"and std for each of the input's {channels} channels. Received: "
                f"mean={self.mean}, std={self.std}"
            )
        mean, std = (
            np.broadcast_to(np.asarray(values, "float32"), channels)
            for values in (self.mean, self.std)
        )
        return mean, std

    def to_inputs(self, pixels: np.ndarray) -> np.ndarray:
        """Normalizes pixels `(..., channels)` to float32."""
        mean, std = self.of_channels(pixels.shape[-1])
        return (np.asarray(pixels, "float32") - mean) / std

    def to_pixels(self, x: np.ndarray) -> np.ndarray:
        """The uint8 pixels nearest to inputs `(..., channels)`."""
        mean, std = self.of_channels(x.shape[-1])
        pixels = np.rint(np.asarray(x, "float32") * std + mean)
        return np.clip(pixels, 0, 255).astype("uint8")

    def limits(self) -> tuple[float, float]:
        """The smallest and the largest input that pixels 0..255 can become."""
        ends = self.to_inputs(np.repeat([[0.0], [255.0]], max(len(self.mean), 3), 1))
        return float(ends.min()), float(ends.max())

    def described(self) -> dict[str, list[float]]:
        """The manifest's entry."""
        return {"mean": list(self.mean), "std": list(self.std)}


def _unusable(said: Mapping[str, Any]) -> ArgumentError:
    return ArgumentError(
        "`metadata['normalization']` must have `mean` and `std`, each a number or "
        "three numbers in the unit of pixels, std above 0. Received: "
        f"mean={said['mean']!r}, std={said['std']!r}"
    )


def is_image_shape(shape: Any) -> bool:
    """Whether a shape is the shape of images, `(batch, rows, cols, 1 or 3)`."""
    return len(shape) == 4 and shape[-1] in (1, 3)


def are_photos(x: Any) -> bool:
    """Whether `x` is a `PIL.Image.Image`, or a list or tuple of such images."""
    try:
        from PIL import Image
    except ImportError:  # Without Pillow, nobody can have made such an image.
        return False
    if isinstance(x, list | tuple) and x:
        return all(isinstance(photo, Image.Image) for photo in x)
    return isinstance(x, Image.Image)


def photos_to_inputs(photos: Any, tensor: Any, pixels: Pixels | None) -> np.ndarray:
    """Reads photos for an input of a file.

    Args:
        photos: A list of photos that `read_photo` can read.
        tensor: The input, a `litert.Tensor`.
        pixels: How pixels become inputs; `None` if the file does not say so.

    Returns:
        Array `(n, rows, cols, channels)`: uint8 pixels if the input takes pixels,
        otherwise float32.

    Raises:
        ValueError: If the input is not an image, if the input takes floats and `pixels`
            is `None`, or if a file is not a photo.
        OSError: If a file cannot be read.
    """
    if not is_image_shape(tensor.shape):
        raise ArgumentError(
            "Photos need an input of shape (1, rows, cols, 1 or 3). Received: input "
            f"'{tensor.name}' of shape {tensor.shape}. Give an array."
        )
    read = np.stack([read_photo(photo, tensor.sample_shape) for photo in photos])
    takes_pixels = tensor.dtype == np.uint8 and (not tensor.scale or pixels is None)
    if takes_pixels:
        return read
    if pixels is None:
        raise ArgumentError(
            f"The file does not say how pixels become input '{tensor.name}', "
            f"{tensor.dtype}. Give an array, as the model takes it. Or export the file "
            "with `metadata={'normalization': {'mean': ..., 'std': ...}}`, or from a "
            "model that begins with a `Rescaling` or `Normalization` layer."
        )
    return pixels.to_inputs(read)
