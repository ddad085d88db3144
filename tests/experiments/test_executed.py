from dataclasses import replace

import pytest

from awn_keras import count_macs, lenet_3c1l
from awn_keras.experiments.executed import with_executed_macs
from awn_keras.experiments.paper import PaperRun
from awn_keras.runs.presets import paper_recipe
from awn_keras.runs.recipe import Recipe

WIDTHS = [0.25, 0.6, 1.0]


def finished(recipe, **more):
    curve = {"widths": WIDTHS, "macs": [1, 2, 3], **more}
    return [(PaperRun("any", recipe), {"curves": [curve], "auc": 0.5})]


def executed(recipe, **more):
    ((_, result),) = with_executed_macs(finished(recipe, **more))
    assert result["auc"] == 0.5
    return result["curves"][0]["executed_macs"]


@pytest.mark.parametrize(
    "changes",
    [
        {"staircase": "paper"},
        {"staircase": "nested"},
        {"stages": {"conv2": {"min_width": 0.75}}},
    ],
)
def test_an_awns_file_leaves_zeros_out(changes):
    recipe = replace(Recipe("mnist"), seed=3, epochs=2, **changes)
    model = lenet_3c1l((28, 28, 1), **{"staircase": "paper", **changes})
    wanted = [count_macs(model, width, layout="auto") for width in WIDTHS]
    assert executed(recipe) == wanted
    assert wanted[-1] < 0.8 * count_macs(model)


def test_ordinary_convolutions_execute_all_that_they_have():
    assert executed(paper_recipe("cifar10", system="s_net")) == [1, 2, 3]
    assert executed(paper_recipe("cifar10", system="us_net")) == [1, 2, 3]


def test_what_a_run_counted_is_not_counted_again():
    assert executed(Recipe("mnist"), executed_macs=[1, 1, 2]) == [1, 1, 2]


def test_runs_are_left_as_they_are():
    before = finished(Recipe("mnist"))
    with_executed_macs(before)
    assert before == finished(Recipe("mnist"))
