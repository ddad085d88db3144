import hashlib
import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    TriDense,
    WidthRule,
    count_macs,
    count_parameters,
    lenet_3c1l,
    register_width_rule,
    slim,
    to_any_width,
    verify_tflite,
)
from awn_keras.baselines import SNet
from awn_keras.deploy import cutting, export
from awn_keras.deploy.converter import constants, convert, custom_operators
from awn_keras.deploy.export import export_tflite
from awn_keras.deploy.litert import TFLiteFile, run_tflite
from awn_keras.deploy.signatures import width_signature
from awn_keras.errors import ExportError
from awn_keras.rules import per_sample
from tests.conftest import at_width, inputs_of, rich, small_conv, small_dense
from tests.deploy.classifiers import NAMES, classifier, of_pixels, pixels, softmax
from tests.failing import contents, failing
from tests.stock import NETWORKS, NO_FILES
from tests.test_counting import partly_known
from tests.test_slimming import randomize


@pytest.fixture(scope="module", params=[True, False], ids=["single", "separate"])
def exported(request, tmp_path_factory):
    """A model, where its files are, the manifest, the records, the samples."""
    keras.utils.set_random_seed(0)
    model = randomize(small_conv(name="small"))
    directory = tmp_path_factory.mktemp("export") / "new" / "folder"
    path = directory / "small.tflite" if request.param else directory
    x = inputs_of(model)
    model.width = 0.75
    records = export_tflite(
        model,
        path,
        widths=[1.0, 0.3, 0.5],
        single_file=request.param,
        samples=x,
        metadata={"class_names": ["a", "b", "c"]},
    )
    assert model.width == 0.75  # as before
    name = "small.json" if request.param else "manifest.json"
    manifest = json.loads((directory / name).read_text())
    return model, directory, manifest, records, x


WIDTHS = [0.25, 0.5, 1.0]


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """A model whose weights are most of its file, the file, and its record."""
    keras.utils.set_random_seed(0)
    model = lenet_3c1l((16, 16, 1), filters=64, width_multiplier=1.0)
    path = tmp_path_factory.mktemp("lenet") / "lenet.tflite"
    records = export_tflite(model, path, widths=WIDTHS)
    return model, path, records[0]


@pytest.mark.backends
def test_one_file_or_a_file_for_each_width(exported):
    _, directory, manifest, records, _ = exported
    assert [record.width for record in records] == [0.3, 0.5, 1.0]
    names = sorted(path.name for path in directory.iterdir())
    if len(manifest["constants"]) == 1:
        assert names == ["small.json", "small.tflite"]
    else:
        assert names == [
            "manifest.json",
            "small_width_030.tflite",
            "small_width_050.tflite",
            "small_width_100.tflite",
        ]


@pytest.mark.backends
def test_files_compute_what_slimmed_networks_compute(exported):
    model, directory, _, records, x = exported
    for record in records:
        content = (directory / record.file).read_bytes()
        (got,) = run_tflite(content, [x], record.signature)
        wanted = np.asarray(slim(model, record.width)(x))
        # Folding of BatchNormalization rounds each weight once more.
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, atol=1e-4 * scale)
        error = np.abs(got - at_width(model, record.width, x)[0]).max()
        assert record.largest_error == pytest.approx(error, abs=1e-6 * scale)
        assert record.agreement == 1.0


@pytest.mark.backends
def test_signatures_have_one_contract_and_builtin_operators(exported):
    _, directory, manifest, records, x = exported
    for record in records:
        content = (directory / record.file).read_bytes()
        assert custom_operators(content) == []
        interpreter = Interpreter(model_content=content)
        assert record.signature == width_signature(record.width)
        assert record.signature in interpreter.get_signature_list()
        runner = interpreter.get_signature_runner(record.signature)
        (taken,), (out,) = manifest["inputs"], manifest["outputs"]
        detail = runner.get_input_details()[taken["name"]]
        assert detail["shape"].tolist() == taken["shape"] == [1, 6, 6, 2]
        assert detail["dtype"] is np.float32
        scores = runner(**{taken["name"]: x[:1]})[out["name"]]
        assert list(scores.shape) == out["shape"]
        assert scores.dtype == np.float32


def test_the_manifest_describes_the_files(exported):
    model, directory, manifest, records, _ = exported
    assert manifest["model"] == "small"
    assert manifest["min_width"] == 0.25
    assert manifest["precision"] == "float32"
    assert manifest["metadata"] == {"class_names": ["a", "b", "c"]}
    for record, row in zip(records, manifest["widths"], strict=True):
        content = (directory / row["file"]).read_bytes()
        assert row["width"] == record.width
        assert row["bytes"] == len(content)
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert row["macs"] == count_macs(model, record.width)
        assert row["parameters"] == count_parameters(model, record.width)
        assert row["largest_error"] == record.largest_error
    assert {"keras", "tensorflow"} <= set(manifest["environment"]["packages"])


