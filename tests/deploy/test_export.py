import hashlib
import json

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from awn_keras import AnyWidthModel, TriDense, count_macs, count_parameters, slim
from awn_keras.deploy import export
from awn_keras.deploy.export import (
    ExportError,
    convert,
    custom_operators,
    export_tflite,
    run_tflite,
)
from awn_keras.widths import width_label
from tests.conftest import at_width, inputs_of, rich, small_conv, small_dense
from tests.test_slimming import randomize


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = randomize(small_conv(name="small"))
    directory = tmp_path_factory.mktemp("export") / "new" / "folder"
    x = inputs_of(model)
    model.width = 0.75
    records = export_tflite(model, directory, widths=[1.0, 0.3, 0.5], samples=x)
    assert model.width == 0.75  # as before
    return model, directory, records, x


def test_a_file_for_each_width(exported):
    _, directory, records, _ = exported
    assert [record.width for record in records] == [0.3, 0.5, 1.0]
    assert sorted(path.name for path in directory.iterdir()) == [
        "manifest.json",
        "small_width_030.tflite",
        "small_width_050.tflite",
        "small_width_100.tflite",
    ]


def test_files_compute_what_slimmed_networks_compute(exported):
    model, directory, records, x = exported
    for record in records:
        content = (directory / record.file).read_bytes()
        (got,) = run_tflite(content, [x])
        wanted = np.asarray(slim(model, record.width)(x))
        # Folding of BatchNormalization rounds each weight once more.
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, atol=1e-4 * scale)
        error = np.abs(got - at_width(model, record.width, x)[0]).max()
        assert record.largest_error == pytest.approx(error, abs=1e-6 * scale)


def test_files_have_one_signature_batch_1_float32_and_builtin_operators(exported):
    _, directory, records, _ = exported
    for record in records:
        content = (directory / record.file).read_bytes()
        interpreter = Interpreter(model_content=content)
        signatures = interpreter.get_signature_list()
        assert list(signatures) == [f"width_{width_label(record.width)}"]
        (detail,) = interpreter.get_input_details()
        assert detail["shape"].tolist() == [1, 6, 6, 2]
        assert detail["dtype"] is np.float32
        assert custom_operators(content) == []


def test_the_manifest_describes_the_files(exported):
    model, directory, records, _ = exported
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["model"] == "small"
    assert manifest["min_width"] == 0.25
    for record, row in zip(records, manifest["widths"], strict=True):
        content = (directory / row["file"]).read_bytes()
        assert row["width"] == record.width
        assert row["bytes"] == len(content)
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert row["macs"] == count_macs(model, record.width)
        assert row["parameters"] == count_parameters(model, record.width)
        assert row["largest_error"] == record.largest_error
    assert {"keras", "tensorflow"} <= set(manifest["environment"]["packages"])


def test_several_inputs_and_outputs(tmp_path):
    model = rich()
    (record,) = export_tflite(model, tmp_path, widths=[0.5])
    content = (tmp_path / record.file).read_bytes()
    x = inputs_of(model)
    got = run_tflite(content, [x["image"], x["vector"]])
    model.width = 0.5
    wanted = model(x)
    for one, name in zip(got, ("classes", "scores"), strict=True):
        # Another library's kernels.
        np.testing.assert_allclose(one, wanted[name], atol=1e-4)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [x["name"] for x in manifest["inputs"]] == ["image", "vector"]


def test_the_manifest_names_what_the_file_has(exported):
    # Also where the `Input` has no name of its own.
    _, directory, _, x = exported
    manifest = json.loads((directory / "manifest.json").read_text())
    for row in manifest["widths"]:
        interpreter = Interpreter(model_path=str(directory / row["file"]))
        runner = interpreter.get_signature_runner(row["signature"])
        (one,), (out,) = manifest["inputs"], manifest["outputs"]
        detail = runner.get_input_details()[one["name"]]
        assert detail["shape"].tolist() == one["shape"]
        scores = runner(**{one["name"]: x[:1]})[out["name"]]
        assert list(scores.shape) == out["shape"]


