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
_ONE_HOT = keras.losses.CategoricalCrossentropy
_CLASS_NUMBERS = keras.losses.SparseCategoricalCrossentropy
#: Other ways to say the same to `compile`.
_ALIASES = {
    keras.losses.categorical_crossentropy: _ONE_HOT,
    "categorical_crossentropy": _ONE_HOT,
    keras.losses.sparse_categorical_crossentropy: _CLASS_NUMBERS,
    "sparse_categorical_crossentropy": _CLASS_NUMBERS,
}
_KEEP_VALUES = (keras.layers.Flatten, keras.layers.Identity, keras.layers.Reshape)
_PROBABILITIES = ("sigmoid", "softmax")


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


def width_factors(widths: Any, power: float, counts: Any) -> Any:
    """Weights of the losses of a step's widths.

    Args:
        widths: Float tensor `(n,)`.
        power: Weights are proportional to `width ** power`.
        counts: How often each width counts, floats `(n,)`.

    Returns:
        Float tensor `(n,)`, with the sum of `counts`.
    """
    counts = keras.ops.convert_to_tensor(counts, "float32")
    factors = counts * widths**power
    return factors * keras.ops.sum(counts) / keras.ops.sum(factors)


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


# ------------------------------------------------------------- losses and their labels


def softmax_twice(model: keras.Model, loss: Any) -> list[str]:
    """Finds outputs that are probabilities, though their loss takes logits.

    In a plain model Keras finds this out while it trains, and takes the logits; a
    step over several widths hides from Keras where its outputs come from.

    Args:
        model: A functional model.
        loss: As given to `compile`.

    Returns:
        What is wrong with each such output, and what to do.
    """
    messages = []
    for output, one in zip(model.outputs, _per_output(model, loss), strict=True):
        operation = output._keras_history.operation
        name, activation = operation.name, _probabilities(operation)
        if activation and getattr(one, "from_logits", False) is True:
            messages.append(
                f"Output '{name}' of model '{model.name}' is a {activation} already, "
                f"but its loss {type(one).__name__} has `from_logits=True` and applies "
                "one again, so that the model would train badly. Leave the "
                f"{activation} out of the model, or compile with `from_logits=False`."
            )
    return messages


def _probabilities(operation: Any) -> str | None:
    """The activation that gives an output, if it is sigmoid or softmax."""
    while isinstance(operation, _KEEP_VALUES):
        operation = operation.input._keras_history.operation
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.Layer):  # such as `Dense(3, activation=Softmax())`
        operation, activation = activation, None
    # A function has a name; Keras' own layers and operations are called alike.
    name = getattr(activation, "__name__", type(operation).__name__.lower())
    own = activation or type(operation)
    is_stock = own.__module__.startswith("keras.src.")
    return name if is_stock and name in _PROBABILITIES else None


def check_labels(model: keras.Model, loss: Any, y: Any) -> None:
    """Checks the shape of labels for Keras' categorical cross-entropies.

    Only shapes that these losses cannot take are refused; other losses are left alone.

    Args:
        model: A functional model.
        loss: As given to `compile`.
        y: A batch of labels, with the structure of the model's outputs.

    Raises:
        ValueError: If they do not fit.
    """
    outputs = model.outputs
    if len(outputs) > 1 and not isinstance(y, dict | list | tuple):
        return  # Keras says what it thinks of it.
    losses, labels = _per_output(model, loss), _per_output(model, y)
    for output, one, some in zip(outputs, losses, labels, strict=True):
        kind, shape = _kind_of_labels(one), _static_shape(some)
        if kind and shape is not None and output.shape[-1] not in (None, 1):
            _check_shape(output, kind, shape)


def _check_shape(output: Any, kind: type, shape: tuple[Any, ...]) -> None:
    wanted = tuple(output.shape)
    classes = wanted[-1]
    if kind is _CLASS_NUMBERS:
        wanted = wanted[:-1]
    given = shape
    while len(given) > len(wanted) and given[-1] == 1:  # Keras takes these, too
        given = given[:-1]
    if len(given) == len(wanted) and all(
        None in pair or pair[0] == pair[1]
        for pair in zip(given[1:], wanted[1:], strict=True)
    ):
        return
    if kind is _CLASS_NUMBERS:
        rule = "class numbers"
        way_out = (
            "For one-hot labels compile with `keras.losses.CategoricalCrossentropy`, "
            "or give `y.argmax(-1)`."
        )
    else:
        rule = "one-hot"
        way_out = (
            "For class numbers compile with "
            "`keras.losses.SparseCategoricalCrossentropy`, or give "
            f"`keras.utils.to_categorical(y, {classes})`."
        )
        if len(given) == len(wanted) and given[-1] != 1:
            way_out = "Give the readout as many outputs as there are classes."
    raise ValueError(
        f"`y` must be {rule} of shape {(None, *wanted[1:])} for the loss "
        f"{kind.__name__}, since output '{output._keras_history.operation.name}' has "
        f"the shape {tuple(output.shape)}. {way_out} Received: y of shape {shape}"
    )


def _kind_of_labels(loss: Any) -> type | None:
    if isinstance(loss, _CROSS_ENTROPIES):
        # A subclass may take what it likes.
        own = type(loss) in _CROSS_ENTROPIES and getattr(loss, "axis", -1) == -1
        return type(loss) if own else None
    return _ALIASES.get(loss) if isinstance(loss, str) or callable(loss) else None


def _static_shape(x: Any) -> tuple[Any, ...] | None:
    """A tensor's shape as far as it is known; `None` if not even its rank is."""
    shape = getattr(x, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:
        return None
    return tuple(shape)


def _per_output(model: keras.Model, values: Any) -> list[Any]:
    """What belongs to each output, of one value for all, a list, or a dict by name."""
    outputs = model.outputs
    if isinstance(values, dict):
        structure = model.output
        if isinstance(structure, dict):
            names = {id(x): name for name, x in structure.items()}
        else:
            names = dict(zip(map(id, outputs), model.output_names, strict=True))
        return [values.get(names.get(id(x))) for x in outputs]
    if isinstance(values, list | tuple):
        return list(values) if len(values) == len(outputs) else [None] * len(outputs)
    return [values] * len(outputs)
