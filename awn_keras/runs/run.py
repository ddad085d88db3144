"""Trains the model of a recipe in a directory, with checkpoints to resume from."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from awn_keras.data import Batches, ImageData
from awn_keras.errors import ArgumentError, DivergedError
from awn_keras.files import read_json, together, write_whole
from awn_keras.loading import load_keras_model
from awn_keras.model import AnyWidthModel
from awn_keras.runs.build import build, callbacks_of
from awn_keras.runs.devices import Devices
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.result import (
    Result,
    finish,
    holds_run_of,
    other_run,
    save_model,
)
from awn_keras.runs.sets import check_same_set, load_set, write_set
from awn_keras.schemas import SCHEMAS, Check, fields, items, number, real, values
from awn_keras.training.callbacks import NumbersCheck, weight_not_finite

#: File of the best epoch's model, for runs with `patience`.
BEST = "best.keras"


class Trace(keras.callbacks.Callback):
    """A callback that measures a model during training, and keeps the measurements.

    Attributes:
        seconds: Time of the measurements so far, in seconds. It does not count as
            training.
    """

    seconds: float = 0.0

    @property
    def statistics(self) -> dict[str, Any]:
        """The measurements in types of JSON. They become part of the result."""
        raise NotImplementedError


class _Checkpoint(keras.callbacks.Callback):
    """Saves model and history after each epoch, so that a kill loses at most one.

    With a `_Best`, the model of the best epoch is saved, too. The seconds of an epoch
    count its training steps only, without validation and without a `Trace`.
    """

    def __init__(
        self,
        directory: Path,
        history: list[dict[str, Any]],
        trace: Trace | None,
        best: _Best | None,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.history = history
        self.trace = trace
        self.best = best

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
        """Writes all files, or none."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        now = time.perf_counter() - self._elsewhere()
        logs["seconds"] = (self._end or now) - self._start
        self.history.append({"epoch": epoch, **logs})
        is_best = self.best is not None and self.best.epoch == len(self.history) - 1
        with together():
            # The model comes last: on resuming, its steps say how many epochs of the
            # history count.
            text = json.dumps(self.history, indent=1) + "\n"
            write_whole(self.directory / "history.json", text)
            save_model(
                self.model,
                self.directory / "model.keras",
                self.directory / BEST if is_best else None,
            )


class _NumbersCheck(NumbersCheck):
    """Ends a run with an error before an epoch with NaN is saved."""

    def __init__(self, directory: Path, done: int) -> None:
        super().__init__()
        self.directory = directory
        self.done = done

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """As in `NumbersCheck`."""
        super().on_epoch_end(epoch, logs)
        self.done = epoch + 1

    def tell(self, message: str) -> None:
        """Raises an error."""
        kept = "nothing was kept"
        if self.done:
            kept = f"{self.directory / 'model.keras'} holds epoch {self.done}"
        raise DivergedError(
            f"{message} Of this run, {kept}. Start another run in another directory, "
            "with another `learning_rate`."
        )


