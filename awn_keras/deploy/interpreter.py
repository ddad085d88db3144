"""A file of several widths at run time: switch freely, or keep to a deadline."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import median
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from awn_keras.deploy.signatures import signature_width
from awn_keras.environment import this_machine
from awn_keras.widths import check_width, width_label

if TYPE_CHECKING:
    from awn_keras.deploy.benchmark.report import Report

# A median needs three slow runs of five to call a width slow: a pause of the system
# does not move it, as it would a mean, and it does not lag as a long average does.
WINDOW = 5
ENOUGH = WINDOW // 2 + 1
MARGIN = 0.9
PATIENCE = 5
RETRY_AFTER = 50
LONGEST_RETRY = 64 * RETRY_AFTER


class BudgetPolicy:
    """Which width to run next, from the latencies of the runs so far.

    - The latency of a width is the median of its last 5 runs; its first `warm_up`
      runs do not count. A width is judged from 3 runs on, counted anew whenever it
      is taken up.
    - It begins with `start`, or the narrowest width. A width slower than the budget is
      left at once for the widest narrower one that is not known to be too slow.
    - A wider width is taken up once it has been expected to need at most 90 % of the
      budget for 5 runs in a row. Expected is what it last took, times what the
      width in use takes now over what that took then; if it was never run, what a
      straight line through the two widths below it gives.
    - The wider width that is expected to be fastest is tried whatever is expected
      after 50 runs, then 100, 200, up to 3200, until it has held for as long as that:
      a slow-down need not be alike at all widths.
    - If the narrowest width is too slow, it stays, and `within_budget` tells.

    So at constant latencies, longer for wider widths, it settles on a width that
    meets the budget, if there is one, and the next wider one needs more than 90 % of
    it. It has no clock and no lock, and counts in runs.

    Args:
        widths: The widths, ascending.
        budget_ms: Longest latency wanted, in ms, or `None` for no limit.
        warm_up: Number of first runs of each width that do not count.
        start: The width to begin with; `None` for the narrowest.
        measured: Latencies known before, in ms by width. They count as what the widths
            took last, until they run.

    Raises:
        TypeError: If `budget_ms` is not a number, or `warm_up` not an integer.
        ValueError: If `budget_ms` is not positive, `warm_up` negative, or `start` not
            one of the widths.
    """

    def __init__(
        self,
        widths: Sequence[float],
        budget_ms: float | None = None,
        *,
        warm_up: int = 3,
        start: float | None = None,
        measured: Mapping[float, float] | None = None,
    ) -> None:
        check_integer(warm_up, "warm_up", 0)
        self.widths = tuple(widths)
        count = len(self.widths)
        self._cold = [warm_up] * count
        self._recent = [deque[float](maxlen=WINDOW) for _ in self.widths]
        self._latency: list[float | None] = [None] * count
        # What width i took when width j was last run, under (i, j).
        self._then: dict[tuple[int, int], float] = {}
        self._wait = [RETRY_AFTER] * count
        self._budget: float | None = None
        if start is not None and start not in self.widths:
            raise ValueError(
                f"`start` must be one of {list(self.widths)}. Received: start={start}"
            )
        known = measured or {}
        for i, width in enumerate(self.widths):
            self._latency[i] = known.get(width)
            for other in set(known) - {width}:
                if width in known:
                    self._then[i, self.widths.index(other)] = known[width]
        self._enter(0 if start is None else self.widths.index(start))
        if start is None:
            self.budget_ms = budget_ms
        else:
            self._budget = _check_budget(budget_ms)

    @property
    def budget_ms(self) -> float | None:
        """Longest latency wanted, in ms, or `None`; what is known decides anew."""
        return self._budget

    @budget_ms.setter
    def budget_ms(self, budget_ms: float | None) -> None:
        self._budget = budget = _check_budget(budget_ms)
        if budget is None:
            return
        fitting = [] if self._is_judged(self._now) else [self._now]
        for i, latency in enumerate(self._latency):
            limit = budget if i == self._now else MARGIN * budget
            if latency is not None and latency <= limit:
                fitting.append(i)
        best = max(fitting, default=0)
        if best != self._now:
            self._enter(best)

    @property
    def latency_ms(self) -> dict[float, float | None]:
        """Median of the last runs of each width, in ms; `None` if not measured."""
        return dict(zip(self.widths, self._latency, strict=True))

    @property
    def within_budget(self) -> bool:
        """Whether the chosen width meets the budget, by what it took last."""
        latency = self._latency[self._now]
        return self._budget is None or latency is None or latency <= self._budget

    def choose(self) -> float:
        """Returns the width to run next: the widest, if there is no budget."""
        return self.widths[-1 if self._budget is None else self._now]

    def observe(self, width: float, ms: float) -> None:
        """Takes note of a run, of the chosen width or of another one.

        Args:
            width: One of the widths.
            ms: How long one sample took, in ms.
        """
        i = self.widths.index(width)
        if self._cold[i]:
            self._cold[i] -= 1
            return
        self._recent[i].append(ms)
        self._latency[i] = latency = median(self._recent[i])
        others = range(len(self.widths))
        for j in others:
            self._then.pop((j, i), None)
        if not self._is_judged(i):
            return
        for j in others:
            self._then.setdefault((i, j), latency)
        if self._budget is None or i != self._now:
            return
        self._runs += 1
        if latency > self._budget and i > 0:
            self._step_down(self._budget)
        else:
            self._step_up(latency, self._budget)

    def _is_judged(self, i: int) -> bool:
        return len(self._recent[i]) >= ENOUGH

    def _enter(self, i: int) -> None:
        self._now = i
        self._runs = self._calm = 0
        self._recent[i].clear()

    def _step_down(self, budget: float) -> None:
        narrower = reversed(list(enumerate(self._latency[: self._now])))
        fitting = (i for i, latency in narrower if latency is None or latency <= budget)
        self._enter(next(fitting, 0))

    def _step_up(self, latency: float, budget: float) -> None:
        if self._runs >= self._wait[self._now]:
            self._wait[self._now] = RETRY_AFTER
        expected = {
            j: self._expected(j, latency)
            for j in range(self._now + 1, len(self.widths))
        }
        fitting = [j for j, ms in expected.items() if ms <= MARGIN * budget]
        self._calm = self._calm + 1 if fitting else 0
        if self._calm >= PATIENCE:
            self._enter(fitting[-1])
        elif expected and not fitting and latency <= budget:
            fastest = min(expected, key=expected.__getitem__)
            if self._runs >= self._wait[fastest]:
                self._wait[fastest] = min(2 * self._wait[fastest], LONGEST_RETRY)
                self._enter(fastest)

    def _expected(self, j: int, latency_now: float) -> float:
        latency = self._latency[j]
        if latency is not None:
            then = self._then[self._now, j]
            return latency * latency_now / then if then else latency
        below = self._latency[j - 1]
        if below is None:
            return inf
        before = self._latency[j - 2] if j > 1 else None
        if before is None:
            return below
        run = (self.widths[j] - self.widths[j - 1]) / (
            self.widths[j - 1] - self.widths[j - 2]
        )
        return below + max(0.0, below - before) * run


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
        check_integer(num_threads, "num_threads", 1)
        interpreter = open_interpreter(path, num_threads)
        names = list(interpreter.get_signature_list())
        found = {
            width: name
            for name in names
            if (width := signature_width(name)) is not None
        }
        if not found:
            raise ValueError(
                "`path` must have a signature for each width, named as "
                f"`width_050`. Received: a file with the signatures {names}. "
                "`awn_keras.deploy` exports such files."
            )
        self.widths: tuple[float, ...] = tuple(sorted(found))
        self._signatures = {
            width: Signature.of(interpreter.get_signature_runner(found[width]))
            for width in self.widths
        }
        start, measured = None, {}
        if report is not None and budget_ms is not None:
            picked, known = _picked(report, path, budget_ms, num_threads)
            start = self._find(picked)
            measured = {self._find(width): ms for width, ms in known.items()}
        self._policy = BudgetPolicy(
            *(self.widths, budget_ms), warm_up=warm_up, start=start, measured=measured
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
        width = self.width if width is None else self._find(width)
        signature = self._signatures[width]
        arrays = signature.encode(x)
        count = len(next(iter(arrays.values())))
        results = {
            y.name: np.empty((count, *y.shape), y.dtype) for y in signature.outputs
        }
        for i in range(count):
            sample = {name: array[i : i + 1] for name, array in arrays.items()}
            with self._lock:
                start = perf_counter()
                row = self._invoke(width, sample)
                self._policy.observe(width, 1000 * (perf_counter() - start))
            for name, result in results.items():
                result[i] = row[name][0]
        decoded = {y.name: y.decode(results[y.name]) for y in signature.outputs}
        return decoded if len(decoded) > 1 else next(iter(decoded.values()))

    def _invoke(
        self, width: float, sample: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        return self._signatures[width].runner(**sample)

    def _find(self, width: float) -> float:
        label = width_label(check_width(width))
        for known in self.widths:
            if width_label(known) == label:
                return known
        raise ValueError(
            f"`width` must be one of the file's widths, {list(self.widths)}. "
            f"Run one of these, or export the file with this one, too: "
            f"`export_tflite(model, path, widths=[..., {width}])`. Received: "
            f"width={width}"
        )


@dataclass(frozen=True)
class Tensor:
    """An input or output, without its batch axis; `scale` is 0 if not quantized."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    zero_point: int

    @classmethod
    def of(cls, name: str, details: Mapping[str, Any]) -> Tensor:
        """From what LiteRT tells; a ValueError if the batch size is not 1."""
        shape = tuple(details["shape_signature"].tolist())
        if shape[:1] not in ((1,), (-1,)) or -1 in shape[1:]:
            raise ValueError(
                "`path` must have signatures of batch size 1 and fixed shapes. "
                f"Received: '{name}' of shape {shape}"
            )
        scale, zero_point = details["quantization"]
        dtype = np.dtype(details["dtype"])
        return cls(name, shape[1:], dtype, float(scale), zero_point)

    def encode(self, x: Any) -> np.ndarray:
        """Checks and casts samples `(n, ...)`."""
        x = np.asarray(x)
        if x.ndim == 0 or x.shape[1:] != self.shape:
            hint = " Add the batch axis: `x[None]`." if x.shape == self.shape else ""
            wanted = ", ".join(map(str, ("n", *self.shape)))
            raise ValueError(
                f"`x` must have the shape ({wanted}) for input '{self.name}'. "
                f"Received: an array of shape {x.shape}.{hint}"
            )
        if self.scale and x.dtype.kind == "f":
            if np.isnan(x).any():
                raise ValueError(
                    f"`x` must not have NaN for the quantized input '{self.name}'."
                )
            limits = np.iinfo(self.dtype)
            steps = np.rint(x / self.scale) + self.zero_point
            return np.clip(steps, limits.min, limits.max).astype(self.dtype)
        fits = x.dtype == self.dtype if self.scale else _can_cast(x, self.dtype)
        if not fits:
            raise TypeError(
                f"`x` must be {self.dtype}{' or floats' * bool(self.scale)} for "
                f"input '{self.name}', or fit into it. Received: an array of "
                f"{x.dtype}"
            )
        return x.astype(self.dtype)

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Turns quantized integers `(n, ...)` into float32, and keeps the rest."""
        if not self.scale:
            return y
        return (y.astype("float32") - self.zero_point) * np.float32(self.scale)


@dataclass(frozen=True)
class Signature:
    """What runs a width, and what it takes and gives."""

    runner: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def of(cls, runner: Any) -> Signature:
        """From LiteRT's runner; a ValueError if the batch size is not 1."""
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        return cls(
            runner,
            tuple(Tensor.of(*item) for item in inputs.items()),
            tuple(Tensor.of(*item) for item in outputs.items()),
        )

    def encode(self, x: Any) -> dict[str, np.ndarray]:
        """Checks and casts the samples for each input."""
        names = [one.name for one in self.inputs]
        if not isinstance(x, Mapping) and len(names) == 1:
            x = {names[0]: x}
        if not isinstance(x, Mapping) or set(x) != set(names):
            received = sorted(x) if isinstance(x, Mapping) else type(x).__name__
            raise ValueError(
                f"`x` must be a dict with an array for each of the inputs {names}. "
                f"Received: {received}"
            )
        arrays = {one.name: one.encode(x[one.name]) for one in self.inputs}
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                "`x` must have the same number of samples for each input. Received: "
                f"{counts}"
            )
        return arrays


