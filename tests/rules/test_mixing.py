import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    count_macs,
    count_parameters,
    slim,
    to_any_width,
)
from awn_keras.counting import count_active_parameters
from awn_keras.errors import ExportError
from awn_keras.layouts import candidates
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


# -------------------------------------------------------- groups of several channels


def grouped(channels=8, filters=12, groups=2):
    inputs = keras.Input((4, 4, 2))
    x = L.Conv2D(channels, 1, name="before")(inputs)
    x = L.Conv2D(filters, 3, groups=groups, padding="same", name="grouped")(x)
    x = L.Conv2D(6, 1)(x)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def test_groups_narrow_together():
    model = to_any_width(grouped(), divisor=1)
    layer = model.get_layer("grouped")
    assert isinstance(layer, TriConv2D)
    for grades, size in ((layer.in_grades, 4), (layer.out_grades, 6)):
        np.testing.assert_array_equal(grades[:size], grades[size:])
        assert len(np.unique(grades)) > 2
    small = slim(model, 0.5).get_layer("grouped")
    assert (small.groups, small.filters) == (2, 6)
    assert small.kernel.shape == (3, 3, 2, 6)


def test_layers_before_and_in_groups_stay_whole_in_files():
    model = to_any_width(grouped(), divisor=1)
    assert not {"before", "grouped"} & set(candidates(model))


def test_groups_are_widened_evenly():
    model = to_any_width(grouped(), divisor=2, width_multiplier=1.5)
    sizes = [model.get_layer(name).filters for name in ("before", "grouped")]
    assert sizes == [12, 2 * 10]  # of 4 and 6 channels each, rounded to even numbers


def test_a_readout_in_groups():
    inputs = keras.Input((4, 4, 2))
    x = TriConv2D(8, 1)(L.Conv2D(6, 1)(inputs))
    model = AnyWidthModel(inputs, L.Conv2D(4, 3, groups=2, name="readout")(x))
    x = inputs_of(model)
    for width in model.distinct_widths:
        small = slim(model, width)
        # The same sums in another order.
        wanted = keras.ops.convert_to_numpy(small(x))
        np.testing.assert_allclose(at_width(model, width, x)[0], wanted, atol=1e-5)
        assert count_parameters(model, width) == small.count_params()
    assert slim(model, 0.25).get_layer("readout").kernel.shape == (3, 3, 1, 4)


def test_a_stem_in_groups():
    inputs = keras.Input((4, 4, 4))
    x = TriConv2D(8, 1)(L.Conv2D(8, 3, groups=2, name="stem")(inputs))
    model = AnyWidthModel(inputs, L.Dense(2)(L.Flatten()(x)))
    x = inputs_of(model)
    small = slim(model, 0.5)
    # The same sums in another order.
    wanted = keras.ops.convert_to_numpy(small(x))
    np.testing.assert_allclose(at_width(model, 0.5, x)[0], wanted, atol=1e-5)
    assert small.get_layer("stem").kernel.shape == (3, 3, 2, 4)


def test_a_tri_layer_of_one_channel_a_group_is_refused():
    inputs = keras.Input((4, 4, 2))
    x = TriConv2D(8, 3, groups=8)(L.Conv2D(8, 1)(inputs))
    with pytest.raises(
        ValueError, match=r"no triangle\. Use a plain .*\.Conv2D` with as"
    ):
        AnyWidthModel(inputs, L.Dense(2)(L.Flatten()(x)))


@pytest.mark.parametrize("order", ["importance", "reading"])
def test_groups_are_ordered_together(order):
    plain = grouped()
    rng = np.random.default_rng(0)
    plain.set_weights([rng.normal(size=w.shape) for w in plain.get_weights()])
    model = to_any_width(plain, min_width=1.0, order=order)
    x = inputs_of(model)
    # Only places change: the same sums in another order.
    wanted = keras.ops.convert_to_numpy(plain(x))
    np.testing.assert_allclose(at_width(model, 1.0, x)[0], wanted, rtol=1e-4, atol=1e-3)


def test_active_weights_of_groups():
    model = to_any_width(grouped(), divisor=1)
    for width in model.distinct_widths:
        small = slim(model, width)
        zeros = sum(
            w.size - np.count_nonzero(w) for w in small.get_weights() if w.ndim > 1
        )
        active = count_active_parameters(model, width)
        assert active == small.count_params() - zeros
        assert count_macs(model, width) == count_macs(small)


@on_tensorflow  # which computes no Conv3D in groups, but knows its shapes
def test_groups_in_three_dimensions():
    inputs = keras.Input((3, 4, 4, 2))
    x = L.Conv3D(16, 2, groups=4, name="grouped")(L.Conv3D(16, 1)(inputs))
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Conv3D(8, 1)(x))))
    small = slim(to_any_width(plain, divisor=1), 0.5).get_layer("grouped")
    assert small.kernel.shape == (2, 2, 2, 2, 8)
