"""Files of earlier versions give equal numbers. Files of later versions are refused."""

import json
import re
import shutil

import keras
import numpy as np
import pytest

from awn_keras import AnytimeInterpreter, AnyWidthInterpreter
from awn_keras.deploy.attachments import MANIFEST, attach, attached, flatbuffer_of
from awn_keras.deploy.benchmark.report import Report
from awn_keras.experiments.paper import PaperRun
from awn_keras.experiments.reproduce import load_result
from awn_keras.loading import load_model
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.result import holds_run_of
from awn_keras.runs.sets import read_set
from awn_keras.schemas import SCHEMAS
from tests.cli.test_bad_files import repacked, told
from tests.conftest import BACKEND, on_tensorflow
from tests.golden.write import EVERYWHERE, EXPORTS, ROOT, WIDTHS, batch_for, label

#: A folder for each version.
FOLDERS = sorted(path.parent for path in ROOT.glob("*/run"))
NEWEST = FOLDERS[-1]
pytestmark = pytest.mark.skipif(
    keras.__version__.startswith(("3.13.", "3.14.")),
    reason="Keras 3.15 wrote the files, and earlier versions read no initializer of it",
)
each_version = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
MODELS = [path for folder in FOLDERS for path in sorted(folder.glob("*.keras"))]


@pytest.fixture
def kept(tmp_path):
    """A copy of the newest folder, to write in."""
    return shutil.copytree(NEWEST, tmp_path / "kept")


def assert_close(got, wanted):
    # Other processors and backends sum in another order.
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------- what was written before


def test_every_kind_of_model_is_there():
    everywhere = {make.__name__ for make in EVERYWHERE}
    assert everywhere <= {path.stem for path in NEWEST.glob("*.keras")}


@pytest.mark.backends
@pytest.mark.parametrize(
    "path", MODELS, ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_models_give_what_they_gave(path):
    if BACKEND != "tensorflow" and path.stem in ("s_net", "us_net"):
        pytest.skip("baselines run on TensorFlow only")
    numbers = np.load(path.with_suffix(".npz"))
    model = load_model(path)
    for width in WIDTHS:
        got = model.predict(numbers["x"], verbose=0, width=width)
        assert_close(got, numbers[label(width)])
    # Training goes on where it was: momentum, fading, the widths that are drawn.
    x, y = batch_for(model)
    model.train_on_batch(x, y)
    assert_close(model.train_on_batch(x, y)[0], numbers["loss"])


@each_version
@pytest.mark.parametrize("name", EXPORTS)
def test_files_give_what_they_gave(folder, name):
    numbers = np.load(folder / "exports.npz")
    runner = AnyWidthInterpreter(folder / name)
    assert runner.widths == WIDTHS
    assert runner.metadata["metadata"]["class_names"] == list("0123456789")
    for width in WIDTHS:
        got = runner.run(numbers["x"], width)
        wanted = numbers[f"{name.partition('.')[0]}_{label(width)}"]
        if "int8" in name:
            # A sum next to a half may be rounded to the other side on another
            # processor, before each of three layers: a step is 1/255 of the range.
            np.testing.assert_allclose(got, wanted, atol=3 * np.ptp(wanted) / 255)
        else:
            assert_close(got, wanted)


@each_version
def test_files_are_refined_as_before(folder):
    numbers = np.load(folder / "exports.npz")
    anytime = AnytimeInterpreter(folder / "float32.tflite")
    assert_close(anytime.run(numbers["x"][:1]), numbers[f"float32_{label(0.25)}"][:1])
    assert_close(anytime.refine(), numbers["refined"])


@each_version
def test_widths_are_added_to_an_export(folder, tmp_path, capsys):
    more = tmp_path / "more.tflite"
    options = ("--append-to", folder / "float32.tflite", "--widths", "0.75")
    words = ["export", folder / "by_hand.keras", "--output", more, *options]
    assert told(words, capsys) is None
    assert AnyWidthInterpreter(more).widths == (0.25, 0.5, 0.75, 1.0)


@each_version
def test_reports_are_read(folder, tmp_path):
    path = folder / "float32.benchmark.json"
    report = Report.load(path)
    assert [row.width for row in report.sorted()] == [*WIDTHS]
    report.save(tmp_path / "report.json")
    old, new = (
        json.loads(each.read_text()) for each in (path, tmp_path / "report.json")
    )
    for before, now in zip(old["rows"], new["rows"], strict=True):
        assert before.items() <= now.items()  # There may be more fields by now.


def recipe_in(path):
    """The recipe that a file tells."""
    content = json.loads(path.read_text())
    return Recipe(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
            if name != "schema"
        }
    )


@on_tensorflow
@each_version
def test_runs_are_resumed(folder, tmp_path, capsys):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    assert holds_run_of(recipe_in(run / "recipe.json"), run)
    options = "--dataset digits --filters 2 --epochs 2 --widths-grid 0.25,0.5,1"
    words = ["train", *options.split(), "--output", run, "--resume"]
    assert told(words, capsys) is None
    old, new = (
        json.loads((path / "result.json").read_text()) for path in (folder / "run", run)
    )
    assert new["history"] == old["history"]
    # Of 360 images the answer of a few may be a tie, but for rounding.
    assert new["auc"] == pytest.approx(old["auc"], abs=2 / 360)


