"""`_awn.py` handles native log lines. A stand-in replaces the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import os, sys, types

def main(log=None):
    os.write(2, b"native line\\n")
    sys.stderr.write("for the user\\n")
    if sys.argv[1] == "exit":
        sys.exit(2)
    if sys.argv[1] == "raise":
        raise ImportError("half an installation")
    return int(sys.argv[1])

package = types.ModuleType("awn_keras")
package.cli = types.SimpleNamespace(main=main)
sys.modules["awn_keras"] = package
import _awn
sys.exit(_awn.main())
"""


def program(argument, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE, argument],
        capture_output=True,
        text=True,
        check=False,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("AWN_")},
            "PYTHONPATH": str(ROOT),
            "AWN_LOG": str(folder),
            **environment,
        },
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("argument", "code"), [("0", 0), ("2", 2), ("exit", 2)])
def test_nothing_is_left_if_nothing_was_wrong(argument, code, tmp_path):
    assert program(argument, tmp_path) == (code, "for the user\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["1", "raise"])
def test_native_lines_of_a_fault_are_kept(argument, tmp_path):
    code, error = program(argument, tmp_path)
    assert code == 1
    assert error.startswith("for the user\n")
    assert ("half an installation" in error) == (argument == "raise")
    (log,) = tmp_path.iterdir()
    assert log.read_text() == "native line\n"


@pytest.mark.parametrize("name", ["AWN_DEBUG", "AWN_NATIVE_LOGS"])
def test_native_lines_can_be_shown(name, tmp_path):
    code, error = program("0", tmp_path, **{name: "1"})
    assert (code, error) == (0, "native line\nfor the user\n")
    assert not list(tmp_path.iterdir())


def test_a_folder_for_the_log_that_is_none(tmp_path):
    code, error = program("0", tmp_path / "missing")
    assert code == 2
    assert error.startswith("awn: error: a log file is needed: set the environment")
    assert error.count("\n") == 1


ARGUMENTS = """
import sys

sys.argv[0] = "awn"
import _awn

try:
    _awn.main()
except SystemExit as end:
    slow = {"keras", "tensorflow", "jax", "torch", "numpy", "PIL", "matplotlib"}
    print(end.code or 0, slow & sys.modules.keys())
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("no-such-command", 2),
        ("train --help", 0),
        ("export model.keras --widths", 2),
        ("benchmark --no-such-option", 2),
    ],
)
def test_arguments_are_answered_before_anything_slow_is_imported(arguments, code):
    done = subprocess.run(
        [sys.executable, "-c", ARGUMENTS, *arguments.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1] == f"{code} set()"


@pytest.mark.parametrize("words", [["no-such-command"], ["summary"]])
def test_a_name_that_is_no_text_is_told(words):
    done = subprocess.run(
        [sys.executable, "_awn.py", *words, b"\xff.keras"],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"udcff.keras" in done.stderr or words == ["no-such-command"]
