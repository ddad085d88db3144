import json

import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    TriDense,
    export_tflite,
    slim,
    verify_tflite,
)
from awn_keras.deploy import verification
from awn_keras.deploy.attachments import attach, flatbuffer_of
from awn_keras.deploy.converter import convert
from awn_keras.deploy.gpu import GPUError, GPURun
from awn_keras.deploy.litert import TFLiteFile, precision_of, run_tflite
from awn_keras.deploy.verification import compare
from awn_keras.errors import ExportError
from tests.conftest import at_width, inputs_of, rich, small_conv, small_dense
from tests.test_slimming import randomize


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = randomize(small_conv(name="small"))
    path = tmp_path_factory.mktemp("verified") / "small.tflite"
    export_tflite(model, path, widths=[0.3, 0.5, 1.0])
    return model, path


@pytest.mark.backends
def test_every_width_is_compared(exported):
    model, path = exported
    model.width = 0.75
    x = inputs_of(model)
    records = verify_tflite(path, model, samples=x)
    assert model.width == 0.75
    assert [record.width for record in records] == [0.3, 0.5, 1.0]
    for record in records:
        (got,) = run_tflite(path.read_bytes(), [x], record.signature)
        wanted = at_width(model, record.width, x)[0]
        scale = max(1.0, float(np.abs(wanted).max()))
        error = float(np.abs(got - wanted).max())
        # The model's own sums vary in the last digit from run to run.
        assert record.largest_error == pytest.approx(error, abs=1e-6 * scale)
        assert record.agreement == 1.0


def test_a_width_that_is_no_decimal_is_found_by_its_name(tmp_path):
    inputs = keras.Input((4,))
    x = TriDense(9)(keras.layers.Dense(9)(inputs))
    model = AnyWidthModel(inputs, keras.layers.Dense(2)(x), min_width=1 / 3)
    width = model.distinct_widths[2]  # a sixth of a ninth: its name is rounded
    export_tflite(model, tmp_path / "a.tflite", widths=[width])
    (record,) = verify_tflite(tmp_path / "a.tflite", model)
    assert record.width == width


@pytest.mark.backends
def test_another_model_is_a_difference(exported):
    model, path = exported
    kernel = model.layers[1].kernel
    kernel.assign(-kernel)
    try:
        with pytest.raises(ExportError, match=r"at width 0\.3 differs from the model"):
            verify_tflite(path, model)
    finally:
        kernel.assign(-kernel)


def test_tolerance_decides(exported):
    model, path = exported
    model.layers[-1].bias.assign(model.layers[-1].bias + 0.5)
    try:
        with pytest.raises(ExportError, match=r"more than tolerance=0\.0001 allows"):
            verify_tflite(path, model)
        records = verify_tflite(path, model, tolerance=0.5)
    finally:
        model.layers[-1].bias.assign(model.layers[-1].bias - 0.5)
    # Outputs of some hundreds, in float32.
    assert records[0].largest_error == pytest.approx(0.5, abs=1e-2)


def test_agreement_counts_equal_classes():
    model = randomize(small_dense())
    x = inputs_of(model, 200)
    network = slim(model, 1.0)
    bias = network.layers[-1].bias
    bias.assign(np.asarray(bias) + np.array([0.0, 2.0, 0.0]))
    content = convert({"width_100": network})
    record = compare(model, 1.0, TFLiteFile(content), "width_100", [x], tolerance=1.0)
    wanted = np.asarray(network(x)).argmax(1) == at_width(model, 1.0, x)[0].argmax(1)
    assert 0 < record.agreement < 1
    assert record.agreement == wanted.mean()


def test_several_inputs_and_outputs(tmp_path):
    model = rich()
    export_tflite(model, tmp_path / "rich.tflite", widths=[0.5])
    records = verify_tflite(tmp_path / "rich.tflite", model, samples=inputs_of(model))
    assert [record.width for record in records] == [0.5]


def test_both_answers_of_a_refinement_are_compared(tmp_path):
    model = randomize(small_conv())
    path, pair = tmp_path / "anytime.tflite", (0.3, 1.0)
    export_tflite(model, path, widths=pair, refine=pair)
    x = inputs_of(model)
    records = {
        record.signature: record for record in verify_tflite(path, model, samples=x)
    }
    assert len(records) == 4
    for name, width in (("keep_030_to_100", 0.3), ("refine_030_to_100", 1.0)):
        assert records[name].width == width
        assert records[name].agreement == 1.0
    readout = model.layers[-1].bias
    readout.assign(readout + 0.5)
    for name, width in (("keep_030_to_100", 0.3), ("refine_030_to_100", 1.0)):
        with pytest.raises(ExportError, match=rf"at width {width} differs"):
            compare(model, width, TFLiteFile(path), name, [x], 1e-4)


