"""Runs a file of several widths, at a chosen width or within a latency budget."""

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
    """Runs a TFLite file of one or several widths; each call may take another width.

    The class needs LiteRT, NumPy and Pillow, but no Keras. A file of `export_tflite`
    contains the names of its classes, and says how pixels become inputs, so you can run
    photos directly.

    The widths are the file's signatures `width_025`, `width_062_5` and so on. Without
    `budget_ms`, `run(x)` runs the widest width. With `budget_ms`, it runs the widest
    width whose recent latency is within the budget; see `BudgetPolicy`. A latency is
    that of one sample: copying inputs, one invocation, and copying outputs. Waiting for
    other threads does not count.

    Several threads may call all methods. They take turns for each sample, because
    LiteRT's interpreter runs one sample at a time.

    Args:
        path: The file, or its content as bytes; or a folder with a file for each width,
            from `export_tflite(..., single_file=False)`. The file is mapped into
            memory: do not write into it while it is in use. Replacing the file is safe.
        num_threads: Threads of LiteRT's CPU kernels, at least 1.
        budget_ms: Longest wanted latency for one sample, in ms. `None` sets no limit.
            You may set the attribute at any time.
        warm_up: Number of first runs of each width that do not count for its latency.
        report: Report of `awn benchmark` for this file, or the path of its JSON. With
            `budget_ms`, the first width is then the widest width within the budget in
            the report, whatever its accuracy, instead of the narrowest width. Only rows
            for a CPU with `num_threads` are used, those of this machine if there are
            any.

    Attributes:
        widths: The widths of the file, ascending.
        labels: The names of the classes; empty if the file has none.
        metadata: The file's manifest, `awn.json`; empty if the file has none. The
            `metadata` of `export_tflite` is its entry of this name.

    Raises:
        TypeError: If `path` is neither a path nor bytes, or if a number has the wrong
            type.
        ValueError: If `path` is not a TFLite file, if it has no signature of a width,
            if a signature's batch size is not 1 or its shapes are not fixed, if a
            number is out of range, or if `report` has no matching row for this file.
        OSError: If a file cannot be read.

    Examples:
        >>> interpreter = AnyWidthInterpreter("net.tflite", budget_ms=5.0)
        >>> interpreter.widths
        (0.25, 0.5, 0.75, 1.0)
        >>> scores = interpreter.run(image[None], width=0.5)  # (1, classes)
        >>> interpreter.top("photo.jpg", k=2)
        [('cat', 0.93), ('fox', 0.05)]
        >>> for image in camera:
        ...     scores = interpreter.run(image[None])  # 5 ms or less, if possible
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
        """Longest wanted latency for one sample, in ms, or `None`.

        Raises:
            TypeError: If you set a value that is not a number.
            ValueError: If you set a number that is not above 0.
        """
        return self._policy.budget_ms

    @budget_ms.setter
    def budget_ms(self, budget_ms: float | None) -> None:
        with self._lock:
            self._policy.budget_ms = budget_ms

    @property
    def latency_ms(self) -> dict[float, float | None]:
        """Latency of each width in ms.

        Before a width has run, its latency in `report`, or `None`.
        """
        with self._lock:
            return self._policy.latency_ms

    @property
    def last_ms(self) -> float | None:
        """Latency of the last sample in ms; `None` before the first sample."""
        return self._last_ms

    @property
    def width(self) -> float:
        """The width that `run` takes next, if you give none."""
        with self._lock:
            return self._policy.choose()

    @property
    def within_budget(self) -> bool:
        """Whether the last latency of `width` is within the budget.

        False if the narrowest width is too slow, or while a slow width is retried.
        """
        with self._lock:
            return self._policy.within_budget

    def run(self, x: Any, width: float | None = None) -> Any:
        """Computes the outputs of some samples.

        Args:
            x: One of:

                - a photo (a `PIL.Image.Image` of any size) or a list of photos. Each
                  photo is scaled to the size of the input and normalized as the file
                  says;
                - an array of samples `(n, ...)`, which are run one by one;
                - for several inputs, a list of arrays in the order of the model's
                  inputs (which an exported file stores), or a dict of arrays by name.

                Arrays are cast to the input's dtype by NumPy's "same_kind" rule;
                integers only if their values fit. A quantized input takes its integer
                dtype, or floats, which are quantized.
            width: One of `widths`, up to the rounding in its name. `None` chooses a
                width as described for the class, once for all samples of the call.

        Returns:
            Array `(n, ...)` of the output's dtype. Quantized outputs become float32. If
            there are several outputs, a dict of arrays by name.

        Raises:
            TypeError: If `width` is not a number, or if `x` does not fit a dtype.
            ValueError: If the file does not have `width`, if names or shapes do not
                fit, if NaN would have to be quantized, or, for photos, if the file does
                not say how pixels become inputs.
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
            k: Number of classes to name, at least 1.
            width: See `run`.

        Returns:
            A list of at most `k` pairs `(label, probability)`, the most likely class
            first. If the file has no labels, labels are class numbers as text. Logits
            are converted to probabilities.

        Raises:
            TypeError: See `run`; also if `k` is not an integer.
            ValueError: See `run`; also if `k` is below 1, if the photo is damaged, or
                if the outputs of the file are not scores `(1, classes)`.
            OSError: If the photo cannot be opened.
        """
        check_integer(k, "k", 1)
        scores = self.run(self._read([photo]), width)
        if isinstance(scores, dict) or scores.ndim != 2:
            raise ArgumentError(
                "`top` needs a file with one output of scores, (1, classes). For other "
                "outputs, use `run`. Received: "
                f"{[(y.name, y.shape) for y in self._widest.outputs]}"
            )
        (output,) = self._widest.outputs
        return ranked(scores[0], self.labels, k, self._file.scores_of(output.name))

    @property
    def _widest(self) -> Signature:
        return self._file.by_width[self.widths[-1]]

    def _read(self, photos: Sequence[Any]) -> Any:
        """Reads photos as inputs of the file."""
        if len(self._widest.inputs) != 1:
            raise ArgumentError(
                "Photos need a file with one input. For several inputs, give a dict of "
                "arrays. Received: a file with the inputs "
                f"{[tensor.name for tensor in self._widest.inputs]}"
            )
        (tensor,) = self._widest.inputs
        return photos_to_inputs(photos, tensor, self._file.pixels_of(tensor.name))

    def _timed(self, width: float, sample: Sample) -> Sample:
        """Runs one sample while other threads wait, and records its latency."""
        with self._lock:
            start = perf_counter()
            outputs = self._invoke(width, sample)
            self._last_ms = 1000 * (perf_counter() - start)
            self._policy.observe(width, self._last_ms)
        return outputs

    def _invoke(self, width: float, sample: Sample) -> Sample:
        return self._file.by_width[width].invoke(sample)
