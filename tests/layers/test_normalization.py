"""Each channel is normalized with the channels of an equal or smaller grade."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from awn_keras import (
    AnyWidthModel,
    TriDense,
    TriLayerNormalization,
    TriRMSNormalization,
    channel_grades,
    count_parameters,
    slim,
    to_any_width,
)
from awn_keras.constraints import forbidden_entries_act
from tests.conftest import eagerly, inputs_of

pytestmark = [pytest.mark.backends, eagerly]

LAYERS = [TriLayerNormalization, TriRMSNormalization]
#: Unsorted, as after Concatenate.
GRADES = np.array([0.5, 0.0, 0.25, 1.0, 0.0, 0.5, 0.25, 0.0])


def normalized(layer, x, grades):
    """What the layer is to give, in float64 and channel by channel."""
    x = np.asarray(x, "float64")
    outputs = np.empty_like(x)
    for channel, grade in enumerate(grades):
        prefix = x[..., grades <= grade]
        value = x[..., channel]
        if layer.centers:
            value = value - prefix.mean(-1)
            spread = prefix.var(-1)
        else:
            spread = (prefix**2).mean(-1)
        outputs[..., channel] = value / np.sqrt(spread + layer.epsilon)
    for name, act in zip(layer.affine, (np.multiply, np.add), strict=True):
        weight = getattr(layer, name, None)
        if weight is not None:
            outputs = act(outputs, keras.ops.convert_to_numpy(weight))
    return outputs


def built(layer_class, grades=GRADES, **arguments):
    layer = layer_class(grades=grades, **arguments)
    layer.build((None, len(grades)))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(1, 0.5, weight.shape) for weight in layer.weights])
    return layer


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("shape", [(2, 8), (2, 3, 8), (2, 3, 4, 8), (2, 2, 2, 2, 8)])
def test_a_channel_is_normalized_by_those_of_no_larger_grade(layer_class, shape):
    layer = built(layer_class)
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    # Sums of eight float32 numbers in another order.
    np.testing.assert_allclose(
        layer(x), normalized(layer, x, GRADES), rtol=1e-5, atol=1e-5
    )


@given(
    arrays.arrays(
        "float32", (3, 6), elements=st.floats(-1000, 1000, width=32, allow_nan=False)
    ),
    st.lists(st.sampled_from([0.0, 0.3, 0.6, 1.0]), min_size=5, max_size=5),
    st.sampled_from(LAYERS),
)
def test_wide_channels_do_not_change_narrow_ones(x, grades, layer_class):
    grades = np.array([0.0, *grades])
    layer = built(layer_class, grades)
    whole = keras.ops.convert_to_numpy(layer(x))
    for width in (0.0, 0.3, 0.6):
        other = np.where(grades <= width, x, 7 * x[::-1] + 1)
        changed = keras.ops.convert_to_numpy(layer(other))
        np.testing.assert_array_equal(
            changed[:, grades <= width], whole[:, grades <= width]
        )


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e5])
def test_a_mean_far_from_zero_costs_no_precision(mean):
    grades = channel_grades(64, 8, min_width=0.25)
    layer = built(TriLayerNormalization, grades, epsilon=1e-6)
    rng = np.random.default_rng(0)
    x = (mean + rng.normal(size=(16, 64))).astype("float32")
    # The input's own rounding is not the layer's fault, and is in `x` already. The
    # mean of what is left is about 0, so that its rounding is that of numbers near 1.
    # A variance by the difference of squares of `x` would be wrong by 6 % at 1e3.
    np.testing.assert_allclose(
        layer(x), normalized(layer, x, grades), rtol=1e-4, atol=1e-4
    )


def test_blocks_of_other_means_cost_little_precision():
    grades = np.repeat([0.0, 0.5, 1.0], [4, 12, 16])
    layer = built(TriLayerNormalization, grades, epsilon=1e-6)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 32)) + np.repeat([0.0, 1e4, -1e4], [4, 12, 16])
    # Eight channels for each of the first block: an error of eight roundings.
    np.testing.assert_allclose(
        layer(x.astype("float32")),
        normalized(layer, x.astype("float32"), grades),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("layer_class", LAYERS)
def test_all_grades_zero_is_the_parent(layer_class):
    layer = built(layer_class, np.zeros(8))
    parent = layer_class.stock_class.from_config(
        {k: v for k, v in layer.get_config().items() if k != "grades"}
    )
    x = np.random.default_rng(1).normal(size=(2, 3, 8)).astype("float32")
    parent.build(x.shape)
    parent.set_weights(layer.get_weights())
    np.testing.assert_allclose(layer(x), parent(x), rtol=1e-5, atol=1e-6)
    assert not layer.cuts_weights()


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_statistics_have_float32_in_half_precision(layer_class, policy):
    layer = built(layer_class, dtype=policy)
    # Their squares are beyond the largest number of float16, 65,504.
    x = 1000 * np.random.default_rng(1).normal(size=(2, 8)).astype("float16")
    outputs = layer(keras.ops.cast(x, layer.compute_dtype))
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    # bfloat16 has 8 bits: its rounding of inputs and of outputs.
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32")),
        normalized(layer, x, GRADES),
        rtol=2e-2,
        atol=2e-2,
    )


@pytest.mark.parametrize("layer_class", LAYERS)
def test_without_grades_it_has_the_papers_staircase(layer_class):
    layer = layer_class()
    x = np.random.default_rng(1).normal(size=(2, 5)).astype("float32")
    wanted = normalized(layer_class(), x, channel_grades(5, staircase="paper"))
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_config_round_trip(layer_class):
    layer = built(layer_class, epsilon=0.1)
    again = layer_class.from_config(layer.get_config())
    np.testing.assert_array_equal(again.grades, GRADES)
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("layer_class", LAYERS)
def test_while_a_triangle_fades_other_channels_count_in_part(layer_class):
    layer = built(layer_class)
    x = np.random.default_rng(1).normal(size=(2, 8)).astype("float32")
    with forbidden_entries_act(1.0):
        whole = layer(x)
    parent = normalized(layer, x, np.zeros(8))
    np.testing.assert_allclose(whole, parent, rtol=1e-5, atol=1e-5)
    with forbidden_entries_act(0.5):
        between = keras.ops.convert_to_numpy(layer(x))
    assert np.abs(between - parent).max() > 0.01
    with forbidden_entries_act(0.0):
        last = layer(x)
    np.testing.assert_allclose(last, layer(x), rtol=1e-6, atol=1e-6)


def test_a_fading_model_starts_as_the_trained_one():
    inputs = keras.Input((4,))
    x = keras.layers.LayerNormalization()(keras.layers.Dense(16)(inputs))
    x = keras.layers.RMSNormalization()(keras.layers.Dense(16)(x))
    plain = keras.Model(inputs, keras.layers.Dense(2)(x))
    rng = np.random.default_rng(0)
    plain.set_weights([rng.normal(1, 0.5, w.shape) for w in plain.weights])
    model = to_any_width(plain, divisor=4, fade=10)
    x = inputs_of(model)
    with forbidden_entries_act(1.0):
        np.testing.assert_allclose(model(x), plain(x), rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(model(x)) - np.asarray(plain(x))).max() > 0.1


@pytest.mark.parametrize("staircase", ["nested", "paper"])
def test_a_channel_that_only_statistics_read_is_there(staircase):
    """The readout of a narrow tensor reads wide statistics of no other one."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(7)(inputs)
    x = TriLayerNormalization()(x)
    x = TriDense(3)(x)
    model = AnyWidthModel(
        inputs, keras.layers.Dense(2)(x), min_width=0.2, staircase=staircase
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(1, 0.5, w.shape) for w in model.weights])
    x = inputs_of(model)
    for width in model.distinct_widths:
        np.testing.assert_allclose(
            slim(model, width)(x), model.at(width)(x), rtol=1e-4, atol=1e-4
        )


