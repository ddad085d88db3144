import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import awn_keras
from awn_keras import AnyWidthInterpreter
from awn_keras.cli import main
from tests.deploy.browser import (
    CORE,
    Page,
    chromium,
    needs_browser,
    needs_litertjs,
    served,
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    litertjs = ["--litertjs", CORE] if CORE.is_dir() else []
    return folder, program("demo", "--output", folder, "--web", *litertjs)


@pytest.mark.slow
def test_demo_as_a_program(demo):
    folder, done = demo
    assert done.returncode == 0
    assert "one model with 44 networks" in done.stdout
    widths = re.findall(r"width ([\d.]+): +([\d.]+) % correct", done.stdout)
    assert [float(width) for width, _ in widths] == [0.05, 0.25, 0.5, 1.0]
    accuracy = [float(right) for _, right in widths]
    # Two channels read most digits, all of them nearly all.
    assert accuracy[0] > 75
    assert accuracy[-1] > 95
    assert accuracy[-1] > accuracy[0]
    names = {path.name for path in folder.iterdir()}
    assert {"summary.txt", "curve.png", "model.keras", "digits.tflite"} <= names
    assert "digits.json" in names
    page = folder / "web"
    assert "<h1>Handwritten digits</h1>" in (page / "index.html").read_text()
    said = AnyWidthInterpreter(page / "digits.tflite").metadata["metadata"]
    assert said["drawing"] == {"paper": 0, "ink": 16, "margin": 0}
    assert sum(name.endswith(".tflite") for name in names) == 1
    # No warnings, no native log lines.
    assert done.stderr == ""


def arc(x, y, width, height, start, end):
    """Points of an ellipse, in degrees from the right, downwards."""
    angles = np.radians(np.linspace(start, end, 17))
    return [(x + width * np.cos(a), y + height * np.sin(a)) for a in angles]


#: Lines of handwritten digits, in 0..1.
DIGITS = [
    [arc(0.5, 0.5, 0.25, 0.35, 0, 360)],
    [[(0.4, 0.3), (0.55, 0.15), (0.55, 0.85)]],
    [[*arc(0.5, 0.33, 0.22, 0.2, 180, 390), (0.28, 0.85), (0.75, 0.85)]],
    [arc(0.48, 0.32, 0.2, 0.17, 200, 440) + arc(0.48, 0.67, 0.22, 0.2, 280, 520)],
    [[(0.55, 0.12), (0.25, 0.6), (0.78, 0.6)], [(0.6, 0.35), (0.6, 0.88)]],
    [[(0.7, 0.15), (0.35, 0.15), (0.32, 0.45), *arc(0.48, 0.64, 0.22, 0.22, 230, 490)]],
    [[(0.62, 0.12), (0.4, 0.4), *arc(0.48, 0.66, 0.2, 0.2, 180, 540)]],
    [[(0.28, 0.15), (0.72, 0.15), (0.42, 0.88)]],
    [arc(0.5, 0.32, 0.18, 0.17, 90, 450), arc(0.5, 0.68, 0.2, 0.19, -90, 270)],
    [[*arc(0.5, 0.33, 0.2, 0.19, 0, 360), (0.68, 0.4), (0.55, 0.88)]],
]


@pytest.mark.slow
@needs_browser
@needs_litertjs
def test_the_page_of_the_demo_reads_drawn_digits(demo):
    folder, _ = demo
    right = dict.fromkeys(range(4), 0)
    with served(folder / "web") as address, chromium() as driver:
        page = Page(driver).open(address)
        for digit, lines in enumerate(DIGITS):
            page.find("clear").click()
            for line in lines:
                page.draw(line)
            for index in right:
                page.choose_width(index)
                right[index] += page.answers[0][0] == str(digit)
    # Ten when this was written; another hand than scikit-learn's.
    assert right[3] >= 8
    # Two channels read some of them; chance is one.
    assert right[0] >= 3


def program(*arguments):
    """Runs `awn` as a user does, without the test's environment variables."""
    hidden = ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES", "AWN_NATIVE_LOGS")
    return subprocess.run(
        [sys.executable, "-m", "_awn", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k not in hidden},
    )


def test_a_mistake_is_one_line_of_the_program():
    done = program("train", "--dataset", "imagenet")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"awn train: error: .*'imagenet'\n", done.stderr)


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("", "required: command"),
        ("fly", "invalid choice: 'fly'"),
        ("train", "--dataset --data is required"),
        ("train --dataset imagenet", "`--dataset` must be one of.*'imagenet'"),
        ("train --dataset digits --model resnet", "`--model` must be one of"),
        ("train --dataset digits --model mobilenet_v2 --filters 8", "leave it out"),
        ("train --dataset digits --min-width 0", r"`--min-width` must be in \(0, 1\]"),
        (
            "train --dataset digits --min-width 1.5",
            r"`--min-width` must be in \(0, 1\]",
        ),
        ("train --dataset digits --epochs ten", "invalid int value: 'ten'"),
        ("train --dataset digits --widths-grid 0.5,x", "separated by commas"),
        ("train --dataset digits --output {bad}/file", "`--output` must be a folder"),
        ("train --dataset digits --output {bad}/file/run", "/file' is a file"),
        ("train --dataset digits --momentum nan", "`--momentum` must be in"),
        ("train --dataset digits --output {bad}/foreign", "no recipe.json that"),
        ("train --dataset digits --output {bad}/foreign --resume", "no recipe.json"),
        ("demo --output {bad}/foreign", "no recipe.json that.*Name another"),
        ("export {bad}/damaged.keras", "is not a saved Keras model"),
        ("export {bad}/any.keras --dataset digits", "must have images of shape"),
        ("evaluate {bad}/three.keras --dataset digits", "with 10 classes"),
        ("train --dataset mnist --data-dir {bad} --output {bad}/o", "not prepared at"),
        ("demo --output {bad}/file", "`--output` must be a folder, not a file"),
        ("evaluate {bad}/none.keras --dataset digits", "There is no file"),
        ("evaluate {bad}/text.keras --dataset digits", "is not a saved Keras model"),
        ("evaluate {bad}/any.keras --dataset digits", "must have images of shape"),
        ("export {bad}/model.h5", "is not a saved Keras model"),
        ("summary", "required: model"),
        ("summary {bad}/none.keras", "There is no file"),
        ("summary {bad}/text.keras", "is not a saved Keras model"),
        ("summary {bad}/plain.keras --networks", "has one width only"),
        ("summary {bad}/any.keras --widths 0.1", r"min_width=0\.25"),
        ("summary {bad}/any.keras --networks --widths 0.1", r"min_width=0\.25"),
        ("summary {bad}/any.keras --widths 2", "argument --widths"),
        ("export {bad}", "is not a saved Keras model"),
        ("export {bad}/plain.keras", "has one width only"),
        ("export {bad}/any.keras --widths 0", r"argument --widths: widths in \(0, 1\]"),
        ("export {bad}/any.keras --widths 1.5", "argument --widths"),
        ("export {bad}/any.keras --widths 0.1 --output {bad}/o.tflite", "min_width"),
        (
            "export {bad}/any.keras --output {bad}/file/x.tflite",
            "`--output` must lie in",
        ),
        (
            "export {bad}/any.keras --output {bad}/o",
            "`--output` must end in '.tflite'. .With `--separate`",
        ),
        ("export {bad}/any.keras --separate --output {bad}/o.tflite", "a directory"),
        ("export {bad}/any.keras --separate --single-file", "not allowed with"),
        ("export {bad}/any.keras --layout sparse", "`--layout` must be one of"),
        ("export {bad}/any.keras --precision int4", "`--precision` must be one of"),
        (
            "export {bad}/any.keras --precision int8",
            "`--precision int8` needs `--representative`",
        ),
        ("export {bad}/any.keras --refine 1,0.5", "the narrower one first"),
        (
            "export {bad}/any.keras --precision int8 --representative {bad}/text.keras",
            "is not an .npy file",
        ),
        ("verify {bad}/text.keras --against {bad}/any.keras", "is not a TFLite file"),
        ("verify {bad}/none.tflite --against {bad}/any.keras", "There is no file"),
        ("verify {bad}/none.tflite", "required: --against"),
        (
            "verify {bad}/text.keras --against {bad}/any.keras --precision int4",
            "`--precision` must be one of",
        ),
    ],
)
def test_bad_input_gets_one_line_and_code_2(command, match, bad_files, capsys):
    arguments = command.format(bad=bad_files).split()
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse ends the process itself
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert re.search(match, error)
    assert error.startswith("awn")
    assert error.count("\n") == 1


def test_interruption_is_no_traceback(monkeypatch, capsys, bad_files):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.saving, "load_model", interrupt)
    assert main(["export", str(bad_files / "any.keras")]) == 130
    assert capsys.readouterr().err == "awn export: interrupted\n"


def test_it_tells_its_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"awn_keras {awn_keras.__version__}\n"
