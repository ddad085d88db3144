"""Widths, active channels and grades: the arithmetic of any-width networks.

A *width* is a number in (0, 1]. At width `w` a layer with `C` channels uses its first
`active_channels(C, w)` channels. The *grade* of a channel is the smallest width at
which the channel is active. So a channel is active at `w` if and only if `grade <= w`.

Grades are float64. Each grade is one correctly rounded quotient of two integers.
Different quotients of integers below 2**26 round to different numbers, so comparisons
of grades are exact, and `1 / 3` typed by a user equals the grade 1/3.

In a graph, a channel may appear later than in its layer alone: see `reach`.

This module needs NumPy only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError

#: Rules for the widths at which blocks of channels appear; see `channel_grades`.
STAIRCASES = ("nested", "paper")
#: Smallest number of blocks of a layer in a nested staircase, if it has the channels.
LEAST_BLOCKS = 4

#: Regular expression for the labels of `width_label`.
LABEL = r"\d{3}(?:_\d{1,6})?"


def round_half_up(value: float) -> int:
    """Rounds to the nearest integer, halves up: the code base's only rounding.

    Args:
        value: A finite number.

    Returns:
        `floor(value + 1/2)`.
    """
    return int(np.floor(value + 0.5))


def check_width(width: float, min_width: float = 0.0, name: str = "width") -> float:
    """Returns `width` as a float after checking its range.

    Args:
        width: The width to check.
        min_width: The smallest width allowed, if above 0.
        name: Name of the argument for the message.

    Returns:
        The width, a Python float.

    Raises:
        TypeError: If `width` is not a number.
        ValueError: If `width` is outside (0, 1], or below `min_width`.
    """
    if isinstance(width, bool) or not isinstance(
        width, int | float | np.integer | np.floating
    ):
        raise ArgumentTypeError(
            f"`{name}` must be a number in (0, 1], such as 0.5. Received: "
            f"{name}={width!r}"
        )
    value = float(width)
    if not 0 < value <= 1:
        raise ArgumentError(
            f"`{name}` must be in (0, 1]: 0.5 is half of each layer's channels, 1 is "
            f"all channels. Received: {name}={width}"
        )
    if value < min_width:
        raise ArgumentError(
            f"`{name}` must be at least the model's min_width={min_width}, whose "
            f"channels are always on. Use a width in [{min_width}, 1], or build the "
            f"model with a smaller `min_width`. Received: {name}={width}"
        )
    return value


def check_widths(
    widths: Iterable[float], min_width: float = 0.0, name: str = "widths"
) -> tuple[float, ...]:
    """Returns several widths as floats after checking each.

    Args:
        widths: The widths, in any order.
        min_width: The smallest width allowed, if above 0.
        name: Name of the argument for the message.

    Returns:
        The widths in the given order.

    Raises:
        TypeError: If `widths` is not a sequence of numbers.
        ValueError: If a width is outside (0, 1], or below `min_width`.
    """
    if isinstance(widths, str) or not isinstance(widths, Iterable):
        raise ArgumentTypeError(
            f"`{name}` must be a sequence of widths, such as [0.25, 1.0]. Received: "
            f"{name}={widths!r}"
        )
    return tuple(check_width(width, min_width, name) for width in widths)


def width_label(width: float) -> str:
    """Writes a width as its percentage, for names of files, signatures and logs.

    Args:
        width: Width in (0, 1].

    Returns:
        `"025"` for 0.25, `"062_5"` for 0.625: no dot, which format strings such as
        `ModelCheckpoint`'s would take for an attribute.
    """
    whole, _, fraction = f"{100 * width:.6f}".rstrip("0").partition(".")
    return f"{whole:0>3}" + (f"_{fraction}" if fraction else "")


def label_width(label: str) -> float | None:
    """Reads a label of `width_label`.

    Args:
        label: A label, such as `"062_5"`.

    Returns:
        The width, or `None` if `label` is not the label of a width.
    """
    if not re.fullmatch(LABEL, label):
        return None
    width = float(label.replace("_", ".") + "e-2")
    return width if 0 < width <= 1 and width_label(width) == label else None


def find_width(width: float, among: Iterable[float]) -> float | None:
    """Finds a width that has the same label as another width.

    A label has a precision of 1e-6 percent.

    Args:
        width: A width, exact or read from a label.
        among: Widths to search.

    Returns:
        The first width of `among` with the label of `width`, or `None`.
    """
    label = width_label(width)
    return next((known for known in among if width_label(known) == label), None)


def name_at_width(name: str, width: float) -> str:
    """Makes the name of a log at a width, such as `accuracy_w062_5`.

    Args:
        name: Name of the log without a width.
        width: Width in (0, 1].

    Returns:
        The name with the label of the width.
    """
    return f"{name}_w{width_label(width)}"


def split_name_at_width(name: str) -> tuple[str, float] | None:
    """Splits a name of `name_at_width` into its parts.

    Args:
        name: A name, such as `accuracy_w062_5`.

    Returns:
        The name without the width, and the width. `None` if `name` has no width.
    """
    match = re.fullmatch(f"(.+)_w({LABEL})", name)
    width = label_width(match[2]) if match else None
    return None if match is None or width is None else (match[1], width)


def block_size(channels: int, divisor: int = 1) -> int:
    """Computes the block size of a layer in a nested staircase.

    Channels of a block come and go together.

    Args:
        channels: Number of channels, at least 1.
        divisor: Largest block size, at least 1.

    Returns:
        `divisor`, halved (and rounded up) until the layer has at least four blocks, or
        until 1.

    Raises:
        ValueError: If an argument is below 1.

    Examples:
        >>> [block_size(channels, 8) for channels in (64, 24, 12, 3)]
        [8, 4, 2, 1]
    """
    check_positive(channels, "channels")
    check_positive(divisor, "divisor")
    while divisor > 1 and channels < LEAST_BLOCKS * divisor:
        divisor = (divisor + 1) // 2
    return divisor


def channel_grades(
    channels: int,
    divisor: int = 1,
    min_width: float = 0.0,
    widths_grid: Sequence[float] | None = None,
    staircase: str = "nested",
    always_on: float = 0.0,
) -> np.ndarray:
    """Computes the grade of each channel of a layer, in closed form.

    At width `w` a layer of `n` blocks has `floor(w * n + 1/2)` active blocks, at least
    one. In the paper's staircase this holds at every width. If a layer has fewer
    channels than the layer below it, then it never reads the last channels below, which
    appear after its own last channel.

    In a nested staircase, blocks appear only at `s + 1` evenly spaced widths from
    `min_width` to 1, and the formula holds at these widths, except that the last block
    appears at width 1. `s` is the largest of 3, 6, 12, 24, ... with which a block
    appears at each step, or 3. So layers of different size change at the same widths as
    far as possible. Coarser grades also let a channel read more of the layer below.

    Args:
        channels: Number of channels, at least 1.
        divisor: Size of the blocks in which channels come and go; the last block may be
            smaller. 8 suits most hardware. In a nested staircase, a layer with few
            channels has smaller blocks; see `block_size`.
        min_width: Channels that are active at this width are always active, and get
            grade 0.
        widths_grid: The only widths of the model, ascending, the last one 1. Grades are
            rounded up to the grid: a channel appears at the first grid width at which
            it is active. `None` allows every width.
        staircase: `"nested"`, or `"paper"`.
        always_on: Channels that are active at this width are always active, too, but
            the layer still changes at the same widths as other layers.

    Returns:
        float64 array `(channels,)`, ascending, in [0, 1]. The first grade is 0.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> channel_grades(6, min_width=0.25)
        array([0.  , 0.  , 0.5 , 0.75, 0.75, 1.  ])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2 and equation 7.
    """
    check_positive(channels, "channels")
    check_positive(divisor, "divisor")
    check_staircase(staircase)
    for name, share in (("min_width", min_width), ("always_on", always_on)):
        if not 0 <= share <= 1:
            raise ArgumentError(f"`{name}` must be in [0, 1]. Received: {name}={share}")
    nested = staircase == "nested"
    size = block_size(channels, divisor) if nested else divisor
    # Channel s belongs to block b = s // size + 1, and appears when floor(w * channels
    # / size + 1/2) >= b. `minimum` makes all channels active at width 1, also those of
    # a last block that is less than half full.
    blocks = np.arange(channels) // size + 1
    grades = np.minimum((2 * blocks - 1) * size / (2 * channels), 1.0)
    if nested:
        grades[blocks == blocks[-1]] = 1.0
    grades[(blocks == 1) | (grades <= min_width)] = 0.0
    on = grades <= always_on
    if widths_grid is not None:
        grid = np.asarray(check_widths_grid(widths_grid))
        on |= grades <= grid[0]
        grades = _rounded_up(grades, grid)
    elif nested:
        free = len(np.unique(blocks[grades > 0]))
        grades = _rounded_up(grades, _steps(min_width, max(free, 3)))
    return np.where(on, 0.0, grades)


def _steps(min_width: float, at_most: int) -> np.ndarray:
    """Evenly spaced widths up to 1, above `min_width`: 3, 6, 12, ... of them."""
    count = 3
    while 2 * count <= at_most:
        count *= 2
    # As a user would type them: 0.7 above 0.1, not 0.7000000000000001.
    start = Fraction(str(float(min_width)))
    return np.array(
        [float(start + (1 - start) * Fraction(j, count)) for j in range(1, count + 1)]
    )


def _rounded_up(grades: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return grid[np.searchsorted(grid, grades, side="left")]


def active_channels(
    channels: int,
    width: float,
    divisor: int = 1,
    min_width: float = 0.25,
    staircase: str = "nested",
) -> int:
    """Computes the number of active channels of a single layer at a width.

    In a model the layer may have fewer active channels, if all layers that read it
    change at fewer widths.

    Args:
        channels: Number of channels at full width, at least 1.
        width: Width in (0, 1].
        divisor: See `channel_grades`.
        min_width: See `channel_grades`.
        staircase: See `channel_grades`.

    Returns:
        The number of active channels, from 1 to `channels`.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> [active_channels(64, width, divisor=8) for width in (0.25, 0.5, 1.0)]
        [16, 32, 64]

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.1.
    """
    width = check_width(width)
    grades = channel_grades(channels, divisor, min_width, staircase=staircase)
    return int(np.count_nonzero(grades <= width))


def check_staircase(staircase: Any) -> str:
    """Checks the name of a staircase.

    Args:
        staircase: The user's argument.

    Returns:
        The argument.

    Raises:
        ValueError: If it is not in `STAIRCASES`.
    """
    if staircase not in STAIRCASES:
        raise ArgumentError(
            f"`staircase` must be one of {STAIRCASES}. Received: "
            f"staircase={staircase!r}"
        )
    return staircase


def check_widths_grid(
    widths_grid: Iterable[float], name: str = "widths_grid"
) -> tuple[float, ...]:
    """Checks a grid of widths.

    Args:
        widths_grid: Widths in (0, 1], ascending, the last one 1.
        name: Name of the argument, for the message.

    Returns:
        The grid as a tuple of floats.

    Raises:
        ValueError: If the grid is not ascending or does not end at 1.
    """
    grid = check_widths(widths_grid, name=name)
    if not grid or grid[-1] != 1.0 or any(np.diff(grid) <= 0):
        raise ArgumentError(
            f"`{name}` must ascend and end at 1.0, which is the whole network. "
            f"Received: {name}={list(grid)}"
        )
    return grid


def check_positive(value: int, name: str) -> None:
    """Raises a ValueError if `value` is not an integer above 0.

    Args:
        value: The value of the argument.
        name: Name of the argument, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ArgumentError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )


