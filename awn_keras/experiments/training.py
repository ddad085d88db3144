"""One training run: a recipe, a directory, and a result that says how it came about."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from awn_keras.architectures import lenet_3c1l, mobilenet_v2
from awn_keras.data import DATASETS, ImageData, load_data
from awn_keras.environment import environment
from awn_keras.evaluation import TradeOffCurve, trade_off_curve
from awn_keras.files import write_whole
from awn_keras.loading import load_model
from awn_keras.model import AnyWidthModel
from awn_keras.widths import (
    FixedWidths,
    SandwichWidths,
    UniformWidths,
    WidthSampler,
    check_width,
)

#: Ways to choose the widths of a step: `sandwich` is the paper's AWN+RS.
SAMPLERS = ("sandwich", "uniform", "all")
#: AUC of AWN+RS with LeNet-3C1L in the paper's table 2.
PAPER_AUC = {"fashion_mnist": 0.9106, "cifar10": 0.7375, "cifar100": 0.4365}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run. Defaults are the paper's for LeNet.

    Args:
        dataset: One of `awn_keras.data.DATASETS`.
        architecture: One of `ARCHITECTURES`.
        filters: Channels of each convolution, before `width_multiplier`; for
            `lenet_3c1l` only.
        width_multiplier: Widens every convolution.
        epochs: Passes over the training set.
        batch_size: Samples in a step.
        learning_rate: Of SGD with `momentum`; divided by 10 after 50 % and 75 % of
            the steps.
        momentum: Momentum in [0, 1).
        weight_decay: The paper's, in the gradient.
        min_width: Smallest width, in (0, 1].
        divisor: See `AnyWidthModel`.
        widths_grid: See `AnyWidthModel`.
        sampler: One of `SAMPLERS`.
        num_widths: Widths in a step; ignored by `all`.
        width_reduction: See `AnyWidthModel.compile`.
        seed: Seed of everything that is drawn.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1.
    """

    dataset: str = "fashion_mnist"
    architecture: str = "lenet_3c1l"
    filters: int = 32
    width_multiplier: float = 2**0.5
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    min_width: float = 0.25
    divisor: int = 1
    widths_grid: tuple[float, ...] | None = None
    sampler: str = "sandwich"
    num_widths: int = 4
    width_reduction: str = "sum"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks names and ranges.

        Raises:
            ValueError: If one is wrong.
        """
        for name, allowed in (
            ("dataset", DATASETS),
            ("architecture", ARCHITECTURES),
            ("sampler", SAMPLERS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {sorted(allowed)}. Received: "
                    f"{name}={getattr(self, name)!r}"
                )
        for name in ("filters", "epochs", "batch_size", "num_widths", "divisor"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: "
                    f"{name}={getattr(self, name)}"
                )
        for name in ("learning_rate", "width_multiplier"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"`{name}` must be above 0. Received: {name}={getattr(self, name)}"
                )
        for name, end in (("momentum", 1), ("weight_decay", math.inf)):
            if not 0 <= getattr(self, name) < end:
                raise ValueError(
                    f"`{name}` must be in [0, {end}). Received: "
                    f"{name}={getattr(self, name)}"
                )
        check_width(self.min_width, name="min_width")
        self._check_unused()

    def _check_unused(self) -> None:
        for name in ARCHITECTURES[self.architecture].unused:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"`{name}` means nothing to architecture={self.architecture!r}: "
                    f"leave it out. Received: {name}={getattr(self, name)}"
                )

    @classmethod
    def paper(cls, dataset: str, architecture: str = "lenet_3c1l") -> Recipe:
        """The paper's recipe (AWN+RS) for an architecture on a data set.

        Args:
            dataset: One of `awn_keras.data.DATASETS`.
            architecture: One of `ARCHITECTURES`.

        Returns:
            20 epochs without weight decay; on CIFAR 100 epochs with 5e-4. For
            `mobilenet_v2` the paper's widths only; its schedule is LeNet's.

        Raises:
            ValueError: If a name is wrong.

        Reference:
            Vu et al., Any-Width Networks (2020), section 5.1.
        """
        recipe = cls(dataset, architecture)
        if dataset.startswith("cifar"):
            recipe = replace(recipe, epochs=100, weight_decay=5e-4)
        return replace(recipe, **ARCHITECTURES[architecture].paper)


@dataclass(frozen=True)
class Architecture:
    """A network that a recipe can name.

    Args:
        build: Builds the model of a recipe for a data set.
        paper: What differs in the paper's recipe from that for LeNet.
        unused: Fields of a recipe that mean nothing to this network.
    """

    build: Callable[[Recipe, ImageData], AnyWidthModel]
    paper: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def _shared_arguments(recipe: Recipe) -> dict[str, Any]:
    names = ("width_multiplier", "weight_decay", "min_width", "divisor", "widths_grid")
    return {name: getattr(recipe, name) for name in names}


def _lenet_3c1l(recipe: Recipe, data: ImageData) -> AnyWidthModel:
    small = min(data.input_shape[:2]) < 16
    return lenet_3c1l(
        data.input_shape,
        data.classes,
        filters=recipe.filters,
        padding="same" if small else "valid",
        **_shared_arguments(recipe),
    )


def _mobilenet_v2(recipe: Recipe, data: ImageData) -> AnyWidthModel:
    return mobilenet_v2(data.input_shape, data.classes, **_shared_arguments(recipe))


#: Architectures by name.
ARCHITECTURES = {
    "lenet_3c1l": Architecture(_lenet_3c1l),
    "mobilenet_v2": Architecture(
        _mobilenet_v2, paper={"min_width": 0.35, "divisor": 8}, unused=("filters",)
    ),
}


def build(recipe: Recipe, data: ImageData) -> AnyWidthModel:
    """Builds and compiles a recipe's model.

    Args:
        recipe: The recipe. Keras' global random state is seeded from it.
        data: Its data set.

    Returns:
        The model, untrained.

    Raises:
        ValueError: If the recipe's arguments do not fit.
    """
    keras.utils.set_random_seed(recipe.seed)
    model = ARCHITECTURES[recipe.architecture].build(recipe, data)
    steps = recipe.epochs * len(data.train(recipe.batch_size))
    rates = [recipe.learning_rate / 10**i for i in range(3)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(0.5 * steps), round(0.75 * steps)], rates
    )
    model.compile(
        keras.optimizers.SGD(schedule, momentum=recipe.momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        widths=_sampler(recipe, model),
        width_reduction=recipe.width_reduction,
    )
    return model


def _sampler(recipe: Recipe, model: AnyWidthModel) -> WidthSampler:
    if recipe.sampler == "all":
        return FixedWidths(model.distinct_widths)
    sampler = {"sandwich": SandwichWidths, "uniform": UniformWidths}[recipe.sampler]
    return sampler(recipe.min_width, 1.0, recipe.num_widths, seed=recipe.seed)


class _Checkpoint(keras.callbacks.Callback):
    """Keeps model and history after each epoch; a kill loses at most one epoch."""

    def __init__(self, directory: Path, history: list[dict[str, Any]]) -> None:
        super().__init__()
        self.directory = directory
        self.history = history

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes both files, each whole or not at all."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        logs["seconds"] = time.perf_counter() - self._start
        self.history.append({"epoch": epoch, **logs})
        # History first: what it has too many of is cut off on resuming.
        write_whole(
            self.directory / "history.json", json.dumps(self.history, indent=1) + "\n"
        )
        path = self.directory / "model.keras"
        temporary = path.with_name("model.partial.keras")
        self.model.save(temporary)
        temporary.replace(path)


@dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        model: The trained model.
        curve: Its curve on the test set, after the last epoch.
        history: Logs of each epoch, with its `seconds`.
    """

    model: AnyWidthModel
    curve: TradeOffCurve
    history: list[dict[str, Any]]


