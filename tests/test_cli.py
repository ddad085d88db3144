import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import awn_keras
from awn_keras import TriConv2D, lenet_3c1l, slim, summarize
from awn_keras.cli import main
from awn_keras.data import load_data
from awn_keras.loading import load_keras_model
from awn_keras.runs.presets import paper_recipe, recommended_recipe
from tests.conftest import classification, small_conv


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cli") / "run"
    code = main(
        f"train --dataset digits --filters 4 --epochs 2 --widths-grid 0.25,0.5,1 "
        f"--output {directory}".split()
    )
    assert code == 0
    return directory


def test_train_takes_the_papers_other_systems(tmp_path, capsys):
    arguments = "--dataset digits --filters 2 --epochs 1"
    code = main(f"train {arguments} --system us_net --output {tmp_path}".split())
    assert code == 0
    out = capsys.readouterr().out
    for count in (4, 10, 20):
        assert f"{count} widths calibrated:" in out
    assert main(f"train {arguments} --system ofa --output {tmp_path}".split()) == 2
    assert "`--system` must be one of" in capsys.readouterr().err


def test_train_prints_the_curve_and_keeps_the_run(trained, capsys):
    result = json.loads((trained / "result.json").read_text())
    assert result["recipe"]["filters"] == 4
    assert result["recipe"]["widths_grid"] == [0.25, 0.5, 1.0]
    assert len(result["history"]) == 2
    code = main(
        f"train --dataset digits --filters 4 --epochs 2 --widths-grid 0.25,0.5,1 "
        f"--output {trained} --resume".split()
    )
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-5:-1]] == [
        *("width", "0.2500", "0.5000", "1.0000")
    ]
    assert lines[-1].startswith(f"AUC {100 * result['auc']:.2f} %")


def test_evaluate(trained, tmp_path, capsys):
    code = main(
        f"evaluate {trained}/model.keras --dataset digits --widths 0.5,1 "
        f"--output {tmp_path}".split()
    )
    assert code == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["0.5000", "1.0000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("curve.csv", "curve.json", "curve.png")
    ]
    result = json.loads((trained / "result.json").read_text())
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert curve["accuracy"] == result["curves"][0]["accuracy"][1:]


