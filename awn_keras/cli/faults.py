"""The message for a fault (a bug) of awn_keras."""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
from pathlib import Path

import _awn


def describe_fault(error: Exception, log: Path | None = None) -> str:
    """Stores the traceback of an unexpected error.

    Args:
        error: The caught error.
        log: File to which the traceback is appended. `None` makes a new file. If the
            environment variable `AWN_DEBUG` is set, the traceback goes to stderr
            instead.

    Returns:
        One line with the error, and the place of the traceback.
    """
    lines = "".join(traceback.format_exception(error))
    where = "is above"
    path = None if os.environ.get("AWN_DEBUG") else _append(log, lines)
    if path is None:
        sys.stderr.write(lines)
    else:
        where = f"is in {path}"
    about = textwrap.shorten(f"{type(error).__name__}: {error}", 200).rstrip(".")
    return f"a fault of awn_keras: {about}. Please report it. The traceback {where}"


def _append(log: Path | None, text: str) -> Path | None:
    """Returns the file, or `None` if no file can be written."""
    try:
        path = log or _awn.new_log()
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return None
    return path
