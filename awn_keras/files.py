"""Writing files whole or not at all, and reading them back."""

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
    """Checks that a file can be written, before what it will hold takes its time.

    Args:
        path: The file; folders above it may be missing.
        name: What the caller's user calls it.
        folder: Whether it is to be a folder of files instead.

    Raises:
        OSError: If it is the other of the two or neither, lies in a file, or in a
            folder that this user may not write to.
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
            f"`{name}` must lie in a folder, and '{nearest}' is a file. {received}"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(
            f"`{name}` must lie in a folder that can be written to, and '{nearest}' "
            f"cannot. {received}"
        )


# ------------------------------------------------------------------------- writing


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that it is there whole or not at all.

    Args:
        path: The file; see `whole_file`.
        content: Text (written as UTF-8) or bytes.

    Raises:
        OSError: If it cannot be written; an older file of this name is then left.
    """
    data = content.encode() if isinstance(content, str) else content
    with whole_file(path) as temporary, temporary.open("rb+", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[os.write(file.fileno(), left) :]


@contextlib.contextmanager
def whole_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """Gives a file to write to, which takes the place of another when it is whole.

    What runs that were killed left in the folder is removed.

    Args:
        path: The file to be; its folder must exist. A symbolic link is followed.
        suffix: How the name of the file to write to must end.

    Yields:
        The path of an empty file beside it.

    Raises:
        OSError: If it cannot be written; an older file of this name is then left.
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
    """Lets files that are written inside take their places together, or none of them.

    All are written beside their places first. When the outermost such block ends, they
    replace the older ones in the order in which they were written: the file that names
    the others comes last. If one cannot be written or replaced, or the block raises,
    all older files stay or come back. Only a process that is killed between two of the
    replacements, which take microseconds, leaves some of each.

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
    """A file beside the place that it may take.

    Args:
        target: That place.
        place: Where it is.
        lock: What holds a lock on it while this process lives, by which others know
            that it does. `None` where there are no locks.
    """

    target: Path
    place: Path
    lock: int | None

    @classmethod
    def beside(cls, target: Path, suffix: str = "") -> _Part:
        """A new file, empty."""
        while True:
            place = _new_place(target, suffix)
            place.open("xb").close()
            part = cls(target, place, _locked(place))
            if place.exists():
                return part
            part.discard()  # another run took it for a leftover, before it was locked

    @classmethod
    def older(cls, target: Path) -> _Part | None:
        """The file that is there, under another name; `None` if there is none."""
        if not target.exists():
            return None
        place = _new_place(target)
        try:
            place.hardlink_to(target)
        except OSError:  # Not every file system has links.
            try:
                shutil.copy2(target, place)
            except BaseException:
                place.unlink(missing_ok=True)
                raise
        return cls(target, place, _locked(place))

    def discard(self) -> None:
        """Removes the file, unless it has taken its place."""
        self.place.unlink(missing_ok=True)
        if self.lock is not None:
            os.close(self.lock)


#: What was written in the block of `together` that runs.
_parts: ContextVar[list[_Part] | None] = ContextVar("parts", default=None)
#: How names of files end that no run has finished.
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.partial(\.\w+)?$")


def _new_place(target: Path, suffix: str = "") -> Path:
    return target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial{suffix}")


def _target(path: Path) -> Path:
    """The file that is to be replaced: at the end of symbolic links."""
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
    """Lets files take their places: all, or none."""
    older: dict[Path, _Part | None] = {}
    done: list[Path] = []
    try:
        # One alone is replaced, or nothing has changed.
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
    """Lets replacements outlast a power cut, where a system can: files are in place."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Lets an error name the file that is to be, instead of none or the one beside."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or "")
        if error.errno and (not named or _UNFINISHED.search(named)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


# ------------------------------------------------------------------------- locking


def try_lock(descriptor: int) -> bool:
    """Locks an open file until it is closed, or its process is no more.

    Args:
        descriptor: The open file.

    Returns:
        Whether it is locked now; on Windows always. If not, another has locked it.

    Raises:
        OSError: If its file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked(path: Path) -> int | None:
    if fcntl is None:  # Windows replaces no open file.
        return None
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):
            # Waits for who tries whether it is locked; several may hold it.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor
    return None


def _remove_leftovers(folder: Path) -> None:
    """Removes what runs left that were killed, and nothing of those that live."""
    if fcntl is None:
        return
    left: list[Path] = []
    with contextlib.suppress(PermissionError):  # a folder that may not be listed
        left = [path for path in folder.iterdir() if _UNFINISHED.search(path.name)]
    for path in left:
        with contextlib.suppress(OSError):  # another run removes it, or may, not this
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if try_lock(descriptor):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


# ------------------------------------------------------------------------- reading


def read_json(path: Path, check: Check = anything, about: str = "") -> Any:
    """Reads a file of JSON.

    Args:
        path: The file.
        check: What it must hold; see `awn_keras.schemas`.
        about: What kind of file it must be, and the way out, for the message. Empty if
            it can be removed, with what was written with it.

    Returns:
        What it holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or does not hold what it must.
    """
    about = about or "what awn_keras writes: remove it, and what was written with it"
    return parse_json(path.read_bytes(), str(path), check, about)


def parse_json(content: bytes | str, name: str, check: Check, about: str) -> Any:
    """Reads JSON.

    Args:
        content: The JSON.
        name: The name of the file that it is from.
        check: See `read_json`.
        about: See `read_json`.

    Returns:
        What it holds.

    Raises:
        ValueError: See `read_json`.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(
            f"'{name}' is not {about}. It is not JSON, or not a whole file of it: "
            f"{error}"
        ) from error
    check_fits(value, check, name, about)
    return value
