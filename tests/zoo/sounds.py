"""Networks of sounds and other series."""

import keras

from tests.zoo.blocks import CLASSES, L, activated, conv, depthwise, ops


def conv1d(x, filters, size=3, strides=1, activation="relu", **kwargs):
    kwargs = {"padding": "same", "use_bias": False, **kwargs}
    x = L.Conv1D(filters, size, strides, **kwargs)(x)
    return activated(L.BatchNormalization()(x), activation)


def tcn():
    """Residual blocks of dilated causal convolutions."""
    inputs = x = keras.Input((32, 8))
    for rate in (1, 2, 4):
        y = x
        for _ in range(2):
            y = L.Conv1D(24, 3, padding="causal", dilation_rate=rate)(y)
            y = L.SpatialDropout1D(0.1)(L.ReLU()(y))
        x = L.Conv1D(24, 1)(x) if x.shape[-1] != 24 else x
        x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(CLASSES)(x[:, -1]))


def tcn_pooled():
    """Residual blocks of dilated convolutions, with a mean over all steps."""
    inputs = x = keras.Input((32, 8))
    for rate in (1, 2, 4):
        y = x
        for _ in range(2):
            y = L.Conv1D(24, 3, padding="causal", dilation_rate=rate)(y)
            y = L.LayerNormalization()(L.ReLU()(y))
        x = L.Conv1D(24, 1)(x) if x.shape[-1] != 24 else x
        x = L.ReLU()(L.Add()([x, y]))
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def crnn():
    """Reads text lines: convolutions, then recurrent layers over the columns."""
    inputs = keras.Input((16, 32, 1))
    x = L.MaxPooling2D()(conv(inputs, 16))
    x = L.MaxPooling2D((4, 4))(conv(x, 32))
    x = L.Permute((2, 1, 3))(x)
    x = L.Reshape((x.shape[1], x.shape[2] * x.shape[3]))(x)
    for _ in range(2):
        x = L.Bidirectional(L.LSTM(16, return_sequences=True, unroll=True))(x)
    return keras.Model(inputs, L.Dense(CLASSES + 1)(x))


def deep_speech():
    """Convolutions over time and bands, GRUs, scores of letters at each step."""
    inputs = keras.Input((16, 20, 1))
    x = conv(inputs, 16, (5, 7), (2, 2), "relu6")
    x = conv(x, 16, (5, 5), (1, 2), "relu6")
    x = L.Reshape((x.shape[1], x.shape[2] * x.shape[3]))(x)
    for _ in range(2):
        rnn = L.GRU(24, return_sequences=True, unroll=True)
        x = L.BatchNormalization()(L.Bidirectional(rnn, merge_mode="sum")(x))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def rnnoise():
    """Three GRUs that give the gains of bands and whether somebody speaks."""
    inputs = keras.Input((6, 20))
    x = L.Dense(16, activation="tanh")(inputs)
    voice = L.GRU(16, activation="relu", return_sequences=True, unroll=True)(x)
    noise = L.Concatenate()([x, voice, inputs])
    noise = L.GRU(24, activation="relu", return_sequences=True, unroll=True)(noise)
    y = L.Concatenate()([voice, noise, inputs])
    y = L.GRU(32, return_sequences=True, unroll=True)(y)
    gains = L.Dense(12, activation="sigmoid", name="gains")(y)
    spoken = L.Dense(1, activation="sigmoid", name="voice")(voice)
    return keras.Model(inputs, [gains, spoken])


def wavenet():
    """Gated dilated convolutions. The skips of all layers are added."""
    inputs = keras.Input((64, 1))
    x = L.Conv1D(24, 2, padding="causal")(inputs)
    skips = []
    for rate in (1, 2, 4, 8):
        filtered, gate = (
            L.Conv1D(24, 2, padding="causal", dilation_rate=rate, activation=act)(x)
            for act in ("tanh", "sigmoid")
        )
        y = L.Multiply()([filtered, gate])
        skips.append(L.Conv1D(32, 1)(y))
        x = L.Add()([x, L.Conv1D(24, 1)(y)])
    x = L.ReLU()(L.Add()(skips))
    x = L.Conv1D(32, 1, activation="relu")(x)
    return keras.Model(inputs, L.Conv1D(64, 1)(x))


def melgan():
    """Makes sound from mel bands, with transposed and dilated convolutions."""

    def leaky(x):
        return L.LeakyReLU(negative_slope=0.2)(x)

    inputs = keras.Input((8, 20))
    x = L.Conv1D(48, 7, padding="same")(inputs)
    for filters, rate in ((32, 4), (16, 2)):
        x = L.Conv1DTranspose(filters, 2 * rate, rate, padding="same")(leaky(x))
        for dilation in (1, 3):
            y = L.Conv1D(filters, 3, padding="same", dilation_rate=dilation)(leaky(x))
            y = L.Conv1D(filters, 1)(leaky(y))
            x = L.Add()([L.Conv1D(filters, 1)(x), y])
    x = L.Conv1D(1, 7, padding="same", activation="tanh")(leaky(x))
    return keras.Model(inputs, x)


