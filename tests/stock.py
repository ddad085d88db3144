"""Small networks, each of stock layers that are seldom in a network of images."""

import keras

L = keras.layers


def _conv(filters=16):
    return L.Conv2D(filters, 3, padding="same", activation="relu")


def _network(shape, stem, *layers):
    inputs = keras.Input(shape)
    x = stem(inputs)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def _images(*layers):
    return _network((6, 6, 3), _conv(), *layers)


def _steps(*layers):
    return _network((8, 3), L.Dense(16, activation="relu"), *layers)


def _video(*layers):
    return _network((4, 6, 6, 3), L.Conv3D(16, 1, activation="relu"), *layers)


def _series(*layers):
    """Recurrent layers on the inputs themselves; few steps, as each is a layer."""
    inputs = x = keras.Input((4, 3))
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, L.Dense(2)(x))


def _temporal_convolutions():
    """A residual block of dilated causal convolutions, and a GRU that reads it."""
    inputs = keras.Input((4, 3))
    x = shortcut = L.Conv1D(16, 2, padding="causal", activation="relu")(inputs)
    for rate in (1, 2):
        x = L.Conv1D(16, 2, padding="causal", dilation_rate=rate)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
    x = L.GRU(16)(L.Add()([x, shortcut]))
    return keras.Model(inputs, L.Dense(2)(x))


def _convolutional_recurrent():
    """Columns of an image as steps, as a reader of text lines sees them."""
    return _images(
        L.MaxPooling2D(2),
        _conv(),
        L.Permute((2, 1, 3)),
        L.Reshape((3, 48)),
        L.Bidirectional(L.GRU(16, return_sequences=True)),
        L.Bidirectional(L.LSTM(16, return_sequences=True), merge_mode="sum"),
    )


def _decoder():
    """From features to feature maps, as a VAE does, with a shortcut of the same."""
    inputs = keras.Input((5,))
    x = L.BatchNormalization()(L.Dense(96)(L.Dense(12, activation="relu")(inputs)))
    maps = L.Reshape((2, 3, 16))
    x = L.Add()([maps(L.LeakyReLU()(x)), maps(L.Dense(96)(inputs))])
    x = _conv()(L.UpSampling2D()(_conv(24)(x)))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def _of_each_step():
    each = L.TimeDistributed
    return _video(
        each(L.DepthwiseConv2D(3, depth_multiplier=2)),
        each(L.BatchNormalization()),
        each(L.ReLU()),
        each(L.AveragePooling2D(2)),
        each(L.Flatten()),
        L.Dense(16),
    )


def _readout_of_each_step():
    inputs = keras.Input((4, 3))
    x = L.Dense(24)(L.Dense(16, activation="relu")(inputs))
    return keras.Model(inputs, L.TimeDistributed(L.Dense(2))(x))


RECURRENT = {
    "gru": lambda: _series(L.GRU(16, return_sequences=True), L.GRU(24)),
    "gru-before": lambda: _series(
        L.Dense(16), L.GRU(16, reset_after=False, unroll=True), L.Dense(16)
    ),
    "lstm": lambda: _series(
        L.LSTM(16, return_sequences=True), L.LSTM(24, go_backwards=True, unroll=True)
    ),
    "simple-rnn": lambda: _series(
        L.SimpleRNN(24, return_sequences=True, use_bias=False), L.SimpleRNN(16)
    ),
    "bidirectional": lambda: _series(
        L.Bidirectional(L.LSTM(16, return_sequences=True)),
        L.Bidirectional(L.GRU(16, return_sequences=True), merge_mode="mul"),
        L.Bidirectional(L.SimpleRNN(16, unroll=True), merge_mode="ave"),
    ),
    "temporal-convolutions": _temporal_convolutions,
    "convolutional-recurrent": _convolutional_recurrent,
}
NETWORKS = {
    **RECURRENT,
    "conv1d-transpose": lambda: _steps(
        L.Conv1DTranspose(24, 3, strides=2, padding="same"), L.Conv1DTranspose(16, 3)
    ),
    "conv3d": lambda: _video(
        L.Conv3D(24, 3, strides=2, padding="same"),
        L.BatchNormalization(),
        L.Conv3D(16, 2),
    ),
    "conv3d-transpose": lambda: _video(
        L.Conv3D(8, 3, strides=2, padding="same"),
        L.Conv3DTranspose(16, 3, strides=2, padding="same"),
        L.Conv3D(16, 1),
    ),
    "separable1d": lambda: _steps(
        L.SeparableConv1D(24, 3, depth_multiplier=2), L.SeparableConv1D(16, 3)
    ),
    "adaptive1d": lambda: _steps(
        L.AdaptiveAveragePooling1D(5), L.AdaptiveMaxPooling1D(3), L.Dense(16)
    ),
    "adaptive2d": lambda: _images(
        L.AdaptiveAveragePooling2D((4, 5)), L.AdaptiveMaxPooling2D((2, 3)), _conv()
    ),
    "crop": lambda: _images(L.CenterCrop(4, 3), _conv(), L.CenterCrop(6, 2), _conv()),
    "softmax": lambda: _images(L.Softmax(axis=(1, 2)), _conv(), L.Softmax(1), _conv()),
    "instance-normalization": lambda: _images(
        L.GroupNormalization(-1), _conv(24), L.GroupNormalization(24), _conv()
    ),
    "unit-normalization": lambda: _images(L.UnitNormalization([1, 2]), _conv()),
    "time-distributed": _of_each_step,
    "time-distributed-readout": _readout_of_each_step,
    "decoder": _decoder,
    "rows-of-cols": lambda: _images(L.Reshape((6, 96)), L.Dense(32), L.Dense(16)),
    "heads": lambda: _steps(L.Dense(32), L.Reshape((8, 2, 16)), L.Dense(16)),
}
#: Those that a file cannot hold, as TFLite has no builtin operators for them.
NO_FILES = {
    "adaptive3d": lambda: _video(
        L.AdaptiveAveragePooling3D((3, 4, 4)), L.AdaptiveMaxPooling3D(2), L.Dense(16)
    ),
    "max-pooling3d": lambda: _video(L.MaxPooling3D(2), L.Dense(16)),
    "conv3d-dilated": lambda: _video(L.Conv3D(16, 2, dilation_rate=2), L.Dense(16)),
    "average-pooling3d": lambda: _video(
        L.TimeDistributed(L.TimeDistributed(L.ReLU())),
        L.AveragePooling3D(2),
        L.Dense(16),
    ),
}
