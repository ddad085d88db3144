"""Checks ZIP files of unknown origin before their content is used."""

from __future__ import annotations

import struct
import zipfile
import zlib

from awn_keras.errors import ArgumentError

#: Errors that Python raises for damaged archives.
FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    # For an unknown compression, a missing password, and names that are not text.
    *(NotImplementedError, RuntimeError, ValueError),
)
#: Largest compression ratio of DEFLATE.
_MOST = 1032


def check_archive(archive: zipfile.ZipFile, length: int, name: str, about: str) -> int:
    """Checks that all of an archive can be read: sizes, passwords, checksums.

    Args:
        archive: The open archive.
        length: Size of the archive's file, in bytes.
        name: Name of the file.
        about: Kind of the file, for the message.

    Returns:
        Size of all unpacked entries, in bytes.

    Raises:
        ValueError: If an entry is encrypted or damaged, if its stored bytes exceed the
            file, or if its unpacked size exceeds the largest compression ratio.
    """
    wrong = f"'{name}' is not {about}, or is damaged"
    for entry in archive.infolist():
        if entry.flag_bits & 1:
            raise ArgumentError(f"{wrong}: its entry '{entry.filename}' is encrypted.")
        if entry.compress_size > length:
            raise ArgumentError(
                f"{wrong}: its entry '{entry.filename}' cannot have "
                f"{entry.compress_size:,} stored bytes in a file of {length:,} bytes."
            )
        if entry.file_size > _MOST * entry.compress_size:
            raise ArgumentError(
                f"{wrong}: its entry '{entry.filename}' cannot unpack from "
                f"{entry.compress_size:,} to {entry.file_size:,} bytes."
            )
    try:
        damaged = archive.testzip()
    except FAULTS as error:
        raise ArgumentError(f"{wrong}: {error}") from error
    if damaged is not None:
        raise ArgumentError(f"{wrong}: its entry '{damaged}' has a wrong checksum.")
    return sum(entry.file_size for entry in archive.infolist())