def test_slim_makes_the_parent_where_one_block_is_there():
    inputs = keras.Input((4,))
    x = keras.layers.LayerNormalization(name="norm")(keras.layers.Dense(16)(inputs))
    plain = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(16)(x)))
    model = to_any_width(plain, divisor=4)
    narrow, wide = slim(model, 0.25), slim(model, 0.5)
    assert type(narrow.get_layer("norm")) is keras.layers.LayerNormalization
    affine = wide.get_layer("norm_affine")
    assert type(affine) is keras.layers.DepthwiseConv1D
    np.testing.assert_array_equal(
        np.ravel(affine.get_weights()[0]), model.get_layer("norm").get_weights()[0][:8]
    )


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_slim_scales_and_shifts_as_the_model(scale, center):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(16)(inputs)
    x = keras.layers.LayerNormalization(scale=scale, center=center)(x)
    plain = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(16)(x)))
    model = to_any_width(plain, divisor=4)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(1, 0.5, w.shape) for w in model.weights])
    x, small = inputs_of(model), slim(model, 0.5)
    np.testing.assert_allclose(small(x), model.at(0.5)(x), rtol=1e-4, atol=1e-4)
    # No stock layer shifts without a scale, which is 1 then.
    ones = 8 if center and not scale else 0
    assert small.count_params() == count_parameters(model, 0.5) + ones


