from functools import partial

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from awn_keras.constraints import (
    LowerTriangular,
    UnitSpectralNorm,
    pack_grades,
    triangular_mask,
    unpack_grades,
)
from awn_keras.widths import active_channels
from awn_keras.widths import channel_grades as standard_grades

pytestmark = pytest.mark.backends

channels = st.integers(1, 40)
#: That of a layer by itself.
channel_grades = partial(standard_grades, staircase="paper")


@given(channels, channels, st.sampled_from([1, 4, 8]))
def test_the_closed_form_equals_brute_force_over_all_widths(into, out, divisor):
    mask = triangular_mask(channel_grades(into, divisor), channel_grades(out, divisor))
    # Every width at which anything changes, and 1.
    thresholds = np.concatenate(
        [channel_grades(into, divisor), channel_grades(out, divisor), [1.0]]
    )
    expected = np.ones((into, out), bool)
    for width in np.unique(thresholds[thresholds > 0]):
        present = active_channels(out, width, divisor, 0.0, "paper")
        readable = active_channels(into, width, divisor, 0.0, "paper")
        # Active output channels must not read inactive input channels.
        expected[readable:, :present] = False
    # Below the first threshold, only the channels of grade 0 are active.
    expected[
        np.count_nonzero(channel_grades(into, divisor) == 0) :,
        : np.count_nonzero(channel_grades(out, divisor) == 0),
    ] = False
    np.testing.assert_array_equal(mask, expected)


@given(channels)
def test_equal_layers_give_the_papers_triangle(count):
    grades = channel_grades(count)
    # Equation 7, transposed: Keras kernels are (in, out).
    expected = np.triu(np.ones((count, count), bool))
    np.testing.assert_array_equal(triangular_mask(grades, grades), expected)


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_a_grid_of_equal_steps_keeps_its_share(steps):
    grid = [(i + 1) / steps for i in range(steps)]
    grades = channel_grades(64, 1, grid[0], grid)
    # G equal blocks keep (G + 1) / 2G of the kernel.
    assert triangular_mask(grades, grades).mean() == (steps + 1) / (2 * steps)


def test_the_constraint_zeroes_the_other_half():
    kernel = keras.ops.ones((3, 3, 5, 5))
    constrained = keras.ops.convert_to_numpy(LowerTriangular()(kernel))
    expected = np.broadcast_to(np.triu(np.ones((5, 5))), (3, 3, 5, 5))
    np.testing.assert_array_equal(constrained, expected)


def test_a_transposed_kernel_has_the_transposed_mask():
    into, out = channel_grades(5), channel_grades(3)
    constraint = LowerTriangular(into, out, in_axis=-1, out_axis=-2)
    constrained = constraint(keras.ops.ones((2, 2, 3, 5)))
    expected = np.broadcast_to(triangular_mask(into, out).T, (2, 2, 3, 5))
    np.testing.assert_array_equal(constrained, expected)
    standard = LowerTriangular(in_axis=-1, out_axis=-2)
    np.testing.assert_array_equal(standard.mask((2, 2, 3, 5)), expected[0, 0])


def test_a_kernel_may_have_other_axes_between_and_after_its_channels():
    into, out = channel_grades(5), channel_grades(3)
    mask = triangular_mask(into, out)
    heads = LowerTriangular(into, out, in_axis=-3, out_axis=-2)
    np.testing.assert_array_equal(
        heads(keras.ops.ones((5, 3, 2))), np.repeat(mask[..., None], 2, axis=-1)
    )
    of_heads = LowerTriangular(into, out, in_axis=-3, out_axis=-1)
    assert of_heads.mask((5, 2, 3)).shape == (5, 1, 3)
    np.testing.assert_array_equal(of_heads.mask((5, 2, 3))[:, 0], mask)
    with pytest.raises(ValueError, match=r"\(\.\.\., in, \.\.\., out\)"):
        of_heads.mask((4, 2, 3))


@pytest.mark.parametrize(("in_axis", "out_axis"), [(0, -1), (-1, -1), (-2, 1)])
def test_axes_are_two_counted_from_the_last(in_axis, out_axis):
    with pytest.raises(ValueError, match="two different numbers below 0"):
        LowerTriangular(in_axis=in_axis, out_axis=out_axis)


def test_inputs_of_one_channel_share_its_grade():
    into, out = channel_grades(3), channel_grades(4)
    expected = np.repeat(triangular_mask(into, out), 2, axis=0)
    given = LowerTriangular(into, out, depth_multiplier=2)
    np.testing.assert_array_equal(given(keras.ops.ones((6, 4))), expected)
    standard = LowerTriangular(depth_multiplier=2)
    np.testing.assert_array_equal(standard.mask((1, 1, 6, 4)), expected)
    both = LowerTriangular(in_axis=-1, out_axis=-2, depth_multiplier=2)
    np.testing.assert_array_equal(both.mask((4, 6)), expected.T)


