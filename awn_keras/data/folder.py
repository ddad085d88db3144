"""Data sets from folders of photos."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.data.images import ImageData
from awn_keras.data.listing import (
    Listing,
    Photo,
    at_most,
    fingerprint,
    list_photos,
)
from awn_keras.data.reading import (
    Bar,
    Photos,
    check_headers,
    kept_on_disk,
    read_into,
)
from awn_keras.errors import ArgumentError

#: Largest data set, in bytes of pixels, that is kept in memory.
_IN_MEMORY = 500_000_000


def load_folder(
    path: str | Path,
    *,
    size: int | tuple[int, int],
    channels: int = 3,
    held_out: float = 0.2,
    seed: int = 0,
    cache: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    flip: bool = True,
    shift: int | None = None,
    augment_layers: Sequence[Any] = (),
    verbose: bool = True,
) -> ImageData:
    """Loads a folder of photos that has a folder for each class.

    The name of a folder is the name of its class; photos may be in further folders
    below. `path` contains the folders of the classes, or two folders `train` and `test`
    (or `validation`, or `val`) that contain them. Files that are damaged, or are no
    photos, are left out and named.

    Each photo is scaled to `size`; see `awn_keras.photos.read_photo`. If all scaled
    photos take at most 500 MB, they are read at once and kept in memory. Otherwise they
    are read in each epoch, unless you give a `cache`. Without a cache, only the
    beginning of each file is checked here. A photo that turns out to be damaged later
    ends the training with an error that names the file.

    Args:
        path: The folder.
        size: Rows and cols of the images, `(rows, cols)` or one number for both.
        channels: 3 for RGB, 1 for grey.
        held_out: Share in (0, 1] of the photos of each class to test on, if there is no
            folder `test`. 1 tests on all photos and trains on none.
        seed: Seed for the choice of test photos. If you add a photo later, at most one
            other photo of its class changes its part.
        cache: Folder for pixels, so that later epochs and runs need not read the files.
            It takes `rows * cols * channels` bytes for each photo.
        class_names: Names of the classes in the order of the labels, for example those
            of a trained model. Folders with other names are refused. A class may have
            no photos. `None` takes the names of the folders, sorted.
        flip: Whether training images are flipped left to right at random.
        shift: Largest random shift of training images, in pixels. `None` takes an
            eighth of the smaller side.
        augment_layers: See `ImageData`.
        verbose: Whether to write lines about left-out files to stderr.

    Returns:
        The data. `x_train` and `x_test` are `Photos`.

    Raises:
        ImportError: If Pillow is not installed.
        OSError: If the folder does not exist or cannot be read.
        ValueError: If the folder has fewer than two classes of photos, if it has
            classes that are not in `class_names`, or if an argument is out of range.

    Example:
        >>> data = load_folder("photos", size=96)
        >>> model = lenet_3c1l(
        ...     data.input_shape, data.classes, preprocessing=data.preprocessing()
        ... )
    """
    root = Path(path).expanduser()
    shape = _shape(size, channels)
    if not 0 < held_out <= 1:
        raise ArgumentError(
            f"`held_out` must be above 0, and at most 1. Received: held_out={held_out}"
        )
    listing = list_photos(root, held_out, seed, class_names)
    count = len(listing.train) + len(listing.test)
    reader = _Reader(shape, count, None if cache is None else Path(cache).expanduser())
    x_train, train = reader.read(listing.train)
    x_test, test = reader.read(listing.test)
    listing = replace(listing, train=train, test=test)
    _check_left(root, listing, at_most(reader.faults, "files"), class_names)
    left_out = [f"Left out: {fault}" for fault in reader.faults]
    notes = (*listing.notes, *at_most(left_out, "files left out"))
    if verbose:
        sys.stderr.writelines(f"{note}\n" for note in notes)
    return ImageData(
        root.resolve().name,
        x_train,
        _labels(train),
        x_test,
        _labels(test),
        listing.class_names,
        flip=flip,
        shift=round(min(shape[:2]) / 8) if shift is None else shift,
        augment_layers=tuple(augment_layers),
        fingerprint=fingerprint((train, test)),
        notes=notes,
    )


def _shape(size: Any, channels: int) -> tuple[int, int, int]:
    rows, cols = (size, size) if isinstance(size, int) else size
    if min(rows, cols) < 1:
        raise ArgumentError(
            "`size` must be rows and cols, or one number for both. Received: "
            f"size={size}"
        )
    if channels not in (1, 3):
        raise ArgumentError(
            f"`channels` must be 3 (RGB) or 1 (grey). Received: channels={channels}"
        )
    return int(rows), int(cols), channels


class _Reader:
    """Makes arrays of photos: in a cache, in memory, or read on access.

    Attributes:
        faults: Lines about files that cannot be read.
    """

    def __init__(
        self, shape: tuple[int, int, int], count: int, cache: Path | None
    ) -> None:
        self.faults: list[str] = []
        self._shape = shape
        self._cache = cache
        self._in_memory = count * math.prod(shape) <= _IN_MEMORY
        reads = cache is not None or self._in_memory
        self._bar = Bar(count, f"{'Reading' if reads else 'Checking'} {count:,} photos")

    def read(self, photos: list[Photo]) -> tuple[Photos, list[Photo]]:
        """Returns the array of all readable photos, and the list of these photos."""
        paths = [photo.path for photo in photos]
        pixels: np.ndarray | None = None
        if self._cache is not None:
            size = "x".join(map(str, self._shape))
            key = f"{fingerprint([photos], times=True)[:32]}_{size}"
            pixels, faults = kept_on_disk(
                paths, self._shape, self._cache, key, self._bar
            )
        elif self._in_memory:
            pixels = np.empty((len(paths), *self._shape), "uint8")
            faults = read_into(pixels, paths, self._bar)
        else:
            faults = check_headers(paths, self._bar)
        self.faults += faults.values()
        good = np.array([row for row in range(len(paths)) if row not in faults], int)
        kept = [photos[row] for row in good]
        return Photos([photo.path for photo in kept], self._shape, pixels, good), kept


def _labels(photos: list[Photo]) -> np.ndarray:
    return np.array([photo.label for photo in photos], "int64")


def _check_left(
    root: Path, listing: Listing, faults: list[str], class_names: Any
) -> None:
    """Checks that there are still photos to train and test on without damaged files."""
    why = " ".join(["", *faults])
    if not listing.test:
        raise ArgumentError(f"{root} has no readable photo to test on.{why}")
    if class_names is not None:
        return
    left = {photo.label for photo in listing.train or listing.test}
    gone = [n for label, n in enumerate(listing.class_names) if label not in left]
    if gone:
        raise ArgumentError(
            f"{root} has no readable photo of {', '.join(map(repr, gone))} to train "
            f"on.{why}"
        )
