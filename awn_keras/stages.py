"""At which widths the channels of a model appear, and stages that differ."""

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

#: What a user may say: for each pattern of names what differs there, as in
#: `{"block_1_*": {"divisor": 16}}`.
Stages = Mapping[str, Mapping[str, Any]]


def literally(name: str) -> str:
    """A pattern that matches a name alone, whatever it holds."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@dataclass(frozen=True)
class Stage:
    """Layers whose channels appear at other widths than a model's others.

    Args:
        pattern: Their names, as a shell would match them: `"block_1_*"`.
        min_width: Channels that are active at this width are on at every width. `None`
            for the model's.
        divisor: Channels come and go in blocks of this size. `None` for the model's.
        grid: The only widths at which the layers change, ascending, the last one 1;
            channels of the first are always on. `None` for the model's.
    """

    pattern: str
    min_width: float | None = None
    divisor: int | None = None
    grid: tuple[float, ...] | None = None

    @classmethod
    def of(cls, pattern: Any, changes: Any) -> Stage:
        """Reads what a user says of a stage.

        Args:
            pattern: See the class.
            changes: `min_width`, `divisor` and `widths_grid`, or some of these.

        Returns:
            The stage.

        Raises:
            TypeError: If one of them is of another type.
            ValueError: If it is out of range, or has another name.
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
        """What `of` reads, in JSON's types."""
        grid = None if self.grid is None else list(self.grid)
        said = {
            "min_width": self.min_width,
            "divisor": self.divisor,
            "widths_grid": grid,
        }
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True)
class Widths:
    """At which widths the channels of a model appear: its arguments as one.

    Args:
        min_width: The smallest width, in (0, 1].
        divisor: Channels come and go in blocks of this size.
        grid: The only widths that are told apart, ascending, from `min_width` to 1.
            `None` for every width.
        staircase: One of `STAIRCASES`; see `channel_grades`.
        stages: What differs for some layers. If several patterns match a layer, the
            first one counts.
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
            min_width: See the class. `None` for the first of `widths_grid`, else 0.25.
            divisor: See the class.
            widths_grid: See `grid`.
            staircase: See the class.
            stages: See the class.

        Returns:
            What they say.

        Raises:
            TypeError: If a width is not a number, or `stages` is no mapping.
            ValueError: If a width is out of range, a grid does not ascend to 1,
                `min_width` is not its first, or a stage has a smaller width, or one
                that is not in the grid.
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
        """What differs for a layer of a name; an empty stage, if nothing does."""
        for stage in self.stages:
            if fnmatch.fnmatchcase(layer, stage.pattern):
                return stage
        return Stage(layer)

    def divisor_of(self, layer: str) -> int:
        """Channels of a block of a layer of a name."""
        return self.stage_of(layer).divisor or self.divisor

    def grades(self, channels: int, layer: str = "") -> np.ndarray:
        """Grades of a layer with so many channels; see `channel_grades`.

        Args:
            channels: Their number.
            layer: The layer's name.

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
        """Raises a ValueError if a stage decides nothing.

        Args:
            names: Names of the layers of a model that make channels.
        """
        decide = {self.stage_of(name).pattern for name in names}
        for stage in self.stages:
            if stage.pattern not in decide:
                raise ArgumentError(
                    "Each pattern of `stages` must match a layer that makes channels "
                    "which come and go (a stem or a Tri layer) and that no earlier "
                    f"pattern matches: {sorted(names)}. Received: the pattern "
                    f"{stage.pattern!r}"
                )


def _no_mapping(stages: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        "`stages` must map patterns of names to what differs there, as in "
        f'{{"block_1_*": {{"divisor": 16}}}}. Received: stages={stages!r}'
    )
