"""Small files at the end of a TFLite file, in a ZIP that every unzipper opens.

A `.tflite` is a flatbuffer, whose readers do not look at what follows it, and a ZIP is
read from its end. So one file is both. TFLite Metadata keeps labels there.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from awn_keras.archives import FAULTS, check_archive
from awn_keras.errors import ArgumentError

#: The names of the classes, one a line: what MediaPipe and Android's libraries read.
LABELS = "labels.txt"
#: What awn_keras says of the file: its manifest.
MANIFEST = "awn.json"
_ABOUT = "a TFLite file with a ZIP of small files at its end"
# ZIP knows no time before; the same files must give the same bytes at any time.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def attach(content: bytes, files: Mapping[str, bytes]) -> bytes:
    """Appends files to a TFLite file, uncompressed.

    Args:
        content: The TFLite file; it has nothing attached yet.
        files: Contents by name.

    Returns:
        The content of a file that is both.
    """
    whole = io.BytesIO()
    whole.write(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), data)
    return whole.getvalue()


def attached(source: bytes | str | Path) -> dict[str, bytes]:
    """Reads what is attached to a TFLite file.

    Args:
        source: The file's path, of which only the end is read, or its content.

    Returns:
        Contents by name; nothing if nothing is attached.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If what is attached is damaged, or encrypted.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "content")
    with Path(source).open("rb") as file:
        return _read(file, str(source))


def _read(file: BinaryIO, name: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(file) as archive:
            length = file.seek(0, io.SEEK_END)
            check_archive(archive, length, name, _ABOUT)
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}
    except ArgumentError:
        raise
    except FAULTS as error:
        raise ArgumentError(
            f"'{name}' is not {_ABOUT}, or is damaged: {error}"
        ) from error


def flatbuffer_of(content: bytes) -> bytes:
    """The part of a TFLite file before what is attached to it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            starts = [entry.header_offset for entry in archive.infolist()]
    except FAULTS:
        return content
    return content[: min(starts, default=len(content))]
