"""Rotation of bottlenecks: directions that are read most come first."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from awn_keras import lenet_3c1l, rotate_channels, to_any_width
from tests.conftest import eagerly, inputs_of
from tests.data.folders import photos
from tests.test_conversion import train_a_little

pytestmark = eagerly
L = keras.layers


def convolution(x, filters, size, name, *, linear=False, bias=False, **kwargs):
    x = L.Conv2D(
        filters, size, padding="same", use_bias=bias, name=f"{name}_conv", **kwargs
    )(x)
    x = L.BatchNormalization(name=f"{name}_bn")(x)
    return x if linear else L.ReLU(6.0, name=f"{name}_relu")(x)


def block(x, name, filters=8, *, strides=1, bias=False):
    """Adds an inverted residual, whose output is a bottleneck."""
    y = convolution(x, 24, 1, f"{name}_expand")
    y = L.DepthwiseConv2D(3, strides, "same", use_bias=False, name=f"{name}_dw")(y)
    y = L.ReLU(6.0)(L.BatchNormalization(name=f"{name}_dw_bn")(y))
    y = convolution(y, filters, 1, f"{name}_project", linear=True, bias=bias)
    return y if strides > 1 else L.Add(name=f"{name}_add")([x, y])


def bottlenecks(between=lambda x: x, *, bias=False):
    """Builds blocks on a bottleneck. `between` changes the bottleneck."""
    inputs = keras.Input((12, 12, 3))
    x = convolution(inputs, 16, 3, "stem", strides=2)
    x = block(x, "first", strides=2, bias=bias)
    x = between(block(x, "second", bias=bias))
    x = block(x, "third", bias=bias)
    x = convolution(x, 16, 1, "head")
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(4, name="logits")(x), name="bottlenecks")


def dense():
    """Linear layers without normalization, and a sum."""
    inputs = keras.Input((6,))
    x = L.Dense(12, activation="relu", name="stem")(inputs)
    first = L.Dense(8, name="first")(x)
    second = L.Dense(8, name="second")(L.Dense(12, activation="relu")(first))
    x = L.Dense(12, activation="relu", name="reader")(first + second)
    return keras.Model(inputs, L.Dense(3, name="logits")(x), name="dense")


def pooled():
    """A bottleneck that the readout reads, pooled and dropped in part."""
    inputs = keras.Input((12, 12, 3))
    x = block(convolution(inputs, 16, 3, "stem"), "first", strides=2)
    x = L.ZeroPadding2D(1)(x)
    x = L.SpatialDropout2D(0.1)(L.AveragePooling2D(2)(x))
    x = L.Dropout(0.1)(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(4, name="logits")(x), name="pooled")


def transposed():
    """Kernels that have their channels the other way round, and at several places."""
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(12, 3, activation="relu")(inputs)
    x = L.Conv2DTranspose(8, 2, strides=2, name="first")(x)
    x = L.Conv2DTranspose(12, 3, activation="relu", name="reader")(x)
    x = L.SeparableConv2D(8, 3, name="separable")(x)
    x = L.Conv2D(12, 3, activation="relu", name="second")(x)
    return keras.Model(inputs, L.Conv2D(2, 1, name="logits")(x), name="transposed")


NETWORKS = {
    "bottlenecks": bottlenecks,
    "bias": lambda: bottlenecks(bias=True),
    "dense": dense,
    "pooled": pooled,
    "transposed": transposed,
    "MobileNetV2": lambda: keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=5
    ),
    "MobileNetV3": lambda: keras.applications.MobileNetV3Small(
        (32, 32, 3), alpha=0.75, weights=None, classes=5, minimalistic=False
    ),
}


def trained(network):
    model = train_a_little(network())
    rng = np.random.default_rng(5)
    for weight in model.weights:
        if "kernel" in weight.path:  # directions of very different size
            size = rng.uniform(0.2, 3, weight.shape[-1])
            weight.assign(keras.ops.convert_to_numpy(weight) * size)
    return model


def rotated(model, count=40):
    return rotate_channels(model, inputs_of(model, count), verbose=0)


def values(model, x, **kwargs):
    return keras.ops.convert_to_numpy(model(x, **kwargs)).astype("float64")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_copy_computes_what_the_model_computes(network):
    model = trained(NETWORKS[network])
    before = model.get_weights()
    copy = rotated(model)
    x = inputs_of(model)
    wanted = values(model, x)
    # Kernels were multiplied by matrices that stretch a hundredfold at most, in float64
    # and stored in float32; dozens of layers.
    np.testing.assert_allclose(
        values(copy, x), wanted, atol=2e-4 * abs(wanted).max(), rtol=0
    )
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    changed = [
        not np.array_equal(ours, theirs)
        for ours, theirs in zip(copy.get_weights(), before, strict=True)
    ]
    assert any(changed)


def bottleneck_of(model, name, x):
    """The inputs of a bottleneck's readers, `(samples and positions, channels)`."""
    read = values(keras.Model(model.input, model.get_layer(name).output), x)
    return read.reshape(-1, read.shape[-1])


