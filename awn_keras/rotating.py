"""Rotation of linear bottleneck channels, so that the first channels matter most."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from awn_keras.conversion import Copies, dissolved, is_trained, traced_channels
from awn_keras.data.samples import collect_samples, fitting_arrays
from awn_keras.errors import ArgumentError
from awn_keras.graph import data_tensors, rebuild
from awn_keras.layers.base import TriLayer
from awn_keras.ordering import check_finite
from awn_keras.propagation import Trace
from awn_keras.rules import Labelled, WidthRule, axes_of, mixes_channels, rule_of

#: Lower limit of variances, relative to the largest. Kernels are multiplied by the
#: inverse roots of variances; smaller variances would cost the digits of float32.
_FLOOR = 1e-4


def rotate_channels(
    model: keras.Model,
    samples: Any,
    *,
    batch_size: int = 64,
    readouts: Sequence[str] = (),
    verbose: int = 1,
) -> keras.Model:
    """Copies a trained model and rotates the channels of its linear bottlenecks.

    In a linear bottleneck (MobileNetV2 and V3, EfficientNet) the channels are only
    normalized, added and pooled between the layers that make them and the layers that
    read them. So a matrix can be multiplied to the layers before, and its inverse to
    the layers after, and the model still computes the same outputs. The new channels
    are uncorrelated, of equal size, and ordered by how much the next layers read of
    each. So channels read less from later channels, and `to_any_width` forbids less.

    Other channels do not change. In a ResNet no channel changes, because ReLU acts on
    each channel.

    Args:
        model: A trained functional or Sequential model. It does not change.
        samples: Some hundred inputs, as in training. An array `(n, ...)` is used whole.
            Of a data set, a generator of batches (with or without labels) or a folder
            of photos, at most 300 samples are used.
        batch_size: Number of samples that are computed at once.
        readouts: See `to_any_width`.
        verbose: 1 shows a progress bar, 0 shows nothing.

    Returns:
        A functional `keras.Model` of the same layers, not compiled. Outside training,
        its outputs are those of `model` up to rounding. In training, its bottlenecks
        are normalized in the new directions.

    Raises:
        TypeError: See `to_any_width`.
        ConversionError: See `to_any_width`.
        ValueError: If the model is untrained, has Tri layers or a weight that is not
            finite, or if `samples` do not fit.
        OSError: If `samples` is a folder that is missing or cannot be read.

    Warns:
        UserWarning: If the model has no linear bottleneck.

    Examples:
        >>> import keras
        >>> from awn_keras import rotate_channels, to_any_width
        >>> trained = keras.saving.load_model("mine.keras")  # doctest: +SKIP
        >>> rotated = rotate_channels(trained, "photos")  # doctest: +SKIP
        >>> model = to_any_width(rotated, order="reading")  # doctest: +SKIP

    Reference:
        Ashkboos et al., SliceGPT (2024), section 3.1, which rotates to principal
        components in networks that do not normalize single channels.
    """
    source = dissolved(model)
    _check_can_be_rotated(source)
    copies = Copies(traced_channels(source, readouts), {}, tri=False)
    copy = keras.Model(*rebuild(source, copies.call), name=model.name)
    copies.assign()
    streams = _streams(traced_channels(copy, readouts))
    if not streams:
        warnings.warn(
            f"Model '{model.name}' has no linear bottleneck whose channels can be "
            "rotated. The copy is equal to the model.",
            stacklevel=2,
        )
        return copy
    inputs = fitting_arrays(collect_samples(samples, copy, "samples"), copy, "samples")
    tensors = {
        id(mixer.tensor): mixer.tensor
        for stream in streams
        for mixer in (*stream.makers, *stream.readers)
    }
    moments = _moments(copy, tensors, inputs, batch_size, verbose)
    for stream in streams:
        _rotate(stream, moments)
    return copy


def _check_can_be_rotated(model: keras.Model) -> None:
    if not is_trained(model):
        raise ArgumentError(
            f"`model` must be trained: '{model.name}' has initial weights, which read "
            "all directions alike. Load trained weights first."
        )
    tri = [layer.name for layer in model.layers if isinstance(layer, TriLayer)]
    if tri:
        raise ArgumentError(
            f"`model` must be a plain model: '{model.name}' has Tri layers, such as "
            f"'{tri[0]}', whose channels have a fixed order. Rotate the plain model "
            "first, then convert it."
        )
    check_finite(model.layers)


# ---------------------------------------------------------------- which can be rotated


@dataclass(frozen=True)
class _Mixer:
    """A layer that mixes channels and is called once.

    Args:
        layer: The layer.
        normalization: The BatchNormalization that is the only reader of the layer's
            output, or `None`.
        tensor: The tensor with the rotated channels: the input of a reader, or the
            normalized output of a maker.
    """

    layer: keras.Layer
    normalization: keras.Layer | None
    tensor: Any


@dataclass(frozen=True)
class _Stream:
    """Channels between linear layers: the layers that make and that read them."""

    makers: list[_Mixer] = field(default_factory=list)
    readers: list[_Mixer] = field(default_factory=list)


class _Calls:
    """The calls of a graph, and the calls that read each tensor."""

    def __init__(self, traced: Trace) -> None:
        self.nodes = traced.propagation.nodes
        self.kinds = traced.propagation.kinds
        self.count = Counter(id(node.operation) for node in self.nodes)
        self.following: defaultdict[int, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for x in data_tensors(node):
                self.following[id(x)].append(node)

    def labels(self, x: Any) -> tuple[int, ...]:
        """Labels of a tensor's channels; empty if channels do not come and go."""
        kind = self.kinds[id(x)]
        return tuple(kind.labels.tolist()) if isinstance(kind, Labelled) else ()

    def normalization_after(self, node: Any) -> Any:
        """The call of the BatchNormalization that alone reads a node's output."""
        following = self.following[id(node.outputs[0])]
        if len(following) != 1 or not _is_linear(node.operation):
            return None
        layer = following[0].operation
        is_plain = type(layer) is keras.layers.BatchNormalization
        if is_plain and layer.scale and layer.center and self.count[id(layer)] == 1:
            return following[0]
        return None


