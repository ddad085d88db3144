"""Makes a folder with each kind of file that commands read, and damages the files."""

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from awn_keras import export_tflite, slim
from awn_keras.deploy.attachments import attach, attached, flatbuffer_of
from awn_keras.deploy.benchmark.report import Report
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.run import run
from tests.conftest import classification, small_dense
from tests.data.folders import photo, photos
from tests.deploy.benchmark.test_report import row
from tests.deploy.classifiers import of_pixels, pixels
from tests.experiments.test_reproduce import table_2_runs
from tests.mutants import damaged, mutant

CLASSES = ["bird", "cat", "dog", "größe"]
#: A program in the place of `adb`, `ssh` and `scp`. It prints the text file beside it.
_TOOL = '#!/bin/sh\ncat "$(dirname "$0")"/{}.txt\n'


def make_place(folder):
    """Writes all files into a folder. Takes some seconds."""
    model = classification(of_pixels())
    model.save(folder / "model.keras")
    plain = slim(small_dense(), 1.0)
    # As if trained, because `convert` draws new weights for an untrained network.
    for weight in plain.weights:
        weight.assign(weight + 0.1)
    plain.save(folder / "plain.keras")
    said = {
        "widths": [0.5, 1.0],
        "metadata": {"class_names": CLASSES},
        "verbose": 0,
    }
    export_tflite(model, folder / "net.tflite", **said)
    export_tflite(model, folder / "each", single_file=False, **said)
    rows = [row(width, 4 * width, accuracy=width) for width in (0.5, 1.0)]
    Report(rows).save(folder / "report.json")
    photo(folder / "photo.png")
    photo(folder / "photo.jpg")
    photos(folder / "photos", **dict.fromkeys(CLASSES, 3))
    np.save(folder / "pixels.npy", pixels(20).astype("float32"))
    run(Recipe("digits", filters=4, epochs=1), folder / "run", verbose=0)
    (folder / "results").mkdir()
    table_2_runs(folder / "results")
    tuned = folder / "cache" / "awn_keras"
    tuned.mkdir(parents=True)
    (tuned / "layers.json").write_text('{"a": 0.1, "b": 2.5}')
    _write_tools(folder / "bin")
    (folder / "empty").touch()
    for package in ("core", "wasm-utils"):
        place = folder / "litertjs" / "@litertjs" / package
        place.mkdir(parents=True)
        about = {"name": f"@litertjs/{package}", "version": "2.5.3"}
        (place / "package.json").write_text(json.dumps(about))
    return folder


def _write_tools(folder):
    folder.mkdir()
    for name in ("adb", "ssh", "scp"):
        (folder / name).write_text(_TOOL.format(name))
        (folder / name).chmod(0o755)
    (folder / "adb.txt").write_text(
        "List of devices attached\nR5CT1\tunauthorized\nR5CT2\toffline\n\n"
    )
    (folder / "ssh.txt").write_text("x86_64\nawn-status:0\n")
    (folder / "scp.txt").write_text("")
    (folder / "program").write_bytes(b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\x00")


def copy_of(place, folder):
    """Links all files into another folder.

    Links are faster than copies. They are safe, because commands replace files instead
    of changing them.
    """
    for source in place.rglob("*"):
        target = folder / source.relative_to(place)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("missing")
    return folder


# ------------------------------------------------------------------------- damages


def _json(content, rng):
    """Damages JSON. Mostly a value, because few damaged bytes still make JSON."""
    return (mutant if rng.random() < 0.8 else damaged)(content, rng)


def _entry(name, damage):
    """Makes a function that damages an entry of a zip file. The zip stays valid."""

    def change(content, rng):
        new = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(content)) as old,
            zipfile.ZipFile(new, "w") as z,
        ):
            for entry in old.namelist():
                data = old.read(entry)
                if entry == name:
                    data, what = damage(data, rng)
                z.writestr(entry, data)
        return new.getvalue(), what

    return change


def _attachment(name, damage):
    """Makes a function that damages a file that is attached to a TFLite file."""

    def change(content, rng):
        said = attached(content)
        said[name], what = damage(said[name], rng)
        return attach(flatbuffer_of(content), said), what

    return change


def _flatbuffer(content, rng):
    """Damages a TFLite file, but not the files that are attached to it."""
    said = attached(content)
    data, what = damaged(flatbuffer_of(content), rng)
    return attach(data, said), what


@dataclass(frozen=True)
class Foreign:
    """A kind of file.

    Args:
        path: Path of a file of this kind.
        damage: A function of the bytes and a `random.Random`. It returns damaged bytes
            and a description of the damage.
        commands: Commands that read the file.
        may_not_matter: Whether no command needs to refuse. For example, a command may
            skip the damaged file or make it anew.
    """

    path: str
    damage: Callable[[bytes, random.Random], tuple[bytes, str]]
    commands: tuple[str, ...]
    may_not_matter: bool = False


