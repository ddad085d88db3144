"""Networks of the Any-Width Networks paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from awn_keras.conversion import to_any_width
from awn_keras.errors import ArgumentError
from awn_keras.layers import TriConv2D
from awn_keras.model import AnyWidthModel
from awn_keras.stages import Stages
from awn_keras.widening import WidthMultiplier
from awn_keras.widths import round_half_up

#: Stages of MobileNetV2 on 32x32 images: expansion, channels, blocks, and the stride
#: of the first block.
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def lenet_3c1l(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    *,
    filters: int = 32,
    width_multiplier: WidthMultiplier = 2**0.5,
    padding: str = "valid",
    weight_decay: float = 0.0,
    bn_momentum: float = 0.9,
    min_width: float | None = None,
    divisor: int = 1,
    widths_grid: Sequence[float] | None = None,
    staircase: str = "nested",
    stages: Stages | None = None,
    triangular: bool = True,
    preprocessing: keras.Layer | None = None,
    name: str = "lenet_3c1l",
) -> keras.Model:
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
            For a part of the convolutions, and `"balanced"`, see `to_any_width`.
        padding: `"valid"` as in the paper, or `"same"` for small images.
        weight_decay: The paper's weight decay, in the gradient: an L2 penalty of half
            of it on all weights.
        bn_momentum: Of the moving statistics of BatchNormalization.
        min_width: See `AnyWidthModel`.
        divisor: See `AnyWidthModel`.
        widths_grid: See `AnyWidthModel`.
        staircase: See `AnyWidthModel`; `"paper"` for the exact one.
        stages: See `AnyWidthModel`.
        triangular: `False` for the plain network of ordinary convolutions, which
            `awn_keras.baselines` can slice.
        preprocessing: A layer on the image, right after the input, such as
            `ImageData.preprocessing()` gives, which takes pixels. `None` for none: the
            network then wants what it is trained on to be normalized.
        name: Name of the model.

    Returns:
        An `AnyWidthModel`, not compiled; if not `triangular` a plain `keras.Model`,
        to which `min_width`, `widths_grid`, `staircase` and `stages` mean nothing.

    Raises:
        ValueError: If the images are too small for the padding, or an argument is out
            of range.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1.
    """
    _check_image_shape(input_shape)
    rows, cols, _ = input_shape
    if padding == "valid" and min(rows, cols) < 16:
        raise ArgumentError(
            "With `padding='valid'` images must have at least 16 rows and cols; use "
            f"`padding='same'`. Received: input_shape={input_shape}"
        )
    number = _number(width_multiplier, triangular)
    by_layer = number is None
    channels = _widened(filters, number or 1.0)
    triangles = triangular and not by_layer
    layers = _Layers(weight_decay, bn_momentum, padding, triangular=triangles)
    inputs = keras.Input(input_shape, name="image")
    x = inputs if preprocessing is None else preprocessing(inputs)
    x = layers.convolution(x, keras.layers.Conv2D, channels, 3, name="{}1")
    x = layers.convolution(x, layers.inner, channels, 3, name="{}2")
    x = keras.layers.MaxPooling2D(name="pool2")(x)
    x = layers.convolution(x, layers.inner, channels, 5, name="{}3")
    x = keras.layers.MaxPooling2D(name="pool3")(x)
    outputs = layers.logits(keras.layers.Flatten(name="flatten")(x), classes)
    return _finished(
        keras.Model(inputs, outputs, name=name),
        width_multiplier if by_layer else None,
        triangular=triangular,
        min_width=min_width,
        divisor=divisor,
        widths_grid=widths_grid,
        staircase=staircase,
        stages=stages,
    )


