import io
import sys

import keras
import matplotlib.image
import numpy as np
import pytest

from awn_keras import AnyWidthInterpreter, explore_widths, export_tflite
from awn_keras.deploy.benchmark.costs import costs_of
from awn_keras.deploy.signatures import width_signature
from tests.conftest import labelled, small_conv

WIDTHS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = small_conv()
    path = tmp_path_factory.mktemp("explorer") / "net.tflite"
    export_tflite(model, path, widths=WIDTHS)
    x, y = labelled(model)
    return path, x, y


def pictures_of(x):
    return np.repeat(x[..., :1], 3, axis=-1).clip(0, 1)


def test_the_slider_runs_the_file_at_its_widths(file):
    path, x, y = file
    box = explore_widths(path, x, y, images=pictures_of(x))
    slider, numbers, picture = box.children
    assert slider.value == 1.0
    assert [width for _, width in slider.options] == list(WIDTHS)
    runner, costs = AnyWidthInterpreter(path), costs_of(path.read_bytes())
    seen = set()
    for width in WIDTHS:
        slider.value = width
        right = np.mean(runner.run(x, width=width).argmax(1) == y)
        macs = costs[width_signature(width)].macs
        assert f"{100 * right:.1f} %" in numbers.value
        assert f"{macs / 1e6:.2f} M" in numbers.value
        assert "ms</b> an image" in numbers.value
        seen.add(picture.value)
    assert len(seen) > 1
    image = matplotlib.image.imread(io.BytesIO(picture.value), format="png")
    assert image.shape[1] > image.shape[0]  # eight in a row


def test_pictures_are_the_samples_where_none_are_given(file):
    path, x, y = file
    with pytest.raises(ValueError, match="`images` must be pictures of the samples"):
        explore_widths(path, x, y)  # two channels cannot be shown


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": np.zeros((0, 6, 6, 2), "float32")}, ValueError, "`x` must be images"),
        ({"y": np.zeros((40, 3))}, ValueError, "`y` must have an integer class"),
        ({"y": np.full(40, 7)}, ValueError, r"labels up to 7"),
        ({"class_names": ["cat"]}, ValueError, "`class_names` must have a name"),
        ({"shown": 0}, ValueError, "`shown` must be at least 1"),
        ({"images": np.zeros((40, 6, 6))}, ValueError, "`images` must be pictures"),
        ({"path": "missing.tflite"}, OSError, "missing.tflite"),
    ],
)
def test_it_refuses(file, change, error, match):
    path, x, y = file
    arguments = {"path": path, "x": x, "y": y, "images": pictures_of(x), **change}
    if not len(arguments["x"]):
        arguments["y"] = arguments["y"][:0]
    positional = [arguments.pop(name) for name in ("path", "x", "y")]
    with pytest.raises(error, match=match):
        explore_widths(*positional, **arguments)


def test_it_says_how_to_get_ipywidgets(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r'pip install "awn_keras\[notebooks\]"'):
        explore_widths(*file)
