"""Uses a layer of your own in an any-width network, and checks the layer.

    python examples/own_layer.py [--quick]

The layer is a gate. It multiplies each channel by a number that depends on the mean of
the channel over the image. Each channel reads only itself, so it stays the same at
every width. The gate has two weights for each channel. A width rule says which axis of
these weights is the axis of the channels. Writes a picture: the accuracy of a network
with gates at all widths.
"""

import sys
from pathlib import Path

import keras

from awn_keras import WidthRule, register_width_rule, to_any_width, trade_off_curve
from awn_keras.data import load_data
from awn_keras.testing import check_width_rule

OUTPUT = Path("examples_output")
QUICK = "--quick" in sys.argv  # a few steps only


@keras.saving.register_keras_serializable(package="examples")
class ChannelGate(keras.layers.Layer):
    """Multiplies each channel by a sigmoid of the channel's mean."""

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.scale = self.add_weight(shape=channels, initializer="ones", name="scale")
        self.offset = self.add_weight(shape=channels, name="offset")

    def call(self, x):
        mean = keras.ops.mean(x, axis=(1, 2), keepdims=True)
        return x * keras.ops.sigmoid(mean * self.scale + self.offset)


# The rule: the last axis of both weights is the axis of the channels.
register_width_rule(ChannelGate, WidthRule(in_axes={"scale": -1, "offset": -1}))


def network(data):
    """Builds a stock network with gates, for images of digits."""
    x = inputs = keras.Input(data.input_shape)
    x = data.preprocessing()(x)
    for filters in (32, 64, 64):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
        x = ChannelGate()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(data.classes)(x))


def main():
    OUTPUT.mkdir(exist_ok=True)

    # Checks values, gradients, slimming and saving. An error names the failed check.
    check_width_rule(ChannelGate(), (8, 8, 16))

    data = load_data("digits")
    model = to_any_width(network(data), min_width=0.25)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    train = data.train(64)
    model.fit(train, epochs=1 if QUICK else 15)
    curve = trade_off_curve(model, data.test(), widths=[0.25, 0.5, 0.75, 1.0])
    print(curve)
    curve.plot().figure.savefig(OUTPUT / "own_layer.png")


if __name__ == "__main__":
    main()
