"""Finds digits in an image with an any-width detector, the paper's future work.

    python examples/detection.py [--quick]

An image contains one to three digits of scikit-learn. As in CenterNet (Zhou et al.,
2019), each of 12x12 places gets 10 scores: is the center of this digit here? Writes a
picture, and a TFLite file of four widths.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib import pyplot

from awn_keras import AnyWidthModel, TriConv2D, export_tflite
from awn_keras.data import load_data

SIZE, CELL = 48, 4
WIDTHS = [0.25, 0.5, 0.75, 1.0]
OUTPUT = Path("examples_output")
QUICK = "--quick" in sys.argv  # a few steps only


def scenes(digits, labels, count, rng):
    """Makes images `(count, 48, 48, 1)` and center maps `(count, 12, 12, 10)`."""
    images = rng.uniform(0, 0.4, (count, SIZE, SIZE, 1)).astype("float32")
    centres = np.zeros((count, SIZE // CELL, SIZE // CELL, 10), "float32")
    for i in range(count):
        for quarter in rng.choice(4, rng.integers(1, 4), replace=False):
            which = rng.integers(len(digits))
            digit = np.kron(digits[which, ..., 0] / 16, np.ones((2, 2)))
            row, col = np.array(divmod(quarter, 2)) * 24 + rng.integers(9, size=2)
            images[i, row : row + 16, col : col + 16, 0] += 0.6 * digit
            centres[i, (row + 8) // CELL, (col + 8) // CELL, labels[which]] = 1
    return images, centres


def network():
    x = inputs = keras.Input((SIZE, SIZE, 1))
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    for filters, strides in ((32, 2), (64, 2), (64, 1), (64, 1)):
        x = TriConv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    rare = keras.initializers.Constant(-4.0)  # most places have no center
    scores = keras.layers.Conv2D(10, 3, padding="same", bias_initializer=rare)
    outputs = keras.layers.Activation("sigmoid")(scores(x))
    return AnyWidthModel(inputs, outputs, min_width=0.25)


def main():
    OUTPUT.mkdir(exist_ok=True)
    data, rng = load_data("digits"), np.random.default_rng(0)
    x, y = scenes(data.x_train, data.y_train, 64 if QUICK else 4_000, rng)
    x_test, y_test = scenes(data.x_test, data.y_test, 400, rng)
    model = network()
    model.compile("adam", keras.losses.BinaryFocalCrossentropy(gamma=2.0))
    model.fit(x, y, batch_size=32, epochs=1 if QUICK else 12)

    most = y_test.sum((1, 2, 3)).argmax()  # an image with three digits
    _, axes = pyplot.subplots(1, len(WIDTHS), figsize=(10, 3), layout="constrained")
    for ax, width in zip(axes, WIDTHS, strict=True):
        scores = model.predict(x_test, width=width, verbose=0)
        said = scores > 0.5
        f1 = 2 * (said * y_test).sum() / (said.sum() + y_test.sum())
        print(f"width {width}: F1 {f1:.3f}")
        ax.imshow(x_test[most, ..., 0], cmap="gray")
        for row, col, label in np.argwhere(said[most]):
            corner = CELL * np.array([col, row]) - 6
            ax.add_patch(pyplot.Rectangle(corner, 16, 16, fill=False, color="C1"))
            ax.text(*corner, str(label), color="C1")
        ax.set(title=f"width {width}: F1 {f1:.2f}", xticks=[], yticks=[])
    axes[0].figure.savefig(OUTPUT / "detection.png")
    export_tflite(model, OUTPUT / "detection.tflite", widths=WIDTHS)


if __name__ == "__main__":
    main()
