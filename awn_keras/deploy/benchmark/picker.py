"""Choice of a width within a budget, from measurements."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from awn_keras.deploy.benchmark.report import Report, Row
from awn_keras.environment import this_machine
from awn_keras.errors import ArgumentError

#: Quantiles of the latency that a budget may limit.
QUANTILES = ("median", "p90", "p95")


@dataclass(frozen=True)
class Pick:
    """A chosen width, and the measurements behind the choice.

    Args:
        width: The width of the file to run.
        row: Measurements at this width.
        ms: Latency in ms, after latencies were made monotone over widths.
        quantile: Quantile of `ms`: the requested quantile, or, if it is not known, the
            next larger known one, up to `"max"`.
        uncertainty_ms: Uncertainty of `ms`: the spread of repetitions, or the change
            that made latencies monotone, whichever is larger.
        fits: Whether the width is within the budget. If False, no width is, and `width`
            is the narrowest.
        interpolated_width: By linear interpolation, the widest width below the next
            measured width that would be within the budget in ms. `None` if there is
            none, or with a budget in kB.
        dominated: Widths that another width beats in latency and accuracy.
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
    """Returns the rows that no other row beats in latency and accuracy.

    Args:
        rows: Rows of one target. If accuracies are missing, wider rows count as more
            accurate.
        quantile: One of `QUANTILES`.

    Returns:
        Rows sorted by latency, ascending.
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
    """Latency of a row in ms; if the quantile is missing, the next larger known one."""
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
    """Chooses the best width within a budget.

    Of the widths within the budget, the most accurate is chosen, or the widest if
    accuracies are not known.

    Args:
        report: A report, or the path of its JSON file.
        budget_ms: Longest allowed latency, in ms.
        budget_kb: Largest allowed file, in kB of 1000 bytes, for reports with a
            separate file for each width.
        target: Target of the rows, such as `"android-gpu"`. `None` if the report has
            only one target.
        device: Device of the rows. `None` if the report has only one device.
        threads: Number of threads of the rows. `None` if the report has only one
            number.
        file: File of the rows. `None` if the report has only one file, or with a budget
            in kB.
        quantile: Quantile of the latency that must be within the budget: `"median"`,
            `"p90"` or `"p95"`.

    Returns:
        The width, and its measurements.

    Raises:
        ValueError: If there is no budget, if it is not positive, if `quantile` is not
            one of these, if no row matches, or if rows of several targets, devices,
            files or numbers of threads match.
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
        raise ArgumentError(
            "The report has rows without latency. Measure again with `awn benchmark`."
        )
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
        # Of equally good widths, take the narrowest.
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
    """Picks the first width of an interpreter with a latency budget.

    Only rows of this file on a CPU with `threads` threads count. Rows of this machine
    are preferred, then rows of other hosts, then rows of phones and boards.

    Args:
        report: See `pick_width`.
        digests: Hash of the file, or of each file if each width has a separate file.
        budget_ms: Longest latency, in ms.
        threads: Number of threads.

    Returns:
        The width, chosen by width and latency alone, and the measured latencies in ms,
        by width.

    Raises:
        ValueError: If the report has no row that counts.
        OSError: If the report cannot be read.
    """
    report = report if isinstance(report, Report) else Report.load(report)
    rows = [
        # The interpreter later changes the width by latency alone, so the first width
        # must not depend on accuracy.
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
            "threads. Measure the file with `awn benchmark`."
        )
    host = [row for row in rows if row.target == "cpu"]
    rows = [row for row in host if row.device == this_machine()] or host or rows
    # `pick_width` refuses rows of several files. Here they are one export with a file
    # for each width.
    if len(digests) > 1:
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
        asked = [f"`{name}={v!r}`" for name, v in wanted.items() if v is not None]
        kinds = sorted({f"{row.target} (threads: {row.threads})" for row in rows})
        such = f" with {', '.join(asked)}" if asked else ""
        has = f"rows of {', '.join(kinds)}" if kinds else "no rows"
        raise ArgumentError(f"The report has no row of a width{such}. It has {has}.")
    known = [(row.file, row.width, *row.key[:2], row.threads) for row in chosen]
    if len(set(known)) < len(known):
        raise ArgumentError(
            f"The report has rows of several different files named '{chosen[0].file}'. "
            "Measure the wanted file again, with a new report: `awn benchmark "
            "--output`."
        )
    for name in wanted:
        values = sorted({str(getattr(row, name)) for row in chosen})
        if len(values) > 1 and not (name == "file" and several_files):
            raise ArgumentError(
                f"The report has rows with several values of `{name}`: "
                f"{', '.join(values)}. Give `{name}`."
            )
    return chosen


def monotone(widths: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Makes latencies monotone over widths (isotonic regression).

    Latencies in the wrong order are replaced by their mean. (scikit-learn has this
    algorithm, but a board that runs files need not have scikit-learn.)

    Args:
        widths: Widths, ascending; a width may occur several times.
        ms: Measured latency of each width.

    Returns:
        The non-decreasing latencies with the smallest sum of squared differences.
    """
    distinct, index = np.unique(widths, return_inverse=True)
    totals: list[float] = []
    counts: list[int] = []  # number of latencies in each mean
    sizes: list[int] = []  # number of widths with this mean
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
    """The width at which a line from the pick to the next width meets the budget."""
    if smooth is None or budget_ms is None or smooth[index] > budget_ms:
        return None
    after = smooth[index + 1 :]
    if not len(after) or after[0] <= budget_ms:  # the next width is less accurate
        return float(widths[index])
    rise = (budget_ms - smooth[index]) / (after[0] - smooth[index])
    return float(widths[index] + rise * (widths[index + 1] - widths[index]))
