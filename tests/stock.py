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


def _convnext_block():
    """ConvNeXt's block, between two resolutions."""
    inputs = keras.Input((6, 6, 3))
    x = L.LayerNormalization(epsilon=1e-6)(L.Conv2D(16, 2, strides=2)(inputs))
    y = L.LayerNormalization()(L.DepthwiseConv2D(3, padding="same")(x))
    y = L.Dense(16)(L.Dense(32, activation="gelu")(y))
    x = L.LayerNormalization(center=False)(L.Add()([x, y]))
    x = L.GlobalAveragePooling2D()(L.Conv2D(24, 2, strides=2)(x))
    return keras.Model(inputs, L.Dense(2)(L.LayerNormalization()(x)))


def _twice_normalized():
    """Two branches that share their normalization, with other channels in between."""
    inputs = keras.Input((8, 3))
    normalize = L.LayerNormalization()
    first, second = normalize(L.Dense(16)(inputs)), normalize(L.Dense(16)(inputs))
    x = L.Concatenate()([first, L.Dense(24, activation="relu")(second)])
    x = L.Dense(16)(L.RMSNormalization()(x))
    return keras.Model(inputs, L.Dense(2)(L.RMSNormalization()(x)))


def _readout_of_each_step():
    inputs = keras.Input((4, 3))
    x = L.Dense(24)(L.Dense(16, activation="relu")(inputs))
    return keras.Model(inputs, L.TimeDistributed(L.Dense(2))(x))


NETWORKS = {
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
    "convnext": _convnext_block,
    "shared-normalization": _twice_normalized,
    "normalized-features": lambda: _network(
        (5,), L.Dense(16), L.RMSNormalization(), L.Dense(32), L.LayerNormalization()
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
