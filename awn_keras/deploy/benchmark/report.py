"""Reports of benchmarks: one schema for all targets, with merging and writing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.files import read_json, write_whole
from awn_keras.schemas import (
    SCHEMAS,
    Check,
    file_name,
    flag,
    items,
    number,
    of_kind,
    or_null,
    text,
)
from awn_keras.schemas import fields as fields_of


def _now() -> str:
    return datetime.now(UTC).isoformat("T", "seconds")


@dataclass(frozen=True)
class Row:
    """Measurements of one width on one target. A value that is not known is `None`.

    Args:
        target: `"cpu"` or `"gpu"` of this machine, `"android-cpu"`, `"android-gpu"`,
            `"ssh-cpu"` or `"ssh-gpu"`.
        width: The width, in (0, 1].
        signature: Name of the signature that was run.
        file: Name of the file.
        sha256: SHA-256 of the file, hexadecimal.
        threads: Threads of the CPU engine.
        median_ms: Median of the timed runs, in ms.
        mean_ms: Mean of the timed runs, in ms.
        min_ms: Minimum of the timed runs, in ms.
        max_ms: Maximum of the timed runs, in ms.
        std_ms: Standard deviation of the timed runs, in ms.
        p90_ms: 90th percentile of the timed runs, in ms.
        p95_ms: 95th percentile of the timed runs, in ms.
        runs: Number of timed runs.
        warm_up: Number of runs before the timed runs.
        spread: Interquartile range of the medians of separate repetitions, divided by
            the median of these medians. `None` for a single repetition.
        init_ms: Time to load and prepare the file, in ms.
        memory_mb: Largest growth of the process' memory, in MB.
        nodes: Number of operators.
        nodes_delegated: Number of operators that a delegate runs.
        fully_accelerated: Whether the target runs all operators.
        largest_error: Largest difference from the outputs of this machine's CPU on the
            same input.
        accuracy: Accuracy at this width, in [0, 1].
        precision: Precision of the file: `"float32"`, `"int8"` ...
        file_bytes: Size of the file, in bytes.
        macs: MACs that the file computes; see `Costs`. A file with cut kernels computes
            fewer MACs than the slim network, whose MACs `ExportedWidth` has.
        parameters: Elements of constants; see `Costs`.
        activation_bytes: Bytes of activations at the same time; see `Costs`.
        device: The processor or phone that was measured.
        soc: The phone's chip.
        build: The phone's build.
        litert: Version of LiteRT, or of the program that measured.
        governor: The clock governor.
        thermal: State of temperature, battery and screen.
        time: Time of the measurement, UTC, ISO 8601.
    """

    target: str
    width: float | None
    signature: str
    file: str
    sha256: str
    threads: int
    median_ms: float | None
    mean_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    runs: int | None = None
    warm_up: int | None = None
    spread: float | None = None
    init_ms: float | None = None
    memory_mb: float | None = None
    nodes: int | None = None
    nodes_delegated: int | None = None
    fully_accelerated: bool | None = None
    largest_error: float | None = None
    accuracy: float | None = None
    precision: str | None = None
    file_bytes: int | None = None
    macs: int | None = None
    parameters: int | None = None
    activation_bytes: int | None = None
    device: str | None = None
    soc: str | None = None
    build: str | None = None
    litert: str | None = None
    governor: str | None = None
    thermal: str | None = None
    time: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat("T", "seconds")
    )

    @property
    def key(self) -> tuple[Any, ...]:
        """The key of a row. A report keeps one row for each key."""
        return (self.target, self.device, self.sha256, self.signature, self.threads)


@dataclass(frozen=True)
class Failure:
    """A measurement that failed. For fields without explanation see `Row`.

    Args:
        target: See `Row`.
        signature: Name of the signature. `None` if the whole target failed.
        threads: Threads of the CPU engine. `None` if the whole target failed.
        message: The reason, in one line.
        file: Name of the file.
        device: The device; `None` if not known.
        time: Time of the failure, UTC, ISO 8601.
    """

    target: str
    signature: str | None
    threads: int | None
    message: str
    file: str | None = None
    device: str | None = None
    time: str = field(default_factory=_now)

    def is_mended_by(self, row: Row) -> bool:
        """Whether a row is a later, successful measurement of what failed."""
        return (
            row.time >= self.time
            and row.target.startswith(self.target)
            and (self.device or "") in (row.device or "")
            and self.file in (row.file, None)
            and self.signature in (row.signature, None)
            and self.threads in (row.threads, None)
        )

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if self.threads else ""
        where = f", {self.signature}{threads}" if self.signature else ""
        return f"{self.target}{where}: {self.message}"


def statistics_of(ms: Sequence[float]) -> dict[str, Any]:
    """Fields of a `Row`, computed from the milliseconds of its runs."""
    values = np.asarray(ms, float)
    return {
        "median_ms": float(np.median(values)),
        "mean_ms": float(values.mean()),
        "min_ms": float(values.min()),
        "max_ms": float(values.max()),
        "std_ms": float(values.std()),
        "p90_ms": float(np.percentile(values, 90)),
        "p95_ms": float(np.percentile(values, 95)),
        "runs": len(values),
    }


def spread_of(medians: Sequence[float]) -> float | None:
    """`spread` of a `Row`, computed from the medians of repetitions."""
    if len(medians) < 2:
        return None
    low, middle, high = np.percentile(medians, [25, 50, 75])
    return float((high - low) / middle)


@dataclass
class Report:
    """Measurements, and measurements that failed.

    Args:
        rows: The measurements.
        failures: The measurements that failed.
    """

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Reads a report that `save` wrote.

        Args:
            path: A JSON file.

        Returns:
            The report. Fields that this version does not know are left out.

        Raises:
            ValueError: If the file is not a report, or has a later schema.
            OSError: If the file cannot be read.
        """
        content = read_json(Path(path), of_kind("report", _CONTENT), _ABOUT)
        rows = [_known(Row, values) for values in content["rows"]]
        failures = [_known(Failure, values) for values in content["failures"]]
        return cls(rows, failures)

    def save(self, path: str | Path) -> None:
        """Writes the report to a JSON file, whole or not at all.

        Args:
            path: The file.

        Raises:
            OSError: If the file cannot be written.
        """
        content = {
            "schema": SCHEMAS["report"],
            "rows": [asdict(row) for row in self.rows],
            "failures": [asdict(failure) for failure in self.failures],
        }
        write_whole(Path(path), json.dumps(content, indent=1) + "\n")

    def without_older(self, file: str, sha256: str) -> Report:
        """The report without rows of earlier exports to a file of this name.

        Args:
            file: Name of the file.
            sha256: SHA-256 of the present file.
        """
        return Report(
            [row for row in self.rows if row.file != file or row.sha256 == sha256],
            self.failures,
        )

    def put(self, row: Row) -> None:
        """Adds a row. It replaces an earlier row with an equal key."""
        self.rows = [old for old in self.rows if old.key != row.key] + [row]

    def to_csv(self, path: str | Path) -> None:
        """Writes the rows to a CSV file, with a column for each field.

        Args:
            path: The file.

        Raises:
            OSError: If the file cannot be written.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, [column.name for column in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        write_whole(Path(path), text.getvalue())

    def merged(self, others: Iterable[Report]) -> Report:
        """Merges reports of several runs and devices.

        Args:
            others: Other reports.

        Returns:
            All rows. Of rows that have equal target, device, file, signature and
            threads, only the latest is kept. Failures are kept unless a later row
            measures what failed.
        """
        latest: dict[tuple[Any, ...], Row] = {}
        failures: list[Failure] = []
        for report in (self, *others):
            failures += [new for new in report.failures if new not in failures]
            for row in report.rows:
                old = latest.get(row.key)
                if old is None or old.time <= row.time:
                    latest[row.key] = row
        rows = list(latest.values())
        return Report(
            rows,
            [old for old in failures if not any(map(old.is_mended_by, rows))],
        )

    def sorted(self) -> list[Row]:
        """The rows by target, device, file, threads and width."""
        return sorted(
            self.rows,
            key=lambda r: (
                r.target,
                r.device or "",
                r.file,
                r.threads,
                r.width or 0.0,
                r.signature,
            ),
        )

    def warnings(self) -> list[str]:
        """Warnings for pairs of widths whose difference is smaller than the noise."""
        warnings = []
        for row, following in zip(self.sorted(), self.sorted()[1:], strict=False):
            same = (*row.key[:3], row.threads) == (
                *following.key[:3],
                following.threads,
            )
            medians = row.median_ms, following.median_ms
            noise = max(row.spread or 0.0, following.spread or 0.0)
            if not same or not all(medians) or not noise:
                continue
            gap = abs(medians[1] / medians[0] - 1)  # type: ignore[operator]
            if gap < noise:
                warnings.append(
                    f"{row.target}, {row.threads} threads: {row.signature} and "
                    f"{following.signature} differ by {gap:.0%}, but repetitions of "
                    f"one signature differ by {noise:.0%}. Measure more runs "
                    "(`--runs`, `--repeats`), on a quiet machine."
                )
        return warnings

    def table(self) -> str:
        """The rows as text, for a terminal."""
        lines = [
            f"{'target':12} {'threads':>7} {'width':>7} {'median':>10} {'mean':>10} "
            f"{'p90':>10} {'p95':>10} {'spread':>7} {'init':>9} {'memory':>9} "
            f"{'accuracy':>8}  signature, file"
        ]
        for row in self.sorted():
            lines.append(
                f"{row.target:12} {row.threads:7} {_number(row.width, '.4g'):>7} "
                f"{_number(row.median_ms, '.3f', ' ms'):>10} "
                f"{_number(row.mean_ms, '.3f', ' ms'):>10} "
                f"{_number(row.p90_ms, '.3f', ' ms'):>10} "
                f"{_number(row.p95_ms, '.3f', ' ms'):>10} "
                f"{_number(row.spread, '.1%'):>7} "
                f"{_number(row.init_ms, '.1f', ' ms'):>9} "
                f"{_number(row.memory_mb, '.1f', ' MB'):>9} "
                f"{_number(row.accuracy, '.2%'):>8}  {row.signature}, {row.file}"
            )
        return "\n".join(lines)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


_ABOUT = (
    "a report of `awn benchmark`, which is JSON, as in FILE.benchmark.json (its CSV, "
    "its HTML or an export's manifest cannot be read)"
)
#: The check of a field's value, by the field's annotation.
_KINDS: dict[str, Check] = {
    "str": text(),
    "int": number(0, whole=True),
    "float": number(0),
    "bool": flag,
}


def _fields_of(kind: Any) -> Check:
    """A check that an object has the fields of `Row` or `Failure`."""
    known, needed = {}, []
    for column in fields(kind):
        name, _, null = str(column.type).partition(" | ")
        check = _KINDS[name]
        if column.name in ("width", "accuracy"):
            check = number(0, 1)
        if column.name == "file":
            check = file_name
        known[column.name] = or_null(check) if null else check
        if column.default is MISSING and column.default_factory is MISSING:
            needed.append(column.name)
    return fields_of(known, needed)


_CONTENT = fields_of(
    {"rows": items(_fields_of(Row)), "failures": items(_fields_of(Failure))}
)


def _known(kind: Any, content: dict[str, Any]) -> Any:
    names = {known.name for known in fields(kind)}
    return kind(**{name: value for name, value in content.items() if name in names})
