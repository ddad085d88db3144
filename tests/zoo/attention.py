"""Networks with attention between stem and readout."""

import keras

from awn_keras import WidthRule, register_width_rule
from tests.zoo.blocks import CLASSES, L, conv, inverted, ops
from tests.zoo.features import words


@keras.saving.register_keras_serializable(package="tests.zoo")
class AddPositions(keras.layers.Layer):
    """Adds a learned vector to each position.

    Input and output have the shape `(batch, ..., channels)`. All sizes except the batch
    must be known.
    """

    def build(self, input_shape):
        self.positions = self.add_weight(
            name="positions",
            shape=tuple(input_shape[1:]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, inputs):
        return inputs + self.positions


register_width_rule(AddPositions, WidthRule(in_axes={"positions": -1}))


def attended(x, heads, size, **kwargs):
    y = L.LayerNormalization()(x)
    y = L.MultiHeadAttention(heads, size, dropout=0.0)(y, y, **kwargs)
    return L.Add()([x, y])


def fed_forward(x, activation="gelu", ratio=2):
    y = L.Dense(ratio * x.shape[-1], activation=activation)(L.LayerNormalization()(x))
    return L.Add()([x, L.Dense(x.shape[-1])(y)])


def transformed(x, heads=4, size=8, activation="gelu", **kwargs):
    return fed_forward(attended(x, heads, size, **kwargs), activation)


def vit_tiny():
    """Patches of 8x8 pixels, learned positions, a mean over all patches."""
    inputs = keras.Input((32, 32, 3))
    x = AddPositions()(L.Reshape((16, 32))(L.Conv2D(32, 8, 8)(inputs)))
    x = L.LayerNormalization()(transformed(transformed(x)))
    return keras.Model(inputs, L.Dense(CLASSES)(L.GlobalAveragePooling1D()(x)))


def deit_distilled():
    """A stem of convolutions and two outputs: for the classes and for a teacher."""
    inputs = keras.Input((32, 32, 3))
    x = L.Conv2D(32, 3, 2, padding="same", activation="gelu")(inputs)
    x = L.Conv2D(32, 3, 4, padding="same")(x)
    x = transformed(AddPositions()(L.Reshape((16, 32))(x)))
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, [L.Dense(CLASSES)(x), L.Dense(CLASSES)(x)])


def mobilevit_block(x, filters, depth=1):
    """Attention between pixels at equal positions of all 2x2 patches."""
    _, rows, cols, channels = x.shape
    y = conv(x, channels, activation="silu")
    y = L.Conv2D(filters, 1, use_bias=False)(y)
    y = L.Reshape((rows // 2, 2, cols // 2, 2, filters))(y)
    y = L.Permute((2, 4, 1, 3, 5))(y)
    y = L.Reshape((4, rows * cols // 4, filters))(y)
    for _ in range(depth):
        z = L.LayerNormalization()(y)
        z = L.MultiHeadAttention(4, filters // 4, attention_axes=(2,))(z, z)
        y = fed_forward(L.Add()([y, z]), "silu")
    y = L.LayerNormalization()(y)
    y = L.Reshape((2, 2, rows // 2, cols // 2, filters))(y)
    y = L.Reshape((rows, cols, filters))(L.Permute((3, 1, 4, 2, 5))(y))
    y = conv(y, channels, 1, activation="silu")
    return conv(L.Concatenate()([x, y]), channels, activation="silu")


def mobilevit_xxs():
    inputs = keras.Input((32, 32, 3))
    x = conv(inputs, 16, strides=2, activation="silu")
    x = inverted(x, 24, 2, strides=2, activation="silu")
    x = mobilevit_block(x, 32)
    x = inverted(x, 32, 2, strides=2, activation="silu")
    x = conv(mobilevit_block(x, 32), 64, 1, activation="silu")
    return keras.Model(inputs, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(x)))


def coatnet():
    """Inverted bottlenecks, then attention at a low resolution."""
    inputs = keras.Input((32, 32, 3))
    x = conv(inputs, 16, strides=2, activation="gelu")
    x = inverted(x, 24, 4, strides=2, activation="gelu", excite=True)
    x = L.Conv2D(32, 3, 2, padding="same")(x)
    x = transformed(AddPositions()(L.Reshape((16, 32))(x)))
    return keras.Model(inputs, L.Dense(CLASSES)(L.GlobalAveragePooling1D()(x)))


def text_transformer():
    inputs, x = words(12, 32)
    x = AddPositions()(L.Dense(32)(x))
    x = L.LayerNormalization()(transformed(transformed(x)))
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling1D()(x)))


def language_model():
    """Causal attention; scores of the next word at each step."""
    inputs, x = words(12, 32)
    x = AddPositions()(L.Dense(32)(x))
    for _ in range(2):
        x = transformed(x, use_causal_mask=True)
    return keras.Model(inputs, L.Dense(50)(L.LayerNormalization()(x)))


def conformer():
    """Attention and convolution between two halves of a feed-forward block."""

    def half(x):
        y = L.Dense(64, activation="silu")(L.LayerNormalization()(x))
        return x + 0.5 * L.Dense(32)(y)

    def convolved(x):
        y = L.Dense(64)(L.LayerNormalization()(x))
        y = L.DepthwiseConv1D(7, padding="same")(ops.glu(y))
        y = L.Activation("silu")(L.BatchNormalization()(y))
        return L.Add()([x, L.Dense(32)(y)])

    inputs = keras.Input((24, 16))
    x = L.Conv1D(32, 3, 2, padding="same", activation="relu")(inputs)
    x = AddPositions()(L.Dense(32)(x))
    for _ in range(2):
        x = half(convolved(attended(half(x), 4, 8)))
        x = L.LayerNormalization()(x)
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def audio_transformer():
    """Patches of a spectrogram, as in AST."""
    inputs = keras.Input((16, 24, 1))
    x = L.Conv2D(32, 4, 4)(inputs)
    x = L.Reshape((x.shape[1] * x.shape[2], 32))(x)
    x = transformed(AddPositions()(x))
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def sequential_recommender():
    """SASRec: causal attention over past items, scores for the next item."""
    inputs, x = words(10, 24)
    x = AddPositions()(L.Dense(24)(x))
    x = transformed(x, 2, 12, "relu", use_causal_mask=True)
    x = L.LayerNormalization()(x)
    return keras.Model(inputs, L.Dense(50)(x[:, -1]))


def detection_transformer():
    """The encoder of DETR on a feature map, with a box for each position."""
    inputs = keras.Input((32, 32, 3))
    x = conv(conv(inputs, 16, strides=2), 32, strides=4)
    x = transformed(AddPositions()(L.Reshape((16, 32))(x)), activation="relu")
    x = L.Dense(32, activation="relu")(L.LayerNormalization()(x))
    boxes = L.Dense(4, activation="sigmoid", name="boxes")(x)
    return keras.Model(inputs, [boxes, L.Dense(CLASSES + 1, name="classes")(x)])


ATTENTION = {
    "ViT-Tiny": vit_tiny,
    "DeiT": deit_distilled,
    "MobileViT-XXS": mobilevit_xxs,
    "CoAtNet": coatnet,
    "text transformer": text_transformer,
    "language model": language_model,
    "Conformer": conformer,
    "audio spectrogram transformer": audio_transformer,
    "SASRec": sequential_recommender,
    "DETR, its encoder": detection_transformer,
}