@pytest.mark.parametrize("layer_class", ["Conv2D", "Conv2DTranspose"])
def test_a_stock_layer_keeps_the_triangle_in_training(layer_class):
    axes = {"in_axis": -1, "out_axis": -2} if "Transpose" in layer_class else {}
    constraint = LowerTriangular(**axes)
    layer = getattr(keras.layers, layer_class)(4, 1, kernel_constraint=constraint)
    model = keras.Sequential([keras.Input((2, 2, 6)), layer])
    model.compile("sgd", "mse")
    x = np.ones((1, 2, 2, 6))
    model.fit(x, np.ones((1, 2, 2, 4)), verbose=0)
    before = model.predict(x, verbose=0)
    # Half the width: three input channels and two output channels.
    x[..., 3:] = 9.0
    after = model.predict(x, verbose=0)
    np.testing.assert_array_equal(after[..., :2], before[..., :2])
    assert (after[..., 2:] != before[..., 2:]).all()


def test_forbidden_entries_that_are_not_finite_are_zeroed():
    kernel = np.where(np.tri(3, k=-1), np.nan, 1.0).astype("float32")
    assert np.isfinite(keras.ops.convert_to_numpy(LowerTriangular()(kernel))).all()


def test_an_inner_constraint_comes_first():
    constraint = LowerTriangular(inner=keras.constraints.NonNeg())
    kernel = keras.ops.convert_to_numpy(constraint(-keras.ops.ones((2, 2))))
    assert not kernel.any()


def test_config_round_trip():
    grades = channel_grades(6, min_width=0.5)
    old = LowerTriangular(
        grades,
        grades,
        keras.constraints.MaxNorm(3.0),
        in_axis=-1,
        out_axis=-2,
        depth_multiplier=2,
    )
    new = keras.constraints.deserialize(keras.constraints.serialize(old))
    np.testing.assert_array_equal(new.in_grades, grades)
    assert new.inner.max_value == 3.0
    np.testing.assert_array_equal(new.mask((1, 1, 6, 12)), old.mask((1, 1, 6, 12)))


@given(st.lists(st.sampled_from([0.0, 1 / 3, 0.5, 0.9]), min_size=1))
def test_grades_survive_packing(grades):
    np.testing.assert_array_equal(unpack_grades(pack_grades(np.array(grades))), grades)


def test_no_grades_stay_none():
    assert unpack_grades(pack_grades(None)) is None


@pytest.mark.parametrize("grades", [[-0.1], [1.5], [float("nan")]])
def test_grades_out_of_range_are_refused(grades):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        LowerTriangular(grades, [0.0])


def test_a_depth_multiplier_below_one_is_refused():
    with pytest.raises(ValueError, match="`depth_multiplier` must be at least 1"):
        LowerTriangular(depth_multiplier=0)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_grades_of_another_transposed_kernel_are_refused(shape):
    constraint = LowerTriangular([0.0, 0.5], [0.0, 0.5], in_axis=-1, out_axis=-2)
    with pytest.raises(ValueError, match=r"channel of the kernel.*\(\.\.\., out, in\)"):
        constraint.mask(shape)


def test_grades_of_another_kernel_are_refused():
    with pytest.raises(ValueError, match="one grade for each channel of the kernel"):
        LowerTriangular([0.0, 0.5], [0.0, 0.5])(keras.ops.ones((3, 2)))


@pytest.mark.parametrize("shape", [(6, 4), (3, 3, 8, 16), (40, 2), (1, 1, 5, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_spectral_norm_is_one(shape, dtype):
    kernel = 30 * np.random.default_rng(0).normal(size=shape)
    kernel = keras.ops.convert_to_tensor(kernel.astype(dtype))
    divided = keras.ops.convert_to_numpy(UnitSpectralNorm()(kernel))
    assert divided.dtype == dtype
    matrix = divided.astype("float64").reshape(-1, shape[-1])
    # 128 factors of a singular value: what is 1 % smaller still counts a quarter.
    assert np.linalg.norm(matrix, 2) == pytest.approx(1, abs=0.01)
    # One factor for all entries, rounded in half precision.
    factors = matrix / keras.ops.convert_to_numpy(kernel).reshape(matrix.shape)
    assert np.ptp(factors) < 2e-3 * factors.mean()


def test_a_kernel_of_zeros_has_no_spectral_norm():
    divided = UnitSpectralNorm()(keras.ops.zeros((3, 2)))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(divided), 0)
