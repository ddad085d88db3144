"""Calls LiteRT's program `benchmark_model`, and reads its output.

Google publishes the program for Android and Linux. This module reads the output of
TensorFlow Lite's program since version 1.12, and of LiteRT's program for CompiledModel.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from awn_keras.deploy.benchmark.report import spread_of
from awn_keras.errors import AwnError


class BenchmarkModelError(AwnError, RuntimeError):
    """The program failed, or did something other than asked."""


@dataclass(frozen=True)
class Printed:
    """The output of one run of the program. A value that is not printed is `None`.

    Args:
        runs: Number of timed runs.
        warm_up: Number of runs before the timed runs.
        mean_ms: Mean of the timed runs, in ms.
        min_ms: Minimum of the timed runs, in ms.
        max_ms: Maximum of the timed runs, in ms.
        std_ms: Standard deviation of the timed runs, in ms.
        median_ms: Median of the timed runs, in ms (printed since 2024).
        p95_ms: 95th percentile of the timed runs, in ms (printed since 2024).
        init_ms: Time to load and prepare the file, in ms.
        memory_mb: Largest growth of the program's memory, in MB.
        nodes_delegated: Number of operators of the signature that a delegate runs.
        fully_accelerated: Whether the delegate runs all operators of the signature.
    """

    runs: int
    warm_up: int
    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    median_ms: float | None
    p95_ms: float | None
    init_ms: float | None
    memory_mb: float | None
    nodes_delegated: int | None
    fully_accelerated: bool | None


def command(
    program: str,
    model: str,
    signature: str | None,
    *,
    gpu: bool,
    threads: int,
    runs: int,
    warm_up: int,
    min_seconds: float,
) -> list[str]:
    """The program's command line, one string for each argument.

    Args:
        program: Path of the program on the device.
        model: Path of the TFLite file on the device.
        signature: Name of the signature to run. `None` if the file has only one.
        gpu: Whether to use the GPU delegate.
        threads: Threads of the CPU engine.
        runs: Least number of timed runs.
        warm_up: Number of runs before the timed runs.
        min_seconds: Least time of all timed runs, in seconds.
    """
    words = [
        program,
        f"--graph={model}",
        f"--num_threads={threads}",
        f"--num_runs={runs}",
        f"--warmup_runs={max(1, warm_up)}",
        # By default the program warms up for at least half a second.
        "--warmup_min_secs=0",
        f"--min_secs={min_seconds:g}",
        f"--use_gpu={'true' if gpu else 'false'}",
    ]
    if signature is not None:
        words.append(f"--signature_to_run_for={signature}")
    return words


# The prefix that Android's log, and program versions since 2022, write before a line.
# LiteRT's prefix also has the source file and line.
_PREFIX = re.compile(
    r"^(?:\d\d-\d\d [\d:.]+ +(?:\d+ +\d+ +)?)?"
    r"(?:[VDIWEF](?:/| )\S+ *(?:\( *\d+\))?: ?|(?:INFO|VERBOSE|WARN|WARNING|ERROR): )?"
    r"(?:\[[^\]]*:\d+\] ?)?"
)
# The line after the timed runs, in TensorFlow Lite's program and in LiteRT's.
_END = re.compile(
    r"(?:Average i|I)nference timings in us: |=+ BENCHMARK RESULTS =+|"
    r"Model initialization: "
)
_GPU_DELEGATE = r"TfLiteGpuDelegate\w*|LITERT_CL|\w*WebGpu\w*|\w*MlDrift\w*"


def parse(text: str, *, gpu: bool, signature: str | None, subgraph: int = 0) -> Printed:
    """Reads the output of the program.

    The program silently falls back to the CPU, or to another signature, if it cannot do
    what it was asked for. So this function checks both.

    Args:
        text: Output on stdout and stderr.
        gpu: Whether the GPU delegate was asked for.
        signature: Name of the signature that was asked for.
        subgraph: Index of the subgraph that the signature runs.

    Returns:
        The values in the output.

    Raises:
        BenchmarkModelError: If the output has no timings, if the GPU was asked for and
            did not run, or if another signature ran.
    """
    lines = [_PREFIX.sub("", line).strip() for line in text.splitlines()]
    whole = "\n".join(lines)
    _check_signature(whole, signature)
    ends = [i for i, line in enumerate(lines) if _END.match(line)]
    if not ends or "Benchmarking failed." in lines:
        raise BenchmarkModelError(reason(text))
    phases = [phase for phase in map(_numbers, lines[: ends[0]]) if phase]
    timed = {**_results(whole), **(phases[-1] if phases else {})}
    if "count" not in timed:
        raise BenchmarkModelError(reason(text))
    delegated, fully = _delegated(whole, gpu, subgraph)
    if gpu and delegated == 0:
        raise BenchmarkModelError(
            f"its output does not show that the GPU ran any operator: {reason(text)}"
        )
    init = re.search(r"\bInit: ([\d.e+]+)", lines[ends[0]])
    mean = timed.get("avg", timed.get("curr", 0.0))
    return Printed(
        runs=int(timed["count"]),
        warm_up=int(phases[-2]["count"]) if len(phases) > 1 else 0,
        mean_ms=mean / 1e3,
        min_ms=timed.get("min", mean) / 1e3,
        max_ms=timed.get("max", mean) / 1e3,
        std_ms=timed.get("std", 0.0) / 1e3,
        median_ms=_milliseconds(timed.get("median")),
        p95_ms=_milliseconds(timed.get("p95")),
        init_ms=float(init[1]) / 1e3 if init else _milliseconds(timed.get("init")),
        memory_mb=_memory(whole),
        nodes_delegated=delegated,
        fully_accelerated=fully,
    )


def _check_signature(text: str, signature: str | None) -> None:
    """Raises an error if the output shows that another signature ran."""
    unknown = re.search(r"^Unconsumed cmdline flags: (.*)$", text, re.MULTILINE)
    if signature and unknown and "signature_to_run_for" in unknown[1]:
        raise BenchmarkModelError(
            "this benchmark_model is too old to run a signature: it ignored "
            "--signature_to_run_for. Use a newer benchmark_model, or a file for each "
            "width (`awn export --separate`)."
        )
    told = re.findall(
        r"^(?:Signature name: +|Using signature: |Signature to run: \[)([^\]\n]+)",
        text,
        re.MULTILINE,
    )
    others = [name.strip() for name in told if name.strip() != signature]
    if signature and others:
        raise BenchmarkModelError(f"it ran signature '{others[0]}', not '{signature}'")


def _delegated(text: str, gpu: bool, subgraph: int) -> tuple[int | None, bool | None]:
    """The number of a subgraph's operators that a delegate runs, and whether all.

    For the GPU the number is 0 if the output does not show that the GPU runs any.
    """
    kind = _GPU_DELEGATE if gpu else "TfLiteXNNPackDelegate"
    replaced = re.findall(
        rf"^Replacing (\d+) out of (\d+) node\(s\) with delegate \((?:{kind})\).*?"
        r"(?:for subgraph (\d+).*|for the whole graph.*)?$",
        text,
        re.MULTILINE,
    )
    here = [(int(n), int(m)) for n, m, k in replaced if k in ("", str(subgraph))]
    applied = re.findall(
        r"^(?:Explicitly a|A)pplied (\S+) delegate, and the model graph will be "
        r"(completely|partially) executed",
        text,
        re.MULTILINE,
    )
    fully = None
    if here:
        fully = here[-1][0] == here[-1][1]
    elif applied:
        fully = applied[-1][1] == "completely"
    delegated = here[-1][0] if here else None
    if gpu and not here:
        refused = "Though GPU delegate is explicitly applied" in text or replaced
        started = re.search(r"^Initializ(?:ed|ing) \w+-based API", text, re.MULTILINE)
        named = "GPU" in [name for name, _ in applied]
        delegated = None if (named or started) and not refused else 0
    return delegated, fully


def _results(text: str) -> dict[str, float]:
    """LiteRT's block of results, in microseconds. It prints ms with two decimals."""
    results = {}
    for label, name in (
        ("Model initialization", "init"),
        (r"Inference \(avg\)", "avg"),
        (r"Inference \(min\)", "min"),
        (r"Inference \(max\)", "max"),
        (r"Inference \(std\)", "std"),
    ):
        match = re.search(rf"^{label}: +([\d.]+)", text, re.MULTILINE)
        if match:
            results[name] = 1e3 * float(match[1])
    runs = re.search(r"^Inference \(avg\): .*\((\d+) runs\)", text, re.MULTILINE)
    if runs:
        results["count"] = float(runs[1])
    return results


