import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from awn_keras.normalization import applies_to, fast_batch_normalization, normalize

SHAPE = (16, 5, 4, 7)
#: Largest difference, relative to the largest number: sums of 320 float32 numbers in
#: another order; outputs that are rounded to 8 bits may go the other way.
TOLERANCE = {"float32": 1e-5, "mixed_bfloat16": 2**-8}


def layer_of(policy="float32", **kwargs):
    layer = keras.layers.BatchNormalization(momentum=0.9, dtype=policy, **kwargs)
    layer.build(SHAPE)
    if layer.scale:
        layer.gamma.assign(np.linspace(0.5, 2, SHAPE[-1]))
    if layer.center:
        layer.beta.assign(np.linspace(-1, 1, SHAPE[-1]))
    return layer


def images(dtype="float32"):
    x = np.random.default_rng(0).normal(3, 2, SHAPE)
    return tf.constant(x, dtype)


def trained(layer, x, *, fast, then=lambda y: y):
    """Output, gradients and moving statistics after one training pass."""
    into = tf.random.stateless_normal(x.shape, (1, 2))

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = then(layer(x, training=True))
            loss = tf.reduce_sum(tf.cast(y, "float32") * into)
        sources = [x, *(weight.value for weight in layer.trainable_weights)]
        return [y, *tape.gradient(loss, sources)]

    with fast_batch_normalization() if fast else contextlib.nullcontext():
        values = run(x)
    values += [layer.moving_mean, layer.moving_variance]
    return [np.asarray(keras.ops.cast(value, "float32")) for value in values]


@pytest.mark.parametrize("columns", [3, 4])  # an odd number of pixels, or an even one
@pytest.mark.parametrize("relu", [None, {}, {"max_value": 6.0}, {"threshold": 0.1}])
@pytest.mark.parametrize("policy", TOLERANCE)
def test_numbers_are_those_of_keras(policy, relu, columns):
    x = images()[:, :, :columns]
    if policy != "float32":
        x = tf.cast(tf.cast(x, "bfloat16"), "float32")  # what both see
    then = (lambda y: y) if relu is None else keras.layers.ReLU(**relu, dtype=policy)
    fast = trained(layer_of(policy), x, fast=True, then=then)
    plain = trained(layer_of(policy), x, fast=False, then=then)
    for one, other in zip(fast, plain, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE[policy] * scale)


def test_it_is_really_another_way():
    """Or the tests above would compare Keras with itself."""

    def operations(fast):
        layer, relu = layer_of(), keras.layers.ReLU()
        with fast_batch_normalization() if fast else contextlib.nullcontext():
            run = tf.function(lambda x: relu(layer(x, training=True)))
            graph = run.get_concrete_function(tf.TensorSpec(SHAPE)).graph
        return {operation.type for operation in graph.get_operations()}

    assert {"SquaredDifference", "Relu"} <= operations(fast=False)
    assert not {"SquaredDifference", "Relu"} & operations(fast=True)


def test_an_output_may_be_used_without_the_relu_too():
    x, relu = images(), keras.layers.ReLU()

    def both(y):
        return relu(y) - 2 * y

    fast, plain = (trained(layer_of(), x, fast=fast, then=both) for fast in (1, 0))
    for one, other in zip(fast, plain, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * scale)


def test_keras_is_as_before_afterwards():
    layers = keras.layers.BatchNormalization, keras.layers.ReLU
    before = [layer.call for layer in layers]

    def fail():
        with fast_batch_normalization():
            for layer, call in zip(layers, before, strict=True):
                assert layer.call is not call
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [layer.call for layer in layers] == before


def test_channels_may_be_unknown():
    layer = layer_of()
    run = tf.function(
        lambda x: normalize(x, layer.gamma, layer.beta, layer.epsilon)[0],
        input_signature=[tf.TensorSpec((None, None, None, None))],
    )
    y = run(images())
    expected = trained(layer_of(), images(), fast=False)[0]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "kwargs",
    [{"training": False}, {"mask": tf.ones(SHAPE[:3])}],
    ids=["inference", "mask"],
)
def test_other_calls_are_left_to_keras(kwargs):
    kwargs = {"training": True, **kwargs}
    plain, fast = layer_of(), layer_of()
    expected = plain(images(), **kwargs)
    with fast_batch_normalization():
        np.testing.assert_array_equal(fast(images(), **kwargs), expected)
    np.testing.assert_array_equal(fast.moving_mean, plain.moving_mean)


def test_a_frozen_layer_keeps_its_statistics():
    layer = layer_of()
    layer.trainable = False
    with fast_batch_normalization():
        layer(images(), training=True)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(SHAPE[-1]))


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (layer_of(scale=False), images()),
        (layer_of(center=False), images()),
        (layer_of(), images()[:, 0]),
        (layer_of("float64"), images("float64")),
    ],
    ids=["scale", "center", "rank", "float64"],
)
def test_what_it_cannot_do_is_refused(layer, x):
    assert applies_to(layer_of(), images())
    assert not applies_to(layer, x)


def test_a_gpu_is_left_to_keras(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a GPU"])
    assert not applies_to(layer_of(), images())
