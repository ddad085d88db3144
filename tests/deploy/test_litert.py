import hashlib

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from awn_keras import slim
from awn_keras.deploy.converter import convert
from awn_keras.deploy.litert import TFLiteFile, run_tflite
from tests.conftest import inputs_of, small_dense


@pytest.fixture(scope="module")
def content():
    model = slim(small_dense(), 0.5)
    return convert({"width_050": model, "other": model, "width_033_333333": model})


def test_it_knows_what_the_file_holds(content, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    for file in (TFLiteFile(content), TFLiteFile(path), TFLiteFile(str(path))):
        assert set(file.signatures) == {"other", "width_033_333333", "width_050"}
        assert list(file.by_width) == [0.33333333, 0.5]
        signature = file.by_width[0.5]
        assert (signature.name, signature.width) == ("width_050", 0.5)
        assert file.signatures["other"].width is None
        (takes,), (gives,) = signature.inputs, signature.outputs
        assert (takes.shape, takes.sample_shape) == ((1, 4), (4,))
        assert (gives.shape, gives.dtype) == ((1, 3), np.float32)
        assert file.content == content
        assert file.sha256 == hashlib.sha256(content).hexdigest()
    indices = {file.subgraph_of(name) for name in file.signatures}
    assert len(indices) == 3
    assert TFLiteFile.of(file) is file


def test_a_width_is_found_up_to_the_rounding_in_its_name(content):
    file = TFLiteFile(content)
    assert file.find_width(1 / 3) == 0.33333333
    with pytest.raises(ValueError, match=r"file's widths, \[0.33333333, 0.5\].*=0.3"):
        file.find_width(0.3)


def test_arrays_go_in_the_order_of_names(content):
    x = inputs_of(small_dense())
    file = TFLiteFile(content)
    (got,) = run_tflite(file, [x], "width_050")
    (wanted,) = file.by_width[0.5].run(x).values()
    np.testing.assert_array_equal(got, wanted)
    with pytest.raises(ValueError, match=r"file's, \['width_050', .*signature='w'"):
        run_tflite(file, [x], "w")


@pytest.mark.parametrize(
    ("content", "name", "match"),
    [
        (b"", None, "'content' is not a TFLite file"),
        (b"not a network", "a.tflite", "'a.tflite' is not a TFLite file"),
    ],
)
def test_what_is_no_file_is_refused(content, name, match):
    with pytest.raises(ValueError, match=match):
        TFLiteFile(content, name)


def test_a_file_without_signatures_is_refused(content):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.signatureDefs = None
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(ValueError, match="'net' has no signatures; `export_tflite`"):
        TFLiteFile(bytes(builder.Output()), "net")
