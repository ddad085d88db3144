"""Networks of the Any-Width Networks paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from awn_keras.layers import TriConv2D
from awn_keras.model import AnyWidthModel
from awn_keras.widths import round_half_up


def lenet_3c1l(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    *,
    filters: int = 32,
    width_multiplier: float = 2**0.5,
    padding: str = "valid",
    weight_decay: float = 0.0,
    min_width: float | None = None,
    divisor: int = 1,
    widths_grid: Sequence[float] | None = None,
    name: str = "lenet_3c1l",
) -> AnyWidthModel:
    """LeNet-3C1L: three convolutions and one linear layer.

    conv 3x3, conv 3x3, max pooling, conv 5x5, max pooling, linear; batch
    normalization and ReLU follow each convolution. Convolutions have no bias. All
    weights are drawn as by the paper's authors: normal with standard deviation
    `sqrt(2 / (rows * cols * filters))`, in the linear layer 0.01.

    Args:
        input_shape: `(rows, cols, channels)` of the images; float32. With `"valid"`
            padding rows and cols must be at least 16.
        classes: Number of outputs (logits).
        filters: Channels of each convolution, before `width_multiplier`.
        width_multiplier: Widens every convolution. The paper's sqrt(2) makes up for
            the half of the kernel that the triangle forbids: 32 channels become 45.
        padding: `"valid"` as in the paper, or `"same"` for small images.
        weight_decay: The paper's weight decay, in the gradient: an L2 penalty of half
            of it on all weights.
        min_width: See `AnyWidthModel`.
        divisor: See `AnyWidthModel`.
        widths_grid: See `AnyWidthModel`.
        name: Name of the model.

    Returns:
        An `AnyWidthModel`, not compiled.

    Raises:
        ValueError: If the images are too small for the padding, or an argument is out
            of range.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1.
    """
    if len(input_shape) != 3:
        raise ValueError(
            "`input_shape` must be (rows, cols, channels). Received: "
            f"input_shape={input_shape}"
        )
    rows, cols, _ = input_shape
    if padding == "valid" and min(rows, cols) < 16:
        raise ValueError(
            "With `padding='valid'` images must have at least 16 rows and cols; use "
            f"`padding='same'`. Received: input_shape={input_shape}"
        )
    channels = round_half_up(filters * width_multiplier)

    def penalty() -> keras.regularizers.Regularizer | None:
        # The gradient of L2(l2) is 2 * l2 * weight.
        return keras.regularizers.L2(weight_decay / 2) if weight_decay else None

    def block(x: Any, layer_class: type, size: int, index: int) -> Any:
        x = layer_class(
            channels,
            size,
            padding=padding,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                2.0, "fan_out", "untruncated_normal"
            ),
            kernel_regularizer=penalty(),
            name=f"conv{index}",
        )(x)
        x = keras.layers.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            gamma_regularizer=penalty(),
            beta_regularizer=penalty(),
            name=f"bn{index}",
        )(x)
        return keras.layers.ReLU(name=f"relu{index}")(x)

    inputs = keras.Input(input_shape, name="image")
    x = block(inputs, keras.layers.Conv2D, 3, 1)
    x = block(x, TriConv2D, 3, 2)
    x = keras.layers.MaxPooling2D(name="pool2")(x)
    x = block(x, TriConv2D, 5, 3)
    x = keras.layers.MaxPooling2D(name="pool3")(x)
    outputs = keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        kernel_regularizer=penalty(),
        bias_regularizer=penalty(),
        name="logits",
    )(keras.layers.Flatten(name="flatten")(x))
    return AnyWidthModel(
        inputs,
        outputs,
        name=name,
        min_width=min_width,
        divisor=divisor,
        widths_grid=widths_grid,
    )
