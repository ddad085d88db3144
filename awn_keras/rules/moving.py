"""Width rules of functions of `keras.ops` that take or move channels.

No value changes, so labels move as channels do. At a width, the arguments of the
operation change to the places of the active channels. Each part that is taken has
active channels at every width (see `Channels.parted`), and so has each part that `pad`
adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.rules.kinds import Flow, Kind, Labelled
from awn_keras.rules.operations import along, indexed_axes, padded_axes, tiled_axes
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    check_channels_last,
    register_operations,
)
from awn_keras.rules.shapes import arranged

#: Function that returns the labels of an operation's outputs, or `None` if there is no
#: rule for the call.
Moves = Callable[[LayerCall, np.ndarray], list[np.ndarray] | None]
#: See `WidthRule.resize`.
Resize = Callable[[Any, Flow, np.ndarray], Any]
#: Function that finds the axes on which an operation acts, from the operation, the
#: constants of its call, and the number of axes of its input.
Axes = Callable[[Any, Mapping[str, Any], int], set[int]]


def _axis(operation: Any, constants: Mapping[str, Any], rank: int) -> set[int]:
    if operation.axis is None:
        return set(range(rank))
    return {int(axis) % rank for axis in np.ravel(operation.axis)}


def _register(
    names: str, moves: Moves, resize: Resize | None = None, axes: Axes = _axis
) -> None:
    """Registers operations that may act on channels or on positions."""
    keeps_channels = along(
        lambda call: axes(call.layer, call.constants, len(call.input_shapes[0]))
    )

    def kind(call: LayerCall) -> Kind | list[Kind]:
        rank = len(call.input_shapes[0])
        touched = axes(call.layer, call.constants, rank) & {0, rank - 1}
        if touched == {rank - 1} and len(call.kinds) == 1:
            outputs = moves(call, call.labels())
            if outputs is not None:
                return [Labelled(labels) for labels in outputs]
        return keeps_channels(call)

    def of_channels(operation: Any, flow: Flow, ends: np.ndarray) -> Any:
        rank = len(flow.input_shapes[0])
        touched = rank - 1 in axes(operation, flow.constants, rank)
        return resize(operation, flow, ends) if resize and touched else {}

    rule = WidthRule(kind, apart=True, resize=of_channels if resize else None)
    register_operations(names, rule)


def _parts(call: LayerCall, parts: list[np.ndarray]) -> list[np.ndarray] | None:
    """The parts of the channels; `None` if a part has no channels."""
    if not all(len(part) for part in parts):
        return None
    for part in parts:
        call.channels.parted(part)
    return parts


def _place(operation: Any, ends: np.ndarray, place: int) -> int:
    """The end of a part, for another number of channels."""
    new = round(ends[place])
    if abs(ends[place] - new) > 1e-6:  # `ends` are sums of quotients, not exact
        raise _cannot_widen(
            operation, ends, f"its first {place} would be {ends[place]:.2f}"
        )
    return new


def _cannot_widen(operation: Any, ends: np.ndarray, what: str) -> ArgumentError:
    return ArgumentError(
        f"Operation '{operation.name}' ({type(operation).__name__}) splits channels "
        "at places that a wider model does not have. With "
        f"{round(ends[-1])} channels instead of {len(ends) - 1}, {what}. Use another "
        "`width_multiplier` (or `factor` of `grow`), such as 2."
    )


# ------------------------------------------------------------------------- the whole


def _flipped(call: LayerCall, labels: np.ndarray) -> list[np.ndarray]:
    return [labels[::-1]]


def _repeated(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    repeats = np.ravel(call.layer.repeats)
    return [np.repeat(labels, repeats)] if len(repeats) == 1 else None


def _tiled(call: LayerCall, labels: np.ndarray) -> list[np.ndarray]:
    return [np.tile(labels, np.ravel(call.layer.repeats)[-1])]


def _rolled(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    if np.ndim(call.layer.shift) or np.ndim(call.layer.axis):
        return None
    return [np.roll(labels, call.layer.shift)]


def _resized_roll(operation: Any, flow: Flow, ends: np.ndarray) -> dict[str, Any]:
    channels = len(ends) - 1
    first = channels - operation.shift % channels  # the channel that becomes the first
    shift = round(ends[-1]) - _place(operation, ends, first)
    return {"shift": shift}


def _gated(call: LayerCall, labels: np.ndarray) -> list[np.ndarray]:
    """One half of the channels times the sigmoid of the other half."""
    half, gates = np.split(labels, 2)
    call.channels.join(half, gates)
    return [half]


# -------------------------------------------------------------------------- the parts


def _split(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    return _parts(call, np.split(labels, call.layer.indices_or_sections))


def _resized_split(operation: Any, flow: Flow, ends: np.ndarray) -> dict[str, Any]:
    parts = np.split(np.arange(len(ends) - 1), operation.indices_or_sections)
    return {"indices_or_sections": _starts(operation, ends, parts)}


def _starts(operation: Any, ends: np.ndarray, parts: list[np.ndarray]) -> list[int]:
    """The first channel of each part, except of the first part."""
    return [_place(operation, ends, part[0]) for part in parts[1:]]


def _split_nearly(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    return _parts(call, np.array_split(labels, call.layer.indices_or_sections))


def _resized_nearly(
    operation: Any, flow: Flow, ends: np.ndarray
) -> Callable[[Any], Any]:
    # The active channels of the parts may have other sizes than `array_split` gives.
    parts = np.array_split(np.arange(len(ends) - 1), operation.indices_or_sections)
    starts = _starts(operation, ends, parts)
    return lambda x: keras.ops.split(x, starts, axis=-1)


def _sliced(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    (*_, part) = call.constants["key"]
    if not isinstance(part, slice):
        return None
    step = abs(part.step or 1)
    # Each window of `step` channels comes and goes together, so that the slice still
    # takes every `step`-th channel.
    for first in range(0, len(labels), step):
        window = labels[first : first + step]
        call.channels.join(np.full_like(window, window[0]), window)
    return _parts(call, [labels[part]])


def _resized_slice(operation: Any, flow: Flow, ends: np.ndarray) -> dict[str, Any]:
    *others, part = flow.constants["key"]
    taken = range(*part.indices(len(ends) - 1))
    step = abs(taken.step)
    first, last = min(taken), max(taken)
    before = _place(operation, ends, first - first % step) + first % step
    after = _place(operation, ends, min(last - last % step + step, len(ends) - 1))
    left = slice(before, after, step)
    if taken.step < 0:
        last = range(before, after, step)[-1]
        left = slice(last, before - 1 if before else None, -step)
    return {"key": (*others, left)}


def _taken(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    numbers = _numbers(call.constants["indices"], len(labels))
    if numbers.ndim != 1 or len(set(numbers.tolist())) != len(numbers):
        return None
    return _parts(call, [labels[numbers]])


def _numbers(indices: Any, channels: int) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(indices), int) % channels


def _resized_take(operation: Any, flow: Flow, ends: np.ndarray) -> dict[str, Any]:
    channels, count = len(ends) - 1, round(ends[-1])
    indices = _numbers(flow.constants["indices"], channels)
    is_there = np.diff(ends)
    if np.isin(is_there, (0, 1)).all():
        left = ends[indices[is_there[indices] == 1]]
        return {"indices": left.astype(int).tolist()}
    # In a shuffle, the first channel of each group comes first, then the second of each
    # group, and so on.
    size = int(indices[1]) if len(indices) > 1 else 1
    groups = channels // size
    sizes = np.diff(ends[::size])
    if not np.array_equal(indices, _shuffle(groups, size)) or np.ptp(sizes) > 1e-6:
        raise _cannot_widen(operation, ends, "`indices` do not shuffle equal groups")
    return {"indices": _shuffle(groups, count // groups).tolist()}


def _shuffle(groups: int, size: int) -> np.ndarray:
    return np.arange(groups * size).reshape(groups, size).T.ravel()


# --------------------------------------------------------- padding and depth to space


def _padded(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    """Adds constant channels before and after the channels."""
    if call.layer.mode != "constant":
        return None
    before, after = (call.channels.constant(n) for n in call.layer.pad_width[-1])
    for part in (before, after):
        if len(part):
            call.channels.parted(part)
    return [np.concatenate([before, labels, after])]


def _resized_pad(operation: Any, flow: Flow, ends: np.ndarray) -> dict[str, Any]:
    *others, (before, _) = operation.pad_width
    first = int((flow.sources < before).sum())
    last = len(flow.sources) - first - round(ends[-1])
    return {"pad_width": (*others, (first, last))}


def _from_depth(call: LayerCall) -> Kind:
    """All channels that hold a block of positions of one channel appear together."""
    check_channels_last(call)
    return arranged(call)


_register("Split", _split, _resized_split)
_register("ArraySplit", _split_nearly, _resized_nearly)
_register("Flip", _flipped)
_register("Glu", _gated)
_register("Repeat", _repeated)
_register("Roll", _rolled, _resized_roll)
_register("Take", _taken, _resized_take)
_register(
    "GetItem",
    _sliced,
    _resized_slice,
    lambda _, constants, rank: indexed_axes(constants["key"], rank),
)
_register(
    "Pad",
    _padded,
    _resized_pad,
    lambda operation, _, rank: padded_axes(operation, rank),
)
register_operations("DepthToSpace SpaceToDepth", WidthRule(_from_depth, apart=True))
_register("Tile", _tiled, axes=lambda operation, _, rank: tiled_axes(operation, rank))
