"""Width rules of operations of `keras.ops`, such as the `+` between tensors.

Most operations treat each channel separately. The tables below sort the operations.
Some act on single entries. Others act along certain axes, which the rule made by
`along` checks. Before the readout, an operation may act along rows and cols, but not
along samples, which must stay separate, or channels, which come and go with the width.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from awn_keras.rules.entries import ENTRIES, arrays_within
from awn_keras.rules.kinds import CallSize, Flow, Kind, comes_and_goes
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    accept_activation,
    check_channels_last,
    merge,
    per_sample,
    register_operations,
    rule_of,
)
from awn_keras.rules.shapes import arranged

#: Finds the axes of the first input that a call mixes, moves or drops.
Along = Callable[[LayerCall], set[int]]


# ------------------------------------------------------------------------ each entry


def _element_wise(call: LayerCall) -> Kind:
    """Rule of an operation that computes each entry from the entries at its place."""
    rank = max(map(len, call.input_shapes))
    flow = call.flow(call.kinds, call.kinds[0])
    of_channels = [
        id(array) for array, _ in arrays_of_channels(call.layer, flow).values()
    ]
    for value in [*_constants(call), *arrays_within(call.layer)]:
        shape = np.shape(value)
        has_channels = len(shape) > 0 and shape[-1] != 1
        has_samples = len(shape) > rank or (len(shape) == rank and shape[0] != 1)
        if has_samples or (has_channels and id(value) not in of_channels):
            raise call.error(
                "an array must have one entry for all samples. Along the channels, it "
                "must have one entry, or be an argument by itself with an entry for "
                "each channel. Use a layer instead of the array. Received: an array of "
                f"shape {shape}"
            )
    return merge(call)


def arrays_of_channels(operation: Any, flow: Flow) -> dict[str, tuple[Any, int]]:
    """Finds the arrays in a call that have an entry for each channel.

    An example is an array of position embeddings that is added to a tensor.

    Args:
        operation: Any operation or layer.
        flow: Inputs and outputs of the operation.

    Returns:
        The arrays by the name of their argument, each with the axis that follows the
        channels, as a negative number. Empty for a layer.
    """
    rule, channels = rule_of(operation), flow.output_shape[-1:]
    if rule is None or isinstance(operation, keras.Layer) or channels in ((), (1,)):
        return {}
    if all(shape[-1:] != channels for shape in flow.input_shapes):
        return {}  # the channels come from the array itself, not from an input
    axes: Mapping[str, Any] = rule.in_axes
    if rule.kind is _element_wise:
        axes = dict.fromkeys(flow.constants, -1)
    return {
        name: (array, axes[name])
        for name, array in flow.constants.items()
        if name in axes
        and np.ndim(array) >= -axes[name]
        and np.shape(array)[axes[name]] == channels[0]
    }


def _normalized(call: LayerCall) -> Kind:
    """Rule of `batch_normalization` with constant arrays of statistics."""
    rank = len(call.input_shapes[0])
    if len(call.kinds) > 1 or call.layer.axis % rank != rank - 1:
        raise call.error(
            "`mean`, `variance`, `offset` and `scale` must be arrays with an entry for "
            "each channel, and `axis` must be the axis of the channels. Use "
            "keras.layers.BatchNormalization instead."
        )
    return merge(call)


def _depthwise(call: LayerCall) -> Kind:
    """Rule of a depthwise convolution with a constant kernel, such as a blur."""
    check_channels_last(call)
    kernel = call.constants.get("kernel")
    if kernel is None or np.shape(kernel)[-1] != 1:
        raise call.error(
            "`kernel` must be an array of shape (..., channels, 1). Use "
            "keras.layers.DepthwiseConv2D instead."
        )
    return merge(call)


def _constants(call: LayerCall) -> list[Any]:
    """Arguments that are not tensors of the graph. A list of numbers is an array."""
    arguments = call.node.arguments
    return _without_tensors([*arguments.args, *arguments.kwargs.values()])


def _without_tensors(values: list[Any]) -> list[Any]:
    constants = []
    for value in values:
        parts = keras.tree.flatten(value)
        if not any(isinstance(part, keras.KerasTensor) for part in parts):
            constants.append(value)
        elif isinstance(value, list | tuple):
            constants += _without_tensors(list(value))
    return constants


def _depthwise_macs(operation: Any, size: CallSize) -> Any:
    *window, _, _ = size.named_shapes["kernel"]
    return size.output_positions * math.prod(window) * size.outputs


# ------------------------------------------------------------------- along some axes


def along(axes: Along) -> Callable[[LayerCall], Kind]:
    """Makes the rule of an operation that may act only along rows and cols.

    Args:
        axes: Function that returns the axes along which a call acts.

    Returns:
        The `kind` of a `WidthRule`.
    """

    def kind(call: LayerCall) -> Kind:
        check_channels_last(call)
        shape = call.input_shapes[0]
        wrong = axes(call) & {0, len(shape) - 1}
        if wrong:
            names = {0: "the samples", len(shape) - 1: "the channels"}
            raise call.error(
                f"acts on {' and '.join(names[axis] for axis in sorted(wrong))} of an "
                f"input of shape {shape}. Before the readout, an operation may act "
                "along rows and cols only, because samples must stay separate, and "
                "channels come and go with the width. Put the operation after the "
                f"readout.{_gate(call, wrong)}"
            )
        return merge(call)

    return kind


def _gate(call: LayerCall, axes: set[int]) -> str:
    """The way out for a spatial gate that reads all channels; empty for other calls."""
    shape = call.input_shapes[0]
    if axes != {len(shape) - 1} or call.output_shape != (*shape[:-1], 1):
        return ""
    return ' For a gate use Conv2D(1, 7, padding="same", activation="sigmoid").'


def _all_axes(call: LayerCall) -> set[int]:
    return set(range(len(call.input_shapes[0])))


def _axes_of(call: LayerCall, axes: Any, rank: int | None = None) -> set[int]:
    if axes is None:
        return _all_axes(call)
    rank = len(call.input_shapes[0]) if rank is None else rank
    return {int(axis) % rank for axis in np.ravel(axes)}


def _axis(call: LayerCall) -> set[int]:
    """The axes in the argument `axis` or `axes`. `None` stands for all axes."""
    operation = call.layer
    return _axes_of(
        call, operation.axis if hasattr(operation, "axis") else operation.axes
    )


def _quantile(call: LayerCall) -> set[int]:
    # Several quantiles add a first axis, which takes the place of the samples.
    several = any(np.ndim(value) for value in _constants(call))
    return _axis(call) | ({0} if several else set())


def _fixed_axis(axis: int) -> Along:
    return lambda _: {axis}


def _two_axes(call: LayerCall) -> set[int]:
    return _axes_of(call, (call.layer.axis1, call.layer.axis2))


def _inserted(call: LayerCall) -> set[int]:
    """The old axes that a new axis would displace: 0, the last, or neither."""
    rank, new_rank = len(call.input_shapes[0]), len(call.output_shape)
    places = _axes_of(call, call.layer.axis, new_rank)
    # A new last axis takes the place of the channels, which were the last axis.
    return ({0} & places) | ({rank - 1} if new_rank - 1 in places else set())


def _squeezed(call: LayerCall) -> set[int]:
    if call.layer.axis is not None:
        return _axis(call)
    return {axis for axis, size in enumerate(call.input_shapes[0]) if size == 1}


def _moved(call: LayerCall) -> set[int]:
    # NumPy moves the axes of an array whose axis `i` has `i + 1` entries. So the new
    # shape tells where each axis went, whatever signs or lists the arguments use.
    operation, axes = call.layer, np.arange(len(call.input_shapes[0]))
    shape = np.empty(np.arange(1, len(axes) + 1))
    name = type(operation).__name__
    if name == "Transpose":
        shape = np.transpose(shape, operation.axes)
    elif name == "Moveaxis":
        shape = np.moveaxis(shape, operation.source, operation.destination)
    else:
        shape = np.swapaxes(shape, operation.axis1, operation.axis2)
    return {axis for axis in axes.tolist() if shape.shape[axis] != axis + 1}


def padded_axes(operation: Any, rank: int) -> set[int]:
    """The axes that a `Pad` makes longer, for an input with `rank` axes."""
    widths = np.broadcast_to(np.asarray(operation.pad_width), (rank, 2))
    return {axis for axis in range(rank) if widths[axis].any()}


def tiled_axes(operation: Any, rank: int) -> set[int]:
    """The axes that a `Tile` repeats, for an input with `rank` axes."""
    repeats = np.ravel(operation.repeats).tolist()
    if len(repeats) > rank:
        return {0}
    first = rank - len(repeats)
    return {first + i for i, repeat in enumerate(repeats) if repeat != 1}


def indexed_axes(key: Any, rank: int) -> set[int]:
    """Axes of `x` from which `x[key]` takes a part, or next to which it adds an axis.

    Args:
        key: The key. In a model from a file, lists replace tuples.
        rank: Number of axes of `x`.
    """
    keys = list(key) if isinstance(key, tuple | list) else [key]
    if not all(_is_plain_index(part) for part in keys):
        return set(range(rank))
    used = sum(part is not None and part is not Ellipsis for part in keys)
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    axis, touched = 0, set()
    for part in keys:
        if part is Ellipsis:
            axis += rank - used
        elif part is None:
            touched |= {0} if axis == 0 else {rank - 1} if axis == rank else set()
        else:
            if part != slice(None):
                touched.add(axis)
            axis += 1
    return touched


def _is_plain_index(part: Any) -> bool:
    if part is None or part is Ellipsis:
        return True
    parts = (part.start, part.stop, part.step) if isinstance(part, slice) else (part,)
    return all(each is None or isinstance(each, int | np.integer) for each in parts)


def _sliced(call: LayerCall) -> set[int]:
    sizes = call.layer.shape
    shape = call.input_shapes[0]
    return {
        i for i, (new, old) in enumerate(zip(sizes, shape, strict=True)) if new != old
    }


def _crossed(call: LayerCall) -> set[int]:
    operation = call.layer
    return _axes_of(call, (operation.axisa, operation.axisb, operation.axisc))


def _spatial(axes: int) -> Along:
    """Finds no axis for an input with `axes` axes, as `(batch, rows, cols, channels)`.

    An input with another number of axes, such as an image without a batch, is reported
    to act on the samples.
    """

    def along(call: LayerCall) -> set[int]:
        return set() if len(call.input_shapes[0]) == axes else {0}

    return along


# ----------------------------------------------------------------------------- shape


def _reshape(call: LayerCall) -> Kind:
    old, new = call.input_shapes[0][1:], tuple(call.layer.newshape)
    sizes = math.prod(new[1:]), math.prod(n or 0 for n in old)
    same_batch = new[0] in (-1, call.input_shapes[0][0])
    if not same_batch or (-1 not in new[1:] and sizes[0] != sizes[1]):
        raise call.error(
            "must keep the samples separate. Begin `newshape` with -1. The product of "
            "the other sizes must be the number of entries of a sample. Received: "
            f"newshape={new} for an input of shape {call.input_shapes[0]}"
        )
    return arranged(call)


def resized(
    operation: Any,
    flow: Flow,
    ends: Callable[[], np.ndarray],
    sources: Callable[[], np.ndarray],
) -> Callable[..., Any]:
    """Returns an operation for another number of channels.

    Args:
        operation: An operation of `keras.ops`.
        flow: Inputs and outputs of the operation.
        ends: Function that returns the `ends` for `WidthRule.resize`. It is called only
            if the output has channels that come and go, because a scalar has no
            channels.
        sources: Function that returns `Flow.sources`. It is called under the condition
            of `ends`.

    Returns:
        A function with the arguments of the operation: the operation itself, unless its
        arguments, or those of its call, depend on the number or places of channels.
    """
    if not comes_and_goes(flow.output):
        return operation
    resize = (rule_of(operation) or WidthRule()).resize
    arrays = arrays_of_channels(operation, flow)
    if resize is not None:
        changes = resize(operation, replace(flow, sources=sources()), ends())
    elif arrays:
        # `sources` holds the old place of each channel of the new size.
        changes = {
            name: np.take(keras.ops.convert_to_numpy(array), sources(), axis)
            for name, (array, axis) in arrays.items()
        }
    else:
        return operation
    if not isinstance(changes, dict):
        return changes
    signature = inspect.signature(operation.call)
    of_call = {
        name: changes.pop(name) for name in signature.parameters & changes.keys()
    }
    if changes:
        operation = type(operation).from_config({**operation.get_config(), **changes})

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update(of_call)
        return operation(*bound.args, **bound.kwargs)

    return call


def _resized_shape(operation: Any, flow: Flow, ends: np.ndarray) -> dict[str, Any]:
    *others, last = operation.newshape
    # The last axis may hold several channels of the input, or a part of them.
    left = last if last == -1 else last * round(ends[-1]) // flow.input_shapes[0][-1]
    return {"newshape": (*others, left)}


# ----------------------------------------------------------------------------- tables

_LINEAR = ("Add", "Subtract")
#: Operations on single entries. Their second argument is a table for all entries, so
#: its size has nothing to do with the channels.
_LOOKED_UP = "Digitize IsIn"
_OF_AXIS = (
    "All Amax Amin Any Append Argmax Argmin Argpartition Argsort "
    "Average CountNonzero Cumprod Cumsum Diff LayerNorm LogSoftmax "
    "Logsumexp Max Median Min Moments Nanargmax Nanargmin Nancumprod Nancumsum "
    "Nanmax Nanmean Nanmedian Nanmin Nanprod Nanstd Nansum Nanvar Norm Normalize "
    "Prod Ptp RMSNorm Softmax Sort Sparsemax Std Trapezoid Unstack Var"
)
#: Linear operations along an axis.
_LINEAR_OF_AXIS = "Mean Sum"
_ALONG: dict[str, Along] = {
    _OF_AXIS: _axis,
    "Nanpercentile Nanquantile Percentile Quantile": _quantile,
    "ExpandDims Stack": _inserted,
    "Cross": _crossed,
    "Squeeze": _squeezed,
    "Moveaxis Swapaxes Transpose": _moved,
    "Slice": _sliced,
    "Rot90": _axis,
    "Trace": _two_axes,
    "Flipud Vsplit Vstack": _fixed_axis(0),
    "Fliplr Hsplit Hstack": _fixed_axis(1),
    "Dsplit": _fixed_axis(2),
    "Dstack": lambda call: {2 if len(call.input_shapes[0]) > 2 else 0},
    "AffineTransform CropImages GaussianBlur PadImages": _spatial(4),
    "PerspectiveTransform Resize": _spatial(4),
    "AdaptiveAveragePool AdaptiveMaxPool AveragePool MaxPool": lambda _: set(),
}
#: Operations that mix channels, or whose outputs cannot be traced to certain entries.
_MIXING = (
    "BroadcastTo CTCDecode CTCLoss CategoricalCrossentropy Cholesky Conv "
    "ConvTranspose Det Diag Diagonal Dot "
    "DotProductAttention Einsum ExtractPatches ExtractSequences FFT FFT2 Fold "
    "HSVToRGB IFFT2 IRFFT ISTFT InTopK Inner Inv Kron Logdet Matmul MultiHot "
    "OneHot Outer PSNR RFFT RGBToGrayscale RGBToHSV Ravel SSIM STFT SVD "
    "ScaleAndTranslate SeparableConv SobelEdges Solve "
    "SparseCategoricalCrossentropy Tensordot TopK Tril Triu Unfold"
)


def _function_of(name: str) -> Any:
    """The function of `keras.ops` for the name of a class of operations, or `None`."""
    letters = [f"_{c.lower()}" if c.isupper() else c for c in name]
    return getattr(keras.ops, "".join(letters).lstrip("_"), None)


def _register(names: str, kind: Callable[[LayerCall], Kind], **traits: Any) -> None:
    register_operations(names, WidthRule(kind, **traits))


_register(" ".join(sorted(ENTRIES - {*_LINEAR})), _element_wise)
_register(" ".join(_LINEAR), _element_wise, alike=True)
_register(_LOOKED_UP, merge)
for _names, _along_axes in _ALONG.items():
    _register(_names, along(_along_axes))
_register(_LINEAR_OF_AXIS, along(_axis), alike=True)
_register("Linspace", along(_inserted), in_axes={"start": -1, "stop": -1})
_register("TakeAlongAxis", along(_axis), in_axes={"indices": -1})
_register(
    "BatchNorm",
    _normalized,
    in_axes=dict.fromkeys(("mean", "variance", "offset", "scale"), -1),
)
_register("DepthwiseConv", _depthwise, in_axes={"kernel": -2}, macs=_depthwise_macs)
_register("Reshape", _reshape, resize=_resized_shape)
_register(_MIXING, per_sample)
for _name in ENTRIES:
    if (_function := _function_of(_name)) is not None:
        accept_activation(_function)