def test_a_camera_gives_integers(tmp_path):
    inputs = keras.Input((6, 6, 3), dtype="uint8", name="frame")
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(TriConv2D(4, 3)(x))
    outputs = keras.layers.Dense(3, name="scores")(x)
    model = AnyWidthModel(inputs, outputs, min_width=0.5)
    frames = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3)).astype("uint8")
    path = tmp_path / "camera.tflite"
    for precision in ("float32", "int8"):
        export_tflite(
            model,
            path,
            widths=[0.5, 1.0],
            precision=precision,
            representative=frames,
        )
        manifest = json.loads(path.with_suffix(".json").read_text())
        (frame,), (scores,) = manifest["inputs"], manifest["outputs"]
        assert frame == {
            "name": "frame",
            "shape": [1, 6, 6, 3],
            "dtype": "uint8",
            "pixels": {"mean": [0.0], "std": [1.0]},
        }
        assert scores == {"name": "scores", "shape": [1, 3], "dtype": "float32"}
        for signature in TFLiteFile(path).signatures.values():
            (takes,), (gives,) = signature.inputs, signature.outputs
            assert (takes.name, takes.shape) == ("frame", (1, 6, 6, 3))
            assert (takes.dtype, gives.dtype) == (np.uint8, np.float32)


def test_a_file_is_opened_once_however_many_widths_it_has(tmp_path, monkeypatch):
    opened = []

    class Counted(Interpreter):
        def __init__(self, *args, **kwargs):
            opened.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("ai_edge_litert.interpreter.Interpreter", Counted)
    widths, path = [0.25, 0.5, 0.75, 1.0], tmp_path / "a.tflite"
    model = small_dense()
    export_tflite(model, path, widths=widths)
    assert len(opened) == 1
    verify_tflite(path, model)
    assert len(opened) == 2
    export_tflite(model, tmp_path / "each", widths=widths, single_file=False)
    assert len(opened) == 6


def test_widths_in_one_file_share_what_they_have_in_common(lenet, tmp_path):
    model, path, narrowest = lenet
    (full,) = export_tflite(
        model, tmp_path / "full.tflite", widths=[1.0], layout="dense"
    )
    # Half of the kernels' weights, and a little for the stem's copies and operators.
    assert narrowest.bytes < 0.7 * full.bytes
    described = json.loads(path.with_suffix(".json").read_text())
    held = described["constants"][path.name]
    # A width of 0.25, 0.5 and 1 uses about 1/16, 1/4 and all of it.
    assert held["used"] > 1.3 * held["stored"]
    assert held["repeated"] == 0


def test_int8_for_all_widths_on_the_same_ranges(lenet, tmp_path):
    model, _, float32 = lenet
    x = np.random.default_rng(0).random((16, 16, 16, 1)).astype("float32")
    path = tmp_path / "int8.tflite"
    records = export_tflite(
        model, path, widths=[0.5, 1.0], precision="int8", representative=x
    )
    assert json.loads((tmp_path / "int8.json").read_text())["precision"] == "int8"
    assert records[0].bytes < 0.5 * float32.bytes
    for record in records:
        (got,) = run_tflite(path.read_bytes(), [x], record.signature)
        wanted = at_width(model, record.width, x)[0]
        # The rounding of activations to 1/254 of their range, over three layers.
        np.testing.assert_allclose(got, wanted, atol=0.1 * np.abs(wanted).max())


def test_a_layer_that_is_never_active_runs_in_int8(tmp_path):
    model = small_dense()
    middle = next(layer for layer in model.layers if isinstance(layer, TriDense))
    middle.bias.assign(np.full(8, -100.0))  # its ReLU gives 0
    model.layers[-1].bias.assign([1.0, -2.0, 3.0])
    x = inputs_of(model, 32)
    path = tmp_path / "model.tflite"
    records = export_tflite(model, path, precision="int8", representative=x)
    # The outputs are the biases. They are rounded to a step: 1/255 of their range of 5.
    assert max(record.largest_error for record in records) < 0.02


def test_systems_of_ordinary_convolutions_have_a_copy_for_each_width(tmp_path):
    plain = lenet_3c1l((16, 16, 1), triangular=False)
    model = SNet(plain.input, plain.output, widths=[0.5, 1.0])
    records = export_tflite(model, tmp_path / "s.tflite", widths=[0.5, 1.0])
    (full,) = export_tflite(model, tmp_path / "full.tflite", widths=[1.0])
    # Half the channels are a quarter of most kernels.
    assert records[0].bytes > 1.15 * full.bytes
    assert max(record.largest_error for record in records) < 1e-4


