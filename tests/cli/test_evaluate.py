import json
import re

import numpy as np
import pytest

from awn_keras.cli import main
from awn_keras.data import load_data
from awn_keras.loading import load_model


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


@pytest.mark.parametrize("options", ["", "--inputs uint8", "--separate"])
def test_evaluate_a_file_gives_the_accuracy_of_the_model(
    trained, tmp_path, capsys, options
):
    path = tmp_path / ("a" if "separate" in options else "a.tflite")
    export = f"export {trained}/model.keras --dataset digits --widths 0.5,1 {options}"
    assert main(f"{export} --output {path}".split()) == 0
    capsys.readouterr()
    assert main(f"evaluate {path} --dataset digits".split()) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["width", "accuracy"]
    model, test = load_model(trained / "model.keras"), load_data("digits").test(360)
    images, labels = test[0]
    for row, width in zip(rows, (0.5, 1.0), strict=True):
        numbers = re.fullmatch(r" +([\d.]+) +([\d.]+) %", row)
        assert float(numbers[1]) == width
        model.width = width
        accuracy = np.mean(np.asarray(model(images)).argmax(1) == labels)
        # Printed with two digits; the same answers.
        assert float(numbers[2]) == pytest.approx(100 * accuracy, abs=0.006)
    assert main(f"evaluate {path} --dataset digits --widths 1".split()) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_evaluate_a_file_on_what_does_not_fit(trained, bad_files, tmp_path, capsys):
    path = tmp_path / "a.tflite"
    assert main(f"export {bad_files}/any.keras --widths 1 --output {path}".split()) == 0
    for arguments, match in (
        ("--dataset digits", r"`--dataset` must have images of shape \[\(6, 6, 2\)\]"),
        ("--dataset digits --output x", "`--output` works only for a .keras file"),
    ):
        assert main(f"evaluate {path} {arguments}".split()) == 2
        assert re.search(match, capsys.readouterr().err)
    three = tmp_path / "three.tflite"
    code = main(f"export {bad_files}/three.keras --output {three}".split())
    assert code == 0
    assert main(f"evaluate {three} --dataset digits".split()) == 2
    assert "as many classes as there are outputs" in capsys.readouterr().err
