"""Classifiers of images, each with two or three blocks of its architecture."""

import keras

from tests.zoo.blocks import (
    CLASSES,
    L,
    activated,
    classifier,
    conv,
    depthwise,
    inverted,
    ops,
    residual,
    squeeze_and_excite,
)


def lenet():
    inputs = keras.Input((28, 28, 1))
    x = L.AveragePooling2D(2)(L.Conv2D(6, 5, activation="tanh")(inputs))
    x = L.AveragePooling2D(2)(L.Conv2D(16, 5, activation="tanh")(x))
    x = L.Dense(120, activation="tanh")(L.Flatten()(x))
    x = L.Dense(84, activation="tanh")(x)
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def vgg():
    inputs = x = keras.Input((32, 32, 3))
    for filters in (16, 32, 64):
        for _ in range(2):
            x = L.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = L.MaxPooling2D()(x)
    x = L.Dropout(0.5)(L.Dense(64, activation="relu")(L.Flatten()(x)))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def squeezenet():
    def fire(x, squeezed, expanded):
        x = L.Conv2D(squeezed, 1, activation="relu")(x)
        wide = L.Conv2D(expanded, 3, padding="same", activation="relu")(x)
        return L.Concatenate()([L.Conv2D(expanded, 1, activation="relu")(x), wide])

    inputs = keras.Input((32, 32, 3))
    x = L.MaxPooling2D()(L.Conv2D(16, 3, 2, activation="relu")(inputs))
    x = L.MaxPooling2D()(fire(fire(x, 8, 16), 8, 16))
    x = L.Dropout(0.5)(fire(x, 16, 32))
    return keras.Model(inputs, L.GlobalAveragePooling2D()(L.Conv2D(CLASSES, 1)(x)))