def test_several_inputs_and_outputs(tmp_path):
    model = rich()
    (record,) = export_tflite(model, tmp_path / "rich.tflite", widths=[0.5])
    content = (tmp_path / record.file).read_bytes()
    x = inputs_of(model)
    got = run_tflite(content, [x["image"], x["vector"]])
    model.width = 0.5
    wanted = model(x)
    for output, name in zip(got, ("classes", "scores"), strict=True):
        # Another library's kernels.
        np.testing.assert_allclose(output, wanted[name], atol=1e-4)
    manifest = json.loads((tmp_path / "rich.json").read_text())
    assert [x["name"] for x in manifest["inputs"]] == ["image", "vector"]


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
    (record,) = export_tflite(model, tmp_path / "half.tflite", widths=[0.5])
    content = (tmp_path / record.file).read_bytes()
    (detail,) = Interpreter(model_content=content).get_input_details()
    assert detail["dtype"] is np.float32


def test_default_widths_are_four_and_the_narrowest_is_not_rounded_down(tmp_path):
    model = small_dense(min_width=1 / 3)
    records = export_tflite(model, tmp_path / "a.tflite")
    assert [record.width for record in records] == [1 / 3, 0.5556, 0.7778, 1.0]


# ------------------------------------------------------------------------- failures


@pytest.mark.parametrize("single_file", [True, False])
def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch, single_file):
    model = small_dense()
    path = tmp_path / "a.tflite" if single_file else tmp_path
    good = export_tflite(model, path, widths=[1.0], single_file=single_file)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def wrong(networks, *args):
        if "width_100" in networks:
            bias = networks["width_100"].layers[-1].bias
            bias.assign(bias + 1)
        return convert(networks, *args)

    monkeypatch.setattr(export, "convert", wrong)
    with pytest.raises(ExportError, match=r"at width 1.0 differs from the model by 1"):
        export_tflite(
            model,
            path,
            widths=[0.5, 1.0],
            single_file=single_file,
            layout="dense",
        )
    # Neither the good half of the new files nor a change of the old ones.
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert good[0].largest_error < 1e-4


def test_nan_is_a_difference(tmp_path):
    model = small_dense()
    model.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(ExportError, match="differs from the model"):
        export_tflite(model, tmp_path / "out" / "a.tflite", widths=[1.0])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_file_and_its_manifest(tmp_path):
    model = small_dense()
    path = tmp_path / "a.tflite"
    export_tflite(model, path, widths=[0.5, 1.0])
    before = contents(tmp_path)
    # The second file that is written is the manifest.
    with failing("write", 1), pytest.raises(OSError, match=r"No space left.*a\.json"):
        export_tflite(model, path, widths=[0.5])
    assert contents(tmp_path) == before
    assert sorted(before) == ["a.json", "a.tflite"]


def test_a_stock_layer_in_the_tail_is_converted(tmp_path):
    inputs = keras.Input((4,))
    x = TriDense(6)(keras.layers.Dense(6)(inputs))
    x = keras.layers.Softmax()(
        keras.layers.LayerNormalization()(keras.layers.Dense(4)(x))
    )
    model = AnyWidthModel(inputs, x)
    (record,) = export_tflite(model, tmp_path / "a.tflite", widths=[0.5])
    assert record.largest_error < 1e-5


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"widths": []}, ValueError, "`widths` must not be empty"),
        ({"widths": 0.5}, TypeError, "`widths` must be a sequence"),
        ({"widths": [1 / 3, 0.33333333]}, ValueError, "differ by at least a millionth"),
        ({"widths": [0.1]}, ValueError, "`widths` must be at least the model's"),
        ({"samples": np.zeros((2, 5))}, ValueError, r"`samples` must have.*\(2, 5\)"),
        ({"samples": np.zeros((0, 4))}, ValueError, "at least one sample"),
        (
            {"samples": [np.zeros((1, 4)), np.zeros((1, 5))]},
            ValueError,
            "`samples` must have samples of one shape",
        ),
        ({"layout": "sparse"}, ValueError, "`layout` must be one of"),
        ({"precision": "int4"}, ValueError, "`precision` must be one of"),
        ({"precision": "int8"}, ValueError, "needs `representative`"),
        (
            {"precision": "int8", "representative": np.zeros((9, 3))},
            *(ValueError, r"`representative` must have.*\(9, 3\)"),
        ),
        ({"single_file": False}, ValueError, "`path` must be a directory"),
        ({"metadata": {"mean": np.zeros(3)}}, TypeError, "must be what JSON holds"),
        ({"metadata": ["a", "b", "c"]}, TypeError, "`metadata` must be a dict"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, error, match):
    with pytest.raises(error, match=match):
        export_tflite(small_dense(), tmp_path / "a.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in '\.tflite'"):
        export_tflite(small_dense(), tmp_path)


def test_a_plain_model_is_refused(tmp_path):
    with pytest.raises(TypeError, match="must be an `AnyWidthModel`"):
        export_tflite(slim(small_dense(), 1.0), tmp_path / "a.tflite")


