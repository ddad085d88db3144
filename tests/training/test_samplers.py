import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from awn_keras import (
    FixedWidths,
    SandwichWidths,
    UniformWidths,
    WidthSampler,
    lenet_3c1l,
    slim,
)
from awn_keras.training.samplers import draw_levels, expected_levels
from tests.conftest import classification, eagerly, labelled, small_conv
from tests.test_model import LOSS, assert_same_gradients, gradients_of_a_step

pytestmark = eagerly

# ------------------------------------------------------------------- descriptions


@pytest.mark.parametrize(
    ("sampler", "fixed", "num_random"),
    [
        (SandwichWidths(0.25, 1.0, num_widths=4), (0.25, 1.0), 2),
        (UniformWidths(0.5, 0.75, num_widths=3), (), 3),
        (SandwichWidths(0.3, num_widths=3, expected=True), (0.3, 1.0), 1),
        (UniformWidths(0.5, expected=True), (), 4),
        (WidthSampler([1.0], num_random=1, expected=True), (1.0,), 1),
        (FixedWidths([0.5, 1.0]), (0.5, 1.0), 0),
        (WidthSampler([1.0], num_random=1), (1.0,), 1),
    ],
)
def test_samplers_say_what_a_step_runs(sampler, fixed, num_random):
    assert (sampler.fixed, sampler.num_random) == (fixed, num_random)
    assert sampler.num_widths == len(fixed) + num_random
    copy = type(sampler).from_config(sampler.get_config())
    assert vars(copy) == vars(sampler)
    assert repr(copy) == repr(sampler)


def test_a_sampler_of_an_older_file_draws():
    config = SandwichWidths(0.5).get_config()
    del config["expected"]
    assert SandwichWidths.from_config(config).expected is False


def test_the_smallest_width_of_a_sampler():
    assert SandwichWidths(0.3, 1.0).smallest == 0.3
    assert UniformWidths(0.5, 1.0).smallest == 0.5
    # The range of random widths matters only if the sampler draws random widths.
    assert FixedWidths([0.75, 1.0]).smallest == 0.75


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SandwichWidths(num_widths=1), "`num_widths` must be at least 2"),
        (lambda: SandwichWidths(0.8, 0.5), "`min_width` must not exceed `max_width`"),
        (lambda: UniformWidths(num_widths=0), "at least one width"),
        (lambda: FixedWidths([]), "at least one width"),
        (lambda: FixedWidths([0.5, 2]), r"`widths` must be in \(0, 1\]"),
    ],
)
def test_bad_samplers_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FixedWidths(0.5), r"`widths` must be a sequence.*widths=0.5"),
        (lambda: UniformWidths(num_widths=2.0), "number of widths must be an integer"),
    ],
)
def test_bad_types_are_refused(make, match):
    with pytest.raises(TypeError, match=match):
        make()


# ------------------------------------------------------------------------ drawing


def sampled(model, steps):
    """Levels that `steps` training steps draw."""
    levels = []
    for step in range(steps):
        model.optimizer.iterations.assign(step)
        levels.append(
            keras.ops.convert_to_numpy(
                draw_levels(
                    model.plan.widths, model.networks, model.optimizer.iterations
                )
            ).tolist()
        )
    return levels


@pytest.mark.backends
def test_the_sandwich_holds_the_ends_and_draws_the_middle():
    model = classification(
        lenet_3c1l(staircase="paper"), widths=SandwichWidths(0.25, 1.0, 4, seed=0)
    )
    levels = sampled(model, 200)
    assert all(level[:2] == [0, 34] for level in levels)
    drawn = np.array([level[2:] for level in levels])
    # 400 draws of 35 levels; the ends are half as wide as the others.
    assert set(range(1, 34)) <= set(drawn.flatten())
    assert drawn.mean() == pytest.approx(17, abs=1.5)  # 3 standard errors


@pytest.mark.backends
def test_sampling_is_seeded_and_depends_on_the_step_only():
    model = classification(lenet_3c1l(), widths=UniformWidths(seed=3))
    two = classification(lenet_3c1l(), widths=UniformWidths(seed=3))
    other = classification(lenet_3c1l(), widths=UniformWidths(seed=4))
    assert sampled(model, 20) == sampled(two, 20)
    assert sampled(model, 20) == sampled(model, 20)
    assert sampled(model, 20) != sampled(other, 20)
    assert len(set(map(tuple, sampled(model, 20)))) > 10


