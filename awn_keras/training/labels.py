"""Checks that labels and outputs fit a loss."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.graph import is_stock, operation_of
from awn_keras.rules import WidthRule, rule_of
from awn_keras.training.smoothing import SmoothedCrossentropy

_ONE_HOT = keras.losses.CategoricalCrossentropy
_CLASS_NUMBERS = keras.losses.SparseCategoricalCrossentropy
CROSS_ENTROPIES = (_ONE_HOT, _CLASS_NUMBERS)
#: Other names of these losses that `compile` accepts.
_ALIASES = {
    keras.losses.categorical_crossentropy: _ONE_HOT,
    "categorical_crossentropy": _ONE_HOT,
    keras.losses.sparse_categorical_crossentropy: _CLASS_NUMBERS,
    "sparse_categorical_crossentropy": _CLASS_NUMBERS,
}
_PROBABILITIES = ("sigmoid", "softmax")


def softmax_twice(model: keras.Model, loss: Any) -> list[str]:
    """Finds outputs that are probabilities although their loss expects logits.

    In a plain model Keras notices this in training and uses the logits. In a step over
    several widths Keras cannot see which layer made an output.

    Args:
        model: A functional model.
        loss: The loss of `compile`.

    Returns:
        A message for each such output, with the way out.
    """
    messages = []
    losses = _per_output(model, loss)
    for output, output_loss in zip(model.outputs, losses, strict=True):
        operation = operation_of(output)
        name, activation = operation.name, _probabilities(operation)
        if activation and getattr(output_loss, "from_logits", False) is True:
            messages.append(
                f"Output '{name}' of model '{model.name}' is a {activation} already, "
                f"but its loss {type(output_loss).__name__} has `from_logits=True` and "
                f"applies a {activation} again. The model would train badly. Remove "
                f"the {activation} from the model, or compile with `from_logits=False`."
            )
    return messages


def _keeps_values(operation: Any) -> bool:
    rule = rule_of(operation) or WidthRule()
    return rule.inert or rule.flattens or rule.resize is not None


def _probabilities(operation: Any) -> str | None:
    """Name of the activation that makes an output, if it is sigmoid or softmax."""
    while _keeps_values(operation):
        operation = operation_of(operation.input)
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.Layer):  # such as `Dense(3, activation=Softmax())`
        operation, activation = activation, None
    # A function has `__name__`; layers and operations have the name as their class.
    name = getattr(activation, "__name__", type(operation).__name__.lower())
    own = activation or type(operation)
    return name if is_stock(own) and name in _PROBABILITIES else None


def check_labels(model: keras.Model, loss: Any, y: Any) -> None:
    """Checks the shape of labels for Keras' categorical cross-entropies.

    Only shapes that these losses cannot use are refused. Labels of other losses are not
    checked.

    Args:
        model: A functional model.
        loss: The loss of `compile`.
        y: A batch of labels, with the structure of the model's outputs.

    Raises:
        ValueError: If the shape of labels does not fit.
    """
    outputs = model.outputs
    if len(outputs) > 1 and not isinstance(y, dict | list | tuple):
        return  # Keras raises its own error.
    losses, labels = _per_output(model, loss), _per_output(model, y)
    for output, output_loss, numbers in zip(outputs, losses, labels, strict=True):
        kind, shape = kind_of_labels(output_loss), _static_shape(numbers)
        if kind and shape is not None and output.shape[-1] not in (None, 1):
            _check_shape(output, kind, shape)


def _check_shape(output: Any, kind: type, shape: tuple[Any, ...]) -> None:
    wanted = tuple(output.shape)
    classes = wanted[-1]
    if kind is _CLASS_NUMBERS:
        wanted = wanted[:-1]
    given = shape
    while len(given) > len(wanted) and given[-1] == 1:  # Keras accepts them, too
        given = given[:-1]
    if len(given) == len(wanted) and all(
        None in pair or pair[0] == pair[1]
        for pair in zip(given[1:], wanted[1:], strict=True)
    ):
        return
    if kind is _CLASS_NUMBERS:
        rule = "class numbers"
        way_out = (
            "For one-hot labels, compile with `keras.losses.CategoricalCrossentropy`, "
            "or give `y.argmax(-1)`."
        )
    else:
        rule = "one-hot"
        way_out = (
            "For class numbers, compile with "
            "`keras.losses.SparseCategoricalCrossentropy`, or give "
            f"`keras.utils.to_categorical(y, {classes})`."
        )
        if len(given) == len(wanted) and given[-1] != 1:
            way_out = "Give the readout as many outputs as there are classes."
    raise ArgumentError(
        f"`y` must be {rule} of shape {(None, *wanted[1:])} for the loss "
        f"{kind.__name__}, because output '{operation_of(output).name}' has the shape "
        f"{tuple(output.shape)}. {way_out} Received: y of shape {shape}"
    )


def check_class_numbers(model: keras.Model, loss: Any, y: Any) -> None:
    """Checks that integer labels are in the range of the classes.

    TensorFlow raises an unclear error for such labels, but only on a CPU. Other devices
    and backends raise none, and the loss is NaN or that of another class.

    Args:
        model: A functional model.
        loss: The loss of `compile`.
        y: Labels, with the structure of the model's outputs. Only NumPy arrays of
            numbers are checked.

    Raises:
        ValueError: If a label is not the number of a class.
    """
    outputs = model.outputs
    if len(outputs) > 1 and not isinstance(y, dict | list | tuple):
        return
    losses, labels = _per_output(model, loss), _per_output(model, y)
    for output, output_loss, numbers in zip(outputs, losses, labels, strict=True):
        classes = output.shape[-1]
        if (
            kind_of_labels(output_loss) is not _CLASS_NUMBERS
            or not isinstance(numbers, np.ndarray)
            or numbers.dtype.kind not in "iuf"
            or classes in (None, 1)
        ):
            continue
        wrong = (numbers < 0) | (numbers >= classes) | (numbers != np.floor(numbers))
        ignored = getattr(output_loss, "ignore_class", None)
        if ignored is not None:
            wrong &= numbers != ignored
        if wrong.any():
            raise ArgumentError(_no_class(output, classes, numbers, wrong))


def _no_class(output: Any, classes: int, numbers: np.ndarray, wrong: np.ndarray) -> str:
    where = np.unravel_index(np.argmax(wrong), wrong.shape)
    value = numbers[where]
    way_out = "Give the readout as many outputs as there are classes."
    if value != np.floor(value):
        way_out = "To predict numbers instead of classes, compile with `loss='mse'`."
    elif numbers.min() == 1 and numbers.max() == classes:
        way_out = "The labels seem to begin with 1: give `y - 1`."
    return (
        f"`y` must be class numbers, 0 to {classes - 1}, because output "
        f"'{operation_of(output).name}' has {classes} classes. {way_out} Received: "
        f"{value} as the label of sample {where[0]}; {wrong.sum():,} of "
        f"{wrong.size:,} labels are wrong"
    )


@contextlib.contextmanager
def class_numbers_told() -> Iterator[None]:
    """A context that turns TensorFlow's error for a wrong label into a clear one."""
    try:
        yield
    except Exception as error:
        said = re.search(
            r"Received a label value of (\S+) which is outside the valid range of "
            r"\[0, (\d+)\)",
            str(error),
        )
        if said is None:
            raise
        value, classes = said.groups()
        raise ArgumentError(
            f"`y` must be class numbers, 0 to {int(classes) - 1}, because the output "
            f"has {classes} classes. Give the readout as many outputs as there are "
            f"classes. Received: a label {value}"
        ) from error


def kind_of_labels(loss: Any) -> type | None:
    """The stock cross-entropy over classes that a loss is, or `None`."""
    if type(loss) is SmoothedCrossentropy:
        return _CLASS_NUMBERS
    if isinstance(loss, CROSS_ENTROPIES):
        # A subclass may accept any labels.
        own = type(loss) in CROSS_ENTROPIES and getattr(loss, "axis", -1) == -1
        return type(loss) if own else None
    return _ALIASES.get(loss) if isinstance(loss, str) or callable(loss) else None


def _static_shape(x: Any) -> tuple[Any, ...] | None:
    """Shape of a tensor; sizes may be `None`, or the shape if the rank is unknown."""
    shape = getattr(x, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:
        return None
    return tuple(shape)


def _per_output(model: keras.Model, values: Any) -> list[Any]:
    """Values in the order of the outputs.

    `values` may be a single value for all outputs, a list, or a dict by output name.
    """
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
