"""Orders of the channels of a trained model that lose few weights."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from awn_keras import to_any_width
from awn_keras.conversion import dissolved, traced_channels
from awn_keras.ordering import _cheapest_levels, moves_for_reading, moves_of
from awn_keras.stages import Widths
from tests.baselines.networks import conv_net
from tests.conftest import at_width, eagerly, inputs_of
from tests.test_conversion import train_a_little
from tests.test_growing import residual

pytestmark = eagerly
L = keras.layers


def chain(seed):
    """A stem, two dense layers and a readout, of 8 channels each."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((6,))
    x = L.Dense(8, name="stem")(inputs)
    x = L.Dense(8, name="first")(x)
    x = L.Dense(8, name="second")(x)
    model = keras.Model(inputs, L.Dense(3, name="logits")(x))
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def loss_of(model, places, grades):
    """Computes by the definition what an order of all channels loses."""
    kernels = {layer.name: layer.get_weights()[0] for layer in model.layers[1:]}
    strength = {name: np.abs(kernel).sum(axis=0) for name, kernel in kernels.items()}
    at = {name: grades[places[name]] for name in places}
    total = 0.0
    for before, name in (("stem", "first"), ("first", "second")):
        size = kernels[name] ** 2 * strength[before][:, None] ** 2
        part = size / size.sum(axis=0) * strength[name] / strength[name].sum()
        total += part[at[before][:, None] > at[name]].sum()
    read = (kernels["logits"] ** 2 * strength["second"][:, None] ** 2).sum(axis=1)
    return total + (at["second"] * read / read.sum()).sum()


@pytest.mark.parametrize("seed", range(5))
def test_no_two_channels_would_lose_less_in_each_others_place(seed):
    model = chain(seed)
    traced = traced_channels(dissolved(model))
    grades = traced.grades(Widths.of(widths_grid=[0.25, 0.5, 0.75, 1.0]))
    names = {layer.name: labels for layer, labels in traced.makers()}

    def placed(moves):
        place_of = np.argsort(moves)
        return {name: place_of[labels] for name, labels in names.items()}

    places = placed(moves_for_reading(traced, grades))
    least = loss_of(model, places, grades)
    assert least < loss_of(model, placed(moves_of(traced)), grades)
    for name in names:
        for first, other in itertools.combinations(range(8), 2):
            swapped = {key: value.copy() for key, value in places.items()}
            swapped[name][[first, other]] = swapped[name][[other, first]]
            # Sums of a few dozen terms near 1.
            assert loss_of(model, swapped, grades) > least - 1e-9


@pytest.mark.parametrize("network", [conv_net, residual])
def test_channels_only_change_places_in_their_groups(network):
    plain = train_a_little(network())
    traced = traced_channels(dissolved(plain))
    moves = moves_for_reading(traced, traced.grades(Widths.of(divisor=2)))
    assert sorted(moves) == list(range(len(moves)))
    by_importance = moves_of(traced)
    for _, labels in traced.makers():
        own = np.unique(labels)
        assert set(moves[own]) == set(by_importance[own])


@pytest.mark.parametrize("network", [conv_net, residual])
def test_without_a_triangle_the_order_changes_nothing(network):
    plain = train_a_little(network())
    model = to_any_width(plain, min_width=1.0, order="reading")
    x = inputs_of(model)
    # The same sums in another order of channels.
    np.testing.assert_allclose(
        at_width(model, 1.0, x)[0],
        keras.ops.convert_to_numpy(plain(x)),
        rtol=1e-4,
        atol=1e-5,
    )


@given(st.data(), st.integers(1, 5), st.booleans())
def test_the_levels_of_channels_are_the_cheapest(data, levels, is_integer):
    """With few levels, the result is as good as that of SciPy for single places."""
    sizes = np.array(
        data.draw(st.lists(st.integers(0, 20), min_size=levels, max_size=levels))
    )
    channels = sizes.sum()
    assume(channels)
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    costs = rng.normal(size=(channels, levels))
    if is_integer:  # many equal sums
        costs = costs.round()
    of_channels = _cheapest_levels(costs, sizes)
    np.testing.assert_array_equal(np.bincount(of_channels, minlength=levels), sizes)
    of_places = np.repeat(np.arange(levels), sizes)
    rows, places = linear_sum_assignment(costs[:, of_places])
    cheapest = costs[rows, of_places[places]].sum()
    # Sums of at most 100 numbers of float64.
    assert costs[np.arange(channels), of_channels].sum() == pytest.approx(
        cheapest, abs=1e-12
    )


def test_weights_that_are_not_finite_have_no_order():
    model = chain(0)
    kernel = model.get_layer("first").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match=r"Layer 'first': weight 'kernel' has a value"):
        to_any_width(model, min_width=0.5, order="reading")