@settings(max_examples=20)
@given(
    st.sampled_from(
        (
            lambda *ends: SandwichWidths(*ends, num_widths=5, expected=True),
            lambda *ends: UniformWidths(*ends, num_widths=2, expected=True),
            lambda *ends: WidthSampler([0.7, 0.71], 3, *ends, expected=True),
        )
    ),
    st.floats(0.25, 1.0),
    st.floats(0.25, 1.0),
    st.sampled_from(({}, {"divisor": 3}, {"widths_grid": [0.25, 0.55, 1.0]})),
)
@example(lambda *ends: UniformWidths(*ends, expected=True), 0.5, 0.5, {})
def test_expected_widths_count_as_often_as_they_would_be_drawn(make, a, b, kwargs):
    sampler = make(min(a, b), max(a, b))
    model = classification(lenet_3c1l(**kwargs), widths=sampler)
    levels, often = expected_levels(model.plan.widths, model.networks)
    assert sampled(model, 1) == [levels.tolist()]
    fixed = model.networks.level_of(np.asarray(sampler.fixed))
    assert levels[: len(fixed)].tolist() == fixed.tolist()
    assert often.sum() == pytest.approx(sampler.num_widths)
    # Evenly spread widths replace random ones. They are so many that the part of each
    # level is exact, except for a single width.
    spread = np.linspace(sampler.min_width, sampler.max_width, 10_001)
    drawn = model.networks.level_of(spread)
    wanted = np.bincount(drawn, minlength=35) * sampler.num_random / len(spread)
    wanted += np.bincount(fixed, minlength=35)
    got = np.bincount(levels, often, minlength=35)
    np.testing.assert_allclose(got, wanted, atol=2 * sampler.num_random / 10_000)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_expected_sandwich_is_what_drawn_ones_give_on_average(reduction):
    grid = [0.25, 0.4, 0.8, 1.0]
    model = small_conv(min_width=None, widths_grid=grid)
    x, y = labelled(model)
    arguments = {"loss": LOSS, "width_reduction": reduction}

    def gradients(widths):
        return gradients_of_a_step(model, x, y, widths=widths, **arguments)

    got = gradients(SandwichWidths(0.25, 1.0, num_widths=3, expected=True))
    # `share` is the part of the widths in [0.25, 1] that run the network of `width`.
    wanted = 0
    for width, share in ((0.25, 0.15 / 0.75), (0.4, 0.4 / 0.75), (0.8, 0.2 / 0.75)):
        drawn = gradients(FixedWidths([0.25, 1.0, width]))
        wanted = wanted + share * np.array(drawn, object)
    assert_same_gradients(got, wanted)


def test_without_a_seed_keras_global_seed_decides():
    draws = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        draws.append(sampled(classification(lenet_3c1l()), 5))
    assert draws[0] == draws[1] != draws[2]


def test_processes_that_train_together_share_a_seed():
    keras.utils.set_random_seed(5)
    sampler = SandwichWidths(0.25)
    assert sampler.with_known_seed(shared=True).seed == 0
    assert sampler.with_known_seed().seed != 0
    assert SandwichWidths(0.25, seed=3).with_known_seed(shared=True).seed == 3


@pytest.mark.parametrize("width", [0.25, 0.3, 0.5, 0.7, 1.0])
def test_fixed_widths_train_exactly_that_network(width):
    model = classification(lenet_3c1l(), widths=FixedWidths([width]))
    level = sampled(model, 1)[0][0]
    channel_levels = model._trunk.channel_levels[0]
    active = np.count_nonzero(channel_levels <= level)
    assert active == slim(model, width).get_layer("logits").kernel.shape[0]


@pytest.mark.backends
def test_drawing_needs_a_seed():
    model = small_conv()
    with pytest.raises(ValueError, match="must have a seed"):
        draw_levels(SandwichWidths(), model.networks, 0)
    assert SandwichWidths(seed=3).with_known_seed().seed == 3
    assert isinstance(SandwichWidths().with_known_seed().seed, int)


@pytest.mark.backends
def test_neighbouring_seeds_draw_other_widths():
    # With the sum of seed and step as a seed, one sampler would draw the widths of the
    # other a step later.
    model = lenet_3c1l()
    first, second = (
        [
            keras.ops.convert_to_numpy(
                draw_levels(UniformWidths(seed=seed), model.networks, step)
            ).tolist()
            for step in range(10)
        ]
        for seed in (1, 2)
    )
    assert not [levels for levels in first if levels in second]
