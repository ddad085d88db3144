"""ZIP files from elsewhere: what is in them is checked before it is used."""

from __future__ import annotations

import struct
import zipfile
import zlib

from awn_keras.errors import ArgumentError

#: What Python's readers raise for damaged archives.
FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    # An unknown way to compress; a password is missing; names that are not text.
    *(NotImplementedError, RuntimeError, ValueError),
)
#: By how much DEFLATE can make anything smaller, at most.
_MOST = 1032


def check_archive(archive: zipfile.ZipFile, length: int, name: str, about: str) -> int:
    """Checks that all of an archive can be read: sizes, passwords, checksums.

    Args:
        archive: The archive, open.
        length: How many bytes its file has.
        name: The file's name.
        about: What it must be, for the message.

    Returns:
        How many bytes its entries have, unpacked.

    Raises:
        ValueError: If an entry is encrypted, damaged, larger than the file, or larger
            than what is stored of it can become.
    """
    wrong = f"'{name}' is not {about}, or is damaged"
    for entry in archive.infolist():
        if entry.flag_bits & 1:
            raise ArgumentError(f"{wrong}: its entry '{entry.filename}' is encrypted.")
        if entry.compress_size > length:
            raise ArgumentError(
                f"{wrong}: its entry '{entry.filename}' cannot take "
                f"{entry.compress_size:,} bytes of {length:,}."
            )
        if entry.file_size > _MOST * entry.compress_size:
            raise ArgumentError(
                f"{wrong}: its entry '{entry.filename}' cannot have {entry.file_size:,}"
                f" bytes, of which {entry.compress_size:,} are stored."
            )
    try:
        damaged = archive.testzip()
    except FAULTS as error:
        raise ArgumentError(f"{wrong}: {error}") from error
    if damaged is not None:
        raise ArgumentError(f"{wrong}: its entry '{damaged}' has a wrong checksum.")
    return sum(entry.file_size for entry in archive.infolist())