@pytest.mark.parametrize("network", ["pooled", "transposed"])
def test_channels_of_a_bottleneck_are_uncorrelated_and_of_equal_size(network):
    model = trained(NETWORKS[network])
    x = inputs_of(model, 60)
    copy = rotate_channels(model, x, verbose=0)
    readers = {"pooled": "global_average_pooling2d", "transposed": "first"}
    of_reader = next(n.name for n in copy.layers if n.name.startswith(readers[network]))
    spread = np.cov(bottleneck_of(copy, of_reader, x).T)
    size = np.trace(spread) / len(spread)
    # The variance of directions that the samples hardly have is cut off.
    largest = np.diag(spread) > 0.99 * size
    assert largest.sum() >= len(spread) - 2
    np.testing.assert_allclose(
        spread[np.ix_(largest, largest)], size * np.eye(largest.sum()), atol=0.02 * size
    )
    assert np.trace(spread) == pytest.approx(
        np.trace(np.cov(bottleneck_of(model, of_reader, x).T)), rel=0.1
    )


def reading(kernel):
    """The part of each channel in the input of a layer, if all have equal size."""
    parts = np.square(kernel.astype("float64")).reshape(-1, *kernel.shape[-2:]).sum(0)
    return (parts / parts.sum(axis=0)).mean(axis=1)


@functools.cache
def rotated_kernel():
    copy = rotated(trained(transposed))
    return copy.get_layer("reader").get_weights()[0].swapaxes(-1, -2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 7))
def test_no_directions_are_read_more_than_the_first(seed, count):
    kernel = rotated_kernel()
    first = reading(kernel)
    assert (np.diff(first) < 1e-9).all()
    turned, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))
    others = reading(turned.T @ kernel)
    assert others[:count].sum() <= first[:count].sum() + 1e-9


@pytest.mark.backends
def test_a_triangle_forbids_less():
    model = trained(bottlenecks)

    def forbidden(plain):
        converted = to_any_width(plain, divisor=1, order="reading", fade=10)
        lost = []
        for name in ("second_expand_conv", "third_expand_conv", "head_conv"):
            layer = converted.get_layer(name)
            kernel = np.square(keras.ops.convert_to_numpy(layer.kernel))[0, 0]
            gamma = converted.get_layer("first_project_bn").gamma
            kernel = kernel * np.square(keras.ops.convert_to_numpy(gamma))[:, None]
            part = kernel / kernel.sum(axis=0)
            lost.append(part[~np.broadcast_to(layer.masks["kernel"], part.shape)].sum())
        return sum(lost)

    assert forbidden(rotated(model)) < 0.8 * forbidden(model)


def test_training_sees_what_evaluation_sees():
    """The normalization of a bottleneck has the statistics of its new directions."""
    model = trained(bottlenecks)
    x = inputs_of(model, 200)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.0
    model(x, training=True)  # statistics of these samples
    copy = rotate_channels(model, x, verbose=0)
    wanted = values(copy, x)
    # TensorFlow's moving variance is that of a sample: larger by 1 / (200 * 9).
    np.testing.assert_allclose(
        values(copy, x, training=True), wanted, atol=0.01 * abs(wanted).max(), rtol=0
    )


KNOWN = {
    "ReLU": lambda x: L.ReLU()(x),
    "depthwise": lambda x: L.DepthwiseConv2D(3, padding="same")(x),
    "normalization after a sum": lambda x: L.BatchNormalization()(x),
    "maximum": lambda x: L.MaxPooling2D(1)(x),
    "a number added": lambda x: x + 1.0,
    "a gate": lambda x: L.Multiply()(
        [x, L.Conv2D(8, 1, activation="sigmoid", name="gate")(x)]
    ),
    "Concatenate": lambda x: L.Conv2D(8, 1)(L.Concatenate()([x, L.ReLU()(x)])),
}


@pytest.mark.filterwarnings("ignore:.*has no linear bottleneck")
@pytest.mark.parametrize("kind", KNOWN)
def test_channels_that_are_known_one_by_one_stay(kind):
    model = trained(lambda: bottlenecks(KNOWN[kind]))
    copy = rotated(model)
    for name in ("first_project_conv", "second_project_bn", "second_expand_conv"):
        pairs = zip(
            copy.get_layer(name).get_weights(),
            model.get_layer(name).get_weights(),
            strict=True,
        )
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours, theirs)
    x = inputs_of(model)
    wanted = values(model, x)
    np.testing.assert_allclose(
        values(copy, x), wanted, atol=2e-4 * abs(wanted).max(), rtol=0
    )


