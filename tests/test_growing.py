"""A trained network becomes the narrowest width of a larger network."""

import keras
import numpy as np
import pytest

from awn_keras import TriConv2D, count_macs, grow, slim
from tests import stock
from tests.baselines.networks import conv_net
from tests.conftest import at_width, classification, eagerly, inputs_of, labelled
from tests.test_conversion import train_a_little

pytestmark = eagerly
L = keras.layers


def residual():
    """Depthwise, Add, squeeze-and-excite, Concatenate, Flatten."""
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(inputs)))
    y = L.Conv2D(16, 1, use_bias=False)(x)
    y = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(y))
    squeezed = L.GlobalAveragePooling2D(keepdims=True)(y)
    squeezed = L.Conv2D(4, 1, activation="relu")(squeezed)
    y = L.Multiply()([y, L.Conv2D(16, 1, activation="sigmoid")(squeezed)])
    x = L.Add()([x, L.Conv2D(8, 1)(y)])
    x = L.Concatenate()([x, y, inputs])
    x = L.Conv2D(12, 3, strides=2, padding="same")(x)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))


NETWORKS = {
    "conv": lambda: conv_net((8, 16)),
    "residual": residual,
    # 12 and 20 are not multiples of 8, so these layers have smaller blocks.
    "odd sizes": lambda: conv_net((12, 20)),
    "decoder": stock.NETWORKS["decoder"],
    "cross-stage": stock.NETWORKS["cross-stage"],
    "depth-to-space": stock.NETWORKS["depth-to-space"],
    "padded": stock.NETWORKS["padded"],
    "instance normalization": stock.NETWORKS["instance-normalization"],
    "layer normalization": stock.NETWORKS["convnext"],
    "nested": lambda: keras.Sequential([keras.Input((6, 6, 2)), conv_net((8, 8))]),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("factor", [1.5, 2.0, 3.3])
def test_the_narrowest_width_is_the_network_bit_for_bit(network, factor):
    plain = train_a_little(NETWORKS[network]())
    model = grow(plain, factor)
    narrow = slim(model, model.min_width)
    for ours, theirs in zip(narrow.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert count_macs(model, model.min_width) == count_macs(plain)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_width_answers_like_the_network_until_it_is_trained(network):
    plain = train_a_little(NETWORKS[network]())
    model = grow(plain, 2.0)
    x = inputs_of(model)
    wanted = keras.ops.convert_to_numpy(plain(x))
    assert len(model.distinct_widths) >= 3
    for width in model.distinct_widths:
        # Sums over more channels, which add zeros, in another order.
        np.testing.assert_allclose(at_width(model, width, x)[0], wanted, atol=2e-5)


def test_training_uses_new_channels_and_can_leave_the_network_alone():
    plain = train_a_little(conv_net((8, 16)))
    model = grow(plain, 2.0)
    x, y = labelled(model)
    narrow = at_width(model, model.min_width, x)[0]
    before = at_width(model, 1.0, x)[0]
    classification(
        model, optimizer=keras.optimizers.SGD(0.1), frozen_up_to=model.min_width
    )
    model.fit(x, y, epochs=3, verbose=0)
    np.testing.assert_array_equal(at_width(model, model.min_width, x)[0], narrow)
    assert np.abs(at_width(model, 1.0, x)[0] - before).max() > 1e-3


def test_new_channels_read_old_ones_and_not_the_other_way_round():
    plain = train_a_little(conv_net((8, 16)))
    layer = grow(plain, 2.0).get_layer("conv2")
    assert isinstance(layer, TriConv2D)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    assert kernel.shape == (3, 3, 16, 32)
    assert not kernel[:, :, 8:, :16].any()
    assert kernel[:, :, :8, 16:].any()
    assert kernel[:, :, 8:, 16:].any()


def test_a_grown_model_survives_saving(tmp_path):
    plain = train_a_little(NETWORKS["residual"]())
    model = grow(plain, 1.5)
    x = inputs_of(model)
    model.save(tmp_path / "grown.keras")
    loaded = keras.saving.load_model(tmp_path / "grown.keras")
    for width in model.distinct_widths:
        np.testing.assert_array_equal(
            at_width(loaded, width, x)[0], at_width(model, width, x)[0]
        )


@pytest.mark.parametrize("factor", [1.0, 0.5, float("nan"), float("inf"), "2", True])
def test_the_factor_must_be_above_1(factor):
    with pytest.raises(ValueError, match="`factor` must be a number above 1"):
        grow(conv_net(), factor)


def test_a_factor_that_adds_no_channel_is_refused():
    with pytest.raises(ValueError, match=r"`factor` must add channels .*divisor=8"):
        grow(conv_net((16, 16)), 1.1)
