"""Runs a plain functional model with its weights sliced to a width.

The level (the number of the network, from the narrowest on) is a tensor, so one traced
graph runs every width. The slices really get smaller at narrow widths, and so does the
work. This needs shapes that are known only at run time, which only TensorFlow supports.
On other backends the package can be imported, but its models raise an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from awn_keras.environment import check_runs_on_tensorflow
from awn_keras.errors import UnsupportedError
from awn_keras.graph import replay
from awn_keras.multi_width import MultiWidthModel
from awn_keras.propagation import Propagation, inner_mixers, propagate
from awn_keras.rules import Flow, Graded, WidthRule, arrays_of_channels, rule_of
from awn_keras.slices import along, channel_axes, sides
from awn_keras.stages import Widths

if keras.backend.backend() == "tensorflow":  # elsewhere `SlicedModel` refuses
    import tensorflow as tf

_L = keras.layers
_STATISTICS = ("moving_mean", "moving_variance")


# ------------------------------------------------------------------- cutting arrays


def _runs(levels: np.ndarray) -> list[np.ndarray]:
    """Cuts an array into parts that do not descend."""
    return np.split(levels, np.flatnonzero(np.diff(levels) < 0) + 1)


def active_part(value: Any, axis: int, levels: np.ndarray, level: Any) -> Any:
    """Keeps the entries of a tensor that are active at a level.

    Args:
        value: A tensor.
        axis: Axis to cut.
        levels: Integer array `(size of the axis,)`: the smallest level at which each
            entry is active.
        level: Scalar integer tensor.

    Returns:
        The tensor with the active entries of the axis, in their order.
    """
    if not levels.any():
        return value
    axis %= len(value.shape)
    runs = _runs(levels)
    before = (slice(None),) * axis
    count = tf.math.count_nonzero(runs[0] <= level, dtype="int32")
    if len(runs) == 1:
        return value[(*before, slice(count))]
    if len({run.tobytes() for run in runs}) == 1:
        # Flattened positions all have equal channels, so one slice cuts all of them.
        shape = list(value.shape)
        split = (*shape[:axis], len(runs), len(runs[0]), *shape[axis + 1 :])
        kept = tf.reshape(value, split)[(*before, slice(None), slice(count))]
        return tf.reshape(kept, (*shape[:axis], -1, *shape[axis + 1 :]))
    parts = tf.split(value, [len(run) for run in runs], axis=axis)
    return tf.concat(
        [
            active_part(part, axis, run, level)
            for part, run in zip(parts, runs, strict=True)
        ],
        axis=axis,
    )


def put_back(whole: Any, part: Any, levels: np.ndarray, level: Any) -> Any:
    """Replaces the active entries of a vector.

    Args:
        whole: Tensor `(n,)`.
        part: Tensor with the new active entries, in the order of `active_part`.
        levels: Integer array `(n,)`; see `active_part`.
        level: Scalar integer tensor.

    Returns:
        Tensor `(n,)`.
    """
    return tf.tensor_scatter_nd_update(whole, tf.where(levels <= level), part)


# -------------------------------------------------------------------- layers, sliced


@dataclass
class Pass:
    """One run of a sliced model.

    Args:
        level: Scalar int32 tensor.
        training: Whether layers are in training mode.
        batch_statistics: A dict that gets mean and variance of the batch for each
            BatchNormalization, by `id` of the layer. The layers then use batch
            statistics and do not update moving statistics. `None` for a normal run.
    """

    level: Any
    training: bool | None
    batch_statistics: dict[int, Any] | None = None


@dataclass(frozen=True)
class _Call:
    """A call of a layer in a sliced model, with its sliced weights by name."""

    layer: Any
    weights: dict[str, Any] = field(default_factory=dict)

    def finish(self, x: Any) -> Any:
        """Adds the bias and applies the activation."""
        if "bias" in self.weights:
            x = x + keras.ops.cast(self.weights["bias"], x.dtype)
        return x if self.layer.activation is None else self.layer.activation(x)

    def kernel(self, x: Any) -> tuple[Any, Any]:
        """Input and kernel in the layer's compute dtype."""
        dtype = self.layer.compute_dtype
        return keras.ops.cast(x, dtype), keras.ops.cast(self.weights["kernel"], dtype)


