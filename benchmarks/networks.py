"""Networks that benchmarks convert, besides those of `keras.applications`."""

from __future__ import annotations

from collections.abc import Sequence

import keras

_L = keras.layers


def autoencoder(inputs: int = 640) -> keras.Model:
    """Builds the autoencoder of MLPerf Tiny's anomaly detection, with a code of 8."""
    x = start = keras.Input((inputs,), name="frame")
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        name = "code" if units == 8 else None
        x = _L.Dense(units, use_bias=False, name=name)(x)
        x = _L.ReLU()(_L.BatchNormalization(momentum=0.9)(x))
    return keras.Model(start, _L.Dense(inputs, name="same")(x), name="autoencoder")


def u_net(
    size: int = 128,
    encoder: Sequence[int] = (16, 32, 64, 128, 256),
    decoder: Sequence[int] = (128, 64, 32, 16),
    *,
    separable: bool = False,
    classes: int = 1,
) -> keras.Model:
    """Builds a U-Net with two convolutions in each stage and concatenated skips.

    Args:
        size: Rows and cols of the image.
        encoder: Channels of the stages of the encoder; the last is the bottom.
        decoder: Channels of the stages of the decoder, one fewer than `encoder`.
        separable: Whether the convolutions are separable.
        classes: Channels of the output.
    """

    def block(x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
        for _ in range(2):
            layer = _L.SeparableConv2D if separable else _L.Conv2D
            x = layer(channels, 3, padding="same", use_bias=False)(x)
            x = _L.ReLU()(_L.BatchNormalization(momentum=0.9)(x))
        return x

    x = inputs = keras.Input((size, size, 1), name="image")
    skips = []
    for channels in encoder[:-1]:
        x = block(x, channels)
        skips.append(x)
        x = _L.MaxPooling2D()(x)
    x = block(x, encoder[-1])
    for channels in decoder:
        x = _L.Conv2DTranspose(channels, 2, strides=2)(x)
        x = block(_L.Concatenate()([x, skips.pop()]), channels)
    outputs = _L.Conv2D(classes, 1, name="pixels")(x)
    return keras.Model(inputs, outputs, name="u_net")