def mobilenet_v2(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    *,
    width_multiplier: WidthMultiplier = 2**0.5,
    weight_decay: float = 0.0,
    bn_momentum: float = 0.9,
    min_width: float | None = None,
    divisor: int = 8,
    widths_grid: Sequence[float] | None = None,
    staircase: str = "nested",
    stages: Stages | None = None,
    triangular: bool = True,
    preprocessing: keras.Layer | None = None,
    name: str = "mobilenet_v2",
) -> keras.Model:
    """MobileNetV2 for small images: 17 inverted residuals, one linear layer.

    A 3x3 stem of 32 channels; blocks of a 1x1 expansion, a 3x3 depthwise convolution
    and a linear 1x1 projection, with a shortcut where input and output have the same
    shape; a 1x1 head of 1280 channels; global average pooling; linear. Stem and first
    stages have stride 1, so that 32x32 images end at 4x4. Batch normalization follows
    each convolution, and ReLU6 all but the projections. Convolutions have no bias.
    All 1x1 convolutions are `TriConv2D`.

    Weights are drawn as in `lenet_3c1l`: normal with standard deviation
    `sqrt(2 / (rows * cols * filters))`, in the linear layer 0.01. A depthwise
    convolution counts as `filters = 1`, since one channel is what each of its inputs
    goes to and each of its outputs comes from: sqrt(2/9).

    Args:
        input_shape: `(rows, cols, channels)` of the images; float32.
        classes: Number of outputs (logits).
        width_multiplier: Widens every convolution, the head too. The paper's sqrt(2)
            makes up for the half of the kernels that the triangle forbids. For a part
            of the convolutions, and `"balanced"`, see `to_any_width`.
        weight_decay: The paper's weight decay, in the gradient: an L2 penalty of half
            of it on all weights.
        bn_momentum: Of the moving statistics of BatchNormalization.
        min_width: See `AnyWidthModel`. `None` for the first of `widths_grid`, else
            the paper's 0.35.
        divisor: See `AnyWidthModel`. Channels are rounded to multiples of it, too.
        widths_grid: See `AnyWidthModel`.
        staircase: See `AnyWidthModel`; `"paper"` for the exact one.
        stages: See `AnyWidthModel`.
        triangular: `False` for the plain network of ordinary convolutions, which
            `awn_keras.baselines` can slice.
        preprocessing: A layer on the image, right after the input, such as
            `ImageData.preprocessing()` gives, which takes pixels. `None` for none: the
            network then wants what it is trained on to be normalized.
        name: Name of the model.

    Returns:
        An `AnyWidthModel`, not compiled; if not `triangular` a plain `keras.Model`,
        to which `min_width`, `widths_grid`, `staircase` and `stages` mean nothing.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5; Sandler et al.,
        MobileNetV2: Inverted Residuals and Linear Bottlenecks (2018), table 2.
    """
    _check_image_shape(input_shape)
    if min_width is None and widths_grid is None:
        min_width = 0.35
    number = _number(width_multiplier, triangular)
    by_layer = number is None
    triangles = triangular and not by_layer
    layers = _Layers(weight_decay, bn_momentum, "same", 6.0, triangular=triangles)

    def widened(channels: int) -> int:
        return _widened(channels, number or 1.0, divisor)

    inputs = keras.Input(input_shape, name="image")
    x = inputs if preprocessing is None else preprocessing(inputs)
    x = layers.convolution(x, keras.layers.Conv2D, widened(32), 3, name="stem_{}")
    index = 0
    for expansion, channels, blocks, stride in _MOBILENET_V2:
        for block in range(blocks):
            index += 1
            x = _inverted_residual(
                layers,
                x,
                expansion,
                widened(channels),
                stride if block == 0 else 1,
                f"block{index}",
            )
    x = layers.convolution(x, layers.inner, widened(1280), 1, name="head_{}")
    outputs = layers.logits(
        keras.layers.GlobalAveragePooling2D(name="pool")(x), classes
    )
    return _finished(
        keras.Model(inputs, outputs, name=name),
        width_multiplier if by_layer else None,
        triangular=triangular,
        min_width=min_width,
        divisor=divisor,
        widths_grid=widths_grid,
        staircase=staircase,
        stages=stages,
    )