def googlenet():
    def inception(x, filters):
        branches = [
            conv(x, filters, 1),
            conv(conv(x, filters, 1), 2 * filters),
            conv(conv(x, filters // 2, 1), filters, 5),
            conv(L.MaxPooling2D(3, 1, padding="same")(x), filters, 1),
        ]
        return L.Concatenate()(branches)

    return classifier(
        lambda x: inception(L.MaxPooling2D()(inception(conv(x, 16, 7, 2), 8)), 16)
    )


def wide_resnet():
    def stages(x):
        x = L.Conv2D(16, 3, padding="same", use_bias=False)(x)
        for filters, strides in ((32, 1), (32, 1), (64, 2)):
            before = L.ReLU()(L.BatchNormalization()(x))
            y = conv(before, filters, strides=strides)
            y = L.Conv2D(filters, 3, padding="same", use_bias=False)(y)
            if x.shape[-1] != filters:
                x = L.Conv2D(filters, 1, strides, use_bias=False)(before)
            x = L.Add()([x, y])
        return L.ReLU()(L.BatchNormalization()(x))

    return classifier(stages)


def resnext():
    def block(x, filters, strides=1):
        y = conv(conv(x, filters, 1), filters, strides=strides, groups=4)
        y = conv(y, 2 * filters, 1, activation=None)
        if strides > 1 or x.shape[-1] != 2 * filters:
            x = conv(x, 2 * filters, 1, strides, activation=None)
        return L.ReLU()(L.Add()([x, y]))

    return classifier(lambda x: block(block(block(conv(x, 32), 32), 32), 64, 2))


def regnet_y():
    def block(x, filters, strides):
        y = conv(conv(x, filters, 1), filters, strides=strides, groups=filters // 8)
        y = conv(squeeze_and_excite(y), filters, 1, activation=None)
        if strides > 1 or x.shape[-1] != filters:
            x = conv(x, filters, 1, strides, activation=None)
        return L.ReLU()(L.Add()([x, y]))

    return classifier(lambda x: block(block(block(conv(x, 32), 32, 2), 32, 1), 64, 2))


def se_resnet():
    def block(x, filters):
        y = squeeze_and_excite(conv(conv(x, filters), filters, activation=None))
        return L.ReLU()(L.Add()([conv(x, filters, 1, activation=None), y]))

    return classifier(lambda x: block(L.MaxPooling2D()(block(conv(x, 16), 32)), 64))


def sk_resnet():
    """Selective kernels. The softmax of two branches is written as a sigmoid."""

    def block(x, filters):
        small, large = conv(x, filters), conv(x, filters, dilation_rate=2)
        y = L.GlobalAveragePooling2D(keepdims=True)(L.Add()([small, large]))
        gate = L.Conv2D(filters, 1, activation="sigmoid")(conv(y, filters // 2, 1))
        y = small * gate + large * (1.0 - gate)
        return L.ReLU()(L.Add()([x, conv(y, x.shape[-1], 1, activation=None)]))

    return classifier(lambda x: block(L.MaxPooling2D()(block(conv(x, 32), 16)), 32))


def res2net():
    def block(x):
        y = conv(x, 32, 1)
        first, *parts = ops.split(y, 4, axis=-1)
        done = [first]
        for part in parts:
            part = part if len(done) == 1 else L.Add()([part, done[-1]])
            done.append(conv(part, 8))
        y = conv(L.Concatenate()(done), x.shape[-1], 1, activation=None)
        return L.ReLU()(L.Add()([x, y]))

    return classifier(lambda x: block(block(conv(x, 32, strides=2))))


def densenet():
    def dense_block(x):
        for _ in range(3):
            y = L.ReLU()(L.BatchNormalization()(x))
            y = L.Conv2D(8, 3, padding="same", use_bias=False)(conv(y, 32, 1))
            x = L.Concatenate()([x, y])
        return x

    def stages(x):
        x = dense_block(L.Conv2D(16, 3, padding="same", use_bias=False)(x))
        x = L.AveragePooling2D(2)(conv(x, 20, 1))
        return L.ReLU()(L.BatchNormalization()(dense_block(x)))

    return classifier(stages)


def repvgg():
    """RepVGG as it is trained, with three branches for each convolution."""

    def block(x, filters, strides=1):
        branches = [conv(x, filters, size, strides, activation=None) for size in (3, 1)]
        if strides == 1 and x.shape[-1] == filters:
            branches.append(L.BatchNormalization()(x))
        return L.ReLU()(L.Add()(branches))

    return classifier(lambda x: block(block(block(block(x, 16), 16), 32, 2), 32))


def mobileone():
    """MobileOne as it is trained, with copies of depthwise and pointwise branches."""

    def block(x, filters, strides=1):
        branches = [depthwise(x, 3, strides, None) for _ in range(2)]
        branches.append(depthwise(x, 1, strides, None))
        if strides == 1:
            branches.append(L.BatchNormalization()(x))
        x = L.ReLU()(L.Add()(branches))
        branches = [conv(x, filters, 1, activation=None) for _ in range(2)]
        if x.shape[-1] == filters:
            branches.append(L.BatchNormalization()(x))
        return L.ReLU()(squeeze_and_excite(L.Add()(branches)))

    return classifier(lambda x: block(block(conv(x, 16, strides=2), 32), 32, 2))


def hgnet_v2():
    def light(x, filters):
        return depthwise(conv(x, filters, 1, activation=None), 5)

    def block(x, middle, filters):
        parts = [x]
        for _ in range(3):
            parts.append(light(parts[-1], middle))
        x = conv(L.Concatenate()(parts), filters // 2, 1)
        return conv(x, filters, 1)

    def stem(x):
        x = conv(x, 16, strides=2)
        y = conv(conv(x, 8, 2), 16, 2)
        return conv(L.Concatenate()([L.MaxPooling2D(2, 1, padding="same")(x), y]), 24)

    def stages(x):
        x = block(stem(x), 16, 32)
        x = depthwise(x, strides=2, activation=None)
        return L.Add()([x, block(x, 16, 32)])

    return classifier(stages)


def shufflenet_v2():
    def shuffle(x):
        _, rows, cols, channels = x.shape
        x = L.Permute((1, 2, 4, 3))(L.Reshape((rows, cols, 2, channels // 2))(x))
        return L.Reshape((rows, cols, channels))(x)

    def branch(x, filters, strides=1):
        x = depthwise(conv(x, filters, 1), strides=strides, activation=None)
        return conv(x, filters, 1)

    def unit(x):
        kept, x = ops.split(x, 2, axis=-1)
        return shuffle(L.Concatenate()([kept, branch(x, x.shape[-1])]))

    def down(x, filters):
        y = conv(depthwise(x, strides=2, activation=None), filters // 2, 1)
        return shuffle(L.Concatenate()([y, branch(x, filters // 2, 2)]))

    return classifier(lambda x: conv(unit(unit(down(conv(x, 24), 32))), 64, 1))


def mobilenet_v4_conv():
    def universal(x, filters, before, after, expand=4, strides=1):
        shortcut, channels = x, x.shape[-1]
        x = depthwise(x, before, activation=None) if before else x
        x = conv(x, channels * expand, 1)
        x = depthwise(x, after, strides) if after else x
        x = conv(x, filters, 1, activation=None)
        same = strides == 1 and channels == filters
        return L.Add()([shortcut, x]) if same else x

    def stages(x):
        x = conv(conv(x, 16, strides=2), 32)  # a fused block
        x = conv(x, 24, 1)
        x = universal(x, 32, 5, 5, strides=2)  # both depthwise convolutions
        x = universal(x, 32, 0, 3)  # inverted bottleneck
        x = universal(x, 32, 3, 0)  # as in ConvNeXt
        return conv(universal(x, 32, 0, 0), 64, 1)  # feed-forward

    return classifier(stages)


def mobilenet_v2():
    def stages(x):
        x = inverted(conv(x, 16, strides=2, activation="relu6"), 8, expand=1)
        x = inverted(inverted(x, 16, 6, strides=2), 16, 6)
        return conv(x, 64, 1, activation="relu6")

    return classifier(stages)


def mobilenet_v3():
    def stages(x):
        x = conv(x, 16, strides=2, activation="hard_swish")
        x = inverted(x, 16, 2, excite=True)
        x = inverted(x, 24, 4, 5, 2, "hard_swish", excite=True)
        return conv(x, 64, 1, activation="hard_swish")

    return classifier(stages)


def efficientnet():
    def stages(x):
        x = conv(x, 16, strides=2, activation="swish")
        x = inverted(x, 16, 4, 3, 1, "swish", excite=True)
        x = inverted(x, 24, 4, 5, 2, "swish", excite=True)
        return conv(x, 64, 1, activation="swish")

    return classifier(stages)


def ghostnet():
    def ghost(x, filters, activation="relu"):
        x = conv(x, filters // 2, 1, activation=activation)
        return L.Concatenate()([x, depthwise(x, activation=activation)])

    def block(x, expanded, filters):
        y = squeeze_and_excite(ghost(x, expanded), gate="hard_sigmoid")
        y = ghost(y, filters, None)
        return L.Add()([conv(x, filters, 1, activation=None), y])

    return classifier(lambda x: block(block(conv(x, 16, strides=2), 32, 16), 48, 24))


def fasternet():
    def block(x):
        first, rest = ops.split(x, [8], axis=-1)
        y = L.Conv2D(8, 3, padding="same", use_bias=False)(first)
        y = conv(L.Concatenate()([y, rest]), 64, 1)
        return L.Add()([x, L.Conv2D(32, 1, use_bias=False)(y)])

    def stages(x):
        x = L.BatchNormalization()(L.Conv2D(32, 4, 4, use_bias=False)(x))
        return block(block(x))

    return classifier(stages)


def convnext():
    def block(x):
        channels = x.shape[-1]
        y = L.DepthwiseConv2D(7, padding="same")(x)
        y = L.Dense(4 * channels, activation="gelu")(L.LayerNormalization()(y))
        return L.Add()([x, L.Dense(channels)(y)])

    def stages(x):
        x = block(L.LayerNormalization()(L.Conv2D(16, 4, 4)(x)))
        x = L.Conv2D(32, 2, 2)(L.LayerNormalization()(x))
        return L.LayerNormalization()(block(block(x)))

    return classifier(stages)


def convnext_v2():
    """ConvNeXt with global response normalization, which has a mean over channels."""

    def respond(x):
        size = ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True))
        return x + x * size / (ops.mean(size, axis=-1, keepdims=True) + 1e-6)

    def stages(x):
        x = L.LayerNormalization()(L.Conv2D(16, 4, 4)(x))
        y = L.LayerNormalization()(L.DepthwiseConv2D(7, padding="same")(x))
        y = respond(L.Dense(64, activation="gelu")(y))
        return L.Add()([x, L.Dense(16)(y)])

    return classifier(stages)


def inceptionnext():
    """Depthwise kernels of several shapes, each on a part of the channels."""

    def block(x):
        whole, square, row, column = ops.split(x, [16, 20, 24], axis=-1)
        mixed = [whole]
        for part, size in ((square, 3), (row, (1, 11)), (column, (11, 1))):
            mixed.append(L.DepthwiseConv2D(size, padding="same")(part))
        y = L.BatchNormalization()(L.Concatenate()(mixed))
        y = L.Conv2D(28, 1)(L.Conv2D(112, 1, activation="gelu")(y))
        return L.Add()([x, y])

    def stages(x):
        return block(block(L.BatchNormalization()(L.Conv2D(28, 4, 4)(x))))

    return classifier(stages)


def convmixer():
    def stages(x):
        x = L.BatchNormalization()(L.Conv2D(32, 4, 4, activation="gelu")(x))
        for _ in range(2):
            y = L.DepthwiseConv2D(5, padding="same", activation="gelu")(x)
            x = L.Add()([x, L.BatchNormalization()(y)])
            x = L.BatchNormalization()(L.Conv2D(32, 1, activation="gelu")(x))
        return x

    return classifier(stages)


def mlp_mixer():
    """Dense layers over patches, for which the patches are the channels."""
    inputs = keras.Input((32, 32, 3))
    x = L.Reshape((16, 32))(L.Conv2D(32, 8, 8)(inputs))
    for _ in range(2):
        y = L.Permute((2, 1))(L.LayerNormalization()(x))
        y = L.Permute((2, 1))(L.Dense(16)(L.Dense(32, activation="gelu")(y)))
        x = L.Add()([x, y])
        y = L.Dense(64, activation="gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(32)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def poolformer():
    def block(x):
        channels = x.shape[-1]
        y = L.LayerNormalization()(x)
        pooled = L.AveragePooling2D(3, 1, padding="same")(y)
        x = L.Add()([x, L.Subtract()([pooled, y])])
        y = L.Conv2D(4 * channels, 1, activation="gelu")(L.LayerNormalization()(x))
        return L.Add()([x, L.Conv2D(channels, 1)(y)])

    return classifier(lambda x: block(L.Conv2D(32, 3, 2)(block(L.Conv2D(16, 7, 4)(x)))))


def cspdarknet():
    """C2f and fast spatial pyramid pooling, as in the backbone of YOLOv8."""

    def cross_stage(x, filters):
        parts = list(ops.split(conv(x, filters, 1, activation="silu"), 2, axis=-1))
        for _ in range(2):
            y = conv(parts[-1], filters // 2, activation="silu")
            y = conv(y, filters // 2, activation="silu")
            parts.append(L.Add()([parts[-1], y]))
        return conv(L.Concatenate()(parts), filters, 1, activation="silu")

    def pyramid(x, filters):
        parts = [conv(x, filters // 2, 1, activation="silu")]
        for _ in range(3):
            parts.append(L.MaxPooling2D(5, 1, padding="same")(parts[-1]))
        return conv(L.Concatenate()(parts), filters, 1, activation="silu")

    def stages(x):
        x = cross_stage(conv(x, 16, strides=2, activation="silu"), 16)
        x = cross_stage(conv(x, 32, strides=2, activation="silu"), 32)
        return pyramid(x, 32)

    return classifier(stages)


def hrnet():
    """Two resolutions in parallel. Each reads the other."""

    def stages(x):
        high = residual(conv(x, 16, strides=2), 16)
        low = residual(conv(high, 32, strides=2), 32)
        up = L.UpSampling2D()(conv(low, 16, 1, activation=None))
        down = conv(high, 32, strides=2, activation=None)
        high = L.ReLU()(L.Add()([high, up]))
        low = L.ReLU()(L.Add()([low, down]))
        return L.Concatenate()([L.AveragePooling2D(2)(residual(high, 16)), low])

    return classifier(stages)


def cbam():
    """Convolutional block attention. The second gate reads all channels."""

    def block(x):
        x = squeeze_and_excite(x)
        y = L.Concatenate()(
            [ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)]
        )
        return x * L.Conv2D(1, 7, padding="same", activation="sigmoid")(y)

    return classifier(lambda x: conv(block(conv(x, 16, strides=2)), 32))


def spatial_gates():
    """Convolutional block attention whose second gate is a convolution."""

    def block(x):
        x = squeeze_and_excite(x)
        return x * L.Conv2D(1, 7, padding="same", activation="sigmoid")(x)

    return classifier(lambda x: conv(block(conv(x, 16, strides=2)), 32))


def c3d():
    inputs = keras.Input((4, 12, 12, 3))
    x = L.Conv3D(16, 3, padding="same", activation="relu")(inputs)
    x = L.Conv3D(32, 3, strides=(1, 2, 2), padding="same", activation="relu")(x)
    x = L.Conv3D(32, 3, strides=2, padding="same", activation="relu")(x)
    x = L.Dense(64, activation="relu")(L.Flatten()(x))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


def r2plus1d():
    """Convolutions over rows and cols, then over steps."""

    def block(x, filters, strides=1):
        y = L.Conv3D(
            filters, (1, 3, 3), (1, strides, strides), padding="same", use_bias=False
        )(x)
        y = activated(L.BatchNormalization()(y), "relu")
        y = L.Conv3D(filters, (3, 1, 1), padding="same", use_bias=False)(y)
        y = L.BatchNormalization()(y)
        return y if strides > 1 else L.ReLU()(L.Add()([x, y]))

    inputs = keras.Input((4, 16, 16, 3))
    x = block(block(block(inputs, 16, 2), 16), 32, 2)
    x = L.GlobalAveragePooling3D()(L.ReLU()(x))
    return keras.Model(inputs, L.Dense(CLASSES)(x))


IMAGES = {
    "LeNet-5": lenet,
    "VGG": vgg,
    "SqueezeNet": squeezenet,
    "GoogLeNet": googlenet,
    "WideResNet": wide_resnet,
    "ResNeXt": resnext,
    "RegNetY": regnet_y,
    "SE-ResNet": se_resnet,
    "SKNet": sk_resnet,
    "Res2Net": res2net,
    "DenseNet": densenet,
    "RepVGG": repvgg,
    "MobileOne": mobileone,
    "HGNetV2": hgnet_v2,
    "ShuffleNetV2": shufflenet_v2,
    "MobileNetV2": mobilenet_v2,
    "MobileNetV3": mobilenet_v3,
    "MobileNetV4-conv": mobilenet_v4_conv,
    "EfficientNet": efficientnet,
    "GhostNet": ghostnet,
    "FasterNet": fasternet,
    "ConvNeXt": convnext,
    "ConvNeXtV2": convnext_v2,
    "InceptionNeXt": inceptionnext,
    "ConvMixer": convmixer,
    "MLP-Mixer": mlp_mixer,
    "PoolFormer": poolformer,
    "CSPDarknet": cspdarknet,
    "HRNet": hrnet,
    "CBAM": cbam,
    "CBAM of own weights": spatial_gates,
    "C3D": c3d,
    "R(2+1)D": r2plus1d,
}