def _picked(
    report: Report | str | Path,
    path: str | Path | bytes,
    budget_ms: float,
    num_threads: int,
) -> tuple[float, dict[float, float]]:
    """The width that keeps to the budget by what was measured, and latencies of all."""
    from awn_keras.deploy.benchmark.picker import latency, pick_width
    from awn_keras.deploy.benchmark.report import Report

    if not isinstance(report, Report):
        report = Report.load(report)
    content = path if isinstance(path, bytes) else Path(path).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    rows = [
        # What it runs from then on, it chooses by width and latency alone.
        replace(row, accuracy=None)
        for row in report.rows
        if (row.sha256, row.threads) == (digest, num_threads)
        and row.target.endswith("cpu")
    ]
    if not rows:
        raise ValueError(
            f"`report` must have rows of this file on a CPU with {num_threads} "
            f"threads. Received: {len(report.rows)} rows of other files, targets or "
            "threads. Measure it: `awn benchmark`."
        )
    host = [row for row in rows if row.target == "cpu"]
    rows = [row for row in host if row.device == this_machine()] or host or rows
    picked = pick_width(Report(rows), budget_ms=budget_ms).width
    latencies = {row.width: latency(row, "p90") for row in rows}
    return picked, {w: ms for w, ms in latencies.items() if w and ms is not None}


