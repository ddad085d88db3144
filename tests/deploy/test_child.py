"""Conversion in a child process, as on PyTorch and JAX."""

import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from awn_keras import TriDense, slim
from awn_keras.deploy import child
from awn_keras.deploy.child import convert_in_child
from awn_keras.deploy.cutting import cut
from awn_keras.deploy.litert import run_tflite
from awn_keras.errors import ExportError
from awn_keras.layouts import Cut
from tests.conftest import inputs_of, small_dense
from tests.deploy import functions

pytestmark = [
    pytest.mark.backends,
    # Each child starts TensorFlow, 9 s of CPU time; tests/deploy/test_export.py has one
    # on every backend.
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="runs on PyTorch only"
    ),
]


class Doubled(keras.layers.Layer):
    """Not registered: the child is told where it is."""

    def call(self, x):
        return 2 * x


class Odd(keras.layers.Layer):
    """What TFLite has no builtin operator for."""

    def call(self, x):
        return keras.ops.erfinv(x)


@keras.saving.register_keras_serializable(package="tests")
def shifted(x):
    return x + 1


def plain(*layers):
    x = inputs = keras.Input((4,))
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name="plain")


def test_cut_models_with_layers_of_ones_own_are_converted():
    own = plain(Doubled(), keras.layers.Activation(shifted))
    model = small_dense()
    # The layer before is whole, so that the first block takes some of its channels.
    (name,) = (layer.name for layer in model.layers if isinstance(layer, TriDense))
    network = cut(slim(model, 1.0), {name: Cut(((4, 4), (8, 8)))})
    content = convert_in_child({"own": own, "cut": network}, "float32", None)
    x = inputs_of(own)
    np.testing.assert_allclose(run_tflite(content, [x], "own")[0], 2 * x + 1)
    (y,) = run_tflite(content, [x], "cut")
    # Sums in another order.
    np.testing.assert_allclose(y, keras.ops.convert_to_numpy(network(x)), atol=1e-5)


@pytest.mark.parametrize("registered", [True, False])
def test_functions_of_ones_own_alone_are_converted(registered):
    # From a module that nothing else makes the child import.
    function = functions.shifted if registered else functions.doubled
    model = plain(keras.layers.Activation(function))
    x = inputs_of(model)
    (y,) = run_tflite(convert_in_child({"own": model}, "float32", None), [x], "own")
    np.testing.assert_allclose(y, function(x))


def test_the_childs_errors_are_those_of_the_converter():
    model = plain(Odd())
    with pytest.raises(ExportError, match=r"'plain' needs operators.*Erfinv") as info:
        convert_in_child({"one": model}, "float32", None)
    assert "Traceback" not in str(info.value)


@pytest.mark.parametrize("module", ["__main__", "tests.deploy.test_child"])
def test_what_cannot_be_imported_is_named(module):
    local = type("Local", (Doubled,), {"__module__": module})
    with pytest.raises(ExportError, match=r"'Local' is .*Put it at the top level of a"):
        convert_in_child({"one": plain(local())}, "float32", None)


def test_modules_that_the_child_cannot_import_are_named():
    own = child.OwnObject("no_such_module", "Layer", "Layer")
    with pytest.raises(ExportError, match=r"'Layer' of module 'no_such_.*No module"):
        own.imported()


@keras.saving.register_keras_serializable(package="tests")
class Elsewhere(keras.layers.Layer):
    """Cannot be built in the child."""

    def build(self, shape):
        if keras.backend.backend() == "tensorflow" and "child" in sys.argv[0]:
            raise RuntimeError("not on TensorFlow")

    def call(self, x):
        return 2 * x


def test_layers_that_do_not_run_on_tensorflow_are_refused_in_a_line():
    with pytest.raises(ExportError, match=r"not on Tens.*\n.*`keras.ops`") as info:
        convert_in_child({"one": plain(Elsewhere())}, "float32", None)
    assert "Traceback" not in str(info.value)


def test_temporary_files_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ExportError, match=r"variable TMPDIR.*missing"):
        convert_in_child({"one": plain(Doubled())}, "float32", None)
    monkeypatch.undo()

    def disk_full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", disk_full)
    with pytest.raises(ExportError, match=r"variable TMPDIR.*No space left"):
        convert_in_child({"one": plain(Doubled())}, "int8", [np.zeros((1, 4))])


def test_a_crash_tells_what_was_said_last(monkeypatch):
    monkeypatch.setattr(child, "PROGRAM", "no_such_module")
    with pytest.raises(
        ExportError, match=r"exit code 1\. Its last lines:\n.*No module named"
    ):
        convert_in_child({"one": plain(Doubled())}, "float32", None)


class FakeProcess(subprocess.Popen):
    """Prints a line, and sleeps for a minute."""

    last = None

    def __init__(self, command, **kwargs):
        code = "import time; print('at work'); time.sleep(60)"
        super().__init__([sys.executable, "-u", "-c", code], **kwargs)
        FakeProcess.last = self


def test_ctrl_c_ends_the_child_too(monkeypatch):
    shown = []

    def write(line):
        shown.append(line)
        raise KeyboardInterrupt

    monkeypatch.setattr(child.subprocess, "Popen", FakeProcess)
    monkeypatch.setattr(child.sys, "stderr", type("Stream", (), {"write": write}))
    with pytest.raises(KeyboardInterrupt):
        convert_in_child({"one": plain(Doubled())}, "float32", None)
    assert shown == ["at work\n"]
    assert FakeProcess.last.returncode == -signal.SIGKILL