def _inverted_residual(
    layers: _Layers, x: Any, expansion: int, channels: int, stride: int, name: str
) -> Any:
    shortcut = x
    if expansion > 1:
        expanded = expansion * x.shape[-1]
        x = layers.convolution(x, layers.inner, expanded, 1, name=name + "_expand_{}")
    x = layers.convolution(
        x,
        keras.layers.DepthwiseConv2D,
        3,
        strides=stride,
        name=name + "_depthwise_{}",
    )
    x = layers.convolution(
        x, layers.inner, channels, 1, linear=True, name=name + "_project_{}"
    )
    if stride == 1 and shortcut.shape[-1] == channels:
        x = keras.layers.Add(name=name + "_add")([shortcut, x])
    return x


class _Layers:
    """What the paper's networks are made of, with their initializers and penalties."""

    def __init__(
        self,
        weight_decay: float,
        bn_momentum: float,
        padding: str,
        max_value: float | None = None,
        *,
        triangular: bool,
    ) -> None:
        #: Class of the convolutions between stem and readout.
        self.inner = TriConv2D if triangular else keras.layers.Conv2D
        self.weight_decay = weight_decay
        self.bn_momentum = bn_momentum
        self.padding = padding
        self.max_value = max_value

    def penalty(self) -> keras.regularizers.Regularizer | None:
        # The gradient of L2(l2) is 2 * l2 * weight.
        if not self.weight_decay:
            return None
        return keras.regularizers.L2(self.weight_decay / 2)

    def convolution(
        self,
        x: Any,
        layer_class: type,
        *args: Any,
        name: str,
        linear: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Convolution, batch normalization and, if not `linear`, ReLU."""
        depthwise = issubclass(layer_class, keras.layers.DepthwiseConv2D)
        kernel = "depthwise" if depthwise else "kernel"
        kwargs[f"{kernel}_initializer"] = keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        )
        kwargs[f"{kernel}_regularizer"] = self.penalty()
        x = layer_class(
            *args,
            padding=self.padding,
            use_bias=False,
            name=name.format("conv"),
            **kwargs,
        )(x)
        x = keras.layers.BatchNormalization(
            momentum=self.bn_momentum,
            epsilon=1e-5,
            gamma_regularizer=self.penalty(),
            beta_regularizer=self.penalty(),
            name=name.format("bn"),
        )(x)
        if linear:
            return x
        return keras.layers.ReLU(self.max_value, name=name.format("relu"))(x)

    def logits(self, x: Any, classes: int) -> Any:
        # Losses are computed of these: in half precision they would be too coarse.
        mixed = keras.config.dtype_policy().name.startswith("mixed_")
        return keras.layers.Dense(
            classes,
            dtype="float32" if mixed else None,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            kernel_regularizer=self.penalty(),
            bias_regularizer=self.penalty(),
            name="logits",
        )(x)


def _number(width_multiplier: WidthMultiplier, triangular: bool) -> float | None:
    """The number that widens all convolutions; `None` if each has its own."""
    if isinstance(width_multiplier, int | float):
        return width_multiplier
    if not triangular:
        raise ArgumentError(
            "`width_multiplier` must be a number with `triangular=False`: a network "
            "without triangles has nothing to balance. Received: "
            f"width_multiplier={width_multiplier!r}"
        )
    return None


def _finished(
    graph: keras.Model,
    width_multiplier: WidthMultiplier | None,
    *,
    triangular: bool,
    **widths: Any,
) -> keras.Model:
    """The model of a graph, whose layers are widened now if each has its own number."""
    if not triangular:
        return graph
    if width_multiplier is not None:
        return to_any_width(graph, width_multiplier=width_multiplier, **widths)
    return AnyWidthModel(graph.input, graph.output, name=graph.name, **widths)


def _check_image_shape(input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise ArgumentError(
            "`input_shape` must be (rows, cols, channels). Received: "
            f"input_shape={input_shape}"
        )


def _widened(channels: int, width_multiplier: float, divisor: int = 1) -> int:
    """Channels times the multiplier, rounded to a multiple of the divisor."""
    return max(round_half_up(channels * width_multiplier / divisor) * divisor, divisor)