def run(
    recipe: Recipe,
    directory: Path,
    *,
    resume: bool = False,
    data_dir: Path | None = None,
    download: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> Result:
    """Trains a recipe's model, or goes on training it.

    The directory receives, after every epoch, `model.keras` and `history.json`, and
    at the end `curve.csv`, `curve.png` and `result.json`.

    Args:
        recipe: The recipe.
        directory: Where to write; made if missing.
        resume: Whether to go on from the directory's last finished epoch. The result
            is that of an uninterrupted run.
        data_dir: See `load_data`.
        download: See `load_data`.
        callbacks: More Keras callbacks.
        verbose: See `keras.Model.fit`.

    Returns:
        The result.

    Raises:
        ValueError: If the directory holds a run and `resume` is not given, or that of
            another recipe.
        DatasetUnavailableError: If the data set is missing.
        OSError: If the directory cannot be written.
    """
    data = load_data(recipe.dataset, data_dir=data_dir, download=download)
    directory.mkdir(parents=True, exist_ok=True)
    model = build(recipe, data)
    history: list[dict[str, Any]] = []
    if (directory / "model.keras").exists():
        if not resume:
            raise ValueError(
                f"{directory} holds a run already. Resume it, or name another one."
            )
        if not holds_run_of(recipe, directory):
            raise ValueError(
                f"Cannot resume: {directory} holds a run of another recipe"
                f"{_difference(recipe, directory / 'recipe.json')}."
            )
        model = load_model(directory / "model.keras")
        history = json.loads((directory / "history.json").read_text())
    steps = len(data.train(recipe.batch_size))
    done = int(model.optimizer.iterations) // steps
    del history[done:]
    write_whole(directory / "recipe.json", json.dumps(asdict(recipe), indent=1) + "\n")
    model.fit(
        data.train(recipe.batch_size, seed=recipe.seed, first_epoch=done),
        validation_data=data.test(),
        epochs=recipe.epochs,
        initial_epoch=done,
        shuffle=False,
        callbacks=[_Checkpoint(directory, history), *callbacks],
        verbose=verbose,
    )
    curve = trade_off_curve(model, data.test())
    curve.to_csv(directory / "curve.csv")
    curve.plot().figure.savefig(directory / "curve.png", dpi=150)
    result = Result(model, curve, history)
    write_whole(
        directory / "result.json",
        json.dumps(describe(recipe, result), indent=1) + "\n",
    )
    return result


def holds_run_of(recipe: Recipe, directory: Path) -> bool:
    """Says whether a directory holds a run of this recipe, finished or not.

    Args:
        recipe: The recipe.
        directory: The directory.

    Returns:
        Whether `model.keras` is there, and `recipe.json` says the same recipe.
    """
    path = directory / "recipe.json"
    if not path.exists() or not (directory / "model.keras").exists():
        return False
    try:
        old = json.loads(path.read_text())
    except ValueError:
        return False
    return old == json.loads(json.dumps(asdict(recipe)))


def _difference(recipe: Recipe, path: Path) -> str:
    """Says which settings of a kept recipe differ."""
    try:
        old = json.loads(path.read_text())
    except (OSError, ValueError):
        return ", and no recipe.json that could be read"
    new = json.loads(json.dumps(asdict(recipe)))
    return "".join(
        f"; {name} is {old.get(name)!r} there, {value!r} here"
        for name, value in new.items()
        if value != old.get(name)
    )


def describe(recipe: Recipe, result: Result) -> dict[str, Any]:
    """Puts a run into JSON's types: recipe, machine, versions, times and numbers.

    Args:
        recipe: The recipe.
        result: What came of it.

    Returns:
        A dict. Accuracies and AUC are fractions; `best_epoch` is chosen on the test
        set, as the paper's authors do; `paper_auc` is given if the recipe is the
        paper's.
    """
    best = max(result.history, key=lambda logs: logs["val_auc"])
    paper = None
    if recipe == replace(Recipe.paper(recipe.dataset), seed=recipe.seed):
        paper = PAPER_AUC.get(recipe.dataset)
    return {
        "recipe": asdict(recipe),
        "auc": result.curve.auc,
        "paper_auc": paper,
        "best_epoch": {"epoch": best["epoch"], "auc": best["val_auc"]},
        "curve": asdict(result.curve),
        "seconds": sum(logs["seconds"] for logs in result.history),
        "history": result.history,
        "environment": environment(),
    }
