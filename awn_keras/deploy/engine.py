"""One signature of a TFLite file, run by LiteRT in a process of its own.

So a crash, or memory that runs out, costs one measurement and not the program; memory
is that of this file alone; and what LiteRT and drivers write to stderr can be read. The
process is this file run as a program: it needs no TensorFlow.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class EngineError(RuntimeError):
    """LiteRT fails on a file."""


class EngineTimeoutError(EngineError):
    """The process was not done in time."""


@dataclass(frozen=True)
class EngineResult:
    """What the process left.

    Args:
        status: Its exit status: 0 if it ended well, negative for a signal.
        log: What it wrote to stderr.
        outputs: For each output an array `(n, ...)`, in the order of names. Empty, with
            the rest, if the process failed or left nothing.
        fully_accelerated: Whether the engine asked for runs all operators, of all the
            signatures of the file.
        init_ms: Milliseconds to load the file and prepare it, to the end of a first
            run.
        ms: Milliseconds of each timed run: an input copied in, one run, the results
            copied out.
        memory_mb: By how much the process grew at its largest, in MB, since before the
            file was loaded; `None` where the system does not tell.
    """

    status: int
    log: str
    outputs: tuple[np.ndarray, ...] = ()
    fully_accelerated: bool = False
    init_ms: float = 0.0
    ms: tuple[float, ...] = ()
    memory_mb: float | None = None


def run_apart(
    content: bytes,
    inputs: Sequence[np.ndarray],
    signature: str,
    *,
    gpu: bool = False,
    enforce_float32: bool = True,
    num_threads: int = 1,
    warm_up: int = 0,
    runs: int = 0,
    min_seconds: float = 0.0,
    timeout: float = 900,
) -> EngineResult:
    """Runs a signature on each sample, and times it on the first one.

    Args:
        content: The file's content; its batch size is 1.
        inputs: For each of its inputs an array `(n, ...)` of its dtype, in the order of
            names.
        signature: Name of the signature.
        gpu: Whether to run on the GPU what it can run, instead of the CPU.
        enforce_float32: For the GPU: whether it may not compute in float16.
        num_threads: Threads of the CPU's engine.
        warm_up: Runs before those that are timed, after one for each sample.
        runs: Runs that are timed.
        min_seconds: More are, until they have taken so long.
        timeout: Seconds that it may take.

    Returns:
        What it left; no outputs if it failed.

    Raises:
        EngineTimeoutError: If it takes longer.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        np.savez(folder / "inputs.npz", *inputs)
        options = {
            "signature": signature,
            "gpu": gpu,
            "enforce_float32": enforce_float32,
            "num_threads": num_threads,
            "warm_up": warm_up,
            "runs": runs,
            "min_seconds": min_seconds,
        }
        try:
            done = subprocess.run(
                # -P: nor what lies beside it.
                [sys.executable, "-P", __file__, name, json.dumps(options)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineTimeoutError(
                f"LiteRT was not done with signature '{signature}' within {timeout} s."
            ) from error
        if done.returncode or not (folder / "result.json").exists():
            return EngineResult(done.returncode, done.stderr)
        with np.load(folder / "outputs.npz") as arrays:
            outputs = tuple(arrays.values())
        return EngineResult(
            done.returncode,
            done.stderr,
            outputs,
            **json.loads((folder / "result.json").read_text()),
        )


def _compile(folder: Path, options: dict[str, Any], clock: _Clock) -> tuple[Any, bool]:
    """LiteRT's model, and whether the engine asked for runs all of it."""
    # Before the clock starts: what is to be measured is the file.
    from ai_edge_litert.compiled_model import (
        CompiledModel,
        CpuOptions,
        GpuOptions,
        HardwareAccelerator,
        Options,
    )

    def compiled(accelerators: Any) -> Any:
        chosen = Options(
            hardware_accelerators=accelerators,
            cpu_options=CpuOptions(num_threads=options["num_threads"]),
            gpu_options=GpuOptions(enforce_f32=options["enforce_float32"]),
        )
        clock.start()
        return CompiledModel.from_file(str(folder / "model.tflite"), options=chosen)

    if not options["gpu"]:
        model = compiled(HardwareAccelerator.CPU)
        return model, model.is_fully_accelerated()
    # `is_fully_accelerated` counts what the CPU's engine runs as accelerated, too:
    # whether the GPU runs all shows only when there is no CPU to help.
    try:
        return compiled(HardwareAccelerator.GPU), True
    except RuntimeError:
        return compiled(HardwareAccelerator.GPU | HardwareAccelerator.CPU), False


class _Clock:
    """Time and memory since the file began to be loaded."""

    def start(self) -> None:
        self._memory, self._start = _memory_now(), time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def memory(self) -> float | None:
        """By how much memory grew at most, in MB."""
        return None if self._memory is None else _largest_memory() - self._memory


def _run_signature(folder: Path, options: dict[str, Any]) -> None:
    """What the process does: runs model.tflite on inputs.npz."""
    with np.load(folder / "inputs.npz") as arrays:
        inputs = list(arrays.values())
    signature = options["signature"]
    clock = _Clock()
    model, fully = _compile(folder, options, clock)
    inputs_of, outputs_of = (
        sorted(model.get_signature_list()[signature][kind])
        for kind in ("inputs", "outputs")
    )
    given = {n: model.create_input_buffer_by_name(signature, n) for n in inputs_of}
    gives = {n: model.create_output_buffer_by_name(signature, n) for n in outputs_of}
    details = model.get_output_tensor_details(signature)
    kinds = {
        name: (tuple(details[name]["shape"]), np.dtype(details[name]["dtype"]))
        for name in outputs_of
    }

    def run(row: int) -> list[np.ndarray]:
        for buffer, x in zip(given.values(), inputs, strict=True):
            buffer.write(x[row : row + 1])
        model.run_by_name(signature, given, gives)
        # Reading waits for a GPU to be done.
        return [
            gives[name].read(int(np.prod(shape)), dtype)
            for name, (shape, dtype) in kinds.items()
        ]

    rows = [run(0)]
    init_seconds = clock.seconds()
    rows += [run(row) for row in range(1, len(inputs[0]))]
    outputs = [
        np.concatenate([row[i].reshape(shape) for row in rows])
        for i, (shape, _) in enumerate(kinds.values())
    ]
    for _ in range(options["warm_up"]):
        run(0)
    ms: list[float] = []
    end = time.perf_counter() + options["min_seconds"]
    while len(ms) < options["runs"] or (options["runs"] and time.perf_counter() < end):
        start = time.perf_counter()
        run(0)
        ms.append(1e3 * (time.perf_counter() - start))
    np.savez(folder / "outputs.npz", *outputs)
    left = {
        "fully_accelerated": bool(fully),
        "init_ms": 1e3 * init_seconds,
        "ms": ms,
        "memory_mb": clock.memory(),
    }
    (folder / "result.json").write_text(json.dumps(left))


def _memory_now() -> float | None:
    """Memory of this process, in MB; `None` where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return _megabytes(status, "VmRSS")


def _largest_memory() -> float:
    """What it was at most, in MB."""
    return _megabytes(Path("/proc/self/status").read_text(), "VmHWM")


def _megabytes(status: str, name: str) -> float:
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    _run_signature(Path(sys.argv[1]), json.loads(sys.argv[2]))