@pytest.mark.backends
def test_two_outputs_of_one_layer_are_refused(tmp_path):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6)(inputs)
    shared = keras.layers.Dense(3, name="scores")
    model = AnyWidthModel(inputs, [shared(x), shared(keras.layers.ReLU()(x))])
    with pytest.raises(ValueError, match=r"from a different layer.*'scores', 'scores'"):
        export_tflite(model, tmp_path / "a.tflite")


@pytest.mark.parametrize("single_file", [True, False])
def test_a_path_that_cannot_be_written_is_refused_at_once(
    tmp_path, monkeypatch, single_file
):
    monkeypatch.setattr("awn_keras.deploy.export.convert", None)
    file = tmp_path / "file"
    file.touch()
    path = file / "a.tflite" if single_file else file
    with pytest.raises(NotADirectoryError, match=r"must lie in a folder, but '.*file"):
        export_tflite(small_dense(), path, single_file=single_file)


def test_a_file_that_is_no_manifest_is_left(tmp_path):
    (tmp_path / "result.json").write_text('{"auc": 0.9}')
    with pytest.raises(ValueError, match="is not the manifest of an export"):
        export_tflite(small_dense(), tmp_path / "result.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


# ------------------------------------------------------------------------ refinement


def test_a_refinement_adds_two_signatures_and_hardly_a_byte(lenet, tmp_path):
    model, _, usual = lenet
    path = tmp_path / "anytime.tflite"
    records = export_tflite(model, path, widths=WIDTHS, refine=(0.25, 1.0))
    assert [record.width for record in records] == WIDTHS
    assert records[0].bytes < 1.04 * usual.bytes
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert [(pair["width"], pair["signature"]) for pair in manifest["refinement"]] == [
        (0.25, "keep_025_to_100"),
        (1.0, "refine_025_to_100"),
    ]
    assert all(pair["agreement"] == 1.0 for pair in manifest["refinement"])
    names = {width_signature(width) for width in WIDTHS}
    names |= {pair["signature"] for pair in manifest["refinement"]}
    assert set(TFLiteFile(path).signatures) == names


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"refine": (0.5, 0.25)}, "narrower one first"),
        ({"refine": (0.25, 0.75)}, "must be two of the exported widths"),
        ({"refine": (0.25,)}, "must be two of the exported widths"),
        ({"single_file": False}, "needs `single_file=True`"),
        ({"precision": "int8"}, "must not be 'int8'"),
    ],
)
def test_a_refinement_that_cannot_be_is_refused(tmp_path, change, match):
    options = {"refine": (0.25, 1.0), "widths": [0.25, 0.5, 1.0], **change}
    path = tmp_path / ("x" if "single_file" in change else "x.tflite")
    model = small_conv()
    x = inputs_of(model)
    with pytest.raises(ValueError, match=match):
        export_tflite(model, path, representative=x, **options)
    assert list(tmp_path.iterdir()) == []


def test_without_tri_layers_there_is_nothing_to_refine(tmp_path):
    plain = lenet_3c1l((16, 16, 1), triangular=False)
    model = SNet(plain.input, plain.output, widths=[0.25, 1.0])
    with pytest.raises(ValueError, match="needs Tri layers that can be cut"):
        export_tflite(
            model, tmp_path / "x.tflite", widths=[0.25, 1], refine=(0.25, 1.0)
        )


# ------------------------------------------------------------------------ more widths