_OF_MODEL = (
    "summary model.keras --networks",
    "evaluate model.keras --data photos --widths 0.5,1",
    "export model.keras --widths 0.5,1 --output new.tflite",
    "verify net.tflite --against model.keras",
    "predict model.keras photo.png",
    "convert model.keras",
    "train --data photos --model model.keras --size 12,16 --output new",
)
_OF_FILE = (
    "predict net.tflite photo.png",
    "evaluate net.tflite --data photos",
    "verify net.tflite --against model.keras",
    "web net.tflite --output page",
    "benchmark net.tflite --dry",
    "benchmark net.tflite",
    "export model.keras --append-to net.tflite --widths 0.25 --output new.tflite",
)
_OF_FOLDER = ("predict each photo.png", "evaluate each --data photos")
_RESUME = "train --dataset digits --filters 4 --epochs 1 --resume --output run"
_OF_RUN = (
    _RESUME,
    "evaluate run/model.keras --dataset digits",
    "export run/model.keras --output new.tflite",
)
_OF_PHOTOS = (
    "train --data photos --size 12 --model lenet_3c1l --output new",
    "train --data photos --size 12 --model lenet_3c1l --output new --cache kept",
    "evaluate model.keras --data photos",
    "evaluate net.tflite --data photos",
)
_BOARD = "benchmark net.tflite --ssh board --benchmark-model bin/program --runs 1"
FOREIGN = {
    ".keras": Foreign("model.keras", damaged, _OF_MODEL),
    ".keras, config": Foreign("model.keras", _entry("config.json", _json), _OF_MODEL),
    ".keras, weights": Foreign(
        "model.keras", _entry("model.weights.h5", damaged), _OF_MODEL
    ),
    ".keras of a run": Foreign("run/model.keras", damaged, _OF_RUN),
    ".tflite": Foreign("net.tflite", damaged, _OF_FILE),
    ".tflite, network": Foreign("net.tflite", _flatbuffer, _OF_FILE),
    ".tflite, manifest": Foreign(
        "net.tflite", _attachment("awn.json", _json), _OF_FILE
    ),
    ".tflite, labels": Foreign(
        "net.tflite", _attachment("labels.txt", damaged), _OF_FILE
    ),
    "manifest beside": Foreign("net.json", _json, _OF_FILE[-1:]),
    "manifest of a folder": Foreign("each/manifest.json", _json, _OF_FOLDER),
    "report": Foreign(
        "report.json",
        _json,
        (
            "pick report.json --budget-ms 3",
            "benchmark net.tflite --merge report.json",
            "benchmark net.tflite --output report.json --html page.html",
        ),
    ),
    "recipe": Foreign("run/recipe.json", _json, (_RESUME,)),
    "data.json": Foreign("run/data.json", _json, _OF_RUN),
    "history": Foreign("run/history.json", _json, (_RESUME,)),
    "result": Foreign(
        "results/fashion_mnist_lenet_3c1l_awn_rs_seed0.json",
        _json,
        ("reproduce table2 --show --results results",),
    ),
    "photo, PNG": Foreign("photo.png", damaged, (_OF_FILE[0], _OF_MODEL[4])),
    "photo, JPEG": Foreign("photo.jpg", damaged, ("predict net.tflite photo.jpg",)),
    "photo of a folder": Foreign(
        "photos/cat/0.png", damaged, _OF_PHOTOS, may_not_matter=True
    ),
    ".npy": Foreign(
        "pixels.npy",
        damaged,
        ("export model.keras --precision int8 --representative pixels.npy",),
    ),
    "tuning": Foreign(
        "cache/awn_keras/layers.json",
        _json,
        ("export model.keras --tune",),
        may_not_matter=True,
    ),
    "devices": Foreign(
        "bin/adb.txt",
        damaged,
        ("benchmark net.tflite --android", "benchmark net.tflite --serial R5CT1"),
    ),
    "board": Foreign("bin/ssh.txt", damaged, (_BOARD,)),
    "program for a board": Foreign("bin/program", damaged, (_BOARD,)),
    "LiteRT.js": Foreign(
        "litertjs/@litertjs/core/package.json",
        _json,
        ("web net.tflite --output page --litertjs litertjs/@litertjs/core",),
    ),
}


def damage(kind, folder, rng):
    """Damages a file of a kind, and draws a command that reads it.

    Returns:
        The words of the command, and a description of the damage.
    """
    foreign = FOREIGN[kind]
    path = Path(folder) / foreign.path
    content, what = foreign.damage(path.read_bytes(), rng)
    path.unlink()  # other folders link to the same file, which must not change
    path.write_bytes(content)
    return rng.choice(foreign.commands).split(), what
