"""Samples for a model from arrays, data sets, generators or folders of photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.data.listing import photos_below
from awn_keras.errors import ArgumentError
from awn_keras.photos import PhotoError, read_photo

#: Largest number of samples that are taken of a data set, a generator or a folder.
MOST = 300


def collect_samples(samples: Any, model: keras.Model, argument: str) -> list[Any]:
    """Collects arrays of samples for a model's inputs.

    Args:
        samples: Arrays `(n, ...)` as for `model.predict`, which are used whole. Or a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator or another
            iterable of batches or single samples, with or without labels, or the path
            of a folder of photos, of which at most 300 samples are used. Photos are
            scaled to the size of the model's input.
        model: The model.
        argument: Name of the argument for errors.

    Returns:
        A flat list with an array for each input. The arrays are not checked against the
        inputs.

    Raises:
        ValueError: If there is no sample, or if `samples` is a folder and the model's
            inputs are not photos.
        OSError: If the folder does not exist or cannot be read.
    """
    if isinstance(samples, str | Path):
        return [_photos(Path(samples), model, argument)]
    if not _is_iterated(samples, model):
        return keras.tree.flatten(samples)
    taken: list[list[np.ndarray]] = []
    count = 0
    for element in _elements(samples):
        arrays = _as_batch(element, model)
        taken.append(arrays)
        count += len(arrays[0]) if arrays and arrays[0].ndim else 1
        if count >= MOST:
            break
    if not taken:
        raise ArgumentError(
            f"`{argument}` must have at least one sample. A generator can be used only "
            f"once. Received: no sample from a {type(samples).__name__}"
        )
    try:
        return [np.concatenate(arrays)[:MOST] for arrays in zip(*taken, strict=True)]
    except ValueError as error:
        raise ArgumentError(
            f"`{argument}` must have samples of one shape. Received: {error}"
        ) from error


def fitting_arrays(
    arrays: list[Any], model: keras.Model, argument: str
) -> list[np.ndarray]:
    """Checks that samples fit a model's inputs.

    Args:
        arrays: Arrays from `collect_samples`.
        model: The model.
        argument: Name of the argument for errors.

    Returns:
        For each input an array of its dtype, in the model's order.

    Raises:
        ValueError: If the samples do not fit, or if there is no sample.
    """
    shapes = [np.shape(x) for x in arrays]
    fit = len(arrays) == len(model.inputs) and all(
        tuple(x.shape[1:]) == tuple(shape[1:])
        for shape, x in zip(shapes, model.inputs, strict=True)
    )
    if not fit or len({shape[0] for shape in shapes}) != 1 or shapes[0][0] == 0:
        raise ArgumentError(
            f"`{argument}` must have at least one sample, and the shapes of the "
            f"model's inputs: {[tuple(x.shape) for x in model.inputs]}. Received: "
            f"arrays of shape {shapes}"
        )
    return [
        np.asarray(
            keras.ops.convert_to_numpy(x) if keras.ops.is_tensor(x) else x,
            keras.backend.standardize_dtype(spec.dtype),
        )
        for x, spec in zip(arrays, model.inputs, strict=True)
    ]


def _is_iterated(samples: Any, model: keras.Model) -> bool:
    """Whether `samples` must be iterated, and is not arrays of samples."""
    if isinstance(samples, keras.utils.PyDataset):
        return True
    if isinstance(samples, list):  # for several inputs, a list of arrays
        return len(model.inputs) == 1 and len(samples) > 1
    if isinstance(samples, Mapping | tuple) or hasattr(samples, "__array__"):
        return False
    return isinstance(samples, Iterable) and not keras.ops.is_tensor(samples)


def _elements(samples: Any) -> Iterator[Any]:
    if isinstance(samples, keras.utils.PyDataset):
        yield from (samples[index] for index in range(len(samples)))
    else:
        yield from samples


def _as_batch(element: Any, model: keras.Model) -> list[np.ndarray]:
    """The inputs of an element without its labels, as a batch."""
    labelled = isinstance(element, tuple | list) and (
        len(model.inputs) == 1 or len(keras.tree.flatten(element)) != len(model.inputs)
    )
    arrays = [
        np.asarray(keras.ops.convert_to_numpy(x) if keras.ops.is_tensor(x) else x)
        for x in keras.tree.flatten(element[0] if labelled else element)
    ]
    ranks = [len(x.shape) - 1 for x in model.inputs]
    if [array.ndim for array in arrays] == ranks:
        return [array[None] for array in arrays]
    return arrays


def _photos(folder: Path, model: keras.Model, argument: str) -> np.ndarray:
    shapes = [tuple(x.shape[1:]) for x in model.inputs]
    shape = shapes[0]
    if len(shapes) > 1 or len(shape) != 3 or None in shape or shape[2] not in (1, 3):
        raise ArgumentError(
            f"`{argument}` can be a folder of photos only for a model with one input, "
            f"a grey or RGB image of a fixed size. Received: inputs of shape {shapes}"
        )
    paths = photos_below(folder.expanduser())
    chosen = np.linspace(0, len(paths) - 1, min(MOST, len(paths))).round().astype(int)
    photos, faults = [], []
    for index in chosen:
        try:
            photos.append(read_photo(paths[index], shape))
        except (PhotoError, OSError) as error:
            faults.append(str(error))
    if not photos:
        raise ArgumentError(f"{folder} has no photo that can be read: {faults[0]}")
    return np.stack(photos)
