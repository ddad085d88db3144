"""How long signatures of a TFLite file take here, one against the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np


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
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=num_threads)
    rng = np.random.default_rng(0)
    calls = []
    for name in names:
        runner = interpreter.get_signature_runner(name)
        inputs = {
            key: rng.random(one["shape"]).astype(one["dtype"])
            for key, one in runner.get_input_details().items()
        }
        calls.append((name, runner, inputs))
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm_up + runs):
        for name, runner, inputs in calls:
            start = time.perf_counter()
            runner(**inputs)
            if turn >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """The median of each name's milliseconds."""
    return {name: statistics.median(one) for name, one in times.items()}
