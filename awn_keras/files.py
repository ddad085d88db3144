"""Writing files whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


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
