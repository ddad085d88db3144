"""What works if Keras does not run on TensorFlow. Each test starts a process."""

import importlib.util
import os
import subprocess
import sys

import keras
import pytest

from awn_keras.baselines import SharedBN
from awn_keras.environment import check_runs_on_tensorflow
from tests.conftest import small_dense

OTHERS = ("jax", "torch")


def run(code, backend, *arguments, check=True):
    """Runs code on a backend in a process that cannot import TensorFlow."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = "import sys; sys.modules['tensorflow'] = None\n" + code
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=check,
    )


BASELINES = ("NestedNet", "SNet", "SharedBN", "USNet")


@pytest.mark.parametrize("backend", OTHERS)
def test_the_package_needs_no_tensorflow(backend):
    result = run(
        "import awn_keras, awn_keras.deploy, awn_keras.baselines, awn_keras.cli\n"
        "import awn_keras.experiments.reproduce\n"
        "from awn_keras.environment import environment\n"
        "print(environment()['backend'], *environment()['packages'])\n"
        "model = awn_keras.lenet_3c1l()\n"
        f"for name in {BASELINES}:\n"
        "    try:\n"
        "        system = getattr(awn_keras.baselines, name)\n"
        "        system(model.input, model.output)\n"
        "    except NotImplementedError as error:\n"
        "        print(error)\n"
        "try:\n"
        "    awn_keras.export_tflite(model, 'never.tflite', layout='dense')\n"
        "except ImportError as error:\n"
        "    print(error)\n",
        backend,
    )
    first, *systems, export = result.stdout.splitlines()
    assert first.split()[0] == backend
    assert {"keras", backend} <= set(first.split()[1:])
    for name, line in zip(BASELINES, systems, strict=True):
        assert line.startswith(f"`{name}` needs Keras on TensorFlow: it cuts")
        assert f"'{backend}'. Set the environment variable KERAS_BACKEND=t" in line
    assert export.startswith("`export_tflite` needs the package tensorflow, whose")
    assert "`pip install tensorflow`" in export


@pytest.mark.parametrize("backend", OTHERS)
def test_files_of_the_baselines_say_what_they_need(backend, tmp_path):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6)(keras.layers.Dense(6)(inputs))
    path = tmp_path / "model.keras"
    SharedBN(inputs, keras.layers.Dense(2)(x)).save(path)
    result = run(
        "import keras, awn_keras\n"
        "from awn_keras.loading import load_model\n"
        "for load in (load_model, keras.saving.load_model):\n"
        "    try:\n"
        "        load(sys.argv[1])\n"
        "    except NotImplementedError as error:\n"
        "        print(error)\n",
        backend,
        str(path),
    )
    first, second = result.stdout.splitlines()
    assert first.startswith("`SharedBN` needs Keras on TensorFlow")
    assert second == first


@pytest.mark.parametrize("backend", OTHERS)
def test_files_of_any_width_models_are_loaded_everywhere(backend, tmp_path):
    path = tmp_path / "model.keras"
    model = small_dense()
    model.save(path)
    result = run(
        "from awn_keras import cli\ncli.main(['summary', sys.argv[1]])",
        backend,
        str(path),
    )
    assert "total MACs" in result.stdout


def test_what_needs_tensorflow_runs_on_it(monkeypatch):
    check_runs_on_tensorflow("this", "it does")
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(NotImplementedError, match=r"`this` .*: it does\. Rec.*'jax'\."):
        check_runs_on_tensorflow("this", "it does")
