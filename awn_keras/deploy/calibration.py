"""Checks of the representative samples, which set the ranges of integers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from awn_keras.deploy.converter import input_name
from awn_keras.deploy.interface import Interface
from awn_keras.deploy.verification import Verified
from awn_keras.errors import ArgumentError
from awn_keras.multi_width import MultiWidthModel

#: Below this share of equal classes there is a warning, if at least so many samples
#: were compared. With fewer samples, a single difference would trigger the warning.
LEAST_AGREEMENT, LEAST_COMPARED = 0.95, 20
#: First words of the warning, by which commands recognize the warning.
WARNING = "At precision"
# With so many samples, some can be used for the comparison only.
_MANY = 100


def check_scale(
    model: MultiWidthModel,
    interface: Interface,
    arrays: Sequence[np.ndarray],
    argument: str,
) -> None:
    """Checks that images have the scale of the model's inputs.

    If the ranges come from images of 0..1, the file agrees with the model on such
    images, but fails on images of 0..255. A comparison with samples of the wrong scale
    would not notice this.

    Args:
        model: The model.
        interface: How pixels become inputs of the model, if known.
        arrays: Samples for each input of the model, `(n, ...)`.
        argument: Name of the argument for errors.

    Raises:
        ValueError: If images are in 0..1 and the model takes pixels, or if images look
            like pixels and the model takes normalized images.
    """
    pixels = interface.inside or interface.pixels
    for x, array in zip(model.inputs, arrays, strict=True):
        if pixels is None or input_name(x) not in interface.images:
            continue
        least, most = float(array.min()), float(array.max())
        low, high = pixels.limits()
        received = f"Received: values from {least:.3g} to {most:.3g}"
        if low == 0 and high == 255 and least >= 0 and 0 < most <= 1:
            raise ArgumentError(
                f"`{argument}` must be pixels, 0 to 255, because the model normalizes "
                f"pixels itself. Do not divide them by 255. {received}"
            )
        if most > high + (high - low) / 2:
            raise ArgumentError(
                f"`{argument}` must be normalized, (pixels - mean) / std, which gives "
                f"values from {low:.3g} to {high:.3g} with the mean and std of "
                "`metadata['normalization']`. They look like pixels: normalize them. "
                f"{received}"
            )


def hold_out(
    arrays: Sequence[np.ndarray],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Splits a representative set.

    Args:
        arrays: Samples for each input, `(n, ...)`.

    Returns:
        Samples for the comparison, and samples for the ranges. With a hundred samples
        or more, the two have no sample in common.
    """
    count = len(arrays[0])
    if count < _MANY:
        return [array[:16] for array in arrays], list(arrays)
    # Take every n-th sample, because samples may be sorted by class.
    held = np.zeros(count, bool)
    held[np.linspace(0, count - 1, min(count // 5, 100)).astype(int)] = True
    return [array[held] for array in arrays], [array[~held] for array in arrays]


def warn_of_agreement(verified: Sequence[Verified], count: int, precision: str) -> None:
    """Warns if a file of integers often gives another class than its model.

    Args:
        verified: Results of the comparison at each width.
        count: Number of compared samples.
        precision: Precision of the file.
    """
    low = [
        f"{result.agreement:.1%} at {result.signature}"
        for result in verified
        if result.agreement is not None and result.agreement < LEAST_AGREEMENT
    ]
    if low and count >= LEAST_COMPARED:
        warnings.warn(
            f"{WARNING} '{precision}' file and model give equal classes for only "
            f"{', '.join(low)} of {count} samples (expected: {LEAST_AGREEMENT:.0%} or "
            "more). Check that `representative` and `samples` are like the training "
            "inputs, in the same scale. If they are, train further with "
            "`awn_keras.deploy.quantize_aware`, or use another precision.",
            UserWarning,
            stacklevel=3,
        )
