"""Hostile files and names cannot run code, reach other files or change pages."""

import html.parser
import json
import re
import shutil
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import keras
import pytest

from awn_keras import export_tflite
from awn_keras.cli import main
from awn_keras.deploy.attachments import attach, attached, flatbuffer_of
from awn_keras.deploy.benchmark import write_html
from awn_keras.deploy.benchmark.report import Failure, Report, Row
from tests.cli.test_bad_files import config_of, told
from tests.conftest import eagerly, small_dense
from tests.deploy.benchmark.test_report import row
from tests.deploy.classifiers import NAMES, of_pixels

pytestmark = eagerly

#: Text that would be code on a page, in a picture's formulas, or in a shell.
HOSTILE = "</td></title><script>alert(1)</script>\"'`$(touch gone)$\\frac{ ; touch gone"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    small_dense().save(folder / "dense.keras")
    said = {"widths": [0.5, 1.0], "metadata": {"class_names": NAMES}, "verbose": 0}
    export_tflite(of_pixels(), folder / "net.tflite", **said)
    export_tflite(of_pixels(), folder / "each", single_file=False, **said)
    return folder


# --------------------------------------------------------------------------- models


def swapped(**changes):
    """Another module, class or name for the first Tri layer of a model."""

    def change(text):
        config = json.loads(text)
        layers = config["config"]["layers"]
        layer = next(
            layer_config
            for layer_config in layers
            if layer_config["class_name"] == "TriDense"
        )
        layer.update(changes)
        return json.dumps(config)

    return config_of(change)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            swapped(module="os"),
            r"is refused: it names 'TriDense' of the module 'os' by the name "
            r"'awn_keras>TriDense', which is awn_keras\.layers\.\w+\.TriDense",
        ),
        (swapped(class_name="system"), "is refused: it names 'system' of the module"),
        (
            swapped(registered_name="awn_keras>AnyWidthModel"),
            r"is refused: it names 'TriDense' .*, which is .*\.AnyWidthModel",
        ),
        (
            swapped(module="os", class_name="system", registered_name=None),
            r"has custom layers or functions\. .* 'system' of the module 'os'",
        ),
        (
            swapped(module="subprocess", class_name="Popen", registered_name="Popen"),
            r"has custom layers or functions\. .* 'Popen' of the module 'subproces",
        ),
        (
            swapped(module="keras.utils", class_name="get_file", registered_name=None),
            "or is damaged: .*get_file",
        ),
        (swapped(module=["os"]), r"'TriDense' must be text, and are \['os'\]"),
    ],
)
def test_a_model_that_names_what_it_is_not(make, match, made, tmp_path, capsys):
    path = make(made, tmp_path / "bad.keras")
    line = told(["summary", path], capsys)
    assert str(path) in line
    assert re.search(match, line), line


def test_code_in_a_model_is_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"

    inputs = keras.Input((4,))
    # What a Lambda may name when it is loaded.
    layer = keras.layers.Lambda(
        lambda x: [open("gone", "w").close(), x][1],  # noqa: PTH123
        output_shape=(4,),
    )
    outputs = layer(inputs)
    path = tmp_path / "lambda.keras"
    keras.Model(inputs, outputs).save(path)
    line = told(["convert", path], capsys)
    assert "contains Python code of a Lambda layer" in line
    assert "safe_mode=False" in line
    assert not gone.exists()
    keras.saving.load_model(path, safe_mode=False)(keras.ops.zeros((1, 4)))
    assert gone.exists()


def test_a_class_of_a_user_may_have_moved(tmp_path):
    @keras.saving.register_keras_serializable("mine")
    class Moved(keras.layers.Layer):
        def call(self, x):
            return x

    Moved.__module__ = "a_script"
    inputs = keras.Input((4,))
    keras.Model(inputs, Moved()(inputs)).save(tmp_path / "own.keras")
    Moved.__module__ = "a_module"
    from awn_keras.loading import load_keras_model

    loaded = load_keras_model(tmp_path / "own.keras")
    assert isinstance(loaded.layers[-1], Moved)


# ------------------------------------------------------------------------ file names


