"""The loss of a training step: the losses of its widths, and distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from awn_keras.errors import ArgumentError
from awn_keras.graph import mask_of
from awn_keras.training import backends, private
from awn_keras.training.labels import CROSS_ENTROPIES, kind_of_labels
from awn_keras.training.plan import TrainingPlan
from awn_keras.training.schedules import at_step, is_on

_ELEMENTWISE = (
    keras.losses.BinaryCrossentropy,
    keras.losses.Huber,
    keras.losses.MeanAbsoluteError,
    keras.losses.MeanSquaredError,
)


def is_stock_loss(loss: Any) -> bool:
    """Whether a loss is a common loss of Keras, which can be mapped over widths.

    Args:
        loss: The loss of `compile`.

    Returns:
        `False` for dicts, lists, and the user's functions and classes, whose code may
        branch on values.
    """
    return kind_of_labels(loss) is not None or type(loss) in _ELEMENTWISE


def loss_over_widths(
    model: keras.Model,
    plan: TrainingPlan,
    batch: tuple[Any, Any, Any],
    outputs: Sequence[Any],
    factors: Sequence[Any],
    answers: Any = None,
    *,
    regularize: bool = True,
) -> Any:
    """Computes the loss of a step from the losses of its widths.

    Args:
        model: The model, right after it computed the outputs.
        plan: The settings of `compile`.
        batch: `(x, y, sample_weight)`.
        outputs: The model's outputs at n widths. With distillation, in the order of the
            plan's sampler.
        factors: Weights of the losses of the widths, n numbers or scalar tensors.
        answers: Outputs of the plan's teacher. `None` distills from the full width.
        regularize: Whether to add the regularization losses, once.

    Returns:
        Scalar tensor. In a replica of `tf.distribute`, its share of the loss.
    """
    sample_weight = batch[2]
    # `compute_loss` adds regularization to the loss of each width: subtract it there.
    regularization = private.sum_of_penalties(model, model.losses)

    def loss_of(y_pred: Any) -> Any:
        loss = private.loss_of(model, batch, y_pred, training=True)
        return loss - regularization

    first = outputs[0]
    together = (
        model.has_stock_loss
        and not keras.tree.is_nested(first)
        and mask_of(first) is None
    )
    losses = backends.for_each(loss_of, outputs, together=together)
    share = plan.distillation
    if is_on(share):
        share = at_step(share, model.optimizer.iterations)
        if answers is None:
            answers = outputs[plan.widths.fixed.index(1.0)]
        learned = backends.for_each(
            lambda y_pred: distillation_loss(answers, y_pred, sample_weight),
            outputs,
            together=together,
        )
        losses = [
            loss if y_pred is answers else (1 - share) * loss + share * other
            for y_pred, loss, other in zip(outputs, losses, learned, strict=True)
        ]
    total = sum(f * loss for f, loss in zip(factors, losses, strict=True))
    if plan.width_reduction == "mean":
        total /= plan.widths.num_widths
    return total + regularization if regularize else total


def check_can_distill(
    loss: Any,
    outputs: int,
    fixed_widths: tuple[float, ...],
    loss_weights: Any = None,
) -> None:
    """Checks that a model can be distilled.

    Args:
        loss: The loss of `compile`.
        outputs: Number of the model's outputs.
        fixed_widths: Widths that every step runs.
        loss_weights: The `loss_weights` of `compile`.

    Raises:
        ValueError: If the model cannot be distilled.
    """
    logits = isinstance(loss, CROSS_ENTROPIES) and getattr(loss, "from_logits", False)
    if outputs != 1 or not logits:
        raise ArgumentError(
            "`distillation` needs a model with one output, which gives logits, and the "
            "`loss` `keras.losses.SparseCategoricalCrossentropy(from_logits=True)` or "
            f"`CategoricalCrossentropy(from_logits=True)`. Received: loss={loss!r}, "
            f"{outputs} outputs"
        )
    if loss.reduction != "sum_over_batch_size" or loss_weights is not None:
        raise ArgumentError(
            "`distillation` needs a loss with the default `reduction`, and no "
            "`loss_weights`, because it mixes means over the batch. Received: "
            f"reduction={loss.reduction!r}, loss_weights={loss_weights}"
        )
    if 1.0 not in fixed_widths:
        raise ArgumentError(
            "`distillation` needs the full width in every step: use `SandwichWidths`, "
            f"or `FixedWidths` with 1.0. Received: widths={list(fixed_widths)}"
        )


def check_can_teach(teacher: keras.Model, model: keras.Model) -> None:
    """Checks that a teacher has inputs and outputs like the model.

    Args:
        teacher: The teacher.
        model: The model.

    Raises:
        ValueError: If the shapes differ.
    """
    shapes = [
        [tuple(x.shape[1:]) for x in (*each.inputs, *each.outputs)]
        for each in (teacher, model)
    ]
    if shapes[0] != shapes[1]:
        raise ArgumentError(
            f"`teacher` must have the inputs and outputs of model '{model.name}', with "
            f"shapes {shapes[1]}. Received: '{teacher.name}', with shapes {shapes[0]}"
        )


def distillation_loss(teacher: Any, student: Any, sample_weight: Any) -> Any:
    """Cross-entropy between the outputs of the full width and of a narrow width.

    Args:
        teacher: Logits `(batch, ..., classes)` of the full width, or of a teacher. No
            gradient flows into them.
        student: Logits of a narrower width, of the same shape.
        sample_weight: See `keras.losses.Loss`, or `None`.

    Returns:
        Scalar tensor, the mean over the batch. In a replica of `tf.distribute`, its
        share of the mean, as Keras' losses return it.

    Reference:
        Yu and Huang, Universally Slimmable Networks (2019), section 4.2.
    """
    answers = keras.ops.softmax(keras.ops.stop_gradient(teacher), axis=-1)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    return loss(answers, student, sample_weight)
