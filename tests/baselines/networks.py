"""A small plain network, and narrow copies of it that are cut by hand."""

import keras
import numpy as np

L = keras.layers
CLASSES = 3
#: Weights by layer; after Flatten 9 positions have all channels each.
POSITIONS = 9


def conv_net(channels=(6, 8), first=2):
    """6x6 images; the readout has several features a channel."""
    inputs = keras.Input((6, 6, first))
    x = L.Conv2D(channels[0], 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = L.ReLU()(L.BatchNormalization(name="bn1")(x))
    x = L.Conv2D(channels[1], 3, padding="same", activation="tanh", name="conv2")(x)
    # Not ReLU: with random factors all of a few channels may be dead.
    x = L.LeakyReLU()(L.BatchNormalization(name="bn2")(x))
    x = L.Flatten()(L.MaxPooling2D()(x))
    return keras.Model(inputs, L.Dense(CLASSES, name="logits")(x))


def sizes(width, channels=(6, 8)):
    """The rounding rule of the paper, written out once more."""
    return tuple(max(1, int(np.floor(width * c + 0.5))) for c in channels)


def by_hand(model, width, rows=None):
    """A network of its own size, with the first weights of `model`.

    Args:
        model: The sliced model.
        width: Its width.
        rows: gamma, beta, moving mean and variance of each BatchNormalization, whole,
            if they are not the layer's own.
    """
    first, second = sizes(width)
    network = conv_net((first, second))
    of = {layer.name: layer.get_weights() for layer in model.layers}
    of.update(rows or {})
    kernel, bias = of["conv2"]
    readout, readout_bias = of["logits"]
    readout = readout.reshape(POSITIONS, -1, CLASSES)[:, :second]
    network.get_layer("conv1").set_weights([of["conv1"][0][..., :first]])
    network.get_layer("bn1").set_weights([v[:first] for v in of["bn1"]])
    network.get_layer("conv2").set_weights(
        [kernel[:, :, :first, :second], bias[:second]]
    )
    network.get_layer("bn2").set_weights([v[:second] for v in of["bn2"]])
    network.get_layer("logits").set_weights(
        [readout.reshape(-1, CLASSES), readout_bias]
    )
    return network


def randomize(model, seed=3):
    """Gives all weights and moving statistics, but no integers, random values."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "int" in weight.dtype:
            continue
        value = rng.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def images(count=12, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 6, 6, 2)).astype("float32")


def labels(count=12):
    return np.random.default_rng(2).integers(0, CLASSES, count)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def assert_close(first, other):
    # The same sums of some hundred numbers, perhaps in another order.
    scale = max(1.0, np.abs(other).max())
    np.testing.assert_allclose(first, other, rtol=1e-5, atol=1e-5 * scale)