def test_the_file_tells_what_may_differ_or_the_manifest(tmp_path):
    model = small_conv()
    x, path = inputs_of(model, 20), tmp_path / "a.tflite"
    export_tflite(
        model, path, widths=[0.5], precision="int8", representative=x, samples=x
    )
    records = verify_tflite(path, model, samples=x)
    worst = max(record.largest_error for record in records)
    # Eight bits differ by far more than float32's sums do.
    assert worst > 1e-3
    manifest = path.with_suffix(".json")
    said = json.loads(manifest.read_text())
    manifest.unlink()
    assert verify_tflite(path, model, samples=x) == records
    content = path.read_bytes()
    # What is attached to another file is not believed.
    other = TFLiteFile(content).described | {"flatbuffer": {"sha256": "0"}}
    files = {"awn.json": json.dumps(other).encode()}
    path.write_bytes(attach(flatbuffer_of(content), files))
    assert precision_of(path) is None
    path.write_bytes(flatbuffer_of(content))
    said["widths"][0]["sha256"] = TFLiteFile(path).sha256
    manifest.write_text(json.dumps(said))
    assert verify_tflite(path, model, samples=x) == records
    manifest.unlink()
    with pytest.raises(ExportError, match=r"more than tolerance=0\.0001 allows"):
        verify_tflite(path, model, samples=x)


def test_the_gpu_is_asked_where_there_is_one(exported, monkeypatch):
    model, path = exported
    given = []

    def on_gpu(content, inputs, signature):
        given.append((signature, len(inputs[0])))
        if signature == "width_100":
            raise GPUError("an operator that it does not know")
        outputs = run_tflite(content, inputs, signature)
        return GPURun([outputs[0] + 0.25], True, "stand-in")

    monkeypatch.setattr(verification, "gpu_is_available", lambda: True)
    monkeypatch.setattr(verification, "run_on_gpu", on_gpu)
    # The outputs are some tens.
    records = verify_tflite(path, model, samples=inputs_of(model), tolerance=0.25)
    assert given == [("width_030", 4), ("width_050", 4), ("width_100", 4)]
    for record in records[:2]:
        assert record.gpu_error == pytest.approx(0.25, abs=1e-2)
    assert records[2].gpu_error is None
    with pytest.raises(ExportError, match=r"at width 0\.3, on the GPU, differs"):
        verify_tflite(path, model, samples=inputs_of(model), tolerance=1e-3)


# ------------------------------------------------------------------------- failures


def test_what_is_no_file_of_this_model_is_refused(exported, tmp_path):
    model, path = exported
    (tmp_path / "text.tflite").write_text("Not at all a model")
    with pytest.raises(ValueError, match="is not a TFLite file"):
        verify_tflite(tmp_path / "text.tflite", model)
    (tmp_path / "cut.tflite").write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="is not a TFLite file"):
        verify_tflite(tmp_path / "cut.tflite", model)
    with pytest.raises(FileNotFoundError):
        verify_tflite(tmp_path / "none.tflite", model)
    with pytest.raises(
        ValueError, match=r"must have the inputs and outp.*from which the file"
    ):
        verify_tflite(path, small_dense())
    with pytest.raises(TypeError, match=r"verify_tflite\(path, model\).*Received: str"):
        verify_tflite(path, "model.keras")
    content = convert({"serve": slim(model, 1.0)})
    (tmp_path / "serve.tflite").write_bytes(content)
    with pytest.raises(ValueError, match=r"named after widths.*Received: 'serve'"):
        verify_tflite(tmp_path / "serve.tflite", model)
    content = convert({"refine_030_to_100": slim(model, 1.0)})
    (tmp_path / "half.tflite").write_bytes(content)
    with pytest.raises(ValueError, match=r"come in pairs.*'refine_030_to_100'"):
        verify_tflite(tmp_path / "half.tflite", model)
    with pytest.raises(ValueError, match=r"has width 0\.3, outside the model's"):
        verify_tflite(path, small_conv(min_width=0.5))
    with pytest.raises(ValueError, match="`samples` must have at least one"):
        verify_tflite(path, model, samples=np.zeros((2, 5)))
