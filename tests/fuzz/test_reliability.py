"""`benchmarks.reliability` counts correctly, also after an interrupted run."""

import json

import pytest

from benchmarks import hardship, reliability
from benchmarks.cases import Case


def counts(**changes):
    start = {"trials": 0, "count": 0, "seconds": 0.0, "kinds": {}, "failures": []}
    return {**start, **changes}


def test_cases_are_counted_and_failures_listed_with_their_seed():
    result = counts()
    reliability.add(result, Case(0, "train", "killed"), 1.0)
    reliability.add(result, Case(1, "train", "killed", count=3), 2.0)
    reliability.add(result, Case(2, "demo", "killed", "lost: a file"), 0.5)
    assert (result["trials"], result["count"], result["seconds"]) == (3, 5, 3.5)
    assert result["kinds"] == {"train": {"killed": 4}, "demo": {"failed": 1}}
    assert result["failures"] == [{"seed": 2, "kind": "demo", "fault": "lost: a file"}]


@pytest.fixture
def workers(monkeypatch):
    """Replaces the worker processes. A worker that reaches seed 2 dies."""
    started = []

    class Process:
        def __init__(self, words, **kwargs):
            part, first, last = words[-3], int(words[-2]), int(words[-1])
            started.append((part, first, last))
            seeds = range(first, last)
            self.returncode = -9 if 2 in seeds else 0
            kwargs["stderr"].write("MemoryError: no memory" * (2 in seeds))
            self.stdout = [
                json.dumps({"seed": seed, "kind": part, "outcome": "right"})
                for seed in seeds
                if seed < 2 or 2 not in seeds
            ]

        def wait(self):
            return self.returncode

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(reliability.subprocess, "Popen", Process)
    return started


def test_a_process_that_ends_is_a_failure_and_the_next_goes_on(workers):
    result = counts()
    reliability.measure("files", 5, result, lambda: None)
    assert workers == [("files", 0, 5), ("files", 3, 5)]
    assert (result["count"], result["trials"]) == (5, 5)
    fault = "the process ended with -9: MemoryError: no memory"
    assert result["failures"] == [{"seed": 2, "kind": "process", "fault": fault}]


def test_a_part_of_a_file_under_a_temporary_name_is_not_read(tmp_path):
    name = f"new.keras.{'0' * 32}.partial.keras"  # as `awn_keras.files` names it
    (tmp_path / name).write_bytes(b"PK\3\4, the first bytes of a zip")
    assert hardship._essence(tmp_path) == {name: b"PK\3\4, the first bytes of a zip"}


def test_a_run_goes_on_from_what_is_counted(workers, tmp_path):
    output = tmp_path / "reliability.json"
    done = {part: counts(trials=7, count=10**6) for part in reliability.PARTS}
    done["files"] = counts(trials=3, count=3)
    output.write_text(json.dumps({"parts": done}))
    reliability.main(["--files", "5", "--output", str(output)])
    assert workers == [("files", 3, 5)]
    result = json.loads(output.read_text())["parts"]
    assert result["files"]["count"] == 5
    assert result["kills"]["count"] == 10**6