@pytest.mark.parametrize("layout", ["auto", "triangular"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_widths_added_to_a_file_leave_the_others_bit_for_bit(
    tmp_path, layout, precision
):
    model = lenet_3c1l((16, 16, 1), filters=64, width_multiplier=1.0)
    x = np.random.default_rng(0).random((8, 16, 16, 1)).astype("float32")
    options = {"layout": layout, "precision": precision}
    if precision == "int8":
        options["representative"] = x
    old, new = tmp_path / "old.tflite", tmp_path / "new.tflite"
    export_tflite(model, old, widths=[0.25, 1.0], metadata={"a": 1}, **options)
    before = old.read_bytes()
    records = export_tflite(model, new, widths=[0.75, 0.5], append_to=old, **options)
    assert [record.width for record in records] == [0.25, 0.5, 0.75, 1.0]
    assert {record.bytes for record in records} == {len(new.read_bytes())}
    assert old.read_bytes() == before
    names = ["width_025", "width_100"]
    for name in names:
        (got,), (wanted,) = (run_tflite(f.read_bytes(), [x], name) for f in (new, old))
        np.testing.assert_array_equal(got, wanted)
    held, alone = (constants(path.read_bytes()) for path in (new, old))
    assert held.repeated == 0
    # Where kernels are cut, the block between 0.25 and 1 is not enough for 0.5 and
    # 0.75: they have smaller ones, with half of its weights.
    assert held.stored < 1.5 * alone.stored
    manifest = json.loads(new.with_suffix(".json").read_text())
    assert [row["width"] for row in manifest["widths"]] == [0.25, 0.5, 0.75, 1.0]
    assert manifest["metadata"] == {"a": 1}
    verify_tflite(new, model, samples=x)


def test_a_wider_end_added_to_a_file_shares_all_that_it_has(tmp_path):
    model = lenet_3c1l((16, 16, 1), filters=64, width_multiplier=1.0)
    path = tmp_path / "a.tflite"
    export_tflite(model, path, widths=[0.25, 0.5], layout="triangular")
    # Into the same file.
    export_tflite(model, path, widths=[1.0], append_to=path, layout="triangular")
    whole = tmp_path / "whole.tflite"
    export_tflite(model, whole, widths=[0.25, 0.5, 1.0], layout="triangular")
    assert path.read_bytes() == whole.read_bytes()


def test_a_file_that_refines_goes_on_to_when_widths_are_added(lenet, tmp_path):
    model = lenet[0]
    path = tmp_path / "anytime.tflite"
    export_tflite(model, path, widths=[0.25, 1.0], refine=(0.25, 1.0))
    refinement = json.loads(path.with_suffix(".json").read_text())["refinement"]
    export_tflite(model, path, widths=[0.5], append_to=path)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["refinement"] == refinement
    names = {"width_025", "width_050", "width_100"}
    names |= {pair["signature"] for pair in refinement}
    assert set(TFLiteFile(path).signatures) == names


@pytest.mark.parametrize(
    ("options", "adds"),
    [({}, True), ({"precision": "int8"}, False), ({"refine": (0.25, 1.0)}, False)],
)
def test_blocks_are_added_as_floats_and_not_beside_a_refinement(
    tmp_path, monkeypatch, options, adds
):
    said = []

    def recorded(*args, adds):
        said.append(adds)
        return cutting.cut_networks(*args, adds=adds)

    monkeypatch.setattr(export, "cut_networks", recorded)
    model = lenet_3c1l((16, 16, 1))
    x = np.random.default_rng(0).random((8, 16, 16, 1)).astype("float32")
    path = tmp_path / "model.tflite"
    export_tflite(model, path, widths=[0.25, 1.0], representative=x, **options)
    # As the signatures before them, with which they share blocks.
    export_tflite(
        model,
        path,
        widths=[0.5],
        append_to=path,
        representative=x,
        precision=options.get("precision", "float32"),
    )
    assert said == [adds] * 2


def test_a_file_of_other_weights_is_refused(tmp_path):
    model = small_dense()
    path = tmp_path / "a.tflite"
    export_tflite(model, path, widths=[0.5])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model.layers[-1].bias.assign([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="with its present weights"):
        export_tflite(model, path, widths=[1.0], append_to=path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"widths": [0.5, 0.75]}, r"the file `append_to` does .*\[0.5\]"),
        ({"widths": None}, "`widths` must name the new widths"),
        ({"precision": "float16"}, "Its precision is 'float32', not 'float16'"),
        ({"layout": "dense"}, "Its layout is 'auto', not 'dense'"),
        ({"refine": (0.5, 1.0)}, "`refine` must be None"),
        ({"single_file": False}, "`single_file` must be True"),
    ],
)
def test_widths_that_cannot_be_added_are_refused(tmp_path, options, match):
    model = small_dense()
    path, new = tmp_path / "a.tflite", tmp_path / "new.tflite"
    export_tflite(model, path, widths=[0.5, 1.0])
    with pytest.raises(ValueError, match=match):
        export_tflite(model, new, append_to=path, **{"widths": [0.75], **options})
    assert not new.exists()


def test_a_file_of_another_model_or_without_its_manifest_is_refused(tmp_path):
    path, manifest = tmp_path / "a.tflite", tmp_path / "a.json"
    export_tflite(small_dense(name="one"), path, widths=[0.5])
    options = {"widths": [1.0], "append_to": path}
    with pytest.raises(ValueError, match="Its model is 'one', not 'other'"):
        export_tflite(small_dense(name="other"), path, **options)
    described = json.loads(manifest.read_text())
    described["widths"][0]["sha256"] = "0"
    manifest.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="that the manifest beside it describes"):
        export_tflite(small_dense(name="one"), path, **options)
    manifest.unlink()
    with pytest.raises(
        ValueError, match=r"with its manifest beside it\. The manifest cannot"
    ):
        export_tflite(small_dense(name="one"), path, **options)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        export_tflite(small_dense(name="one"), path, **options)


# ------------------------------------------------------- what a file takes and gives


