import json
import re
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel
from awn_keras.cli import main
from awn_keras.data import load_data


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
    assert told == "AnytimeInterpreter: runs at 0.25, refines to 1"
    manifest = json.loads((tmp_path / "digits.json").read_text())
    assert manifest["metadata"]["class_names"] == list("0123456789")
    assert "normalization" not in manifest["metadata"]  # the model's own matter
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


def test_export_appends_widths_to_a_file(trained, tmp_path, capsys):
    path = tmp_path / "digits.tflite"
    export = f"export {trained}/model.keras --output {path}"
    assert main(f"{export} --widths 0.25,1".split()) == 0
    capsys.readouterr()
    append = f"{export} --append-to {path}"
    assert main(f"{append} --widths 0.5".split()) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[-2] for row in rows] == [
        *("width_025,", "width_050,", "width_100,")
    ]
    before = path.read_bytes()
    for arguments, match in (
        (append, "`--widths` must name the new widths with `--append-to`"),
        (f"{append} --widths 0.5", "must be widths that the file"),
        (f"{export} --widths 1 --append-to {tmp_path}/no.tflite", "There is no file"),
    ):
        assert main(arguments.split()) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert match in line
    assert path.read_bytes() == before


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
    first, other = tmp_path / "one.tflite", tmp_path / "other.tflite"
    assert main(f"{export} --dataset digits --output {first}".split()) == 0
    images = load_data("digits").train(50)[0][0]
    np.save(tmp_path / "x.npy", images / 10)
    code = main(f"{export} --representative {tmp_path}/x.npy --output {other}".split())
    assert code == 0
    assert first.stat().st_size < 0.5 * (trained / "model.keras").stat().st_size
    verify = f"verify {first} --against {trained}/model.keras"
    assert main(f"{verify} --precision float32".split()) == 2
    assert "more than tolerance=0.0001" in capsys.readouterr().err
    # The manifest tells the precision; random inputs reach farther than faint images.
    assert main(verify.replace(str(first), str(other)).split()) == 2
    assert "tolerance=0.3 allows. Compare on real inputs" in capsys.readouterr().err
    assert main(f"{verify} --dataset digits".split()) == 0


def test_the_script_is_the_command(trained, tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "tflite" / "export.py"
    output = tmp_path / "a.tflite"
    arguments = [script, trained / "model.keras", "--output", output]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert output.exists()
    assert "width_100, a.tflite" in capsys.readouterr().out


def test_a_broken_archive_is_one_line_too(bad_files, capsys, tmp_path):
    content = (bad_files / "any.keras").read_bytes()
    (tmp_path / "broken.keras").write_bytes(content[: len(content) // 2])
    assert main(["export", str(tmp_path / "broken.keras")]) == 2
    assert "is not a saved Keras model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.full((4, 6, 6, 2), "a"), r"real numbers\. Received: dtype <U1"),
        (np.zeros((4, 6, 6, 2), complex), r"real numbers\. Received: dtype complex128"),
        (np.zeros((4, 6)), "`--representative` must have at least one sample"),
    ],
)
def test_a_file_that_is_no_representative_set(
    array, match, bad_files, tmp_path, capsys
):
    path = tmp_path / "x.npy"
    np.save(path, array)
    arguments = f"export {bad_files}/any.keras --precision int8 --representative {path}"
    assert main(arguments.split()) == 2
    assert re.search(match, capsys.readouterr().err)


def test_a_representative_set_whose_head_is_no_python(bad_files, tmp_path, capsys):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 6, 6, 2)))
    content = path.read_bytes()
    path.write_bytes(content[:40] + b"(" + content[41:])
    arguments = f"export {bad_files}/any.keras --precision int8 --representative {path}"
    assert main(arguments.split()) == 2
    assert f"{path} is not an .npy file of numbers: " in capsys.readouterr().err


def test_a_model_of_open_sizes_is_exported_and_summarized_at_one(tmp_path, capsys):
    inputs = keras.Input((None, None, 1), name="image")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(inputs))
    model = tmp_path / "open.keras"
    AnyWidthModel(inputs, keras.layers.Dense(3)(x)).save(model)
    assert main(f"export {model} --widths 1".split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`--input-shape 128,128,1`" in line
    assert main(f"summary {model} --networks".split()) == 0
    captured = capsys.readouterr()
    assert "24+" in captured.out
    assert captured.err.startswith("warning: MACs of model")
    shape = "--input-shape 6,7,1"
    assert main(f"summary {model} --networks {shape}".split()) == 0
    captured = capsys.readouterr()
    assert f"{4 * 5 * 9 * 8 + 24:,}" in captured.out
    assert captured.err == ""
    assert main(f"export {model} --widths 1 {shape}".split()) == 0
    manifest = json.loads((tmp_path / "open.json").read_text())
    assert manifest["inputs"][0]["shape"] == [1, 6, 7, 1]
    assert main(f"verify {tmp_path}/open.tflite --against {model}".split()) == 0