def _is_linear(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return activation is None or activation is keras.activations.linear


def _has_one_kernel(layer: Any) -> bool:
    """Whether a layer mixes channels only by a product with a single kernel.

    Recurrent layers also mix their units, and attention has several kernels.
    """
    rule = _rule(layer)
    return len(rule.kernels) == 1 and not rule.recurs


def _streams(traced: Trace) -> list[_Stream]:
    calls = _Calls(traced)
    streams: defaultdict[tuple[int, ...], _Stream] = defaultdict(_Stream)
    known: set[int] = set()  # labels of channels that some layer treats one by one
    normalizing: set[int] = set()  # BatchNormalization that belongs to a mixer
    for node in calls.nodes:
        layer = node.operation
        read = [labels for x in data_tensors(node) if (labels := calls.labels(x))]
        made = calls.labels(node.outputs[0])
        if id(layer) in normalizing:
            continue
        if not mixes_channels(layer):
            # All summands must be rotated together. So a constant, as in `x + 1`, or a
            # tensor of one channel, which is added to all channels, prevents a
            # rotation.
            all_turn = all(calls.labels(x) == made for x in data_tensors(node))
            is_whole = isinstance(layer, keras.Layer) or len(read) == 2
            if not (_rule(layer).alike and all_turn and is_whole):
                known.update(made, *read)
            continue
        after = calls.normalization_after(node)
        if after is not None:
            normalizing.add(id(after.operation))
        normalization = None if after is None else after.operation
        once = calls.count[id(layer)] == 1
        for labels in read:
            if once and _has_one_kernel(layer) and len(_rule(layer).in_axes) == 1:
                (x,) = data_tensors(node)
                streams[labels].readers.append(_Mixer(layer, normalization, x))
            else:
                known.update(labels)
        if made and once and _is_linear(layer) and _has_one_kernel(layer):
            x = (node if after is None else after).outputs[0]
            streams[made].makers.append(_Mixer(layer, normalization, x))
        else:
            known.update(made)
    owners = Counter(label for labels in streams for label in set(labels))
    return [
        stream
        for labels, stream in streams.items()
        if len(set(labels)) == len(labels) > 1
        and known.isdisjoint(labels)
        and all(owners[label] == 1 for label in labels)
        and stream.makers
        and stream.readers
    ]


# ------------------------------------------------------------------------- the basis


def _moments(
    model: keras.Model,
    tensors: Mapping[int, Any],
    inputs: list[np.ndarray],
    batch_size: int,
    verbose: int,
) -> dict[int, np.ndarray]:
    """Covariances `(channels, channels)` of tensors over samples and positions."""
    probe = keras.Model(model.inputs, list(tensors.values()))
    sums = {key: np.zeros(x.shape[-1]) for key, x in tensors.items()}
    squares = {key: np.zeros((x.shape[-1],) * 2) for key, x in tensors.items()}
    counts = dict.fromkeys(tensors, 0)
    starts = range(0, len(inputs[0]), batch_size)
    bar = keras.utils.Progbar(len(starts), verbose=verbose, unit_name="batch")
    for step, start in enumerate(starts):
        batch = [x[start : start + batch_size] for x in inputs]
        outputs = keras.tree.flatten(probe(batch, training=False))
        for key, output in zip(tensors, outputs, strict=True):
            values = keras.ops.convert_to_numpy(output).astype("float64")
            values = values.reshape(-1, values.shape[-1])
            sums[key] += values.sum(axis=0)
            squares[key] += values.T @ values
            counts[key] += len(values)
        bar.update(step + 1)
    return {
        key: squares[key] / counts[key]
        - np.outer(sums[key], sums[key]) / counts[key] ** 2
        for key in tensors
    }


def _rotate(stream: _Stream, covariances: Mapping[int, np.ndarray]) -> None:
    """Rotates a stream, so that the network still computes the same outputs."""
    tensors = {id(reader.tensor) for reader in stream.readers}
    spreads = [covariances[key] for key in tensors]
    sizes = [np.trace(spread) for spread in spreads]
    if min(sizes) <= 0:  # all channels are constant
        return
    covariance = np.mean([c / size for c, size in zip(spreads, sizes, strict=True)], 0)
    variances, axes = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(variances, _FLOOR * variances[-1]))
    root, inverse = (axes * deviations) @ axes.T, (axes / deviations) @ axes.T
    # How much the readers use each direction, after the channels are scaled to unit
    # variance in all directions. Each output channel of a reader counts alike, because
    # normalization makes these channels equal in size.
    read = np.zeros_like(root)
    for reader in stream.readers:
        columns = np.concatenate(list(root @ _kernel(reader.layer)), axis=-1)
        columns = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-30)
        read += columns @ columns.T / columns.shape[1]
    directions = np.linalg.eigh(read)[1][:, ::-1]
    # Keep the total size of the channels: `covariance` has a trace of 1.
    size = np.sqrt(1 / len(root))
    forward, back = size * directions.T @ inverse, root @ directions / size
    for reader in stream.readers:
        _read_rotated(reader, back)
    for maker in stream.makers:
        _make_rotated(maker, forward, covariances[id(maker.tensor)])