def open_interpreter(path: str | Path | bytes, num_threads: int) -> Any:
    """Opens LiteRT's interpreter; for errors see `AnyWidthInterpreter`."""
    from ai_edge_litert.interpreter import Interpreter

    if isinstance(path, bytes):
        source: dict[str, Any] = {"model_content": path}
        received = f"{len(path)} bytes"
    elif isinstance(path, str | Path):
        # LiteRT reports what cannot be read as if it were another kind of file.
        Path(path).open("rb").close()
        source = {"model_path": str(path)}
        received = f"path={str(path)!r}"
    else:
        raise TypeError(
            "`path` must be the path of a TFLite file, or its content as bytes. "
            f"Received: path={path!r}"
        )
    try:
        return Interpreter(**source, num_threads=num_threads)
    except ValueError as error:
        raise ValueError(
            f"`path` must be a whole TFLite file. Received: {received}. LiteRT says: "
            f"{error}"
        ) from error


def _can_cast(x: np.ndarray, dtype: np.dtype) -> bool:
    if dtype.kind in "iu" and x.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return not x.size or (limits.min <= x.min() and x.max() <= limits.max)
    return np.can_cast(x.dtype, dtype, "same_kind")


def _check_budget(budget_ms: float | None) -> float | None:
    if budget_ms is None:
        return None
    if isinstance(budget_ms, bool) or not isinstance(
        budget_ms, int | float | np.integer | np.floating
    ):
        raise TypeError(
            "`budget_ms` must be a number of milliseconds, or None for no limit. "
            f"Received: budget_ms={budget_ms!r}"
        )
    if not budget_ms > 0:
        raise ValueError(
            "`budget_ms` must be positive, or None for no limit. Received: "
            f"budget_ms={budget_ms}"
        )
    return float(budget_ms)


def check_integer(value: int, name: str, least: int) -> None:
    """Raises a TypeError if it is not an integer, a ValueError if it is too small."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an integer. Received: {name}={value!r}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}. Received: {name}={value}")
