"""One training run: a recipe, a directory, and a result that says how it came about."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras

from awn_keras.baselines import USNet
from awn_keras.callbacks import WidthProgbar
from awn_keras.counting import count_macs, count_parameters
from awn_keras.curves import TradeOffCurve, trade_off_curve
from awn_keras.data import ImageData, load_data
from awn_keras.environment import environment
from awn_keras.experiments import figures
from awn_keras.experiments.statistics import StatisticsTrace
from awn_keras.files import write_whole
from awn_keras.loading import load_keras_model
from awn_keras.model import AnyWidthModel
from awn_keras.multi_width import MultiWidthModel
from awn_keras.pictures import new_figure
from awn_keras.runs.devices import Devices
from awn_keras.runs.recipe import Recipe, build


class _Checkpoint(keras.callbacks.Callback):
    """Keeps model and history after each epoch; a kill loses at most one epoch.

    The seconds of an epoch are those of its training steps, without validation and
    without what a `StatisticsTrace` takes.
    """

    def __init__(
        self,
        directory: Path,
        history: list[dict[str, Any]],
        trace: StatisticsTrace | None,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.history = history
        self.trace = trace

    def _elsewhere(self) -> float:
        return self.trace.seconds if self.trace else 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter() - self._elsewhere()
        self._end: float | None = None

    def on_test_begin(self, logs: Any = None) -> None:
        """Stops the clock before validation."""
        self._end = time.perf_counter() - self._elsewhere()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes both files, each whole or not at all."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        now = time.perf_counter() - self._elsewhere()
        logs["seconds"] = (self._end or now) - self._start
        self.history.append({"epoch": epoch, **logs})
        # History first: what it has too many of is cut off on resuming.
        write_whole(
            self.directory / "history.json", json.dumps(self.history, indent=1) + "\n"
        )
        _save(self.model, self.directory)


def _save(model: keras.Model, directory: Path) -> None:
    """Writes a model whole or not at all."""
    temporary = directory / "model.partial.keras"
    model.save(temporary)
    temporary.replace(directory / "model.keras")


@dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        model: The trained model, in float32.
        curves: Its curves on the test set, after the last epoch, by the number of
            widths at which BatchNormalization was calibrated; 0 for none.
        history: Logs of each epoch, with its `seconds`.
        statistics: What a `StatisticsTrace` saw, if there was one.
    """

    model: keras.Model
    curves: dict[int, TradeOffCurve]
    history: list[dict[str, Any]]
    statistics: dict[str, Any] | None = None

    @property
    def curve(self) -> TradeOffCurve:
        """The curve; of several the one of most calibrated widths."""
        return self.curves[max(self.curves)]


