"""Networks of words, tables, points and codes."""

import keras

from tests.zoo.blocks import CLASSES, L, conv, ops

WORDS = 50


def words(length=12, size=16):
    inputs = keras.Input((length,), dtype="int32")
    return inputs, L.Embedding(WORDS, size)(inputs)


def textcnn():
    inputs, x = words()
    parts = []
    for size in (3, 4, 5):
        y = L.Conv1D(24, size, activation="relu")(x)
        parts.append(L.GlobalMaxPooling1D()(y))
    x = L.Dropout(0.5)(L.Concatenate()(parts))
    return keras.Model(inputs, L.Dense(4)(x))


def dan():
    """A deep averaging network."""
    inputs, x = words()
    x = L.GlobalAveragePooling1D()(x)
    for _ in range(2):
        x = L.Dense(32, activation="tanh")(x)
    return keras.Model(inputs, L.Dense(4)(x))


def bilstm_tagger():
    inputs, x = words(8)
    for _ in range(2):
        x = L.Bidirectional(L.LSTM(16, return_sequences=True, unroll=True))(x)
    return keras.Model(inputs, L.Dense(5, activation="softmax")(x))


def char_cnn():
    inputs, x = words(32, 8)
    for filters, size in ((32, 7), (32, 3)):
        x = L.MaxPooling1D()(L.Conv1D(filters, size, activation="relu")(x))
    x = L.Dropout(0.5)(L.Dense(48, activation="relu")(L.Flatten()(x)))
    return keras.Model(inputs, L.Dense(4)(x))


def dpcnn():
    """A deep pyramid over words. Each level halves the number of steps."""
    inputs, x = words(16)
    x = L.Conv1D(32, 3, padding="same")(x)
    for _ in range(2):
        y = x
        for _ in range(2):
            y = L.Conv1D(32, 3, padding="same")(L.ReLU()(y))
        x = L.MaxPooling1D(3, 2, padding="same")(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(4)(L.GlobalMaxPooling1D()(x)))


def wide_and_deep():
    wide = keras.Input((20,), name="wide")
    user = keras.Input((1,), dtype="int32", name="user")
    numbers = keras.Input((6,), name="numbers")
    x = L.Concatenate()([L.Flatten()(L.Embedding(WORDS, 8)(user)), numbers])
    for units in (32, 24, 16):
        x = L.Dense(units, activation="relu")(x)
    y = L.Activation("sigmoid")(L.Add()([L.Dense(1)(wide), L.Dense(1)(x)]))
    return keras.Model([wide, user, numbers], y)


def two_towers():
    """The scalar product of the outputs of two towers."""

    def tower(name):
        inputs = keras.Input((1,), dtype="int32", name=name)
        x = L.Flatten()(L.Embedding(WORDS, 16)(inputs))
        x = L.Dense(24, activation="relu")(L.Dense(32, activation="relu")(x))
        return inputs, L.UnitNormalization()(L.Dense(8)(x))

    (user, a), (item, b) = tower("user"), tower("item")
    return keras.Model([user, item], L.Dot(axes=1)([a, b]))


def neural_cf():
    """Neural collaborative filtering: a product of embeddings beside dense layers."""
    user, item = (keras.Input((1,), dtype="int32", name=n) for n in ("user", "item"))

    def embedded(x, size):
        return L.Flatten()(L.Embedding(WORDS, size)(x))

    product = L.Multiply()([embedded(user, 8), embedded(item, 8)])
    x = L.Concatenate()([embedded(user, 16), embedded(item, 16)])
    for units in (32, 16):
        x = L.Dense(units, activation="relu")(x)
    x = L.Concatenate()([product, x])
    return keras.Model([user, item], L.Dense(1, activation="sigmoid")(x))


def dlrm():
    """Scalar products of all pairs of embeddings and the output of dense layers."""
    numbers = keras.Input((6,), name="numbers")
    kinds = keras.Input((3,), dtype="int32", name="kinds")
    x = L.Dense(8)(L.Dense(24, activation="relu")(numbers))
    vectors = [L.Reshape((1, 8))(x), L.Embedding(WORDS, 8)(kinds)]
    vectors = L.Concatenate(axis=1)(vectors)
    y = L.Concatenate()([x, L.Flatten()(L.Dot(axes=2)([vectors, vectors]))])
    y = L.Dense(16, activation="relu")(y)
    return keras.Model([numbers, kinds], L.Dense(1)(y))


