"""`benchmarks.reliability` counts correctly, also after an interrupted run."""

import json
import sys

import pytest

from benchmarks import hardship, reliability
from benchmarks.cases import Case


def counts(**changes):
    start = {"trials": 0, "count": 0, "seconds": 0.0, "kinds": {}, "failures": []}
    return {**start, **changes}


def test_cases_are_counted_and_failures_listed_with_their_seed():
    result = counts()
    reliability.add(result, Case(0, "train", "killed"))
    reliability.add(result, Case(1, "train", "killed", count=3))
    reliability.add(result, Case(2, "demo", "killed", "lost: a file"))
    assert (result["trials"], result["count"]) == (3, 5)
    assert result["kinds"] == {"train": {"killed": 4}, "demo": {"failed": 1}}
    assert result["failures"] == [{"seed": 2, "kind": "demo", "fault": "lost: a file"}]


#: A part whose trials are quick. Seeds that are a multiple of 3 take longer than other
#: seeds, so that two workers finish out of order. The worker that gets seed 2 dies.
QUICK = """
import os, sys, time
from benchmarks import reliability
from benchmarks.cases import Case

def trials(seeds):
    for seed in seeds:
        if seed == 2:
            sys.stderr.write("MemoryError: no memory")
            sys.stderr.flush()
            os.kill(os.getpid(), 9)
        print("a library prints", sys.stdin.read())
        time.sleep(0.2 if seed % 3 == 0 else 0)
        yield Case(seed, "quick", "right")
        yield Case(seed, "quick", "right")

reliability.PARTS["files"] = (trials, 0, 2)
reliability.worker("files")
"""


@pytest.fixture
def started(monkeypatch):
    """Gives workers the trials of `QUICK`. Lists the parts that had a new process."""
    parts = []

    def command(part):
        parts.append(part)
        return [sys.executable, "-c", QUICK]

    monkeypatch.setattr(reliability, "command", command)
    monkeypatch.setitem(reliability.PARTS, "files", (None, 0, 2))  # two tries a trial
    return parts


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_ends_is_a_failure_and_the_next_goes_on(started, workers):
    result, saved = counts(), []
    reliability.measure(
        "files", 12, result, lambda: saved.append(result["trials"]), workers
    )
    # Each seed but 2 counts two tries, so a seventh trial reaches 12.
    assert saved == [1, 2, 3, 4, 5, 6, 7]
    assert result["kinds"] == {"quick": {"right": 12}, "process": {"failed": 1}}
    (failure,) = result["failures"]
    assert (failure["seed"], failure["kind"]) == (2, "process")
    assert failure["fault"].startswith("the process ended with -9: ")
    assert failure["fault"].endswith("MemoryError: no memory")
    assert started == ["files"] * (workers + 1)
    assert result["seconds"] >= 0.6  # seeds 0, 3 and 6


def test_a_part_of_a_file_under_a_temporary_name_is_not_read(tmp_path):
    name = f"new.keras.{'0' * 32}.partial.keras"  # as `awn_keras.files` names it
    (tmp_path / name).write_bytes(b"PK\3\4, the first bytes of a zip")
    assert hardship._essence(tmp_path) == {name: b"PK\3\4, the first bytes of a zip"}


def test_a_run_goes_on_from_what_is_counted(started, tmp_path):
    output = tmp_path / "reliability.json"
    done = {part: counts(trials=7, count=10**6) for part in reliability.PARTS}
    done["files"] = counts(trials=3, count=3)
    output.write_text(json.dumps({"parts": done}))
    reliability.main(["--files", "6", "--workers", "1", "--output", str(output)])
    assert started == ["files"]
    result = json.loads(output.read_text())["parts"]
    # Two trials, of two tries each; without a failure, so none has seed 2.
    assert (result["files"]["count"], result["files"]["trials"]) == (7, 5)
    assert not result["files"]["failures"]
    assert result["kills"]["count"] == 10**6
