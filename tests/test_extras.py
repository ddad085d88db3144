"""Errors about packages that `pip install awn_keras` does not install.

Each test starts a process in which a package is missing.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from awn_keras.extras import _PACKAGES, MissingPackageError, check_installed
from tests.test_runtime import hide

#: All that extras bring along, but for the backend that Keras runs on here.
LEFT_OUT = (
    *("PIL", "ai_edge_litert", "flatbuffers", "ipywidgets", "matplotlib", "sklearn"),
    *("tensorboard", "tensorflow", "tensorflow_datasets", "tf_keras", "jax", "torch"),
    *("importlib_resources", "pandas", "tensorflow_model_optimization"),
)
NETWORK = """
import keras, numpy as np, awn_keras
inputs = keras.Input((4,))
x = awn_keras.TriDense(8)(keras.layers.Dense(8)(inputs))
model = awn_keras.AnyWidthModel(inputs, keras.layers.Dense(2)(x), min_width=0.25)
"""


def run(code, *arguments, backend="jax", missing=LEFT_OUT):
    """Runs code in a process that cannot import some packages."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    hidden = tuple(name for name in missing if name != backend)
    return subprocess.run(
        [sys.executable, "-c", hide(hidden) + code, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )


def test_keras_numpy_and_a_backend_train_slim_and_save(tmp_path):
    done = run(
        NETWORK
        + """
model.compile("sgd", "mse")
model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
small = awn_keras.slim(model, 0.5)
x = np.ones((3, 4), "float32")
same = np.abs(small.predict(x, verbose=0) - model.predict(x, width=0.5, verbose=0))
model.save(sys.argv[1])
again = keras.saving.load_model(sys.argv[1])
print(type(again).__name__, same.max() < 1e-5, awn_keras.count_macs(model, 0.5))
print(awn_keras.trade_off_curve(model, x, np.zeros((3, 2)), widths=[0.5, 1.0]).widths)
""",
        tmp_path / "model.keras",
    )
    assert done.returncode == 0, done.stderr
    # Of 4 active channels: 4 * 4 of the stem, 10 of the triangle's blocks, 4 * 2.
    first, curve = done.stdout.splitlines()
    assert first.startswith("AnyWidthModel True")
    assert curve == "[0.5, 1.0]"


CALLS = {
    "awn_keras.export_tflite(model, 'never.tflite')": "tensorflow tflite",
    "awn_keras.AnyWidthInterpreter(b'')": "ai_edge_litert tflite",
    "awn_keras.AnytimeInterpreter(b'')": "ai_edge_litert tflite",
    "awn_keras.read_photo('photo.png', (2, 2, 3))": "PIL data",
    "awn_keras.plot_kernel(model.layers[2])": "matplotlib plot",
    "awn_keras.WidthTensorBoard()": "tensorboard tensorboard",
    "awn_keras.explore_widths('x', [], [])": "ipywidgets notebooks",
    "awn_keras.data.load_data('digits')": "sklearn data",
    "awn_keras.data.load_data('cifar10')": "tensorflow_datasets data",
}


@pytest.fixture(scope="module")
def told():
    """For each call: the message of its `ImportError`, and the missing package."""
    code = """
import awn_keras.data, json
told = {}
for call in sys.argv[1:]:
    try:
        eval(call)
    except ImportError as error:
        told[call] = [str(error), error.name]
print(json.dumps(told))
"""
    done = run(NETWORK + code, *CALLS)
    assert done.returncode == 0, done.stderr

    return json.loads(done.stdout)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_names_the_extra_that_it_lacks(told, call):
    package, extra = CALLS[call].split()
    message, name = told[call]
    assert name == package
    pip = re.escape(_PACKAGES[package][0])
    assert re.search(
        rf"needs the package {pip}.*, which is not installed: `pip install {pip}`, or "
        rf'`pip install "awn_keras\[{extra}\]"`\.$',
        message,
    )


def test_a_folder_of_photos_names_the_extra(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(b"no photo")
    done = run(
        "from awn_keras.data import load_folder\n"
        "try:\n    load_folder(sys.argv[1], size=8)\n"
        "except ImportError as error:\n    print(error)\n",
        tmp_path,
    )
    assert "pillow, which is not installed" in done.stdout, done.stderr


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_a_backend_that_is_missing_is_named(backend):
    done = run(
        f"import os\nos.environ['KERAS_BACKEND'] = {backend!r}\n"
        "import awn_keras\nprint(awn_keras.__all__)\n"
        "try:\n    awn_keras.slim\nexcept ImportError as error:\n    print(error)\n",
    )
    assert done.returncode == 0, done.stderr
    names, message = done.stdout.splitlines()
    assert names == "['AnyWidthInterpreter', 'AnytimeInterpreter', 'read_photo']"
    assert message.startswith(
        "`awn_keras.slim` needs a Keras backend. Keras is set to use "
        f"{backend}, which is not installed: `pip install {backend}`, or"
    )
    assert "KERAS_BACKEND to one of tensorflow, jax, torch" in message


def test_a_command_without_a_backend_ends_in_one_line(tmp_path):
    done = run(
        "import os\nos.environ['KERAS_BACKEND'] = 'tensorflow'\n"
        "from awn_keras import cli\nsys.exit(cli.main(sys.argv[1:]))",
        *("summary", tmp_path / "model.keras"),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "awn summary: error: This command needs a Keras backend. Keras is set"
    )
    assert "Traceback" not in done.stderr


def test_what_is_installed_is_let_be():
    check_installed("This", "matplotlib", "PIL")


def test_half_an_installation_is_none(monkeypatch):
    # A module without `__spec__`: `find_spec` raises.
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    sys.modules["torch"].__spec__ = None
    with pytest.raises(MissingPackageError, match=r"^This needs the package torch, "):
        check_installed("This", "torch")


def test_another_missing_module_is_not_taken_for_a_backend():
    done = run("import awn_keras", missing=("absl",))
    assert done.returncode == 1
    assert "No module named 'absl'" in done.stderr.splitlines()[-1]


def test_each_package_is_in_the_extra_that_is_named():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())[
        "project"
    ]
    extras = project["optional-dependencies"]

    def names(extra):
        """The packages of an extra, and of those that it names."""
        for requirement in extras[extra]:
            name = re.match(r"[\w-]+", requirement)[0]
            if name == "awn_keras":
                inner = re.search(r"\[(.*)\]", requirement)[1]
                for other in inner.split(","):
                    yield from names(other)
            else:
                yield name

    for pip, extra in _PACKAGES.values():
        assert pip in set(names(extra)), extra
    core = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    assert core == {"keras", "numpy"}
    assert core.isdisjoint(names("all"))
