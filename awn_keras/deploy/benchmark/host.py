"""Benchmarks of a TFLite file on this machine: CPU, and the GPU if there is one."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.deploy.benchmark.costs import Costs, costs_of
from awn_keras.deploy.benchmark.report import (
    Failure,
    Report,
    Row,
    spread_of,
    statistics_of,
)
from awn_keras.deploy.checks import check_integer
from awn_keras.deploy.engine import EngineError, EngineResult, run_apart
from awn_keras.deploy.gpu import check_gpu_run, why_no_gpu
from awn_keras.deploy.litert import (
    TFLiteFile,
    TFLiteFolder,
    open_tflite,
    precision_of,
)
from awn_keras.deploy.progress import Progress
from awn_keras.environment import this_machine
from awn_keras.errors import ArgumentError
from awn_keras.widths import check_widths, find_width

HOST_TARGETS = ("cpu", "gpu")


@dataclass(frozen=True)
class Subject:
    """A file to measure.

    Args:
        path: Path of the file.
        file: The file, already read.
        widths: The width of each signature to measure, by signature. `None` if the name
            of the signature has no width.
        accuracy: Accuracy by signature, for the signatures whose accuracy is known.
    """

    path: Path
    file: TFLiteFile
    widths: Mapping[str, float | None]
    accuracy: Mapping[str, float]

    @classmethod
    def of(
        cls,
        path: str | Path,
        widths: Sequence[float] | None = None,
        accuracy: Mapping[str, float] | None = None,
    ) -> Subject:
        """Reads a file.

        Args:
            path: A TFLite file.
            widths: Widths of the file to measure. `None` measures all widths. If no
                name of a signature has a width, all signatures are measured.
            accuracy: Accuracy by signature.

        Raises:
            ValueError: If `path` is not a TFLite file, or if the file has no signatures
                or lacks one of `widths`.
            OSError: If the file cannot be read.
        """
        path = Path(path)
        file = TFLiteFile(path)
        known = {name: signature.width for name, signature in file.signatures.items()}
        by_width = {name: width for name, width in known.items() if width is not None}
        chosen: dict[str, float | None] = dict(by_width or known)
        if widths is not None:
            checked = check_widths(widths)
            missing = [w for w in checked if find_width(w, by_width.values()) is None]
            if missing:
                raise ArgumentError(
                    f"`widths` must be widths of '{path}': "
                    f"{sorted(by_width.values())}. Choose from these, or export the "
                    f"file again with further widths. Received: {sorted(missing)}"
                )
            chosen = {
                name: width
                for name, width in by_width.items()
                if find_width(width, checked) is not None
            }
        return cls(path, file, chosen, dict(accuracy or {}))

    # Cached, because each repetition asks again and a file may have tens of megabytes.
    @functools.cached_property
    def _costs(self) -> dict[str, Costs]:
        return costs_of(self.file)

    @functools.cached_property
    def _precision(self) -> str | None:
        return precision_of(self.path)

    def fields_of(self, signature: str) -> dict[str, Any]:
        """The fields of a `Row` that come from the file and not from a measurement."""
        costs = self._costs[signature]
        return {
            "width": self.widths[signature],
            "signature": signature,
            "file": self.path.name,
            "sha256": self.file.sha256,
            "file_bytes": len(self.file.content),
            "macs": costs.macs,
            "parameters": costs.parameters,
            "activation_bytes": costs.activation_bytes,
            "nodes": costs.operators,
            "accuracy": self.accuracy.get(signature),
            "precision": self._precision,
        }


def benchmark_tflite(
    path: str | Path,
    *,
    targets: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    widths: Sequence[float] | None = None,
    runs: int = 50,
    warm_up: int = 5,
    min_seconds: float = 0.3,
    repeats: int = 5,
    accuracy: Mapping[str, float] | None = None,
    timeout: float = 600,
    on_progress: Callable[[Report], None] | None = None,
    verbose: int | str = "auto",
) -> Report:
    """Measures the latency of each width of a TFLite file on this machine.

    Each measurement runs in a separate process. Each repetition measures the widths in
    another random order, so that a slow-down of the machine favours no width.

    Args:
        path: The file.
        targets: `"cpu"` (XNNPACK) and `"gpu"` (LiteRT's engine, in float32), or one of
            them.
        threads: Numbers of threads of the CPU's engine, each at least 1.
        widths: Widths of the file to measure. `None` measures all.
        runs: Number of timed runs in each repetition, at least 1. A run copies the
            inputs, invokes the signature, and copies the outputs.
        warm_up: Number of untimed runs before them, at least 0.
        min_seconds: Shortest duration of a repetition, in seconds. If `runs` take less
            time, further runs are timed.
        repeats: Number of repetitions, at least 1.
        accuracy: Accuracies by signature, to include in the report; see `accuracies`.
        timeout: Longest duration of a measurement, in seconds.
        on_progress: Function that is called with the report after each row and each
            failure, for example to save it.
        verbose: Whether to print a line for each repetition; see `export_tflite`.

    Returns:
        The report: a row for each measured width, target and number of threads, and the
        failures.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If `path` is not a TFLite file, or if an argument is out of range.
        OSError: If the file cannot be read.
    """
    check_counts(runs, warm_up, repeats, threads)
    unknown = sorted(set(targets) - set(HOST_TARGETS))
    if unknown or not targets:
        raise ArgumentError(
            f"`targets` must be of {HOST_TARGETS}. Received: {list(targets)}"
        )
    check_seconds(min_seconds, "min_seconds")
    check_seconds(timeout, "timeout")
    progress = Progress(verbose)
    subject = Subject.of(path, widths, accuracy)
    how = {
        "warm_up": warm_up,
        "runs": runs,
        "min_seconds": min_seconds,
        "timeout": timeout,
    }
    bench = _Bench(subject, how, on_progress or (lambda _: None))
    arms = [("cpu", count) for count in threads] if "cpu" in targets else []
    if "gpu" in targets and bench.has_gpu():
        arms.append(("gpu", 1))
    tasks = [(signature, *arm) for signature in subject.widths for arm in arms]
    order = random.Random(0)  # the same at each call
    progress.begin(repeats)
    for _ in range(repeats):
        order.shuffle(tasks)
        for task in tasks:
            bench.measure(*task)
        progress.done(f"repetition of {subject.path.name} here")
    return bench.report


def check_counts(runs: int, warm_up: int, repeats: int, threads: Sequence[int]) -> None:
    """Checks counts.

    Raises:
        TypeError: If a count is not an integer.
        ValueError: If a count is too small.
    """
    for name, value, least in (
        ("runs", runs, 1),
        ("warm_up", warm_up, 0),
        ("repeats", repeats, 1),
        *(("threads", count, 1) for count in threads),
    ):
        check_integer(value, name, least)


def check_seconds(value: float, name: str) -> None:
    """Checks a duration.

    Raises:
        ValueError: If it is negative or NaN.
    """
    if not value >= 0:
        raise ArgumentError(f"`{name}` must not be negative. Received: {name}={value}")


def accuracies(
    path: str | Path | TFLiteFile | TFLiteFolder,
    images: np.ndarray,
    labels: np.ndarray,
    widths: Sequence[float] | None = None,
) -> dict[str, float]:
    """Measures the accuracy of each width of a file by running it.

    Args:
        path: A file with an output of scores, `(1, classes)`: open, or its path. Or a
            folder with a file for each width.
        images: Inputs of the file, `(n, ...)`.
        labels: Integer classes, `(n,)`.
        widths: Widths of the file to run. `None` runs all.

    Returns:
        A dict from signatures to accuracies in [0, 1].

    Raises:
        ValueError: If the file, the inputs or the labels do not fit; see
            `AnyWidthInterpreter`.
        OSError: If the file cannot be read.
    """
    file = open_tflite(path) if isinstance(path, str | Path) else path
    labels = np.asarray(labels)
    known = list(file.by_width) if widths is None else map(file.find_width, widths)
    accuracy = {}
    for width in known:
        signature = file.by_width[width]
        shapes = [output.shape for output in signature.outputs]
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] <= labels.max():
            raise ArgumentError(
                f"'{file.name}' must have one output of scores, (1, classes), for "
                f"labels up to {labels.max()}. Received: outputs "
                f"{', '.join(map(str, shapes))}"
            )
        (scores,) = signature.run(images).values()
        accuracy[signature.name] = float(np.mean(scores.argmax(1) == labels))
    return accuracy


class _Bench:
    """The measurements of a file on this machine, and the report of them."""

    def __init__(
        self,
        subject: Subject,
        how: dict[str, Any],
        on_progress: Callable[[Report], None],
    ) -> None:
        self.report = Report()
        self._subject, self._how, self._on_progress = subject, how, on_progress
        self._runs: dict[tuple[str, str, int], list[EngineResult]] = {}
        self._failed: set[tuple[str, str, int]] = set()
        self._reference: dict[str, tuple[np.ndarray, ...]] = {}
        rng = np.random.default_rng(0)
        self._inputs = {
            name: [
                rng.random(tensor.shape).astype(tensor.dtype)
                if tensor.dtype.kind == "f"
                else rng.integers(0, 2, tensor.shape).astype(tensor.dtype)
                for tensor in signature.inputs
            ]
            for name, signature in subject.file.signatures.items()
        }
        self._here = _here()

    def has_gpu(self) -> bool:
        """Whether LiteRT's GPU engine works; if not, adds the reason to the report."""
        why = why_no_gpu()
        if why is not None:
            self._fail("gpu", None, None, why)
        return why is None

    def measure(self, signature: str, target: str, threads: int) -> None:
        """Measures one repetition, and replaces the row by that of all repetitions."""
        task = (signature, target, threads)
        if task in self._failed:
            return
        try:
            run = self._run(signature, target, threads)
        except EngineError as error:
            self._failed.add(task)
            self._fail(target, signature, threads, str(error))
            return
        self._runs.setdefault(task, []).append(run)
        self.report.put(self._row(*task))
        self._on_progress(self.report)

    def _run(self, signature: str, target: str, threads: int) -> EngineResult:
        run = run_apart(
            self._subject.file.content,
            self._inputs[signature],
            signature,
            gpu=target == "gpu",
            num_threads=threads,
            **self._how,
        )
        if target == "gpu":
            check_gpu_run(run, signature)
        elif not run.outputs:
            last = run.log.strip().rsplit("\n", 1)[-1]
            raise EngineError(f"LiteRT ended with status {run.status}: {last}")
        return run

    def _row(self, signature: str, target: str, threads: int) -> Row:
        runs = self._runs[signature, target, threads]
        medians = [float(np.median(run.ms)) for run in runs]
        memory = [run.memory_mb for run in runs if run.memory_mb is not None]
        return Row(
            target=target,
            threads=threads,
            **statistics_of([ms for run in runs for ms in run.ms]),
            warm_up=self._how["warm_up"],
            spread=spread_of(medians),
            init_ms=float(np.median([run.init_ms for run in runs])),
            memory_mb=max(memory, default=None),
            fully_accelerated=runs[0].fully_accelerated,
            largest_error=self._error(signature, runs[0]) if target == "gpu" else None,
            **self._subject.fields_of(signature),
            **self._here,
        )

    def _error(self, signature: str, run: EngineResult) -> float | None:
        """Largest difference from the CPU's outputs; `None` if the CPU engine fails."""
        if signature not in self._reference:
            try:
                run_on_cpu = run_apart(
                    self._subject.file.content,
                    self._inputs[signature],
                    signature,
                    timeout=self._how["timeout"],
                )
            except EngineError:
                return None
            self._reference[signature] = run_on_cpu.outputs
        reference = self._reference[signature]
        errors = [
            float(np.abs(output - expected).max())
            for output, expected in zip(run.outputs, reference, strict=False)
        ]
        return max(errors, default=None)

    def _fail(
        self, target: str, signature: str | None, threads: int | None, message: str
    ) -> None:
        line = " ".join(message.split())
        place = {"file": self._subject.path.name, "device": self._here["device"]}
        self.report.failures.append(Failure(target, signature, threads, line, **place))
        self._on_progress(self.report)


def _here() -> dict[str, Any]:
    """The fields of a `Row` that describe this machine."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        clock: str | None = governor.read_text().strip()
    except OSError:
        clock = None
    return {
        "device": this_machine(),
        "litert": version("ai-edge-litert"),
        "governor": clock,
    }
