"""Accuracy of MobileNetV2 on CIFAR-10 per millisecond, per megabyte and per MAC.

    python -m benchmarks.frontier train --directory DIR [--systems awn_rs ...]
        [--data-dir DIR]
    python -m benchmarks.frontier measure --directory DIR [--output FILE]

All systems train by one recipe with one budget, which two cores can afford: half of
MobileNetV2's channels, `EPOCHS` epochs, and images that grow from 20 over 24 to 32
pixels. Training takes hours. Each finished epoch is saved in DIR, and a new run
continues from there. Finished systems are not trained again.

The systems are any-width networks of several kinds, S-Net, US-Net, NestedNet, and plain
networks of four sizes. Each plain network trains twice: for `EPOCHS` epochs, and for a
quarter of them. Four plain networks together then cost about as much as one training of
an any-width network.

`measure` converts all trained systems to files, and measures bytes, milliseconds and
accuracy in one process, and the time of a training step. It draws accuracy over each of
milliseconds, megabytes and MACs into results/figures/frontier.png. Nothing else should
run meanwhile. The seconds of training are not a result, because other work may have run
beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from awn_keras import to_any_width, trade_off_curve
from awn_keras.baselines import USNet
from awn_keras.baselines.sliced import normalized_by_batch
from awn_keras.counting import count_macs
from awn_keras.data import ImageData, load_data
from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut_networks
from awn_keras.deploy.timing import time_signatures
from awn_keras.environment import environment
from awn_keras.files import together, whole_file, write_whole
from awn_keras.layouts import choose_cuts
from awn_keras.multi_width import MultiWidthModel
from awn_keras.pictures import new_figure, save_figure
from awn_keras.runs.build import build, callbacks_of, prepare
from awn_keras.runs.networks import network_of
from awn_keras.runs.presets import paper_recipe
from awn_keras.runs.recipe import Recipe

OUTPUT = Path(__file__).parents[1] / "results" / "frontier.json"
#: Factor on MobileNetV2's channels. The paper has 1; two cores would need days.
MULTIPLIER = 0.5
EPOCHS = 10
#: Rows and cols of the training images, and the epoch at which each size begins.
SIZES = ((0, 20), (6, 24), (9, 32))
#: Widths of systems of a few widths, and sizes of the plain networks.
LISTED = (0.35, 0.5, 0.75, 1.0)
#: Widths at which systems that run at any width are measured.
ANY = (0.35, 0.4, 0.5, 0.6, 0.7, 0.75, 0.85, 1.0)
#: The recipe of all systems. The losses of widths are averaged, so one learning rate
#: suits all systems.
_SHARED: dict[str, Any] = {
    "epochs": EPOCHS,
    "learning_rate": 0.1,
    "schedule": "cosine",
    "warm_up": 0.1,
    "label_smoothing": 0.1,
    "weight_decay": 5e-4,
    "divisor": 4,
}
_SQRT2 = MULTIPLIER * 2**0.5


@dataclass(frozen=True)
class System:
    """A system to train.

    Args:
        system: Name of the paper's system; see `paper_recipe`.
        changes: Changes of the recipe.
        widths: Widths at which the system is measured.
        balanced: Whether the plain network becomes any-width with the width multiplier
            "balanced".
    """

    system: str
    changes: dict[str, Any] = field(default_factory=dict)
    widths: tuple[float, ...] = (1.0,)
    balanced: bool = False

    @property
    def recipe(self) -> Recipe:
        """The recipe of the training."""
        recipe = paper_recipe("cifar10", "mobilenet_v2", self.system)
        several = {} if self.system == "plain" else {"width_reduction": "mean"}
        return replace(recipe, **{**_SHARED, **several, **self.changes})


def _systems() -> dict[str, System]:
    nested = {"staircase": "nested"}
    grid = {"widths_grid": LISTED, "sampler": "fixed", "widths": LISTED}
    systems = {
        "plain_1": System("plain", {"width_multiplier": MULTIPLIER}),
        "awn_rs": System("awn_rs", {"width_multiplier": _SQRT2}, ANY),
        "awn_balanced": System(
            "awn_rs", {**nested, "width_multiplier": MULTIPLIER}, ANY, balanced=True
        ),
        "awn_grid": System(
            "awn", {**nested, **grid, "width_multiplier": _SQRT2}, LISTED
        ),
        "s_net": System("s_net", {"width_multiplier": MULTIPLIER}, LISTED),
        "us_net": System("us_net", {"width_multiplier": MULTIPLIER}, ANY),
    }
    for width in LISTED[::-1]:
        changes = {"width_multiplier": MULTIPLIER * width}
        systems[f"plain_{width:g}"] = System("plain", changes)
        short = {**changes, "scale": 1 / len(LISTED)}
        systems[f"plain_{width:g}_short"] = System("plain", short)
    for name in ("nested_net", "nested_net_weights"):
        systems[name] = System(name, {"width_multiplier": MULTIPLIER}, LISTED)
    return systems


SYSTEMS = _systems()


# ------------------------------------------------------------------------ training


def resized(data: ImageData, size: int) -> ImageData:
    """Scales all images of a data set, and the shift of its augmentation.

    Args:
        data: The data set.
        size: New rows and cols.

    Returns:
        The data set, with the same labels.
    """
    rows = data.input_shape[0]
    if size == rows:
        return data
    parts = {}
    for name in ("x_train", "x_test"):
        images = getattr(data, name)
        scaled = np.empty((len(images), size, size, images.shape[-1]), "uint8")
        for start in range(0, len(images), 1000):
            batch = images[start : start + 1000].astype("float32")
            pixels = tf.image.resize(batch, (size, size), antialias=True)
            scaled[start : start + 1000] = np.clip(np.rint(pixels), 0, 255)
        parts[name] = scaled
    return replace(data, **parts, shift=round(data.shift * size / rows))


def built(system: System, data: ImageData) -> keras.Model:
    """Builds and compiles the model of a system for the images of a data set."""
    recipe = system.recipe
    if not system.balanced:
        return build(recipe, data)
    keras.utils.set_random_seed(recipe.seed)
    plain = replace(paper_recipe("cifar10", "mobilenet_v2", "plain"), **_SHARED)
    plain = replace(plain, width_multiplier=MULTIPLIER)
    network = to_any_width(
        network_of("mobilenet_v2").build(plain, data),
        min_width=recipe.min_width,
        divisor=recipe.divisor,
        staircase=recipe.staircase,
        width_multiplier="balanced",
    )
    return prepare(recipe, network, data)


def _size_of(epoch: int) -> int:
    return [size for first, size in SIZES if first <= epoch][-1]


def _sizes(epochs: int) -> list[int]:
    """The size of the images in each epoch. A short training has the same shares."""
    return [_size_of(epoch * EPOCHS // epochs) for epoch in range(epochs)]


def _state(model: keras.Model) -> list[np.ndarray]:
    """All numbers that training continues from."""
    model.optimizer.build(model.trainable_variables)
    variables = [*model.weights, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _restore(model: keras.Model, state: Sequence[np.ndarray]) -> None:
    model.optimizer.build(model.trainable_variables)
    variables = [*model.weights, *model.optimizer.variables]
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)


@contextlib.contextmanager
def faster_normalization() -> Iterator[None]:
    """Lets Keras' BatchNormalization train with the operator of the sliced models.

    The numbers are the same, up to the rounding of float32, and a step on a CPU is much
    faster.
    """
    layer_class = keras.layers.BatchNormalization
    slow = layer_class.call

    def call(
        self: Any, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Any:
        if not (training and self.trainable and len(inputs.shape) == 4):
            return slow(self, inputs, training=training, mask=mask)
        numbers = {"gamma": self.gamma, "beta": self.beta}
        x = keras.ops.cast(inputs, "float32")
        y, *new = normalized_by_batch(x, numbers, self.epsilon)
        moving = (self.moving_mean, self.moving_variance)
        for variable, value in zip(moving, new, strict=True):
            old = variable * self.momentum
            variable.assign(old + tf.stop_gradient(value) * (1 - self.momentum))
        return keras.ops.cast(y, self.compute_dtype)

    with mock.patch.object(layer_class, "call", call):
        yield


def train(name: str, data: ImageData, directory: Path) -> None:
    """Trains a system, or continues its training.

    Args:
        name: One of `SYSTEMS`.
        data: CIFAR-10.
        directory: Folder for the checkpoint. `NAME.npz` holds weights and optimizer,
            `NAME.json` the logs of the epochs.
    """
    system = SYSTEMS[name]
    recipe = system.recipe
    weights, logs = directory / f"{name}.npz", directory / f"{name}.json"
    history = json.loads(logs.read_text()) if logs.exists() else []
    state: Sequence[np.ndarray] | None = None
    if history:
        with np.load(weights) as kept:
            state = [kept[key] for key in kept.files]
    sizes = _sizes(recipe.epochs_run)
    model, size = None, 0
    for epoch in range(len(history), len(sizes)):
        if sizes[epoch] != size:
            size = sizes[epoch]
            keras.backend.clear_session()
            images = resized(data, size)
            model = built(system, images)
            if state is not None:
                _restore(model, state)
        batches = images.train(recipe.batch_size, seed=recipe.seed, first_epoch=epoch)
        start = time.perf_counter()
        done = model.fit(
            batches,
            epochs=epoch + 1,
            initial_epoch=epoch,
            shuffle=False,
            callbacks=callbacks_of(recipe, images),
            verbose=2,
        )
        seconds = time.perf_counter() - start
        values = {key: float(value[0]) for key, value in done.history.items()}
        history.append({"epoch": epoch, "size": size, "seconds": seconds, **values})
        state = _state(model)
        with together():
            with whole_file(weights, ".npz") as temporary:
                np.savez(temporary, *state)
            write_whole(logs, json.dumps(history, indent=1) + "\n")


def trained(name: str, data: ImageData, directory: Path) -> keras.Model | None:
    """Loads a trained system; `None` if its training is not finished."""
    logs = directory / f"{name}.json"
    system = SYSTEMS[name]
    if not logs.exists():
        return None
    if len(json.loads(logs.read_text())) < system.recipe.epochs_run:
        return None
    model = built(system, data)
    with np.load(directory / f"{name}.npz") as kept:
        _restore(model, [kept[key] for key in kept.files])
    return model


# ----------------------------------------------------------------------- measuring

#: Turns in which all files are timed, and timed runs of each signature in a turn.
TURNS, RUNS = 10, 10
#: Timed training steps, and steps before them.
STEPS, _WARM_UP = 20, 3
#: Names of the systems in the picture.
TITLES = {
    "awn_rs": "any-width, sqrt(2)",
    "awn_balanced": "any-width, balanced",
    "awn_grid": "any-width, four widths",
    "s_net": "S-Net",
    "us_net": "US-Net (20 widths calibrated)",
    "nested_net": "NestedNet, channels",
    "nested_net_weights": "NestedNet, weights",
}


def measure(data: ImageData, directory: Path) -> dict[str, Any]:
    """Measures all trained systems.

    Args:
        data: CIFAR-10.
        directory: Folder of the checkpoints.

    Returns:
        The result, in types of JSON. For each system it has the median time of a
        training step at the last size of images, the bytes of the file, and for each
        width accuracy on the test images, executed MACs, and the median latency in ms.
    """
    systems: dict[str, dict[str, Any]] = {}
    files: dict[str, tuple[bytes, list[str]]] = {}
    for name, system in SYSTEMS.items():
        model = trained(name, data, directory)
        if model is None:
            print(f"{name} is not trained yet", flush=True)
            continue
        logs = json.loads((directory / f"{name}.json").read_text())
        systems[name], networks = _evaluated(system, model, data)
        systems[name]["epochs"] = len(logs)
        content = convert(networks)
        systems[name]["bytes"] = len(content)
        files[name] = content, list(networks)
        systems[name]["step_milliseconds"] = _step_milliseconds(model, system, data)
        print(name, np.round(systems[name]["accuracy"], 4), flush=True)
    times: dict[str, dict[str, list[float]]] = {name: {} for name in files}
    for turn in range(TURNS):
        print(f"timing, turn {turn + 1} of {TURNS}", flush=True)
        for name, (content, signatures) in files.items():
            timed = time_signatures(content, signatures, runs=RUNS, turns=1)
            for signature, milliseconds in timed.items():
                times[name].setdefault(signature, []).extend(milliseconds)
    for name, (_, signatures) in files.items():
        medians = [float(np.median(times[name][each])) for each in signatures]
        systems[name]["milliseconds"] = medians
    return {
        "multiplier": MULTIPLIER,
        "epochs": EPOCHS,
        "sizes": [list(size) for size in SIZES],
        "recipe": _SHARED,
        "turns": TURNS,
        "runs": RUNS,
        "threads": 1,
        "environment": environment(),
        "systems": systems,
    }


def _step_milliseconds(model: keras.Model, system: System, data: ImageData) -> float:
    """Median time of a training step of the model, which is trained further."""
    batches = data.train(system.recipe.batch_size)
    times = []
    with faster_normalization():
        model.make_train_function(force=True)
        for index in range(_WARM_UP + STEPS):
            x, y = batches[index]
            start = time.perf_counter()
            model.train_on_batch(x, y)
            times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[_WARM_UP:]))


def _evaluated(
    system: System, model: keras.Model, data: ImageData
) -> tuple[dict[str, Any], dict[str, keras.Model]]:
    """Accuracy and MACs of a system at its widths, and the networks of its file."""
    if not isinstance(model, MultiWidthModel):
        logs = model.evaluate(data.test(), return_dict=True, verbose=0)
        macs = [count_macs(model)]
        record = {"widths": [1.0], "accuracy": [logs["accuracy"]], "macs": macs}
        return {**record, "executed_macs": macs}, {"width_1": model}
    if isinstance(model, USNet):
        recipe = system.recipe
        batches = data.train(recipe.batch_size, seed=recipe.seed)
        model.calibrate(batches, 20, batches=recipe.calibration_batches)
    widths = list(system.widths)
    curve = trade_off_curve(model, data.test(), widths=widths)
    names = ("widths", "accuracy", "macs", "executed_macs")
    record = {name: getattr(curve, name) for name in names}
    return record, cut_networks(model, widths, choose_cuts(model, widths))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws accuracy over milliseconds, megabytes and executed MACs.

    A system of several widths is a curve, and one file for all of them. Each plain
    network is a point, filled after all epochs and hollow after a quarter of them.
    """
    figure, axes = new_figure(14, 4.5, ncols=3, sharey=True)
    systems = result["systems"]
    costs = {
        "one file, milliseconds (1 thread)": lambda each: each["milliseconds"],
        "file, megabytes": lambda each: [each["bytes"] / 1e6] * len(each["widths"]),
        "executed MACs (millions)": lambda each: np.divide(each["executed_macs"], 1e6),
    }
    for ax, (label, cost) in zip(axes, costs.items(), strict=True):
        for name, title in TITLES.items():
            if name in systems:
                accuracy = 100 * np.array(systems[name]["accuracy"])
                ax.plot(cost(systems[name]), accuracy, "o-", ms=4, label=title)
        for short, title in (
            (False, "plain"),
            (True, "plain, a quarter of the epochs"),
        ):
            points = [
                (cost(each)[0], 100 * each["accuracy"][0])
                for name, each in systems.items()
                if name.startswith("plain") and name.endswith("short") == short
            ]
            if points:
                fill = "none" if short else "black"
                ax.plot(
                    *zip(*points, strict=True), "s", c="black", mfc=fill, label=title
                )
        ax.set(xlabel=label)
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="accuracy on CIFAR-10 (%)")
    axes[0].legend(fontsize="small")
    save_figure(figure, path)


def main() -> None:
    """Trains or measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=("train", "measure"))
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument(
        "--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS)
    )
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS data")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    data = load_data("cifar10", data_dir=args.data_dir)
    if args.task == "measure":
        result = measure(data, args.directory)
        write_whole(args.output, json.dumps(result, indent=1) + "\n")
        draw(result, args.output.parent / "figures" / "frontier.png")
        return
    with faster_normalization():
        for name in args.systems:
            print(name, flush=True)
            train(name, data, args.directory)


if __name__ == "__main__":
    main()
