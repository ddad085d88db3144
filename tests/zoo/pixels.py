"""Networks with an output for each pixel or position: masks, boxes, images."""

import keras

from tests.zoo.blocks import (
    CLASSES,
    L,
    activated,
    conv,
    depthwise,
    inverted,
    ops,
    residual,
    upsampled,
)


def unet():
    inputs = keras.Input((32, 32, 3))
    x, skips = inputs, []
    for filters in (8, 16, 32):
        x = conv(conv(x, filters), filters)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = conv(conv(x, 64), 64)
    for skip in reversed(skips):
        filters = skip.shape[-1]
        x = L.Conv2DTranspose(filters, 2, 2, activation="relu")(x)
        x = conv(conv(L.Concatenate()([skip, x]), filters), filters)
    return keras.Model(inputs, L.Conv2D(2, 1)(x))


def attention_unet():
    """A U-Net with gates on the skips. A gate has one channel."""

    def gated(skip, x):
        y = L.Add()([conv(skip, 8, 1, activation=None), conv(x, 8, 1, activation=None)])
        y = L.Conv2D(1, 1, activation="sigmoid")(L.ReLU()(y))
        return L.Multiply()([skip, y])

    inputs = keras.Input((32, 32, 3))
    x, skips = inputs, []
    for filters in (16, 32):
        x = conv(x, filters)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = conv(x, 64)
    for skip in reversed(skips):
        x = upsampled(x, skip.shape[-1])
        x = conv(L.Concatenate()([gated(skip, x), x]), skip.shape[-1])
    return keras.Model(inputs, L.Conv2D(2, 1)(x))


def unet_plus_plus():
    """Nested skips, and an output at each depth."""
    inputs = keras.Input((32, 32, 3))
    first = conv(inputs, 8)
    second = conv(L.MaxPooling2D()(first), 16)
    third = conv(L.MaxPooling2D()(second), 32)
    shallow = conv(L.Concatenate()([first, upsampled(second, 8)]), 8)
    middle = conv(L.Concatenate()([second, upsampled(third, 16)]), 16)
    deep = conv(L.Concatenate()([first, shallow, upsampled(middle, 8)]), 8)
    return keras.Model(inputs, [L.Conv2D(2, 1)(x) for x in (shallow, deep)])


def deeplab():
    """DeepLabV3+: atrous pyramid pooling with the mean of the image, and a skip."""
    inputs = keras.Input((32, 32, 3))
    low = residual(conv(inputs, 16, strides=2), 16)
    x = residual(low, 32, strides=2)
    branches = [conv(x, 16, 1)]
    branches += [conv(x, 16, dilation_rate=rate) for rate in (2, 4)]
    mean = conv(L.GlobalAveragePooling2D(keepdims=True)(x), 16, 1)
    branches.append(L.UpSampling2D(x.shape[1:3], interpolation="bilinear")(mean))
    x = conv(L.Concatenate()(branches), 32, 1)
    x = L.UpSampling2D(interpolation="bilinear")(x)
    x = conv(L.Concatenate()([x, conv(low, 8, 1)]), 32)
    x = L.UpSampling2D(interpolation="bilinear")(L.Conv2D(2, 1)(x))
    return keras.Model(inputs, x)


