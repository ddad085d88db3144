"""Ideas that may lower what joint training costs, on CIFAR-10.

    python -m benchmarks.joint [--arms base ema ...] [--seeds 0 1] [--epochs 25]
        [--data-dir DIR] [--output FILE]

LeNet-3C1L trains with the arm `cosine` of `awn reproduce improvements`, in
mixed_bfloat16, and with one change of it at a time. `full` trains the same network at
full width only: what it loses against a plain network is the triangle's part, and what
`base` loses against `full` is the part of joint training. `plain` has the channels of
full width, divided by sqrt(2): about as many weights.

A training takes about a quarter of an hour on two cores. Each result is saved at once,
and a new run trains only what is missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import trade_off_curve
from awn_keras.data import ImageData, load_data
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.layers.base import TriangularKernel
from awn_keras.model import AnyWidthModel
from awn_keras.multi_width import MultiWidthModel
from awn_keras.runs.build import prepare
from awn_keras.runs.networks import network_of
from awn_keras.runs.presets import paper_recipe, recommended_recipe
from awn_keras.runs.recipe import Recipe

OUTPUT = Path(__file__).parents[1] / "results" / "joint.json"
#: Widths of the results, besides the mean over all widths.
WIDTHS = (0.25, 0.5, 0.75, 1.0)
#: Steps over which weights are averaged, and batches that then set the statistics of
#: BatchNormalization.
_AVERAGED, _CALIBRATION = 500, 100


# ------------------------------------------------------------------------ the ideas


class BiasPerWidth(AnyWidthModel):
    """The readout has a bias of its own for each width."""

    def build_extra(self) -> None:
        """Adds the biases."""
        shape = len(self.networks.starts), self.output.shape[-1]
        self.extra = keras.layers.Embedding(*shape, embeddings_initializer="zeros")
        self.extra.build()

    def _outputs_at(self, levels: Any, features: Any, training: bool | None) -> Any:
        outputs = super()._outputs_at(levels, features, training)
        biases = keras.ops.unstack(self.extra(levels), len(outputs))
        return [
            y + keras.ops.cast(bias, y.dtype)
            for y, bias in zip(outputs, biases, strict=True)
        ]


class ReadoutPerOctave(AnyWidthModel):
    """Widths below 0.5 have a readout of their own, which begins as the shared one."""

    def build_extra(self) -> None:
        """Adds the difference of the two readouts."""
        self.extra = keras.layers.Dense(
            self.output.shape[-1], kernel_initializer="zeros", dtype="float32"
        )
        self.extra.build(self._trunk.parts.trunk.outputs[0].shape)

    def _outputs_at(self, levels: Any, features: Any, training: bool | None) -> Any:
        outputs = super()._outputs_at(levels, features, training)
        (channel_levels,) = self._trunk.channel_levels
        first_of_upper = self.networks.level_of(0.5)
        changed = []
        for level, y in zip(
            keras.ops.unstack(levels, len(outputs)), outputs, strict=True
        ):
            active = keras.ops.cast(channel_levels <= level, "float32")
            lower = keras.ops.cast(level < first_of_upper, "float32")
            x = keras.ops.cast(features[0], "float32") * active
            changed.append(y + keras.ops.cast(lower * self.extra(x), y.dtype))
        return changed


class ScaledReadout(AnyWidthModel):
    """The readout's input is divided by the root of the number of active channels."""

    def build_extra(self) -> None:
        """Notes the factor of each level, 1 at full width."""
        (channel_levels,) = self._trunk.channel_levels
        levels = np.arange(len(self.networks.starts))
        active = (channel_levels[None] <= levels[:, None]).sum(axis=1)
        self.factors = np.sqrt(active[-1] / active).astype("float32")

    def _outputs_at(self, levels: Any, features: Any, training: bool | None) -> Any:
        outputs = super()._outputs_at(levels, features, training)
        factors = keras.ops.take(keras.ops.convert_to_tensor(self.factors), levels)
        bias = self.layers[-1].bias  # is not an input
        return [
            (y - keras.ops.cast(bias, y.dtype)) * keras.ops.cast(factor, y.dtype)
            + keras.ops.cast(bias, y.dtype)
            for y, factor in zip(
                outputs, keras.ops.unstack(factors, len(outputs)), strict=True
            )
        ]