def _memory(text: str) -> float | None:
    """Largest growth of the program's memory, in MB."""
    for pattern in (
        r"(?:Peak memory footprint|Memory footprint delta from the start of the tool) "
        r"\(MB\): .*overall=([\d.e+]+)",
        r"Overall footprint: +([\d.e+]+) MB",
    ):
        match = re.search(rf"^{pattern}", text, re.MULTILINE)
        if match:
            return float(match[1])
    return None


def reason(text: str) -> str:
    """The lines of the output that best explain why there are no timings."""
    lines = [_PREFIX.sub("", line).strip() for line in text.splitlines()]
    telling = re.compile(
        r"\b(?:fail|error|unsupported|not executable|cannot|can't|not found|no such|"
        r"fault\b|aborted|killed|could not|unable|invalid|incorrect|not be executed)",
        re.IGNORECASE,
    )
    reasons = [line for line in lines if telling.search(line)]
    reasons = [line for line in reasons if line != "Benchmarking failed."] or reasons
    if reasons:
        return " ".join(dict.fromkeys([reasons[0], reasons[-1]]))
    written = [line for line in lines if line] or ["nothing"]
    return f"no timings in its output, which ends with: {written[-1]}"


def fields_of(printed: Sequence[Printed]) -> dict[str, Any]:
    """Fields of a `Row`, computed from the outputs of repetitions."""

    def each(name: str) -> list[Any]:
        values = [getattr(repetition, name) for repetition in printed]
        return [] if None in values else values

    def middle(name: str) -> float | None:
        return float(statistics.median(each(name))) if each(name) else None

    return {
        "median_ms": middle("median_ms"),
        "mean_ms": statistics.fmean(each("mean_ms")),
        "min_ms": min(each("min_ms")),
        "max_ms": max(each("max_ms")),
        "std_ms": statistics.fmean(std**2 for std in each("std_ms")) ** 0.5,
        "p95_ms": middle("p95_ms"),
        "runs": sum(each("runs")),
        "warm_up": printed[-1].warm_up,
        "spread": spread_of(each("median_ms") or each("mean_ms")),
        "init_ms": middle("init_ms"),
        "memory_mb": max(each("memory_mb"), default=None),
        "nodes_delegated": printed[-1].nodes_delegated,
        "fully_accelerated": printed[-1].fully_accelerated,
    }


def _numbers(line: str) -> dict[str, float]:
    """A dict of a line `count=50 first=1.2e+06 ...`; empty for other lines."""
    if not line.startswith("count="):
        return {}
    pairs = re.findall(r"(\w+)=([\d.]+(?:e[+-]?\d+)?)", line)
    return {name: float(value) for name, value in pairs}


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1e3
