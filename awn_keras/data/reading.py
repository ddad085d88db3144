"""Many photos as one array of pixels, read on access or stored."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.extras import check_installed
from awn_keras.files import read_json, write_whole
from awn_keras.photos import PhotoError, read_photo
from awn_keras.schemas import fields, number, text, values

#: Number of photos that are read at a time.
_AT_ONCE = 64
#: Progress of reading, on disk: number of rows, and faults by row.
_PROGRESS = fields({"rows": number(0, whole=True), "faults": values(text())})
#: Seconds after which a bar is shown.
_PATIENCE = 5.0

Shape = tuple[int, int, int]


class Photos:
    """Photos as an array of pixels `(n, rows, cols, channels)`, uint8.

    You may index the first axis with an integer, a slice, or an array of integers or
    booleans. Unless `pixels` are given, each access reads the files again, with several
    threads.

    Args:
        paths: The files.
        shape: `(rows, cols, channels)`.
        pixels: Pixels that were read before: an array, in memory or on disk.
        rows: Row of `pixels` for each file. `None` takes the order of the files.

    Attributes:
        paths: The files.
        dtype: Dtype of pixels, uint8.
    """

    dtype = np.dtype("uint8")

    def __init__(
        self,
        paths: Sequence[Path],
        shape: Shape,
        pixels: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.paths = list(paths)
        self._shape = shape
        self._pixels = pixels
        self._rows = np.arange(len(self.paths)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, rows, cols, channels)`."""
        return (len(self.paths), *self._shape)

    @property
    def ndim(self) -> int:
        """Number of axes, 4."""
        return 4

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Returns the pixels of some photos.

        Args:
            index: Index for the first axis of an array.

        Returns:
            uint8 array `(n, rows, cols, channels)`; for an integer index `(rows, cols,
            channels)`.

        Raises:
            PhotoError: If a file cannot be read. The message names the file.
        """
        chosen = np.arange(len(self))[index]
        if self._pixels is not None:
            return np.asarray(self._pixels[self._rows[chosen]])
        if np.ndim(chosen) == 0:
            return _read_or_say(self.paths[chosen], self._shape)
        photos = np.empty((len(chosen), *self._shape), self.dtype)
        paths = [self.paths[i] for i in chosen]
        read = functools.partial(_read_or_say, shape=self._shape)
        for row, pixels in enumerate(_pool(os.getpid()).map(read, paths)):
            photos[row] = pixels
        return photos

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """The thread pool of a process. A forked process needs its own pool."""
    return ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)), "photos")


def _read_or_say(path: Path, shape: Shape) -> np.ndarray:
    try:
        return read_photo(path, shape)
    except (PhotoError, OSError) as error:
        raise PhotoError(
            f"{str(error).rstrip('.')}. Remove the file and start again. With `cache`, "
            "all photos are read at the beginning, and such files are left out."
        ) from error


# ------------------------------------------------------------------------- checking


class Bar:
    """A progress bar that shows only if the work takes more than five seconds.

    Args:
        total: Number of photos.
        what: Title of the bar, such as "Reading photos".
    """

    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._what = what
        self._done = 0
        self._start = time.monotonic()
        self._bar: Any = None

    def step(self, count: int = 1) -> None:
        """Counts finished photos."""
        self._done += count
        if self._bar is None:
            if time.monotonic() - self._start < _PATIENCE:
                return
            sys.stdout.write(f"{self._what}:\n")
            self._bar = keras.utils.Progbar(self._total, unit_name="photo")
        self._bar.update(self._done)


def check_headers(paths: Sequence[Path], bar: Bar) -> dict[int, str]:
    """Checks that files begin like photos.

    Args:
        paths: The files.
        bar: Bar that counts the files.

    Returns:
        A dict from the index of each wrong file to its fault.
    """
    return _each(paths, _header_fault, lambda index, fault: fault, bar)


def read_into(
    pixels: np.ndarray, paths: Sequence[Path], bar: Bar, first: int = 0
) -> dict[int, str]:
    """Reads photos into an array.

    Args:
        pixels: Array `(n, rows, cols, channels)`.
        paths: The files.
        bar: Bar that counts the files.
        first: Row of the first file.

    Returns:
        A dict from the row of each unreadable file to its fault.
    """
    shape = pixels.shape[1:]

    def read(path: Path) -> np.ndarray | str:
        try:
            return read_photo(path, shape)
        except (PhotoError, OSError) as error:
            return _line(path, error)

    def keep(index: int, photo_or_fault: np.ndarray | str) -> str:
        if isinstance(photo_or_fault, str):
            return photo_or_fault
        pixels[first + index] = photo_or_fault
        return ""

    faults = _each(paths, read, keep, bar)
    return {first + index: fault for index, fault in faults.items()}


def _line(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path} cannot be read: permission denied."
    if isinstance(error, FileNotFoundError):
        return f"{path} is a link to a file that does not exist."
    return " ".join(str(error).split())


def _header_fault(path: Path) -> str:
    check_installed("Reading photos", "PIL")
    from PIL import Image

    try:
        with path.open("rb") as file, Image.open(file):
            return ""
    except Exception:  # noqa: BLE001 -- `read_photo` makes the message
        pass
    try:
        read_photo(path, (1, 1, 3))
    except (PhotoError, OSError) as error:
        return _line(path, error)
    return ""


def _each(
    paths: Sequence[Path],
    work: Callable[[Path], Any],
    keep: Callable[[int, Any], str],
    bar: Bar,
) -> dict[int, str]:
    """Runs `work` on each file in threads, and `keep` on each result, in order."""
    faults = {}
    pool = _pool(os.getpid())
    # In groups, so that few results wait in memory.
    for start in range(0, len(paths), _AT_ONCE):
        results = pool.map(work, paths[start : start + _AT_ONCE])
        for index, result in enumerate(results, start):
            fault = keep(index, result)
            if fault:
                faults[index] = fault
            bar.step()
    return faults


# ------------------------------------------------------------------------- keeping


def kept_on_disk(
    paths: Sequence[Path], shape: Shape, folder: Path, key: str, bar: Bar
) -> tuple[np.ndarray, dict[int, str]]:
    """Reads photos into a file of pixels, or opens the file of an earlier call.

    If an earlier call was interrupted, reading continues where it stopped.

    Args:
        paths: The files.
        shape: `(rows, cols, channels)`.
        folder: Folder for the file of pixels; created if missing.
        key: Name that is unique for these files at this shape.
        bar: Bar that counts the files.

    Returns:
        Pixels `(n, rows, cols, channels)`, mapped from disk, and a dict from the row of
        each unreadable file to its fault.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    full = (len(paths), *shape)
    if not paths:  # an empty file cannot be mapped
        return np.empty(full, "uint8"), {}
    done, whole = folder / f"{key}.json", folder / f"{key}.pixels"
    if not (done.exists() and whole.exists()):
        partial, progress = folder / f"{key}.partial", folder / f"{key}.progress"
        new_faults = _fill(paths, full, partial, progress, bar)
        if partial.exists():  # otherwise another process has finished the same work
            partial.replace(whole)
        write_whole(done, json.dumps(new_faults) + "\n")
        progress.unlink(missing_ok=True)
    faults = read_json(done, values(text()))
    pixels = np.memmap(whole, "uint8", "r", shape=full)
    return pixels, {int(row): fault for row, fault in faults.items()}


def _fill(
    paths: Sequence[Path],
    full: tuple[int, ...],
    partial: Path,
    progress: Path,
    bar: Bar,
) -> dict[str, str]:
    """Reads photos into a file, and stores the progress in another file."""
    state: dict[str, Any] = {"rows": 0, "faults": {}}
    fits = partial.exists() and partial.stat().st_size == math.prod(full)
    if fits and progress.exists():
        state = read_json(progress, _PROGRESS)
        bar.step(state["rows"])
    pixels = np.memmap(partial, "uint8", "r+" if fits else "w+", shape=full)
    step = max(_AT_ONCE, len(paths) // 50)
    for first in range(state["rows"], len(paths), step):
        faults = read_into(pixels, paths[first : first + step], bar, first)
        # Write pixels before the progress, which must never count missing rows.
        pixels.flush()
        state["faults"] |= {str(row): fault for row, fault in faults.items()}
        state["rows"] = min(first + step, len(paths))
        write_whole(progress, json.dumps(state))
    return state["faults"]
