import keras
import numpy as np
import pytest

from awn_keras.shuffling import shuffles, with_shuffles_taken
from tests.conftest import inputs_of

pytestmark = pytest.mark.backends

L, ops = keras.layers, keras.ops


def model_of(function, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


def by_layers(x):
    x = L.Permute((1, 2, 4, 3))(L.Reshape((2, 3, 4, 6))(x))
    return L.Reshape((2, 3, 24))(x)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (by_layers, (2, 3, 24)),
        (
            lambda x: L.Reshape((-1, 24))(
                L.Permute((1, 3, 2))(L.Reshape((-1, 2, 12))(x))
            ),
            (None, 24),
        ),
        (
            lambda x: ops.reshape(
                ops.transpose(ops.reshape(x, (-1, 5, 2, 12)), (0, 1, 3, 2)), (-1, 5, 24)
            ),
            (5, 24),
        ),
        (
            lambda x: ops.reshape(
                ops.swapaxes(ops.reshape(x, (-1, 5, 2, 3, 4)), 2, -1), (-1, 5, 24)
            ),
            (5, 24),
        ),
        (lambda x: L.Flatten()(ops.moveaxis(L.Reshape((8, 3))(x), -1, 1)), (24,)),
    ],
)
def test_a_shuffle_becomes_one_operation(function, shape):
    model = model_of(function, shape)
    taken = with_shuffles_taken(model)
    names = [type(layer).__name__ for layer in taken.operations]
    assert names == ["InputLayer", "Take"]
    shape = tuple(5 if n is None else n for n in shape)
    x = np.arange(2 * np.prod(shape), dtype="float32").reshape(2, *shape)
    wanted, got = (keras.ops.convert_to_numpy(m(x)) for m in (model, taken))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: L.Reshape((2, 3, 24))(L.Reshape((2, 3, 4, 6))(x)),  # nothing moves
        lambda x: L.Reshape((2, 3, 24))(L.Permute((2, 1, 3))(x)),  # positions move
        lambda x: L.Reshape((2, 3, 24))(L.Permute((3, 2, 1))(x)),
        lambda x: L.Reshape((3, 2, 24))(
            L.Permute((1, 2, 4, 3))(L.Reshape((2, 3, 4, 6))(x))
        ),
        lambda x: L.Reshape((2, 3, 24))(  # what is between is no channel's own
            L.Softmax()(L.Permute((1, 2, 4, 3))(L.Reshape((2, 3, 4, 6))(x)))
        ),
    ],
)
def test_other_reshapes_stay(function):
    model = model_of(function, (2, 3, 24))
    assert shuffles(model) == {}
    assert with_shuffles_taken(model) is model


def test_what_else_reads_a_shuffle_stays():
    def function(x):
        spread = L.Reshape((2, 3, 4, 6))(x)
        y = L.Reshape((2, 3, 24))(L.Permute((1, 2, 4, 3))(spread))
        return [y, ops.mean(spread, axis=-1)]

    model = model_of(function, (2, 3, 24))
    x = inputs_of(model)
    for wanted, got in zip(model(x), with_shuffles_taken(model)(x), strict=True):
        np.testing.assert_array_equal(
            *(keras.ops.convert_to_numpy(y) for y in (got, wanted))
        )
