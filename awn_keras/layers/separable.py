"""Triangular depthwise-separable convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.layers.base import SEPARABLE, TriangularKernel


class _Separable(TriangularKernel):
    """Mixin for a depthwise convolution that a pointwise convolution follows."""

    kernels = SEPARABLE

    def call(self, inputs: Any) -> Any:
        """Returns the outputs `(batch, ..., filters)`."""
        outputs = keras.ops.separable_conv(
            inputs,
            self.depthwise_kernel,
            self.masked(self.pointwise_kernel),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._with_bias_and_activation(outputs)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriSeparableConv1D(_Separable, keras.layers.SeparableConv1D):
    """1-D separable convolution: an output reads only inputs of at most its own grade.

    `outputs = activation(conv1d(depthwise(inputs), pointwise_kernel * mask) + bias)`;
    see `TriSeparableConv2D`, which is the same for images. If every grade is 0, the
    layer computes what `keras.layers.SeparableConv1D` computes.

    Args:
        filters: As in `keras.layers.SeparableConv1D`.
        kernel_size: As in Keras.
        strides: As in Keras.
        padding: As in Keras.
        data_format: `"channels_last"` or `None`.
        dilation_rate: As in Keras.
        depth_multiplier: As in Keras.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        depthwise_initializer: As in Keras.
        pointwise_initializer: As in Keras. `VarianceScaling` initializers use each
            output channel's own fan-in.
        bias_initializer: As in Keras.
        depthwise_regularizer: As in Keras.
        pointwise_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        depthwise_constraint: As in Keras.
        pointwise_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1],
            whatever `depth_multiplier` is. `None` takes the paper's staircase. Give
            both grades or neither.
        out_grades: Grades of the output channels, `(filters,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype.

    Output shape:
        `(batch, new_steps, filters)`, of the layer's compute dtype.

    Raises:
        ValueError: If `data_format` is `"channels_first"`, if only one of `in_grades`
            and `out_grades` is given, or if the grades do not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriSeparableConv1D
        >>> layer = TriSeparableConv1D(16, 3, depth_multiplier=2)
        >>> layer(np.ones((1, 8, 4), "float32")).shape
        TensorShape([1, 6, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, figure 3.
    """

    stock_class = keras.layers.SeparableConv1D

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int],
        strides: int | tuple[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int] = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            depth_multiplier=depth_multiplier,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            pointwise_initializer=pointwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            pointwise_regularizer=pointwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            pointwise_constraint=pointwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriSeparableConv2D(_Separable, keras.layers.SeparableConv2D):
    """2-D separable convolution: an output reads only inputs of at most its own grade.

    `outputs = activation(conv2d(depthwise(inputs), pointwise_kernel * mask) + bias)`.
    The depthwise part does not mix channels and needs no mask. Its output channel
    `t * depth_multiplier + m` has the grade of input channel `t`, so
    `mask[t * depth_multiplier + m, s] = in_grade[t] <= out_grade[s]`. See `TriConv2D`
    for the rest. If every grade is 0, the layer computes what
    `keras.layers.SeparableConv2D` computes.

    Args:
        filters: As in `keras.layers.SeparableConv2D`.
        kernel_size: As in Keras.
        strides: As in Keras.
        padding: As in Keras.
        data_format: `"channels_last"` or `None`.
        dilation_rate: As in Keras.
        depth_multiplier: As in Keras.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        depthwise_initializer: As in Keras.
        pointwise_initializer: As in Keras. `VarianceScaling` initializers use each
            output channel's own fan-in.
        bias_initializer: As in Keras.
        depthwise_regularizer: As in Keras.
        pointwise_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        depthwise_constraint: As in Keras.
        pointwise_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1],
            whatever `depth_multiplier` is. `None` takes the paper's staircase. Give
            both grades or neither.
        out_grades: Grades of the output channels, `(filters,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, rows, cols, in_channels)`, of a floating dtype.

    Output shape:
        `(batch, new_rows, new_cols, filters)`, of the layer's compute dtype.

    Raises:
        ValueError: If `data_format` is `"channels_first"`, if only one of `in_grades`
            and `out_grades` is given, or if the grades do not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriSeparableConv2D
        >>> layer = TriSeparableConv2D(16, 3, depth_multiplier=2)
        >>> layer(np.ones((1, 8, 8, 4), "float32")).shape
        TensorShape([1, 6, 6, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, figure 3.
    """

    stock_class = keras.layers.SeparableConv2D

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            depth_multiplier=depth_multiplier,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            pointwise_initializer=pointwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            pointwise_regularizer=pointwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            pointwise_constraint=pointwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)