# ----------------------------------------------------------------------------- schemas


def with_schema(content, schema):
    """JSON of another schema; `None` for none."""
    content = {**json.loads(content), "schema": schema}
    if schema is None:
        del content["schema"]
    return json.dumps(content).encode()


def rewrite(path, schema):
    """Changes the schema of a file of ours."""
    if path.suffix == ".json":
        path.write_bytes(with_schema(path.read_bytes(), schema))
    elif path.suffix == ".tflite":
        files = attached(path)
        files[MANIFEST] = with_schema(files[MANIFEST], schema)
        path.write_bytes(attach(flatbuffer_of(path.read_bytes()), files))
    else:

        def change(config):
            whole = json.loads(config)
            whole["config"] = json.loads(
                with_schema(json.dumps(whole["config"]), schema)
            )
            return json.dumps(whole).encode()

        old = path.rename(path.with_name("old.zip"))
        repacked(old, path, {"config.json": change})


#: Each kind of file, a file of it, and a command that reads it.
READ = [
    ("manifest", "separate/manifest.json", "evaluate {}/separate --dataset digits"),
    ("manifest", "float32.tflite", "evaluate {}/float32.tflite --dataset digits"),
    ("manifest", "float32.tflite", "web {}/float32.tflite --output {}/page"),
    (
        "manifest",
        "float32.json",
        "export {}/by_hand.keras --append-to {}/float32.tflite --widths 0.75 "
        "--output {}/more.tflite",
    ),
    ("model", "by_hand.keras", "export {}/by_hand.keras"),
    ("model", "us_net.keras", "evaluate {}/us_net.keras --dataset digits"),
    (
        "report",
        "float32.benchmark.json",
        "benchmark {}/float32.tflite --merge {}/float32.benchmark.json "
        "--output {}/new.json",
    ),
    (
        "run",
        "run/recipe.json",
        "train --dataset digits --filters 2 --epochs 2 --widths-grid 0.25,0.5,1 "
        "--output {}/run --resume",
    ),
    ("run", "run/data.json", "evaluate {}/run/model.keras --dataset digits"),
]


@on_tensorflow
@pytest.mark.parametrize(("kind", "name", "command"), READ)
def test_what_a_later_version_wrote_is_told_apart(kind, name, command, kept, capsys):
    newer = SCHEMAS[kind] + 1
    rewrite(kept / name, newer)
    error = told(command.replace("{}", str(kept)).split(), capsys)
    match = (
        rf"{re.escape(kept.name)}.*' was written by a later awn_keras: its schema "
        rf"has version {newer}, but awn_keras \S+ reads schemas up to version "
        rf"{SCHEMAS[kind]}\. Update awn_keras: `git pull` in its checkout"
        r", then `pip install \.` there\."
    )
    assert re.search(match, error), error


def result_of(kept, results):
    """The result of the run as a directory of results has it, and the run."""
    run = PaperRun("awn", recipe_in(kept / "run" / "recipe.json"))
    results.mkdir()
    return shutil.copy(kept / "run" / "result.json", results / f"{run.name}.json"), run


def test_results_of_a_later_version_are_told_apart(kept, tmp_path):
    path, run = result_of(kept, tmp_path / "results")
    assert load_result(run, path.parent)["curves"]
    rewrite(path, SCHEMAS["run"] + 1)
    with pytest.raises(ValueError, match=r"version 2, but .*up to version 1\. Update"):
        load_result(run, path.parent)


def test_models_of_a_later_version_are_told_apart_by_keras_too(kept):
    rewrite(kept / "by_hand.keras", SCHEMAS["model"] + 1)
    with pytest.raises(ValueError, match=r"'by_hand' was .*version 2, .*version 1\."):
        keras.saving.load_model(kept / "by_hand.keras")


def test_files_without_a_schema_are_of_the_first(kept):
    names = ("by_hand.keras", "separate/manifest.json", "float32.tflite")
    names += ("float32.benchmark.json", "run/recipe.json", "run/data.json")
    for name in names:
        rewrite(kept / name, None)
    assert load_model(kept / "by_hand.keras").distinct_widths
    for name in ("separate", "float32.tflite"):
        runner = AnyWidthInterpreter(kept / name)
        assert runner.metadata["model"] == "by_hand"
    assert Report.load(kept / "float32.benchmark.json").rows
    assert holds_run_of(recipe_in(kept / "run" / "recipe.json"), kept / "run")
    assert read_set(kept / "run")["name"] == "digits"


@pytest.mark.parametrize("schema", [0, 1.5, "2", None, True])
def test_a_schema_is_a_number(kept, schema):
    path = kept / "float32.benchmark.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    match = "'schema' must be a whole number, at least 1"
    with pytest.raises(ValueError, match=match):
        Report.load(path)