def _read_rotated(reader: _Mixer, back: np.ndarray) -> None:
    """Changes a layer that reads `back @ x` to read `x`, with the same outputs."""
    old = _kernel(reader.layer)
    new = back.T @ old
    if reader.normalization is not None:
        # Keep the trained size of the kernel: the effect of a learning rate depends on
        # it.
        scale = _scale(_norms(old), _norms(new))
        new = new * scale
        if reader.layer.use_bias:
            reader.layer.bias.assign(_numpy(reader.layer.bias) * scale)
        _rescale(reader.normalization, scale)
    _assign_kernel(reader.layer, new)


def _rescale(normalization: Any, scale: np.ndarray) -> None:
    """Adapts a BatchNormalization to inputs that are multiplied by a scale."""
    variance, epsilon = _numpy(normalization.moving_variance), normalization.epsilon
    factor = np.sqrt((variance * scale**2 + epsilon) / (variance + epsilon)) / scale
    normalization.gamma.assign(_numpy(normalization.gamma) * factor)
    normalization.moving_mean.assign(_numpy(normalization.moving_mean) * scale)
    normalization.moving_variance.assign(variance * scale**2)


def _make_rotated(maker: _Mixer, forward: np.ndarray, covariance: np.ndarray) -> None:
    """Changes a layer and its normalization to return `forward @ y` instead of `y`."""
    layer, after = maker.layer, maker.normalization
    old = _kernel(layer)
    scale: Any = 1.0
    if after is not None:
        epsilon = after.epsilon
        factor = _numpy(after.gamma) / np.sqrt(_numpy(after.moving_variance) + epsilon)
        forward_of_layer = forward * factor
        new = old @ forward_of_layer.T
        scale = _scale(_norms(old).mean(), _norms(new))
        variance = np.einsum("ij,jk,ik->i", forward, covariance, forward) * scale**2
        mean = forward_of_layer @ _numpy(after.moving_mean)
        after.gamma.assign(np.sqrt(variance + epsilon) / scale)
        after.beta.assign(forward @ _numpy(after.beta))
        after.moving_mean.assign(mean * scale)
        after.moving_variance.assign(variance)
    else:
        forward_of_layer = forward
        new = old @ forward.T
    if layer.use_bias:
        layer.bias.assign(forward_of_layer @ _numpy(layer.bias) * scale)
    _assign_kernel(layer, new * scale)


