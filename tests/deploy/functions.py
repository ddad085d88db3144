"""Functions and layers of a user, in a separate module."""

import keras


@keras.saving.register_keras_serializable(package="tests", name="other")
def shifted(x):
    return x + 1


def doubled(x):
    return 2 * x


class Each(keras.layers.Layer):
    """A layer with a loop over samples or steps."""

    def call(self, x):
        return keras.ops.map(lambda row: 2.0 * keras.ops.tanh(row), x)


class Thrice(keras.layers.Layer):
    """A layer with a loop that the converter accepts."""

    def call(self, x):
        return keras.ops.fori_loop(0, 3, lambda _, y: 1.5 * keras.ops.tanh(y), x)