def pspnet():
    """Pooling at several scales. Each result is resized to the feature map."""
    inputs = keras.Input((32, 32, 3))
    x = residual(conv(inputs, 16, strides=2), 32, strides=2)
    parts = [x]
    for size in (1, 2, 4):
        y = conv(L.AveragePooling2D(8 // size)(x), 8, 1)
        parts.append(L.Resizing(8, 8, interpolation="bilinear")(y))
    x = conv(L.Concatenate()(parts), 32)
    return keras.Model(inputs, L.Resizing(32, 32)(L.Conv2D(2, 1)(x)))


def bisenet():
    """A path for details and a path for context, joined by gates."""

    def refined(x):
        y = L.GlobalAveragePooling2D(keepdims=True)(x)
        return x * conv(y, x.shape[-1], 1, activation="sigmoid")

    inputs = keras.Input((32, 32, 3))
    detail = conv(conv(inputs, 16, strides=2), 32, strides=2)
    x = conv(conv(inputs, 16, strides=2), 24, strides=2)
    context = refined(conv(x, 32, strides=2))
    x = conv(L.Concatenate()([detail, L.UpSampling2D()(context)]), 32)
    x = L.Add()([x, refined(x)])
    return keras.Model(inputs, L.UpSampling2D(4)(L.Conv2D(2, 1)(x)))


def hourglass():
    """Two stacks for key points, each with an output. The second reads the first."""

    def stack(x):
        down = residual(L.MaxPooling2D()(x), 16)
        inner = residual(L.MaxPooling2D()(down), 16)
        up = L.Add()([down, L.UpSampling2D()(inner)])
        return L.Add()([residual(x, 16), L.UpSampling2D()(residual(up, 16))])

    inputs = keras.Input((32, 32, 3))
    x = conv(inputs, 16, strides=2)
    first = stack(x)
    x = L.Add()([x, conv(first, 16, 1, activation=None)])
    outputs = [L.Conv2D(4, 1)(first), L.Conv2D(4, 1)(stack(x))]
    return keras.Model(inputs, outputs)


def ssd():
    """SSD-Lite: boxes and classes from feature maps of several sizes."""

    def head(x, count):
        y = L.Conv2D(4 * count, 1)(depthwise(x, activation="relu6"))
        return L.Reshape((-1, count))(y)

    inputs = keras.Input((32, 32, 3))
    x = inverted(conv(inputs, 16, strides=2), 16, expand=2)
    maps = []
    for filters in (24, 32, 32):
        x = inverted(x, filters, expand=2, strides=2)
        maps.append(x)
    boxes = L.Concatenate(axis=1, name="boxes")([head(x, 4) for x in maps])
    classes = [head(x, CLASSES + 1) for x in maps]
    classes = L.Softmax(name="classes")(L.Concatenate(axis=1)(classes))
    return keras.Model(inputs, [boxes, classes])


def retinanet():
    """A pyramid of features with heads that all levels share."""
    inputs = keras.Input((32, 32, 3))
    third = residual(conv(inputs, 16, strides=2), 24, strides=2)
    fourth = residual(third, 32, strides=2)
    top = L.Conv2D(24, 1)(fourth)
    low = L.Add()([L.Conv2D(24, 1)(third), L.UpSampling2D()(top)])
    levels = [L.Conv2D(24, 3, padding="same")(x) for x in (low, top)]
    outputs = []
    for name, count in (("boxes", 4), ("classes", CLASSES)):
        tower = L.Conv2D(24, 3, padding="same", activation="relu")
        last = L.Conv2D(3 * count, 3, padding="same")
        scores = [L.Reshape((-1, count))(last(tower(x))) for x in levels]
        outputs.append(L.Concatenate(axis=1, name=name)(scores))
    return keras.Model(inputs, outputs)


def centernet():
    """A heat map, sizes and offsets, upsampled by transposed convolutions."""
    inputs = keras.Input((32, 32, 3))
    x = residual(residual(conv(inputs, 16, strides=2), 32, strides=2), 48, strides=2)
    for filters in (32, 16):
        x = L.Conv2DTranspose(filters, 4, 2, padding="same", use_bias=False)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
    outputs = []
    for name, count in (("heat", CLASSES), ("size", 2), ("offset", 2)):
        y = L.Conv2D(16, 3, padding="same", activation="relu")(x)
        end = "sigmoid" if name == "heat" else None
        outputs.append(L.Conv2D(count, 1, activation=end, name=name)(y))
    return keras.Model(inputs, outputs)


def zeros_beside(x, filters):
    return ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, filters - x.shape[-1])))


