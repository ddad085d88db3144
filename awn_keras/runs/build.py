"""Builds and compiles the model of a recipe."""

from __future__ import annotations

from typing import Any

import keras

from awn_keras.baselines import NestedNet, NestedPruning, SharedBN, SNet, USNet
from awn_keras.data import ImageData
from awn_keras.multi_width import MultiWidthModel
from awn_keras.runs.networks import network_of
from awn_keras.runs.recipe import Recipe
from awn_keras.training.samplers import (
    FixedWidths,
    SandwichWidths,
    UniformWidths,
    WidthSampler,
)
from awn_keras.training.smoothing import SmoothedCrossentropy

#: Part of the steps in which a NestedNet is pruned, and the number of prunings.
_PRUNING, _PRUNINGS = 0.25, 20


def build(recipe: Recipe, data: ImageData) -> keras.Model:
    """Builds and compiles a recipe's model.

    Args:
        recipe: The recipe. Its seed sets Keras' global random state.
        data: The recipe's data set.

    Returns:
        The model, untrained: a `MultiWidthModel`, or a `keras.Model` if the system is
        `plain`.

    Raises:
        ValueError: If the recipe's arguments do not fit.
    """
    keras.utils.set_random_seed(recipe.seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        network = network_of(recipe.architecture).build(recipe, data)
    finally:
        keras.config.set_dtype_policy(policy)
    return prepare(recipe, network, data)


def prepare(recipe: Recipe, network: keras.Model, data: ImageData) -> keras.Model:
    """Makes the model of a recipe's system from a network, and compiles the model.

    Args:
        recipe: The recipe.
        network: An `AnyWidthModel` if the recipe's system is `awn`, otherwise a plain
            network.
        data: The recipe's data set.

    Returns:
        The compiled model.

    Raises:
        ValueError: If the recipe's arguments do not fit the network.
    """
    model = _of_system(recipe, network)
    steps = recipe.epochs_run * len(data.train(recipe.batch_size))
    arguments: dict[str, Any] = {}
    if isinstance(model, MultiWidthModel):
        arguments = {
            "widths": _sampler(recipe, model),
            "width_reduction": recipe.width_reduction,
            "width_power": recipe.width_power,
            "distillation": _late(recipe, recipe.distillation, steps),
            "frozen_up_to": _late(recipe, recipe.frozen_up_to, steps),
            "curve_widths": recipe.curve_widths(model),
        }
    model.compile(
        keras.optimizers.SGD(_schedule(recipe, steps), momentum=recipe.momentum),
        _loss(recipe),
        metrics=["accuracy"],
        **arguments,
    )
    return model


def callbacks_of(recipe: Recipe, data: ImageData) -> list[keras.callbacks.Callback]:
    """Makes the callbacks that a recipe's system needs in `fit`.

    Args:
        recipe: The recipe.
        data: The recipe's data set.

    Returns:
        For a NestedNet a `NestedPruning`; otherwise none.
    """
    if recipe.system != "nested_net":
        return []
    total = recipe.epochs_run * len(data.train(recipe.batch_size))
    steps = max(round(_PRUNING * total), 1)
    return [NestedPruning(steps, max(steps // _PRUNINGS, 1))]


def _loss(recipe: Recipe) -> keras.losses.Loss:
    if recipe.label_smoothing:
        return SmoothedCrossentropy(recipe.label_smoothing)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _of_system(recipe: Recipe, network: keras.Model) -> keras.Model:
    graph = (network.input, network.output, network.name)
    listed: dict[str, Any] = {"widths": recipe.widths, "divisor": recipe.divisor}
    if recipe.system == "s_net":
        return SNet(*graph, **listed)
    if recipe.system == "nested_net":
        return NestedNet(*graph, **listed, structure=recipe.structure)
    sliced = {"shared_bn": SharedBN, "us_net": USNet}.get(recipe.system)
    if sliced is None:
        return network
    return sliced(*graph, min_width=recipe.min_width, divisor=recipe.divisor)


def _schedule(recipe: Recipe, steps: int) -> Any:
    schedules = keras.optimizers.schedules
    joint = _last_early_step(recipe, steps) if recipe.frozen_up_to else 0
    joint = joint or steps  # A run that refines from the first step has one schedule.
    if recipe.schedule == "cosine" and recipe.warm_up:
        warm_up = round(recipe.warm_up * steps)
        return schedules.CosineDecay(
            0.0,
            max(steps - warm_up, 1),
            warmup_target=recipe.learning_rate,
            warmup_steps=warm_up,
        )
    if recipe.schedule == "cosine":
        first = joint + 1  # the first step with the value of `_late`
        if first >= steps:
            return schedules.CosineDecay(recipe.learning_rate, steps)
        return schedules.CosineDecayRestarts(
            recipe.learning_rate, first, t_mul=(steps - first) / first
        )
    rates = [recipe.learning_rate / 10**i for i in range(3)]
    boundaries = [round(0.5 * joint), round(0.75 * joint)]
    if joint < steps:
        boundaries += [joint + round(part * (steps - joint)) for part in (0, 0.5, 0.75)]
        rates *= 2
    return schedules.PiecewiseConstantDecay(boundaries, rates)


def _last_early_step(recipe: Recipe, steps: int) -> int:
    """The last step before `late`."""
    return round(recipe.late * steps)


def _late(recipe: Recipe, value: float, steps: int) -> Any:
    """A schedule that is 0 before `late`, and `value` from there on."""
    if not value or not recipe.late:
        return value
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [_last_early_step(recipe, steps)], [0.0, value]
    )


def _sampler(recipe: Recipe, model: MultiWidthModel) -> WidthSampler:
    if recipe.sampler == "all":
        return FixedWidths(recipe.curve_widths(model))
    if recipe.sampler == "fixed":
        return FixedWidths(recipe.widths)
    sampler = UniformWidths if recipe.sampler == "uniform" else SandwichWidths
    lowest = recipe.lowest_width or model.min_width
    return sampler(
        lowest,
        1.0,
        recipe.num_widths,
        recipe.seed,
        expected=recipe.sampler == "expected_sandwich",
    )
