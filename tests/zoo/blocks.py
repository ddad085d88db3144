"""Blocks that many architectures share."""

import keras

L, ops = keras.layers, keras.ops
CLASSES = 10


def conv(x, filters, size=3, strides=1, activation="relu", **kwargs):
    """Convolution, normalization, activation."""
    layer = L.Conv2D(filters, size, strides, padding="same", use_bias=False, **kwargs)
    return activated(L.BatchNormalization()(layer(x)), activation)


def depthwise(x, size=3, strides=1, activation="relu", **kwargs):
    layer = L.DepthwiseConv2D(size, strides, padding="same", use_bias=False, **kwargs)
    return activated(L.BatchNormalization()(layer(x)), activation)


def activated(x, activation):
    return x if activation is None else L.Activation(activation)(x)


def squeeze_and_excite(x, ratio=4, gate="sigmoid"):
    channels = x.shape[-1]
    y = L.GlobalAveragePooling2D(keepdims=True)(x)
    y = L.Conv2D(channels // ratio, 1, activation="relu")(y)
    return L.Multiply()([x, L.Conv2D(channels, 1, activation=gate)(y)])


def inverted(x, filters, expand=4, size=3, strides=1, activation="relu6", excite=False):
    """The block of MobileNetV2, or with `excite` the block of EfficientNet."""
    shortcut, channels = x, x.shape[-1]
    x = conv(x, channels * expand, 1, activation=activation)
    x = depthwise(x, size, strides, activation)
    x = squeeze_and_excite(x) if excite else x
    x = conv(x, filters, 1, activation=None)
    same = strides == 1 and channels == filters
    return L.Add()([shortcut, x]) if same else x


def residual(x, filters, strides=1):
    """The basic block of ResNet."""
    y = conv(conv(x, filters, strides=strides), filters, activation=None)
    if strides > 1 or x.shape[-1] != filters:
        x = conv(x, filters, 1, strides, activation=None)
    return L.ReLU()(L.Add()([x, y]))


def classifier(stages, shape=(32, 32, 3), classes=CLASSES):
    """Builds a classifier of images: `stages`, a mean over all pixels, a readout."""
    inputs = keras.Input(shape)
    x = L.GlobalAveragePooling2D()(stages(inputs))
    return keras.Model(inputs, L.Dense(classes)(x))


def upsampled(x, filters):
    return conv(L.UpSampling2D(interpolation="bilinear")(x), filters)