def blazeface(widen=zeros_beside):
    """Depthwise 5x5 blocks. A shortcut to more channels is padded with zeros."""

    def block(x, filters, strides=1):
        y = L.DepthwiseConv2D(5, strides, padding="same")(x)
        y = L.Conv2D(filters, 1)(y)
        x = L.MaxPooling2D()(x) if strides > 1 else x
        x = x if x.shape[-1] == filters else widen(x, filters)
        return L.ReLU()(L.Add()([x, y]))

    inputs = keras.Input((64, 64, 3))
    x = L.Conv2D(24, 5, 2, padding="same", activation="relu")(inputs)
    x = block(block(block(block(x, 24), 28), 32, 2), 36)
    y = block(block(x, 48, 2), 48)
    outputs = []
    for name, count in (("boxes", 16), ("scores", 1)):
        heads = [(L.Conv2D(n * count, 1)(z)) for z, n in ((x, 2), (y, 6))]
        heads = [L.Reshape((-1, count))(z) for z in heads]
        outputs.append(L.Concatenate(axis=1, name=name)(heads))
    return keras.Model(inputs, outputs)


def blazeface_projected():
    """BlazeFace with a convolution in a shortcut to more channels."""
    return blazeface(lambda x, filters: L.Conv2D(filters, 1)(x))


def yolo():
    """A backbone, a neck with two directions, and heads without anchors."""

    def silu(x, filters, size=3, strides=1):
        return conv(x, filters, size, strides, "silu")

    inputs = keras.Input((32, 32, 3))
    low = silu(silu(inputs, 16, strides=2), 24, strides=2)
    high = silu(low, 32, strides=2)
    low = silu(L.Concatenate()([low, L.UpSampling2D()(high)]), 24)
    high = silu(L.Concatenate()([silu(low, 24, strides=2), high]), 32)
    outputs = []
    for name, count in (("boxes", 4), ("classes", CLASSES)):
        heads = [L.Conv2D(count, 1)(silu(x, 16)) for x in (low, high)]
        heads = [L.Reshape((-1, count))(x) for x in heads]
        outputs.append(L.Concatenate(axis=1, name=name)(heads))
    return keras.Model(inputs, outputs)


def depth_to_space(x, block=2):
    _, rows, cols, channels = x.shape
    channels //= block**2
    x = L.Reshape((rows, cols, block, block, channels))(x)
    x = L.Permute((1, 3, 2, 4, 5))(x)
    return L.Reshape((rows * block, cols * block, channels))(x)


def espcn():
    inputs = keras.Input((16, 16, 1))
    x = L.Conv2D(64, 5, padding="same", activation="tanh")(inputs)
    x = L.Conv2D(32, 3, padding="same", activation="tanh")(x)
    return keras.Model(
        inputs, depth_to_space(L.Conv2D(9, 3, padding="same")(x), block=3)
    )


def edsr():
    """Residual blocks without normalization, and a pixel shuffle before the output."""
    inputs = keras.Input((12, 12, 3))
    x = first = L.Conv2D(16, 3, padding="same")(inputs)
    for _ in range(2):
        y = L.Conv2D(16, 3, padding="same", activation="relu")(x)
        y = L.Rescaling(0.1)(L.Conv2D(16, 3, padding="same")(y))
        x = L.Add()([x, y])
    x = L.Add()([first, L.Conv2D(16, 3, padding="same")(x)])
    x = depth_to_space(L.Conv2D(64, 3, padding="same")(x))
    return keras.Model(inputs, L.Conv2D(3, 3, padding="same")(x))


