"""What a training step minimizes: the losses of its widths, and distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from awn_keras.training.labels import CROSS_ENTROPIES
from awn_keras.training.plan import TrainingPlan
from awn_keras.training.schedules import at_step, is_on


def loss_over_widths(
    model: keras.Model,
    plan: TrainingPlan,
    batch: tuple[Any, Any, Any],
    outputs: Sequence[Any],
    factors: Sequence[Any],
    *,
    regularize: bool = True,
) -> Any:
    """Reduces the losses of a step's widths.

    Args:
        model: The model, which has just computed the outputs.
        plan: What `compile` was told.
        batch: `(x, y, sample_weight)`.
        outputs: The model's outputs at n widths; if narrow widths are to learn from
            the full one, as the plan's sampler orders them.
        factors: What each width's loss counts, n numbers or scalars.
        regularize: Whether to add the regularization losses, which count once.

    Returns:
        Scalar tensor; of a replica of `tf.distribute` its share of it.
    """
    x, y, sample_weight = batch
    share, teacher = plan.distillation, None
    if is_on(share):
        share = at_step(share, model.optimizer.iterations)
        teacher = plan.widths.fixed.index(1.0)
    total: Any = 0.0
    regularization: Any = 0.0
    for index, (y_pred, factor) in enumerate(zip(outputs, factors, strict=True)):
        loss = model.compute_loss(x, y, y_pred, sample_weight, training=True)
        if model.losses:
            # `compute_loss` has added them to each width's loss.
            regularization = sum(map(model._aggregate_additional_loss, model.losses))
            loss -= regularization
        if teacher is not None and index != teacher:
            learned = distillation_loss(outputs[teacher], y_pred, sample_weight)
            loss = (1 - share) * loss + share * learned
        total += factor * loss
    if plan.width_reduction == "mean":
        total /= plan.widths.num_widths
    return total + regularization if regularize else total


def check_can_distill(
    loss: Any,
    outputs: int,
    fixed_widths: tuple[float, ...],
    loss_weights: Any = None,
) -> None:
    """Checks that narrow widths can learn from what the full width answers.

    Args:
        loss: As given to `compile`.
        outputs: Number of the model's outputs.
        fixed_widths: Widths that every step runs.
        loss_weights: As given to `compile`.

    Raises:
        ValueError: If they cannot.
    """
    logits = isinstance(loss, CROSS_ENTROPIES) and getattr(loss, "from_logits", False)
    if outputs != 1 or not logits:
        raise ValueError(
            "`distillation` needs a model of one output, logits, and as `loss` "
            "`keras.losses.SparseCategoricalCrossentropy(from_logits=True)` or "
            "`CategoricalCrossentropy(from_logits=True)`. Received: "
            f"loss={loss!r}, {outputs} outputs"
        )
    if loss.reduction != "sum_over_batch_size" or loss_weights is not None:
        raise ValueError(
            "`distillation` mixes means over the batch: the loss must have its default "
            "`reduction`, and `loss_weights` must be left out. Received: "
            f"reduction={loss.reduction!r}, loss_weights={loss_weights}"
        )
    if 1.0 not in fixed_widths:
        raise ValueError(
            "`distillation` needs the full width in every step: use `SandwichWidths`, "
            f"or `FixedWidths` with 1.0. Received: widths={list(fixed_widths)}"
        )


def distillation_loss(teacher: Any, student: Any, sample_weight: Any) -> Any:
    """Cross-entropy of a narrow width's answers with those of the full width.

    Args:
        teacher: Logits `(batch, ..., classes)` of the full width; no gradient flows
            into them.
        student: Logits of a narrower width, of the same shape.
        sample_weight: See `keras.losses.Loss`, or `None`.

    Returns:
        Scalar tensor, the mean over the batch; of a replica of `tf.distribute`, where
        Keras' losses divide it, its share of that.

    Reference:
        Yu and Huang, Universally Slimmable Networks (2019), section 4.2.
    """
    answers = keras.ops.softmax(keras.ops.stop_gradient(teacher), axis=-1)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    return loss(answers, student, sample_weight)
