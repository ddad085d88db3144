"""How far a long piece of work is, a line for each step."""

from __future__ import annotations

import sys
import time

from awn_keras.errors import ArgumentError

#: With `"auto"`, seconds after which lines are shown wherever they go.
_LONG = 10.0


class Progress:
    """Shows a line for each step on stdout, as Keras shows its bars.

    Args:
        verbose: `0` shows nothing, `1` or `2` each line. `"auto"` shows them on a
            terminal and in a notebook; elsewhere it keeps them until the work has taken
            ten seconds. Where Keras' interactive logging is off, it shows nothing.

    Raises:
        ValueError: If `verbose` is none of these.
    """

    def __init__(self, verbose: int | str) -> None:
        if verbose not in (0, 1, 2, "auto"):
            raise ArgumentError(
                f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}"
            )
        self._on = bool(verbose) and (verbose != "auto" or _keras_logs())
        self._patient = verbose == "auto" and not _is_watched()
        self._kept: list[str] = []
        self._total = self._count = 0
        self._start = self._last = time.monotonic()

    def begin(self, total: int) -> None:
        """Starts the clock, for so many steps."""
        self._total, self._count = total, 0
        self._start = self._last = time.monotonic()

    def done(self, step: str) -> None:
        """Says that a step is done, and how long it took."""
        now = time.monotonic()
        self._count += 1
        self._kept.append(
            f"[{self._count}/{self._total}] {step} in {now - self._last:.1f} s\n"
        )
        self._last = now
        if self._on and (not self._patient or now - self._start > _LONG):
            sys.stdout.write("".join(self._kept))
            sys.stdout.flush()
            self._kept.clear()


def _keras_logs() -> bool:
    """Whether Keras' interactive logging is on, as it is until someone turns it off."""
    # Files are measured where there is no Keras, too.
    keras = sys.modules.get("keras")
    return keras is None or keras.config.is_interactive_logging_enabled()


def _is_watched() -> bool:
    """Whether stdout is a terminal, or that of a notebook."""
    # A notebook's stream is no terminal, and has a class of its own.
    return sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel")
