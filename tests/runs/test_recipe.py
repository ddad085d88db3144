from dataclasses import replace

import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, FixedWidths, SandwichWidths, UniformWidths
from awn_keras.baselines import SharedBN, SNet, USNet
from awn_keras.data import DATASETS, load_data
from awn_keras.experiments.paper import recommended_arm, runs_of
from awn_keras.runs.recipe import Recipe, build

QUICK = Recipe("digits", filters=4, epochs=3, num_widths=3)


def test_the_papers_recipes():
    fashion = Recipe.paper("fashion_mnist")
    assert (fashion.epochs, fashion.weight_decay) == (20, 0.0)
    cifar = Recipe.paper("cifar100")
    assert (cifar.epochs, cifar.weight_decay) == (100, 5e-4)
    for recipe in (fashion, cifar):
        assert (recipe.batch_size, recipe.learning_rate, recipe.momentum) == (
            *(128, 0.01),
            0.9,
        )
        assert (recipe.sampler, recipe.num_widths, recipe.min_width) == (
            *("sandwich", 4),
            0.25,
        )


def test_the_papers_recipe_for_another_architecture():
    recipe = Recipe.paper("cifar10", "mobilenet_v2")
    assert recipe == replace(
        Recipe.paper("cifar10"),
        architecture="mobilenet_v2",
        epochs=350,
        min_width=0.35,
        divisor=8,
        widths=(0.35, 0.5, 0.75, 1.0),
    )
    for system in ("s_net", "us_net", "shared_bn", "plain"):
        recipe = Recipe.paper("cifar10", "mobilenet_v2", system)
        assert (recipe.epochs, recipe.width_multiplier) == (100, 1.0)
    with pytest.raises(ValueError, match="`architecture` must be one of"):
        Recipe.paper("cifar10", "resnet")
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        Recipe.paper("imagenet", "mobilenet_v2")


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_recommended_recipe_is_an_arm_of_the_improvements(dataset):
    """Of four losses the arm takes the sum, and the recommended recipe the mean."""
    recipe = Recipe.recommended(dataset)
    arms = {run.label: run.recipe for run in runs_of("improvements", dataset)}
    assert recipe.width_reduction == "mean"
    assert arms[recommended_arm(dataset)] == replace(
        recipe,
        width_reduction="sum",
        learning_rate=recipe.learning_rate / 4,
        weight_decay=4 * recipe.weight_decay,
    )