def test_a_slim_model_is_saved_cloned_and_trained(tmp_path):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.LayerNormalization()(keras.layers.Conv2D(16, 1)(inputs))
    x = keras.layers.Conv2D(16, 1, activation="relu")(x)
    plain = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    small = slim(to_any_width(plain, divisor=4), 0.75)
    x = inputs_of(small)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(x), small(x))
    clone = keras.models.clone_model(small)
    clone.set_weights(small.get_weights())
    np.testing.assert_array_equal(clone(x), small(x))
    before = small.get_weights()
    small.compile("sgd", "mse")
    small.train_on_batch(x, np.ones((len(x), 2)))
    changed = [np.any(a != b) for a, b in zip(before, small.get_weights(), strict=True)]
    assert all(changed)  # gamma and beta, too


def test_a_slim_model_has_half_precision_where_the_model_has():
    inputs = keras.Input((6, 16), dtype="float32")
    x = keras.layers.Dense(16, dtype="mixed_bfloat16")(inputs)
    x = keras.layers.LayerNormalization(dtype="mixed_bfloat16")(x)
    x = keras.layers.Dense(16, dtype="mixed_bfloat16")(x)
    model = to_any_width(keras.Model(inputs, keras.layers.Dense(2)(x)), divisor=4)
    x = inputs_of(model)
    half, whole = slim(model, 0.5), slim(model, 0.5, dtype="float32")
    outputs = [keras.ops.convert_to_numpy(y(x)) for y in (half, model.at(0.5), whole)]
    # Both round to 8 bits at the same places, but for sums in another order.
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(outputs[2], outputs[1], rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_grades_are_set_once(layer_class):
    layer = layer_class()
    layer.set_grades(GRADES, GRADES)
    layer.set_grades(GRADES, GRADES)
    with pytest.raises(ValueError, match=r"already has other grades.*new layer"):
        layer.set_grades(np.zeros(8), np.zeros(8))


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize(
    ("arguments", "shape", "match"),
    [
        ({"axis": 1}, (None, 4, 8), r"`axis` must be -1.*axis=1 .*\(None, 4, 8\)"),
        ({"axis": [1, 2]}, (None, 4, 8), r"`axis` must be -1.*axis=\[1, 2\]"),
        ({"grades": [0.0, 1.0]}, (None, 8), "2 grades for an input of shape"),
        ({"grades": [0.0, 1.5]}, (None, 2), r"`grades` must be in \[0, 1\].*1\.5"),
    ],
)
def test_what_does_not_fit_is_refused(layer_class, arguments, shape, match):
    with pytest.raises(ValueError, match=match):
        layer_class(**arguments).build(shape)


def test_the_parent_is_refused_before_the_readout():
    inputs = keras.Input((4,))
    x = keras.layers.LayerNormalization(name="norm")(keras.layers.Dense(8)(inputs))
    with pytest.raises(ValueError, match=r"'norm'.*Use TriLayerNormalization"):
        AnyWidthModel(inputs, keras.layers.Dense(2)(TriDense(8)(x)))


def test_other_axes_are_refused_by_conversion():
    inputs = keras.Input((4, 3))
    x = keras.layers.LayerNormalization([1, 2])(keras.layers.Dense(8)(inputs))
    plain = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(8)(x)))
    with pytest.raises(ValueError, match=r"`axis` must be the last.*axis=\[1, 2\]"):
        to_any_width(plain)
