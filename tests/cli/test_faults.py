import re

import pytest
import tensorflow as tf

from awn_keras.cli import main
from awn_keras.cli.faults import describe_fault


@pytest.fixture
def at_fault(monkeypatch, tmp_path):
    """`awn summary` with a bug; where its log goes to."""

    def run(args):
        raise KeyError("nobody foresaw\nthis")

    monkeypatch.setattr("awn_keras.cli.summary.run", run)
    monkeypatch.setenv("AWN_LOG", str(tmp_path))
    monkeypatch.delenv("AWN_DEBUG", raising=False)
    return tmp_path


def test_a_fault_is_one_line_that_names_the_traceback(at_fault, capsys):
    assert main(["summary", "model.keras"]) == 1
    (log,) = at_fault.iterdir()
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"awn summary: a fault of awn_keras: KeyError: 'nobody foresaw.*this'\. Please "
        rf"report it. The traceback is in {log}\n",
        line,
    )
    text = log.read_text()
    assert text.startswith("Traceback (most recent call last):")
    assert "test_faults.py" in text
    assert text.endswith("this'\n")


def test_the_log_of_the_program_gets_the_traceback(at_fault, capsys):
    log = at_fault / "log"
    log.write_text("native line\n")
    assert main(["summary", "model.keras"], log=log) == 1
    assert log.read_text().startswith("native line\nTraceback")
    assert [path.name for path in at_fault.iterdir()] == ["log"]


def test_debugging_shows_the_traceback(at_fault, monkeypatch, capsys):
    monkeypatch.setenv("AWN_DEBUG", "1")
    assert main(["summary", "model.keras"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith("Please report it. The traceback is above\n")
    assert not list(at_fault.iterdir())


def test_without_a_file_the_traceback_is_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AWN_LOG", str(tmp_path / "missing"))
    monkeypatch.delenv("AWN_DEBUG", raising=False)
    assert describe_fault(KeyError("x")).endswith("The traceback is above")
    assert capsys.readouterr().err == "KeyError: 'x'\n"


@pytest.mark.parametrize("kind", [MemoryError, tf.errors.ResourceExhaustedError])
def test_too_little_memory_is_no_fault(kind, monkeypatch, capsys):
    def load_model(path):
        raise kind(None, None, "x" * 9) if kind is not MemoryError else kind("x" * 9)

    monkeypatch.setattr("awn_keras.loading.load_model", load_model)
    assert main(["summary", "model.keras"]) == 2
    error = capsys.readouterr().err
    assert error == f"awn summary: error: there is not enough memory: {'x' * 9}\n"