@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic_range", "int8"])
@pytest.mark.parametrize("single_file", [True, False])
def test_a_file_of_pixels_and_probabilities(tmp_path, precision, single_file):
    model = of_pixels()
    path = tmp_path / "a.tflite" if single_file else tmp_path
    records = export_tflite(
        model,
        path,
        widths=WIDTHS,
        single_file=single_file,
        precision=precision,
        representative=pixels(60),
        inputs="uint8",
        outputs="probabilities",
    )
    photos = pixels(10, seed=1)
    for record in records:
        signature = TFLiteFile(tmp_path / record.file).signatures[record.signature]
        (takes,), (gives,) = signature.inputs, signature.outputs
        assert (takes.name, takes.dtype, takes.scale) == ("photo", np.uint8, 0)
        assert (gives.name, gives.dtype) == ("scores", np.float32)
        model.width = record.width
        wanted = softmax(model(photos.astype("float32")))
        # Probabilities: what rounding to 8 or 16 bits does, over three layers.
        atol = {"float32": 1e-5, "float16": 5e-3}.get(precision, 0.05)
        got = signature.run(photos)["scores"]
        np.testing.assert_allclose(got, wanted, atol=atol)
        assert record.largest_error <= atol
    verify_tflite(tmp_path / records[0].file, model, samples=photos)


@pytest.mark.backends
def test_normalization_moves_into_a_file_of_pixels(tmp_path):
    model, path = classifier(), tmp_path / "a.tflite"
    normalization = {"mean": [120.0, 110.0, 100.0], "std": 60.0}
    said = {"normalization": normalization, "class_names": NAMES}
    asked = {"inputs": "uint8", "outputs": "probabilities"}
    export_tflite(model, path, widths=[0.5, 1.0], metadata=said, **asked)
    manifest = json.loads(path.with_suffix(".json").read_text())
    # Nobody is to normalize once more.
    assert manifest["metadata"] == {"class_names": NAMES}
    assert manifest["inputs"][0]["pixels"] == {"mean": [0.0], "std": [1.0]}
    photos = pixels(5)
    x = (photos - np.float32(normalization["mean"])) / np.float32(60)
    for width in (0.5, 1.0):
        (wanted,) = at_width(model, width, x)
        (got,) = run_tflite(path.read_bytes(), [photos], width_signature(width))
        # Another library's kernels.
        np.testing.assert_allclose(got, softmax(wanted), atol=1e-4)
    # The next widths take the same.
    export_tflite(model, path, widths=[0.25], append_to=path, **asked)
    again = json.loads(path.with_suffix(".json").read_text())
    assert [again[key] for key in ("metadata", "inputs", "changed")] == [
        manifest[key] for key in ("metadata", "inputs", "changed")
    ]
    verify_tflite(path, model, samples=x)
    with pytest.raises(ValueError, match="Its inputs is "):
        export_tflite(model, path, widths=[0.75], append_to=path)


@pytest.mark.backends
def test_logits_of_a_model_that_gives_probabilities(tmp_path):
    model, path = of_pixels(answers="activation"), tmp_path / "a.tflite"
    export_tflite(model, path, widths=WIDTHS, layout="triangular", outputs="logits")
    x = pixels(5).astype("float32")
    for width in WIDTHS:
        (got,) = run_tflite(path.read_bytes(), [x], width_signature(width))
        (wanted,) = at_width(model, width, x)
        assert np.abs(got.sum(-1) - 1).min() > 1e-2
        np.testing.assert_allclose(softmax(got), wanted, atol=1e-5)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["outputs"][0]["scores"] == "logits"
    assert manifest["changed"]["softmax"] == "left out"
    verify_tflite(path, model, samples=x)
    # The comparison is no formality.
    model.get_layer("scores").bias.assign([1.0, 0.0, 0.0, 0.0])
    with pytest.raises(ExportError, match="differs from the model"):
        verify_tflite(path, model, samples=x)


def test_a_wider_end_comes_first_in_the_file(tmp_path):
    model, path = of_pixels(), tmp_path / "a.tflite"
    export_tflite(model, path, widths=[0.25, 0.5])
    assert TFLiteFile(path).subgraph_of("width_050") == 0
    export_tflite(model, path, widths=[1.0], append_to=path)
    assert TFLiteFile(path).subgraph_of("width_100") == 0
    export_tflite(model, path, widths=[0.75], append_to=path)
    assert TFLiteFile(path).subgraph_of("width_100") == 0


def test_a_representative_set_in_the_wrong_scale_is_refused(tmp_path):
    path = tmp_path / "a.tflite"
    options = {"widths": [1.0], "precision": "int8"}
    with pytest.raises(ValueError, match=r"`representative` must be pixels, 0 to 255"):
        export_tflite(of_pixels(), path, representative=pixels(60) / 255, **options)
    with pytest.raises(ValueError, match=r"`samples` must be pixels, 0 to 255"):
        export_tflite(of_pixels(), path, samples=pixels(60) / 255, widths=[1.0])
    assert list(tmp_path.iterdir()) == []


