from dataclasses import replace

import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, FixedWidths, SandwichWidths, UniformWidths
from awn_keras.baselines import NestedNet, NestedPruning, SharedBN, SNet, USNet
from awn_keras.data import load_data
from awn_keras.runs.build import build, callbacks_of
from awn_keras.runs.presets import paper_recipe
from tests.runs.conftest import QUICK


def test_a_mobilenet_is_built_from_its_recipe():
    recipe = replace(
        paper_recipe("digits", "mobilenet_v2"), width_multiplier=0.5, weight_decay=0.1
    )
    model = build(recipe, load_data("digits"))
    assert model.name == "mobilenet_v2"
    assert (model.min_width, model.divisor) == (0.35, 8)
    assert model.get_layer("stem_conv").filters == 16
    assert model.get_layer("head_conv").filters == 640
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 10))
    assert model.losses
    assert model.optimizer.momentum == 0.9


def test_the_schedule_divides_by_ten_at_half_and_three_quarters():
    model = build(replace(QUICK, epochs=8), load_data("digits"))
    steps = 8 * 12
    rate = model.optimizer._learning_rate
    rates = [float(rate(step)) for step in (0, steps // 2, steps // 2 + 1, steps - 1)]
    # A boundary's step itself still has the old rate.
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.001, 0.0001], rtol=1e-6)
    assert model.optimizer.momentum == 0.9


@pytest.mark.parametrize("late", [0.25, 0.5, 0.75, 0.8])
@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_refining_has_a_schedule_of_its_own(schedule, late):
    recipe = replace(QUICK, epochs=10, frozen_up_to=0.5, late=late, schedule=schedule)
    model = build(recipe, load_data("digits"))
    rate, frozen = model.optimizer._learning_rate, model.plan.frozen_up_to
    rates = np.array([float(rate(step)) for step in range(10 * 12)])
    joint = round(late * len(rates))
    # Narrow networks are frozen just when the rate is high again.
    assert [float(frozen(step)) for step in (joint, joint + 1)] == [0.0, 0.5]
    assert rates[joint] == rates[: joint + 1].min() < 0.011 * rates[0]
    # Rounding may leave the first of these at 0 on a cosine.
    assert max(rates[joint + 1 : joint + 3]) == pytest.approx(0.01, rel=1e-2)
    for phase in (rates[: joint + 1], rates[joint + 2 :]):
        assert (np.diff(phase) <= 0).all()
        halfway = 0.01 if schedule == "steps" else 0.005
        assert phase[len(phase) // 2 - 1] == pytest.approx(halfway, rel=0.3)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("sandwich", SandwichWidths),
        ("expected_sandwich", SandwichWidths),
        ("uniform", UniformWidths),
        ("all", FixedWidths),
    ],
)
def test_samplers(sampler, expected):
    model = build(replace(QUICK, sampler=sampler), load_data("digits"))
    widths = model.plan.widths
    assert type(widths) is expected
    count = len(model.distinct_widths) if sampler == "all" else 3
    assert widths.num_widths == count
    assert widths.expected == (sampler == "expected_sandwich")


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("awn", AnyWidthModel),
        ("awn_rs", AnyWidthModel),
        ("s_net", SNet),
        ("us_net", USNet),
        ("shared_bn", SharedBN),
        ("nested_net", NestedNet),
        ("nested_net_weights", NestedNet),
    ],
)
def test_systems_are_built(system, expected):
    recipe = replace(paper_recipe("digits", system=system), filters=8)
    model = build(recipe, load_data("digits"))
    assert type(model) is expected
    # Only AWNs are widened by sqrt(2).
    assert model.get_layer("conv2").filters == (11 if system.startswith("awn") else 8)
    sampler = model.plan.widths
    assert sampler.num_widths == 4
    assert bool(sampler.num_random) == (system in ("awn_rs", "us_net"))
    assert model.plan.width_reduction == "sum"


def test_a_nested_net_is_pruned_in_the_first_quarter():
    data = load_data("digits")
    for system, structure in (
        ("nested_net", "channels"),
        ("nested_net_weights", "weights"),
    ):
        recipe = replace(paper_recipe("digits", system=system), epochs=20)
        assert build(recipe, data).structure == structure
        (pruning,) = callbacks_of(recipe, data)
        assert isinstance(pruning, NestedPruning)
        steps = 20 * len(data.train(recipe.batch_size))
        assert pruning.steps == round(steps / 4)
        assert pruning.every == pruning.steps // 20
    assert callbacks_of(QUICK, data) == []


def test_the_cosine_schedule_ends_at_zero():
    model = build(replace(QUICK, schedule="cosine"), load_data("digits"))
    rate = model.optimizer._learning_rate
    rates = [float(rate(step)) for step in (0, 18, 36)]
    np.testing.assert_allclose(rates, [0.01, 0.005, 0.0], atol=1e-9)


def test_a_recipe_reaches_compile():
    recipe = replace(
        QUICK, width_power=0.5, distillation=0.5, frozen_up_to=0.5, late=0.5
    )
    plan = build(recipe, load_data("digits")).plan
    assert plan.width_power == 0.5
    for name in ("distillation", "frozen_up_to"):
        values = [float(getattr(plan, name)(step)) for step in (18, 19)]  # of 36
        assert values == [0.0, 0.5]


def test_the_lowest_width_may_be_above_the_dense_part():
    recipe = replace(QUICK, filters=16, min_width=0.01, lowest_width=0.25)
    model = build(recipe, load_data("digits"))
    assert model.min_width == 0.01
    assert model.plan.widths.smallest == 0.25
    widths = recipe.curve_widths(model)
    assert widths[0] == 0.25
    assert set(widths[1:]) < set(model.distinct_widths)
    assert model.plan.curve_widths == tuple(widths)


def test_the_momentum_of_normalizations_is_the_recipes():
    model = build(replace(QUICK, bn_momentum=0.75), load_data("digits"))
    assert model.get_layer("bn2").momentum == 0.75


@pytest.mark.parametrize("system", ["awn", "s_net", "plain"])
def test_mixed_precision_keeps_weights_and_logits_in_float32(system):
    digits = load_data("digits")
    recipe = paper_recipe("digits", system=system)
    recipe = replace(recipe, filters=4, precision="mixed_bfloat16")
    model = build(recipe, digits)
    assert model.get_layer("conv2").compute_dtype == "bfloat16"
    assert model.get_layer("logits").compute_dtype == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"  # as it was
    exact = build(replace(recipe, precision="float32"), digits)
    assert exact.get_layer("conv2").compute_dtype == "float32"
    assert exact.get_layer("logits").dtype_policy.name == "float32"