def conv_tasnet():
    """A mask for each of two speakers on the encoded sound."""
    inputs = keras.Input((64, 1))
    sound = L.Conv1D(32, 8, 4, padding="same", activation="relu")(inputs)
    x = L.Conv1D(16, 1)(L.LayerNormalization()(sound))
    for rate in (1, 2):
        y = L.PReLU(shared_axes=[1])(L.Conv1D(32, 1)(x))
        y = L.LayerNormalization()(y)
        y = L.Conv1D(32, 3, padding="same", dilation_rate=rate, groups=32)(y)
        y = L.LayerNormalization()(L.PReLU(shared_axes=[1])(y))
        x = L.Add()([x, L.Conv1D(16, 1)(y)])
    outputs = []
    for speaker in ("first", "second"):
        mask = L.Conv1D(32, 1, activation="sigmoid")(x)
        y = L.Multiply()([sound, mask])
        decoder = L.Conv1DTranspose(1, 8, 4, padding="same", name=speaker)
        outputs.append(decoder(y))
    return keras.Model(inputs, outputs)


def wave_unet():
    inputs = keras.Input((64, 1))
    x, skips = inputs, []
    for filters in (12, 24):
        x = L.Conv1D(filters, 15, padding="same")(x)
        x = L.LeakyReLU(negative_slope=0.2)(x)
        skips.append(x)
        x = x[:, ::2]
    x = L.LeakyReLU(negative_slope=0.2)(L.Conv1D(36, 15, padding="same")(x))
    for skip in reversed(skips):
        x = L.Concatenate()([L.UpSampling1D()(x), skip])
        x = L.Conv1D(skip.shape[-1], 5, padding="same")(x)
        x = L.LeakyReLU(negative_slope=0.2)(x)
    x = L.Concatenate()([x, inputs])
    return keras.Model(inputs, L.Conv1D(1, 1, activation="tanh")(x))


def m5():
    """Raw sound: a long first kernel, then small ones."""
    inputs = keras.Input((512, 1))
    x = L.MaxPooling1D(4)(conv1d(inputs, 16, 80, 4))
    x = L.MaxPooling1D(4)(conv1d(x, 32))
    x = L.GlobalAveragePooling1D()(conv1d(x, 64))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def matchboxnet():
    """Residual blocks of separable convolutions over time."""

    def separable(x, filters, activation="relu"):
        x = L.SeparableConv1D(filters, 11, padding="same", use_bias=False)(x)
        return activated(L.BatchNormalization()(x), activation)

    inputs = keras.Input((48, 16))
    x = conv1d(inputs, 32, 11, 2)
    for _ in range(2):
        y = separable(separable(x, 24), 24, None)
        x = L.ReLU()(L.Add()([conv1d(x, 24, 1, activation=None), y]))
    x = L.GlobalAveragePooling1D()(conv1d(x, 48, 1))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def bc_resnet():
    """Broadcast residuals: a mean over bands is added to each band."""

    def block(x):
        y = depthwise(x, (3, 1), activation=None)
        z = ops.mean(y, axis=1, keepdims=True)
        z = depthwise(z, (1, 3), activation="swish")
        z = L.Conv2D(x.shape[-1], 1)(z)
        return L.ReLU()(x + y + z)

    inputs = keras.Input((20, 24, 1))
    x = conv(inputs, 16, 5, (2, 1))
    x = block(conv(block(x), 24, 1))
    x = L.GlobalAveragePooling2D()(conv(x, 32, 1))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def inception_time():
    def module(x):
        squeezed = L.Conv1D(8, 1, use_bias=False)(x)
        parts = [
            L.Conv1D(8, size, padding="same", use_bias=False)(squeezed)
            for size in (9, 5, 3)
        ]
        pooled = L.MaxPooling1D(3, 1, padding="same")(x)
        parts.append(L.Conv1D(8, 1, use_bias=False)(pooled))
        return L.ReLU()(L.BatchNormalization()(L.Concatenate()(parts)))

    inputs = keras.Input((32, 3))
    first = module(inputs)
    x = module(module(first))
    x = L.ReLU()(L.Add()([x, conv1d(first, 32, 1, activation=None)]))
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def lstnet():
    """A convolution and a GRU, beside a linear forecast from the last values."""
    inputs = keras.Input((16, 6))
    x = L.Conv1D(24, 6, activation="relu")(inputs)
    x = L.GRU(24, activation="relu", unroll=True)(x)
    recent = L.Dense(6)(L.Flatten()(inputs[:, -4:]))
    return keras.Model(inputs, L.Add()([L.Dense(6)(x), recent]))


def ecg_resnet():
    inputs = keras.Input((64, 2))
    x = conv1d(inputs, 16, 7, 2)
    for filters in (24, 32):
        y = conv1d(conv1d(x, filters, 7, 2), filters, 7, activation=None)
        x = L.MaxPooling1D()(conv1d(x, filters, 1, activation=None))
        x = L.ReLU()(L.Add()([x, y]))
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def attention_pooling():
    """Attentive pooling: a softmax over time weighs the steps."""
    inputs = keras.Input((16, 8))
    x = L.Conv1D(32, 3, padding="same", activation="relu")(inputs)
    x = L.Conv1D(32, 3, padding="same", activation="relu")(x)
    weights = ops.softmax(L.Dense(32)(L.Dense(16, activation="tanh")(x)), axis=1)
    x = L.Dense(24, activation="relu")(ops.sum(weights * x, axis=1))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


SOUNDS = {
    "TCN": tcn,
    "TCN, pooled": tcn_pooled,
    "CRNN": crnn,
    "Deep Speech 2": deep_speech,
    "RNNoise": rnnoise,
    "WaveNet": wavenet,
    "MelGAN": melgan,
    "Conv-TasNet": conv_tasnet,
    "Wave-U-Net": wave_unet,
    "M5": m5,
    "MatchboxNet": matchboxnet,
    "BC-ResNet": bc_resnet,
    "InceptionTime": inception_time,
    "LSTNet": lstnet,
    "ECG ResNet": ecg_resnet,
    "attention pooling": attention_pooling,
}