@pytest.mark.parametrize("dataset", ["fashion_mnist", "cifar10"])
def test_the_recommended_recipe_trains_what_its_arm_trains(dataset):
    """The mean at four times the rate and a quarter of the decay is the same update."""
    data = load_data("digits")
    runs = runs_of("improvements", dataset, systems=[recommended_arm(dataset)])
    weights = []
    for recipe in (Recipe.recommended(dataset), runs[0].recipe):
        recipe = replace(recipe, dataset="digits", filters=4, epochs=1)
        model = build(recipe, data)
        model.fit(data.train(recipe.batch_size, seed=0), epochs=1, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        # Twelve steps at a rate of 0.04 or 0.12 magnify float32's 1e-7.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_cifar10_recommends_is_for_cifar100_too():
    wanted = replace(Recipe.recommended("cifar10"), dataset="cifar100")
    assert Recipe.recommended("cifar100") == wanted


def test_for_mobilenet_the_papers_recipe_is_recommended_as_a_mean():
    for dataset in ("fashion_mnist", "cifar10"):
        names = (dataset, "mobilenet_v2")
        recipe, paper = Recipe.recommended(*names), Recipe.paper(*names)
        assert recipe == replace(
            paper,
            width_reduction="mean",
            learning_rate=4 * paper.learning_rate,
            weight_decay=paper.weight_decay / 4,
        )
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        Recipe.recommended("imagenet")
    with pytest.raises(ValueError, match="`architecture` must be one of"):
        Recipe.recommended("cifar10", "resnet")


def test_a_mobilenet_is_built_from_its_recipe():
    recipe = replace(
        Recipe.paper("digits", "mobilenet_v2"), width_multiplier=0.5, weight_decay=0.1
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
    ("arguments", "match"),
    [
        ({"dataset": "imagenet"}, "`dataset` must be one of.*'imagenet'"),
        ({"architecture": "resnet"}, "`architecture` must be one of"),
        ({"sampler": "random"}, "`sampler` must be one of"),
        ({"system": "ofa"}, "`system` must be one of"),
        ({"schedule": "linear"}, "`schedule` must be one of"),
        ({"precision": "float16"}, "`precision` must be one of.*'float16'"),
        ({"scale": 0.0}, r"`scale` must be in \(0, 1\]"),
        ({"system": "s_net"}, "`sampler` must be 'fixed'"),
        (
            {"system": "us_net", "widths_grid": (0.5, 1.0)},
            "`widths_grid` means nothing to system='us_net'",
        ),
        (
            {"system": "s_net", "sampler": "fixed", "min_width": 0.5},
            "`min_width` means nothing to system='s_net'",
        ),
        ({"system": "plain", "distillation": 0.5}, "means nothing to system='plain'"),
        ({"calibrations": (3,)}, "`calibrations` means nothing to system='awn'"),
        ({"lowest_width": 0.1}, "`lowest_width` must be at least"),
        ({"bn_momentum": 1.0}, r"`bn_momentum` must be in \[0, 1\)"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"width_multiplier": float("inf")}, "`width_multiplier` must be above 0"),
        ({"momentum": float("nan")}, r"`momentum` must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, r"`weight_decay` must be in \[0, inf\)"),
        ({"min_width": 1.5}, r"`min_width` must be in \(0, 1\]"),
        (
            {"architecture": "mobilenet_v2", "filters": 16},
            "`filters` means nothing to architecture='mobilenet_v2': leave it out",
        ),
    ],
)
def test_bad_recipes_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Recipe(**arguments)


def test_the_papers_systems():
    names = ("awn", "awn_rs", "s_net", "us_net", "shared_bn", "plain")
    recipes = {name: Recipe.paper("fashion_mnist", system=name) for name in names}
    widened = {name for name, r in recipes.items() if r.width_multiplier > 1}
    assert widened == {"awn", "awn_rs"}
    assert recipes["s_net"].widths == (0.25, 0.5, 0.75, 1.0)
    assert {name for name, r in recipes.items() if r.sampler == "fixed"} == {
        *("awn", "s_net", "shared_bn"),
    }
    with pytest.raises(ValueError, match="`system` must be one of"):
        Recipe.paper("fashion_mnist", system="ofa")


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("awn", AnyWidthModel),
        ("awn_rs", AnyWidthModel),
        ("s_net", SNet),
        ("us_net", USNet),
        ("shared_bn", SharedBN),
    ],
)
def test_systems_are_built(system, expected):
    recipe = replace(Recipe.paper("digits", system=system), filters=8)
    model = build(recipe, load_data("digits"))
    assert type(model) is expected
    # Only AWNs are widened by sqrt(2).
    assert model.get_layer("conv2").filters == (11 if system.startswith("awn") else 8)
    sampler = model.plan.widths
    assert sampler.num_widths == 4
    assert bool(sampler.num_random) == (system in ("awn_rs", "us_net"))
    assert model.plan.width_reduction == "sum"


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
    recipe = Recipe.paper("digits", system=system)
    recipe = replace(recipe, filters=4, precision="mixed_bfloat16")
    model = build(recipe, digits)
    assert model.get_layer("conv2").compute_dtype == "bfloat16"
    assert model.get_layer("logits").compute_dtype == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"  # as it was
    exact = build(replace(recipe, precision="float32"), digits)
    assert exact.get_layer("conv2").compute_dtype == "float32"
    assert exact.get_layer("logits").dtype_policy.name == "float32"
