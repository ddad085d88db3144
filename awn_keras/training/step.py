"""A step of training and one of evaluation, written once for all backends."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import forbidden_entries_act
from awn_keras.training import backends, private
from awn_keras.training.freezing import keep_frozen
from awn_keras.training.losses import loss_over_widths
from awn_keras.training.metrics import results_at, update_each
from awn_keras.training.samplers import draw_levels, expected_levels, loss_factors
from awn_keras.widths import name_at_width

#: Name in the logs of the factor on forbidden entries.
FADE = "fade"


def train_step(model: Any, data: Any) -> dict[str, Any]:
    """Trains a `MultiWidthModel` on a batch, with one update for several widths.

    Args:
        model: The model, compiled.
        data: `(x, y)` or `(x, y, sample_weight)`.

    Returns:
        The logs.

    Reference:
        Vu et al., Any-Width Networks (2020), algorithm 1. Here its passes share one
        trunk.
    """
    share = model.share_of_forbidden_entries()
    with forbidden_entries_act(share):
        logs = _train_step(model, data)
    return logs if share is None else {**logs, FADE: share}


def _train_step(model: Any, data: Any) -> dict[str, Any]:
    batch = x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    plan, networks, step = model.plan, model.networks, model.optimizer.iterations
    frozen = keep_frozen(model._acting_from, networks, plan.frozen_up_to, step)
    answers = None
    if plan.teacher is not None:
        with backends.without_gradients():
            answers = plan.teacher(x, training=False)
    levels = draw_levels(plan.widths, networks, step)
    factors = loss_factors(plan.widths, networks, levels, plan.width_power)

    def scaled_loss() -> tuple[Any, Any]:
        features = model._features(x, training=True)
        shared = _sum_of_losses(model)
        outputs = model._outputs_at(levels, features, training=True)
        loss = loss_over_widths(model, plan, batch, outputs, factors, answers)
        return model.optimizer.scale_loss(loss), (loss, features, shared, outputs)

    gradients, computed = backends.differentiate(model, scaled_loss)
    loss, features, shared, outputs = computed
    with backends.without_gradients():
        _track_loss(model, loss, x)
        # Before the update, so that metrics and loss are those of the same weights.
        if model.shares_features:
            logs = _update_metrics(model, "train", features, shared, batch)
        else:
            # Each further width would cost a whole pass.
            y_pred = outputs[_largest_that_is_always_trained(model)]
            logs = model.compute_metrics(x, y, y_pred, sample_weight)
        if gradients:
            backends.update(model, gradients)
        else:
            warnings.warn(
                "The model does not have any trainable weights.", stacklevel=2
            )
        frozen.put_back()
    return logs


def test_step(model: Any, data: Any) -> dict[str, Any]:
    """Evaluates a batch at the current, the report and the curve widths.

    Args:
        model: A `MultiWidthModel`, compiled.
        data: `(x, y)` or `(x, y, sample_weight)`.

    Returns:
        The logs.
    """
    batch = keras.utils.unpack_x_y_sample_weight(data)
    features = model._features(batch[0], training=False)
    return _update_metrics(model, "test", features, _sum_of_losses(model), batch)


def report(model: Any, states: Any, values: Any) -> dict[str, Any]:
    """Reads loss and metrics at the report widths.

    Args:
        model: A `MultiWidthModel`, compiled.
        states: The `WidthMetrics` of the model.
        values: Values of `states.variables`.

    Returns:
        Logs such as `accuracy_w025`.
    """
    logs = {}
    for width in model.plan.report_widths:
        results = results_at(model, states, values, model.networks.level_of(width))
        for name, value in results.items():
            logs[name_at_width(name, width)] = value
    return logs


def _sum_of_losses(model: Any) -> Any:
    """Sum of the activity losses of the layers that all widths share."""
    return private.sum_of_penalties(model, model._shared_losses())


def _track_loss(model: Any, loss: Any, x: Any) -> None:
    batch = keras.ops.shape(keras.tree.flatten(x)[0])[0]
    private.track_loss(model, backends.whole_of_replica(loss), batch)


def _largest_that_is_always_trained(model: Any) -> int:
    """Index of the outputs of the largest width that every step runs, or 0."""
    sampler = model.plan.widths
    always: Any = sampler.fixed
    if sampler.expected:
        always = expected_levels(sampler, model.networks)[0]
    return int(np.argmax(always)) if len(always) else 0


def _update_metrics(
    model: Any, mode: str, features: Any, shared: Any, batch: tuple[Any, Any, Any]
) -> dict[str, Any]:
    """Updates the metrics at the current width, and the metrics at several widths."""
    x, y, sample_weight = batch
    training = mode == "train"

    def update(level: Any, loss_offset: Any = 0.0, track_loss: bool = True) -> Any:
        levels = keras.ops.expand_dims(level, 0)
        y_pred = model._outputs_at(levels, features, training)[0]
        if track_loss:
            loss = private.loss_of(model, batch, y_pred, training=False)
            _track_loss(model, loss + loss_offset, x)
        return model.compute_metrics(x, y, y_pred, sample_weight)

    logs = update(model.level.value, track_loss=not training)
    states = model.width_metrics(mode)
    if not len(states.levels):
        return logs
    values = update_each(model, states, lambda level: update(level, shared))
    return {**logs, **report(model, states, values)}
