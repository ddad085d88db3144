import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, TriConv2D, slim, to_any_width
from awn_keras.errors import ExportError
from awn_keras.propagation import propagate
from awn_keras.rules import Fixed, Graded, PerWidth
from awn_keras.stages import Widths
from awn_keras.widths import channel_grades
from tests.conftest import at_width, inputs_of, on_tensorflow

pytestmark = pytest.mark.backends

L = keras.layers


def kind_of(x, *layers):
    """Kind of what the layers give one after the other, and a Dense after them."""
    inputs = y = x
    for layer in layers:
        y = layer(y)
    heads = [L.Dense(1)(L.Flatten()(z)) for z in (L.Conv2D(2, 1)(inputs), y)]
    return propagate(keras.Model(inputs, heads), Widths()).kinds[id(y)]


# ---------------------------------------------------------- one group for each channel


def test_a_group_for_each_channel_keeps_the_channels():
    kind = kind_of(
        keras.Input((4, 4, 2)), L.Conv2D(6, 1), L.Conv2D(12, 3, groups=6), L.ReLU()
    )
    assert kind == Graded(np.repeat(channel_grades(6, min_width=0.25), 2))


def test_on_the_inputs_it_stays_whole():
    assert kind_of(keras.Input((4, 4, 2)), L.Conv2D(4, 1, groups=2)) == Fixed()


def test_after_the_readout_it_belongs_to_the_tail():
    inputs = keras.Input((4, 4, 2))
    x = L.Conv2D(6, 1, name="readout")(TriConv2D(6, 1)(L.Conv2D(6, 1)(inputs)))
    outputs = L.Conv2D(6, 3, groups=6)(x)
    model = AnyWidthModel(inputs, outputs)
    assert model.propagation.kinds[id(outputs)] == PerWidth("readout")
    x = inputs_of(model)
    # The same sums in another order.
    wanted = keras.ops.convert_to_numpy(slim(model, 0.5)(x))
    np.testing.assert_allclose(at_width(model, 0.5, x)[0], wanted, atol=1e-5)


@on_tensorflow  # which computes no Conv3D in groups, but knows its shapes
def test_in_three_dimensions():
    inputs = keras.Input((3, 4, 4, 2))
    x = L.Conv3D(8, 1)(inputs)
    x = L.Conv3D(16, 2, groups=8, name="grouped")(x)
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Conv3D(8, 1)(x))))
    small = slim(to_any_width(plain, divisor=1), 0.5).get_layer("grouped")
    assert (small.groups, small.filters) == (4, 8)
    assert small.kernel.shape == (2, 2, 2, 1, 8)


@on_tensorflow
def test_no_file_holds_three_dimensions(tmp_path):
    from awn_keras.deploy import export_tflite

    inputs = keras.Input((3, 4, 4, 2))
    x = L.Conv3D(16, 2, groups=8, name="grouped")(L.Conv3D(8, 1)(inputs))
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Conv3D(8, 1)(x))))
    with pytest.raises(ExportError, match=r"'grouped'.*cannot be in a file.*`groups`"):
        export_tflite(to_any_width(plain, divisor=1), tmp_path / "model.tflite")
