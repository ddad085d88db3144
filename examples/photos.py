"""Recognizes photos with a pretrained network, fine-tuned for four widths.

    python examples/photos.py FOLDER [--quick]

FOLDER has a folder of photos for each class. Install `"awn_keras[all,pretrained]"`
first. `awn train --data FOLDER` does the same in the shell, and docs/photos.md says how
long it takes. Writes a picture, and a TFLite file for an app. The file takes pixels,
returns probabilities, and holds the names of the classes.
"""

import argparse
from pathlib import Path

import keras
from matplotlib import pyplot

from awn_keras import (
    AnyWidthInterpreter,
    efficientnet_lite0,
    export_tflite,
    rotate_channels,
    to_any_width,
    trade_off_curve,
)
from awn_keras.data import load_folder

WIDTHS = [0.7, 0.8, 0.9, 1.0]
OUTPUT = Path("examples_output")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="small, a few steps only")
    args = parser.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    epochs, size = (1, 32) if args.quick else (12, 96)

    data = load_folder(args.folder, size=size)
    train = data.train(8 if args.quick else 32)
    steps = epochs * len(train)
    base = efficientnet_lite0(data.input_shape, data.classes, weights="imagenet")
    # Rotation lets narrow widths keep most of what the ImageNet weights compute. The
    # weights that the triangle forbids fade out during the first 70 % of the steps.
    base = rotate_channels(base, train)
    trained = {"order": "reading", "fade": steps * 7 // 10, "bn_momentum": 0.95}
    model = to_any_width(base, widths_grid=WIDTHS, **trained)
    rate = keras.optimizers.schedules.CosineDecay(0.02, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
    model.fit(train, validation_data=data.test(), epochs=epochs)
    print(trade_off_curve(model, data.test(), widths=WIDTHS))

    path = OUTPUT / "photos.tflite"
    names = {"class_names": data.class_names}
    export_tflite(model, path, widths=WIDTHS, outputs="probabilities", metadata=names)
    runner = AnyWidthInterpreter(path)
    photo = data.test()[0][0][0]
    _, axes = pyplot.subplots(
        1, 1 + len(WIDTHS), figsize=(11, 2.6), layout="constrained"
    )
    axes[0].imshow(photo.astype("uint8"))
    axes[0].axis("off")
    for ax, width in zip(axes[1:], WIDTHS, strict=True):
        ax.barh(data.class_names, runner.run(photo[None], width=width)[0])
        ax.set(title=f"width {width}", xlim=(0, 1))
    axes[0].figure.savefig(OUTPUT / "photos.png")


if __name__ == "__main__":
    main()
