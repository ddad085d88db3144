"""Which width to run: the widest that keeps to a budget, by what was measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from awn_keras.deploy.benchmark.report import Report, Row
from awn_keras.environment import this_machine
from awn_keras.errors import ArgumentError

#: Latencies that a budget may be for.
QUANTILES = ("median", "p90", "p95")


@dataclass(frozen=True)
class Pick:
    """A width, and why.

    Args:
        width: The width of the file to run.
        row: What was measured at it.
        ms: Its latency in ms, made monotone over widths.
        quantile: What latency that is: the quantile asked for, or if that is not known
            the next larger one that is, up to `"max"`.
        uncertainty_ms: By how much that may be off: the spread of repetitions, or the
            step that made latencies monotone, whichever is larger.
        fits: Whether it keeps to the budget. If not, none does; it is the narrowest.
        interpolated_width: The widest width up to the next one measured that would keep
            to the budget in ms if it were in a file, by a straight line; `None` if none
            would, or there is a budget in kB.
        dominated: Widths that another one beats in both latency and accuracy.
    """

    width: float
    row: Row
    ms: float | None
    quantile: str
    uncertainty_ms: float | None
    fits: bool
    interpolated_width: float | None
    dominated: tuple[float, ...]


def pareto_front(rows: Sequence[Row], quantile: str = "p90") -> list[Row]:
    """Rows that no other one beats in latency and in accuracy.

    Args:
        rows: Rows of one target. Those without accuracy count as the more accurate the
            wider they are.
        quantile: One of `QUANTILES`.

    Returns:
        Rows by latency, ascending.
    """
    known = [row for row in rows if latency(row, quantile) is not None]
    accurate = all(row.accuracy is not None for row in known)
    front: list[Row] = []
    best = -math.inf
    for row in sorted(
        known, key=lambda row: (latency(row, quantile), -_worth(row, accurate))
    ):
        if _worth(row, accurate) > best:
            best = _worth(row, accurate)
            front.append(row)
    return front


def _worth(row: Row, accurate: bool) -> float:
    value = row.accuracy if accurate else row.width
    return 0.0 if value is None else value


def latency(row: Row, quantile: str) -> float | None:
    """A row's latency in ms; the next larger one known if a program tells less."""
    return _latencies(row, quantile).get(_known(row, quantile))


def _latencies(row: Row, quantile: str) -> dict[str, float]:
    order = (*QUANTILES[QUANTILES.index(quantile) :], "max")
    known = {name: getattr(row, f"{name}_ms") for name in order}
    return {name: ms for name, ms in known.items() if ms is not None}


def _known(row: Row, quantile: str) -> str:
    return next(iter(_latencies(row, quantile)), quantile)


def pick_width(
    report: Report | str | Path,
    *,
    budget_ms: float | None = None,
    budget_kb: float | None = None,
    target: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    file: str | None = None,
    quantile: str = "p90",
) -> Pick:
    """Picks the widest width that keeps to a budget.

    Of widths that keep to it the most accurate is taken, where accuracy is known: a
    wide one that is slower and no better than a narrower one is passed over.

    Args:
        report: What was measured, or the path of its JSON.
        budget_ms: Longest latency, in ms.
        budget_kb: Longest file, in kB of 1000 bytes: for reports of one file for each
            width.
        target: Which target's rows to look at, such as `"android-gpu"`. May be `None`
            if there is one only; so with the next three.
        device: Which device's.
        threads: For how many threads.
        file: Which file's; not for a budget in kB.
        quantile: Which latency must keep to the budget: `"median"`, `"p90"` or `"p95"`.

    Returns:
        The width, and what is known about it.

    Raises:
        ValueError: If there is no budget, it is not positive, the quantile is none of
            these, or the rows are of several targets, devices, files or numbers of
            threads, or none.
        OSError: If the report cannot be read.

    Examples:
        >>> report = benchmark_tflite("net.tflite")
        >>> pick_width(report, budget_ms=12).width
        0.75
    """
    _check({"budget_ms": budget_ms, "budget_kb": budget_kb}, quantile)
    wanted = {"target": target, "device": device, "threads": threads, "file": file}
    known = report if isinstance(report, Report) else Report.load(report)
    rows = _choose(known.rows, wanted, several_files=budget_kb is not None)
    rows.sort(key=lambda row: row.width or 0.0)
    widths = np.array([row.width for row in rows], float)
    measured = [latency(row, quantile) for row in rows]
    timed = all(ms is not None for ms in measured)
    if budget_ms is not None and not timed:
        raise ArgumentError("Rows have no latency. Measure anew: `awn benchmark`.")
    smooth = monotone(widths, np.array(measured, float)) if timed else None
    fits = np.ones(len(rows), bool)
    if budget_ms is not None and smooth is not None:
        fits &= smooth <= budget_ms
    if budget_kb is not None:
        sizes = [row.file_bytes for row in rows]
        fits &= [size is not None and size <= 1e3 * budget_kb for size in sizes]
    front = {row.width for row in pareto_front(rows, quantile)} if timed else set()
    dominated = tuple(float(w) for w in widths if timed and w not in front)
    candidates = [i for i in range(len(rows)) if fits[i]]
    if candidates:
        accurate = all(rows[i].accuracy is not None for i in candidates)
        # The narrowest of those that are equally good.
        index = max(candidates, key=lambda i: (_worth(rows[i], accurate), -widths[i]))
    else:
        index = 0
    ms = uncertainty = None
    if smooth is not None:
        ms = float(smooth[index])
        step = abs(ms - float(measured[index] or 0.0))
        uncertainty = max(step, ms * (rows[index].spread or 0.0))
    return Pick(
        float(widths[index]),
        rows[index],
        ms,
        _known(rows[index], quantile),
        uncertainty,
        bool(fits[index]),
        _widest(widths, smooth, index, budget_ms) if budget_kb is None else None,
        dominated,
    )


