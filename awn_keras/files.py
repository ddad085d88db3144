"""Writing files whole or not at all, and reading them back."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from awn_keras.errors import ArgumentError


def check_can_write(path: Path, name: str = "path", *, folder: bool = False) -> None:
    """Checks that a file can be written, before what it will hold takes its time.

    Args:
        path: The file; folders above it may be missing.
        name: What the caller's user calls it.
        folder: Whether it is to be a folder of files instead.

    Raises:
        OSError: If it is the other of the two, lies in a file, or in a folder that
            this user may not write to.
    """
    received = f"Received: {name}={str(path)!r}"
    if path.is_dir() and not folder:
        raise IsADirectoryError(f"`{name}` must be a file, not a directory. {received}")
    if path.is_file() and folder:
        raise NotADirectoryError(f"`{name}` must be a folder, not a file. {received}")
    absolute = path.absolute()
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


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that it is there whole or not at all.

    Args:
        path: The file; its folder must exist.
        content: Text (written as UTF-8) or bytes.

    Raises:
        OSError: If it cannot be written; an older file of this name is then left.
    """
    data = content.encode() if isinstance(content, str) else content
    # A name of its own: another process may be writing the same file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex}.partial")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Reads a file of JSON.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ArgumentError(
            f"'{path}' is not JSON, or not a whole file of it: {error}. Remove it, and "
            "what was written with it."
        ) from error
