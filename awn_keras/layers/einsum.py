"""Triangular dense layer of an einsum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.layers.base import KernelAxes, TriangularKernel


def einsum_axes(equation: str) -> tuple[list[int], list[int]]:
    """Finds the kernel axes that an einsum sums over, and those that it adds.

    Args:
        equation: Equation of `keras.layers.EinsumDense`, such as `"abc,cd->abd"`.

    Returns:
        Two lists of kernel axes, counted from the last axis, which is -1. The first
        list holds the axes that only the inputs share with the kernel. The second list
        holds the axes that only the outputs share with the kernel.
    """
    operands, result = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    numbered = [(label, i - len(kernel)) for i, label in enumerate(kernel)]
    return (
        [i for label, i in numbered if label in inputs and label not in result],
        [i for label, i in numbered if label not in inputs and label in result],
    )


@keras.saving.register_keras_serializable(package="awn_keras")
class TriEinsumDense(TriangularKernel, keras.layers.EinsumDense):
    """Einsum dense layer: an output reads only inputs of at most its own grade.

    The equation sums over some axes of the inputs and adds new axes. Of the summed axes
    of the kernel, the first holds the input channels. Of the new axes, the first holds
    the output channels. So `"abc,cd->abd"` is a `TriDense`. In `"abc,cde->abde"`, which
    makes the queries of attention, each channel of `d` has `e` entries. If every grade
    is 0, the layer computes what `keras.layers.EinsumDense` computes.

    Args:
        equation: As in `keras.layers.EinsumDense`, with at least one summed axis and
            one new axis. In an `AnyWidthModel` it has exactly one summed and one new
            axis, which are the last axes of inputs and outputs.
        output_shape: As in Keras.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        bias_axes: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use each
            output's own fan-in.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        lora_rank: `None`.
        lora_alpha: `None`.
        gptq_unpacked_column_size: `None`.
        quantization_config: `None`.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase. Give both
            grades or neither.
        out_grades: Grades of the output channels, `(out_channels,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        As in the equation, of a floating dtype.

    Output shape:
        As in the equation, of the layer's compute dtype.

    Raises:
        ValueError: If only one of `in_grades` and `out_grades` is given, or if the
            grades do not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriEinsumDense
        >>> layer = TriEinsumDense("abc,cd->abd", (None, 16), bias_axes="d")
        >>> layer(np.ones((1, 10, 32), "float32")).shape
        TensorShape([1, 10, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, equation 7.
    """

    stock_class = keras.layers.EinsumDense

    def __init__(
        self,
        equation: str,
        output_shape: Any,
        activation: Any = None,
        bias_axes: str | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        gptq_unpacked_column_size: int | None = None,
        quantization_config: Any = None,
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            equation=equation,
            output_shape=output_shape,
            activation=activation,
            bias_axes=bias_axes,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            gptq_unpacked_column_size=gptq_unpacked_column_size,
            quantization_config=quantization_config,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)

    @property
    def kernels(self) -> Mapping[str, KernelAxes]:  # type: ignore[override]
        """The kernel, with the axes that the equation gives it."""
        into, out = einsum_axes(self.equation)
        return {"kernel": KernelAxes(inputs=into[0], outputs=out[0])}

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the einsum of inputs and kernel, with bias and activation."""
        kernel = self.masked(self.kernel)
        outputs = keras.ops.einsum(self.equation, inputs, kernel)
        return self._with_bias_and_activation(outputs)
