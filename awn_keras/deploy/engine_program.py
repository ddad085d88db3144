"""The program that `engine.py` starts. It runs a signature of a file with LiteRT.

The program is started by its path and imports nothing of the package, because the
memory of Keras and TensorFlow would count as memory of the file.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def _compile(folder: Path, options: dict[str, Any], clock: _Clock) -> tuple[Any, bool]:
    """LiteRT's model, and whether the chosen engine runs all operators."""
    # The import comes before the clock starts, because only the file is measured.
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
    # `is_fully_accelerated` also counts operators that the CPU engine runs. So the
    # GPU first has to run the file without the CPU.
    try:
        return compiled(HardwareAccelerator.GPU), True
    except RuntimeError:
        return compiled(HardwareAccelerator.GPU | HardwareAccelerator.CPU), False


class _Clock:
    """Time and memory since the file began to load."""

    def start(self) -> None:
        self._memory, self._start = _memory_now(), time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def memory(self) -> float | None:
        """Largest growth of memory, in MB."""
        return None if self._memory is None else _largest_memory() - self._memory


def _run_signature(folder: Path, options: dict[str, Any]) -> None:
    """Runs model.tflite on inputs.npz; writes outputs.npz and result.json."""
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
        # `read` waits until a GPU has finished.
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
    """Memory of this process, in MB; `None` where the system does not report it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return _megabytes(status, "VmRSS")


def _largest_memory() -> float:
    """Largest memory of this process so far, in MB."""
    return _megabytes(Path("/proc/self/status").read_text(), "VmHWM")


def _megabytes(status: str, name: str) -> float:
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    _run_signature(Path(sys.argv[1]), json.loads(sys.argv[2]))
