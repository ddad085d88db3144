"""Counts the MACs that exported files of the paper's runs execute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import keras

from awn_keras.counting import macs_at
from awn_keras.data import DATASETS
from awn_keras.experiments.paper import PaperRun, classes_of
from awn_keras.runs.networks import network_of
from awn_keras.runs.recipe import Recipe

#: A finished run with its result.
Finished = tuple[PaperRun, dict[str, Any]]


def with_executed_macs(finished: Sequence[Finished]) -> list[Finished]:
    """Adds to each curve the MACs that a file with cut kernels computes.

    Systems of ordinary convolutions have no zeros to leave out. A file of such a system
    holds a copy of the network for each width, and executes all MACs of the network.

    Args:
        finished: Runs with their results. They do not change.

    Returns:
        The runs. Each curve also has a list `executed_macs`, with a number for each
        width.
    """
    return [
        (
            run,
            {
                **result,
                "curves": [
                    {**curve, "executed_macs": _executed(run.recipe, curve)}
                    for curve in result["curves"]
                ],
            },
        )
        for run, result in finished
    ]


def _executed(recipe: Recipe, curve: dict[str, Any]) -> list[int]:
    known: list[int] = curve.get("executed_macs") or []
    if known or recipe.system != "awn":
        return known or curve["macs"]
    decide = {name: getattr(recipe, name) for name in _DECIDE}
    model = _network(json.dumps(decide))
    return macs_at(model, curve["widths"], "auto").tolist()


#: Fields of a recipe that decide the MACs of a network.
_DECIDE = (
    *("dataset", "architecture", "filters", "width_multiplier"),
    *("min_width", "divisor", "widths_grid", "staircase", "stages"),
)


@cache
def _network(recipe_text: str) -> keras.Model:
    """The untrained network of an AWN's recipe."""
    recipe = Recipe(**json.loads(recipe_text))
    # A stand-in with all that `build` reads of a data set, because the data set may not
    # be on this machine.
    data: Any = SimpleNamespace(
        input_shape=DATASETS[recipe.dataset],
        classes=classes_of(recipe.dataset),
        preprocessing=lambda: None,  # preprocessing has no MACs that count
    )
    return network_of(recipe.architecture).build(recipe, data)
