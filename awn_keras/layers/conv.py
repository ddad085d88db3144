"""Triangular convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.layers.base import TriangularKernel


@keras.saving.register_keras_serializable(package="awn_keras")
class TriConv1D(TriangularKernel, keras.layers.Conv1D):
    """1-D convolution: an output reads only input channels of at most its own grade.

    `outputs = activation(conv1d(inputs, kernel * mask) + bias)`, with
    `mask[t, s] = in_grade[t] <= out_grade[s]`; see `TriConv2D`, which is the same for
    images. If every grade is 0, the layer computes what `keras.layers.Conv1D` computes.

    Args:
        filters: As in `keras.layers.Conv1D`.
        kernel_size: As in Keras.
        strides: As in Keras.
        padding: As in Keras; `"causal"` is allowed.
        data_format: `"channels_last"` or `None`.
        dilation_rate: As in Keras.
        groups: As in Keras. Each group has its own triangle; all groups
            have equal grades.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use each
            output channel's own fan-in.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase, for each group. Give both grades
            or neither.
        out_grades: Grades of the output channels, `(filters,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype.

    Output shape:
        `(batch, new_steps, filters)`, of the layer's compute dtype.

    Raises:
        ValueError: If `data_format` is `"channels_first"`, if only one of `in_grades`
            and `out_grades` is given, or if the grades do not fit the channels or
            differ between groups.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriConv1D
        >>> layer = TriConv1D(16, 3, padding="causal")
        >>> layer(np.ones((1, 10, 8), "float32")).shape
        TensorShape([1, 10, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, figure 3.
    """

    stock_class = keras.layers.Conv1D

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int],
        strides: int | tuple[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
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
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves `inputs` with the masked kernel; pads the inputs if causal."""
        padding = self.padding
        if padding == "causal":
            past = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            inputs = keras.ops.pad(inputs, [[0, 0], [past, 0], [0, 0]])
            padding = "valid"
        return keras.ops.conv(
            inputs,
            self.masked(kernel),
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )

    def call(self, inputs: Any) -> Any:
        """Returns the outputs `(batch, new_steps, filters)`."""
        # Only `keras.layers.Conv1D` does not call `convolution_op` in its `call`.
        outputs = self.convolution_op(inputs, self.kernel)
        return self._with_bias_and_activation(outputs)


class _Convolution(TriangularKernel):
    """Mixin for a Keras convolution whose `call` uses `convolution_op`."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves `inputs` with the masked kernel."""
        return super().convolution_op(inputs, self.masked(kernel))


@keras.saving.register_keras_serializable(package="awn_keras")
class TriConv2D(_Convolution, keras.layers.Conv2D):
    """2-D convolution: an output reads only input channels of at most its own grade.

    `outputs = activation(conv2d(inputs, kernel * mask) + bias)`, with
    `mask[t, s] = in_grade[t] <= out_grade[s]`. The grade of a channel is the smallest
    width at which the channel is active. With equally many input and output channels
    the mask is a triangle: output channel `s` reads input channels `0..s`. So the value
    of an output channel is the same at every width at which the channel is active. If
    every grade is 0, the layer computes what `keras.layers.Conv2D` computes.

    An `AnyWidthModel` gives the layer its grades. Alone, or in a plain `keras.Model`,
    the layer has the grades of the paper's staircase.

    Args:
        filters: As in `keras.layers.Conv2D`.
        kernel_size: As in Keras.
        strides: As in Keras.
        padding: As in Keras.
        data_format: `"channels_last"` or `None`.
        dilation_rate: As in Keras.
        groups: As in Keras. Each group has its own triangle; all groups
            have equal grades.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use each
            output channel's own fan-in.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase, for each group. Give both grades
            or neither.
        out_grades: Grades of the output channels, `(filters,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, rows, cols, in_channels)`, of a floating dtype.

    Output shape:
        `(batch, new_rows, new_cols, filters)`, of the layer's compute dtype.

    Raises:
        ValueError: If `data_format` is `"channels_first"`, if only one of `in_grades`
            and `out_grades` is given, or if the grades do not fit the channels or
            differ between groups.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriConv2D
        >>> layer = TriConv2D(45, 3, use_bias=False)
        >>> layer(np.ones((1, 8, 8, 45), "float32")).shape
        TensorShape([1, 6, 6, 45])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, figure 3.
    """

    stock_class = keras.layers.Conv2D

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
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
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriConv3D(_Convolution, keras.layers.Conv3D):
    """3-D convolution: an output reads only input channels of at most its own grade.

    `outputs = activation(conv3d(inputs, kernel * mask) + bias)`, with
    `mask[t, s] = in_grade[t] <= out_grade[s]`; see `TriConv2D`, which is the same for
    images. If every grade is 0, the layer computes what `keras.layers.Conv3D` computes.

    Args:
        filters: As in `keras.layers.Conv3D`.
        kernel_size: As in Keras.
        strides: As in Keras.
        padding: As in Keras.
        data_format: `"channels_last"` or `None`.
        dilation_rate: As in Keras.
        groups: As in Keras. Each group has its own triangle; all groups
            have equal grades.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use each
            output channel's own fan-in.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase, for each group. Give both grades
            or neither.
        out_grades: Grades of the output channels, `(filters,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, rows, cols, in_channels)`, of a floating dtype.

    Output shape:
        `(batch, new_steps, new_rows, new_cols, filters)`, of the layer's compute dtype.

    Raises:
        ValueError: If `data_format` is `"channels_first"`, if only one of `in_grades`
            and `out_grades` is given, or if the grades do not fit the channels or
            differ between groups.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriConv3D
        >>> layer = TriConv3D(16, 3, padding="same")
        >>> layer(np.ones((1, 4, 8, 8, 8), "float32")).shape
        TensorShape([1, 4, 8, 8, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, figure 3.
    """

    stock_class = keras.layers.Conv3D

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int, int],
        strides: int | tuple[int, int, int] = (1, 1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int, int] = (1, 1, 1),
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
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
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)