def rrdb():
    """The residual blocks of ESRGAN, made of dense blocks."""

    def dense(x):
        parts = [x]
        for _ in range(3):
            y = L.Concatenate()(parts) if len(parts) > 1 else x
            y = L.Conv2D(8, 3, padding="same")(y)
            parts.append(L.LeakyReLU(negative_slope=0.2)(y))
        y = L.Conv2D(16, 3, padding="same")(L.Concatenate()(parts))
        return x + 0.2 * y

    inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(16, 3, padding="same")(inputs)
    x = L.UpSampling2D()(x + 0.2 * dense(dense(x)))
    x = L.LeakyReLU(negative_slope=0.2)(L.Conv2D(16, 3, padding="same")(x))
    return keras.Model(inputs, L.Conv2D(3, 3, padding="same")(x))


def dncnn():
    """Predicts the noise of an image, and subtracts it."""
    inputs = keras.Input((16, 16, 1))
    x = L.Conv2D(32, 3, padding="same", activation="relu")(inputs)
    for _ in range(3):
        x = conv(x, 32)
    return keras.Model(
        inputs, L.Subtract()([inputs, L.Conv2D(1, 3, padding="same")(x)])
    )


def style_transfer():
    """Style transfer by Johnson et al., with instance normalization."""

    def block(x, filters, size=3, strides=1, activation="relu"):
        x = L.Conv2D(filters, size, strides, padding="same")(x)
        return activated(L.GroupNormalization(groups=-1)(x), activation)

    inputs = keras.Input((32, 32, 3))
    x = block(block(inputs, 16, 9), 32, strides=2)
    for _ in range(2):
        x = L.Add()([x, block(block(x, 32), 32, activation=None)])
    x = block(L.UpSampling2D()(x), 16)
    x = L.Conv2D(3, 9, padding="same", activation="tanh")(x)
    return keras.Model(inputs, L.Rescaling(127.5, 127.5)(x))


def pix2pix():
    """A U-Net of strided convolutions, with dropout in the decoder."""

    def down(x, filters):
        x = L.Conv2D(filters, 4, 2, padding="same", use_bias=False)(x)
        return L.LeakyReLU(negative_slope=0.2)(L.BatchNormalization()(x))

    def up(x, filters):
        x = L.Conv2DTranspose(filters, 4, 2, padding="same", use_bias=False)(x)
        return L.ReLU()(L.Dropout(0.5)(L.BatchNormalization()(x)))

    inputs = keras.Input((32, 32, 3))
    first = down(inputs, 16)
    second = down(first, 32)
    x = L.Concatenate()([up(down(second, 48), 32), second])
    x = L.Concatenate()([up(x, 16), first])
    x = L.Conv2DTranspose(3, 4, 2, padding="same", activation="tanh")(x)
    return keras.Model(inputs, x)


def fastdepth():
    """A depthwise separable encoder and decoder with additive skips."""

    def separable(x, filters, size=3, strides=1):
        return conv(depthwise(x, size, strides), filters, 1)

    inputs = keras.Input((32, 32, 3))
    first = conv(inputs, 16, strides=2)
    second = separable(first, 24, strides=2)
    x = separable(second, 48, strides=2)
    for skip in (second, first):
        x = L.UpSampling2D()(separable(x, skip.shape[-1], 5))
        x = L.Add()([x, skip])
    return keras.Model(inputs, L.UpSampling2D()(L.Conv2D(1, 1)(x)))


PIXELS = {
    "U-Net": unet,
    "attention U-Net": attention_unet,
    "U-Net++": unet_plus_plus,
    "DeepLabV3+": deeplab,
    "PSPNet": pspnet,
    "BiSeNet": bisenet,
    "stacked hourglass": hourglass,
    "SSD-Lite": ssd,
    "RetinaNet": retinanet,
    "CenterNet": centernet,
    "BlazeFace, padded": blazeface,
    "BlazeFace, projected": blazeface_projected,
    "YOLO": yolo,
    "ESPCN": espcn,
    "EDSR": edsr,
    "ESRGAN": rrdb,
    "DnCNN": dncnn,
    "style transfer": style_transfer,
    "pix2pix": pix2pix,
    "FastDepth": fastdepth,
}
