"""Shows the progress of long work, with a line for each step."""

from __future__ import annotations

import sys
import time

from awn_keras.errors import ArgumentError

#: With `"auto"`, seconds after which lines are shown even without a terminal.
_LONG = 10.0


class Progress:
    """Shows a line for each step on stdout, as Keras shows its bars.

    Args:
        verbose: `0` shows nothing; `1` or `2` shows each line. `"auto"` shows each line
            on a terminal and in a notebook. Elsewhere, `"auto"` shows lines only once
            the work has taken ten seconds. If Keras' interactive logging is off,
            `"auto"` shows nothing.

    Raises:
        ValueError: If `verbose` is not 0, 1, 2 or `"auto"`.
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
        """Starts the clock for `total` steps."""
        self._total, self._count = total, 0
        self._start = self._last = time.monotonic()

    def done(self, step: str) -> None:
        """Reports that a step is done, and how long it took."""
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
    """Whether Keras' interactive logging is on, which is the default."""
    # Measurements of files do not import Keras, so that it may be missing here.
    keras = sys.modules.get("keras")
    return keras is None or keras.config.is_interactive_logging_enabled()


def _is_watched() -> bool:
    """Whether stdout is a terminal or the output of a notebook."""
    # A notebook's stream is not a terminal, but has its own class.
    return sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel")
