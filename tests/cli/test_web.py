import re

import pytest

from awn_keras import export_tflite
from awn_keras.cli import main
from tests.conftest import small_conv
from tests.deploy.browser import CORE, needs_litertjs
from tests.deploy.classifiers import NAMES, of_pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files with and without labels, and one that is no classifier of images."""
    folder = tmp_path_factory.mktemp("web")
    said = {"widths": [0.25, 1.0], "verbose": 0}
    names = {"class_names": NAMES}
    export_tflite(of_pixels(), folder / "a.tflite", metadata=names, **said)
    export_tflite(of_pixels(), folder / "unnamed.tflite", **said)
    export_tflite(of_pixels(), folder / "each", single_file=False, **said)
    export_tflite(small_conv(), folder / "table.tflite", **said)
    (folder / "text.tflite").write_text("no TFLite file")
    (folder / "index.html").write_text("My homepage")
    return folder


def test_it_writes_a_page_and_says_how_to_open_it(folder, capsys):
    assert main(["web", f"{folder}/a.tflite"]) == 0
    page = folder / "a_web" / "index.html"
    assert "<title>animals</title>" in page.read_text()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{page} needs a web server.")
    assert f"http.server --directory {page.parent}`" in line


def test_classes_without_names_are_told(folder, tmp_path, capsys):
    command = f"web {folder}/unnamed.tflite --output {tmp_path}/page --title Animals"
    assert main(command.split()) == 0
    told, _ = capsys.readouterr().out.splitlines()
    assert "has no labels: the page shows class numbers" in told
    assert "<h1>Animals</h1>" in (tmp_path / "page" / "index.html").read_text()


@needs_litertjs
def test_one_file(folder, tmp_path, capsys):
    options = f"--single-file --litertjs {CORE}"
    assert main(f"web {folder}/a.tflite {options}".split()) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"{folder}/a\.html \([34]\.\d MB\) opens in any browser\.", line
    )
    assert '"embedded": true' in (folder / "a.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("{0}/none.tflite", "There is no file .*none.tflite"),
        ("{0}/text.tflite", "is not a TFLite file"),
        ("{0}/table.tflite", "must take one image"),
        ("{0}/each", "is a folder.*export the model without `--separate`"),
        ("{0}/a.tflite --single-file", "`--single-file` needs `--litertjs`"),
        ("{0}/a.tflite --litertjs {0}", "`--litertjs` must be the folder of the npm"),
        ("{0}/a.tflite --output {0}/a.html", "`--output` must be a folder"),
        ("{0}/a.tflite --output {0}", "`awn web` did not write it.*another `--output`"),
        ("", "required: file"),
    ],
)
def test_a_mistake_is_one_line(folder, arguments, match, capsys):
    try:
        code = main(["web", *arguments.format(folder).split()])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(match, line)


def test_a_demo_that_cannot_have_its_page_does_not_begin(tmp_path, capsys):
    demo = f"demo --output {tmp_path}/demo --litertjs {tmp_path}"
    assert main(demo.split()) == 2
    assert "`--litertjs` needs `--web`" in capsys.readouterr().err
    assert main([*demo.split(), "--web"]) == 2
    assert "must be the folder of the npm package" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