def _convolution(call: _Call, x: Any) -> Any:
    return call.finish(call.layer.convolution_op(*call.kernel(x)))


def _dense(call: _Call, x: Any) -> Any:
    return call.finish(keras.ops.matmul(*call.kernel(x)))


def _depthwise(call: _Call, x: Any) -> Any:
    layer = call.layer
    return call.finish(
        keras.ops.depthwise_conv(
            *call.kernel(x),
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
    )


def _flatten(call: _Call, x: Any) -> Any:
    return tf.reshape(x, (tf.shape(x)[0], -1))


_RUNNERS: dict[type, Callable[[_Call, Any], Any]] = {
    _L.Conv1D: _convolution,
    _L.Conv2D: _convolution,
    _L.Conv3D: _convolution,
    _L.Dense: _dense,
    _L.DepthwiseConv1D: _depthwise,
    _L.DepthwiseConv2D: _depthwise,
    _L.Flatten: _flatten,
}


# ------------------------------------------------------------------------- the model


class SlicedModel(MultiWidthModel):
    """A plain functional model, run at a width by slicing its weights.

    Layers between an input and a readout are ordinary layers, so the value of a
    channel, and its batch statistics, depend on the width. Subclasses choose the
    weights and statistics of a BatchNormalization at a width (`_normalization`,
    `_track`).

    Each width of a training step runs separately, forward and backward. So training
    logs hold metrics at only one width: the largest width that every step trains, or
    the first drawn width if all widths are drawn.

    Args:
        inputs: `keras.Input`, or a structure of them.
        outputs: Tensors computed from `inputs` by stock layers.
        name: Name of the model.
        min_width: Smallest width in (0, 1]. `None` for 0.25.
        divisor: Size of the blocks in which channels come and go.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, or if the model's graph does not
            fit.
        NotImplementedError: If a layer cannot be sliced, or if Keras does not run on
            TensorFlow.
    """

    shares_features = False

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        min_width: float | None = None,
        divisor: int = 1,
        **kwargs: Any,
    ) -> None:
        _check_backend(type(self))
        super().__init__(
            inputs,
            outputs,
            name,
            min_width=min_width,
            divisor=divisor,
            staircase="paper",  # without triangles, all active channels read a channel
            **kwargs,
        )
        for node in self.propagation.nodes:
            _check_can_be_sliced(node.operation, self.propagation.flows[id(node)])

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes the model that a config describes; see `keras.Model.from_config`.

        Raises:
            NotImplementedError: If Keras does not run on TensorFlow.
        """
        _check_backend(cls)  # before Keras makes layers, with a less clear error
        return super().from_config(config, custom_objects)

    def _propagate(self, widths: Widths) -> Propagation:
        return propagate(self, widths, as_tri=inner_mixers(self))

    def get_config(self) -> dict[str, Any]:
        """Returns the functional model's config and the widths' arguments."""
        config = super().get_config()
        unused = ("widths_grid", "staircase", "stages")
        return {name: value for name, value in config.items() if name not in unused}

    # ----------------------------------------------------------------- running

    def _features(self, inputs: Any, training: bool | None) -> Any:
        return inputs  # widths share no computation

    def _outputs_at(self, levels: Any, features: Any, training: bool | None) -> Any:
        return [
            self._run(Pass(levels[index], training), features)
            for index in range(levels.shape[0])
        ]

    def _run(self, run: Pass, inputs: Any) -> Any:
        """Runs the model at one level.

        Returns:
            The outputs, in the structure of `self.output`.
        """
        tensors = {
            id(x): keras.ops.convert_to_tensor(value)
            for x, value in zip(self.inputs, keras.tree.flatten(inputs), strict=True)
        }

        def call(node: Any, *args: Any, **kwargs: Any) -> Any:
            layer, flow = node.operation, self.propagation.flows[id(node)]
            if _is_normalization(layer) and isinstance(flow.output, Graded):
                return self._normalize(run, layer, flow, args[0])
            runner = _RUNNERS.get(type(layer))
            if runner is not None:
                weights = self._cut_weights(layer, flow, run.level)
                return runner(_Call(layer, weights), *args)
            if getattr(layer, "_call_has_training_arg", False):
                kwargs["training"] = run.training
            return layer(*args, **kwargs)

        replay(self.propagation.nodes, tensors, call)
        return keras.tree.map_structure(lambda x: tensors[id(x)], self.output)

    def _cut_weights(self, layer: Any, flow: Flow, level: Any) -> dict[str, Any]:
        followed = sides(layer, flow)
        cuts = {}
        for weight in layer.weights:
            value = keras.ops.convert_to_tensor(weight)
            for axes, grades in followed:
                for axis, entries in channel_axes(weight, axes, len(grades)):
                    levels = along(entries, self.networks.level_of(grades))
                    value = active_part(value, axis, levels, level)
            cuts[weight.name] = value
        return cuts

    # ----------------------------------------------------------- normalization

    def _normalization(self, layer: Any, run: Pass) -> dict[str, Any]:
        """The weights of a BatchNormalization at a level by name, for all channels."""
        return {w.name: keras.ops.convert_to_tensor(w) for w in layer.weights}

    def _track(self, layer: Any, level: Any, statistics: dict[str, Any]) -> None:
        """Assigns new moving statistics of a BatchNormalization, for all channels."""
        for name, value in statistics.items():
            getattr(layer, name).assign(value)

    def _normalize(self, run: Pass, layer: Any, flow: Flow, x: Any) -> Any:
        levels = self.networks.level_of(flow.grades()[0])
        whole = self._normalization(layer, run)
        numbers = {
            k: active_part(value, 0, levels, run.level) for k, value in whole.items()
        }
        # A calibration collects batch statistics and must not change moving statistics.
        measures = run.batch_statistics is not None
        tracks = bool(run.training and layer.trainable and not measures)
        y, mean, variance = _normalized(layer, numbers, x, tracks or measures)
        if run.batch_statistics is not None:
            run.batch_statistics[id(layer)] = (mean, variance)
        if tracks:
            moved = {
                name: layer.momentum * numbers[name]
                + (1 - layer.momentum) * tf.stop_gradient(new)
                for name, new in zip(_STATISTICS, (mean, variance), strict=True)
            }
            self._track(
                layer,
                run.level,
                {
                    name: put_back(whole[name], value, levels, run.level)
                    for name, value in moved.items()
                },
            )
        return keras.ops.cast(y, layer.compute_dtype)

    def weight_values(self, layer: keras.Layer, width: float) -> list[np.ndarray]:
        """Returns a layer's weights; of a BatchNormalization, its weights at a width.

        Args:
            layer: A layer of the model.
            width: Width in [min_width, 1].

        Returns:
            An array for each of `layer.weights`.
        """
        if not _is_normalization(layer):
            return super().weight_values(layer, width)
        run = Pass(tf.constant(self.networks.level_of(width)), training=False)
        numbers = self._normalization(layer, run)
        return [keras.ops.convert_to_numpy(numbers[w.name]) for w in layer.weights]

    @property
    def _normalizations(self) -> list[Any]:
        """Each BatchNormalization whose channels come and go, once."""
        flows = self.propagation.flows
        return list(
            {
                id(node.operation): node.operation
                for node in self.propagation.nodes
                if _is_normalization(node.operation)
                and isinstance(flows[id(node)].output, Graded)
            }.values()
        )


class Statistics(keras.layers.Layer):
    """Weights of a BatchNormalization for several widths, with a row for each width.

    Args:
        normalization: The built BatchNormalization.
        rows: Number of rows.
        names: Names of the weights.
        name: Name of this layer.
    """

    def __init__(
        self, normalization: Any, rows: int, names: tuple[str, ...], name: str
    ) -> None:
        super().__init__(name=name, trainable=normalization.trainable)
        for weight in normalization.weights:
            if weight.name in names:
                variable = self.add_weight(
                    shape=(rows, *weight.shape),
                    initializer=getattr(normalization, f"{weight.name}_initializer"),
                    regularizer=weight.regularizer,
                    trainable=weight.trainable,
                    autocast=False,
                    name=weight.name,
                )
                setattr(self, weight.name, variable)
        self.built = True

    def of_row(self, row: Any) -> dict[str, Any]:
        """The weights of one width by name."""
        return {w.name: tf.gather(w.value, row) for w in self.weights}


def _normalized(
    layer: Any, numbers: dict[str, Any], x: Any, by_batch: bool
) -> tuple[Any, Any, Any]:
    """Output of a BatchNormalization, and the mean and variance that it uses."""
    # The statistics of a batch need float32 in mixed precision, too.
    x = keras.ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    if by_batch and len(x.shape) == 4 and x.dtype == "float32":
        return normalized_by_batch(x, numbers, layer.epsilon)
    mean, variance = (numbers[name] for name in _STATISTICS)
    if by_batch:
        mean, variance = keras.ops.moments(x, list(range(len(x.shape) - 1)))
    y = keras.ops.batch_normalization(
        x,
        mean,
        variance,
        axis=-1,
        offset=numbers.get("beta"),
        scale=numbers.get("gamma"),
        epsilon=layer.epsilon,
    )
    return y, mean, variance


def normalized_by_batch(
    x: Any, numbers: dict[str, Any], epsilon: float
) -> tuple[Any, Any, Any]:
    """Normalizes images by the statistics of their batch, in one operator.

    On a CPU, this is much faster than separate operators for mean, variance and output,
    which Keras uses.

    Args:
        x: float32 tensor `(batch, rows, cols, channels)`.
        numbers: `gamma` and `beta` of the layer, `(channels,)`, as far as it has them.
        epsilon: Number that is added to the variance.

    Returns:
        The output, and mean and variance of the batch, `(channels,)`.
    """
    channels = tf.shape(x)[-1:]
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x,
        numbers.get("gamma", tf.ones(channels)),
        numbers.get("beta", tf.zeros(channels)),
        epsilon=epsilon,
        is_training=True,
    )
    # The operator divides by n - 1 for the variance that it returns, and by n for the
    # variance that it uses, as Keras does for both.
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), "float32")
    return y, mean, variance * ((count - 1) / count)


def _check_backend(model_class: type) -> None:
    check_runs_on_tensorflow(
        model_class.__name__,
        "it cuts its weights to sizes that are known only at run time",
        "(`AnyWidthModel` runs on every backend.)",
    )


def _is_normalization(layer: Any) -> bool:
    """Whether a layer is a BatchNormalization and no subclass, which may differ."""
    return type(layer) is _L.BatchNormalization


def _check_can_be_sliced(layer: Any, flow: Flow) -> None:
    if not isinstance(flow.output, Graded) and not any(
        isinstance(kind, Graded) for kind in flow.inputs
    ):
        return
    where = f"Layer '{layer.name}' ({type(layer).__name__})"
    normalization = _is_normalization(layer)
    weighted = bool(getattr(layer, "weights", [])) or isinstance(layer, _L.Reshape)
    if weighted and not normalization and type(layer) not in _RUNNERS:
        names = ", ".join(sorted(c.__name__ for c in _RUNNERS))
        raise UnsupportedError(
            f"{where} cannot be sliced to a width. Layers with weights that can be "
            f"sliced are BatchNormalization, {names}. (`AnyWidthModel` takes more.)"
        )
    if getattr(layer, "groups", 1) != 1 or (
        not isinstance(layer, keras.Layer)
        and (
            (rule_of(layer) or WidthRule()).resize is not None
            or arrays_of_channels(layer, flow)
        )
    ):
        raise UnsupportedError(
            f"{where} cannot be sliced to a width, because its arguments depend on the "
            "number of channels. (`AnyWidthModel` takes this layer.)"
        )
    if getattr(layer, "activity_regularizer", None) is not None and weighted:
        raise UnsupportedError(
            f"{where}: a sliced layer cannot have an `activity_regularizer`. Leave out "
            "the regularizer."
        )
    if normalization and getattr(layer, "renorm", False):
        raise UnsupportedError(
            f"{where}: a sliced layer must have `renorm=False`. Received: renorm=True"
        )
    if getattr(layer, "padding", None) == "causal":
        raise UnsupportedError(
            f"{where}: a sliced layer cannot have causal padding. Received: "
            "padding='causal'"
        )
