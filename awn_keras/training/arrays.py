"""Arrays of numbers that are no good to train or to evaluate on, told before a step.

What is looked at are NumPy arrays, once a call: no step gets slower. What a stream of
batches has is seen when the loss shows it; see `callbacks.NumbersCheck`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.training.labels import check_class_numbers, check_labels

#: The smallest and the largest value of each input; `None` for what are no images.
Ranges = list[tuple[float, float] | None]
#: Above the one there are no normalized numbers, above the other one are pixels.
_NORMALIZED, _PIXELS = 20.0, 100.0
#: What to do if there is no batch.
NO_BATCH = (
    "there is no batch of data. Is the data set empty, or does it leave out a last "
    "batch that is not full (`drop_remainder=True`), when all there is fills none?"
)


def check_arrays(
    model: keras.Model, loss: Any, x: Any, y: Any, argument: str = "x"
) -> Ranges:
    """Checks what `fit` or `evaluate` is given, as far as it is NumPy arrays.

    Args:
        model: A functional model.
        loss: As given to `compile`.
        x: Inputs.
        y: Labels; `None` if there are none.
        argument: What they come from, `"x"` or `"validation_data"`.

    Returns:
        The range of each input.

    Raises:
        ValueError: If there is no sample, or labels do not fit their loss.

    Warns:
        UserWarning: If there are NaN or infinite numbers.
    """
    inputs, labels = keras.tree.flatten(x), keras.tree.flatten(y)
    for array in inputs:
        if isinstance(array, np.ndarray) and array.ndim and not len(array):
            raise ArgumentError(
                f"`{argument}` must have at least one sample. Received: an array of "
                f"shape {array.shape}"
            )
    for array in inputs:
        _warn_of_infinity(array, f"`{argument}`")
    for array in labels:
        _warn_of_infinity(array, "`y`" if argument == "x" else f"`{argument}`")
    if y is not None:
        check_labels(model, loss, y)
        check_class_numbers(model, loss, y)
    return ranges_of(inputs)


def ranges_of(inputs: Sequence[Any]) -> Ranges:
    """The range of each input that is an array of images."""
    return [
        (float(array.min()), float(array.max()))
        if _is_numbers(array) and array.ndim == 4
        else None
        for array in inputs
    ]


def _is_numbers(array: Any) -> bool:
    return (
        isinstance(array, np.ndarray) and array.dtype.kind in "iuf" and array.size > 0
    )


def samples_not_finite(array: Any) -> np.ndarray:
    """Which samples of an array have NaN or infinite numbers.

    Args:
        array: An array `(n, ...)`; what is none of numbers has no such samples.

    Returns:
        Their indices, ascending, `(m,)`.
    """
    if not _is_numbers(array) or not array.ndim:
        return np.zeros(0, int)
    # NaN is the smallest and the largest of all: no array of the same size is made.
    if np.isfinite([array.min(), array.max()]).all():
        return np.zeros(0, int)
    return np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))


def _warn_of_infinity(array: Any, named: str) -> None:
    samples = samples_not_finite(array)
    if len(samples):
        warnings.warn(
            f"{named} has NaN or infinite numbers in {len(samples):,} of "
            f"{len(array):,} samples, first in number {samples[0]}: weights that are "
            "trained on them become NaN, and results mean nothing. Leave these "
            "samples out, or replace the numbers, as by `np.nan_to_num`.",
            stacklevel=2,
        )


def warn_of_scale(trained: Ranges, now: Ranges) -> None:
    """Warns if images are not in the scale of those that a model was trained on.

    Args:
        trained: Ranges of its inputs in training.
        now: Ranges now. Models of several inputs are let be.

    Warns:
        UserWarning: If one are pixels, 0 to 255, and the other ones are normalized.
    """
    if len(trained) != 1 or len(now) != 1 or trained[0] is None or now[0] is None:
        return
    (low, high), (least, most) = trained[0], now[0]
    way_out = None
    if max(-low, high) <= _NORMALIZED and least >= 0 and most >= _PIXELS:
        way_out = "Are they pixels? Normalize them as in training: `x / 255.0`, say."
    elif high >= _PIXELS and least >= 0 and most <= 1:
        way_out = "Are they divided by 255 already? Give the model pixels."
    if way_out is not None:
        warnings.warn(
            f"A model that was trained on images of values from {low:.3g} to "
            f"{high:.3g} is given images of values from {least:.3g} to {most:.3g}. "
            f"{way_out}",
            stacklevel=2,
        )


def warn_of_single_sample(model: keras.Model, count: int, batch_size: int) -> None:
    """Warns of batches of one sample where BatchNormalization sees one number each.

    Args:
        model: A functional model.
        count: Number of samples to train on.
        batch_size: Samples in a batch.

    Warns:
        UserWarning: If there is such a layer, and such a batch.
    """
    if batch_size > 1 and count % batch_size != 1:
        return
    for layer in model.layers:
        normalizes = isinstance(layer, keras.layers.BatchNormalization)
        if not normalizes or not layer.trainable:
            continue
        shape = layer.input.shape
        places = [shape[axis] for axis in range(1, len(shape) - 1)]
        if all(place == 1 for place in places):
            which = "The last batch" if batch_size > 1 and count > 1 else "Each batch"
            warnings.warn(
                f"{which} has one sample ({count:,} samples, batch_size={batch_size}), "
                f"whose variance in BatchNormalization '{layer.name}' of model "
                f"'{model.name}' is 0: the layer gives the same for any sample then, "
                "and its moving variance shrinks. Choose another `batch_size`, or "
                "leave a sample out.",
                stacklevel=2,
            )
            return
