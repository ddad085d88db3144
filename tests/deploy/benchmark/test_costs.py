import keras
import numpy as np
import pytest

from awn_keras import count_macs, lenet_3c1l, slim
from awn_keras.deploy.benchmark.costs import costs_of
from awn_keras.deploy.converter import constants, convert
from awn_keras.deploy.cutting import cut
from awn_keras.layouts import candidates
from tests.conftest import rich


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_dense_files_cost_what_the_network_does(width):
    model = rich()
    content = convert({"width": slim(model, width)})
    costs = costs_of(content)["width"]
    assert costs.macs == count_macs(model, width)
    held = constants(content)
    # Shapes that operators read are no weights of the network, but a constant each.
    assert costs.constant_bytes == held.used
    assert costs.parameters * 4 == pytest.approx(held.used, rel=1e-3)


def test_cut_kernels_cost_less():
    model = lenet_3c1l((16, 16, 1), filters=32, width_multiplier=1.0)
    rows = {
        name: candidate.cut_at([0.25, 0.5, 1.0])
        for name, candidate in candidates(model).items()
    }
    network = slim(model, 1.0)
    whole = costs_of(convert({"a": network}))["a"]
    costs = costs_of(convert({"a": cut(network, rows)}))["a"]
    assert costs.macs < 0.8 * whole.macs
    assert costs.parameters < 0.8 * whole.parameters
    assert costs.operators > whole.operators


def test_activations_are_those_that_live_at_the_same_time():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(100, activation="relu")(inputs)
    y = keras.layers.Dense(50)(x)
    z = keras.layers.Dense(50)(x)
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()([y, z]))
    content = convert({"a": keras.Model(inputs, outputs)})
    # 100 values of x, with y (50) and z (50) of which x makes both.
    assert costs_of(content)["a"].activation_bytes == 4 * (100 + 50 + 50)


def test_transposed_convolutions_count_their_inputs():
    inputs = keras.Input((5, 5, 3))
    outputs = keras.layers.Conv2DTranspose(4, 3, strides=2, use_bias=False)(inputs)
    content = convert({"a": keras.Model(inputs, outputs)})
    assert costs_of(content)["a"].macs == 5 * 5 * 3 * 3 * 3 * 4


def test_int8_activations_take_a_byte():
    model = lenet_3c1l((16, 16, 1), filters=16)
    network = slim(model, 1.0)
    x = np.random.default_rng(0).random((4, 16, 16, 1)).astype("float32")
    whole = costs_of(convert({"a": network}))["a"]
    costs = costs_of(convert({"a": network}, "int8", [x]))["a"]
    assert costs.macs == whole.macs
    # All but the image and the scores.
    assert costs.activation_bytes < 0.4 * whole.activation_bytes


def test_what_is_no_file_is_refused():
    with pytest.raises(ValueError, match="is not a TFLite file"):
        costs_of(b"text")


def test_products_of_activations_count_and_loops_are_not_known():
    inputs = keras.Input((6, 4))
    looks = keras.Model(inputs, keras.layers.Attention()([inputs, inputs]))
    unrolled = keras.Model(inputs, keras.layers.SimpleRNN(5, unroll=True)(inputs))
    assert costs_of(convert({"a": looks}))["a"].macs == count_macs(looks)
    # The first state is zeros: its product is not computed.
    macs = costs_of(convert({"a": unrolled}))["a"].macs
    assert macs == count_macs(unrolled) - 5 * 5
    rolled = keras.Model(inputs, keras.layers.SimpleRNN(5)(inputs))
    assert costs_of(convert({"a": rolled}))["a"].macs is None
