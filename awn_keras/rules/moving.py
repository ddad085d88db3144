"""Functions of `keras.ops` that take some of the channels, or put them elsewhere.

No value changes, so that labels move as channels do. At a width the operation is told
where the channels are that are left. Each part that is taken has channels at every
width: see `Channels.parted`. So has each part that `pad` puts beside them.
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

#: Gives the labels of an operation's outputs, or `None` for what it cannot do.
Moves = Callable[[LayerCall, np.ndarray], list[np.ndarray] | None]
#: See `WidthRule.resize`.
Resize = Callable[[Any, Flow, np.ndarray], Any]
#: Finds the axes of an input of so many that an operation acts on.
Axes = Callable[[Any, Mapping[str, Any], int], set[int]]


def _axis(operation: Any, constants: Mapping[str, Any], rank: int) -> set[int]:
    if operation.axis is None:
        return set(range(rank))
    return {int(axis) % rank for axis in np.ravel(operation.axis)}


def _register(
    names: str, moves: Moves, resize: Resize | None = None, axes: Axes = _axis
) -> None:
    """Lets operations act on channels, and on positions as those in `operations`."""
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
    """Parts of the channels, if each has some."""
    if not all(len(part) for part in parts):
        return None
    for part in parts:
        call.channels.parted(part)
    return parts


def _place(operation: Any, ends: np.ndarray, place: int) -> int:
    """Where a part ends, of another number of channels."""
    new = round(ends[place])
    if abs(ends[place] - new) > 1e-6:  # sums of quotients
        raise _cannot_widen(operation, ends, f"{place} are {ends[place]:.2f}")
    return new


def _cannot_widen(operation: Any, ends: np.ndarray, what: str) -> ArgumentError:
    return ArgumentError(
        f"Operation '{operation.name}' ({type(operation).__name__}) takes channels "
        f"apart where a wider model has no whole number of them: of {len(ends) - 1} "
        f"channels, which would be {round(ends[-1])}, {what}. Use another "
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
    first = channels - operation.shift % channels  # what comes to the first place
    shift = round(ends[-1]) - _place(operation, ends, first)
    return {"shift": shift}


def _gated(call: LayerCall, labels: np.ndarray) -> list[np.ndarray]:
    """A half times the sigmoid of the other one."""
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
    """Where each part but the first begins."""
    return [_place(operation, ends, part[0]) for part in parts[1:]]


def _split_nearly(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    return _parts(call, np.array_split(labels, call.layer.indices_or_sections))


def _resized_nearly(
    operation: Any, flow: Flow, ends: np.ndarray
) -> Callable[[Any], Any]:
    # The parts that are left may be of other sizes than `array_split` would give.
    parts = np.array_split(np.arange(len(ends) - 1), operation.indices_or_sections)
    starts = _starts(operation, ends, parts)
    return lambda x: keras.ops.split(x, starts, axis=-1)


def _sliced(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    (*_, part) = call.constants["key"]
    if not isinstance(part, slice):
        return None
    step = abs(part.step or 1)
    # Every `step` channels come and go as one, so that it stays every `step`-th.
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
    # A shuffle of groups: first the first of each, then the second of each.
    size = int(indices[1]) if len(indices) > 1 else 1
    groups = channels // size
    sizes = np.diff(ends[::size])
    if not np.array_equal(indices, _shuffle(groups, size)) or np.ptp(sizes) > 1e-6:
        raise _cannot_widen(operation, ends, "`indices` are no shuffle of equal groups")
    return {"indices": _shuffle(groups, count // groups).tolist()}


def _shuffle(groups: int, size: int) -> np.ndarray:
    return np.arange(groups * size).reshape(groups, size).T.ravel()


# ----------------------------------------------------------------- beside, and apart


def _padded(call: LayerCall, labels: np.ndarray) -> list[np.ndarray] | None:
    """Channels that are the same for all inputs, which none of a part makes."""
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
    """What a block of positions has of a channel comes and goes as one."""
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
