import re
import sys

import keras
import pytest

from awn_keras import export_tflite, verify_tflite
from awn_keras.deploy import progress
from awn_keras.deploy.progress import Progress
from tests.conftest import small_dense


def test_each_width_is_told_when_it_is_converted_and_verified(tmp_path, capsys):
    model, path = small_dense(), tmp_path / "a.tflite"
    export_tflite(model, path, widths=[0.5, 1.0], verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"[\d.]+ s$", "", line) for line in lines] == [
        "[1/4] width_100 converted in ",
        "[2/4] width_050 converted in ",
        "[3/4] width_050 verified in ",
        "[4/4] width_100 verified in ",
    ]
    verify_tflite(path, model, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [
        "[1/2] width_050 verified",
        "[2/2] width_100 verified",
    ]
    export_tflite(model, path, widths=[0.5], verbose=0)
    export_tflite(model, path, widths=[1.0], append_to=path, verbose=1)
    assert capsys.readouterr().out.count("/3] ") == 3


def test_each_file_of_several_is_told(tmp_path, capsys):
    export_tflite(
        small_dense(), tmp_path, widths=[0.5, 1.0], single_file=False, verbose=1
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [
        "[1/4] width_050 converted",
        "[2/4] width_050 verified",
        "[3/4] width_100 converted",
        "[4/4] width_100 verified",
    ]


def steps(verbose, monkeypatch, capsys, *times, watched=False):
    """What is shown after each of the times, in seconds."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: watched, raising=False)
    made = Progress(verbose)
    made.begin(len(times))
    shown = []
    for clock[0] in times:
        made.done("a step")
        shown.append(capsys.readouterr().out.count("\n"))
    return shown


def test_auto_keeps_quiet_while_it_is_quick(monkeypatch, capsys):
    assert steps("auto", monkeypatch, capsys, 1, 2, 9) == [0, 0, 0]
    # What was kept comes, too.
    assert steps("auto", monkeypatch, capsys, 1, 2, 11, 12) == [0, 0, 3, 1]
    assert steps("auto", monkeypatch, capsys, 1, 2, watched=True) == [1, 1]
    for verbose in (1, 2, True):
        assert steps(verbose, monkeypatch, capsys, 1, 2) == [1, 1]
    for verbose in (0, False):
        assert steps(verbose, monkeypatch, capsys, 1, 200) == [0, 0]


def test_keras_setting_holds_for_auto(monkeypatch, capsys):
    keras.config.disable_interactive_logging()
    try:
        assert steps("auto", monkeypatch, capsys, 1, 20, watched=True) == [0, 0]
    finally:
        keras.config.enable_interactive_logging()


def test_other_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be 'auto', 0, 1 or 2.*verbose=3"):
        export_tflite(small_dense(), tmp_path / "a.tflite", verbose=3)