# `pytest.warns` lets loose what Keras' own use of NumPy says, which is filtered else.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_representative_set_that_is_not_like_samples_is_told(tmp_path):
    # Nothing says what the model's inputs are.
    model, path = classifier(), tmp_path / "a.tflite"
    colours = np.random.default_rng(0).normal(size=(60, 1, 1, 3))
    real = pixels(60) / 255 + 3 * colours
    faint = real / 255
    options = {"widths": [1.0], "precision": "int8", "tolerance": 100.0}
    with pytest.warns(UserWarning, match=r"only [\d.]+% at width_100 of 60 samples"):
        export_tflite(model, path, representative=faint, samples=real, **options)
    # A few samples say nothing.
    export_tflite(model, path, representative=faint, samples=real[:9], **options)


def test_what_is_compared_on_does_not_decide_ranges(tmp_path, monkeypatch):
    given = []

    def recorded(networks, precision, representative, *args):
        given.append(len(representative[0]))
        return convert(networks, precision, representative, *args)

    monkeypatch.setattr(export, "convert", recorded)
    options = {"widths": [1.0], "precision": "int8"}
    for count in (60, 150):
        export_tflite(
            of_pixels(), tmp_path / "a.tflite", representative=pixels(count), **options
        )
    assert given == [60, 120]


# ------------------------------------------------------------------- seldom layers


@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_seldom_layers(name, tmp_path):
    model = randomize(to_any_width(NETWORKS[name](), divisor=4))
    path = tmp_path / "model.tflite"
    records = export_tflite(model, path, widths=WIDTHS, layout="triangular")
    x = inputs_of(model, 2)
    content = path.read_bytes()
    assert custom_operators(content) == []
    for record in records:
        wanted = np.asarray(slim(model, record.width)(x))
        (got,) = run_tflite(content, [x], record.signature)
        # float32: folded normalization, and sums in another order.
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NO_FILES)
def test_what_tflite_has_no_operator_for_is_said_before_conversion(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "convert", None)  # not even called
    model = to_any_width(NO_FILES[name](), divisor=4)
    with pytest.raises(ExportError, match=r"Layer '.*' \(.*3D\) cannot be in a file"):
        export_tflite(model, tmp_path / "model.tflite")


# ------------------------------------------------- sizes that the model leaves open


def open_sizes(**options):
    inputs = keras.Input((None, None, 1), name="image")
    x = TriConv2D(8, 3)(keras.layers.Conv2D(8, 3, activation="relu")(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return AnyWidthModel(inputs, keras.layers.Dense(3, name="scores")(x), **options)


def test_a_model_of_open_sizes_is_exported_for_one(tmp_path):
    model = randomize(open_sizes())
    path = tmp_path / "a.tflite"
    records = export_tflite(
        model, path, widths=[0.25, 1.0], input_shape=(10, 12, 1), outputs="logits"
    )
    x = np.random.default_rng(0).normal(size=(3, 10, 12, 1)).astype("float32")
    for record in records:
        (got,) = run_tflite(path.read_bytes(), [x], record.signature)
        (wanted,) = at_width(model, record.width, x)
        # Another library's sums.
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, atol=1e-4 * scale)
    # 8 outputs of 9 entries at 8x10 positions, and of 9 * 8 at 6x8; then 3 classes.
    assert records[-1].macs == 80 * 9 * 8 + 48 * 9 * 8 * 8 + 8 * 3
    assert records[-1].uncounted == []
    assert TFLiteFile(path).described["inputs"][0]["shape"] == [1, 10, 12, 1]
    assert [tuple(x.shape) for x in model.inputs] == [(None, None, None, 1)]
    assert [entry.agreement for entry in verify_tflite(path, model)] == [1.0, 1.0]
    verify_tflite(path, model, samples=x)
    with pytest.raises(ValueError, match=r"\(None, 10, 12, 1\).*\(1, 9, 9, 1\)"):
        verify_tflite(path, model, samples=x[:1, :9, :9])
    # Widths can be added in the same size only.
    with pytest.raises(ValueError, match="Its inputs is"):
        export_tflite(model, path, widths=[0.5], append_to=path, input_shape=(9, 9, 1))
    export_tflite(
        model,
        path,
        widths=[0.5],
        append_to=path,
        input_shape={"image": (10, 12, 1)},
        outputs="logits",
    )
    assert len(verify_tflite(path, model)) == 3


def test_what_a_model_was_compiled_for_is_known_at_a_given_size(tmp_path):
    model = open_sizes()
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    path = tmp_path / "a.tflite"
    export_tflite(model, path, widths=[1.0], input_shape=(8, 8, 1))
    assert TFLiteFile(path).scores_of("scores") == "logits"


def test_a_system_with_statistics_of_widths_is_exported_at_a_given_size(tmp_path):
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(8, 3)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(x))
    model = randomize(SNet(inputs, keras.layers.Dense(3)(x), widths=[0.5, 1.0]))
    path = tmp_path / "a.tflite"
    records = export_tflite(model, path, widths=[0.5, 1.0], input_shape=(8, 8, 1))
    # It is compared with the model itself, in another batch: sums in another order.
    assert len(verify_tflite(path, model)) == len(records) == 2


