import json
import re

import numpy as np
import pytest
from PIL import Image

from awn_keras import AnyWidthInterpreter, export_tflite, read_photo, slim
from awn_keras.cli import main
from tests.conftest import classification, small_conv
from tests.deploy.classifiers import NAMES, of_pixels, pixels, softmax


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, files of it, and photos."""
    folder = tmp_path_factory.mktemp("predict")
    model = classification(of_pixels())
    model.save(folder / "model.keras")
    (folder / "data.json").write_text(json.dumps({"class_names": NAMES}))
    said = {"widths": [0.25, 1.0], "metadata": {"class_names": NAMES}}
    export_tflite(model, folder / "a.tflite", outputs="probabilities", **said)
    export_tflite(model, folder / "each", single_file=False, **said)
    for seed in (0, 1):
        photo = pixels(1, (20, 20, 3), seed)[0]
        Image.fromarray(photo).save(folder / f"{seed}.png")
    (folder / "empty.jpg").touch()
    return folder, model


def answers(out):
    """`[(photo, [(percent, name), ...]), ...]` of what was printed."""
    photos = []
    for line in out.splitlines():
        if head := re.fullmatch(r"(\S+)  \([\d.]+ ms\)", line):
            photos.append((head[1], []))
        else:
            percent, name = re.fullmatch(r" *([\d.]+) %  (.+)", line).groups()
            photos[-1][1].append((float(percent), name))
    return photos


@pytest.mark.parametrize("name", ["a.tflite", "each", "model.keras"])
@pytest.mark.parametrize("width", [None, 0.25])
def test_it_says_what_is_on_photos(folder, name, width, capsys):
    folder, model = folder
    photos = [f"{folder}/0.png", f"{folder}/1.png"]
    options = ["--top", "3"] + ([] if width is None else ["--width", str(width)])
    assert main(["predict", f"{folder}/{name}", *photos, *options]) == 0
    named_photos = answers(capsys.readouterr().out)
    assert [photo for photo, _ in named_photos] == photos
    model.width = width or 1.0
    for photo, named in named_photos:
        x = read_photo(photo, (12, 16, 3))[None].astype("float32")
        (wanted,) = softmax(model(x))
        order = np.argsort(-wanted)[:3]
        assert [label for _, label in named] == [NAMES[i] for i in order]
        # Printed with one digit.
        percents = [percent for percent, _ in named]
        np.testing.assert_allclose(percents, 100 * wanted[order], atol=0.06)


def test_what_cannot_be_read_is_told_after_the_rest(folder, capsys):
    folder, _ = folder
    photos = [f"{folder}/{name}" for name in ("empty.jpg", "none.jpg", "0.png")]
    assert main(["predict", f"{folder}/a.tflite", *photos]) == 2
    told = capsys.readouterr()
    assert [photo for photo, _ in answers(told.out)] == [photos[2]]
    (line,) = told.err.splitlines()
    assert re.search(r"empty\.jpg is empty\.; There is no file .*none\.jpg\.$", line)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("{0}/none.tflite {0}/0.png", "There is no file"),
        ("{0}/none.keras {0}/0.png", "There is no file"),
        ("{0}/a.tflite", "required: photo"),
        ("{0}/a.tflite {0}/0.png --width 0.5", "`--width` must be one of"),
        ("{0}/a.tflite {0}/0.png --top 0", "`--top` must be at least 1"),
        ("{0}/a.tflite {0}/0.png --threads 0", "`--threads` must be at least 1"),
        ("{0}/table.keras {0}/0.png", "must take one image of pixels"),
        ("{0}/plain.keras {0}/0.png --width 0.5", "`--width` works only for any-width"),
    ],
)
def test_a_mistake_is_one_line(folder, arguments, match, capsys):
    folder, model = folder
    if not (folder / "table.keras").exists():
        small_conv().save(folder / "table.keras")
        slim(model, 1.0).save(folder / "plain.keras")
    try:
        code = main(["predict", *arguments.format(folder).split()])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(match, line)


def test_an_export_takes_names_from_the_data_of_training(folder, tmp_path, capsys):
    folder, _ = folder
    path = tmp_path / "b.tflite"
    export = f"export {folder}/model.keras --widths 0.25,1 --output {path}"
    assert main(export.split()) == 0
    interpreter = AnyWidthInterpreter(path)
    assert interpreter.labels == tuple(NAMES)
    # The model was compiled for logits, and an app wants to name what it sees.
    assert interpreter.run(pixels(1).astype("float32")).sum() == pytest.approx(1)
    assert main(f"{export} --outputs model --inputs uint8".split()) == 0
    interpreter = AnyWidthInterpreter(path)
    assert abs(interpreter.run(pixels(1)).sum() - 1) > 0.01
    # Further widths are like those that are there.
    for options in ("--inputs uint8", "--outputs model"):
        assert main(f"{export} {options}".split()) == 0
        before = AnyWidthInterpreter(path)
        append = export.replace("0.25,1", "0.5")
        assert main(f"{append} --append-to {path}".split()) == 0
        after = AnyWidthInterpreter(path)
        assert after.widths == (0.25, 0.5, 1.0)
        for key in ("inputs", "outputs", "changed", "metadata"):
            assert after.metadata[key] == before.metadata[key]
    capsys.readouterr()
    assert main(f"{export} --outputs scores".split()) == 2
    assert "`--outputs` must be one of" in capsys.readouterr().err
    (folder / "data.json").write_text('{"class_names": 3}')
    try:
        assert main(export.split()) == 2
        assert "is not a file of a training run" in capsys.readouterr().err
    finally:
        (folder / "data.json").write_text(json.dumps({"class_names": NAMES}))
