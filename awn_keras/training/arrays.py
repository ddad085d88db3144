"""Checks of the arrays that `fit` and `evaluate` are given.

Only NumPy arrays are checked, once for each call, so no step gets slower. For other
data, `callbacks.NumbersCheck` reports a loss that is not finite.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.training.labels import check_class_numbers, check_labels

#: The smallest and the largest value of each input; `None` for inputs without images.
Ranges = list[tuple[float, float] | None]
#: Normalized values are at most the first number; pixels reach the second number.
_NORMALIZED, _PIXELS = 20.0, 100.0
#: Reason and way out if there is no batch.
NO_BATCH = (
    "there is no batch of data. Check that the data set is not empty, and that it has "
    "enough samples for a full batch if `drop_remainder=True` drops the last batch."
)


def check_arrays(
    model: keras.Model, loss: Any, x: Any, y: Any, argument: str = "x"
) -> Ranges:
    """Checks NumPy arrays that `fit` or `evaluate` is given.

    Args:
        model: A functional model.
        loss: The loss of `compile`.
        x: Inputs.
        y: Labels; `None` if there are none.
        argument: Name of the argument with the data, `"x"` or `"validation_data"`.

    Returns:
        The range of each input.

    Raises:
        ValueError: If an array has no sample, or if labels do not fit the loss.

    Warns:
        UserWarning: If an array has NaN or infinite numbers.
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
    """Finds the samples of an array that have NaN or infinite numbers.

    Args:
        array: An array `(n, ...)`. Arrays that hold no numbers have no such samples.

    Returns:
        Indices of the samples, ascending, `(m,)`.
    """
    # Integers, such as pixels, are always finite: the largest arrays are not scanned.
    if not _is_numbers(array) or array.dtype.kind != "f" or not array.ndim:
        return np.zeros(0, int)
    # `min` and `max` return NaN if there is one, and need no array of the same size.
    if np.isfinite([array.min(), array.max()]).all():
        return np.zeros(0, int)
    return np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))


def _warn_of_infinity(array: Any, named: str) -> None:
    samples = samples_not_finite(array)
    if len(samples):
        warnings.warn(
            f"{named} has NaN or infinite numbers in {len(samples):,} of "
            f"{len(array):,} samples, first in sample {samples[0]}. Weights that are "
            "trained on these samples become NaN, and results are wrong. Remove these "
            "samples, or replace the numbers, for example with `np.nan_to_num`.",
            stacklevel=2,
        )


def warn_of_scale(trained: Ranges, now: Ranges) -> None:
    """Warns if images have another scale than the images of the training.

    Args:
        trained: Ranges of the inputs in training.
        now: Ranges of the inputs now. Models with several inputs are not checked.

    Warns:
        UserWarning: If the images of one side are pixels, 0 to 255, and those of the
            other side are normalized.
    """
    if len(trained) != 1 or len(now) != 1 or trained[0] is None or now[0] is None:
        return
    (low, high), (least, most) = trained[0], now[0]
    way_out = None
    if max(-low, high) <= _NORMALIZED and least >= 0 and most >= _PIXELS:
        way_out = (
            "If the images are pixels, normalize them as in training, for example with "
            "`x / 255.0`."
        )
    elif high >= _PIXELS and least >= 0 and most <= 1:
        way_out = "If the images are divided by 255 already, give the model pixels."
    if way_out is not None:
        warnings.warn(
            f"The images have another scale than in training: values from {least:.3g} "
            f"to {most:.3g} instead of {low:.3g} to {high:.3g}. {way_out}",
            stacklevel=2,
        )


def warn_of_single_sample(model: keras.Model, count: int, batch_size: int) -> None:
    """Warns if BatchNormalization gets a single value of each channel in a batch.

    Args:
        model: A functional model.
        count: Number of training samples.
        batch_size: Samples in a batch.

    Warns:
        UserWarning: If a batch has one sample, and a BatchNormalization has inputs of a
            single position.
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
                f"{which} has one sample ({count:,} samples, batch_size={batch_size}). "
                "The variance of one sample is 0, so BatchNormalization "
                f"'{layer.name}' of model '{model.name}' gives equal outputs for any "
                "sample, and its moving variance shrinks. Choose another `batch_size`, "
                "or leave a sample out.",
                stacklevel=2,
            )
            return
