from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from awn_keras import (
    count_macs,
    count_parameters,
    lenet_3c1l,
)
from awn_keras.counting import count_active_parameters
from awn_keras.data import DATASETS, load_data
from awn_keras.experiments.paper import (
    EXPERIMENTS,
    TABLE_2,
    individual_sizes,
    recommended_arm,
    runs_of,
)
from awn_keras.runs.build import build
from awn_keras.runs.presets import paper_recipe, recommended_recipe


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_runs_have_names_of_their_own(experiment):
    runs = runs_of(experiment, seeds=2, scale=0.5)
    assert len({run.name for run in runs}) == len(runs)
    assert all(run.recipe.scale == 0.5 for run in runs)
    assert [run.recipe.seed for run in runs] == sorted([0, 1] * (len(runs) // 2))


def test_runs_with_the_same_name_are_the_same():
    """Tables and figures share runs."""
    by_name = {}
    for experiment in EXPERIMENTS:
        for run in runs_of(experiment, "fashion_mnist"):
            assert by_name.setdefault(run.name, run) == run


def test_the_papers_table_2():
    runs = {run.label: run.recipe for run in runs_of("table2", "cifar10")}
    nested = {"nested_net", "nested_net_weights"}  # not in the paper
    assert set(runs) == {"s_net", "awn", "awn_rs", "us_net", *nested}
    for system, recipe in runs.items():
        assert recipe == paper_recipe("cifar10", system=system)
    assert all(len(row) == 6 for row in TABLE_2.values())


def test_figure_4_varies_the_number_of_widths_only():
    runs = {run.label: run.recipe for run in runs_of("figure4")}
    assert list(runs) == ["awn_rs_1", "awn_rs_2", "awn_rs", "awn_rs_8", "awn_rs_all"]
    assert runs["awn_rs_1"].widths == (1.0,)
    assert runs["awn_rs_8"].num_widths == 8
    assert runs["awn_rs_all"].sampler == "all"


def test_individual_networks_are_as_large_as_the_awn():
    sizes = individual_sizes("fashion_mnist")
    runs = [run.label for run in runs_of("individual", "fashion_mnist")]
    plain = [
        f"plain_{filters}{suffix}"
        for filters in sorted(set(sizes.values()))
        for suffix in ("", "_recommended")
    ]
    assert runs == [*plain, "awn_rs", "cosine_fast_decay"]
    awn = lenet_3c1l()
    for width in (1.0, 0.5, 0.25):
        filters = sizes["params", width]
        plain = [
            count_parameters(
                lenet_3c1l(filters=f, width_multiplier=1.0, triangular=False)
            )
            for f in (filters - 1, filters, filters + 1)
        ]
        active = count_active_parameters(awn, width)
        gaps = [abs(size - active) for size in plain]
        assert gaps[1] == min(gaps)
        filters = sizes["macs", width]
        plain = lenet_3c1l(filters=filters, width_multiplier=1.0, triangular=False)
        assert count_macs(plain) == count_macs(awn, width)


@pytest.mark.parametrize("dataset", ["fashion_mnist", "cifar10"])
def test_individual_networks_are_trained_by_two_recipes(dataset):
    """The paper's, and that of `awn train`, beside the AWNs of both."""
    runs = {run.label: run.recipe for run in runs_of("individual", dataset)}
    improvements = {run.label: run.recipe for run in runs_of("improvements", dataset)}
    for label in ("awn_rs", recommended_arm(dataset)):
        assert runs.pop(label) == improvements[label]
    better = recommended_recipe(dataset)
    for label, recipe in runs.items():
        paper = paper_recipe(dataset, system="plain")
        paper = replace(paper, filters=int(label.split("_")[1]))
        if label.endswith("_recommended"):
            paper = replace(
                paper,
                schedule="cosine",
                learning_rate=better.learning_rate,
                weight_decay=better.weight_decay,
            )
        assert recipe == paper


def test_improvements_change_the_papers_recipe():
    runs = {run.label: run.recipe for run in runs_of("improvements", "cifar10")}
    paper = paper_recipe("cifar10")
    assert runs.pop("awn_rs") == paper
    recipes = [paper, *runs.values()]
    assert all(recipe not in recipes[:index] for index, recipe in enumerate(recipes))
    assert runs["cosine_light"] == replace(runs["cosine"], weight_decay=1e-4)
    others = {run.label for run in runs_of("improvements", "fashion_mnist")}
    assert {"awn_rs", *runs} - others == {"cosine_light"}
    network = partial(lenet_3c1l, (32, 32, 3), staircase="paper")
    awn = network()
    wanted = count_active_parameters(awn, 1.0)
    for label, kwargs in (
        ("blocks8", {"divisor": 8}),
        ("grid4", {"widths_grid": (0.25, 0.5, 0.75, 1.0)}),
    ):
        filters = runs[label].filters
        other = network(filters=filters, width_multiplier=1.0, **kwargs)
        active = count_active_parameters(other, 1.0)
        # One channel more or less changes 4 % of the weights.
        assert abs(active - wanted) / wanted < 0.04
        assert filters < awn.get_layer("conv2").filters


def test_a_mean_over_all_widths_steps_as_the_sum_of_four():
    """In both the rate is that of a sum of four, and weight decay is as strong."""
    for experiment, label in (
        *(("figure4", "awn_rs_all"), ("improvements", "awn_rs_all")),
        ("improvements", "all_cosine"),
    ):
        runs = {run.label: run.recipe for run in runs_of(experiment, "cifar10")}
        paper, every = runs["awn_rs"], runs[label]
        assert every.learning_rate == 4 * paper.learning_rate
        decay = every.learning_rate * every.weight_decay
        assert decay == pytest.approx(paper.learning_rate * paper.weight_decay)


def test_systems_can_be_chosen():
    runs = runs_of("table2", systems=["awn", "us_net"], seeds=2)
    assert [run.label for run in runs] == ["awn", "us_net"] * 2


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        (("table3",), {}, "The experiment must be one of"),
        (("table2", "imagenet"), {}, "`dataset` must be one of"),
        (("table2",), {"seeds": 0}, "`seeds` must be at least 1"),
        (("table2",), {"seeds": 10**20}, "at least 1 and at most 1000"),
        (("table2",), {"systems": ["ofa"]}, r"`systems` must be of .*'ofa'"),
        (("table2",), {"systems": []}, "`systems` must be of"),
        (("figure2", None, "mobilenet_v2"), {}, "for LeNet-3C1L only"),
        (("table2",), {"scale": 2.0}, "`scale` must be in"),
        (("individual", None, "mobilenet_v2"), {}, "sized by `filters`"),
    ],
)
def test_bad_requests_are_refused(args, kwargs, match):
    with pytest.raises(ValueError, match=match):
        runs_of(*args, **kwargs)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_recommended_recipe_is_an_arm_of_the_improvements(dataset):
    """Of four losses the arm takes the sum, and the recommended recipe the mean."""
    recipe = recommended_recipe(dataset)
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
    for recipe in (recommended_recipe(dataset), runs[0].recipe):
        recipe = replace(recipe, dataset="digits", filters=4, epochs=1)
        model = build(recipe, data)
        model.fit(data.train(recipe.batch_size, seed=0), epochs=1, verbose=0)
        weights.append(model.get_weights())
    for weight, other in zip(*weights, strict=True):
        # Twelve steps at a rate of 0.04 or 0.12 magnify float32's 1e-7.
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-5)
