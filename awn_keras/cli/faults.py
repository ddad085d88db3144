"""What a user is told of a bug in awn_keras."""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
from pathlib import Path

import _awn


def describe_fault(error: Exception, log: Path | None = None) -> str:
    """Keeps the traceback of an error that nobody foresaw.

    Args:
        error: The error, as it was caught.
        log: File to append the traceback to. `None` for a new one. With the
            environment variable `AWN_DEBUG` it goes to stderr instead.

    Returns:
        One line that says what it is, and where the traceback is.
    """
    lines = "".join(traceback.format_exception(error))
    where = "is above"
    path = None if os.environ.get("AWN_DEBUG") else _append(log, lines)
    if path is None:
        sys.stderr.write(lines)
    else:
        where = f"is in {path}"
    about = textwrap.shorten(f"{type(error).__name__}: {error}", 200).rstrip(".")
    return f"a fault of awn_keras: {about}. Please report it; the traceback {where}"


def _append(log: Path | None, text: str) -> Path | None:
    """The file, or `None` if there is none that can be written."""
    try:
        path = log or _awn.new_log()
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return None
    return path
