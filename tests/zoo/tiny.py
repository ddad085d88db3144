"""The four networks of MLPerf Tiny, in their original size."""

import keras

from tests.zoo.blocks import L, conv, depthwise, residual


def keyword_spotting():
    """DS-CNN for 49 frames of 10 features and 12 words."""
    inputs = keras.Input((49, 10, 1))
    x = L.Dropout(0.2)(conv(inputs, 64, (10, 4), 2))
    for _ in range(4):
        x = conv(depthwise(x), 64, 1)
    x = L.AveragePooling2D(x.shape[1:3])(L.Dropout(0.4)(x))
    return keras.Model(inputs, L.Dense(12)(L.Flatten()(x)))


def visual_wake_words():
    """MobileNetV1 with alpha 0.25 for 96x96 pixels and two classes: person or none."""
    return keras.applications.MobileNet(
        (96, 96, 3),
        alpha=0.25,
        weights=None,
        classes=2,
        classifier_activation=None,
    )


def resnet8():
    inputs = keras.Input((32, 32, 3))
    x = residual(residual(residual(conv(inputs, 16), 16), 32, 2), 64, 2)
    x = L.Flatten()(L.AveragePooling2D(x.shape[1:3])(x))
    return keras.Model(inputs, L.Dense(10)(x))


def anomaly_detection():
    """An autoencoder of 5 frames of 128 mel bands, with a code of 8 numbers."""
    inputs = x = keras.Input((640,))
    for units in (*[128] * 4, 8, *[128] * 4):
        x = L.ReLU()(L.BatchNormalization()(L.Dense(units)(x)))
    return keras.Model(inputs, L.Dense(640)(x))


TINY = {
    "MLPerf Tiny: DS-CNN": keyword_spotting,
    "MLPerf Tiny: MobileNetV1 0.25": visual_wake_words,
    "MLPerf Tiny: ResNet8": resnet8,
    "MLPerf Tiny: autoencoder": anomaly_detection,
}