def run(
    recipe: Recipe,
    directory: Path,
    *,
    resume: bool = False,
    data_dir: Path | None = None,
    download: bool = False,
    devices: Devices | None = None,
    trace_every: int | None = None,
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
        devices: What to train on; see `choose_devices`. `None` for one device. The
            finished model is measured on one device in any case. Workers that are not
            the chief leave nothing in the directory.
        trace_every: Steps between two looks at batch statistics (figure 2 of the
            paper; see `StatisticsTrace`). `None` for none.
        callbacks: More Keras callbacks.
        verbose: See `keras.Model.fit`.

    Returns:
        The result.

    Raises:
        ValueError: If the directory holds a run and `resume` is not given, or that of
            another recipe; or the devices cannot train this one.
        DatasetUnavailableError: If the data set is missing.
        OSError: If the directory cannot be written.
    """
    devices = devices or Devices()
    _check_devices(recipe, devices)
    data = load_data(recipe.dataset, data_dir=data_dir, download=download)
    directory.mkdir(parents=True, exist_ok=True)
    with devices.folder(directory) as folder:
        with devices.scope():
            model, history = _started(recipe, directory, data, resume=resume)
            done = len(history)
            devices.check_same_epoch(done, directory)
            recipe_text = json.dumps(asdict(recipe), indent=1) + "\n"
            write_whole(folder / "recipe.json", recipe_text)
            trace = None
            if trace_every is not None:
                probe = data.train(recipe.batch_size, seed=recipe.seed)[0][0]
                path = folder / "statistics.json"
                trace = StatisticsTrace(probe, path, every=trace_every)
            train = data.train(recipe.batch_size, seed=recipe.seed, first_epoch=done)
            # A pass for each width and image: only those that need one pass validate.
            one_pass = isinstance(model, AnyWidthModel) or recipe.system == "plain"
            model.fit(
                devices.training_batches(train),
                validation_data=devices.test_batches(data.test()) if one_pass else None,
                epochs=recipe.epochs_run,
                initial_epoch=done,
                shuffle=False,
                callbacks=[
                    WidthProgbar(),
                    *([trace] if trace else []),  # before the checkpoint
                    _Checkpoint(folder, history, trace),
                    *callbacks,
                ],
                verbose=verbose,
            )
        if devices.strategy is not None:
            # Measured by this process alone, on one device.
            last = folder if len(history) > done else directory
            model = load_keras_model(last / "model.keras")
        return _finish(recipe, folder, model, data, history, trace)


def _check_devices(recipe: Recipe, devices: Devices) -> None:
    """Checks that devices can train a recipe's system."""
    devices.check_batch_size(recipe.batch_size)
    if recipe.system in ("awn", "plain"):
        return
    backend = keras.backend.backend()
    if devices.strategy is not None or backend != "tensorflow":
        raise ValueError(
            f"`system={recipe.system}` trains on one device, with TensorFlow. Leave "
            "`devices` and `strategy`, and set KERAS_BACKEND=tensorflow. Received: "
            f"strategy={devices.strategy}, KERAS_BACKEND={backend}"
        )


def _started(
    recipe: Recipe, directory: Path, data: ImageData, *, resume: bool
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """A recipe's model, new or of the last finished epoch, and its history."""
    model = build(recipe, data)  # which seeds what is drawn, on resuming, too
    if not (directory / "model.keras").exists():
        return model, []
    if not holds_run_of(recipe, directory):
        raise ValueError(
            f"{directory} holds {_other_run(recipe, directory / 'recipe.json')}. "
            "Name another directory. Only a run of the same recipe, epochs included, "
            "can be resumed; to train a finished model longer, load it and call `fit`."
        )
    if not resume:
        raise ValueError(
            f"{directory} holds a run already. Resume it, or name another one."
        )
    model = load_keras_model(directory / "model.keras")
    history = json.loads((directory / "history.json").read_text())
    steps = len(data.train(recipe.batch_size))
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) // steps
    return model, history[:done]


def _finish(
    recipe: Recipe,
    directory: Path,
    model: keras.Model,
    data: ImageData,
    history: list[dict[str, Any]],
    trace: StatisticsTrace | None,
) -> Result:
    """Measures a trained model, and writes what came of the run."""
    if recipe.precision != "float32":
        model = _in_float32(recipe, model, data)
    curves = _curves(recipe, model, data)
    if isinstance(model, USNet):
        _save(model, directory)  # with its last calibration
    result = Result(model, curves, history, trace.statistics if trace else None)
    result.curve.to_csv(directory / "curve.csv")
    figure, axes = new_figure()
    for count, curve in curves.items():
        label = f"{count} widths calibrated, AUC {100 * curve.auc:.2f} %"
        curve.plot(axes, label if count else None)
    figures.save(figure, directory / "curve.png")
    write_whole(
        directory / "result.json",
        json.dumps(describe(recipe, result), indent=1) + "\n",
    )
    return result


def _in_float32(recipe: Recipe, model: keras.Model, data: ImageData) -> keras.Model:
    """A model's twin whose layers compute in float32, with its optimizer's state."""
    twin = build(replace(recipe, precision="float32"), data)
    twin.set_weights(model.get_weights())
    twin.optimizer.build(twin.trainable_variables)
    for ours, other in zip(
        twin.optimizer.variables, model.optimizer.variables, strict=True
    ):
        ours.assign(other)
    return twin


def _curves(
    recipe: Recipe, model: keras.Model, data: ImageData
) -> dict[int, TradeOffCurve]:
    test = data.test()
    if isinstance(model, USNet):
        curves = {}
        for count in recipe.calibrations:
            train = data.train(recipe.batch_size, seed=recipe.seed)
            model.calibrate(train, count, batches=recipe.calibration_batches)
            curves[count] = trade_off_curve(model, test)
        return curves
    if isinstance(model, MultiWidthModel):
        return {0: trade_off_curve(model, test, widths=recipe.curve_widths(model))}
    metrics = model.evaluate(test, return_dict=True, verbose=0)
    return {
        0: TradeOffCurve(
            widths=[1.0],
            accuracy=[metrics["accuracy"]],
            loss=[metrics["loss"]],
            macs=[count_macs(model)],
            parameters=[count_parameters(model)],
            metrics={name: [value] for name, value in metrics.items()},
        )
    }


def _starts(model: keras.Model, widths: Sequence[float]) -> list[float]:
    """For each width the smallest one at which the same network runs."""
    if not isinstance(model, MultiWidthModel):
        return list(widths)
    starts = [model.start_of(width) for width in widths]
    return [max(start, widths[0]) for start in starts]


def _kept_recipe(path: Path) -> dict[str, Any]:
    """A recipe as JSON has it; fields that it does not know yet are the defaults."""
    return {**as_json(Recipe()), **json.loads(path.read_text())}


def as_json(recipe: Recipe) -> dict[str, Any]:
    """Puts a recipe into JSON's types.

    Args:
        recipe: The recipe.

    Returns:
        A dict of its fields.
    """
    return json.loads(json.dumps(asdict(recipe)))


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
        return _kept_recipe(path) == as_json(recipe)
    except (TypeError, ValueError):
        return False


def _other_run(recipe: Recipe, path: Path) -> str:
    """Says of which recipe a directory's run is, and which settings differ."""
    try:
        old = _kept_recipe(path)
    except (OSError, TypeError, ValueError):
        return "a model.keras, and no recipe.json that could be read"
    new = as_json(recipe)
    return "a run of another recipe" + "".join(
        f"; {name} is {old.get(name)!r} there, {new.get(name)!r} here"
        for name in {**new, **old}
        if old.get(name) != new.get(name)
    )


def describe(recipe: Recipe, result: Result) -> dict[str, Any]:
    """Puts a run into JSON's types: recipe, machine, versions, times and numbers.

    Args:
        recipe: The recipe.
        result: What came of it.

    Returns:
        A dict. Accuracies and AUC are fractions; a network of a curve runs from its
        `starts` on; `best_epoch` is chosen on the test set, as the paper's authors do,
        and `None` for systems that are not evaluated while training; `seconds` are
        those of training steps alone.
    """
    best = None
    if "val_auc" in result.history[-1]:
        logs = max(result.history, key=lambda logs: logs["val_auc"])
        best = {"epoch": logs["epoch"], "auc": logs["val_auc"]}
    return {
        "recipe": asdict(recipe),
        "reduced": recipe.epochs_run < recipe.epochs,
        "auc": result.curve.auc,
        "best_epoch": best,
        "curves": [
            {
                "calibrated": count,
                "auc": curve.auc,
                "starts": _starts(result.model, curve.widths),
                **asdict(curve),
            }
            for count, curve in result.curves.items()
        ],
        "seconds": sum(logs["seconds"] for logs in result.history),
        "history": result.history,
        "statistics": result.statistics,
        "environment": environment(),
    }
