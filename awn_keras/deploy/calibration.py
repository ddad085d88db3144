"""Whether what decides the ranges of integers looks like what a file will be given."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from awn_keras.deploy.converter import input_name
from awn_keras.deploy.interface import Interface
from awn_keras.deploy.verification import Verified
from awn_keras.errors import ArgumentError
from awn_keras.multi_width import MultiWidthModel

#: Below this share of equal answers there is a warning, if so many were compared: of
#: a few one that differs says nothing.
LEAST_AGREEMENT, LEAST_COMPARED = 0.95, 20
#: How the warning begins.
WARNING = "At precision"
# From so many samples on some can be spared.
_MANY = 100


def check_scale(
    model: MultiWidthModel,
    interface: Interface,
    arrays: Sequence[np.ndarray],
    argument: str,
) -> None:
    """Finds images in another scale than the model's.

    Integers that were fitted to images of 0..1 agree with the model on such images, and
    on none of 0..255: no comparison on them would tell.

    Args:
        model: The model.
        interface: Says how pixels become its inputs, if that is known.
        arrays: Samples for each of its inputs, `(n, ...)`.
        argument: What to call them in an error.

    Raises:
        ValueError: If those of an image are in 0..1 and the model takes pixels, or
            look like pixels and it takes normalized ones.
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
                f"`{argument}` must be pixels, 0 to 255: the model normalizes them by "
                f"itself. {received}, as if they were divided by 255 before."
            )
        if most > high + (high - low) / 2:
            raise ArgumentError(
                f"`{argument}` must be what the model takes, (pixels - mean) / std, "
                f"which is from {low:.3g} to {high:.3g} with the mean and std of "
                f"`metadata['normalization']`. {received}, as if they were pixels."
            )


def hold_out(
    arrays: Sequence[np.ndarray],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Splits a representative set.

    Args:
        arrays: Samples for each input, `(n, ...)`.

    Returns:
        What to compare on, and what is to decide ranges. They have no sample in common
        if there are a hundred or more.
    """
    count = len(arrays[0])
    if count < _MANY:
        return [array[:16] for array in arrays], list(arrays)
    # Evenly from the set, whose samples may be in the order of their classes.
    held = np.zeros(count, bool)
    held[np.linspace(0, count - 1, min(count // 5, 100)).astype(int)] = True
    return [array[held] for array in arrays], [array[~held] for array in arrays]


def warn_of_agreement(verified: Sequence[Verified], count: int, precision: str) -> None:
    """Warns if a file of integers often answers otherwise than its model.

    Args:
        verified: How well it agrees with the model, at each width.
        count: On how many samples.
        precision: That of the file.
    """
    low = [
        f"{one.agreement:.1%} at {one.signature}"
        for one in verified
        if one.agreement is not None and one.agreement < LEAST_AGREEMENT
    ]
    if low and count >= LEAST_COMPARED:
        warnings.warn(
            f"{WARNING} '{precision}' the file's answer is the model's for "
            f"only {', '.join(low)} of {count} samples (expected: "
            f"{LEAST_AGREEMENT:.0%} or more). Are `representative` and `samples` "
            "inputs as of training, in the same scale? If so, train on with "
            "`awn_keras.deploy.quantize_aware`, or use another precision.",
            UserWarning,
            stacklevel=3,
        )
