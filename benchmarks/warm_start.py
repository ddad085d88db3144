"""Counts epochs to a given AUC, from scratch and from the weights of a trained network.

    python -m benchmarks.warm_start --directory runs/warm_start [--seeds 0 1 2]

A plain LeNet-3C1L (23 channels) trains on Fashion-MNIST for 10 epochs, at full width
only. Then three any-width networks of equal size train for 8 epochs each. Their recipe
is SGD at 0.01 with momentum 0.9, batches of 128, and the mean of the losses of 4 widths
by the sandwich rule. The AUC on the test set is measured before the first epoch and
after each epoch:

- scratch: `to_any_width` of the untrained network.
- keep: `to_any_width(trained)`.
- importance: `to_any_width(trained, order="importance")`.

Finished arms are kept in `--directory` and not run again. A seed takes 45 minutes on
two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import keras

from awn_keras import AnyWidthModel, SandwichWidths, lenet_3c1l, slim, to_any_width
from awn_keras.data import ImageData, load_data
from awn_keras.environment import environment
from awn_keras.files import write_whole

FILTERS, PLAIN_EPOCHS, EPOCHS = 16, 10, 8
TARGETS = (0.85, 0.87, 0.88, 0.89, 0.90)
ARMS = ("scratch", "keep", "importance")
OUTPUT = Path(__file__).parents[1] / "results" / "warm_start.json"


def compile_model(model: keras.Model, rate: Any = 0.01, **kwargs: Any) -> None:
    """Compiles a model with the optimizer, loss and metrics of all arms."""
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )


def untrained(data: ImageData) -> keras.Model:
    """Builds the plain network with new weights."""
    model = lenet_3c1l(filters=FILTERS, preprocessing=data.preprocessing())
    return keras.models.clone_model(slim(model, 1.0))


def plain(data: ImageData, seed: int, directory: Path) -> keras.Model:
    """Returns the plain network, trained at full width; trains it if it is missing."""
    path = directory / f"plain_{seed}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    model = untrained(data)
    batches = data.train(128, seed=seed)
    steps = PLAIN_EPOCHS * len(batches)
    compile_model(
        model,
        keras.optimizers.schedules.PiecewiseConstantDecay(
            [steps // 2, 3 * steps // 4], [1e-2, 1e-3, 1e-4]
        ),
    )
    model.fit(batches, epochs=PLAIN_EPOCHS, shuffle=False, verbose=2)
    partial = path.with_name("partial.keras")
    model.save(partial)
    partial.replace(path)  # a killed run leaves no incomplete file under the final name
    return model


def converted(
    arm: str, trained: keras.Model, data: ImageData, seed: int
) -> AnyWidthModel:
    """Builds the network of an arm, as it is before the first epoch."""
    keras.utils.set_random_seed(100 + seed)
    source = untrained(data) if arm == "scratch" else trained
    order = "importance" if arm == "importance" else "keep"
    return to_any_width(source, min_width=0.25, divisor=1, order=order)


def curve_of(arm: str, data: ImageData, seed: int, directory: Path) -> dict[str, Any]:
    """Trains an arm; returns AUC and accuracies before and after each epoch."""
    path = directory / f"{arm}_{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    trained = plain(data, seed, directory)
    compile_model(trained)
    accuracy = trained.evaluate(data.test(), verbose=0)[1]
    model = converted(arm, trained, data, seed)
    compile_model(model, widths=SandwichWidths(0.25, 1.0, num_widths=4, seed=seed))
    start = model.evaluate(data.test(), return_dict=True, verbose=0)
    history = model.fit(
        data.train(128, seed=100 + seed),
        validation_data=data.test(),
        epochs=EPOCHS,
        shuffle=False,
        verbose=2,
    ).history
    result = {
        "arm": arm,
        "seed": seed,
        "plain_accuracy": accuracy,
        "widths": len(model.distinct_widths),
        "auc": [start["auc"], *history["val_auc"]],
        "accuracy_w025": [start["accuracy_w025"], *history["val_accuracy_w025"]],
        "accuracy_w100": [start["accuracy_w100"], *history["val_accuracy_w100"]],
    }
    write_whole(path, json.dumps(result, indent=1) + "\n")
    return result


def epochs_to(auc: list[float], target: float) -> int | None:
    """Counts the epochs until the AUC reaches a target; `None` if it never does."""
    return next((epoch for epoch, value in enumerate(auc) if value >= target), None)


def main() -> None:
    """Runs the arms that are not finished, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    data = load_data("fashion_mnist")
    runs = [
        curve_of(arm, data, seed, args.directory) for seed in args.seeds for arm in ARMS
    ]
    rows = []
    for arm in ARMS:
        curves = [run["auc"] for run in runs if run["arm"] == arm]
        rows.append(
            {
                "arm": arm,
                "auc": [
                    statistics.mean(values) for values in zip(*curves, strict=True)
                ],
                "epochs_to": {
                    str(target): [epochs_to(curve, target) for curve in curves]
                    for target in TARGETS
                },
            }
        )
    result = {
        "what": "LeNet-3C1L, 23 channels, Fashion-MNIST, batch 128",
        "plain_epochs": PLAIN_EPOCHS,
        "seeds": args.seeds,
        "rows": rows,
        "runs": runs,
        "environment": environment(),
    }
    write_whole(args.output, json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row["arm"], [round(100 * value, 2) for value in row["auc"]])


if __name__ == "__main__":
    main()
