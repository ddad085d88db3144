"""A file of several widths at run time: switch freely, or keep to a deadline."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

from awn_keras.deploy.benchmark.picker import pick_for_file
from awn_keras.deploy.benchmark.report import Report
from awn_keras.deploy.budget import BudgetPolicy
from awn_keras.deploy.litert import Sample, TFLiteFile


class AnyWidthInterpreter:
    """Runs a TFLite file of one or several widths, each sample at the width wanted.

    The widths are the file's signatures `width_025`, `width_062_5` and so on. Without
    `budget_ms`, `run(x)` runs the widest; with it, the widest that meets the deadline
    by what was measured lately. `BudgetPolicy` says how it is chosen. A latency is
    that of one sample: copying it in, one invocation, copying the results out; not
    the wait for other threads.

    All methods may be called from several threads. They take turns, sample by sample,
    because LiteRT's interpreter runs one at a time.

    Args:
        path: The file, or its content as bytes. A file is mapped into memory: do not
            write into it while it is in use; replacing it is safe.
        num_threads: Threads that LiteRT's CPU kernels use, at least 1.
        budget_ms: Longest latency wanted for one sample, in ms. `None` for no limit.
            It may be set at any time.
        warm_up: Number of first runs of each width that do not count for its latency.
        report: What `awn benchmark` measured of this file, or the path of its JSON:
            with `budget_ms`, the widest width that `pick_width` finds in it is the
            first one, in place of the narrowest, whatever its accuracy. Looked at are
            rows of a CPU, this machine's if there are any, with `num_threads`.

    Raises:
        TypeError: If `path` is no path or bytes, or a number is not one.
        ValueError: If `path` is not a TFLite file or has no signature of that name, a
            signature's batch size is not 1 or its shapes are not fixed, a number is
            out of range, or `report` has no such row of this file.
        OSError: If a file cannot be read.

    Examples:
        >>> interpreter = AnyWidthInterpreter("net.tflite", budget_ms=5.0)
        >>> interpreter.widths
        (0.25, 0.5, 0.75, 1.0)
        >>> scores = interpreter.run(image[None], width=0.5)  # (1, classes)
        >>> for image in camera:
        ...     scores = interpreter.run(image[None])  # at most 5 ms, if any width is
        >>> interpreter.width, interpreter.within_budget
        (0.75, True)
    """

    def __init__(
        self,
        path: str | Path | bytes,
        *,
        num_threads: int = 1,
        budget_ms: float | None = None,
        warm_up: int = 3,
        report: Report | str | Path | None = None,
    ) -> None:
        file = TFLiteFile(path, num_threads=num_threads)
        self._file = file
        self.widths: tuple[float, ...] = tuple(file.by_width)
        start, measured = None, {}
        if report is not None and budget_ms is not None:
            picked, latencies = pick_for_file(
                report, file.sha256, budget_ms=budget_ms, threads=num_threads
            )
            start = file.find_width(picked)
            measured = {file.find_width(w): ms for w, ms in latencies.items()}
        self._policy = BudgetPolicy(
            self.widths, budget_ms, warm_up=warm_up, start=start, measured=measured
        )
        self._lock = Lock()

    @property
    def budget_ms(self) -> float | None:
        """Longest latency wanted for one sample, in ms, or `None`."""
        return self._policy.budget_ms

    @budget_ms.setter
    def budget_ms(self, budget_ms: float | None) -> None:
        with self._lock:
            self._policy.budget_ms = budget_ms

    @property
    def latency_ms(self) -> dict[float, float | None]:
        """Latency of each width in ms; before it ran what `report` says, or `None`."""
        with self._lock:
            return self._policy.latency_ms

    @property
    def width(self) -> float:
        """The width that `run` takes next if it is not told one."""
        with self._lock:
            return self._policy.choose()

    @property
    def within_budget(self) -> bool:
        """Whether `width` meets the budget, by what it took last.

        False if the narrowest width is too slow, or one that was is being retried.
        """
        with self._lock:
            return self._policy.within_budget

    def run(self, x: Any, width: float | None = None) -> Any:
        """Computes the outputs of some samples.

        Args:
            x: Samples `(n, ...)`, run one by one; if there are several inputs, a dict
                of such arrays by name (a file does not keep the order of inputs).
                Cast to the input's dtype as NumPy's "same_kind" rule allows, integers
                only if they fit. An input of quantized integers takes its own dtype,
                or floats, which are quantized.
            width: One of `widths`, up to the rounding in its name. `None` to choose:
                see the class. A choice holds for all samples of a call.

        Returns:
            Array `(n, ...)` of the output's dtype, float32 in place of quantized
            integers; if there are several outputs, a dict of them by name.

        Raises:
            TypeError: If `width` is not a number, or `x` does not fit a dtype.
            ValueError: If the file does not have `width`, names or shapes do not fit,
                or there is NaN to quantize.
            RuntimeError: If LiteRT fails.
        """
        width = self.width if width is None else self._file.find_width(width)
        signature = self._file.by_width[width]
        outputs = signature.run(x, lambda sample: self._timed(width, sample))
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def _timed(self, width: float, sample: Sample) -> Sample:
        """Runs one sample, alone among the threads, and notes how long it took."""
        with self._lock:
            start = perf_counter()
            outputs = self._invoke(width, sample)
            self._policy.observe(width, 1000 * (perf_counter() - start))
        return outputs

    def _invoke(self, width: float, sample: Sample) -> Sample:
        return self._file.by_width[width].invoke(sample)
