"""Fixed input sizes, for models with unknown rows, cols or steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from awn_keras.deploy.converter import input_name
from awn_keras.deploy.litert import TFLiteFile
from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.graph import rebuild
from awn_keras.multi_width import MultiWidthModel

#: Shape of an input without the batch, or shapes of several inputs, by name or in
#: order.
InputShape = Sequence[int] | Mapping[str, Sequence[int]] | Sequence[Sequence[int]]


def at_input_shape(
    model: MultiWidthModel, input_shape: InputShape | None
) -> MultiWidthModel:
    """Returns a model with fixed input sizes.

    Args:
        model: The model. It does not change.
        input_shape: Shape of the input without the batch axis, such as `(128, 128, 1)`.
            For several inputs, a dict of shapes by name, or a list in the model's
            order. `None` if the model's sizes are known.

    Returns:
        The model itself if it already has these sizes. Otherwise a new model with these
        sizes, which shares the layers and their weights.

    Raises:
        TypeError: If `input_shape` is not a shape.
        ValueError: If sizes are unknown and not given, if they do not fit the model, or
            if they are too small for it.
    """
    known = {input_name(x): tuple(x.shape[1:]) for x in model.inputs}
    shapes = fitting_shapes(known, input_shape)
    if shapes == known:
        return model
    try:
        inputs, outputs = rebuild(model, shapes=shapes)
    except ValueError as error:
        raise ArgumentError(
            f"`input_shape` does not fit model '{model.name}': {error}. Received: "
            f"input_shape={input_shape}"
        ) from error
    sized = model.on_graph(inputs, outputs)
    # `Interface` reads the loss to know whether outputs are logits.
    sized.loss = getattr(model, "loss", None)
    return sized


def fitting_shapes(
    known: Mapping[str, tuple[int | None, ...]], input_shape: InputShape | None
) -> dict[str, tuple[int, ...]]:
    """Returns the fixed shapes of a file's inputs.

    Args:
        known: Shapes of a model's inputs without the batch, by name, in the model's
            order.
        input_shape: See `at_input_shape`.

    Returns:
        A dict from names to shapes without unknown sizes.

    Raises:
        TypeError: If `input_shape` is not a shape.
        ValueError: If sizes are unknown and not given, or if they do not fit the model.
    """
    if input_shape is not None:
        shapes = _by_name(list(known), input_shape)
        for name, wanted in known.items():
            if not _fits(shapes[name], wanted):
                raise ArgumentError(
                    f"`input_shape` must fit input '{name}', which has the shape "
                    f"{wanted} without the batch. Received: {shapes[name]}"
                )
        return shapes
    for name, shape in known.items():
        if None in shape:
            example = tuple(n or 128 for n in shape)
            raise ArgumentError(
                "A TFLite file needs a fixed input size. Give the size, for example "
                f"`input_shape={example}`. Received: input '{name}' of shape "
                f"{(None, *shape)}"
            )
    return {name: tuple(n for n in shape if n) for name, shape in known.items()}


def at_shape_of(file: TFLiteFile, model: MultiWidthModel) -> MultiWidthModel:
    """Returns a model with the input sizes of a file.

    Args:
        file: The file.
        model: The model from which the file was exported. It does not change.

    Returns:
        The model itself if its sizes are known, otherwise as `at_input_shape`.

    Raises:
        ValueError: If the file has other inputs than the model.
    """
    if not any(None in x.shape[1:] for x in model.inputs):
        return model
    shapes = {
        tensor.name: tensor.sample_shape
        for signature in file.signatures.values()
        for tensor in signature.inputs
    }
    for x in model.inputs:
        name, wanted = input_name(x), tuple(x.shape[1:])
        if name not in shapes or not _fits(shapes[name], wanted):
            raise ArgumentError(
                f"'{file.name}' must have the inputs of model '{model.name}', such as "
                f"'{name}' of shape {wanted}. Give the model from which the file was "
                f"exported. Received: {shapes}"
            )
    return at_input_shape(
        model, {input_name(x): shapes[input_name(x)] for x in model.inputs}
    )


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        n in (None, size) for size, n in zip(shape, wanted, strict=True)
    )


def _by_name(names: list[str], input_shape: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by name of the input."""
    given = input_shape
    if not isinstance(given, Mapping):
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise _no_shape(given)
        # A model with one input may get the shape itself, or a list that holds it.
        is_shape = len(names) == 1 and not any(isinstance(n, Sequence) for n in given)
        each = [given] if is_shape else list(given)
        if len(each) != len(names):
            raise ArgumentError(
                f"`input_shape` must have a shape for each of the inputs {names}, in "
                f"this order. Received: input_shape={given!r}"
            )
        given = dict(zip(names, each, strict=True))
    if set(given) != set(names):
        raise ArgumentError(
            f"`input_shape` must have a shape for each of the inputs {names}. "
            f"Received: {sorted(given)}"
        )
    return {name: _shape(given[name]) for name in names}


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) for n in shape
    ):
        raise _no_shape(shape)
    if any(n < 1 for n in shape):
        raise ArgumentError(
            f"`input_shape` must have sizes of 1 or more. Received: {tuple(shape)}"
        )
    return tuple(int(n) for n in shape)


def _no_shape(received: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        "`input_shape` must be a shape without the batch, such as (128, 128, 1); for "
        "several inputs, a dict of shapes by name or a list of shapes. Received: "
        f"input_shape={received!r}"
    )