class _Best(keras.callbacks.Callback):
    """Finds the best epoch, and ends training `patience` epochs later.

    It reads only the history, so a resumed run ends at the epoch at which the
    uninterrupted run would end.
    """

    def __init__(self, history: list[dict[str, Any]], patience: int) -> None:
        super().__init__()
        self.history = history
        self.patience = patience

    @property
    def epoch(self) -> int:
        """Number of the best epoch (the first of equals); -1 before the first epoch."""
        scores = [
            logs.get("val_auc", logs.get("val_accuracy", 0.0)) for logs in self.history
        ]
        return scores.index(max(scores)) if scores else -1

    @property
    def is_over(self) -> bool:
        """Whether none of the last `patience` epochs was better."""
        return (
            bool(self.history) and len(self.history) - 1 - self.epoch >= self.patience
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Ends training, after the checkpoint."""
        if self.is_over:
            self.model.stop_training = True


def run(
    recipe: Recipe,
    directory: Path,
    *,
    resume: bool = False,
    data_dir: Path | None = None,
    download: bool = False,
    cache: Path | None = None,
    devices: Devices | None = None,
    trace: Callable[[ImageData, Path], Trace] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> Result:
    """Trains a recipe's model, or continues the training.

    At the start the directory gets `recipe.json` and `data.json`, which describes the
    data set and its classes. After every epoch it gets `model.keras` and
    `history.json`, and at the end `curve.csv`, `curve.png` and `result.json`. With
    `patience`, `best.keras` holds the best epoch's model, and the curve is its curve.

    Args:
        recipe: The recipe.
        directory: Directory to write to. It is made if it is missing.
        resume: Whether to continue after the last finished epoch in the directory. The
            result is that of an uninterrupted run.
        data_dir: See `load_data`.
        download: See `load_data`.
        cache: Where to keep the pixels of a folder of photos; see `load_folder`.
        devices: Devices to train on; see `choose_devices`. `None` for one device. The
            finished model is always measured on one device. Workers other than the
            chief leave no files in the directory.
        trace: Function of the data and of a folder to write to that makes a `Trace`.
            `None` for no trace.
        callbacks: More Keras callbacks.
        verbose: See `keras.Model.fit`.

    Returns:
        The result.

    Raises:
        ValueError: If the directory holds a run and `resume` is false, if it holds a
            run of another recipe or of a later version of awn_keras, or if the devices
            cannot train this recipe.
        DatasetUnavailableError: If the data set is missing.
        DivergedError: If the loss or a weight becomes NaN or infinite. The last epoch
            before that is kept.
        PhotoError: If a photo turns out to be damaged during training.
        OSError: If the directory cannot be written.
    """
    devices = devices or Devices()
    _check_devices(recipe, devices)
    data = load_set(recipe, data_dir=data_dir, download=download, cache=cache)
    directory.mkdir(parents=True, exist_ok=True)
    with devices.folder(directory) as folder:
        with devices.scope():
            model, history = _started(recipe, directory, data, resume=resume)
            done = len(history)
            devices.check_same_epoch(done, directory)
            _write_description(recipe, data, folder)
            traced = trace(data, folder) if trace else None
            train = data.train(recipe.batch_size, seed=recipe.seed, first_epoch=done)
            test = data.test()
            # The other systems need a pass for each width, which is too slow to
            # validate after each epoch.
            one_pass = isinstance(model, AnyWidthModel) or recipe.system == "plain"
            patience = recipe.patience
            best = None if patience is None else _Best(history, patience)
            over = best is not None and best.is_over
            with _naming_faults(train, test):
                model.fit(
                    devices.training_batches(train),
                    validation_data=devices.test_batches(test) if one_pass else None,
                    epochs=done if over else recipe.epochs_run,
                    initial_epoch=done,
                    shuffle=False,
                    callbacks=[
                        *callbacks_of(recipe, data),
                        _NumbersCheck(directory, done),  # before the checkpoint
                        *([traced] if traced else []),  # before the checkpoint
                        _Checkpoint(folder, history, traced, best),
                        *([best] if best else []),
                        *callbacks,
                    ],
                    verbose=verbose,
                )
        if devices.strategy is not None:
            # This process alone measures the model, on one device.
            last = folder if len(history) > done else directory
            model = load_keras_model(last / "model.keras")
        if recipe.patience is not None:
            kept = folder if (folder / BEST).exists() else directory
            model = load_keras_model(kept / BEST)
        statistics = traced.statistics if traced else None
        return finish(recipe, folder, model, data, history, statistics)


def _write_description(recipe: Recipe, data: ImageData, folder: Path) -> None:
    with together():
        write_set(recipe, data, folder)
        content = {"schema": SCHEMAS["run"], **recipe.as_json()}
        write_whole(folder / "recipe.json", json.dumps(content, indent=1) + "\n")


@contextlib.contextmanager
def _naming_faults(*batches: Batches) -> Iterator[None]:
    """Raises the error of a damaged photo instead of a backend's error."""
    try:
        yield
    except Exception as error:
        for source in batches:
            if source.fault is not None:
                raise source.fault from error
        raise


def _check_devices(recipe: Recipe, devices: Devices) -> None:
    """Checks that devices can train a recipe's system."""
    devices.check_batch_size(recipe.batch_size)
    if recipe.system in ("awn", "plain"):
        return
    backend = keras.backend.backend()
    if devices.strategy is not None or backend != "tensorflow":
        raise ArgumentError(
            f"`system={recipe.system}` trains on one device, with TensorFlow. Leave "
            "out `devices` and `strategy`, and set KERAS_BACKEND=tensorflow. Received: "
            f"strategy={devices.strategy}, KERAS_BACKEND={backend}"
        )


def _started(
    recipe: Recipe, directory: Path, data: ImageData, *, resume: bool
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """A recipe's model, new or from the last finished epoch, and its history."""
    model = build(recipe, data)  # also sets the seed when a run is resumed
    if not (directory / "model.keras").exists():
        return model, []
    if not holds_run_of(recipe, directory):
        raise ArgumentError(
            f"{directory} holds {other_run(recipe, directory / 'recipe.json')}. "
            "Name another directory. Only a run of the same recipe, epochs included, "
            "can be resumed; to train a finished model longer, load it and call `fit`."
        )
    if not resume:
        raise ArgumentError(
            f"{directory} holds a run already. Resume the run, or name another "
            "directory."
        )
    check_same_set(data, directory)
    fresh, model = model, load_keras_model(directory / "model.keras")
    _check_same_layers(fresh, model, directory)
    weight = weight_not_finite(model)
    if weight is not None:
        raise ArgumentError(
            f"{directory / 'model.keras'} has NaN or infinite numbers in weight "
            f"'{weight}', so training cannot continue. Name another directory."
        )
    if model.optimizer is None:
        raise ArgumentError(
            f"{directory / 'model.keras'} has no optimizer, so training cannot "
            "continue. Name another directory."
        )
    steps = len(data.train(recipe.batch_size))
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) // steps
    path = directory / "history.json"
    history = read_json(
        path,
        _history_of(done),
        f"the history of the {done} epochs of model.keras beside it: remove both files "
        "to train from the start",
    )
    return model, history[:done]


def _history_of(epochs: int) -> Check:
    """A check that accepts histories of at least `epochs` epochs; ignores the rest."""

    def check(value: Any, where: str) -> None:
        items(values(real), epochs)(value, where)
        of_epoch = fields({"epoch": number(0, whole=True), "seconds": number(0)})
        items(of_epoch)(value[:epochs], where)

    return check


def _check_same_layers(fresh: keras.Model, kept: keras.Model, directory: Path) -> None:
    """Checks that a saved model has the layers that the recipe builds now."""
    new, old = ([layer.name for layer in model.layers] for model in (fresh, kept))
    if new == old:
        return
    missing = [name for name in new if name not in old]
    gone = [name for name in old if name not in new]
    parts = [f"lacks {', '.join(missing)}"] if missing else []
    parts += [f"has {', '.join(gone)}"] if gone else []
    raise ArgumentError(
        f"{directory} holds a run of another version of awn_keras: its network "
        f"{' and '.join(parts) or 'has its layers in another order'}. Training would "
        "continue on other inputs than before. Name another directory."
    )