@pytest.mark.parametrize(
    ("shape", "error", "match"),
    [
        (None, ValueError, r"`input_shape=\(128, 128, 1\)`.*input 'image'"),
        ((8, 8), ValueError, r"must fit input 'image'.*\(None, None, 1\)"),
        ((8, 8, 3), ValueError, r"must fit input 'image'.*Received: \(8, 8, 3\)"),
        ((0, 8, 1), ValueError, "sizes of 1 or more"),
        ((2, 2, 1), ValueError, "does not fit model"),
        ([(8, 8, 1)] * 2, ValueError, r"each of the inputs \['image'\], in this order"),
        ({"photo": (8, 8, 1)}, ValueError, r"each of the inputs \['image'\]"),
        (8, TypeError, "`input_shape` must be a shape"),
        ((8.0, 8, 1), TypeError, "`input_shape` must be a shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tmp_path, shape, error, match):
    with pytest.raises(error, match=match):
        export_tflite(open_sizes(), tmp_path / "a.tflite", input_shape=shape)
    assert list(tmp_path.iterdir()) == []


def test_sizes_of_several_inputs_are_given_in_order_or_by_name(tmp_path):
    first, second = keras.Input((None, 2), name="z"), keras.Input((3,), name="a")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(8, 2)(first))
    x = keras.layers.Concatenate()([pooled, keras.layers.Dense(8)(second)])
    model = AnyWidthModel([first, second], keras.layers.Dense(3)(TriDense(8)(x)))
    for shape in ([(5, 2), (3,)], {"a": (3,), "z": (5, 2)}):
        path = tmp_path / "a.tflite"
        export_tflite(model, path, widths=[1.0], input_shape=shape)
        described = TFLiteFile(path).described["inputs"]
        assert [x["shape"] for x in described] == [[1, 5, 2], [1, 3]]


# ------------------------------------------------------------------ nothing fails late


def test_a_file_tells_which_layers_are_not_counted(tmp_path):
    path = tmp_path / "a.tflite"
    model = partly_known()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "MACs of model", UserWarning)
        records = export_tflite(model, path, widths=[0.5, 1.0])
    (said,) = caught
    assert "'own', 'other'" in str(said.message)
    manifest = json.loads(path.with_suffix(".json").read_text())
    for rows in (manifest["widths"], TFLiteFile(path).described["widths"]):
        assert [row["macs"] for row in rows] == [44, 120]
        assert [row["uncounted"] for row in rows] == [["own", "other"]] * 2
    assert records[0].uncounted == ["own", "other"]


def test_a_recurrent_layer_is_exported_and_counted(tmp_path):
    inputs = keras.Input((6, 4))
    x = keras.layers.Dense(8)(keras.layers.LSTM(5)(inputs))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(TriDense(8)(x)))
    (record,) = export_tflite(model, tmp_path / "a.tflite", widths=[1.0])
    assert record.macs == 6 * 4 * (4 + 5) * 5 + 5 * 8 + 8 * 8 + 8 * 3


class Label(keras.layers.Layer):
    """The number of the largest score. (Keras' own argmax needs a foreign operator.)"""

    def call(self, x):
        return tf.argmax(x, -1, output_type="int32")


register_width_rule(Label, WidthRule(per_sample))


def labels():
    inputs = keras.Input((4,))
    scores = keras.layers.Dense(5)(TriDense(16)(keras.layers.Dense(16)(inputs)))
    return AnyWidthModel(inputs, Label(name="label")(scores))


def test_labels_are_compared_by_agreement(tmp_path):
    model = randomize(labels())
    path = tmp_path / "a.tflite"
    x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    records = export_tflite(model, path, widths=[0.5, 1.0], samples=x)
    assert [(record.agreement, record.largest_error) for record in records] == [
        (1.0, 0.0)
    ] * 2
    assert TFLiteFile(path).described["outputs"][0]["dtype"] == "int32"
    last = model.layers[-2]
    last.bias.assign(np.array([0, 0, 0, 0, 1e3]))
    with pytest.raises(ExportError, match=r"gives other integers.*output 'label'"):
        verify_tflite(path, model, samples=x)
    compared = verify_tflite(path, model, samples=x, tolerance=1.0)
    got = TFLiteFile(path).signatures["width_100"].run(x)["label"]
    assert compared[-1].agreement == float(np.mean(got == 4)) < 1


def test_labels_of_an_int8_file_may_differ_here_and_there(tmp_path):
    model = randomize(labels())
    x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    (record,) = export_tflite(
        model,
        tmp_path / "a.tflite",
        widths=[1.0],
        precision="int8",
        representative=x,
        samples=x,
        # What integers cost is no matter here: by difference a label that is 4 off
        # would fail at any tolerance below 1.
        tolerance=0.5,
    )
    assert 0.5 <= record.agreement <= 1
