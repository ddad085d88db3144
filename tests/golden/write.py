"""Writes all kinds of files as this version does, to be read by later ones.

`python -m tests.golden.write` makes the folder `tests/golden/VERSION`, which stays as
it is from then on; see README.md there.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import awn_keras
from awn_keras import (
    AnytimeInterpreter,
    AnyWidthInterpreter,
    AnyWidthModel,
    FixedWidths,
    TriConv2D,
    TriDense,
    export_tflite,
    to_any_width,
)
from awn_keras.baselines import SNet, USNet
from awn_keras.cli import main

L = keras.layers
ROOT = Path(__file__).parent
#: Widths of models and of files, which have a network for each.
WIDTHS = (0.25, 0.5, 1.0)
#: How often a model is trained on a batch, so that all its state has moved.
STEPS = 3


# ------------------------------------------------------------------------- models


def by_hand():
    """Made of Tri layers, with what a user may choose."""
    inputs = keras.Input((8, 8, 1), name="image")  # as digits are, for commands
    x = L.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = L.ReLU()(L.BatchNormalization(momentum=0.5)(x))
    x = TriConv2D(8, 3, strides=2, padding="same", activation="relu", name="code")(x)
    x = TriDense(8, activation="relu")(L.GlobalAveragePooling2D()(x))
    stages = {"code": {"min_width": 0.5}}
    return AnyWidthModel(inputs, L.Dense(10)(x), "by_hand", stages=stages)


def converted():
    """Of an ordinary network with a shortcut and groups."""
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 3, padding="same")(inputs)
    y = L.SeparableConv2D(4, 3, padding="same")(L.ReLU(6.0)(x))
    x = L.Conv2D(8, 1, groups=2)(L.Add()([x, L.BatchNormalization(momentum=0.5)(y)]))
    outputs = L.Dense(3, activation="softmax")(L.GlobalMaxPooling2D()(x))
    model = keras.Model(inputs, outputs, name="converted")
    return to_any_width(model, min_width=0.25, divisor=2)


def recurrent():
    """Gates of all kinds, and a direction back."""
    inputs = keras.Input((5, 3))
    x = L.Bidirectional(L.LSTM(4, return_sequences=True))(inputs)
    x = L.SimpleRNN(8, return_sequences=True)(L.GRU(4, return_sequences=True)(x))
    outputs = L.Dense(3)(L.GlobalAveragePooling1D()(x))
    return to_any_width(keras.Model(inputs, outputs, name="recurrent"), min_width=0.25)


def attention():
    """A block of a transformer."""
    inputs = keras.Input((4, 6))
    x = L.Dense(8)(inputs)
    y = L.LayerNormalization()(x)
    x = L.Add()([x, L.MultiHeadAttention(4, 2)(y, y)])
    y = L.Dense(8, activation="gelu")(L.RMSNormalization()(x))
    outputs = L.Dense(3)(L.GlobalAveragePooling1D()(L.Add()([x, y])))
    return to_any_width(keras.Model(inputs, outputs, name="attention"), min_width=0.25)


def fading():
    """Of which forbidden entries still act in part, as training left it."""
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="relu")(L.Dense(8, activation="relu")(inputs))
    model = keras.Model(inputs, L.Dense(3)(x), name="fading")
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((2, 6)), np.ones((2, 3)))  # to be worth keeping
    fade = keras.optimizers.schedules.PolynomialDecay(1.0, 2 * STEPS, 0.0)
    return to_any_width(model, min_width=0.25, fade=fade)


def _ordinary():
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(8, 3, padding="same")(inputs)
    x = L.ReLU()(L.BatchNormalization(momentum=0.5)(x))
    return inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x))


def s_net():
    """Of the systems that the paper compares with."""
    return SNet(*_ordinary(), "s_net", widths=WIDTHS)


def us_net():
    """Likewise."""
    return USNet(*_ordinary(), "us_net", min_width=0.25)


#: For every backend; the others train on TensorFlow only.
EVERYWHERE = (by_hand, converted, recurrent, attention, fading)
MODELS = (*EVERYWHERE, s_net, us_net)


def batch_for(model, count=8):
    """Random inputs of a model, and labels for them."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")
    return x, rng.integers(0, 3, count)


