"""A file of several widths at run time: switch freely, or keep to a deadline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

from awn_keras.deploy.answers import ranked
from awn_keras.deploy.benchmark.picker import pick_for_file
from awn_keras.deploy.benchmark.report import Report
from awn_keras.deploy.budget import BudgetPolicy
from awn_keras.deploy.checks import check_integer
from awn_keras.deploy.litert import Sample, Signature, in_order, open_tflite
from awn_keras.deploy.pixels import are_photos, photos_to_inputs
from awn_keras.errors import ArgumentError


class AnyWidthInterpreter:
    """Runs a TFLite file of one or several widths, each sample at the width wanted.

    A file of `export_tflite` is enough: it says what its classes are called, and how
    pixels become inputs, so that photos can be run as they are. It needs LiteRT, NumPy
    and Pillow; no Keras.

    The widths are the file's signatures `width_025`, `width_062_5` and so on. Without
    `budget_ms`, `run(x)` runs the widest; with it, the widest that meets the deadline
    by what was measured lately. `BudgetPolicy` says how it is chosen. A latency is
    that of one sample: copying it in, one invocation, copying the results out; not
    the wait for other threads.

    All methods may be called from several threads. They take turns, sample by sample,
    because LiteRT's interpreter runs one at a time.

    Args:
        path: The file, or its content as bytes; or the folder of files for a width each
            that `export_tflite(..., single_file=False)` wrote. A file is mapped into
            memory: do not write into it while it is in use; replacing it is safe.
        num_threads: Threads that LiteRT's CPU kernels use, at least 1.
        budget_ms: Longest latency wanted for one sample, in ms. `None` for no limit.
            It may be set at any time.
        warm_up: Number of first runs of each width that do not count for its latency.
        report: What `awn benchmark` measured of this file, or the path of its JSON:
            with `budget_ms`, the widest width that `pick_width` finds in it is the
            first one, in place of the narrowest, whatever its accuracy. Looked at are
            rows of a CPU, this machine's if there are any, with `num_threads`.

    Attributes:
        widths: The widths of the file, ascending.
        labels: The names of the classes; empty if the file has none.
        metadata: The file's manifest, `awn.json`; empty if the file has none. What the
            exporter was told as `metadata` is in it by that name.

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
        >>> interpreter.top("photo.jpg", k=2)
        [('cat', 0.93), ('fox', 0.05)]
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
        file = open_tflite(path, num_threads)
        self._file = file
        self.widths: tuple[float, ...] = tuple(file.by_width)
        self.labels: tuple[str, ...] = file.labels
        self.metadata: dict[str, Any] = file.described
        start, measured = None, {}
        if report is not None and budget_ms is not None:
            picked, latencies = pick_for_file(
                report, file.digests, budget_ms=budget_ms, threads=num_threads
            )
            start = file.find_width(picked)
            measured = {file.find_width(w): ms for w, ms in latencies.items()}
        self._policy = BudgetPolicy(
            self.widths, budget_ms, warm_up=warm_up, start=start, measured=measured
        )
        self._last_ms: float | None = None
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
    def last_ms(self) -> float | None:
        """What the last sample took, in ms; `None` before the first one."""
        return self._last_ms

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
            x: A photo, a `PIL.Image.Image` of any size, or a list of photos; each is
                scaled to the input's size and normalized as the file says. Or samples
                `(n, ...)` as the file takes them, run one by one. For several inputs
                a list of such arrays in the order of the model's inputs, which an
                exported file tells, or a dict of them by name. Cast to the input's
                dtype as NumPy's "same_kind" rule allows, integers only if they fit. An
                input of quantized integers takes its own dtype, or floats, which are
                quantized.
            width: One of `widths`, up to the rounding in its name. `None` to choose:
                see the class. A choice holds for all samples of a call.

        Returns:
            Array `(n, ...)` of the output's dtype, float32 in place of quantized
            integers; if there are several outputs, a dict of them by name.

        Raises:
            TypeError: If `width` is not a number, or `x` does not fit a dtype.
            ValueError: If the file does not have `width`, names or shapes do not fit,
                there is NaN to quantize, or for photos the file does not say how
                pixels become inputs.
            RuntimeError: If LiteRT fails.
        """
        width = self.width if width is None else self._file.find_width(width)
        signature = self._file.by_width[width]
        if are_photos(x):
            x = self._read(x if isinstance(x, list | tuple) else [x])
        x = in_order(x, signature, self._file.input_names)
        outputs = signature.run(x, lambda sample: self._timed(width, sample))
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def top(
        self, photo: Any, k: int = 5, width: float | None = None
    ) -> list[tuple[str, float]]:
        """Names the most likely classes of a photo.

        Args:
            photo: Path of a file, or a `PIL.Image.Image`.
            k: How many classes to name, at least 1.
            width: See `run`.

        Returns:
            `(label, probability)` of at most `k` classes, the most likely first; where
            the file has no labels, numbers of classes as text. Logits are turned into
            probabilities.

        Raises:
            TypeError: See `run`; also if `k` is not an integer.
            ValueError: See `run`; also if the photo cannot be read, or the file has
                other outputs than scores `(1, classes)`.
            OSError: If the photo cannot be read.
        """
        check_integer(k, "k", 1)
        scores = self.run(self._read([photo]), width)
        if isinstance(scores, dict) or scores.ndim != 2:
            raise ArgumentError(
                "`top` needs a file with one output of scores, (1, classes). Received: "
                f"{[(y.name, y.shape) for y in self._widest.outputs]}. Use `run`."
            )
        (output,) = self._widest.outputs
        return ranked(scores[0], self.labels, k, self._file.scores_of(output.name))

    @property
    def _widest(self) -> Signature:
        return self._file.by_width[self.widths[-1]]

    def _read(self, photos: Sequence[Any]) -> Any:
        """Photos as the file takes them."""
        if len(self._widest.inputs) != 1:
            raise ArgumentError(
                "Photos need a file with one input. Received: a file with the inputs "
                f"{[tensor.name for tensor in self._widest.inputs]}. Give a dict of "
                "arrays."
            )
        (tensor,) = self._widest.inputs
        return photos_to_inputs(photos, tensor, self._file.pixels_of(tensor.name))

    def _timed(self, width: float, sample: Sample) -> Sample:
        """Runs one sample, alone among the threads, and notes how long it took."""
        with self._lock:
            start = perf_counter()
            outputs = self._invoke(width, sample)
            self._last_ms = 1000 * (perf_counter() - start)
            self._policy.observe(width, self._last_ms)
        return outputs

    def _invoke(self, width: float, sample: Sample) -> Sample:
        return self._file.by_width[width].invoke(sample)
