"""Output to the terminal that several commands share."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any


def write_line(text: str) -> None:
    """Writes a line to stdout."""
    sys.stdout.write(text + "\n")


def write_note(text: str) -> None:
    """Writes a line to stderr."""
    sys.stderr.write(text + "\n")


def write_warning(text: str) -> None:
    """Writes a line to stderr that begins with "warning: "."""
    write_note(f"warning: {text}")


def describe_os_error(error: OSError) -> str:
    """Says in words what the operating system says with a number.

    Args:
        error: The error.

    Returns:
        A sentence that names the file, such as "There is no file photo.jpg.". The
        error's own text if it has one.
    """
    if error.errno is None or error.filename is None or error.filename2 is not None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"There is no file {error.filename}."
    return f"{error.filename}: {error.strerror}."


@contextlib.contextmanager
def told_on_stderr(*warned: str) -> Iterator[None]:
    """A context that sends progress to stderr, because stdout is for the result.

    Args:
        *warned: Beginnings of warnings that become lines on stderr, too.
    """
    with (
        contextlib.redirect_stdout(sys.stderr),
        warnings.catch_warnings(record=True) as caught,
    ):
        for beginning in warned:
            warnings.filterwarnings("always", beginning, UserWarning)
        yield
    for warning in caught:
        if str(warning.message).startswith(warned):
            write_warning(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message,
                warning.category,
                warning.filename,
                warning.lineno,
                source=warning.source,
            )


#: Heads of the columns of `agreement`.
AGREEMENT_HEAD = f"{'largest error':>14} {'on GPU':>8} {'same class':>11}"


def agreement(compared: Any) -> str:
    """Formats the agreement of a file with its model as columns of a table.

    Args:
        compared: A `Verified` or an `ExportedWidth`.

    Returns:
        Largest error on the CPU, largest error on the GPU, and the share of samples for
        which file and model give the same class.
    """
    same = "-" if compared.agreement is None else f"{100 * compared.agreement:.1f} %"
    gpu = "-" if compared.gpu_error is None else f"{compared.gpu_error:.1e}"
    return f"{compared.largest_error:14.1e} {gpu:>8} {same:>11}"
