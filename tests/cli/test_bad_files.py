"""A bad file ends a command with one line that names the file and the fault."""

import json
import re
import shutil
import struct
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from awn_keras import export_tflite, slim
from awn_keras.cli import main
from awn_keras.deploy.attachments import attach, attached, flatbuffer_of
from awn_keras.deploy.benchmark.report import Report
from awn_keras.deploy.joining import pack
from awn_keras.runs.recipe import Recipe
from tests.conftest import classification, eagerly, small_dense
from tests.deploy.benchmark.test_report import row
from tests.deploy.classifiers import NAMES, of_pixels
from tests.experiments.test_reproduce import table_2_runs
from tests.mutants import mutants

pytestmark = eagerly


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes a model, its file, its folder of files, a photo and a report."""
    folder = tmp_path_factory.mktemp("made")
    model = of_pixels()
    model.save(folder / "model.keras")
    small_dense().save(folder / "dense.keras")
    said = {"widths": [0.5, 1.0], "metadata": {"class_names": NAMES}, "verbose": 0}
    export_tflite(model, folder / "net.tflite", **said)
    export_tflite(model, folder / "each", single_file=False, **said)
    Image.new("RGB", (16, 12)).save(folder / "photo.png")
    rows = [row(width, 4 * width, accuracy=width) for width in (0.5, 1.0)]
    Report(rows).save(folder / "report.json")
    return folder


def told(words, capsys):
    """Returns the error line of a command, or `None` if the command succeeds."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:  # argparse ends the process itself
        code = stop.code
    error = capsys.readouterr().err
    assert code in (0, 2), error
    if code == 0:
        return None
    assert error.startswith(f"awn {words[0]}: error: ")
    assert error.count("\n") == 1, error
    return error


# ------------------------------------------------------------------------- .keras


