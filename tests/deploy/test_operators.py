import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from awn_keras.deploy import AnyWidthInterpreter
from awn_keras.deploy.converter import convert
from awn_keras.deploy.joining import pack
from awn_keras.deploy.litert import TFLiteFile
from awn_keras.deploy.operators import SCALE_LIMIT, check_scales, kinds_of


@pytest.fixture(scope="module")
def int8():
    x = keras.Input((6, 6, 3))
    y = keras.layers.Conv2D(4, 3, activation="relu")(x)
    y = keras.layers.DepthwiseConv2D(3)(y)
    y = keras.layers.Conv2DTranspose(3, 3)(y)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y)))
    samples = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype("float32")
    return {
        precision: convert({"width_100": model}, precision, [samples])
        for precision in ("int8", "float32", "dynamic_range")
    }


def with_scale(content, kind, scale):
    """The file, with another requantization scale of the operator of a kind."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    kinds = kinds_of(code.builtinCode for code in model.operatorCodes)
    (graph,) = model.subgraphs
    (operator,) = [o for o in graph.operators if kinds[o.opcodeIndex] == kind]
    places = (2, 1) if kind == "TRANSPOSE_CONV" else (0, 1)
    x, kernel = (
        graph.tensors[operator.inputs[place]].quantization.scale.max()
        for place in places
    )
    output = graph.tensors[operator.outputs[0]].quantization
    output.scale = [float(x * kernel / scale)]
    return pack(model)


KINDS = ["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_whose_output_has_too_fine_steps_is_named(int8, kind):
    check_scales(with_scale(int8["int8"], kind, 0.99 * SCALE_LIMIT), "a.tflite")
    broken = with_scale(int8["int8"], kind, 1.01 * SCALE_LIMIT)
    with pytest.raises(ValueError, match=rf"'a\.tflite'.*\({kind}\).*factor 259"):
        check_scales(broken, "a.tflite")


@pytest.mark.parametrize("precision", ["float32", "dynamic_range"])
def test_layers_of_floats_have_no_limit(int8, precision):
    check_scales(int8[precision], "a.tflite")


def test_a_file_that_litert_cannot_run_is_not_opened(int8, tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(with_scale(int8["int8"], "CONV_2D", 1000))
    with pytest.raises(ValueError, match="cannot run on CPUs"):
        TFLiteFile(path.read_bytes())
    with pytest.raises(ValueError, match=r"broken\.tflite' cannot run on CPUs"):
        AnyWidthInterpreter(path)


def test_the_limit_is_that_of_litert(int8):
    from ai_edge_litert.interpreter import Interpreter

    def prepare(scale):
        content = with_scale(int8["int8"], "FULLY_CONNECTED", scale)
        Interpreter(model_content=content).allocate_tensors()

    prepare(0.99 * SCALE_LIMIT)
    with pytest.raises(RuntimeError, match="XNNPACK"):
        prepare(1.01 * SCALE_LIMIT)


def test_numbers_of_unknown_operators_have_no_name():
    assert kinds_of([schema.BuiltinOperator.ADD, 12345]) == ["ADD", ""]


@pytest.mark.parametrize("inputs", [[], [0, 1000, 1]])
def test_damaged_operators_are_left_to_litert(int8, inputs):
    model = schema.ModelT.InitFromPackedBuf(int8["int8"], 0)
    for operator in model.subgraphs[0].operators:
        operator.inputs = inputs
    check_scales(pack(model), "a.tflite")
