"""Attaches small files to a TFLite file, as a ZIP at its end.

Readers of a flatbuffer ignore bytes after it, and readers of a ZIP begin at its end. So
one file can be a valid TFLite file and a valid ZIP. TFLite Metadata keeps labels this
way.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from awn_keras.archives import FAULTS, check_archive
from awn_keras.errors import ArgumentError

#: The names of the classes, one per line. MediaPipe and Android's libraries read them.
LABELS = "labels.txt"
#: The manifest of the export.
MANIFEST = "awn.json"
_ABOUT = "a TFLite file with a ZIP of small files at its end"
# The earliest time that ZIP can store. A fixed time makes equal exports equal byte for
# byte.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def attach(content: bytes, files: Mapping[str, bytes]) -> bytes:
    """Appends files to a TFLite file, uncompressed.

    Args:
        content: Content of the TFLite file, without attached files.
        files: Contents of the files by name.

    Returns:
        The content of a file that is a TFLite file and a ZIP.
    """
    whole = io.BytesIO()
    whole.write(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), data)
    return whole.getvalue()


def attached(source: bytes | str | Path) -> dict[str, bytes]:
    """Reads the files that are attached to a TFLite file.

    Args:
        source: Path or content of the TFLite file. Of a path only the end of the file
            is read.

    Returns:
        Contents of the attached files by name; empty if there are none.

    Raises:
        OSError: If the TFLite file cannot be read.
        ValueError: If an attached file is damaged or encrypted.
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
    """The content of a TFLite file without attached files."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            starts = [entry.header_offset for entry in archive.infolist()]
    except FAULTS:
        return content
    return content[: min(starts, default=len(content))]
