"""Triangular dense layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.layers.base import TriangularKernel


@keras.saving.register_keras_serializable(package="awn_keras")
class TriDense(TriangularKernel, keras.layers.Dense):
    """Dense layer: an output reads only inputs of at most its own grade.

    `outputs = activation(inputs @ (kernel * mask) + bias)`, with
    `mask[t, s] = in_grade[t] <= out_grade[s]`; see `TriConv2D`, which is the same for
    images. If every grade is 0, the layer computes what `keras.layers.Dense` computes.
    The last layer, whose outputs are all wanted at every width, is an ordinary `Dense`.

    Args:
        units: As in `keras.layers.Dense`.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use each
            output's own fan-in.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        lora_rank: `None`.
        lora_alpha: `None`.
        quantization_config: `None`.
        in_grades: Grades of the inputs, `(inputs,)`, each in [0, 1]. `None` for
            `channel_grades(inputs)`; then `out_grades` too.
        out_grades: Grades of the outputs, `(units,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, ..., inputs)`, of a floating dtype.

    Output shape:
        `(batch, ..., units)`, of the layer's compute dtype.

    Raises:
        ValueError: If only one of `in_grades` and `out_grades` is given, or if the
            grades do not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriDense
        >>> TriDense(16)(np.ones((1, 32), "float32")).shape
        TensorShape([1, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, equation 7.
    """

    stock_class = keras.layers.Dense

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        quantization_config: Any = None,
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units=units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            quantization_config=quantization_config,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the outputs `(batch, ..., units)` for inputs `(batch, ..., in)`."""
        outputs = keras.ops.matmul(inputs, self.masked(self.kernel))
        return self._with_bias_and_activation(outputs)
