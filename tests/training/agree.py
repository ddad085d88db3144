"""Trains the same models on one backend, for test_backends.py to compare.

    KERAS_BACKEND=jax python -m tests.training.agree FOLDER

Initial weights and data come from NumPy. Writes FOLDER/BACKEND.npz, with a name and an
array for each number, and FOLDER/BACKEND.keras.
"""

import sys
from pathlib import Path

import keras
import numpy as np

from awn_keras import AnyWidthModel, FixedWidths
from tests.conftest import inputs_of, labelled, rich, small_conv, stem_and_trunk

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def set_weights(model):
    """Sets weights that do not depend on the backend; variances are positive."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            np.abs(rng.normal(size=w.shape)) + 0.5
            if "variance" in w.name or "gamma" in w.name
            else 0.3 * rng.normal(size=w.shape)
            for w in model.weights
        ]
    )
    return model


def regularized():
    """Penalties on kernels and on activities, on both sides of the readout."""
    penalty = keras.regularizers.L2(0.01)
    inputs = keras.Input((6, 6, 2))
    x = stem_and_trunk(inputs, kernel_regularizer="l2", activity_regularizer=penalty)
    x = keras.layers.Flatten()(x)
    return AnyWidthModel(inputs, keras.layers.Dense(3, activity_regularizer=penalty)(x))


def train(model, x, y, *, optimizer=None, loss=LOSS, **arguments):
    """Logs of five steps, and what the model is afterwards."""
    model = set_weights(model)
    model.compile(
        **{
            "optimizer": optimizer or keras.optimizers.SGD(0.05, momentum=0.9),
            "loss": loss,
            "metrics": None if isinstance(loss, dict) else ["accuracy"],
            "widths": FixedWidths([0.25, 0.4, 0.7, 1.0]),
            **arguments.pop("compiled", {}),
        }
    )
    history = model.fit(
        x, y, batch_size=8, shuffle=False, epochs=1, verbose=0, **arguments
    ).history
    numbers = {name: values[0] for name, values in history.items()}
    for index, weight in enumerate(model.get_weights()):
        numbers[f"weight {index} {model.weights[index].path}"] = weight
    for width in (0.25, 0.6, 1.0):
        outputs = model.predict(x, width=width, verbose=0)
        for index, output in enumerate(keras.tree.flatten(outputs)):
            numbers[f"output {index} at {width}"] = output
    return numbers


def cases(folder):
    """Computes the numbers of all cases, by name."""
    x, y = labelled(small_conv())
    first = set_weights(small_conv())
    first.compile("sgd", LOSS, widths=FixedWidths([0.25, 0.7, 1.0]))
    yield "first step", {"loss": first.train_on_batch(x, y)}

    plain = small_conv()
    yield "plain", train(plain, x, y, validation_data=(x, y))
    plain.save(folder / f"{keras.backend.backend()}.keras")
    weights = np.random.default_rng(1).uniform(size=len(x))
    yield (
        "sample weights",
        train(
            small_conv(), x, y, sample_weight=weights, compiled={"report_widths": []}
        ),
    )
    yield "regularized", train(regularized(), x, y, validation_data=(x, y))
    accumulating = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    yield "accumulated", train(small_conv(), x, y, optimizer=accumulating)
    compiled = {"distillation": 0.5, "width_power": 0.5, "frozen_up_to": 0.3}
    yield "distilled", train(small_conv(), x, y, compiled=compiled)
    late = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.0, 0.5])
    compiled = {"distillation": late, "frozen_up_to": late, "report_widths": []}
    yield "late", train(small_conv(), x, y, compiled=compiled)
    eager = {"run_eagerly": True, "report_widths": []}
    yield "eager", train(small_conv(), x, y, compiled=eager)

    many = rich()
    scores = np.random.default_rng(0).normal(size=(40, 3, 3, 2)).astype("float32")
    yield (
        "two outputs",
        train(
            many,
            inputs_of(many, 40),
            {"scores": scores, "classes": np.arange(40) % 6},
            loss={"scores": "mse", "classes": LOSS},
            compiled={"loss_weights": {"scores": 0.5, "classes": 2.0}},
        ),
    )


def main():
    """Runs all cases."""
    folder = Path(sys.argv[1])
    numbers = {
        f"{case}: {name}": value
        for case, values in cases(folder)
        for name, value in values.items()
    }
    np.savez(folder / f"{keras.backend.backend()}.npz", **numbers)


if __name__ == "__main__":
    main()
