"""How long signatures of a TFLite file take here, one against the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from awn_keras.deploy.litert import TFLiteFile


def time_signatures(
    content: bytes,
    names: Sequence[str],
    *,
    runs: int = 20,
    warm_up: int = 3,
    num_threads: int = 1,
) -> dict[str, list[float]]:
    """Times signatures in turns, so that drift of the machine meets all of them.

    Args:
        content: A TFLite file.
        names: Names of signatures.
        runs: Timed runs of each.
        warm_up: Runs of each that are not timed.
        num_threads: Threads of the interpreter.

    Returns:
        For each name the milliseconds of its runs, on random inputs.
    """
    signatures = TFLiteFile(content, num_threads=num_threads).signatures
    rng = np.random.default_rng(0)
    samples = {
        name: {
            tensor.name: rng.random(tensor.shape).astype(tensor.dtype)
            for tensor in signatures[name].inputs
        }
        for name in names
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm_up + runs):
        for name, sample in samples.items():
            start = time.perf_counter()
            signatures[name].invoke(sample)
            if turn >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """The median of each name's milliseconds."""
    return {name: statistics.median(ms) for name, ms in times.items()}
