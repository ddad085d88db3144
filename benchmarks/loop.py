"""Algorithm 1 of the paper, literally: a forward and backward pass for each width.

Tests compare the single pass of `AnyWidthModel` with this reference. Both give the same
gradients. The loop takes much longer, and BatchNormalization updates its moving
statistics in each pass of the loop.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras

from awn_keras.multi_width import MultiWidthModel
from awn_keras.training import backends
from awn_keras.training.losses import loss_over_widths
from awn_keras.training.samplers import draw_levels, loss_factors


def train_by_the_loop(model: MultiWidthModel) -> MultiWidthModel:
    """Makes a compiled model run algorithm 1 in `fit` and `train_on_batch`.

    The loop ignores distillation and `frozen_up_to`.

    Args:
        model: The model. Its `train_step` is replaced.

    Returns:
        The model.
    """
    model.train_step = partial(backends.run_step, model, loop_step)
    return model


def loop_step(model: MultiWidthModel, data: Any) -> dict[str, Any]:
    """Trains a model on a batch; see `train_by_the_loop`.

    Args:
        model: The model, compiled.
        data: `(x, y)` or `(x, y, sample_weight)`.

    Returns:
        The logs: the loss over all widths, and the metrics at the last width.
    """
    batch = keras.utils.unpack_x_y_sample_weight(data)
    plan, networks = model.plan, model.networks
    levels = draw_levels(plan.widths, networks, model.optimizer.iterations)
    factors = loss_factors(plan.widths, networks, levels, plan.width_power)
    total: Any = 0.0
    gradients: list[Any] = [None] * len(model.trainable_variables)
    for index, factor in enumerate(factors):

        def loss(index: int = index, factor: Any = factor) -> tuple[Any, Any]:
            features = model._features(batch[0], training=True)
            level = levels[index : index + 1]
            outputs = model._outputs_at(level, features, training=True)
            value = loss_over_widths(
                model, plan, batch, outputs, [factor], regularize=index == 0
            )
            return model.optimizer.scale_loss(value), (value, outputs[0])

        new, (value, y_pred) = backends.differentiate(model, loss)
        total += value
        gradients = [_sum(old, grad) for old, grad in zip(gradients, new, strict=True)]
    with backends.without_gradients():
        model._loss_tracker.update_state(total)
        logs = model.compute_metrics(batch[0], batch[1], y_pred, batch[2])
        backends.update(model, gradients)
        return logs


def _sum(old: Any, new: Any) -> Any:
    if new is None:
        return old
    # TensorFlow's gradient of an embedding lists only some rows, and a row may occur
    # twice. Keras can add such a gradient only to a dense tensor.
    old = keras.ops.zeros(new.shape, new.dtype) if old is None else old
    return keras.ops.add(old, new)