# ------------------------------------------------------------------------- weights


def _rule(layer: Any) -> WidthRule:
    return rule_of(layer) or WidthRule()


def _numpy(weight: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight).astype("float64")


def _norms(kernel: np.ndarray) -> np.ndarray:
    """Norm of the kernel entries of each output channel, `(out,)`."""
    return np.sqrt(np.square(kernel).sum(axis=(0, 1)))


def _scale(wanted: Any, norms: np.ndarray) -> np.ndarray:
    """Factors that give kernels their wanted norms, `(out,)`.

    Normalization undoes any factor above 0. Kernels that are almost zero get factor 1.
    """
    large = (norms > 1e-12) & (wanted > 1e-12)
    return np.clip(np.where(large, wanted / np.where(large, norms, 1), 1), 1e-3, 1e3)


def _kernel_axes(layer: Any) -> tuple[str, tuple[int, int]]:
    """Name of the kernel that mixes channels, and its input and output axes."""
    (name,), rule = _rule(layer).kernels, _rule(layer)
    (into,), (out,) = axes_of(rule.in_axes[name]), axes_of(rule.out_axes[name])
    return name, (into.axis, out.axis)


def _kernel(layer: Any) -> np.ndarray:
    """The kernel that mixes channels, float64 `(positions, in, out)`."""
    name, axes = _kernel_axes(layer)
    kernel = np.moveaxis(_numpy(getattr(layer, name)), axes, (-2, -1))
    return kernel.reshape(-1, *kernel.shape[-2:])


def _assign_kernel(layer: Any, kernel: np.ndarray) -> None:
    name, axes = _kernel_axes(layer)
    weight = getattr(layer, name)
    positions = weight.shape[:-2]
    new = kernel.reshape(*positions, *kernel.shape[-2:])
    weight.assign(np.moveaxis(new, (-2, -1), axes))