@pytest.mark.parametrize("reloaded", [False, True])
def test_mixed_precision_exports_float32(tmp_path, reloaded):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small_conv()
    finally:
        keras.config.set_dtype_policy("float32")
    if reloaded:
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    (record,) = export_tflite(model, tmp_path, widths=[0.5])
    content = (tmp_path / record.file).read_bytes()
    (detail,) = Interpreter(model_content=content).get_input_details()
    assert detail["dtype"] is np.float32


def test_default_widths_are_four(tmp_path):
    records = export_tflite(small_dense(min_width=0.4), tmp_path)
    assert [record.width for record in records] == [0.4, 0.6, 0.8, 1.0]


# ------------------------------------------------------------------------- failures


def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    model = small_dense()
    good = export_tflite(model, tmp_path, widths=[1.0])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def wrong(small, signature):
        small.weights[-1].assign(small.weights[-1] + (signature == "width_100"))
        return convert(small, signature)

    monkeypatch.setattr(export, "convert", wrong)
    with pytest.raises(ExportError, match=r"at width 1.0 differs from the model by 1"):
        export_tflite(model, tmp_path, widths=[0.5, 1.0])
    # Neither the good half of the new files nor a change of the old ones.
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert good[0].largest_error < 1e-4


def test_nan_is_a_difference(tmp_path):
    model = small_dense()
    model.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(ExportError, match="differs from the model"):
        export_tflite(model, tmp_path / "out", widths=[1.0])
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_export_leaves_no_manifest_of_older_files(tmp_path, monkeypatch):
    model = small_dense()
    export_tflite(model, tmp_path, widths=[0.5, 1.0])

    def disk_full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_whole", disk_full)
    with pytest.raises(OSError, match="No space left"):
        export_tflite(model, tmp_path, widths=[0.5, 1.0])
    assert not (tmp_path / "manifest.json").exists()


def test_operators_that_are_not_builtin_are_refused():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Lambda(lambda x: keras.ops.erfinv(x * 0.1))(inputs)
    model = keras.Model(inputs, x, name="exotic")
    with pytest.raises(ExportError, match=r"TFLite does not have: Erfinv\. Repl"):
        convert(model, "width_100")


def test_a_stock_layer_in_the_tail_is_converted(tmp_path):
    inputs = keras.Input((4,))
    x = TriDense(6)(keras.layers.Dense(6)(inputs))
    x = keras.layers.Softmax()(
        keras.layers.LayerNormalization()(keras.layers.Dense(4)(x))
    )
    (record,) = export_tflite(AnyWidthModel(inputs, x), tmp_path, widths=[0.5])
    assert record.largest_error < 1e-5


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"widths": []}, ValueError, "`widths` must not be empty"),
        ({"widths": 0.5}, TypeError, "`widths` must be a sequence"),
        ({"widths": [1 / 3, 0.33333333]}, ValueError, "differ by a millionth"),
        ({"widths": [0.1]}, ValueError, "`widths` must be at least the model's"),
        ({"samples": np.zeros((2, 5))}, ValueError, r"`samples` must be.*\(2, 5\)"),
        ({"samples": np.zeros((0, 4))}, ValueError, "at least one sample"),
        ({"samples": [np.zeros((1, 4))] * 2}, ValueError, "`samples` must be"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, error, match):
    with pytest.raises(error, match=match):
        export_tflite(small_dense(), tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_unknown_rows_and_cols_are_refused(tmp_path):
    inputs = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(2, 1)(keras.layers.Conv2D(6, 1)(inputs))
    with pytest.raises(ValueError, match=r"fixed shapes.*input 'image'"):
        export_tflite(AnyWidthModel(inputs, x), tmp_path)


def test_a_plain_model_is_refused(tmp_path):
    with pytest.raises(TypeError, match="must be an `AnyWidthModel`"):
        export_tflite(slim(small_dense(), 1.0), tmp_path)
