"""Triangular transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.layers.base import TRANSPOSED, TriangularKernel


class _Transposed(TriangularKernel):
    """Mixin for a transposed convolution, whose kernel is `(..., out, in)`."""

    kernels = TRANSPOSED

    def call(self, inputs: Any) -> Any:
        """Returns the outputs `(batch, ..., filters)`."""
        outputs = keras.ops.conv_transpose(
            inputs,
            self.masked(self.kernel),
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._with_bias_and_activation(outputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the parent's config and the grades, run-length encoded."""
        # Keras before 3.15 forgets `output_padding`.
        return {**super().get_config(), "output_padding": self.output_padding}


@keras.saving.register_keras_serializable(package="awn_keras")
class TriConv1DTranspose(_Transposed, keras.layers.Conv1DTranspose):
    """1-D transposed convolution: an output reads inputs of at most its own grade.

    `outputs = activation(conv1d_transpose(inputs, kernel * mask) + bias)`; see
    `TriConv2DTranspose`, which is the same for images. If every grade is 0, the layer
    computes what `keras.layers.Conv1DTranspose` computes.

    Args:
        filters: As in `keras.layers.Conv1DTranspose`.
        kernel_size: As in Keras.
        strides: As in Keras.
        padding: As in Keras.
        output_padding: As in Keras.
        data_format: `"channels_last"` or `None`.
        dilation_rate: As in Keras.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers compensate
            for the inputs that an output channel may not read. A channel that reads
            all inputs has the scale of the Keras layer, whose fan-in is the number
            of output channels times the window.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase. Give both grades or neither.
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
        >>> from awn_keras import TriConv1DTranspose
        >>> layer = TriConv1DTranspose(8, 3, strides=2, padding="same")
        >>> layer(np.ones((1, 10, 16), "float32")).shape
        TensorShape([1, 20, 8])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, figure 3.
    """

    stock_class = keras.layers.Conv1DTranspose

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int],
        strides: int | tuple[int] = 1,
        padding: str = "valid",
        output_padding: int | tuple[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | tuple[int] = 1,
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
            output_padding=output_padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
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
class TriConv2DTranspose(_Transposed, keras.layers.Conv2DTranspose):
    """2-D transposed convolution: an output reads inputs of at most its own grade.

    `outputs = activation(conv2d_transpose(inputs, kernel * mask) + bias)`, with
    `mask[s, t] = in_grade[t] <= out_grade[s]`: the kernel of a transposed convolution
    is `(rows, cols, out, in)`. See `TriConv2D` for the rest. If every grade is 0, the
    layer computes what `keras.layers.Conv2DTranspose` computes.

    Args:
        filters: As in `keras.layers.Conv2DTranspose`.
        kernel_size: As in Keras.
        strides: As in Keras.
        padding: As in Keras.
        output_padding: As in Keras.
        data_format: `"channels_last"` or `None`.
        dilation_rate: As in Keras.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers compensate
            for the inputs that an output channel may not read. A channel that reads
            all inputs has the scale of the Keras layer, whose fan-in is the number
            of output channels times the window.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase. Give both grades or neither.
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
        >>> from awn_keras import TriConv2DTranspose
        >>> layer = TriConv2DTranspose(8, 3, strides=2, padding="same")
        >>> layer(np.ones((1, 4, 4, 16), "float32")).shape
        TensorShape([1, 8, 8, 8])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, figure 3.
    """

    stock_class = keras.layers.Conv2DTranspose

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: str = "valid",
        output_padding: int | tuple[int, int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
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
            output_padding=output_padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
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
class TriConv3DTranspose(_Transposed, keras.layers.Conv3DTranspose):
    """3-D transposed convolution: an output reads inputs of at most its own grade.

    `outputs = activation(conv3d_transpose(inputs, kernel * mask) + bias)`; see
    `TriConv2DTranspose`, which is the same for images. If every grade is 0, the layer
    computes what `keras.layers.Conv3DTranspose` computes.

    Args:
        filters: As in `keras.layers.Conv3DTranspose`.
        kernel_size: As in Keras.
        strides: As in Keras.
        padding: As in Keras.
        data_format: `"channels_last"` or `None`.
        output_padding: As in Keras.
        dilation_rate: As in Keras.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers compensate
            for the inputs that an output channel may not read. A channel that reads
            all inputs has the scale of the Keras layer, whose fan-in is the number
            of output channels times the window.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase. Give both grades or neither.
        out_grades: Grades of the output channels, `(filters,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, rows, cols, in_channels)`, of a floating dtype.

    Output shape:
        `(batch, new_steps, new_rows, new_cols, filters)`, of the layer's compute dtype.

    Raises:
        ValueError: If `data_format` is `"channels_first"`, if only one of `in_grades`
            and `out_grades` is given, or if the grades do not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriConv3DTranspose
        >>> layer = TriConv3DTranspose(8, 3, strides=2, padding="same")
        >>> layer(np.ones((1, 2, 4, 4, 16), "float32")).shape
        TensorShape([1, 4, 8, 8, 8])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, figure 3.
    """

    stock_class = keras.layers.Conv3DTranspose

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int, int],
        strides: int | tuple[int, int, int] = (1, 1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        output_padding: int | tuple[int, int, int] | None = None,
        dilation_rate: int | tuple[int, int, int] = (1, 1, 1),
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
            output_padding=output_padding,
            dilation_rate=dilation_rate,
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
