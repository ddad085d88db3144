"""Writes files whole or not at all, and reads JSON files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awn_keras.errors import ArgumentError
from awn_keras.schemas import Check, anything, check_fits

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def check_can_write(path: Path, name: str = "path", *, folder: bool = False) -> None:
    """Checks that a file can be written, before its content is computed.

    Args:
        path: The file. Folders above it may be missing.
        name: Name of the caller's argument, for messages.
        folder: `True` if `path` is a folder for files instead of a file.

    Raises:
        OSError: If `path` is a folder instead of a file or the reverse, if it is
            neither, if it lies in a file, or if it lies in a folder that this user may
            not write to.
    """
    received = f"Received: {name}={str(path)!r}"
    if path.is_dir() and not folder:
        raise IsADirectoryError(f"`{name}` must be a file, not a directory. {received}")
    if path.is_file() and folder:
        raise NotADirectoryError(f"`{name}` must be a folder, not a file. {received}")
    _check_replaceable(path, f"`{name}`", received)
    absolute = Path(os.path.realpath(path))
    above = [absolute, *absolute.parents] if folder else absolute.parents
    nearest = next(place for place in above if place.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(
            f"`{name}` must lie in a folder, but '{nearest}' is a file. {received}"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(
            f"`{name}` must lie in a folder that can be written to, but '{nearest}' "
            f"cannot. {received}"
        )


# ------------------------------------------------------------------------- writing


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that it is there whole or not at all.

    Args:
        path: The file; see `whole_file`.
        content: Text (written as UTF-8) or bytes.

    Raises:
        OSError: If the file cannot be written. An older file of this name then stays.
    """
    data = content.encode() if isinstance(content, str) else content
    with whole_file(path) as temporary, temporary.open("rb+", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[os.write(file.fileno(), left) :]


@contextlib.contextmanager
def whole_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """Gives a temporary file to write to, which replaces `path` at the end.

    Temporary files of processes that were killed are removed from the folder.

    Args:
        path: The final file. Its folder must exist. A symbolic link is followed.
        suffix: Suffix of the temporary file's name.

    Yields:
        The path of an empty temporary file in the folder.

    Raises:
        OSError: If the file cannot be written. An older file of this name then stays.
    """
    with together() as parts, _naming(path):
        target = _target(path)
        _remove_leftovers(target.parent)
        part = _Part.beside(target, suffix)
        try:
            yield part.place
            with part.place.open("rb+") as file:
                os.fsync(file.fileno())
        except BaseException:
            part.discard()
            raise
        parts.append(part)


@contextlib.contextmanager
def together() -> Iterator[list[_Part]]:
    """Lets all files that are written inside the block replace older files, or none.

    Files are first written to temporary files. When the outermost such block ends, the
    temporary files replace the older files in the order of writing, so write a file
    that names the others last. If a file cannot be written or replaced, or if the block
    raises an error, all older files stay or come back. Only if the process is killed
    between two replacements, which take microseconds, old and new files mix.

    Raises:
        OSError: If a file cannot be written or replaced.
    """
    parts = _parts.get()
    if parts is not None:
        yield parts
        return
    parts = []
    token = _parts.set(parts)
    try:
        yield parts
        _replace(parts)
    finally:
        _parts.reset(token)
        for part in parts:
            part.discard()


@dataclass(frozen=True)
class _Part:
    """A temporary file that may replace a file.

    Args:
        target: The file to replace.
        place: The temporary file.
        lock: File descriptor that holds a lock on the temporary file while this process
            lives, so that other processes do not remove the file. `None` where there
            are no locks.
    """

    target: Path
    place: Path
    lock: int | None

    @classmethod
    def beside(cls, target: Path, suffix: str = "") -> _Part:
        """A new, empty temporary file."""
        while True:
            place = _new_place(target, suffix)
            place.open("xb").close()
            part = cls(target, place, _locked(place))
            if place.exists():
                return part
            # Before the lock, another process took the file for a leftover.
            part.discard()

    @classmethod
    def older(cls, target: Path) -> _Part | None:
        """A backup of the present file; `None` if there is no file."""
        if not target.exists():
            return None
        place = _new_place(target)
        try:
            place.hardlink_to(target)
        except OSError:  # Not every file system has hard links.
            try:
                shutil.copy2(target, place)
            except BaseException:
                place.unlink(missing_ok=True)
                raise
        return cls(target, place, _locked(place))

    def discard(self) -> None:
        """Removes the temporary file, unless it has replaced its target."""
        self.place.unlink(missing_ok=True)
        if self.lock is not None:
            os.close(self.lock)


#: The files that were written in the present block of `together`.
_parts: ContextVar[list[_Part] | None] = ContextVar("parts", default=None)
#: The end of the names of temporary files.
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.partial(\.\w+)?$")


def _new_place(target: Path, suffix: str = "") -> Path:
    return target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial{suffix}")


def _target(path: Path) -> Path:
    """The file to replace, after symbolic links."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    _check_replaceable(target, f"'{path}'", "")
    return target


def _check_replaceable(path: Path, said: str, received: str) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(
            f"{said} must be a file, which can be replaced, not a device or a pipe. "
            f"{received}".strip()
        )


def _replace(parts: Sequence[_Part]) -> None:
    """Replaces all target files, or none."""
    older: dict[Path, _Part | None] = {}
    done: list[Path] = []
    try:
        # A single file needs no backup: its replacement happens, or changes nothing.
        for target in dict.fromkeys(part.target for part in parts if len(parts) > 1):
            with _naming(target):
                older[target] = _Part.older(target)
        for part in parts:
            with _naming(part.target):
                part.place.replace(part.target)
            done.append(part.target)
    except BaseException:
        for target in done:
            before = older.get(target)
            with contextlib.suppress(OSError):
                if before is not None:
                    before.place.replace(target)
                elif len(parts) > 1:
                    target.unlink(missing_ok=True)
        raise
    finally:
        for before in older.values():
            if before is not None:
                before.discard()
    for folder in {part.target.parent for part in parts}:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Makes replacements survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Lets an error name the final file instead of a temporary file or no file."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or "")
        if error.errno and (not named or _UNFINISHED.search(named)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


# ------------------------------------------------------------------------- locking


def try_lock(descriptor: int) -> bool:
    """Locks an open file until it is closed or its process ends.

    Args:
        descriptor: File descriptor of the open file.

    Returns:
        `True` if the file is locked now, and always on Windows. `False` if another
        process has locked the file.

    Raises:
        OSError: If the file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked(path: Path) -> int | None:
    if fcntl is None:  # Windows cannot replace a file that is open.
        return None
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):
            # Waits while another process tests for a lock in `_remove_leftovers`.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor
    return None


