"""Weights that the triangle forbids fade out in the training of a trained model."""

import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, SandwichWidths, slim, to_any_width
from awn_keras.constraints import forbidden_entries_act
from awn_keras.layers.base import TriangularKernel
from tests.baselines.networks import conv_net
from tests.conftest import at_width, classification, eagerly, inputs_of, labelled
from tests.test_conversion import train_a_little

pytestmark = [pytest.mark.backends, eagerly]

schedules = keras.optimizers.schedules


def fading(fade=4, **kwargs):
    plain = train_a_little(conv_net((8, 16)))
    return plain, to_any_width(plain, divisor=2, fade=fade, **kwargs)


def forbidden(model):
    """The largest entry of each kernel that the triangle forbids."""
    largest = []
    for layer in model.layers:
        if isinstance(layer, TriangularKernel):
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            allowed = np.broadcast_to(layer.masks["kernel"], kernel.shape)
            largest.append(np.abs(kernel[~allowed]).max())
    return largest


def compiled(model, **kwargs):
    sampler = SandwichWidths(model.min_width, 1.0, 4, seed=3)
    return classification(
        model,
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        widths=sampler,
        **kwargs,
    )


def steps(model, count, **kwargs):
    x, y = labelled(model)
    return model.fit(x, y, batch_size=len(y), epochs=count, verbose=0, **kwargs)


def assert_same_weights(model, other):
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        # PyTorch's threads add in another order from time to time.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_first_step_trains_the_model_as_it_was():
    plain, model = fading()
    x = inputs_of(model)
    with forbidden_entries_act(1.0):
        dense = at_width(model, 1.0, x)[0]
    # One more layer of masks, which are all ones then.
    np.testing.assert_allclose(
        dense, keras.ops.convert_to_numpy(plain(x)), rtol=1e-5, atol=1e-6
    )
    assert np.abs(at_width(model, 1.0, x)[0] - dense).max() > 0.01


@pytest.mark.parametrize("trained", [0, 2, 6])
def test_what_evaluates_and_what_is_slimmed_have_the_triangle_all_the_time(trained):
    _, model = fading()
    compiled(model)
    if trained:
        steps(model, trained)
    x = inputs_of(model)
    full = at_width(model, 1.0, x)[0]
    for width in (model.min_width, 0.5, 1.0):
        narrow = slim(model, width)
        # The same sums, perhaps in another order.
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(narrow(x)),
            at_width(model, width, x)[0],
            atol=1e-5,
        )
    model.width = 1.0
    np.testing.assert_array_equal(at_width(model, 1.0, x)[0], full)


def test_forbidden_entries_act_by_the_schedule_and_are_gone_at_its_end():
    _, model = fading(fade=4)
    compiled(model)
    before = forbidden(model)
    logs = steps(model, 3).history["fade"]
    np.testing.assert_allclose(logs, [(1 - t / 4) ** 3 for t in range(3)], rtol=1e-5)
    assert min(forbidden(model)) > 0
    assert model.has_forbidden_entries()
    logs = steps(model, 3).history["fade"]
    np.testing.assert_allclose(logs, [1 / 64, 0, 0], atol=1e-7)
    assert max(forbidden(model)) == 0
    assert min(before) > 0
    assert not model.has_forbidden_entries()


def test_what_has_faded_does_not_come_back_with_another_optimizer():
    _, model = fading(fade=2)
    compiled(model)
    steps(model, 3)
    compiled(model)
    history = steps(model, 2).history
    assert "fade" not in history
    assert max(forbidden(model)) == 0


def test_a_model_whose_fade_has_ended_trains_like_one_without():
    plain, model = fading(fade=1)
    twin = to_any_width(plain, divisor=2)
    for layer in model.layers:
        if isinstance(layer, TriangularKernel):
            layer.apply_masks()
    twin.set_weights(model.get_weights())
    for each in (model, twin):
        compiled(each)
        steps(each, 2)
    assert_same_weights(model, twin)


def test_a_fade_goes_on_after_saving(tmp_path):
    _, model = fading(fade=6)
    compiled(model)
    steps(model, 2)
    model.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert isinstance(loaded, AnyWidthModel)
    np.testing.assert_array_equal(forbidden(loaded), forbidden(model))
    x = inputs_of(model)
    np.testing.assert_array_equal(
        at_width(loaded, 1.0, x)[0], at_width(model, 1.0, x)[0]
    )
    model.width = loaded.width = 1.0
    logs = [steps(each, 6).history["fade"] for each in (model, loaded)]
    assert logs[0] == logs[1]
    assert_same_weights(loaded, model)


def test_a_schedule_of_ones_own():
    fade = schedules.PiecewiseConstantDecay([1, 2], [1.0, 0.5, 0.0])
    _, model = fading(fade=fade)
    compiled(model)
    assert steps(model, 4).history["fade"] == [1.0, 1.0, 0.5, 0.0]


def test_a_model_without_fade_forgets_at_once():
    plain = train_a_little(conv_net((8, 16)))
    model = to_any_width(plain, divisor=2)
    assert model.fade is None
    assert max(forbidden(model)) == 0
    compiled(model)
    assert "fade" not in steps(model, 1).history


def test_an_untrained_model_has_nothing_that_could_fade():
    with pytest.raises(ValueError, match=r"untrained, so there is nothing to keep"):
        to_any_width(conv_net(), fade=10)


@pytest.mark.parametrize("fade", [0.7, True, "10"])
def test_the_fade_must_be_a_number_of_steps_or_a_schedule(fade):
    with pytest.raises(TypeError, match="`fade` must be a number of optimizer steps"):
        fading(fade=fade)


def test_the_fade_takes_a_step_at_least():
    with pytest.raises(ValueError, match="`fade` must be at least 1"):
        fading(fade=0)