@pytest.mark.filterwarnings("ignore:.*has no linear bottleneck")
def test_what_is_added_to_each_channel_leaves_them_as_they_are():
    """Reads one channel of the image, which is the same at every width."""
    inputs = keras.Input((12, 12, 1))
    x = block(convolution(inputs, 8, 3, "stem"), "first", strides=2)
    x = L.Add()([x, L.AveragePooling2D(2)(inputs)])
    x = L.GlobalAveragePooling2D()(convolution(x, 16, 1, "head"))
    model = trained(lambda: keras.Model(inputs, L.Dense(4)(x)))
    copy = rotated(model)
    x = inputs_of(model)
    np.testing.assert_allclose(values(copy, x), values(model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*has no linear bottleneck")
def test_a_layer_that_is_called_twice_leaves_them_as_they_are():
    shared = L.Conv2D(8, 1, name="shared")
    model = trained(
        lambda: bottlenecks(lambda x: L.Add()([shared(x), shared(L.ReLU()(x))]))
    )
    copy = rotated(model)
    np.testing.assert_array_equal(
        copy.get_layer("shared").get_weights()[0],
        model.get_layer("shared").get_weights()[0],
    )


def test_samples_may_be_what_people_keep_them_in(tmp_path):
    model = trained(bottlenecks)
    x = inputs_of(model, 10)
    wanted = rotate_channels(model, x, verbose=0).get_weights()
    labels = np.zeros(5)
    generator = ((part, labels) for part in (x[:5], x[5:]))
    copy = rotate_channels(model, generator, batch_size=3, verbose=0)
    for ours, theirs in zip(copy.get_weights(), wanted, strict=True):
        # Sums of batches in another order. The sign of a direction is arbitrary.
        np.testing.assert_allclose(abs(ours), abs(theirs), rtol=0.01, atol=0.01)
    rotate_channels(model, photos(tmp_path / "photos", cat=3, dog=3), verbose=0)


# TensorFlow's, where NumPy reads its tensors.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_what_cannot_be_rotated_is_told():
    model = trained(bottlenecks)
    with pytest.raises(ValueError, match=r"`samples` must have .*\(None, 12, 12, 3\)"):
        rotate_channels(model, np.zeros((3, 8, 8, 3)), verbose=0)
    with pytest.raises(ValueError, match="`model` must be trained: 'bottlenecks'"):
        rotate_channels(bottlenecks(), inputs_of(model), verbose=0)
    with pytest.raises(TypeError, match="is any-width already"):
        rotate_channels(lenet_3c1l(), np.zeros((3, 28, 28, 1)), verbose=0)
    plain = trained(lambda: lenet_3c1l(triangular=False))
    with pytest.warns(UserWarning, match="'lenet_3c1l' has no linear bottleneck"):
        copy = rotate_channels(plain, np.zeros((3, 28, 28, 1)), verbose=0)
    for ours, theirs in zip(copy.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.backends
def test_channels_whose_kernels_are_zero_stay_so():
    """Weight decay leaves zero kernels for channels that ReLU always stops."""
    model = trained(bottlenecks)
    for name in ("second_expand_conv", "second_project_conv", "head_conv"):
        layer = model.get_layer(name)
        (kernel,) = layer.get_weights()
        kernel[..., ::3] = 0.0
        layer.set_weights([kernel])
    copy = rotated(model)
    assert all(np.isfinite(weight).all() for weight in copy.get_weights())
    kernel = copy.get_layer("second_expand_conv").get_weights()[0]
    assert (kernel[..., ::3] == 0).all()
    x = inputs_of(model)
    wanted = values(model, x)
    np.testing.assert_allclose(
        values(copy, x), wanted, atol=2e-4 * abs(wanted).max(), rtol=0
    )


def test_a_bottleneck_through_which_nothing_comes_stays():
    model = trained(transposed)
    layer = model.get_layer("first")
    layer.set_weights([np.zeros_like(value) for value in layer.get_weights()])
    copy = rotated(model)
    np.testing.assert_array_equal(copy.get_layer("first").get_weights()[0], 0)
    x = inputs_of(model)
    np.testing.assert_allclose(values(copy, x), values(model, x), atol=1e-4)


def test_a_model_with_weights_that_are_not_finite_is_refused():
    model = train_a_little(bottlenecks())
    gamma = model.get_layer("second_project_bn").gamma
    gamma.assign(np.full(gamma.shape, np.inf))
    wanted = r"Layer 'second_project_bn': weight 'gamma' has a value that is not finite"
    with pytest.raises(ValueError, match=wanted):
        rotate_channels(model, inputs_of(model, 4), verbose=0)
