"""A joined file holds all signatures, and each computes the same as before."""

import functools

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from awn_keras import lenet_3c1l, slim
from awn_keras.deploy.converter import PRECISIONS, constants, convert
from awn_keras.deploy.cutting import cut
from awn_keras.deploy.joining import join
from awn_keras.deploy.litert import TFLiteFile, run_tflite
from awn_keras.layouts import choose_cuts
from tests.conftest import inputs_of, small_dense
from tests.test_slimming import randomize

WIDTHS = {"width_025": 0.25, "width_050": 0.5, "width_100": 1.0}


@pytest.fixture(scope="module")
def several():
    """A network for each width, which share blocks."""
    keras.utils.set_random_seed(0)
    model = randomize(lenet_3c1l((16, 16, 1)))
    cuts = choose_cuts(model, list(WIDTHS.values()), "triangular")
    return {name: cut(slim(model, width), cuts) for name, width in WIDTHS.items()}


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((8, 16, 16, 1)).astype("float32")


@pytest.fixture(scope="module")
def alone(several, x):
    """A file of a precision for each network."""

    @functools.cache
    def files(precision):
        representative = [x] if precision == "int8" else None
        return {
            name: convert({name: network}, precision, representative)
            for name, network in several.items()
        }

    return files


def dense(name, outputs):
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, keras.layers.Dense(outputs, name=name)(inputs))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_signature_computes_bit_for_bit_what_it_does_alone(alone, x, precision):
    files = alone(precision)
    joined = join(files.values())
    assert list(Interpreter(model_content=joined).get_signature_list()) == [*WIDTHS]
    for name, content in files.items():
        (got,), (wanted,) = (run_tflite(c, [x], name) for c in (joined, content))
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_networks_converted_together_are_those_converted_alone(
    several, alone, x, precision
):
    representative = [x] if precision == "int8" else None
    together = convert(several, precision, representative)
    assert together == join(alone(precision).values())
    # Nothing that changes from run to run goes into a file.
    assert together == convert(several, precision, representative)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_constants_are_stored_once(alone, precision):
    files = alone(precision)
    held = constants(join(files.values()))
    each = [constants(content) for content in files.values()]
    assert held.repeated == 0
    assert held.used == sum(file.used for file in each)
    # The narrow networks' blocks are among those of the wide one, not so the stem and
    # int8's biases, whose scale depends on the width.
    assert max(file.stored for file in each) <= held.stored < 1.1 * each[-1].stored


def test_joining_what_is_joined_gives_the_same_bytes(alone):
    a, b, c = alone("float32").values()
    whole = join([a, b, c])
    assert join([join([a, b]), c]) == join([a, join([b, c])]) == join([whole]) == whole


def test_a_file_as_the_converter_writes_it_gets_smaller_and_computes_the_same(
    several, x
):
    content = tf.lite.TFLiteConverter.from_keras_model(several["width_050"]).convert()
    smaller = join([content])
    assert len(smaller) < len(content)
    (before,), (other,) = (run_tflite(each, [x]) for each in (content, smaller))
    np.testing.assert_array_equal(before, other)


def test_constants_are_aligned_and_inner_tensors_have_no_names(alone):
    content = join(alone("float32").values())
    model = schema.Model.GetRootAs(content, 0)
    start = np.frombuffer(content, np.uint8).ctypes.data
    held = [model.Buffers(i) for i in range(model.BuffersLength())]
    # The schema's `force_align`: some kernels load 16 bytes at a time.
    offsets = [
        buffer.DataAsNumpy().ctypes.data - start
        for buffer in held
        if buffer.DataLength()
    ]
    assert len(offsets) > 10
    assert all(offset % 16 == 0 for offset in offsets)
    # By the schema the first one is for tensors that have no constant.
    assert held[0].DataLength() == 0
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        named = {i for i in range(graph.TensorsLength()) if graph.Tensors(i).Name()}
        assert named == {*graph.InputsAsNumpy(), *graph.OutputsAsNumpy()}


def test_operators_are_named_once(alone):
    model = schema.Model.GetRootAs(join(alone("int8").values()), 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    named = [(code.BuiltinCode(), code.Version()) for code in codes]
    assert len(set(named)) == len(named) > 3


def test_signatures_need_not_be_alike():
    model = small_dense()
    network, two = (
        convert({"width_050": slim(model, 0.5)}),
        convert({"y": dense("y", 2)}),
    )
    file = TFLiteFile(join([two, network]))
    assert list(file.signatures) == ["y", "width_050"]
    x = inputs_of(model)
    for content, name in ((network, "width_050"), (two, "y")):
        (got,), (wanted,) = (run_tflite(c, [x], name) for c in (file, content))
        np.testing.assert_array_equal(got, wanted)


@keras.saving.register_keras_serializable(package="tests")
class Halved(keras.layers.Layer):
    """Halves numbers until their sum is below a limit: control flow."""

    def __init__(self, limit, **kwargs):
        super().__init__(**kwargs)
        self.limit = limit

    def call(self, x):
        (x,) = keras.ops.while_loop(
            lambda x: keras.ops.sum(x) > self.limit, lambda x: (x / 2,), (x,)
        )
        return x


def test_control_flow_keeps_the_subgraphs_that_it_runs():
    inputs = keras.Input((3,))
    models = {
        f"below_{limit}": keras.Model(inputs, Halved(limit)(inputs))
        for limit in (1, 100, 10)
    }
    content = convert(models)
    # A graph for the condition and one for the body besides the network's.
    assert schema.Model.GetRootAs(content, 0).SubgraphsLength() == 9
    x = np.float32([[30, 40, 50]])
    for name, wanted in (("below_1", x / 128), ("below_10", x / 16)):
        np.testing.assert_array_equal(run_tflite(content, [x], name)[0], wanted)
    np.testing.assert_array_equal(run_tflite(content, [x], "below_100")[0], x / 2)


def test_the_newest_runtime_that_a_file_needs_is_named():
    inputs = keras.Input((4,))
    old = convert({"old": dense("y", 2)})
    new = convert({"new": keras.Model(inputs, keras.layers.Activation("gelu")(inputs))})

    def needs(content):
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        (entry,) = model.metadata
        assert entry.name == b"min_runtime_version"
        version = bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode()
        return [int(number) for number in version.split(".")]

    assert needs(old) < needs(new)
    assert needs(join([old, new])) == needs(join([new, old])) == needs(new)


# ------------------------------------------------------------------------- failures


def test_files_that_cannot_be_joined_are_refused():
    content = convert({"a": dense("y", 2)})
    with pytest.raises(ValueError, match="`files` must not be empty"):
        join([])
    with pytest.raises(ValueError, match=r"different names\. Received: 'a' twice"):
        join([content, content])
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    model.signatureDefs = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(ValueError, match="must have signatures"):
        join([bytes(builder.Output())])
