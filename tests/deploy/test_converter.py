import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from awn_keras import lenet_3c1l, slim
from awn_keras.deploy.converter import (
    PRECISIONS,
    constants,
    convert,
    custom_operators,
)
from awn_keras.deploy.cutting import cut
from awn_keras.deploy.litert import TFLiteFile, run_tflite
from awn_keras.errors import ExportError
from awn_keras.layouts import choose_cuts
from tests.conftest import inputs_of, small_conv
from tests.test_slimming import randomize

WIDTHS = {"width_025": 0.25, "width_050": 0.5, "width_100": 1.0}


def networks(model, layout="triangular"):
    cuts = choose_cuts(model, list(WIDTHS.values()), layout)
    return {name: cut(slim(model, width), cuts) for name, width in WIDTHS.items()}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return lenet_3c1l((16, 16, 1))


@pytest.fixture(scope="module")
def several(model):
    return networks(model)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((8, 16, 16, 1)).astype("float32")


@pytest.fixture(scope="module")
def alone(several, x):
    """A file of a precision of the widest network."""

    @functools.cache
    def content(precision):
        representative = [x] if precision == "int8" else None
        return convert({"a": several["width_100"]}, precision, representative)

    return content


def test_each_signature_computes_its_model():
    model = randomize(small_conv())
    content = convert(networks(model))
    x = inputs_of(model)
    assert list(Interpreter(model_content=content).get_signature_list()) == [*WIDTHS]
    for name, width in WIDTHS.items():
        (got,) = run_tflite(content, [x], name)
        wanted = np.asarray(slim(model, width)(x))
        # Folding of BatchNormalization rounds each weight once more.
        atol = 1e-4 * max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, atol=atol)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_widths_share_their_constants_at_any_precision(several, x, alone, precision):
    content = convert(several, precision, [x] if precision == "int8" else None)
    held = constants(content)
    # The stem and int8's biases, whose scale depends on the width, are not shared.
    assert held.stored < 1.1 * constants(alone(precision)).stored
    # A width of 0.25, 0.5 and 1 uses about 1/16, 1/4 and all of it.
    assert held.used > 1.25 * held.stored
    assert held.repeated == 0
    assert custom_operators(content) == []


def test_dense_kernels_are_not_shared(model):
    dense = networks(model, "dense")
    held = constants(convert(dense))
    # Kernels have sides of a quarter, a half and all of the channels.
    weights = dense["width_100"].count_params()
    assert held.stored > 1.25 * 4 * weights


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_and_outputs_are_float32_and_the_file_is_small(
    several, x, alone, precision
):
    network, content = several["width_100"], alone(precision)
    (signature,) = TFLiteFile(content).signatures.values()
    for tensor in (*signature.inputs, *signature.outputs):
        assert tensor.dtype == np.float32
    each = {"float32": 4, "float16": 2}.get(precision, 1)
    # Biases and scales stay wider than the weights.
    assert constants(content).stored < 1.15 * each * network.count_params()
    (got,) = run_tflite(content, [x], "a")
    wanted = np.asarray(network(x))
    relative = {"float32": 1e-5, "float16": 2e-3}.get(precision, 0.1)
    # A rounding of each weight, in int8 of each activation: 1/254 of its range.
    np.testing.assert_allclose(got, wanted, atol=relative * np.abs(wanted).max())


def test_int8_has_integer_kernels_and_activations(alone):
    interpreter = Interpreter(model_content=alone("int8"))
    kinds = [
        tensor["dtype"]
        for tensor in interpreter.get_tensor_details()
        if len(tensor["shape"]) == 4
    ]
    assert kinds.count(np.float32) == 1  # the image
    assert len(kinds) > 5


