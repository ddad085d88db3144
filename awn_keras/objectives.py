"""What a training step minimizes beside the mean loss of its widths."""

from __future__ import annotations

from typing import Any, TypeAlias

import keras
import numpy as np

from awn_keras.widths import check_width

#: A number, or a schedule of it over optimizer steps, as for learning rates.
Schedule: TypeAlias = Any

_CROSS_ENTROPIES = (
    keras.losses.CategoricalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
)


def is_schedule(value: Any) -> bool:
    """Whether a value is a Keras schedule."""
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)


def is_on(value: Schedule) -> bool:
    """Whether a value is, or may become, other than 0."""
    return is_schedule(value) or value != 0


def at_step(value: Schedule, step: Any) -> Any:
    """The value at an optimizer step.

    Args:
        value: A number or a schedule.
        step: Integer scalar tensor.

    Returns:
        The number, or a float32 tensor.
    """
    if is_schedule(value):
        return keras.ops.cast(value(step), "float32")
    return value


def check_share(value: Any, name: str) -> Schedule:
    """Checks a number in [0, 1], or a schedule of it.

    Args:
        value: The value.
        name: What to call it in the message.

    Returns:
        The value.

    Raises:
        TypeError: If it is neither a number nor a schedule.
        ValueError: If it is a number outside [0, 1].
    """
    if is_schedule(value):
        return value
    if isinstance(value, bool) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise TypeError(
            f"`{name}` must be a number in [0, 1], or a schedule of "
            f"`keras.optimizers.schedules`. Received: {name}={value!r}"
        )
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={value}")
    return float(value)


def check_frozen_up_to(value: Any, min_width: float) -> Schedule:
    """Checks the width up to which networks are frozen.

    Args:
        value: 0, a width in [min_width, 1), or a schedule.
        min_width: The model's smallest width.

    Returns:
        The value.

    Raises:
        TypeError: If it is neither a number nor a schedule.
        ValueError: If it is out of range.
    """
    value = check_share(value, "frozen_up_to")
    if not is_schedule(value) and value:
        check_width(value, min_width, "frozen_up_to")
        if value == 1:
            raise ValueError(
                "`frozen_up_to` must be below 1, or nothing would be trained. "
                "Received: frozen_up_to=1"
            )
    return value


def check_can_freeze(optimizer: Any) -> None:
    """Checks that an optimizer leaves alone what is put back after its step.

    Args:
        optimizer: The compiled optimizer.

    Raises:
        ValueError: If it does not.
    """
    if getattr(optimizer, "use_ema", False):
        raise ValueError(
            "`frozen_up_to` cannot hold what the optimizer's moving average puts in "
            "the weights' place. Use an optimizer with `use_ema=False`. Received: "
            f"optimizer={type(optimizer).__name__} with use_ema=True"
        )


def width_factors(widths: Any, power: float) -> Any:
    """Weights of the losses of a step's widths, 1 on average.

    Args:
        widths: Float tensor `(n,)`.
        power: Weights are proportional to `width ** power`.

    Returns:
        Float tensor `(n,)`.
    """
    factors = widths**power
    return factors / keras.ops.mean(factors)


def check_can_distill(
    loss: Any,
    outputs: int,
    fixed_widths: tuple[float, ...],
    *,
    loop: bool,
    loss_weights: Any = None,
) -> None:
    """Checks that narrow widths can learn from what the full width answers.

    Args:
        loss: As given to `compile`.
        outputs: Number of the model's outputs.
        fixed_widths: Widths that every step runs.
        loop: Whether they run one after the other.
        loss_weights: As given to `compile`.

    Raises:
        ValueError: If they cannot.
    """
    logits = isinstance(loss, _CROSS_ENTROPIES) and getattr(loss, "from_logits", False)
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
    if loop:
        raise ValueError(
            "`loop=True` runs a width after the other, and cannot distill. Leave "
            "`distillation` at 0."
        )


def distillation_loss(teacher: Any, student: Any, sample_weight: Any) -> Any:
    """Cross-entropy of a narrow width's answers with those of the full width.

    Args:
        teacher: Logits `(batch, ..., classes)` of the full width; no gradient flows
            into them.
        student: Logits of a narrower width, of the same shape.
        sample_weight: See `keras.losses.Loss`, or `None`.

    Returns:
        Scalar tensor, the mean over the batch.

    Reference:
        Yu and Huang, Universally Slimmable Networks (2019), section 4.2.
    """
    answers = keras.ops.softmax(keras.ops.stop_gradient(teacher), axis=-1)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    return loss(answers, student, sample_weight)
