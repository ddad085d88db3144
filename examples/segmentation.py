"""Finds the pixels of a digit with a U-Net, converted to an any-width network.

    python examples/segmentation.py [--quick]

An image has a digit of scikit-learn at a random place on noise. The mask marks the
pixels of the digit. Writes a picture, and a TFLite file of four widths.
"""

import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
from matplotlib import pyplot

from awn_keras import export_tflite, to_any_width
from awn_keras.data import load_data

SIZE = 32
WIDTHS = [0.25, 0.5, 0.75, 1.0]
OUTPUT = Path("examples_output")
QUICK = "--quick" in sys.argv  # a few steps only
L = keras.layers


def scenes(digits, count, rng):
    """Makes images `(count, 32, 32, 1)` of digits on noise, and their masks."""
    images = rng.uniform(0, 0.6, (count, SIZE, SIZE, 1)).astype("float32")
    masks = np.zeros_like(images)
    for i in range(count):
        digit = np.kron(digits[rng.integers(len(digits)), ..., 0] / 16, np.ones((2, 2)))
        row, col = rng.integers(SIZE - 16, size=2)
        images[i, row : row + 16, col : col + 16, 0] += digit * rng.uniform(0.5, 1)
        masks[i, row : row + 16, col : col + 16, 0] = digit > 0.3
    return images, masks


def u_net():
    conv = partial(L.Conv2D, kernel_size=3, padding="same", activation="relu")
    x = inputs = keras.Input((SIZE, SIZE, 1))
    skips = []
    for filters in (16, 32):
        skips.append(L.BatchNormalization()(conv(filters)(conv(filters)(x))))
        x = L.MaxPooling2D()(skips[-1])
    x = L.BatchNormalization()(conv(64)(conv(64)(x)))
    for filters in (32, 16):
        x = L.UpSampling2D()(conv(filters)(x))
        x = conv(filters)(L.Concatenate()([x, skips.pop()]))
    return keras.Model(inputs, L.Conv2D(1, 1, activation="sigmoid", name="mask")(x))


def main():
    OUTPUT.mkdir(exist_ok=True)
    data, rng = load_data("digits"), np.random.default_rng(0)
    x, y = scenes(data.x_train, 64 if QUICK else 2_000, rng)
    x_test, y_test = scenes(data.x_test, 32 if QUICK else 300, rng)

    model = to_any_width(u_net(), min_width=0.25, bn_momentum=0.9)
    metrics = [keras.metrics.BinaryIoU([1], name="iou")]
    model.compile("adam", "binary_crossentropy", metrics=metrics)
    model.fit(x, y, batch_size=32, epochs=1 if QUICK else 4)

    pictures = {"image": x_test[0], "mask": y_test[0]}
    for width in WIDTHS:
        at = {"width": width, "verbose": 0}
        result = model.evaluate(x_test, y_test, return_dict=True, **at)
        print(f"width {width}: intersection over union {result['iou']:.3f}")
        pictures[f"width {width}"] = model.predict(x_test[:1], **at)[0]
    _, axes = pyplot.subplots(1, 6, figsize=(10, 2.2), layout="tight")
    for ax, (title, picture) in zip(axes, pictures.items(), strict=True):
        ax.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1)
        ax.set(title=title, xticks=[], yticks=[])
    pyplot.savefig(OUTPUT / "segmentation.png")
    export_tflite(model, OUTPUT / "segmentation.tflite", widths=WIDTHS)


if __name__ == "__main__":
    main()