def test_outputs_keep_the_order_and_names_of_the_model():
    x, y = keras.Input((4,), name="x"), keras.Input((3,), name="a")
    outputs = [
        keras.layers.Dense(2, name="zero")(x),
        keras.layers.Dense(1, name="one")(y),
        keras.layers.Dense(2, name="later")(x),
    ]
    model = keras.Model([x, y], outputs)
    (signature,) = TFLiteFile(convert({"serve": model})).signatures.values()
    assert [tensor.name for tensor in signature.inputs] == ["a", "x"]
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(5, 4)), "a": rng.normal(size=(5, 3))}
    arrays = {name: array.astype("float32") for name, array in arrays.items()}
    got = signature.run(arrays)
    for name, wanted in zip(model.output_names, model([*arrays.values()]), strict=True):
        # Another library's kernels.
        np.testing.assert_allclose(got[name], wanted, atol=1e-5)


def test_an_output_may_be_that_of_two_layers_or_an_input():
    x = keras.Input((4,), name="x")
    y = keras.layers.Dense(2, name="y")(x)
    model = keras.Model(x, [y, keras.layers.Identity(name="z")(y), x])
    model.output_names = ["y", "z", "same"]
    (signature,) = TFLiteFile(convert({"serve": model})).signatures.values()
    array = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    got = signature.run(array)
    np.testing.assert_array_equal(got["y"], got["z"])
    np.testing.assert_array_equal(got["same"], array)


@keras.saving.register_keras_serializable(package="tests")
class Table(keras.layers.Layer):
    """Keeps a tensor and a variable that Keras does not know of."""

    def build(self, shape):
        self.table = tf.constant(np.arange(600, dtype="float32").reshape(3, 200))
        self.shift = tf.Variable(tf.ones(200))

    def call(self, x):
        return keras.ops.matmul(x, self.table) + self.shift


def test_tensors_that_are_no_weights_become_constants_too():
    x = keras.Input((3,))
    content = convert({"a": keras.Model(x, Table()(keras.layers.Dense(3)(x)))})
    assert constants(content).stored >= 4 * (600 + 200 + 9)
    array = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    table = keras.Model(x, Table()(x))
    (got,) = run_tflite(convert({"a": table}), [array])
    np.testing.assert_allclose(got, np.asarray(table(array)), rtol=1e-5)


def test_batch_normalization_is_folded_into_kernels():
    several = networks(randomize(small_conv()))
    normalize = keras.layers.BatchNormalization
    assert any(isinstance(layer, normalize) for layer in several["width_100"].layers)
    kinds = operators_of(convert(several))
    assert schema.BuiltinOperator.CONV_2D in kinds
    assert not kinds & {schema.BuiltinOperator.MUL, schema.BuiltinOperator.SUB}


def operators_of(content):
    """The builtin operators that a file has."""
    parsed = schema.Model.GetRootAs(content, 0)
    codes = [parsed.OperatorCodes(i) for i in range(parsed.OperatorCodesLength())]
    return {code.BuiltinCode() for code in codes}


# ------------------------------------------------------------------------- failures


def test_operators_that_are_not_builtin_are_refused():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Lambda(lambda x: keras.ops.erfinv(x * 0.1))(inputs)
    model = keras.Model(inputs, x, name="exotic")
    with pytest.raises(ExportError, match=r"TFLite does not have: Erfinv\. Repl"):
        convert({"width_100": model})


def test_bad_precisions_are_refused():
    network = {"a": slim(small_conv(), 1.0)}
    with pytest.raises(ValueError, match=r"`precision` must be one of.*'int4'"):
        convert(network, "int4")
    with pytest.raises(ValueError, match="needs `representative`"):
        convert(network, "int8")


def test_operators_of_which_the_converter_dumps_a_graph_are_named():
    inputs = keras.Input((3,), dtype="int32")
    encoded = keras.layers.CategoryEncoding(10, output_mode="multi_hot")(inputs)
    with pytest.raises(ExportError, match="does not have: DenseBincount"):
        convert({"a": keras.Model(inputs, encoded)})