def repacked(source, path, changes):
    """Rewrites an archive with other contents of some entries."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name, lambda data: data)(old.read(name)))
    return path


def config_of(change):
    """Rewrites the model with another `config.json`."""

    def make(made, path):
        changed = {"config.json": lambda text: change(text.decode()).encode()}
        return repacked(made / "dense.keras", path, changed)

    return make


def patched(offset, form, value):
    """Writes the model anew, with other numbers in the head of each entry.

    Args:
        offset: Where it is in the central directory.
        form: What it is, as `struct` has it.
        value: The new one.
    """

    def make(made, path):
        data = bytearray((made / "dense.keras").read_bytes())
        place = data.find(b"PK\1\2")
        while place >= 0:
            struct.pack_into(form, data, place + offset, value)
            place = data.find(b"PK\1\2", place + 4)
        path.write_bytes(data)
        return path

    return make


def weights_of(change):
    def make(made, path):
        return repacked(made / "dense.keras", path, {"model.weights.h5": change})

    return make


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (patched(8, "<H", 1), "its entry '.*' is encrypted"),
        (
            patched(24, "<L", 2**31),
            r"cannot unpack from [\d,]+ to 2,147,483,648 bytes",
        ),
        (
            patched(20, "<L", 2**31),
            "cannot have 2,147,483,648 stored bytes in a file of ",
        ),
        (patched(20, "<L", 1), "cannot unpack from 1 to "),
        (patched(10, "<H", 99), "That compression method is not supported"),
        (patched(42, "<L", 2**31), "is not a saved Keras model"),
        (weights_of(lambda data: bytes(64) + data[64:]), "or is damaged: OSError"),
        (weights_of(lambda data: data[:2000]), "or is damaged: OSError"),
        (config_of(lambda text: "[" * 100_000), "not JSON.* maximum recursion depth"),
        (config_of(lambda text: text[:-9]), "config.json' is not .* not JSON"),
        (config_of(lambda text: "[]"), "'the content' must be an object, but is"),
        (config_of(lambda text: "{}"), "'class_name' is missing"),
        (
            config_of(lambda text: '{"class_name": 1, "config": {}}'),
            "'class_name' must be text, but is 1",
        ),
        (
            config_of(
                lambda text: text.replace('"units": 8', '"units": 1000000000000')
            ),
            r"weight of shape \(4, 1000000000000\), and the file holds [\d,]+ bytes",
        ),
        (
            config_of(lambda text: text.replace('"units": 8', '"units": "8"')),
            "or is damaged",
        ),
    ],
)
@pytest.mark.parametrize("command", ["summary", "convert"])
def test_damaged_models(command, make, match, made, tmp_path, capsys):
    path = make(made, tmp_path / "bad.keras")
    line = told([command, path], capsys)
    assert str(path) in line
    assert re.search(match, line), line


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        (
            "metrics",
            ["../x"],
            "'metrics' must be names that Keras knows, but is '../x'",
        ),
        ("metrics", [["accuracy", 1.5]], "'metrics' must be .*, but is 1.5"),
        ("weighted_metrics", {"a": True}, "'weighted_metrics' must be .*, but is True"),
        ("loss", "x", "'loss' must be names that Keras knows, but is 'x'"),
    ],
)
def test_a_model_compiled_with_what_is_not_known(
    field, value, match, made, tmp_path, capsys
):
    compiled = tmp_path / "compiled.keras"
    classification(small_dense()).save(compiled)

    def change(data):
        config = json.loads(data)
        config["compile_config"][field] = value
        return json.dumps(config).encode()

    path = repacked(compiled, tmp_path / "bad.keras", {"config.json": change})
    assert told(["summary", compiled], capsys) is None
    assert re.search(match, told(["summary", path], capsys))


def test_older_formats_and_what_to_do(made, tmp_path, capsys):
    path = tmp_path / "net.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    way_out = "`keras.saving.load_model('net.h5').save('net.keras')`"
    assert way_out in told(["convert", path], capsys)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    line = told(["convert", tmp_path / "saved"], capsys)
    assert "a SavedModel, which holds a graph" in line
    assert "`tf_keras.models.load_model('saved').save('saved.h5')`" in line


def test_the_way_out_of_h5_leads_out(tmp_path):
    plain = slim(small_dense(), 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr("keras.src.saving.saving_api.logging.warning", lambda *a: None)
        plain.save("net.h5")
        keras.saving.load_model("net.h5").save("net.keras")
        assert main(["summary", "net.keras"]) == 2  # of one width
        assert main(["convert", "net.keras", "--divisor", "1"]) == 0


def test_mutants_of_a_models_config(made, tmp_path, capsys):
    with zipfile.ZipFile(made / "dense.keras") as archive:
        config = json.loads(archive.read("config.json"))
    lines = 0
    for text, what in mutants(config, 120):
        path = config_of(lambda _, text=text: text)(made, tmp_path / "bad.keras")
        line = told(["summary", path], capsys)
        lines += line is not None
        assert line is None or str(path) in line or "awn convert" in line, what
    # Many do not matter: names, and what is not used.
    assert lines > 30


# ------------------------------------------------------------------------- reports


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"median_ms": "4"}, r"'rows\[0\].median_ms' must be a number, .* but is '4'"),
        ({"p90_ms": float("nan")}, r"'rows\[0\].p90_ms' must be a number, .* is nan"),
        ({"width": 2}, r"'rows\[0\].width' must be a number, at least 0 and at most 1"),
        ({"threads": 1.5}, r"'rows\[0\].threads' must be a whole number"),
        ({"time": 5}, r"'rows\[0\].time' must be text, but is 5"),
        ({"file": "../net.tflite"}, r"'rows\[0\].file' must be the name of a file"),
        ({"fully_accelerated": 1}, "must be true or false, but is 1"),
    ],
)
def test_reports_with_a_wrong_value(changes, match, made, tmp_path, capsys):
    content = json.loads((made / "report.json").read_text())
    content["rows"][0] |= changes
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))
    line = told(["pick", path, "--budget-ms", 3], capsys)
    assert f"'{path}' is not a report of `awn benchmark`" in line
    assert re.search(match, line), line


def test_mutants_of_a_report(made, tmp_path, capsys):
    content = json.loads((made / "report.json").read_text())
    path = tmp_path / "report.json"
    lines = 0
    for text, _ in mutants(content, 400):
        path.write_text(text)
        line = told(["pick", path, "--budget-ms", 3], capsys)
        lines += line is not None
        try:
            report = Report.load(path)
        except ValueError:
            continue
        report.warnings()
        report.table()
    assert lines > 150


# ----------------------------------------------------------------- manifests, TFLite


@pytest.mark.parametrize(
    ("precision", "match"),
    [
        ("int3", "'precision' must be one of float32, .* but is 'int3'"),
        (None, "'precision' must be text, but is None"),
        ({}, "'precision' must be text, but is {}"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_manifest_of_unknown_precision(
    inside, precision, match, made, tmp_path, capsys
):
    path = tmp_path / "net.tflite"
    manifest = json.loads((made / "net.json").read_text()) | {"precision": precision}
    content = (made / "net.tflite").read_bytes()
    if inside:
        said = attached(content)
        about = json.loads(said["awn.json"]) | {"precision": precision}
        files = {"awn.json": json.dumps(about).encode()}
        content = attach(flatbuffer_of(content), files)
    else:
        content = flatbuffer_of(content)
        manifest["widths"] = [
            {**record, "sha256": sha256(content)} for record in manifest["widths"]
        ]
    path.write_bytes(content)
    (tmp_path / "net.json").write_text(json.dumps(manifest))
    line = told(["verify", path, "--against", made / "model.keras"], capsys)
    assert "is not the manifest of an export: export the model again" in line
    assert str(tmp_path / ("net.tflite" if inside else "net.json")) in line
    assert re.search(match, line), line


def sha256(content):
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_mutants_of_a_manifest_in_a_file(made, tmp_path, capsys):
    content = (made / "net.tflite").read_bytes()
    said = attached(content)
    path = tmp_path / "net.tflite"
    lines = 0
    for text, what in mutants(json.loads(said["awn.json"]), 40):
        files = {**said, "awn.json": text.encode()}
        path.write_bytes(attach(flatbuffer_of(content), files))
        line = told(["predict", path, made / "photo.png"], capsys)
        lines += line is not None
        web = ["web", path, "--output", tmp_path / "page"]
        assert told(web, capsys) is None or line is not None, what
        told(["verify", path, "--against", made / "model.keras"], capsys)
    assert lines > 10


def test_mutants_of_the_manifest_of_a_folder(made, tmp_path, capsys):
    folder = tmp_path / "each"
    shutil.copytree(made / "each", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("environment")
    lines = 0
    for text, _ in mutants(manifest, 80):
        (folder / "manifest.json").write_text(text)
        lines += told(["predict", folder, made / "photo.png"], capsys) is not None
    assert lines > 20


def test_mutants_of_the_manifest_of_an_earlier_export(made, tmp_path, capsys):
    """Each one that matters is refused; the rest is not exported here."""
    path = tmp_path / "net.tflite"
    shutil.copy(made / "net.tflite", path)
    manifest = json.loads((made / "net.json").read_text())
    manifest.pop("environment")
    words = ["export", made / "model.keras", "--append-to", path, "--widths", "0.5"]
    for text, _ in mutants(manifest, 40):
        (tmp_path / "net.json").write_text(text)
        # It has this width already: what else is right ends there.
        assert told([*words, "--output", tmp_path / "new.tflite"], capsys)


def test_a_file_whose_tensors_do_not_fit_each_other(made, tmp_path, capsys):
    from ai_edge_litert import schema_py_generated as schema

    content = (made / "net.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for graph in model.subgraphs:
        for operator in graph.operators:
            tensor = graph.tensors[operator.inputs[-1]]
            if tensor.shape is not None and len(tensor.shape):
                tensor.shape = np.asarray([7] * len(tensor.shape), "int32")
    path = tmp_path / "net.tflite"
    path.write_bytes(attach(pack(model), attached(content)))
    for words in (
        ["predict", path, made / "photo.png"],
        ["verify", path, "--against", made / "model.keras"],
        ["web", path, "--output", tmp_path / "page"],
        ["benchmark", path],
        ["benchmark", path, "--dry"],
    ):
        line = told(words, capsys)
        assert f"'{path}' is not a TFLite file, or not a whole one" in line


# --------------------------------------------------------------------------- runs


@pytest.fixture
def resumed(trained, tmp_path, monkeypatch):
    """A copy of a finished run, and what goes on with it, without a curve."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)

    def no_curve(recipe, directory, *args):
        raise AssertionError("history was taken")

    monkeypatch.setattr("awn_keras.runs.run.finish", no_curve)
    recipe = json.loads((folder / "recipe.json").read_text())
    words = "train --dataset digits --filters 4 --epochs 2 --widths-grid 0.25,0.5,1"
    assert recipe["filters"] == Recipe("digits", filters=4).filters
    return folder, [*words.split(), "--resume", "--output", folder]