@dataclass(frozen=True)
class Networks:
    """The different networks of a model, numbered by *levels*.

    Level 0 is the narrowest network. At each threshold further channels appear, and the
    next level begins.

    Args:
        min_width: The smallest width.
        thresholds: float64 array `(levels - 1,)`: the different grades above
            `min_width`, ascending.
        widths_grid: The only widths of the model, or `None`.
        staircase: One of `STAIRCASES`.
    """

    min_width: float
    thresholds: np.ndarray
    widths_grid: tuple[float, ...] | None = None
    staircase: str = "nested"

    @classmethod
    def of_grades(
        cls,
        grades: Iterable[np.ndarray],
        min_width: float,
        widths_grid: tuple[float, ...] | None = None,
        staircase: str = "nested",
    ) -> Networks:
        """Finds the networks of a model.

        Args:
            grades: Grades of the channels of each tensor; infinite for channels on
                which no output depends.
            min_width: See the class.
            widths_grid: See the class.
            staircase: See the class.

        Returns:
            The networks.
        """
        every = np.unique(np.concatenate([np.zeros(1), *grades]))
        later = np.isfinite(every) & (every > min_width)
        return cls(min_width, every[later], widths_grid, staircase)

    def level_of(self, width: float | np.ndarray) -> np.ndarray:
        """Returns the levels of the networks that run at some widths.

        Args:
            width: A width, or an array of widths.

        Returns:
            int32 levels, of the shape of `width`.
        """
        levels = np.searchsorted(self.thresholds, width, side="right")
        return levels.astype("int32")

    @property
    def starts(self) -> np.ndarray:
        """The smallest width of each level, float64 `(levels,)`."""
        return np.append(self.min_width, self.thresholds)

    @property
    def distinct_widths(self) -> tuple[float, ...]:
        """A width for each level; see `AnyWidthModel.distinct_widths`."""
        if self.widths_grid is not None:
            return tuple(self.starts.tolist())
        if self.staircase == "nested":
            # Rounded up to six digits. A width rounded down would be below the start of
            # the level, and run the previous network.
            typed = np.ceil(self.starts * 1e6 - 1e-6) / 1e6
            inside = typed < np.append(self.starts[1:], 2.0)
            typed = np.where(inside, typed, self.starts)
            return (self.min_width, *map(float, typed[1:]))
        inner = []
        for start, end in pairwise(self.thresholds.tolist()):
            middle = (start + end) / 2
            rounded = round(middle, 6)  # to be short when printed
            inner.append(rounded if start <= rounded < end else middle)
        return (self.min_width, *inner, 1.0)[: len(self.starts)]
