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
        path: Where it is.
        file: The file, open.
        widths: The width of each signature to measure; `None` for a signature that is
            not called after one.
        accuracy: Accuracy by signature, as far as it is known.
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
            widths: Those of its widths to measure. `None` for all; if no signature is
                called after a width, all signatures.
            accuracy: Accuracy by signature.

        Raises:
            ValueError: If it is not a TFLite file, has no signatures, or not a width.
            OSError: If it cannot be read.
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
                    f"`widths` must be widths of '{path}', {sorted(by_width.values())}."
                    " Name some of these, or export the file with the others, too. "
                    f"Received: {sorted(missing)}"
                )
            chosen = {
                name: width
                for name, width in by_width.items()
                if find_width(width, checked) is not None
            }
        return cls(path, file, chosen, dict(accuracy or {}))

    # Read once, and not for each repetition: a file may have tens of megabytes.
    @functools.cached_property
    def _costs(self) -> dict[str, Costs]:
        return costs_of(self.file)

    @functools.cached_property
    def _precision(self) -> str | None:
        return precision_of(self.path)

    def fields_of(self, signature: str) -> dict[str, Any]:
        """Fields of a `Row` that no measurement gives."""
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
    """Measures each width of a TFLite file on this machine.

    Each measurement has a process of its own. Widths come in random order, and again in
    another one for each repetition, so that a machine that slows down favours none.

    Args:
        path: The file.
        targets: `"cpu"` (XNNPACK), `"gpu"` (LiteRT's engine, in float32).
        threads: Numbers of threads of the CPU's engine, each at least 1.
        widths: Those of the file's widths to measure. `None` for all.
        runs: Timed runs in each repetition, at least 1. A run copies an input in, runs,
            and copies the results out.
        warm_up: Runs before them.
        min_seconds: More runs are timed, until a repetition has taken so long: some
            hundred short ones say little about a machine.
        repeats: Repetitions, at least 1.
        accuracy: Accuracy by signature, to be reported beside; see `accuracies`.
        timeout: Seconds that a measurement may take.
        on_progress: Called with the report after each row and each failure, to save it.
        verbose: Whether to print a line for each repetition; see `export_tflite`.

    Returns:
        The report: a row for each width, target and number of threads that could be
        measured, and what failed.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is not a TFLite file, or an argument is out of range.
        OSError: If it cannot be read.
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
    """Raises a TypeError or a ValueError if one is no integer, or too small."""
    for name, value, least in (
        ("runs", runs, 1),
        ("warm_up", warm_up, 0),
        ("repeats", repeats, 1),
        *(("threads", count, 1) for count in threads),
    ):
        check_integer(value, name, least)


def check_seconds(value: float, name: str) -> None:
    """Raises a ValueError if it is negative, or no number."""
    if not value >= 0:
        raise ArgumentError(f"`{name}` must not be negative. Received: {name}={value}")


def accuracies(
    path: str | Path | TFLiteFile | TFLiteFolder,
    images: np.ndarray,
    labels: np.ndarray,
    widths: Sequence[float] | None = None,
) -> dict[str, float]:
    """Accuracy of each width of a file, by running it.

    Args:
        path: The file, or where it is; its output is scores, `(1, classes)`. Or the
            folder of files for a width each.
        images: Inputs `(n, ...)`, as the file takes them.
        labels: Integer classes, `(n,)`.
        widths: Those of the file's widths to run. `None` for all.

    Returns:
        Accuracy in [0, 1] by signature.

    Raises:
        ValueError: If the file, the inputs or the labels do not fit; see
            `AnyWidthInterpreter`.
        OSError: If it cannot be read.
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
    """What is measured so far."""

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
        """Whether there is one; if not, the report says so."""
        why = why_no_gpu()
        if why is not None:
            self._fail("gpu", None, None, why)
        return why is None

    def measure(self, signature: str, target: str, threads: int) -> None:
        """One repetition; the row is made anew of all so far."""
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
        """How far outputs are from the CPU's, if that can run the file."""
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
    """Fields of a `Row` that tell of this machine."""
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
