"""Folders of photos, from training to the benchmark."""

import json
import shutil

import pytest

from awn_keras import lenet_3c1l
from awn_keras.cli import main
from awn_keras.cli.arguments import parse_size
from tests.data.folders import photos

TRAIN = "--model lenet_3c1l --size 16 --filters 4 --epochs 1 --widths-grid 0.25,1"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of photos, and what was trained on it and exported."""
    place = tmp_path_factory.mktemp("place")
    photos(place / "photos", cat=10, dog=10, bird=10)
    run = place / "run"
    assert main(f"train --data {place}/photos {TRAIN} --output {run}".split()) == 0
    export = f"export {run}/model.keras --data {place}/photos --output {run}/a.tflite"
    assert main(export.split()) == 0
    return place


def lines_of(capsys, command):
    code = main(command.split())
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_training_keeps_the_folder_and_is_resumed(place, capsys, monkeypatch):
    recipe = json.loads((place / "run" / "recipe.json").read_text())
    assert recipe["dataset"] == "photos"
    assert recipe["folder"] == str(place / "photos")
    monkeypatch.chdir(place)
    resume = f"train --data photos {TRAIN} --output run --resume"
    code, out, _ = lines_of(capsys, resume)
    assert code == 0
    assert out[-1].startswith("AUC ")


def test_evaluating_on_the_folder_takes_what_was_held_out(place, capsys):
    evaluate = f"evaluate {place}/run/model.keras --data {place}/photos --widths 1"
    code, out, err = lines_of(capsys, evaluate)
    assert code == 0
    assert err == ["Testing on 6 photos, which training held out."]
    result = json.loads((place / "run" / "result.json").read_text())
    accuracy = result["curves"][0]["accuracy"][-1]
    assert f"{100 * accuracy:.2f} %" in out[-1]


def test_other_photos_belong_to_classes_by_name(place, tmp_path, capsys):
    """A folder of dogs alone: the third class, whatever comes first there."""
    photos(tmp_path / "new", dog=9)
    evaluate = f"evaluate {place}/run/model.keras --data {tmp_path}/new --widths 1"
    code, out, err = lines_of(capsys, evaluate)
    assert code == 0
    assert err == ["Testing on 9 photos, all of the folder."]
    dogs = out[-1].split()[1]
    # Called birds, the same photos are the first class.
    (tmp_path / "new" / "dog").rename(tmp_path / "new" / "bird")
    _, out, _ = lines_of(capsys, evaluate)
    assert float(dogs) + float(out[-1].split()[1]) <= 100
    photos(tmp_path / "new", cow=2)
    code, _, (line,) = lines_of(capsys, evaluate)
    assert code == 2
    assert "must have only classes of the model: 'bird'" in line


def test_without_data_json_classes_are_in_the_order_of_their_names(
    place, tmp_path, capsys
):
    shutil.copy(place / "run" / "model.keras", tmp_path)
    evaluate = f"evaluate {tmp_path}/model.keras --widths 1 --data"
    code, _, err = lines_of(capsys, f"{evaluate} {place}/photos")
    assert code == 0
    # Photos of the training are among them: nothing says which ones.
    beside = f"no data.json beside {tmp_path}/model.keras says what training held out"
    assert err == [f"Testing on 30 photos, all of the folder: {beside}."]
    photos(tmp_path / "two", cat=2, dog=2)
    code, _, lines = lines_of(capsys, f"{evaluate} {tmp_path}/two")
    assert code == 2
    assert (
        "as many classes as there are outputs, which have the shape [(3,)]" in lines[-1]
    )


def test_files_are_compared_and_measured_on_photos(place, capsys):
    manifest = json.loads((place / "run" / "a.json").read_text())
    assert manifest["metadata"]["class_names"] == ["bird", "cat", "dog"]
    file, data = place / "run" / "a.tflite", f"--data {place}/photos"
    verify = f"verify {file} --against {place}/run/model.keras {data}"
    code, out, _ = lines_of(capsys, verify)
    assert code == 0
    assert out[-1].endswith("100.0 %  width_100")
    measure = f"benchmark {file} {data} --runs 1 --repeats 1 --min-seconds 0 --widths 1"
    code, out, _ = lines_of(capsys, measure)
    assert code == 0
    result = json.loads((place / "run" / "result.json").read_text())
    accuracy = result["curves"][0]["accuracy"][-1]
    assert f"{100 * accuracy:.2f}%" in "".join(out)


@pytest.mark.parametrize(
    ("command", "match"),
    [
        (
            "train --dataset {place}/photos",
            "is a folder. For a folder of photos, use `--data`",
        ),
        ("train --data {place}/none", "There is no folder"),
        (
            "train --data {place}/run/a.tflite",
            "must be a folder that has a folder of photos",
        ),
        ("train --data {place}/photos --held-out 0", "`--held-out` must be above 0"),
        ("train --data {place}/photos --shift 99", "`--shift` must be at least 0"),
        ("train --dataset digits --size 8", "`--size` is for a folder of photos"),
        (
            "evaluate {place}/run/model.keras --dataset digits",
            "`--dataset` must have images of shape [(16, 16, 3)]",
        ),
    ],
)
def test_what_does_not_go_is_one_line(command, match, place, tmp_path, capsys):
    command = command.format(place=place)
    if command.startswith("train"):
        command += f" --output {tmp_path}/out"
    code, _, (line,) = lines_of(capsys, command)
    assert code == 2
    assert match in line


@pytest.mark.parametrize("command", ["train", "evaluate m.keras"])
def test_a_set_is_needed_and_one_only(command, capsys):
    for given, match in (
        ("", "one of the arguments --dataset --data is required"),
        (
            "--dataset digits --data photos",
            "not allowed with argument --dataset",
        ),
    ):
        with pytest.raises(SystemExit):
            main(f"{command} {given}".split())
        assert match in capsys.readouterr().err


def test_a_model_that_scales_nothing_is_warned_of(tmp_path, capsys):
    from tests.conftest import classification

    model = lenet_3c1l((8, 8, 1), filters=4, padding="same", widths_grid=[0.5, 1.0])
    classification(model).save(tmp_path / "old.keras")
    evaluate = f"evaluate {tmp_path}/old.keras --dataset digits --widths 1"
    code, _, (line,) = lines_of(capsys, evaluate)
    assert code == 0
    assert line == (
        "warning: 'lenet_3c1l' has no layer that scales its inputs, so it gets pixels, "
        "0 to 16. If it was trained on other values, the results are wrong."
    )


def test_a_size_is_one_number_or_two():
    assert parse_size("96") == (96, 96)
    assert parse_size("96,128") == (96, 128)
    for text in ("0", "1,2,3", "x"):
        with pytest.raises(Exception, match=r"rows and cols|integers"):
            parse_size(text)
