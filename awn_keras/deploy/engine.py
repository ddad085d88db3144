"""Runs a signature of a TFLite file with LiteRT in a separate process.

A separate process has three advantages. A crash, or a lack of memory, ends one
measurement and not the program. The process' memory is the memory of this file alone.
And the lines that LiteRT and drivers write to stderr can be read. The process runs
`engine_program.py`.
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
    """The results of the process.

    Args:
        status: Exit status: 0 if the process ended well, negative for a signal.
        log: The lines that the process wrote to stderr.
        outputs: For each output an array `(n, ...)`, in the order of names. If the
            process failed, this field and all later fields are empty.
        fully_accelerated: Whether the chosen engine runs all operators of all
            signatures in the file.
        init_ms: Time to load and prepare the file, to the end of the first run, in ms.
        ms: Time of each timed run, in ms: an input is copied in, the signature runs,
            and the results are copied out.
        memory_mb: Largest growth of the process' memory since the file began to load,
            in MB. `None` where the system does not report memory.
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
        content: The file's content. Its batch size is 1.
        inputs: For each input an array `(n, ...)` in the dtype of the input, in the
            order of names.
        signature: Name of the signature.
        gpu: Whether to use the GPU engine. The CPU runs what the GPU cannot.
        enforce_float32: `False` lets the GPU compute in float16.
        num_threads: Threads of the CPU engine.
        warm_up: Number of untimed runs, after a run for each sample.
        runs: Least number of timed runs; 0 for no timing.
        min_seconds: Least time of all timed runs, in seconds.
        timeout: Time limit of the process, in seconds.

    Returns:
        The results; without outputs if the process failed.

    Raises:
        EngineTimeoutError: If the process exceeds the time limit.
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
                # With -P the program does not import modules from its own folder,
                # whose names may be names of other packages.
                [sys.executable, "-P", _PROGRAM, name, json.dumps(options)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineTimeoutError(
                f"LiteRT did not finish signature '{signature}' within {timeout} s."
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