class RatesByFanIn(keras.optimizers.SGD):
    """SGD in which a channel that reads n channels has a rate of about 1 / n.

    One step then changes each channel's value by about as much.
    """

    def set_rates(self, model: keras.Model) -> None:
        """Computes the factors on the rate of a model's kernels. Their mean is 1."""
        self.rates: dict[str, np.ndarray] = {}
        for layer in model.layers:
            if isinstance(layer, TriangularKernel):
                mask = np.broadcast_to(layer.masks["kernel"], layer.kernel.shape)
                reads = mask.sum(axis=-2, keepdims=True)
                rates = 1 / np.maximum(reads, 1)
                scaled = (rates / rates.mean()).astype("float32")
                self.rates[layer.kernel.path] = scaled

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Updates the weights."""
        scaled = [
            gradient
            * keras.ops.cast(self.rates.get(variable.path, 1.0), variable.dtype)
            for gradient, variable in zip(grads, trainable_variables, strict=True)
        ]
        super().apply(scaled, trainable_variables)


def _sgd(model: keras.Model, kind: type[keras.optimizers.SGD], **changes: Any) -> Any:
    config = model.optimizer.get_config()
    optimizer = kind.from_config({**config, **changes})
    model.optimizer = optimizer
    return optimizer


def _averages(model: keras.Model) -> None:
    momentum = 1 - 1 / _AVERAGED
    _sgd(model, keras.optimizers.SGD, use_ema=True, ema_momentum=momentum)


def _rates(model: keras.Model) -> None:
    _sgd(model, RatesByFanIn).set_rates(model)


@dataclass(frozen=True)
class Arm:
    """A training to compare.

    Args:
        changes: Changes of the recipe.
        kind: The class of the model, with `build_extra`; `None` for the usual one.
        optimizer: Changes the optimizer of the compiled model.
        calibrates: Whether the statistics of BatchNormalization are set anew after
            training.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    kind: type[AnyWidthModel] | None = None
    optimizer: Callable[[keras.Model], None] | None = None
    calibrates: bool = False


ARMS = {
    "base": Arm(),
    "label_smoothing": Arm({"label_smoothing": 0.1}),
    "ema": Arm(optimizer=_averages, calibrates=True),
    "bias": Arm(kind=BiasPerWidth),
    "octave": Arm(kind=ReadoutPerOctave),
    "active": Arm(kind=ScaledReadout),
    "fan_in": Arm(optimizer=_rates),
    "power": Arm({"width_power": 1.0}),
    "full": Arm({"sampler": "fixed", "widths": (1.0,)}),
    "plain": Arm({"system": "plain", "width_multiplier": 1.0}),
}


# ------------------------------------------------------------------------- training


def recipe_of(arm: Arm, epochs: int, seed: int) -> Recipe:
    """The recipe of an arm."""
    if arm.changes.get("system") == "plain":
        recipe = paper_recipe("cifar10", system="plain")
        mean = recommended_recipe("cifar10")
        names = ("learning_rate", "schedule", "weight_decay")
        recipe = replace(recipe, **{name: getattr(mean, name) for name in names})
    else:
        recipe = replace(recommended_recipe("cifar10"), sampler="sandwich")
    shared = {"epochs": epochs, "precision": "mixed_bfloat16", "seed": seed}
    return replace(recipe, **shared, **arm.changes)


def trained(arm: Arm, recipe: Recipe, data: ImageData) -> keras.Model:
    """Trains an arm."""
    keras.utils.set_random_seed(recipe.seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        network = network_of(recipe.architecture).build(recipe, data)
        if arm.kind is not None:
            weights = network.get_weights()
            network = arm.kind.from_config(network.get_config())
            network.set_weights(weights)
            network.build_extra()
    finally:
        keras.config.set_dtype_policy(policy)
    model = prepare(recipe, network, data)
    if arm.optimizer is not None:
        arm.optimizer(model)
    batches = data.train(recipe.batch_size, seed=recipe.seed)
    model.fit(batches, epochs=recipe.epochs, shuffle=False, verbose=2)
    if arm.calibrates:
        for index in range(min(_CALIBRATION, len(batches))):
            model._features(batches[index][0], training=True)
    return model


def result_of(model: keras.Model, data: ImageData) -> dict[str, Any]:
    """Measures the accuracy on the test images.

    Returns:
        `auc`, the mean over all widths, and `accuracy` at each of `WIDTHS`; for a plain
        network the accuracy of its one width.
    """
    if not isinstance(model, MultiWidthModel):
        accuracy = model.evaluate(data.test(), return_dict=True, verbose=0)["accuracy"]
        return {"accuracy": [accuracy]}
    results = model.evaluate_widths(data.test(), widths=WIDTHS, verbose=0)
    curve = trade_off_curve(model, data.test())
    return {"auc": float(curve.auc), "accuracy": list(results["accuracy"])}


def main() -> None:
    """Trains what is missing in the file of results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS data")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    data = load_data("cifar10", data_dir=args.data_dir)
    rows = json.loads(args.output.read_text())["rows"] if args.output.exists() else []
    for seed in args.seeds:
        for name in args.arms:
            about = {"arm": name, "seed": seed, "epochs": args.epochs}
            if any(about.items() <= row.items() for row in rows):
                continue
            print(about, flush=True)
            recipe = recipe_of(ARMS[name], args.epochs, seed)
            start = time.perf_counter()
            model = trained(ARMS[name], recipe, data)
            seconds = time.perf_counter() - start
            rows.append({**about, "seconds": seconds, **result_of(model, data)})
            print(rows[-1], flush=True)
            result = {"widths": WIDTHS, "environment": environment(), "rows": rows}
            write_whole(args.output, json.dumps(result, indent=1) + "\n")
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
