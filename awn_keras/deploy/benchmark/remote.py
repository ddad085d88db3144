"""Benchmarks of a TFLite file on a phone or board, with LiteRT's benchmark_model."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from awn_keras.deploy.benchmark.benchmark_model import (
    BenchmarkModelError,
    Printed,
    command,
    fields_of,
    parse,
    reason,
)
from awn_keras.deploy.benchmark.devices import (
    Device,
    DeviceError,
    DeviceTimeoutError,
    check_program,
    find_program,
)
from awn_keras.deploy.benchmark.host import Subject, check_counts, check_seconds
from awn_keras.deploy.benchmark.report import Failure, Report, Row
from awn_keras.deploy.progress import Progress
from awn_keras.errors import ArgumentError

#: Processors of a device.
UNITS = ("cpu", "gpu")


def benchmark_device(
    path: str | Path,
    device: Device,
    program: str | Path | None = None,
    *,
    units: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    widths: Sequence[float] | None = None,
    runs: int = 50,
    warm_up: int = 5,
    min_seconds: float = 0.3,
    repeats: int = 3,
    cooldown: float = 0.0,
    accuracy: Mapping[str, float] | None = None,
    timeout: float = 300,
    on_progress: Callable[[Report], None] | None = None,
    verbose: int | str = "auto",
) -> Report:
    """Measures the latency of each width of a TFLite file on a device.

    The file and the program are copied to a new folder on the device, which is removed
    at the end. Nothing else on the device changes. Each repetition measures the widths
    in another random order. If the connection to the device breaks, the report keeps
    the measurements so far.

    Args:
        path: The file, on this machine.
        device: A device from `adb_devices`, or an `SshDevice`.
        program: LiteRT's `benchmark_model` for the device, on this machine. `None`
            takes the program that litert-cli has downloaded; see `find_program`.
        units: `"cpu"` (XNNPACK) and `"gpu"` (the GPU delegate), or one of them. The
            report has targets such as `"android-gpu"`.
        threads: Numbers of threads of the CPU's engine, each at least 1.
        widths: Widths of the file to measure. `None` measures all.
        runs: Number of timed runs in each repetition, at least 1.
        warm_up: Number of untimed runs before them. At least one is made.
        min_seconds: Shortest duration of a repetition, in seconds. If `runs` take less
            time, further runs are timed.
        repeats: Number of repetitions, at least 1.
        cooldown: Pause in seconds before each repetition, which keeps the device cool.
        accuracy: Accuracies by signature, to include in the report.
        timeout: Longest duration of a repetition, in seconds.
        on_progress: Function that is called with the report after each row and each
            failure, for example to save it.
        verbose: Whether to print a line for each repetition; see `export_tflite`.

    Returns:
        The report.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If `path` is not a TFLite file, or if an argument is out of range.
        OSError: If the file or the program cannot be read.
    """
    check_counts(runs, warm_up, repeats, threads)
    if not units or set(units) - set(UNITS):
        raise ArgumentError(f"`units` must be of {UNITS}. Received: {list(units)}")
    check_seconds(cooldown, "cooldown")
    check_seconds(min_seconds, "min_seconds")
    check_seconds(timeout, "timeout")
    progress = Progress(verbose)
    subject = Subject.of(path, widths, accuracy)
    bench = _Bench(subject, device, on_progress or (lambda _: None))
    arms = [("cpu", count) for count in threads] if "cpu" in units else []
    arms += [("gpu", 1)] if "gpu" in units else []
    tasks = [(signature, *arm) for signature in subject.widths for arm in arms]
    order = random.Random(0)  # the same at each call
    try:
        bench.look_at_device()
        program = find_program(device) if program is None else Path(program)
        check_program(program, device.machine())
        with device.folder() as folder:
            there = f"{folder}/benchmark_model"
            device.push(program, there)
            device.push(Path(path), f"{folder}/model.tflite")
            device.run(["chmod", "755", there])
            progress.begin(repeats)
            for _ in range(repeats):
                order.shuffle(tasks)
                for signature, unit, count in tasks:
                    time.sleep(cooldown)
                    words = command(
                        there,
                        f"{folder}/model.tflite",
                        signature,
                        gpu=unit == "gpu",
                        threads=count,
                        runs=runs,
                        warm_up=warm_up,
                        min_seconds=min_seconds,
                    )
                    bench.measure(words, signature, unit, count, timeout)
                progress.done(f"repetition of {subject.path.name} on {device.name}")
    except DeviceError as error:
        bench.fail(None, None, None, str(error))
    return bench.report


class _Bench:
    """The measurements of a file on a device, and the report of them."""

    def __init__(
        self, subject: Subject, device: Device, on_progress: Callable[[Report], None]
    ) -> None:
        self.report = Report()
        self._subject, self._device = subject, device
        self._on_progress = on_progress
        self._printed: dict[tuple[str, str, int], list[Printed]] = {}
        self._failed: set[tuple[str, str, int]] = set()
        self._about: dict[str, Any] = {}

    def look_at_device(self) -> None:
        self._about = {**self._device.describe(), "litert": "benchmark_model"}

    def measure(
        self,
        words: Sequence[str],
        signature: str,
        unit: str,
        threads: int,
        timeout: float,
    ) -> None:
        """Measures one repetition, and replaces the row by that of all repetitions."""
        task = (signature, unit, threads)
        if task in self._failed:
            return
        state = self._device.state()
        try:
            answer = self._device.run(words, timeout)
            if answer.status:
                raise BenchmarkModelError(_ended(answer.status, answer.text))
            printed = parse(
                answer.text,
                gpu=unit == "gpu",
                signature=signature,
                subgraph=self._subject.file.subgraph_of(signature),
            )
        except DeviceTimeoutError as error:
            self._device.stop(words[0])
            self._failed.add(task)
            self.fail(unit, signature, threads, f"benchmark_model hangs: {error}")
            return
        except BenchmarkModelError as error:
            self._failed.add(task)
            self.fail(unit, signature, threads, str(error))
            return
        self._printed.setdefault(task, []).append(printed)
        self.report.put(
            Row(
                target=f"{self._device.kind}-{unit}",
                threads=threads,
                thermal=state,
                **self._subject.fields_of(signature),
                **fields_of(self._printed[task]),
                **self._about,
            )
        )
        self._on_progress(self.report)

    def fail(
        self,
        unit: str | None,
        signature: str | None,
        threads: int | None,
        message: str,
    ) -> None:
        target = self._device.kind + (f"-{unit}" if unit else "")
        line = " ".join(message.split())
        place = {
            "file": self._subject.path.name,
            "device": self._about.get("device", self._device.name),
        }
        self.report.failures.append(Failure(target, signature, threads, line, **place))
        self._on_progress(self.report)


#: Ends of a program by the exit status that a shell reports, 128 plus the signal.
_SIGNALS = {134: "aborted", 135: "had a bus error", 137: "was killed", 139: "crashed"}


def _ended(status: int, text: str) -> str:
    how = _SIGNALS.get(status, f"ended with status {status}")
    return f"benchmark_model {how}: {reason(text)}"