def cross_network():
    """Deep and cross network, version 2, with products with the first features."""
    inputs = keras.Input((16,))
    first = x = L.Dense(32)(inputs)
    for _ in range(2):
        x = L.Add()([L.Multiply()([first, L.Dense(32)(x)]), x])
    deep = L.Dense(24, activation="relu")(L.Dense(32, activation="relu")(inputs))
    return keras.Model(inputs, L.Dense(1)(L.Concatenate()([x, deep])))


def highway():
    inputs = keras.Input((16,))
    x = L.Dense(32)(inputs)
    for _ in range(3):
        gate = L.Dense(32, activation="sigmoid")(x)
        x = gate * L.Dense(32, activation="relu")(x) + (1.0 - gate) * x
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def swiglu():
    """Feed-forward blocks of language models, with normalization and gates."""
    inputs = keras.Input((8, 16))
    x = L.Dense(32)(inputs)
    for _ in range(2):
        y = L.RMSNormalization()(x)
        y = L.Dense(48, activation="silu")(y) * L.Dense(48)(y)
        x = L.Add()([x, L.Dense(32)(y)])
    x = L.GlobalAveragePooling1D()(L.RMSNormalization()(x))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def autoencoder():
    """Convolutions to a small code, and back."""
    inputs = keras.Input((16, 16, 3))
    x = conv(conv(inputs, 16, strides=2), 32, strides=2)
    code = L.Dense(16, name="code")(L.Flatten()(x))
    x = L.Reshape((4, 4, 32))(L.Dense(512, activation="relu")(code))
    for filters in (32, 16):
        x = L.Conv2DTranspose(filters, 3, 2, padding="same", activation="relu")(x)
    return keras.Model(inputs, L.Conv2D(3, 3, padding="same")(x))


def vae():
    """A VAE, with noise between the encoder and the decoder."""
    inputs = keras.Input((16, 16, 1))
    x = conv(conv(inputs, 16, strides=2), 32, strides=2)
    x = L.Dense(32, activation="relu")(L.Flatten()(x))
    mean, log_variance = L.Dense(8)(x), L.Dense(8)(x)
    noise = L.GaussianNoise(1.0)(mean * 0.0)
    code = mean + ops.exp(0.5 * log_variance) * noise
    x = L.Reshape((4, 4, 16))(L.Dense(256, activation="relu")(code))
    x = L.Conv2DTranspose(16, 3, 2, padding="same", activation="relu")(x)
    x = L.Conv2DTranspose(8, 3, 2, padding="same", activation="relu")(x)
    return keras.Model(inputs, L.Conv2D(1, 3, padding="same")(x))


def sequence_autoencoder():
    inputs = keras.Input((6, 4))
    x = L.LSTM(24, unroll=True)(inputs)
    x = L.LSTM(24, return_sequences=True, unroll=True)(L.RepeatVector(6)(x))
    return keras.Model(inputs, L.TimeDistributed(L.Dense(4))(x))


def dcgan():
    inputs = keras.Input((16,))
    x = L.Dense(4 * 4 * 32, use_bias=False)(inputs)
    x = L.Reshape((4, 4, 32))(L.LeakyReLU()(L.BatchNormalization()(x)))
    for filters, strides in ((24, 1), (16, 2)):
        x = L.Conv2DTranspose(filters, 5, strides, padding="same", use_bias=False)(x)
        x = L.LeakyReLU()(L.BatchNormalization()(x))
    x = L.Conv2DTranspose(1, 5, 2, padding="same", activation="tanh")(x)
    return keras.Model(inputs, x)


def discriminator():
    """PatchGAN: a score for each patch."""
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for filters in (16, 32, 48):
        x = L.Conv2D(filters, 4, 2, padding="same")(x)
        x = x if filters == 16 else L.BatchNormalization()(x)
        x = L.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(inputs, L.Conv2D(1, 4, padding="same")(x))


def nerf():
    """A field of color and density. The position is an input again in the middle."""
    position, direction = keras.Input((24,), name="x"), keras.Input((12,), name="d")
    x = L.Dense(32, activation="relu")(L.Dense(32, activation="relu")(position))
    x = L.Concatenate()([x, position])
    x = L.Dense(32, activation="relu")(L.Dense(32, activation="relu")(x))
    density = L.Dense(1, activation="softplus", name="density")(x)
    y = L.Concatenate()([L.Dense(32)(x), direction])
    y = L.Dense(16, activation="relu")(y)
    color = L.Dense(3, activation="sigmoid", name="color")(y)
    return keras.Model([position, direction], [color, density])