@pytest.mark.parametrize(
    ("history", "match"),
    [
        ("[]", "'the content' must be a list of at least 2, but is"),
        ('[{"epoch": 0, "seconds": 1}]', "a list of at least 2"),
        ('[{"epoch": 0}, {"epoch": 1}]', r"'\[0\].seconds' is missing"),
        ('[{"seconds": 0}, {}]', r"'\[0\].epoch' is missing"),
        ('{"epoch": 0}', "a list of at least 2"),
        (
            '[{"epoch": 0, "seconds": 1, "loss": "0"}, {"epoch": 1, "seconds": 1}]',
            "loss",
        ),
        ("[" * 100_000, "recursion"),
        ("", "not JSON"),
    ],
)
def test_a_history_that_cannot_be(history, match, resumed, capsys):
    folder, words = resumed
    (folder / "history.json").write_text(history)
    line = told(words, capsys)
    assert f"'{folder / 'history.json'}' is not" in line
    assert re.search(match, line), line


@pytest.mark.parametrize("name", ["recipe.json", "data.json"])
def test_mutants_of_what_a_run_says(name, resumed, capsys):
    folder, words = resumed
    content = json.loads((folder / name).read_text())
    (folder / "history.json").write_text("[]")  # no mutant goes on
    for text, what in mutants(content, 8):
        (folder / name).write_text(text)
        assert told(words, capsys), what


# ------------------------------------------------------------------------- results


def test_mutants_of_a_result(tmp_path, capsys, monkeypatch):
    runs = table_2_runs(tmp_path)
    path = tmp_path / f"{runs[2].name}.json"  # of one that was evaluated each epoch
    content = json.loads(path.read_text())
    content["recipe"] = {}  # of which other values are of other recipes
    recipe = json.loads(path.read_text())["recipe"]

    def savefig(figure, to, **kwargs):
        to.write(b"picture")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    words = ["reproduce", "table2", "--show", "--results", tmp_path]
    lines = 0
    for text, _ in mutants(content, 60):
        path.write_text(text.replace('"recipe": {}', f'"recipe": {json.dumps(recipe)}'))
        lines += told(words, capsys) is not None
    assert lines > 20