@pytest.mark.parametrize(
    "name",
    ["../net.tflite", "/etc/passwd", "a/b.tflite", "..", "", "C:net", "\\b"],
)
def test_names_in_manifests_stay_in_their_folder(name, made, tmp_path, capsys):
    folder = tmp_path / "each"
    shutil.copytree(made / "each", folder)
    shutil.copy(made / "net.tflite", tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["widths"][0]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    photo = tmp_path / "photo.png"
    line = told(["predict", folder, photo], capsys)
    assert "'widths[0].file' must be the name of a file, which stays in its" in line


# ------------------------------------------------------------------------------ pages


class Tags(html.parser.HTMLParser):
    """All tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.seen = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen |= {tag, *(name for name, _ in attributes)}


TEXTS = [column.name for column in fields(Row) if "str" in str(column.type)]


@pytest.mark.parametrize("name", TEXTS)
def test_each_text_of_a_report_is_text_on_its_page(name, tmp_path):
    rows = [row(width, 9 * width) for width in (0.5, 1.0)]
    write_html(Report(rows), tmp_path / "plain.html")
    rows = [replace(each, **{name: HOSTILE}) for each in rows]
    write_html(Report(rows), tmp_path / "hostile.html")
    plain, hostile = (
        Tags((tmp_path / f"{which}.html").read_text()).seen
        for which in ("plain", "hostile")
    )
    # A legend may need more of SVG.
    assert not (hostile - plain) & {"script", "img", "iframe", "onload", "onerror"}
    assert "<script" not in (tmp_path / "hostile.html").read_text()


@pytest.mark.parametrize("name", ["target", "signature", "message", "file", "device"])
def test_each_text_of_a_failure_is_text_on_its_page(name, tmp_path):
    failure = replace(Failure("gpu", "width_050", 1, "no GPU"), **{name: HOSTILE})
    write_html(Report([row()], [failure]), tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text()


def test_what_a_file_calls_itself_is_text_on_its_page(made, tmp_path, capsys):
    content = (made / "net.tflite").read_bytes()
    said = json.loads(attached(content)["awn.json"])
    said["model"] = HOSTILE
    said["metadata"] = {"class_names": [HOSTILE] * 4}
    path = tmp_path / "net.tflite"
    labels = "\n".join([HOSTILE] * 4).encode()
    files = {"labels.txt": labels, "awn.json": json.dumps(said).encode()}
    path.write_bytes(attach(flatbuffer_of(content), files))
    assert told(["web", path, "--output", tmp_path / "page"], capsys) is None
    text = (tmp_path / "page" / "index.html").read_text()
    assert "alert(1)" in text
    assert "<script>alert" not in text
    # Labels are read by scripts, which set text and never HTML.
    for script in (tmp_path / "page" / "awn").glob("*.js"):
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
            assert way not in script.read_text()


# ----------------------------------------------------------------------------- shells


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--ssh", "-oProxyCommand=touch gone"], "`--ssh` must be a host, user@board"),
        (["--ssh", "a; touch gone"], "`--ssh` must be a host, user@board"),
        (["--ssh", "$(touch gone)@b"], "`--ssh` must be a host, user@board"),
        (["--serial", "; touch gone"], "Android device ; touch gone is not connected"),
        (["--serial=-e", "--android"], "Android device -e is not connected"),
        (["--android", "--adb", "true; touch gone"], "'true; touch gone' was not foun"),
    ],
)
def test_names_of_devices_are_no_commands(
    words, match, made, tmp_path, monkeypatch, capsys
):
    adb = tmp_path / "adb"
    adb.write_text("#!/bin/sh\necho 'List of devices attached'\n")
    adb.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    if "--adb" not in words:
        words = [*words, "--adb", adb]
    output = ["--output", tmp_path / "report.json"]
    assert match in told(["benchmark", made / "net.tflite", *output, *words], capsys)
    assert not Path("gone").exists()


def test_what_is_shown_to_be_typed_is_quoted(made, tmp_path, capsys):
    folder = tmp_path / "a; touch gone"
    assert main(["web", str(made / "net.tflite"), "--output", str(folder)]) == 0
    assert f"--directory '{folder}'" in capsys.readouterr().out


def test_names_in_archives_go_nowhere(made, tmp_path, capsys):
    path = tmp_path / "net.tflite"
    path.write_bytes((made / "net.tflite").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../gone", "gone")
    assert told(["web", path, "--output", tmp_path / "page"], capsys) is None
    assert not list(tmp_path.parent.glob("gone"))