def pick_for_file(
    report: Report | str | Path,
    digests: Collection[str],
    *,
    budget_ms: float,
    threads: int,
) -> tuple[float, dict[float, float]]:
    """Picks the width at which a file that chooses by itself is to begin.

    Args:
        report: See `pick_width`.
        digests: The file's hash; those of all, if each width has a file of its own.
        budget_ms: Longest latency, in ms.
        threads: For how many threads of a CPU: this machine's, if it has such rows.

    Returns:
        The width, whatever its accuracy, and the latency of each that was measured, in
        ms by width.

    Raises:
        ValueError: If it has no such row of this file.
        OSError: If the report cannot be read.
    """
    report = report if isinstance(report, Report) else Report.load(report)
    rows = [
        # What it runs from then on, it chooses by width and latency alone.
        replace(row, accuracy=None)
        for row in report.rows
        if row.sha256 in digests
        and row.threads == threads
        and row.target.endswith("cpu")
    ]
    if not rows:
        raise ArgumentError(
            f"`report` must have rows of this file on a CPU with {threads} "
            f"threads. Received: {len(report.rows)} rows of other files, targets or "
            "threads. Measure it: `awn benchmark`."
        )
    host = [row for row in rows if row.target == "cpu"]
    rows = [row for row in host if row.device == this_machine()] or host or rows
    if len(digests) > 1:  # each width has a file, with a name, of its own
        rows = [replace(row, file="") for row in rows]
    picked = pick_width(Report(rows), budget_ms=budget_ms).width
    latencies = {row.width: latency(row, "p90") for row in rows}
    return picked, {w: ms for w, ms in latencies.items() if w and ms is not None}


def _check(budgets: Mapping[str, float | None], quantile: str) -> None:
    for name, budget in budgets.items():
        if budget is not None and not budget > 0:
            raise ArgumentError(f"`{name}` must be positive. Received: {name}={budget}")
    if all(budget is None for budget in budgets.values()):
        raise ArgumentError("One of `budget_ms` and `budget_kb` is needed.")
    if quantile not in QUANTILES:
        raise ArgumentError(
            f"`quantile` must be one of {QUANTILES}. Received: {quantile!r}"
        )


def _choose(
    rows: Sequence[Row], wanted: Mapping[str, object], several_files: bool
) -> list[Row]:
    chosen = [
        row
        for row in rows
        if row.width is not None
        and all(v is None or getattr(row, name) == v for name, v in wanted.items())
    ]
    if not chosen:
        asked = {name: value for name, value in wanted.items() if value is not None}
        kinds = sorted({f"{row.target}, {row.threads} threads" for row in rows})
        raise ArgumentError(
            f"The report has no row of a width with {asked}. It has {kinds or 'none'}."
        )
    known = [(row.file, row.width, *row.key[:2], row.threads) for row in chosen]
    if len(set(known)) < len(known):
        raise ArgumentError(
            f"The report has rows of several files called '{chosen[0].file}'. Measure "
            "the one that counts into a new report: `awn benchmark --output`."
        )
    for name in wanted:
        values = sorted({str(getattr(row, name)) for row in chosen})
        if len(values) > 1 and not (name == "file" and several_files):
            raise ArgumentError(
                f"The report has rows of several values of `{name}`: "
                f"{', '.join(values)}. Say which one."
            )
    return chosen


def monotone(widths: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Latencies that do not fall as widths rise, nearest to those measured.

    Isotonic regression: those that are out of order get their mean. (A board that runs
    a file has no scikit-learn.)

    Args:
        widths: Widths, ascending; one may be there more than once.
        ms: What was measured at each.

    Returns:
        A latency for each, with the least sum of squared differences.
    """
    distinct, index = np.unique(widths, return_inverse=True)
    totals: list[float] = []
    counts: list[int] = []  # of latencies that a mean is of
    sizes: list[int] = []  # of widths that have it
    for i in range(len(distinct)):
        of_width = ms[index == i]
        total, count, size = float(of_width.sum()), len(of_width), 1
        while totals and totals[-1] / counts[-1] > total / count:
            total += totals.pop()
            count += counts.pop()
            size += sizes.pop()
        totals.append(total)
        counts.append(count)
        sizes.append(size)
    return np.repeat(np.divide(totals, counts), sizes)[index]


def _widest(
    widths: np.ndarray, smooth: np.ndarray | None, index: int, budget_ms: float | None
) -> float | None:
    """Where the line from the pick to the next width crosses the budget."""
    if smooth is None or budget_ms is None or smooth[index] > budget_ms:
        return None
    after = smooth[index + 1 :]
    if not len(after) or after[0] <= budget_ms:  # passed over, for its accuracy
        return float(widths[index])
    rise = (budget_ms - smooth[index]) / (after[0] - smooth[index])
    return float(widths[index] + rise * (widths[index + 1] - widths[index]))
