import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from awn_keras import export_tflite, lenet_3c1l, slim, verify_tflite
from awn_keras.deploy import gpu, verification
from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut
from awn_keras.deploy.gpu import GPUError, gpu_is_available, run_on_gpu, why_no_gpu
from awn_keras.deploy.litert import run_tflite
from awn_keras.deploy.signatures import width_signature
from awn_keras.layouts import choose_cuts
from tests.conftest import inputs_of, rich
from tests.test_slimming import randomize

WIDTHS = [0.25, 0.5, 1.0]


@pytest.fixture(scope="module")
def device():
    if not gpu_is_available():
        pytest.skip("LiteRT's GPU engine finds no Vulkan driver, real or in software")


@pytest.fixture(scope="module")
def several_widths():
    """A file with a signature for each width, kernels cut into blocks; samples."""
    keras.utils.set_random_seed(0)
    model = randomize(lenet_3c1l((16, 16, 1), filters=12))
    cuts = choose_cuts(model, WIDTHS, "triangular")
    networks = {width_signature(w): cut(slim(model, w), cuts) for w in WIDTHS}
    return convert(networks), inputs_of(model)


def file_of(outputs, inputs, *args):
    return convert({"serve": keras.Model(inputs, outputs)}, *args)


def assert_same(got, wanted, rtol=2e-5):
    # The same sums in float32, in another order: a digit or two of the largest.
    for output, other in zip(got, wanted, strict=True):
        scale = max(1.0, float(np.abs(other).max()))
        assert output.dtype == other.dtype
        np.testing.assert_allclose(output, other, rtol=0, atol=rtol * scale)


# ---------------------------------------------------------------------- with a GPU


def test_every_signature_computes_what_it_does_on_the_cpu(device, several_widths):
    content, x = several_widths
    for width in WIDTHS:
        signature = width_signature(width)
        result = run_on_gpu(content, [x], signature)
        assert_same(result.outputs, run_tflite(content, [x], signature))
        assert result.fully_accelerated
        assert result.device


def test_an_export_is_compared_on_the_gpu(device, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "gpu_is_available", gpu_is_available)
    model = lenet_3c1l((16, 16, 1), filters=12)
    records = export_tflite(model, tmp_path / "a.tflite", widths=[0.5, 1.0])
    for record in records:
        assert record.gpu_error < 1e-4
    (first, _) = verify_tflite(tmp_path / "a.tflite", model)
    assert first.gpu_error is not None


def test_half_precision_is_allowed(device, several_widths):
    content, x = several_widths
    result = run_on_gpu(content, [x], "width_100", enforce_float32=False)
    # Each layer rounds by up to 2**-11, and its sums of some hundred terms add to it.
    assert_same(result.outputs, run_tflite(content, [x], "width_100"), rtol=1e-2)


def test_inputs_and_outputs_go_by_name(device):
    model = rich()
    content = convert({"serve": slim(model, 0.5)})
    inputs = inputs_of(model)
    inputs = [inputs[name] for name in ("image", "vector")]
    result = run_on_gpu(content, inputs)
    assert [y.shape for y in result.outputs] == [(5, 6), (5, 3, 3, 2)]
    assert_same(result.outputs, run_tflite(content, inputs))


def test_what_the_gpu_cannot_is_left_to_the_cpu(device):
    inputs = keras.Input((4, 4, 4, 2))
    outputs = keras.layers.Conv3D(3, 3)(keras.layers.ReLU()(inputs))
    content = file_of(outputs, inputs)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4, 2)).astype("float32")
    result = run_on_gpu(content, [x])
    assert not result.fully_accelerated
    assert_same(result.outputs, run_tflite(content, [x]))


def test_outputs_are_never_wrong_in_silence(device):
    inputs = keras.Input((8,))
    branches = [keras.layers.Dense(4)(inputs), keras.layers.Dense(4)(inputs)]
    x = np.random.default_rng(0).random((16, 8)).astype("float32")
    content = file_of(keras.layers.Add()(branches), inputs, "int8", [x])
    # LiteRT 2.3.0 writes no valid shader for the sum of integers; others may.
    try:
        result = run_on_gpu(content, [x])
    except GPUError as error:
        assert "Validation error" in str(error)  # noqa: PT017
    else:
        assert_same(result.outputs, run_tflite(content, [x]), rtol=0.1)


def test_a_driver_that_is_named_is_used():
    named = os.environ.get("VK_ICD_FILENAMES", "")
    if not Path(named).is_file():
        pytest.skip("VK_ICD_FILENAMES does not name a Vulkan driver")
    # Else the tests above would be skipped in silence where they ought to run.
    assert gpu_is_available()


# ---------------------------------------------------------------------- without one


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    for name in ("VK_DRIVER_FILES", "VK_ADD_DRIVER_FILES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "missing.json"))


def test_there_may_be_no_gpu(no_gpu, several_widths, capfd):
    content, x = several_widths
    assert "found no GPU" in why_no_gpu.__wrapped__()
    with pytest.raises(GPUError, match=r"found no GPU.*apt-get install"):
        run_on_gpu(content, [x], "width_050")
    # What the engine writes is caught.
    assert capfd.readouterr() == ("", "")


def test_the_engine_may_hang(monkeypatch, several_widths):
    content, x = several_widths
    monkeypatch.setattr(gpu, "RUN_TIMEOUT", 0.01)
    with pytest.raises(GPUError, match=r"did not finish signature .width_025. within"):
        run_on_gpu(content, [x], "width_025")


@pytest.mark.parametrize(
    ("status", "log", "match"),
    [
        (-11, "Selected adapter: A\nI0000 a.cc:1] last", r"\(status -11\).*last"),
        (0, "E0000 1 a.cc:1] Validation error: vec4", r"\(status 0\): Validation err"),
        (1, "ImportError: no such library", r"no GPU.*\(ImportError: no such lib"),
    ],
)
def test_the_engine_may_fail(monkeypatch, several_widths, status, log, match):
    content, x = several_widths
    done = subprocess.CompletedProcess([], status, "", log)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(GPUError, match=match):
        run_on_gpu(content, [x], "width_100")


def test_thesmallest_file_is_one():
    x = np.array([[-1, 0, 1, 2]], "float32")
    (got,) = run_tflite(gpu._smallest_file(), [x], "probe")
    np.testing.assert_array_equal(got, [[0, 0, 1, 2]])


def test_bad_arguments_are_refused(several_widths):
    content, x = several_widths
    with pytest.raises(ValueError, match=r"`signature` must be one of.*None"):
        run_on_gpu(content, [x])
    with pytest.raises(ValueError, match=r"'width_025'.*Received: 'width_075'"):
        run_on_gpu(content, [x], "width_075")
    with pytest.raises(ValueError, match="is not a TFLite file"):
        run_on_gpu(b"none", [x], "width_025")
    for inputs in ([], [x, x], [x[:0]], [x[0]], [x.astype("float64")], [x[0, 0, 0, 0]]):
        with pytest.raises(ValueError, match=r"`inputs` must be arrays"):
            run_on_gpu(content, inputs, "width_025")
