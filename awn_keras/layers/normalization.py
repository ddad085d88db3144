"""Normalization of each channel over the channels that are active whenever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import (
    check_grades,
    forbidden_part,
    staircase_grades,
    triangular_mask,
    unpack_grades,
)
from awn_keras.errors import ArgumentError
from awn_keras.layers.base import TriLayer


class PrefixNormalization(TriLayer):
    """Mixin for a layer that normalizes over channels. Put it first among the bases.

    Channel s is normalized by the statistics of its *prefix*: all channels whose grade
    is at most that of s. Channels of equal grade are a *block*, and share the
    statistics.
    """

    place_arguments = ("grades",)

    axis: Any
    epsilon: float

    #: Whether the layer subtracts the mean.
    centers: bool

    #: Names of the weights that scale and shift channels; "" if there is none.
    affine: tuple[str, str]

    def _init_place(self, grades: Sequence[Any] | np.ndarray | None) -> None:
        self._grades = unpack_grades(grades)
        check_grades(self._grades, f"{self._title()}: `grades`")

    @property
    def grades(self) -> np.ndarray | None:
        """Grades of the channels, float64; `None` for the paper's staircase."""
        return self._grades

    in_grades = out_grades = grades

    def _set_place(
        self, in_grades: np.ndarray, out_grades: np.ndarray, keeps_forbidden: bool
    ) -> None:
        self._grades = in_grades

    def cuts_weights(self) -> bool:
        """Whether the statistics of some channel leave other channels out."""
        return self._grades is not None and len(np.unique(self._grades)) > 1

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the weights, and checks `axis` and the number of grades.

        Raises:
            ValueError: If `axis` is not the last axis, or the number of grades is not
                the number of channels.
        """
        axis, channels = self.axis, input_shape[-1]
        if (np.ravel(axis) % len(input_shape)).tolist() != [len(input_shape) - 1]:
            raise ArgumentError(
                f"{self._title()}: `axis` must be -1, the axis of channels. Received: "
                f"axis={axis} for an input of shape {tuple(input_shape)}"
            )
        if self._grades is not None and len(self._grades) != channels:
            raise ArgumentError(
                f"{self._title()}: `grades` must have one grade for each channel. "
                f"Received: {len(self._grades)} grades for an input of shape "
                f"{tuple(input_shape)}"
            )
        super().build(input_shape)
        self.axis = -1  # Keras's `build` turns `axis` into a list

    def call(self, inputs: Any) -> Any:
        """Returns the normalized channels, of the shape of `inputs`."""
        grades = self._grades
        if grades is None:
            grades = staircase_grades(inputs.shape[-1])
        dtype = _wide(inputs.dtype)
        x = self.normalized(keras.ops.cast(inputs, dtype), grades)
        scale, shift = (getattr(self, name, None) for name in self.affine)
        if scale is not None:
            x = x * keras.ops.cast(scale, dtype)
        if shift is not None:
            x = x + keras.ops.cast(shift, dtype)
        return keras.ops.cast(x, self.compute_dtype)

    def normalized(self, x: Any, grades: np.ndarray) -> Any:
        """Normalizes channels, without scale and shift.

        Args:
            x: Tensor or Keras tensor `(..., channels)` of at least float32.
            grades: Grades of the channels of `x`, `(channels,)`.

        Returns:
            A tensor of the shape and dtype of `x`.
        """
        ops, dtype = keras.ops, keras.backend.standardize_dtype(x.dtype)
        blocks = np.unique(grades)
        spread = (blocks[:, None] == grades).astype(dtype)
        weights = triangular_mask(grades, blocks).astype(dtype)
        if isinstance(x, keras.KerasTensor):
            weights /= weights.sum(axis=0)
        else:
            # While forbidden entries fade out, the other channels count in part.
            others = forbidden_part(ops.ones_like(weights), acting=True)
            weights = ops.where(weights > 0, weights, others)
            weights = weights / ops.sum(weights, axis=0)
        if self.centers:
            # Subtract the mean of the first block first. That mean is the same at every
            # width. Without the subtraction, a mean far from zero would make `E[x^2] -
            # mean^2` lose the digits of the variance. After it, the square of a mean is
            # at most `channels / channels of the first block` times the variance.
            first = (grades == blocks[0]).astype(dtype)[:, None]
            x = x - ops.matmul(x, first / first.sum())
        squares = ops.matmul(ops.square(x), weights)
        if self.centers:
            means = ops.matmul(x, weights)
            # Rounding may make a variance of zero slightly negative.
            squares = ops.relu(squares - ops.square(means))
            x = x - ops.matmul(means, spread)
        return x * ops.matmul(ops.rsqrt(squares + self.epsilon), spread)

    def stock_call(
        self, active: np.ndarray, *, alike: bool = False, **changes: Any
    ) -> Callable[[Any], Any] | None:
        """Returns a function that computes some of the channels; see `TriLayer`.

        The function computes statistics as products with constant matrices, from
        channels to blocks and back. A depthwise convolution of one position applies
        scale and shift. If the layer has no scale, the function uses ones.
        """
        grades = self._grades
        if grades is None or len(np.unique(grades if alike else grades[active])) == 1:
            return None
        return _StockCall(self, active, grades[active], **changes)

    def macs(self, channels: Any) -> Any:
        """MACs of one position in a slim network.

        Args:
            channels: Number of active channels, or an int array of several.

        Returns:
            MACs of the layer, of the type of `channels`.
        """
        grades = self._grades
        if grades is None:
            grades = staircase_grades(np.max(channels))
        ascending = np.sort(grades)
        blocks = np.cumsum(np.diff(ascending, prepend=-1) > 0)[channels - 1]
        each = 4 * blocks + 1 if self.centers else 2 * blocks
        affine = any(getattr(self, name, None) is not None for name in self.affine)
        return np.where(blocks > 1, channels * (each + affine), 0)


def _wide(dtype: Any) -> str:
    """The dtype of statistics: at least float32, as in Keras."""
    return keras.backend.result_type(dtype, "float32")


class _StockCall:
    """Prefix normalization with stock layers and operations.

    Args:
        layer: The layer whose weights to copy.
        active: Mask `(channels,)`, bool: the active channels of `layer`.
        grades: Grades of the active channels.
        name: Name of the stock layer that returns the outputs.
        dtype: Dtype policy. `None` takes that of `layer`.
    """

    def __init__(
        self,
        layer: PrefixNormalization,
        active: np.ndarray,
        grades: np.ndarray,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        self.layer, self.active, self.grades = layer, active, grades
        self.name = name or layer.name
        policy = keras.dtype_policies.get(dtype or layer.dtype_policy)
        self.dtype = policy.compute_dtype
        self._affine: Any = None
        self._last: Any = None
        self._first: Any = None  # the layer with weights; `_affine` may wrap it

    def __call__(self, x: Any) -> Any:
        """Normalizes a Keras tensor of the active channels."""
        wide = _wide(x.dtype)
        narrow = wide != keras.backend.standardize_dtype(x.dtype)
        y = keras.ops.cast(x, wide) if narrow else x
        y = self.layer.normalized(y, self.grades)
        y = self._scaled(y)
        if self._last is None:
            # The outputs must have the layer's name and dtype.
            self._last = keras.layers.Identity(name=self.name, dtype=self.dtype)
        return self._last(y)

    def _scaled(self, x: Any) -> Any:
        scale, shift = self._weights()
        if scale is None and shift is None:
            return x
        channels, positions = x.shape[-1], len(x.shape) - 2
        if self._affine is None:
            self._affine, self._first = self._convolution(
                positions, x.dtype, use_bias=shift is not None
            )
        if positions:
            y = self._affine(x)
        else:
            y = self._affine(keras.ops.reshape(x, (-1, 1, channels)))
            y = keras.ops.reshape(y, (-1, channels))
        kernel = np.ones(channels) if scale is None else scale
        kernel = kernel.reshape(self._first.kernel.shape)
        self._first.set_weights([kernel] if shift is None else [kernel, shift])
        return y

    def _convolution(
        self, positions: int, dtype: str, *, use_bias: bool
    ) -> tuple[Any, Any]:
        layers, name = keras.layers, f"{self.name}_affine"
        arguments: dict[str, Any] = {
            "kernel_size": 1,
            "use_bias": use_bias,
            "depthwise_initializer": "ones",
            "dtype": dtype,
        }
        if positions < 3:
            flat = layers.DepthwiseConv2D if positions == 2 else layers.DepthwiseConv1D
            layer = flat(**arguments, name=name)
            return layer, layer
        layer = layers.DepthwiseConv2D(**arguments)
        return layers.TimeDistributed(layer, name=name), layer

    def _weights(self) -> list[np.ndarray | None]:
        """Scale and shift of the active channels; `None` for one that is missing."""
        weights = (getattr(self.layer, name, None) for name in self.layer.affine)
        return [
            None
            if weight is None
            else keras.ops.convert_to_numpy(weight).astype("float32")[self.active]
            for weight in weights
        ]


@keras.saving.register_keras_serializable(package="awn_keras")
class TriLayerNormalization(PrefixNormalization, keras.layers.LayerNormalization):
    """Layer normalization of each channel over the channels of at most its grade.

    `outputs[s] = (inputs[s] - mean) / sqrt(variance + epsilon) * gamma[s] + beta[s]`.
    `mean` and `variance` are taken over the channels whose grade is at most that of
    channel s, at one position of one sample. So the value of a channel is the same at
    every width. If every grade is 0, the layer computes what
    `keras.layers.LayerNormalization` computes.

    Statistics are computed in float32 or a wider dtype. They cost a matrix product with
    a column for each different grade. In a model of many widths, blocks (`divisor=8`)
    save most of this cost. At the narrowest width the statistics are those of the first
    block. The first block should have several channels, because the normalized value of
    a single channel is zero for every input.

    Args:
        axis: -1, the channels.
        epsilon: As in `keras.layers.LayerNormalization`.
        center: As in Keras.
        scale: As in Keras.
        beta_initializer: As in Keras.
        gamma_initializer: As in Keras.
        beta_regularizer: As in Keras.
        gamma_regularizer: As in Keras.
        beta_constraint: As in Keras.
        gamma_constraint: As in Keras.
        grades: Grades of the channels, `(channels,)`, each in [0, 1]. `None` for the
            paper's staircase; an `AnyWidthModel` gives the layer those of its inputs.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, ..., channels)`, of a floating dtype.

    Output shape:
        As the inputs, of the layer's compute dtype.

    Raises:
        ValueError: If `axis` is not the last axis, if a grade is outside [0, 1], or if
            the number of grades is not the number of channels.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriLayerNormalization
        >>> layer = TriLayerNormalization(grades=[0, 0, 1, 1])
        >>> x = np.array([[1.0, 3.0, 2.0, 10.0]], "float32")
        >>> layer(x).numpy().round(2)
        array([[-1.  ,  1.  , -0.57,  1.7 ]], dtype=float32)

    Reference:
        Ba et al., Layer Normalization (2016). Prefixes of channels: Vu et al.,
        Any-Width Networks (2020), section 3.2, for kernels.
    """

    stock_class = keras.layers.LayerNormalization
    centers = True
    affine = ("gamma", "beta")

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            axis=axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        self._init_place(grades)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriRMSNormalization(PrefixNormalization, keras.layers.RMSNormalization):
    """Root mean square normalization of each channel over those of at most its grade.

    `outputs[s] = inputs[s] / sqrt(mean + epsilon) * scale[s]`. `mean` is the mean
    square of the channels whose grade is at most that of channel s, at one position of
    one sample. See also `TriLayerNormalization`. If every grade is 0, the layer
    computes what `keras.layers.RMSNormalization` computes.

    Args:
        axis: -1, the channels.
        epsilon: As in `keras.layers.RMSNormalization`.
        grades: Grades of the channels, `(channels,)`, each in [0, 1]. `None` for the
            paper's staircase; an `AnyWidthModel` gives the layer those of its inputs.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, ..., channels)`, of a floating dtype.

    Output shape:
        As the inputs, of the layer's compute dtype.

    Raises:
        ValueError: If `axis` is not the last axis, if a grade is outside [0, 1], or if
            the number of grades is not the number of channels.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriRMSNormalization
        >>> layer = TriRMSNormalization(grades=[0, 0, 1, 1])
        >>> layer(np.array([[1.0, 1.0, 7.0, 7.0]], "float32")).numpy().round(2)
        array([[1. , 1. , 1.4, 1.4]], dtype=float32)

    Reference:
        Zhang and Sennrich, Root Mean Square Layer Normalization (2019), here over
        prefixes of the channels.
    """

    stock_class = keras.layers.RMSNormalization
    centers = False
    affine = ("scale", "")

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-6,
        *,
        grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis=axis, epsilon=epsilon, **kwargs)
        self._init_place(grades)
