import keras
import numpy as np
import pytest

from awn_keras.deploy.converter import convert
from awn_keras.deploy.litert import run_tflite
from awn_keras.deploy.sums import with_plain_sums

# Shapes of two summands without the batch, which `keras.ops.add` misreads in a batch
# of one sample: it adds the second along the last axis (a wrong number), or along axis
# 1 (TFLite's converter fails).
MISREAD = [
    ((5, 1), (5, 1)),
    ((5, 3), (5, 1)),
    ((5, 5), (5, 1)),
    ((4, 4, 4), (4, 1, 1)),
    ((4, 4, 4), (1, 4, 1)),
    ((4, 4, 1), (1, 4, 1)),
    ((4, 1), (1, 4)),
]
RIGHT = [
    ((5,), (5,)),
    ((3, 5), (1, 5)),
    ((5, 1), (5, 3)),
    ((4, 6, 2), (1, 1, 2)),
    ((6, 4, 3), (1, 4, 1)),
    ((5, 5), (1, 1)),
    ((None, 5), (None, 5)),
]


def draw(shape):
    return np.random.default_rng(len(shape)).normal(size=(1, *shape)).astype("float32")


def model_of(call, *shapes):
    inputs = [keras.Input(shape, name=f"x{i}") for i, shape in enumerate(shapes)]
    return keras.Model(inputs, call(*inputs))


def run(model, arrays, precision="float32"):
    samples = [np.repeat(array, 4, axis=0) for array in arrays]
    content = convert({"a": model}, precision, samples if precision == "int8" else None)
    return run_tflite(content, list(arrays), "a")[0]


@pytest.mark.parametrize(("first", "second"), MISREAD, ids=str)
def test_a_file_adds_one_sample_as_numpy_does(first, second):
    arrays = [draw(first), draw(second)]
    model = model_of(keras.ops.add, first, second)
    assert with_plain_sums(model) is not model
    # The same float32 numbers are added once: equal but for a rounding.
    np.testing.assert_allclose(run(model, arrays), sum(arrays), rtol=1e-6)


@pytest.mark.parametrize(("first", "second"), RIGHT, ids=str)
def test_sums_that_keras_reads_right_stay(first, second):
    model = model_of(keras.ops.add, first, second)
    assert with_plain_sums(model) is model


def test_a_constant_is_added_as_the_model_adds_it():
    # Keras takes a constant of a known batch for a bias in batches of any size.
    model = model_of(lambda x: x + np.ones((1, 5, 1), "float32"), (5, 5))
    assert with_plain_sums(model) is model


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda *x: keras.layers.Add()(x), lambda *x: x[0] + x[1] + x[2]),
        (lambda *x: keras.layers.Average()(x), lambda *x: (x[0] + x[1] + x[2]) / 3),
        (lambda x, y, z: x + y + z, lambda *x: x[0] + x[1] + x[2]),
    ],
    ids=["Add", "Average", "operators"],
)
def test_three_summands(call, expected):
    shapes = [(1, 5), (5, 1), (5, 1)]
    arrays = [draw(shape) + i for i, shape in enumerate(shapes)]
    result = run(model_of(call, *shapes), arrays)
    np.testing.assert_allclose(result, expected(*arrays), rtol=1e-6, atol=1e-6)


def test_sums_of_reshaped_tensors():
    # TensorFlow's optimizer moves reshapes behind the sum.
    def call(x, y):
        x, y = (keras.ops.reshape(keras.ops.tanh(z), (-1, 5, 1)) for z in (x, y))
        return keras.ops.add(x, y)

    arrays = [draw((5,)), draw((1, 5)) + 1]
    x, y = (np.tanh(array).reshape(1, 5, 1) for array in arrays)
    np.testing.assert_allclose(run(model_of(call, (5,), (1, 5)), arrays), x + y, 1e-6)


def test_sums_in_a_nested_model():
    inner = model_of(keras.ops.add, (5, 5), (5, 1))
    model = model_of(lambda x, y: inner([x, y]) * 2.0, (5, 5), (5, 1))
    arrays = [draw((5, 5)), draw((5, 1))]
    np.testing.assert_allclose(run(model, arrays), 2 * sum(arrays), rtol=1e-6)


def test_layers_and_models_that_are_called_twice():
    add = keras.layers.Add()
    inner = model_of(keras.ops.add, (5, 5), (5, 1))

    def call(x, y):
        return inner([inner([add([x, y]), y]), add([y, y])])

    arrays = [draw((5, 5)), draw((5, 1))]
    result = run(model_of(call, (5, 5), (5, 1)), arrays)
    # Five float32 additions round once each.
    np.testing.assert_allclose(result, arrays[0] + 4 * arrays[1], rtol=1e-5, atol=1e-6)


def test_layers_keep_their_weights():
    dense = keras.layers.Dense(1)
    model = model_of(lambda x: dense(x) + keras.ops.relu(dense(x)), (5, 3))
    x = draw((5, 3))
    # In a batch of two, Keras adds right.
    expected = model.predict(np.concatenate([x, x]), verbose=0)[:1]
    np.testing.assert_allclose(run(model, [x]), expected, rtol=1e-5, atol=1e-6)


def test_int8_adds_too():
    arrays = [draw((5, 5)), draw((5, 1))]
    model = model_of(keras.ops.add, (5, 5), (5, 1))
    result = run(model, arrays, "int8")
    # A step of int8 is the range of the sum, at most 8, through 255; three roundings.
    np.testing.assert_allclose(result, sum(arrays), atol=3 * 8 / 255)
