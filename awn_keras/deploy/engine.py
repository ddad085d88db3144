"""One signature of a TFLite file, run by LiteRT in a process of its own.

So a crash, or memory that runs out, costs one measurement and not the program; memory
is that of this file alone; and what LiteRT and drivers write to stderr can be read. The
process runs `engine_program.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from awn_keras.errors import AwnError

_PROGRAM = Path(__file__).with_name("engine_program.py")


class EngineError(AwnError, RuntimeError):
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
                # -P: what lies beside the program cannot be imported by its name.
                [sys.executable, "-P", _PROGRAM, name, json.dumps(options)],
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
