"""Whole networks of `keras.applications`, for the smallest images that they accept.

Each takes minutes, so only `python -m benchmarks.zoo` runs them.
"""

from functools import partial

import keras

SIZES = {
    "MobileNetV3Small": 32,
    "EfficientNetV2B0": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "NASNetMobile": 32,
    "ConvNeXtTiny": 32,
}


def application(name):
    size = SIZES[name]
    return getattr(keras.applications, name)(
        input_shape=(size, size, 3),
        weights=None,
        classes=10,
        classifier_activation=None,
    )


APPLICATIONS = {
    f"keras.applications.{name}": partial(application, name) for name in SIZES
}
