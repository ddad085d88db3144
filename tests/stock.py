"""Small networks of stock layers that networks of images seldom use."""

import keras
import numpy as np

L, ops = keras.layers, keras.ops
#: Shuffles two groups of 8 channels: the first channel of each group, then the second
#: channel of each group, and so on.
SHUFFLE = [place for first in range(8) for place in (first, first + 8)]


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
    """Builds a network whose recurrent layers read the inputs.

    It has few steps, because an unrolled layer has operations for each step.
    """
    inputs = x = keras.Input((4, 3))
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, L.Dense(2)(x))


def _temporal_convolutions():
    """Builds a residual block of dilated causal convolutions, then a GRU."""
    inputs = keras.Input((4, 3))
    x = shortcut = L.Conv1D(16, 2, padding="causal", activation="relu")(inputs)
    for rate in (1, 2):
        x = L.Conv1D(16, 2, padding="causal", dilation_rate=rate)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
    x = L.GRU(16)(L.Add()([x, shortcut]))
    return keras.Model(inputs, L.Dense(2)(x))


def _vision_transformer():
    """Builds patches as tokens, then two blocks of attention and dense layers."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 4, strides=4)(inputs)
    x = L.Reshape((4, 16))(x)
    for layer in (L.MultiHeadAttention(4, 4), L.GroupQueryAttention(4, 4, 2)):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, layer(y, y)])
        y = L.LayerNormalization()(x)
        y = L.EinsumDense("abc,cd->abd", (4, 32), "gelu", bias_axes="d")(y)
        x = L.Add()([x, L.Dense(16)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(2)(x))


def _tokens():
    """Builds causal attention over words, some of which are padding."""
    inputs = keras.Input((5,), dtype="int32")
    x = L.Dense(16)(L.Embedding(9, 8, mask_zero=True)(inputs))
    y = L.MultiHeadAttention(4, 4)(x, x, use_causal_mask=True)
    x = L.LayerNormalization()(L.Add()([x, y]))
    # Reads the last word instead of a mean over all words. For a sample that contains
    # only padding, a mean would be 0 / 0.
    return keras.Model(inputs, L.Dense(2)(x[:, -1]))


def _convolutional_recurrent():
    """Builds a network that reads the columns of an image as steps, like text lines."""
    return _images(
        L.MaxPooling2D(2),
        _conv(),
        L.Permute((2, 1, 3)),
        L.Reshape((3, 48)),
        L.Bidirectional(L.GRU(16, return_sequences=True)),
        L.Bidirectional(L.LSTM(16, return_sequences=True), merge_mode="sum"),
    )


def _decoder():
    """Builds feature maps from features in two branches, as in a VAE, and adds them."""
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
    """Builds a block of ConvNeXt between two resolutions."""
    inputs = keras.Input((6, 6, 3))
    x = L.LayerNormalization(epsilon=1e-6)(L.Conv2D(16, 2, strides=2)(inputs))
    y = L.LayerNormalization()(L.DepthwiseConv2D(3, padding="same")(x))
    y = L.Dense(16)(L.Dense(32, activation="gelu")(y))
    x = L.LayerNormalization(center=False)(L.Add()([x, y]))
    x = L.GlobalAveragePooling2D()(L.Conv2D(24, 2, strides=2)(x))
    return keras.Model(inputs, L.Dense(2)(L.LayerNormalization()(x)))


def _twice_normalized():
    """Builds two branches that share a normalization layer."""
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


def _of_parts(*functions):
    """Makes a builder of a network that has a convolution before each function."""

    def network():
        inputs = keras.Input((6, 6, 3))
        x = _conv()(inputs)
        for function in functions:
            x = _conv(function(x).shape[-1])(function(_conv()(x)))
        return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))

    return network


def _resnext(x):
    """Adds a block of ResNeXt or RegNet: a bottleneck with 4 groups."""
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(32, 1, use_bias=False)(x)))
    y = L.Conv2D(32, 3, padding="same", groups=4, use_bias=False)(y)
    y = L.Conv2D(16, 1)(L.ReLU()(L.BatchNormalization()(y)))
    return L.ReLU()(L.Add()([x, y]))


def half_shuffled(x):
    """Adds a unit of ShuffleNetV2."""
    kept, x = ops.split(x, 2, axis=-1)
    x = ops.concatenate([kept, _conv(8)(x)], axis=-1)
    return ops.take(x, SHUFFLE, axis=-1)


def _shuffled_by_layers(x):
    kept, x = x[..., :8], _conv(8)(x[..., 8:])
    x = L.Reshape((6, 6, 2, 8))(L.Concatenate()([kept, x]))
    return L.Reshape((6, 6, 16))(L.Permute((1, 2, 4, 3))(x))


def _shuffled_by_operations(x):
    x = ops.transpose(ops.reshape(x, (-1, 6, 6, 4, 4)), (0, 1, 2, 4, 3))
    return ops.reshape(x, (-1, 6, 6, 16))


def _cross_stage(x):
    """Adds C2f, the block of YOLOv8."""
    parts = ops.split(x, 2, axis=-1)
    for _ in range(2):
        parts.append(parts[-1] + _conv(8)(_conv(8)(parts[-1])))
    return L.Concatenate()(parts)


def _partly_convolved(x):
    """Adds a block of FasterNet."""
    y = L.Concatenate()([_conv(4)(x[..., :4]), x[..., 4:]])
    return x + L.Conv2D(16, 1)(L.Conv2D(32, 1, activation="relu")(y))


def _gated(x):
    value, gate = x[..., :8], x[..., 8:]
    return ops.glu(L.Conv2D(24, 1)(value * ops.sigmoid(gate)))


def _with_positions(x):
    """Adds and multiplies constants that have the axis of the channels."""
    positions = np.sin(np.arange(36 * 16, dtype="float32")).reshape(6, 6, 16)
    return (x + positions) * np.linspace(0.5, 2, 16, dtype="float32")


def _every_second(x):
    return x[:, ::2, :, ::2] + L.Conv2D(8, 1)(x[:, 1::2, :, 1::2])


def _shortcut(x):
    """Adds a residual block with more channels and a shortcut without weights."""
    y = L.BatchNormalization()(L.Conv2D(24, 3, strides=2, padding="same")(x))
    return ops.relu(y + ops.pad(x[:, ::2, ::2], [(0, 0), (0, 0), (0, 0), (4, 4)]))


def _unevenly_split(x):
    first, second, third = ops.array_split(x, 3, axis=-1)
    return ops.concatenate([_conv(8)(first), second * backwards(third)], axis=-1)


def _upsampled(x):
    """Upsamples by subpixels, as in ESPCN, and downsamples again."""
    return ops.space_to_depth(L.ReLU()(ops.depth_to_space(x, 2)), 2)


def _upsampled_by_shapes(x):
    x = ops.reshape(_conv(24)(x), (-1, 6, 6, 2, 2, 6))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 12, 12, 6))
    return L.MaxPooling2D()(x)


def backwards(x, step=1):
    """Returns every `step`-th channel, from the last to the first."""
    # PyTorch has no slices with a negative step.
    if keras.backend.backend() == "torch":
        return ops.flip(x, axis=-1)[..., ::step]
    return x[..., ::-step]


def _moved(x):
    x = ops.tile(ops.repeat(x, 2, axis=-1), (1, 1, 1, 2))
    return backwards(ops.flip(ops.flip(x, axis=1), axis=-1))


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
    "vision-transformer": _vision_transformer,
    "tokens": _tokens,
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
    "conv1d-of-each-channel": lambda: _steps(
        L.Conv1D(32, 3, groups=16, padding="causal", activation="relu"), L.Dense(16)
    ),
    "conv2d-of-each-channel": lambda: _images(
        _conv(24),
        L.Conv2D(24, 3, groups=24, use_bias=False),
        L.BatchNormalization(),
        L.Conv2D(48, (3, 1), groups=24, strides=2, activation="relu"),
        _conv(),
    ),
    "groups1d": lambda: _steps(
        L.Conv1D(32, 3, groups=2, padding="causal", activation="relu"), L.Dense(16)
    ),
    "groups2d": _of_parts(_resnext, lambda x: L.Conv2D(24, 3, groups=2)(x)),
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
    "halves": _of_parts(half_shuffled, half_shuffled),
    "shuffled": _of_parts(_shuffled_by_layers, _shuffled_by_operations),
    "cross-stage": _of_parts(_cross_stage),
    "partial-convolution": _of_parts(_partly_convolved),
    "gated": _of_parts(_gated, lambda x: ops.split(x, [8], axis=-1)[0]),
    "every-second": _of_parts(_every_second),
    "moved": _of_parts(_moved),
    "padded": _of_parts(_shortcut),
    "unevenly-split": _of_parts(_unevenly_split),
    "positions": _of_parts(_with_positions),
    "depth-to-space": _of_parts(_upsampled, _upsampled_by_shapes),
    "spectral-normalization": lambda: _network(
        (6, 6, 3),
        L.SpectralNormalization(_conv()),
        L.SpectralNormalization(_conv(24)),
        L.SpectralNormalization(L.Dense(16, activation="relu")),
    ),
    "heads": lambda: _steps(L.Dense(32), L.Reshape((8, 2, 16)), L.Dense(16)),
}
#: Networks that cannot be widened, because constants in them have the axis of the
#: channels.
OF_ONE_SIZE = ("positions",)
#: Networks that a file cannot hold, because TFLite has no builtin operators for them.
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
if not hasattr(L, "AdaptiveMaxPooling2D"):  # Keras 3.13
    for _network_name in ("adaptive1d", "adaptive2d"):
        del NETWORKS[_network_name]
    del NO_FILES["adaptive3d"]
