"""Widths, active channels and grades: the arithmetic of any-width networks.

A *width* is a number in (0, 1]. At width `w` a layer with `C` channels uses its
first `active_channels(C, w)` ones. The *grade* of a channel is the smallest width
at which it is active, so that everything else follows from one comparison: the
channel is active at `w` if and only if `grade <= w`.

Grades are float64. Each is one correctly rounded quotient of two integers, and
different quotients of integers below 2**26 round to different numbers: comparing
grades with each other is exact, and `1 / 3` typed by a user meets the grade 1/3.

This module needs NumPy only. The samplers here are descriptions; the training step
draws from them in the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np


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
        name: What to call the argument in the message.

    Returns:
        The width, a Python float.

    Raises:
        TypeError: If `width` is not a number.
        ValueError: If it is outside (0, 1], or below `min_width`.
    """
    if isinstance(width, bool) or not isinstance(
        width, int | float | np.integer | np.floating
    ):
        raise TypeError(
            f"`{name}` must be a number in (0, 1], such as 0.5. Received: "
            f"{name}={width!r}"
        )
    value = float(width)
    if not 0 < value <= 1:
        raise ValueError(
            f"`{name}` must be in (0, 1], as in 0.5 for half of each layer's channels "
            f"and 1 for all of them. Received: {name}={width}"
        )
    if value < min_width:
        raise ValueError(
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
        name: What to call the argument in the message.

    Returns:
        The widths in the order given.

    Raises:
        TypeError: If `widths` is not a sequence of numbers.
        ValueError: If one is outside (0, 1], or below `min_width`.
    """
    if isinstance(widths, str) or not isinstance(widths, Iterable):
        raise TypeError(
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
    """Reads what `width_label` wrote.

    Args:
        label: A label, such as `"062_5"`.

    Returns:
        The width, or `None` if it is no such label.
    """
    if not re.fullmatch(r"\d{3}(_\d{1,6})?", label):
        return None
    width = float(label.replace("_", ".") + "e-2")
    return width if 0 < width <= 1 and width_label(width) == label else None


def channel_grades(
    channels: int,
    divisor: int = 1,
    min_width: float = 0.0,
    widths_grid: Sequence[float] | None = None,
) -> np.ndarray:
    """Computes the grade of each channel of a layer, in closed form.

    With `divisor=1` channel `s` (counted from 0) has the grade
    `(s + 1/2) / channels`, and the first one 0. `divisor`, `min_width` and
    `widths_grid` only make grades coarser; a coarser grade lets a channel read more
    of the layer below.

    Args:
        channels: Number of channels, at least 1.
        divisor: Channels come and go in blocks of this size (the last block may be
            smaller). 8 suits most hardware.
        min_width: Channels active at this width are always on and get grade 0.
        widths_grid: The only widths that are told apart, ascending, the last one 1.
            Grades are rounded up to the grid: a channel appears at the first grid
            width at which it is active. `None` for every width.

    Returns:
        float64 array `(channels,)`, ascending, in [0, 1]; the first is 0.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2 and equation 7.
    """
    _check_positive(channels, "channels")
    _check_positive(divisor, "divisor")
    if not 0 <= min_width <= 1:
        raise ValueError(
            f"`min_width` must be in [0, 1]. Received: min_width={min_width}"
        )
    # Channel s belongs to block b = s // divisor + 1 and appears once
    # floor(w * channels / divisor + 1/2) >= b. All channels are there at width 1,
    # also those of a last block that is less than half full.
    blocks = np.arange(channels) // divisor + 1
    grades = np.minimum((2 * blocks - 1) * divisor / (2 * channels), 1.0)
    grades[(blocks == 1) | (grades <= min_width)] = 0.0
    if widths_grid is not None:
        grid = np.asarray(check_widths_grid(widths_grid))
        rounded = grid[np.searchsorted(grid, grades, side="left")]
        grades = np.where(grades <= grid[0], 0.0, rounded)
    return grades


def active_channels(channels: int, width: float, divisor: int = 1) -> int:
    """Number of channels that a layer uses at a width.

    `clamp(floor(width * channels / divisor + 1/2) * divisor, divisor, channels)`,
    and all of them at width 1.

    Args:
        channels: Number of channels at full width, at least 1.
        width: Width in (0, 1].
        divisor: The result is a multiple of it, unless the layer has fewer channels
            or is at its full width.

    Returns:
        The number of active channels, from 1 to `channels`.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.1.
    """
    width = check_width(width)
    return int(np.count_nonzero(channel_grades(channels, divisor) <= width))


def check_widths_grid(widths_grid: Iterable[float]) -> tuple[float, ...]:
    """Checks a grid of widths.

    Args:
        widths_grid: Widths in (0, 1], ascending, the last one 1.

    Returns:
        The grid as a tuple of floats.

    Raises:
        ValueError: If the grid is not ascending or does not end at 1.
    """
    grid = check_widths(widths_grid, name="widths_grid")
    if not grid or grid[-1] != 1.0 or any(np.diff(grid) <= 0):
        raise ValueError(
            "`widths_grid` must ascend and end at 1.0, the whole network. "
            f"Received: widths_grid={list(grid)}"
        )
    return grid


def _check_positive(value: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )


class WidthSampler:
    """Which widths a training step runs: some always, some drawn anew.

    Use one of `SandwichWidths`, `UniformWidths` and `FixedWidths`, or pass your own
    mixture to this class. A sampler holds no state: what is drawn depends on its
    seed and on the number of optimizer steps, so that training resumed from a
    checkpoint draws what an uninterrupted one would have.

    Args:
        fixed: Widths that every step runs, in (0, 1]; in messages `widths`.
        num_random: Number of widths drawn uniformly from
            `[min_width, max_width]` at every step.
        min_width: Lower end of the drawn widths, in (0, 1].
        max_width: Upper end of the drawn widths, in (0, 1].
        seed: Integer seed of the drawn widths. `None` takes one from Keras' global
            random state, which `keras.utils.set_random_seed` fixes.
        expected: Whether to draw nothing: every step runs each network that could be
            drawn, and weighs its loss by how often a step that draws would run it on
            average. The gradient is the average of those of such steps, without their
            noise (not exactly so with `width_power` or `distillation`, which look at
            a step's other widths). It costs a readout and a loss for each network: as
            many as a model has `distinct_widths`, which a `divisor` or a
            `widths_grid` keeps low. Models of `awn_keras.baselines` take a pass for
            each, from narrow to wide, and `SharedBN` updates its moving statistics in
            that order.

    Raises:
        TypeError: If `num_random` is not an integer.
        ValueError: If a width is outside (0, 1], the range is empty, or no width
            would be run.
    """

    def __init__(
        self,
        fixed: Sequence[float] = (),
        num_random: int = 0,
        min_width: float = 0.25,
        max_width: float = 1.0,
        seed: int | None = None,
        expected: bool = False,
    ) -> None:
        self.fixed = check_widths(fixed, name="widths")
        self.num_random = num_random
        self.min_width = check_width(min_width, name="min_width")
        self.max_width = check_width(max_width, name="max_width")
        self.seed = seed
        self.expected = bool(expected)
        if self.min_width > self.max_width:
            raise ValueError(
                "`min_width` must not exceed `max_width`. Received: "
                f"min_width={min_width}, max_width={max_width}"
            )
        if not isinstance(num_random, int | np.integer):
            raise TypeError(
                "The number of widths must be an integer. Received: "
                f"num_random={num_random!r}"
            )
        if num_random < 0 or self.num_widths < 1:
            raise ValueError(
                "A sampler must give at least one width. Received: "
                f"fixed={list(self.fixed)}, num_random={num_random}"
            )

    @property
    def num_widths(self) -> int:
        """Number of widths in a step; if `expected`, what their weights sum to."""
        return len(self.fixed) + self.num_random

    @property
    def smallest(self) -> float:
        """The smallest width that a step can run."""
        return min(self.fixed + (self.min_width,) * bool(self.num_random))

    def with_seed(self, seed: int) -> WidthSampler:
        """Returns the same sampler with another seed."""
        sampler = copy(self)
        sampler.seed = seed
        return sampler

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WidthSampler:
        """Makes a sampler from `get_config`."""
        return cls(**config)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "fixed": list(self.fixed),
            "num_random": self.num_random,
            "min_width": self.min_width,
            "max_width": self.max_width,
            "seed": self.seed,
            "expected": self.expected,
        }

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class SandwichWidths(WidthSampler):
    """The sandwich rule: the smallest, the largest, and random widths between.

    Args:
        min_width: The smallest width, in (0, 1].
        max_width: The largest width, in (0, 1].
        num_widths: Widths in a step, at least 2; all but two are drawn uniformly.
        seed: Integer seed, or `None`; see `WidthSampler`.
        expected: Whether to run, instead of drawing `num_widths - 2`, all networks
            that could be drawn. Each end keeps the weight 1 (and what draws would add
            to it), all others share the rest of `num_widths`; see `WidthSampler`.

    Raises:
        ValueError: If `num_widths` is below 2 or a width is out of range.

    Reference:
        Vu et al., Any-Width Networks (2020), algorithm 1; Yu and Huang, Universally
        Slimmable Networks (2019), section 3.2.
    """

    def __init__(
        self,
        min_width: float = 0.25,
        max_width: float = 1.0,
        num_widths: int = 4,
        seed: int | None = None,
        expected: bool = False,
    ) -> None:
        if num_widths < 2:
            raise ValueError(
                "`num_widths` must be at least 2, the smallest and the largest "
                f"width. Received: num_widths={num_widths}"
            )
        super().__init__(
            *((min_width, max_width), num_widths - 2, min_width, max_width),
            *(seed, expected),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "min_width": self.min_width,
            "max_width": self.max_width,
            "num_widths": self.num_widths,
            "seed": self.seed,
            "expected": self.expected,
        }


class UniformWidths(WidthSampler):
    """Widths drawn uniformly, without the two ends of the sandwich rule.

    Args:
        min_width: Lower end, in (0, 1].
        max_width: Upper end, in (0, 1].
        num_widths: Widths in a step, at least 1.
        seed: Integer seed, or `None`; see `WidthSampler`.
        expected: Whether to run, instead of drawing `num_widths`, all networks that
            could be drawn; see `WidthSampler`.

    Raises:
        ValueError: If `num_widths` is below 1 or a width is out of range.
    """

    def __init__(
        self,
        min_width: float = 0.25,
        max_width: float = 1.0,
        num_widths: int = 4,
        seed: int | None = None,
        expected: bool = False,
    ) -> None:
        super().__init__((), num_widths, min_width, max_width, seed, expected)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "min_width": self.min_width,
            "max_width": self.max_width,
            "num_widths": self.num_widths,
            "seed": self.seed,
            "expected": self.expected,
        }


class FixedWidths(WidthSampler):
    """The same widths at every step.

    Args:
        widths: Widths in (0, 1], at least one. `AnyWidthModel.distinct_widths` are
            all there are.

    Raises:
        ValueError: If `widths` is empty or a width is out of range.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.2 (AWN without random
        sampling).
    """

    def __init__(self, widths: Sequence[float]) -> None:
        super().__init__(fixed=widths)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"widths": list(self.fixed)}