def _remove_leftovers(folder: Path) -> None:
    """Removes temporary files of processes that no longer live."""
    if fcntl is None:
        return
    left: list[Path] = []
    with contextlib.suppress(PermissionError):  # a folder that may not be listed
        left = [path for path in folder.iterdir() if _UNFINISHED.search(path.name)]
    for path in left:
        with contextlib.suppress(OSError):  # removed already, or of another user
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if try_lock(descriptor):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


# ------------------------------------------------------------------------- reading


def read_json(path: Path, check: Check = anything, about: str = "") -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        check: Check of the content; see `awn_keras.schemas`.
        about: Kind of the file, and the way out, for the message. Empty for a file that
            the user can remove together with the files that were written with it.

    Returns:
        The content.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file is damaged, or if the check fails.
    """
    about = about or (
        "a file of awn_keras: remove it, and the files that were written with it"
    )
    return parse_json(path.read_bytes(), str(path), check, about)


def parse_json(content: bytes | str, name: str, check: Check, about: str) -> Any:
    """Reads JSON.

    Args:
        content: The JSON.
        name: Name of the file with the JSON, for messages.
        check: See `read_json`.
        about: See `read_json`.

    Returns:
        The value.

    Raises:
        ValueError: See `read_json`.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        # The encoding that a file of something else seems to have is of no use.
        why = "it is no text" if isinstance(error, UnicodeDecodeError) else error
        raise ArgumentError(
            f"'{name}' is not {about}. It is not JSON, or not a complete JSON file: "
            f"{why}"
        ) from error
    check_fits(value, check, name, about)
    return value