@pytest.fixture
def plain(tmp_path):
    """A saved plain model."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="inner")(x)
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    path = tmp_path / "mine.keras"
    model = keras.Model(inputs, outputs, name="mine")
    model.compile("adam", "mse")
    model.save(path)
    return path


def test_convert(plain, tmp_path, capsys):
    assert main(f"convert {plain} --min-width 0.5 --divisor 2".split()) == 0
    path = tmp_path / "mine_any_width.keras"
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{path}: 3 networks. The narrowest and the widest:"
    assert [line.split()[0] for line in out[2:4]] == ["0.500000", "1.000000"]
    model = keras.saving.load_model(path)
    assert (model.min_width, model.divisor) == (0.5, 2)
    assert isinstance(model.get_layer("inner"), TriConv2D)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("mine.keras", "mine_any_width.keras")
    ]
    # What it wrote is what the other commands read.
    assert main(f"summary {path}".split()) == 0
    assert "inner" in capsys.readouterr().out


def test_convert_does_not_overwrite_what_may_have_been_trained(plain, tmp_path, capsys):
    path = tmp_path / "mine_any_width.keras"
    path.write_text("trained")
    assert main(f"convert {plain} --divisor 2".split()) == 2
    assert "mine_any_width.keras is there already" in capsys.readouterr().err
    assert path.read_text() == "trained"


def test_convert_with_all_settings(plain, tmp_path):
    output = tmp_path / "new" / "wide.keras"
    arguments = f"convert {plain} --output {output} --divisor 1 --width-multiplier 1.5"
    assert main([*arguments.split(), "--widths-grid", "0.5,1"]) == 0
    model = keras.saving.load_model(output)
    assert model.distinct_widths == (0.5, 1.0)
    assert model.get_layer("inner").filters == 12


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("--order importance", "'mine' is untrained"),
        ("--order best", "`--order` must be one of"),
        ("--width-multiplier 0", "`--width-multiplier` must be above 0"),
        ("--min-width 2", "`--min-width` must be in"),
        ("--output model.tflite", "must be a .keras file"),
        ("", "one network only"),  # 8 channels are one block of 8
    ],
)
def test_bad_conversions_are_one_line_and_leave_nothing(
    plain, tmp_path, arguments, match, capsys
):
    assert main(f"convert {plain} {arguments}".split()) == 2
    captured = capsys.readouterr()
    assert re.match(rf"awn convert: error: .*{match}.*\n\Z", captured.err)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.keras"]


def test_what_cannot_be_converted_is_listed(tmp_path, capsys):
    inputs = keras.Input((6,))
    x = keras.layers.LayerNormalization(name="norm")(keras.layers.Dense(8)(inputs))
    x = keras.layers.Softmax(name="soft")(keras.layers.Dense(8)(x))
    path = tmp_path / "other.keras"
    keras.Model(inputs, keras.layers.Dense(3)(x), name="other").save(path)
    assert main(f"convert {path}".split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == ("awn convert: error: Model 'other' cannot become any-width:")
    assert "'norm'" in lines[1]
    assert "'soft'" in lines[2]
    assert len(lines) == 3


def test_a_model_with_classes_of_its_own_is_to_be_loaded_in_python(tmp_path):
    code = (
        "import keras\n"
        "class Own(keras.layers.Layer):\n"
        "    def call(self, x): return x\n"
        "inputs = keras.Input((4,))\n"
        f"keras.Model(inputs, Own()(inputs)).save(r'{tmp_path}/own.keras')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with pytest.raises(ValueError, match="load it in Python, where their classes"):
        load_keras_model(tmp_path / "own.keras")


def test_summary(trained, capsys):
    assert main(f"summary {trained}/model.keras --widths 0.5,1".split()) == 0
    out = capsys.readouterr().out
    model = keras.saving.load_model(trained / "model.keras")
    assert out == f"{summarize(model, [0.5, 1.0])}\n"
    assert main(f"summary {trained}/model.keras".split()) == 0
    assert capsys.readouterr().out == f"{summarize(model)}\n"


def test_summary_of_networks(trained, capsys):
    assert main(f"summary {trained}/model.keras --networks".split()) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["0.250000", "0.500000", "1.000000"]
    assert main(f"summary {trained}/model.keras --networks --widths 0.5".split()) == 0
    assert capsys.readouterr().out.splitlines()[1:] == rows[1:2]


@pytest.mark.parametrize(
    ("options", "recipe", "directory"),
    [
        ("mnist", recommended_recipe("mnist"), "mnist_lenet_3c1l"),
        (
            "mnist --seed 3",
            replace(recommended_recipe("mnist"), seed=3),
            "mnist_lenet_3c1l",
        ),
        (
            "mnist --schedule steps",
            replace(recommended_recipe("mnist"), schedule="steps"),
            "mnist_lenet_3c1l",
        ),
        ("cifar10", recommended_recipe("cifar10"), "cifar10_lenet_3c1l"),
        (
            "mnist --model mobilenet_v2",
            recommended_recipe("mnist", "mobilenet_v2"),
            "mnist_mobilenet_v2",
        ),
        ("mnist --system awn_rs", paper_recipe("mnist"), "mnist_lenet_3c1l_awn_rs"),
        (
            "mnist --system us_net",
            paper_recipe("mnist", system="us_net"),
            "mnist_lenet_3c1l_us_net",
        ),
        (
            "cifar10 --system awn_rs --model mobilenet_v2 --min-width 0.5 --epochs 7",
            replace(paper_recipe("cifar10", "mobilenet_v2"), min_width=0.5, epochs=7),
            "cifar10_mobilenet_v2_awn_rs",
        ),
    ],
)
def test_train_starts_from_the_recommended_or_the_papers_recipe(
    options, recipe, directory, monkeypatch
):
    received = []

    def stop(*args, **kwargs):
        received.append(args)
        raise ValueError("stop here")

    monkeypatch.setattr("awn_keras.runs.run.run", stop)
    assert main(["train", "--dataset", *options.split()]) == 2
    assert received == [(recipe, Path("runs", directory))]


def test_export_and_verify(trained, tmp_path, capsys):
    output = tmp_path / "digits.tflite"
    code = main(
        f"export {trained}/model.keras --widths 0.25,1 --dataset digits "
        f"--refine 0.25,1 --output {output}".split()
    )
    assert code == 0
    *rows, told = capsys.readouterr().out.splitlines()
    assert len(rows) == 3
    assert rows[-1].endswith("100.0 %  width_100, digits.tflite")
    assert told == "AnytimeInterpreter: answers at 0.25, refines to 1"
    manifest = json.loads((tmp_path / "digits.json").read_text())
    assert manifest["metadata"]["class_names"] == list("0123456789")
    assert len(manifest["metadata"]["normalization"]["mean"]) == 1
    arguments = f"verify {output} --against {trained}/model.keras --dataset digits"
    assert main(arguments.split()) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in rows[1:]] == [
        "keep_025_to_100",
        "width_025",
        "refine_025_to_100",
        "width_100",
    ]
    assert rows[-1].endswith("100.0 %  width_100")


def test_export_into_separate_files(trained, tmp_path, capsys):
    code = main(
        f"export {trained}/model.keras --widths 0.25,1 --separate --layout dense "
        f"--output {tmp_path}".split()
    )
    assert code == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[-1].endswith("width_100, lenet_3c1l_width_100.tflite")
    assert (tmp_path / "lenet_3c1l_width_025.tflite").stat().st_size > 1000
    assert (tmp_path / "manifest.json").exists()


def test_export_int8_from_a_data_set_or_a_file(trained, tmp_path, capsys):
    export = f"export {trained}/model.keras --widths 1 --precision int8"
    one, other = tmp_path / "one.tflite", tmp_path / "other.tflite"
    assert main(f"{export} --dataset digits --output {one}".split()) == 0
    images = load_data("digits").train(50)[0][0]
    np.save(tmp_path / "x.npy", images / 10)
    code = main(f"{export} --representative {tmp_path}/x.npy --output {other}".split())
    assert code == 0
    assert one.stat().st_size < 0.5 * (trained / "model.keras").stat().st_size
    verify = f"verify {one} --against {trained}/model.keras"
    assert main(f"{verify} --precision float32".split()) == 2
    assert "more than tolerance=0.0001" in capsys.readouterr().err
    # The manifest tells the precision; random inputs reach farther than faint images.
    assert main(verify.replace(str(one), str(other)).split()) == 2
    assert "tolerance=0.3 allows. Compare on real inputs" in capsys.readouterr().err
    assert main(f"{verify} --dataset digits".split()) == 0


def test_the_script_is_the_command(trained, tmp_path):
    script = Path(__file__).parents[1] / "tflite" / "export.py"
    output = tmp_path / "a.tflite"
    done = subprocess.run(
        [sys.executable, script, trained / "model.keras", "--output", output],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0
    assert output.exists()
    assert "width_100, a.tflite" in done.stdout


@pytest.mark.slow
def test_demo_as_a_program(tmp_path):
    done = program("demo", "--output", tmp_path / "demo")
    assert done.returncode == 0
    assert "44 networks in one model" in done.stdout
    found = re.findall(r"width ([\d.]+): +([\d.]+) % right", done.stdout)
    assert [float(width) for width, _ in found] == [0.05, 0.25, 0.5, 1.0]
    accuracy = [float(right) for _, right in found]
    # Two channels read most digits, all of them nearly all.
    assert accuracy[0] > 75
    assert accuracy[-1] > 95
    assert accuracy[-1] > accuracy[0]
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"summary.txt", "curve.png", "model.keras", "digits.tflite"} <= names
    assert "digits.json" in names
    assert sum(name.endswith(".tflite") for name in names) == 1
    # No warnings, no native log lines.
    assert done.stderr == ""


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


# --------------------------------------------------------------------------- errors


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "file").write_text("no folder")
    (folder / "text.keras").write_text("no zip file")
    (folder / "model.h5").write_text("another format")
    model = small_conv()
    slim(model, 1.0).save(folder / "plain.keras")
    classification(model).save(folder / "any.keras")
    three = lenet_3c1l((8, 8, 1), 3, filters=4, padding="same")
    classification(three).save(folder / "three.keras")
    (folder / "foreign").mkdir()
    model.save(folder / "foreign" / "model.keras")
    # A whole archive without its weights. (Which bytes of a file matter is up to its
    # reader: zeros written somewhere may go unnoticed.)
    with (
        zipfile.ZipFile(folder / "any.keras") as whole,
        zipfile.ZipFile(folder / "damaged.keras", "w") as damaged,
    ):
        for name in ("config.json", "metadata.json"):
            damaged.writestr(name, whole.read(name))
    return folder


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("", "required: command"),
        ("fly", "invalid choice: 'fly'"),
        ("train", "required: --dataset"),
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
        ("train --dataset digits --output {bad}/file", "File exists"),
        ("train --dataset digits --output {bad}/file/run", "Not a directory"),
        ("train --dataset digits --momentum nan", "`--momentum` must be in"),
        ("train --dataset digits --output {bad}/foreign", "no recipe.json that"),
        ("train --dataset digits --output {bad}/foreign --resume", "no recipe.json"),
        ("demo --output {bad}/foreign", "no recipe.json that.*Name another"),
        ("export {bad}/damaged.keras", "is not a saved Keras model"),
        ("export {bad}/any.keras --dataset digits", "must have images of shape"),
        ("evaluate {bad}/three.keras --dataset digits", "of 10 classes"),
        ("train --dataset mnist --data-dir {bad} --output {bad}/o", "not prepared at"),
        ("demo --output {bad}/file", "File exists"),
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
        ("export {bad}/any.keras --output {bad}/file/x.tflite", "File exists"),
        (
            "export {bad}/any.keras --output {bad}/o",
            "`--output` must end in '.tflite'; with `--separate`",
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
        ("verify {bad}/none.tflite --against {bad}/any.keras", "No such file"),
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


def test_a_broken_archive_is_one_line_too(bad_files, capsys, tmp_path):
    content = (bad_files / "any.keras").read_bytes()
    (tmp_path / "broken.keras").write_bytes(content[: len(content) // 2])
    assert main(["export", str(tmp_path / "broken.keras")]) == 2
    assert "is not a saved Keras model" in capsys.readouterr().err


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
