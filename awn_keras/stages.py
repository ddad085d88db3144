"""The widths at which channels of a model appear, and stages with other widths."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.widths import (
    channel_grades,
    check_positive,
    check_staircase,
    check_width,
    check_widths_grid,
)

#: Type of the argument `stages`: for each pattern of layer names the settings of these
#: layers, as in `{"block_1_*": {"divisor": 16}}`.
Stages = Mapping[str, Mapping[str, Any]]


def literally(name: str) -> str:
    """A pattern that matches only `name`, even if it has characters of patterns."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@dataclass(frozen=True)
class Stage:
    """Layers whose channels appear at other widths than those of the model's rest.

    Args:
        pattern: Pattern of layer names, matched as in a shell: `"block_1_*"`.
        min_width: The layers' smallest width: channels that are active at this width
            are active at every width. `None` for the model's.
        divisor: Size of the blocks in which channels come and go. `None` for the
            model's.
        grid: The only widths at which the layers change, ascending to 1. Channels of
            the first width are active at every width. `None` for the model's.
    """

    pattern: str
    min_width: float | None = None
    divisor: int | None = None
    grid: tuple[float, ...] | None = None

    @classmethod
    def of(cls, pattern: Any, changes: Any) -> Stage:
        """Makes a stage from an entry of the argument `stages`.

        Args:
            pattern: See the class.
            changes: A dict with one or more of `min_width`, `divisor` and
                `widths_grid`.

        Returns:
            The stage.

        Raises:
            TypeError: If an argument or a value has a wrong type.
            ValueError: If a value is out of range, or if `changes` has another key.
        """
        if not isinstance(pattern, str) or not isinstance(changes, Mapping):
            raise _no_mapping({pattern: changes})
        allowed = ("min_width", "divisor", "widths_grid")
        said = {name: value for name, value in changes.items() if value is not None}
        if not said or not set(said) <= set(allowed):
            raise ArgumentError(
                "Each stage of `stages` must set `min_width`, `divisor` or "
                "`widths_grid`, and nothing else. Received: "
                f"stages={{{pattern!r}: {dict(changes)}}}"
            )
        min_width, divisor, grid = (said.get(name) for name in allowed)
        of = f"stages[{pattern!r}]"
        if min_width is not None:
            min_width = check_width(min_width, name=f"{of}['min_width']")
        if divisor is not None:
            check_positive(divisor, f"{of}['divisor']")
            divisor = int(divisor)
        if grid is not None:
            grid = check_widths_grid(grid, name=f"{of}['widths_grid']")
        return cls(pattern, min_width, divisor, grid)

    def as_dict(self) -> dict[str, Any]:
        """The `changes` that `of` takes, in types of JSON."""
        grid = None if self.grid is None else list(self.grid)
        said = {
            "min_width": self.min_width,
            "divisor": self.divisor,
            "widths_grid": grid,
        }
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True)
class Widths:
    """The widths at which the channels of a model appear.

    The fields are the arguments of a model that concern widths.

    Args:
        min_width: The smallest width, in (0, 1].
        divisor: Size of the blocks in which channels come and go.
        grid: The only widths at which the model changes, ascending from `min_width` to
            1. `None` for all widths.
        staircase: One of `STAIRCASES`; see `channel_grades`.
        stages: Settings of some layers. If several patterns match a layer, the first
            pattern counts.
    """

    min_width: float = 0.25
    divisor: int = 1
    grid: tuple[float, ...] | None = None
    staircase: str = "nested"
    stages: tuple[Stage, ...] = ()

    @classmethod
    def of(
        cls,
        min_width: float | None = None,
        divisor: int = 1,
        widths_grid: Sequence[float] | None = None,
        staircase: str = "nested",
        stages: Stages | None = None,
    ) -> Widths:
        """Checks the arguments of a model.

        Args:
            min_width: See the class. `None` for the first of `widths_grid`, or 0.25
                without a grid.
            divisor: See the class.
            widths_grid: See `grid`.
            staircase: See the class.
            stages: See the class.

        Returns:
            The checked arguments.

        Raises:
            TypeError: If a width is not a number, or if `stages` is not a mapping.
            ValueError: If a width is out of range, if a grid does not ascend to 1, if
                `min_width` is not the first of `widths_grid`, or if a stage has a width
                that is below `min_width` or not in `widths_grid`.
        """
        grid = None if widths_grid is None else check_widths_grid(widths_grid)
        if min_width is None:
            min_width = grid[0] if grid else 0.25
        if grid and min_width != grid[0]:
            raise ArgumentError(
                "`min_width` must be the first of `widths_grid`. Received: "
                f"min_width={min_width}, widths_grid={list(grid)}"
            )
        min_width = check_width(min_width, name="min_width")
        check_staircase(staircase)
        if not isinstance(stages, Mapping | None):
            raise _no_mapping(stages)
        listed = tuple(Stage.of(*item) for item in (stages or {}).items())
        for stage in listed:
            # Below the model's `min_width` nothing runs. Between the widths of its grid
            # all networks are equal. So a stage can only choose among the model's.
            own = {*(stage.grid or ()), *filter(None, [stage.min_width])}
            received = f"Received: stages={{{stage.pattern!r}: {stage.as_dict()}}}"
            if own and min(own) < min_width:
                raise ArgumentError(
                    "A stage's widths must not be below the model's `min_width`. "
                    f"{received}, min_width={min_width}"
                )
            if grid and not own <= set(grid):
                raise ArgumentError(
                    "A stage's widths must be in the model's `widths_grid`. "
                    f"{received}, widths_grid={list(grid)}"
                )
        return cls(min_width, divisor, grid, staircase, listed)

    def stage_of(self, layer: str) -> Stage:
        """The stage of a layer, by the layer's name; without settings if none fits."""
        for stage in self.stages:
            if fnmatch.fnmatchcase(layer, stage.pattern):
                return stage
        return Stage(layer)

    def divisor_of(self, layer: str) -> int:
        """The size of blocks of channels in a layer, by the layer's name."""
        return self.stage_of(layer).divisor or self.divisor

    def grades(self, channels: int, layer: str = "") -> np.ndarray:
        """Grades of a layer's channels; see `channel_grades`.

        Args:
            channels: Number of channels.
            layer: Name of the layer.

        Returns:
            float64 array `(channels,)`.
        """
        stage = self.stage_of(layer)
        return channel_grades(
            channels,
            self.divisor_of(layer),
            self.min_width,
            stage.grid or self.grid,
            self.staircase,
            always_on=stage.min_width or 0.0,
        )

    def check_names(self, names: Collection[str]) -> None:
        """Raises a ValueError if a stage applies to no layer.

        Args:
            names: Names of the layers of a model that make channels.
        """
        # A pattern without a layer is most often a typing error, and training would not
        # show that the stage has no effect.
        decide = {self.stage_of(name).pattern for name in names}
        for stage in self.stages:
            if stage.pattern not in decide:
                raise ArgumentError(
                    "Each pattern of `stages` must match a stem or a Tri layer that no "
                    f"earlier pattern matches, of the layers {sorted(names)}. "
                    f"Received: the pattern {stage.pattern!r}"
                )


def _no_mapping(stages: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        "`stages` must map patterns of layer names to settings, as in "
        f'{{"block_1_*": {{"divisor": 16}}}}. Received: stages={stages!r}'
    )
