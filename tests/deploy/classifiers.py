"""Small classifiers of images, for tests of files and their metadata."""

import keras
import numpy as np

from awn_keras import AnyWidthModel, TriConv2D

NAMES = ["cat", "dog", "snow leopard", "größe"]


def classifier(
    *, shape=(12, 16, 3), dtype="float32", before=(), answers="logits", classes=4
):
    """Builds a classifier of images. `before` are layers before the stem."""
    image = keras.Input(shape, dtype=dtype, name="photo")
    x = image
    for layer in before:
        x = layer(x)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = TriConv2D(8, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    # Makes scores of classes differ, which an untrained network hardly does.
    kernel = keras.initializers.RandomNormal(stddev=3, seed=1)
    activation = "softmax" if answers == "activation" else None
    x = keras.layers.Dense(
        classes, activation=activation, kernel_initializer=kernel, name="scores"
    )(x)
    if answers == "layer":
        x = keras.layers.Softmax(name="answers")(x)
    if answers == "operation":
        x = keras.ops.softmax(x)
    return AnyWidthModel(image, x, min_width=0.25, name="animals")


def of_pixels(**kwargs):
    """Builds a classifier that takes pixels 0..255."""
    return classifier(before=[keras.layers.Rescaling(1 / 127.5, -1)], **kwargs)


def pixels(count, shape=(12, 16, 3), seed=0):
    """Draws random images, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype("uint8")


def softmax(x):
    """Computes softmax by its definition, in float64."""
    powers = np.exp(np.asarray(x, "float64"))
    return powers / powers.sum(-1, keepdims=True)
