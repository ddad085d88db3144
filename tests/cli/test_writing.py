"""In each command, files that belong together change together, even after faults."""

import itertools
import re
from dataclasses import dataclass

import pytest

from awn_keras import TradeOffCurve, slim
from awn_keras.cli import main
from awn_keras.data import load_data
from awn_keras.deploy import export
from awn_keras.deploy.benchmark.report import Report
from awn_keras.experiments.reproduce import write_report
from awn_keras.runs import result as results
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.run import _Best, _Checkpoint, _write_description
from tests.conftest import eagerly
from tests.deploy.benchmark.test_report import row
from tests.deploy.classifiers import NAMES, of_pixels
from tests.experiments.test_reproduce import table_2_runs
from tests.failing import CALLS, contents, failing, small_disk

pytestmark = eagerly

CURVE = TradeOffCurve([0.5, 1.0], [0.8, 0.9], [0.3, 0.2], [10, 20], [5, 9], {})
#: An older manifest, which is one by its key.
MANIFEST = '{"widths": [], "older": true}'
REPORT = '{"schema": 1, "rows": [], "failures": []}'


@dataclass
class Model:
    """Stands for a model: what it saves takes no time to make."""

    content: bytes = b"new model"
    stop_training = False

    def save(self, path):
        path.write_bytes(self.content)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and its file; conversions that are kept for all tests."""
    folder = tmp_path_factory.mktemp("made")
    model = of_pixels()
    model.save(folder / "model.keras")
    kept = {}
    convert = export.convert

    def convert_once(networks, *args):
        name = tuple(networks)
        if name not in kept:
            kept[name] = convert(networks, *args)
        return kept[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "convert", convert_once)
        said = {"metadata": {"class_names": NAMES}, "verbose": 0}
        export.export_tflite(model, folder / "net.tflite", widths=[0.5, 1.0], **said)
        yield folder


@pytest.fixture
def canned(monkeypatch):
    """Evaluations, measurements and pictures that are there at once."""

    def savefig(figure, to, *, format, **kwargs):
        to.write("<svg/>" if format == "svg" else b"picture")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    monkeypatch.setattr("awn_keras.cli.evaluate.load_dataset", lambda *args: Data())
    monkeypatch.setattr("awn_keras.curves.trade_off_curve", lambda *a, **kw: CURVE)

    def measure(on_progress):
        report = Report()
        for width in (0.5, 1.0):
            report.put(row(width=width, signature=f"width_{width}", accuracy=width))
            on_progress(report)
        return report

    places = "awn_keras.cli.benchmark._places"
    monkeypatch.setattr(places, lambda args, path: [measure])


class Data:
    class_names = ("a", "b")

    def test(self):
        return None


# ---------------------------------------------------------------- what is written


def run(command):
    def write(made, folder):
        code = main(command.format(made=made, out=folder).split())
        assert code in (0, 2)
        if code:
            raise OSError("told in one line")

    return write


def checkpoint(made, folder):
    history = [{"epoch": 0, "val_auc": 0.1}]
    callback = _Checkpoint(folder, history, None, _Best(history, 2))
    callback.set_model(Model())
    callback.on_epoch_begin(1)
    callback.on_epoch_end(1, {"val_auc": 0.2})


def before_training(made, folder):
    _write_description(Recipe("digits"), load_data("digits"), folder)


def finish(made, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "_curves", lambda *args: {0: CURVE})
        patch.setattr(results, "describe", lambda *args: {"auc": 0.85})
        results.finish(Recipe("digits"), folder, Model(), None, [])


def paper(made, folder):
    write_report(folder)


#: What writes, and the older files, which it replaces.
WRITERS = {
    "export": (
        run("export {made}/model.keras --widths 0.5,1 --output {out}/net.tflite"),
        {"net.tflite": "older", "net.json": MANIFEST},
    ),
    "export --separate": (
        run("export {made}/model.keras --widths 0.5,1 --separate --output {out}"),
        {"animals_width_050.tflite": "older", "manifest.json": MANIFEST},
    ),
    "evaluate": (
        run("evaluate {made}/model.keras --dataset digits --output {out}"),
        {"curve.csv": "older", "curve.json": "older", "curve.png": "older"},
    ),
    "benchmark": (
        run(
            "benchmark {made}/net.tflite --output {out}/r.json --csv {out}/r.csv "
            "--html {out}/r.html"
        ),
        {"r.json": REPORT, "r.csv": "older", "r.html": "older"},
    ),
    "web": (
        run("web {made}/net.tflite --output {out}"),
        {"net.tflite": "older", "index.html": '<meta content="awn web"> older'},
    ),
    "train, before": (before_training, {"recipe.json": "older", "data.json": "older"}),
    "train, an epoch": (
        checkpoint,
        {"history.json": "[]", "model.keras": "older", "best.keras": "older"},
    ),
    "train, the end": (
        finish,
        {"curve.csv": "older", "curve.png": "older", "result.json": "older"},
    ),
    "reproduce": (
        paper,
        {"README.md": "older", "figure5_fashion_mnist_lenet_3c1l.png": "older"},
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", WRITERS)
def test_files_that_belong_together_stay_together(name, call, made, canned, tmp_path):
    write, older = WRITERS[name]
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        if write is paper:
            table_2_runs(folder)
        for place, content in older.items():
            (folder / place).write_text(content)
        before = contents(folder)
        try:
            with failing(call, number) as fault:
                write(made, folder)
        except OSError:
            assert fault.came
            # A benchmark writes after each row.
            assert contents(folder) == before or (name == "benchmark" and agree(folder))
        else:
            now = contents(folder)
            assert all(now[place] != before[place] for place in older)
            assert not [place for place in now if "partial" in place]
        if not fault.came:
            break
    # The stand-in for a model writes on its own.
    assert number >= len(older) - 2 * (write is checkpoint and call == "write")


def agree(folder):
    """Whether the files of a report have the same rows, and at least one."""
    rows = len(Report.load(folder / "r.json").rows)
    lines = (folder / "r.csv").read_text().splitlines()
    page = (folder / "r.html").read_text()
    return 1 + rows == len(lines) > 1 and page.count("<tr><td>cpu</td>") == 2 * rows


# -------------------------------------------------------------------------- a disk


@pytest.mark.parametrize("left", [0, 4, 8])
@pytest.mark.parametrize("name", ["export", "evaluate", "benchmark", "web"])
def test_a_full_disk_leaves_what_was_there(name, left, made, canned, tmp_path, capsys):
    write, older = WRITERS[name]
    with small_disk(tmp_path / "disk", 64) as disk:
        for place, content in older.items():
            (disk / place).write_text(content)
        # A file takes pages of 4 kB.
        (disk / "rest").write_bytes(bytes(1024 * (64 - left - 4 * len(older))))
        before = contents(disk)
        with pytest.raises(OSError, match="told in one line"):
            write(made, disk)
        assert contents(disk) == before
    said = capsys.readouterr().err
    assert re.search(rf"error: {disk}\S*: No space left on device\.", said)


def test_a_model_for_which_there_is_no_room_leaves_nothing(made, tmp_path, capsys):
    plain = tmp_path / "plain.keras"
    slim(of_pixels(), 1.0).save(plain)
    with small_disk(tmp_path / "disk", 12) as disk:
        output = disk / "any.keras"
        assert main(["convert", str(plain), "--output", str(output)]) == 2
        assert not list(disk.iterdir())
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{output}: No space left on device." in error


def test_a_link_stays_a_link(made, tmp_path):
    for name in ("net.tflite", "net.json"):
        (tmp_path / "real").mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / "real" / name)
    WRITERS["export"][0](made, tmp_path)
    assert (tmp_path / "net.tflite").is_symlink()
    assert sorted(contents(tmp_path / "real")) == ["net.json", "net.tflite"]