def trained(make):
    """A model after some steps, with an optimizer that has a state."""
    keras.utils.clear_session()  # Layers are called alike, however many there were.
    keras.utils.set_random_seed(0)
    model = make()
    logits = model.layers[-1].activation is keras.activations.linear
    momentum = 0.9 if make is by_hand else 0.0  # It doubles the size of a file.
    model.compile(
        keras.optimizers.SGD(0.1, momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=logits),
        metrics=["accuracy"],
        # Backends draw different ones.
        widths=FixedWidths(WIDTHS) if make in EVERYWHERE else None,
    )
    x, y = batch_for(model)
    for _ in range(STEPS):
        model.train_on_batch(x, y)
    if isinstance(model, USNet):
        model.calibrate(x, 4)
    return model


def outputs_of(model, x):
    """What a model gives at each width, and its loss after it was trained on."""
    numbers = {label(w): model.predict(x, verbose=0, width=w) for w in WIDTHS}
    x, y = batch_for(model)
    model.train_on_batch(x, y)
    return {**numbers, "loss": np.float32(model.train_on_batch(x, y)[0])}


def label(width):
    """What arrays of a width are called."""
    return f"w{round(100 * width):03}"


# -------------------------------------------------------------------------- files


def write_models(folder):
    """A `.keras` file of each model, and an `.npz` of inputs and what they give."""
    for make in MODELS:
        model = trained(make)
        model.save(folder / f"{make.__name__}.keras")
        x, _ = batch_for(model, 3)
        numbers = outputs_of(model, x)
        np.savez_compressed(folder / f"{make.__name__}.npz", x=x, **numbers)


#: Exports of the model `by_hand`: the file or folder, and how it is made.
EXPORTS = {
    "float32.tflite": {"refine": (0.25, 1.0)},
    "int8.tflite": {"precision": "int8"},
    "separate": {"single_file": False},
}


def write_exports(folder):
    """Files and a folder of files, with manifests, and a report on one."""
    model = trained(by_hand)
    x, _ = batch_for(model, 3)
    many, _ = batch_for(model, 200)
    numbers = {"x": x}
    for name, options in EXPORTS.items():
        export_tflite(
            model,
            folder / name,
            widths=WIDTHS,
            representative=many,
            metadata={"class_names": list("0123456789")},
            **options,
        )
        runner = AnyWidthInterpreter(folder / name)
        for width in WIDTHS:
            key = f"{Path(name).stem}_{label(width)}"
            numbers[key] = np.concatenate([runner.run(row[None], width) for row in x])
    anytime = AnytimeInterpreter(folder / "float32.tflite")
    anytime.run(x[:1])
    numbers["refined"] = anytime.refine()
    np.savez_compressed(folder / "exports.npz", **numbers)
    _run("benchmark", folder / "float32.tflite", "--runs", 3, "--min-seconds", 0)
    _without_names(folder / "float32.benchmark.json")


def write_run(folder):
    """A finished run of `awn train`."""
    options = "--dataset digits --filters 2 --epochs 2 --widths-grid 0.25,0.5,1"
    _run("train", *options.split(), "--output", folder)
    (folder / "curve.png").unlink()  # which no version reads


def _run(*words):
    code = main([str(word) for word in words])
    assert code == 0, words


def _without_names(path):
    """Leaves out of a report what the machine is called."""
    text = re.sub(r'"device": "[^"]*"', '"device": "a machine"', path.read_text())
    assert json.loads(text)["rows"]
    path.write_text(text)


def write(root=ROOT):
    """Writes the folder of this version.

    Returns:
        The folder.
    """
    folder = root / awn_keras.__version__
    if folder.exists():
        raise FileExistsError(f"{folder} stays as it is, for later versions to read")
    with tempfile.TemporaryDirectory(dir=root) as name:
        part = Path(name) / "files"
        part.mkdir()
        write_models(part)
        write_exports(part)
        write_run(part / "run")
        part.rename(folder)
    return folder


if __name__ == "__main__":
    written = write()
    size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    sys.stdout.write(f"{written}: {size / 1e3:.0f} kB\n")
