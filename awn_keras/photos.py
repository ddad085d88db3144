"""Reads a photo of any format as pixels of a given size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from awn_keras.errors import ArgumentError, AwnError
from awn_keras.extras import check_installed

if TYPE_CHECKING:
    from PIL import Image

#: Endings of the names of photos, in lower case.
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)
#: Colour behind transparent pixels.
_BEHIND = (255, 255, 255, 255)
#: Pillow's modes with 16 bits or more for a pixel, all in shades of grey.
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class PhotoError(AwnError, ValueError):
    """A file is not a readable photo."""


def read_photo(photo: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Reads a photo as pixels of a network's input.

    The whole photo is scaled to the wanted rows and cols, and its aspect ratio may
    change, as in `keras.utils.image_dataset_from_directory` and MediaPipe. The photo is
    rotated as its EXIF tag says. Transparent pixels become white. CMYK and palettes
    become RGB. Of an animation, the first picture is read.

    Args:
        photo: Path of a file, or a `PIL.Image.Image`.
        shape: Wanted `(rows, cols, channels)`, with 3 channels (RGB) or 1 (grey).

    Returns:
        uint8 array of this shape, 0 to 255.

    Raises:
        PhotoError: If the file is damaged, too large, or no photo. The message names
            the file.
        OSError: If the file does not exist or cannot be read.
        ValueError: If `shape` has other than 1 or 3 channels.
        ImportError: If Pillow is not installed.
    """
    check_installed("Reading a photo", "PIL")
    from PIL import Image, UnidentifiedImageError

    rows, cols, channels = shape
    if channels not in (1, 3):
        raise ArgumentError(
            f"`shape` must end in 3 channels (RGB) or 1 (grey). Received: shape={shape}"
        )
    if isinstance(photo, Image.Image):
        return _pixels(photo, rows, cols, channels)
    path = Path(photo)
    if path.is_dir():
        raise PhotoError(f"{path} is a folder, not a photo.")
    try:
        with path.open("rb") as file, Image.open(file) as image:
            # Faster: a JPEG can be decoded at a half, a quarter or an eighth of its
            # size.
            image.draft(None, (2 * cols, 2 * rows))
            return _pixels(image, rows, cols, channels)
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        raise PhotoError(
            f"{path} is empty." if empty else f"{path} is no photo of a known format."
        ) from error
    except (FileNotFoundError, PermissionError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{path} has too many pixels to be a photo.") from error
    # Pillow may raise anything for a damaged file.
    except Exception as error:
        raise PhotoError(f"{path} is damaged: {error}") from error


def _pixels(image: Image.Image, rows: int, cols: int, channels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        values = np.asarray(image, "float64")
        # 16-bit values, unless no value is above 255 (8 bits in a wider mode).
        scale = 1 / 257 if values.max(initial=0) > 255 else 1.0
        image = Image.fromarray(np.clip(values * scale, 0, 255).astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, _BEHIND)
        image = Image.alpha_composite(behind, image)
    image = image.convert("RGB" if channels == 3 else "L")
    image = image.resize((cols, rows), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(rows, cols, channels)