def siren():
    inputs = x = keras.Input((2,))
    for _ in range(3):
        x = ops.sin(3.0 * L.Dense(32)(x))
    return keras.Model(inputs, L.Dense(3)(x))


def pointnet():
    """Dense layers of each point, a maximum over all points, dense layers of both."""
    inputs = keras.Input((24, 3))
    x = L.Dense(16, activation="relu")(inputs)
    local = L.BatchNormalization()(x)
    x = L.BatchNormalization()(L.Dense(48, activation="relu")(local))
    whole = L.Reshape((48,))(L.GlobalMaxPooling1D()(x))
    x = L.Concatenate()([local, L.RepeatVector(24)(whole)])
    x = L.Dense(32, activation="relu")(x)
    return keras.Model(inputs, L.Dense(4)(x))


def deep_sets():
    inputs = keras.Input((10, 4))
    x = L.Dense(32, activation="relu")(L.Dense(24, activation="relu")(inputs))
    x = ops.sum(x, axis=1)
    x = L.Dense(24, activation="relu")(x)
    return keras.Model(inputs, L.Dense(2)(x))


def dueling_dqn():
    """Values of actions: the value of the state plus the advantage of each action."""
    inputs = keras.Input((20, 20, 4))
    x = L.Conv2D(16, 8, 4, activation="relu")(inputs)
    x = L.Flatten()(L.Conv2D(32, 3, activation="relu")(x))
    state = L.Dense(1)(L.Dense(32, activation="relu")(x))
    action = L.Dense(4)(L.Dense(32, activation="relu")(x))
    y = state + action - ops.mean(action, axis=-1, keepdims=True)
    return keras.Model(inputs, y)


def actor_critic():
    inputs = keras.Input((12,))
    x = L.Dense(32, activation="tanh")(L.Dense(32, activation="tanh")(inputs))
    policy = L.Dense(4, activation="softmax", name="policy")(x)
    return keras.Model(inputs, [policy, L.Dense(1, name="value")(x)])


def siamese():
    """The distance of two images after layers that both share."""
    first, second = (keras.Input((16, 16, 1), name=name) for name in ("a", "b"))
    shared = [
        L.Conv2D(16, 3, 2, activation="relu"),
        L.Conv2D(32, 3, 2, activation="relu"),
        L.GlobalAveragePooling2D(),
        L.Dense(16),
    ]

    def tower(x):
        for layer in shared:
            x = layer(x)
        return x

    difference = L.Subtract()([tower(first), tower(second)])
    distance = ops.sum(ops.square(difference), axis=-1, keepdims=True)
    return keras.Model([first, second], distance)


def nbeats():
    """Each block subtracts the part that it explains from the input of the next."""
    inputs = x = keras.Input((12,))
    forecasts = []
    for _ in range(2):
        y = L.Dense(32, activation="relu")(L.Dense(32, activation="relu")(x))
        x = L.Subtract()([x, L.Dense(12)(y)])
        forecasts.append(L.Dense(4)(y))
    return keras.Model(inputs, L.Add()(forecasts))


FEATURES = {
    "TextCNN": textcnn,
    "DAN": dan,
    "BiLSTM tagger": bilstm_tagger,
    "character CNN": char_cnn,
    "DPCNN": dpcnn,
    "wide and deep": wide_and_deep,
    "two towers": two_towers,
    "neural collaborative filtering": neural_cf,
    "DLRM": dlrm,
    "deep and cross": cross_network,
    "highway network": highway,
    "SwiGLU blocks": swiglu,
    "convolutional autoencoder": autoencoder,
    "VAE": vae,
    "LSTM autoencoder": sequence_autoencoder,
    "DCGAN": dcgan,
    "PatchGAN": discriminator,
    "NeRF": nerf,
    "SIREN": siren,
    "PointNet": pointnet,
    "DeepSets": deep_sets,
    "dueling DQN": dueling_dqn,
    "actor and critic": actor_critic,
    "Siamese network": siamese,
    "N-BEATS": nbeats,
}
