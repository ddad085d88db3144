from dataclasses import replace

import pytest

from awn_keras.runs.presets import (
    paper_recipe,
    recommended_recipe,
    without_triangle,
)


def test_the_papers_recipes():
    fashion = paper_recipe("fashion_mnist")
    assert (fashion.epochs, fashion.weight_decay) == (20, 0.0)
    cifar = paper_recipe("cifar100")
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
    recipe = paper_recipe("cifar10", "mobilenet_v2")
    assert recipe == replace(
        paper_recipe("cifar10"),
        architecture="mobilenet_v2",
        epochs=350,
        min_width=0.35,
        divisor=8,
        widths=(0.35, 0.5, 0.75, 1.0),
    )
    for system in ("s_net", "us_net", "shared_bn", "plain"):
        recipe = paper_recipe("cifar10", "mobilenet_v2", system)
        assert (recipe.epochs, recipe.width_multiplier) == (100, 1.0)
    with pytest.raises(ValueError, match="`architecture` must be one of"):
        paper_recipe("cifar10", "resnet")


def test_what_cifar10_recommends_is_for_cifar100_too():
    wanted = replace(recommended_recipe("cifar10"), dataset="cifar100")
    assert recommended_recipe("cifar100") == wanted


def test_for_mobilenet_the_papers_recipe_is_recommended_as_a_mean():
    for dataset in ("fashion_mnist", "cifar10"):
        names = (dataset, "mobilenet_v2")
        recipe, paper = recommended_recipe(*names), paper_recipe(*names)
        assert recipe == replace(
            paper,
            width_reduction="mean",
            learning_rate=4 * paper.learning_rate,
            weight_decay=paper.weight_decay / 4,
            staircase="nested",
        )
    with pytest.raises(ValueError, match="`architecture` must be one of"):
        recommended_recipe("cifar10", "resnet")


def test_the_papers_systems():
    names = (
        *("awn", "awn_rs", "s_net", "us_net", "shared_bn", "plain"),
        *("nested_net", "nested_net_weights"),
    )
    recipes = {name: paper_recipe("fashion_mnist", system=name) for name in names}
    widened = {name for name, r in recipes.items() if r.width_multiplier > 1}
    assert widened == {"awn", "awn_rs"}
    assert recipes["s_net"].widths == (0.25, 0.5, 0.75, 1.0)
    assert {name for name, r in recipes.items() if r.sampler == "fixed"} == {
        *("awn", "s_net", "shared_bn", "nested_net", "nested_net_weights"),
    }
    changed = replace(recipes["s_net"], system="nested_net")
    assert recipes["nested_net"] == changed
    assert recipes["nested_net_weights"] == replace(changed, structure="weights")
    with pytest.raises(ValueError, match="`system` must be one of"):
        paper_recipe("fashion_mnist", system="ofa")


def test_a_data_set_without_a_row_gets_the_default():
    for recipe in (paper_recipe, recommended_recipe):
        wanted = replace(recipe("fashion_mnist"), dataset="imagenet")
        assert recipe("imagenet") == wanted


def test_trained_weights_get_what_keeps_most_of_them():
    names = ("photos", "efficientnet_lite0")
    recipe = recommended_recipe(*names, weights="imagenet", folder=True)
    assert (recipe.rotate, recipe.order, recipe.fade) == (True, "reading", 0.7)
    assert recipe.widths_grid == recipe.widths == (0.7, 0.8, 0.9, 1.0)
    random = recommended_recipe(*names, folder=True)
    steps = {"batch_size": recipe.batch_size, "learning_rate": recipe.learning_rate}
    assert replace(without_triangle(recipe), weights=None) == replace(random, **steps)
    for system in ("plain", "us_net"):
        other = paper_recipe(*names, system, weights="imagenet")
        assert other.batch_size == recipe.batch_size
        assert not other.rotate
    fixed = paper_recipe(*names, "awn", weights="imagenet")
    assert fixed.widths == fixed.widths_grid
