import keras
import numpy as np
import pytest

from awn_keras import lenet_3c1l
from awn_keras.data import load_data
from awn_keras.data.inputs import random_inputs, scales_inputs

L = keras.layers


def network(*first):
    inputs = x = keras.Input((8, 8, 3))
    for layer in first:
        x = layer(x)
    return keras.Model(inputs, L.Conv2D(2, 3, name="stem")(x))


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ([], False),
        ([L.ZeroPadding2D()], False),
        ([L.Rescaling(1 / 255)], True),
        ([L.ZeroPadding2D(), L.Normalization(mean=3.0, variance=4.0)], True),
        ([L.BatchNormalization()], True),
        ([lambda x: x / 127.5 - 1], True),
        ([L.Conv2D(3, 1), L.Rescaling(2.0)], False),
    ],
)
def test_a_model_scales_inputs_if_it_scales_them_first(first, expected):
    assert scales_inputs(network(*first)) is expected


@pytest.mark.parametrize(
    "first",
    [
        [],
        [L.Rescaling(1 / 127.5, offset=-1)],
        [L.Rescaling(1 / 255), L.Normalization(mean=[0.4] * 3, variance=[0.04] * 3)],
        [L.Normalization(mean=3.0, variance=4.0, invert=True)],
    ],
)
def test_random_inputs_are_standard_normal_at_the_first_kernel(first):
    model = network(*first)
    (x,) = random_inputs(model, 50)
    seen = keras.Model(model.input, model.get_layer("stem").input)
    values = keras.ops.convert_to_numpy(seen(x.astype("float32")))
    # 9,600 numbers: their mean is off by 0.01, their deviation by 0.007.
    assert values.mean() == pytest.approx(0, abs=0.03)
    assert values.std() == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(x, random_inputs(model, 50)[0])


def test_networks_of_a_run_take_pixels():
    layer = load_data("digits").preprocessing()
    model = lenet_3c1l((8, 8, 1), padding="same", filters=4, preprocessing=layer)
    assert scales_inputs(model)
    (x,) = random_inputs(model, 20)
    assert 4 < x.mean() < 6
