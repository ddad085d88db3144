"""What several commands write to the terminal."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any


def write_line(text: str) -> None:
    """Writes text and the end of a line to stdout."""
    sys.stdout.write(text + "\n")


def write_note(text: str) -> None:
    """Writes text and the end of a line to stderr."""
    sys.stderr.write(text + "\n")


def write_warning(text: str) -> None:
    """Writes a line to stderr that begins with "warning: "."""
    write_note(f"warning: {text}")


@contextlib.contextmanager
def told_on_stderr(*warned: str) -> Iterator[None]:
    """Lets work that takes long tell on stderr how far it is: stdout has the result.

    Args:
        *warned: Warnings that begin so become lines there, too.
    """
    with (
        contextlib.redirect_stdout(sys.stderr),
        warnings.catch_warnings(record=True) as caught,
    ):
        for beginning in warned:
            warnings.filterwarnings("always", beginning, UserWarning)
        yield
    for one in caught:
        if str(one.message).startswith(warned):
            write_warning(str(one.message))
        else:
            warnings.warn_explicit(
                one.message, one.category, one.filename, one.lineno, source=one.source
            )


#: Heads the columns of `agreement`.
AGREEMENT_HEAD = f"{'largest error':>14} {'on GPU':>8} {'same class':>11}"


def agreement(compared: Any) -> str:
    """How well a file agrees with its model, as columns of a table.

    Args:
        compared: A `Verified` or an `ExportedWidth`.

    Returns:
        Largest error on the CPU and on the GPU, and the share of samples for which
        both give the same class.
    """
    same = "-" if compared.agreement is None else f"{100 * compared.agreement:.1f} %"
    gpu = "-" if compared.gpu_error is None else f"{compared.gpu_error:.1e}"
    return f"{compared.largest_error:14.1e} {gpu:>8} {same:>11}"
