"""Recognizes a word with any-width recurrent layers over a spectrogram.

    python examples/keyword_spotting.py [--data FOLDER] [--quick]

FOLDER has a folder of WAV files for each word, like Google's Speech Commands. Without
`--data`, the script makes up five "words": whistles in noise. The input of the model is
the sound, 1 s with 16,000 samples. The spectrogram is part of the model, so an app does
not compute it. Writes a picture, and a TFLite file of four widths.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

from awn_keras import AnyWidthModel, TriGRU, export_tflite, trade_off_curve

RATE = 16_000  # samples in a second
WIDTHS = [0.25, 0.5, 0.75, 1.0]
OUTPUT = Path("examples_output")
BENDS = {"rise": 1.0, "fall": -1.0, "stay": 0.0, "hill": 2.0, "valley": -2.0}


def made_up(count, rng):
    """Makes whistles in noise. The pitch rises or falls as the name says."""
    labels = rng.integers(len(BENDS), size=count)
    time = np.linspace(0, 1, RATE)
    sounds = np.empty((count, RATE), "float32")
    for i, bend in enumerate(np.array(list(BENDS.values()))[labels]):
        shape = np.sin(np.pi * time) if abs(bend) > 1 else time - 0.5
        pitch = rng.uniform(900, 1_500) + 250 * bend * shape
        whistle = np.sin(2 * np.pi * np.cumsum(pitch) / RATE + rng.uniform(0, 7))
        sounds[i] = whistle + rng.normal(0, 0.5, RATE)
    return sounds, labels


def words_of(folder):
    """Reads sounds and labels for training and test, and the names of the words."""
    split = {"validation_split": 0.2, "subset": "both", "seed": 0}
    parts = keras.utils.audio_dataset_from_directory(
        folder, output_sequence_length=RATE, **split
    )
    sets = [zip(*part.as_numpy_iterator(), strict=True) for part in parts]
    sets = [[np.concatenate(arrays) for arrays in part] for part in sets]
    return [(x[..., 0], y) for x, y in sets], parts[0].class_names


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    args = parser.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    count, rng = 60 if args.quick else 2_000, np.random.default_rng(0)
    parts, names = [made_up(count, rng), made_up(count // 2, rng)], list(BENDS)
    if args.data:
        parts, names = words_of(args.data)
    (x, y), (x_test, y_test) = parts
    inputs = keras.Input((RATE,))
    h = keras.layers.Reshape((RATE, 1))(inputs)
    h = keras.layers.STFTSpectrogram("log", frame_length=512, frame_step=256)(h)
    h = keras.layers.BatchNormalization(momentum=0.9)(h)
    h = keras.layers.Conv1D(64, 3, strides=2, activation="relu")(h)  # the stem
    h = TriGRU(64)(TriGRU(64, return_sequences=True, unroll=True)(h))
    model = AnyWidthModel(inputs, keras.layers.Dense(len(names))(h), min_width=0.25)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=50, epochs=1 if args.quick else 5)

    curve = trade_off_curve(model, x_test, y_test, widths=WIDTHS)
    print(curve)
    curve.plot().figure.savefig(OUTPUT / "keyword_spotting.png")
    path, said = OUTPUT / "keyword_spotting.tflite", {"class_names": names}
    export_tflite(model, path, widths=WIDTHS, metadata=said)


if __name__ == "__main__":
    main()
