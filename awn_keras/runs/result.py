"""Writes and reads the results of a run: models, curves, and their description."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras

from awn_keras.baselines import USNet
from awn_keras.counting import count_parameters, known_macs
from awn_keras.curves import TradeOffCurve, trade_off_curve
from awn_keras.data import ImageData
from awn_keras.environment import environment
from awn_keras.files import read_json, together, whole_file, write_whole
from awn_keras.multi_width import MultiWidthModel
from awn_keras.pictures import new_figure, save_figure
from awn_keras.runs.build import build
from awn_keras.runs.recipe import Recipe
from awn_keras.schemas import SCHEMAS, NewerError, anything, of_kind, values


@dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        model: The trained model, in float32.
        curves: Curves of the model on the test set, by the number of widths at which
            BatchNormalization was calibrated; 0 without calibration.
        history: Logs of each epoch, with the `seconds` of the epoch.
        statistics: Measurements of a `StatisticsTrace`; `None` without one.
    """

    model: keras.Model
    curves: dict[int, TradeOffCurve]
    history: list[dict[str, Any]]
    statistics: dict[str, Any] | None = None

    @property
    def curve(self) -> TradeOffCurve:
        """The curve; of several, the curve with most calibrated widths."""
        return self.curves[max(self.curves)]


# ------------------------------------------------------------------------- writing


def save_model(model: keras.Model, path: Path, copy: Path | None = None) -> None:
    """Writes a model, and perhaps a copy, whole or not at all."""
    with together(), whole_file(path, ".keras") as temporary:
        model.save(temporary)
        if copy is not None:
            with whole_file(copy) as other:
                shutil.copyfile(temporary, other)


def finish(
    recipe: Recipe,
    directory: Path,
    model: keras.Model,
    data: ImageData,
    history: list[dict[str, Any]],
    statistics: dict[str, Any] | None = None,
) -> Result:
    """Measures a trained model, and writes the results of the run."""
    if recipe.precision != "float32":
        model = _in_float32(recipe, model, data)
    curves = _curves(recipe, model, data)
    result = Result(model, curves, history, statistics)
    figure, axes = new_figure()
    for count, curve in curves.items():
        label = f"{count} widths calibrated, AUC {100 * curve.auc:.2f} %"
        curve.plot(axes, label if count else None)
    with together():
        if isinstance(model, USNet):
            # A US-Net is saved again, with its last calibration.
            save_model(model, directory / "model.keras")
        result.curve.to_csv(directory / "curve.csv")
        save_figure(figure, directory / "curve.png")
        write_whole(
            directory / "result.json",
            json.dumps(describe(recipe, result), indent=1) + "\n",
        )
    return result


def _in_float32(recipe: Recipe, model: keras.Model, data: ImageData) -> keras.Model:
    """A copy of a model that computes in float32, with the optimizer's state."""
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
            curves[count] = trade_off_curve(
                model, test, widths=recipe.curve_widths(model)
            )
        return curves
    if isinstance(model, MultiWidthModel):
        return {0: trade_off_curve(model, test, widths=recipe.curve_widths(model))}
    metrics = model.evaluate(test, return_dict=True, verbose=0)
    macs = known_macs(model, [1.0])
    return {
        0: TradeOffCurve(
            widths=[1.0],
            accuracy=[metrics["accuracy"]],
            loss=[metrics["loss"]],
            macs=macs.macs.tolist(),
            parameters=[count_parameters(model)],
            metrics={name: [value] for name, value in metrics.items()},
            uncounted=macs.names,
        )
    }


def _starts(model: keras.Model, widths: Sequence[float]) -> list[float]:
    """For each width, the smallest width at which the same network runs."""
    if not isinstance(model, MultiWidthModel):
        return list(widths)
    starts = [model.start_of(width) for width in widths]
    return [max(start, widths[0]) for start in starts]


def describe(recipe: Recipe, result: Result) -> dict[str, Any]:
    """Describes a run in types of JSON: recipe, machine, versions, times and results.

    Args:
        recipe: The recipe.
        result: The result of the run.

    Returns:
        A dict. Accuracies and AUC are fractions. Each network of a curve runs at widths
        from its entry in `starts`. `best_epoch` is chosen on the test set, as the
        paper's authors do; it is `None` for systems that are not evaluated during
        training. `seconds` counts training steps only.
    """
    best = None
    if "val_auc" in result.history[-1]:
        logs = max(result.history, key=lambda logs: logs["val_auc"])
        best = {"epoch": logs["epoch"], "auc": logs["val_auc"]}
    return {
        "schema": SCHEMAS["run"],
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


# ------------------------------------------------------------------------- reading


def _kept_recipe(path: Path) -> dict[str, Any]:
    """A recipe from a JSON file. Fields that the file lacks have their defaults."""
    kept = {**Recipe().as_json(), **read_json(path, of_kind("run", values(anything)))}
    kept.pop("schema", None)
    return kept


def holds_run_of(recipe: Recipe, directory: Path) -> bool:
    """Whether a directory holds a run of this recipe, finished or not.

    Args:
        recipe: The recipe.
        directory: The directory.

    Returns:
        `True` if `model.keras` is there and `recipe.json` holds this recipe.

    Raises:
        ValueError: If a later version of awn_keras wrote `recipe.json`.
    """
    path = directory / "recipe.json"
    if not path.exists() or not (directory / "model.keras").exists():
        return False
    try:
        return _kept_recipe(path) == recipe.as_json()
    except NewerError:
        raise
    except (TypeError, ValueError):
        return False


def other_run(recipe: Recipe, path: Path) -> str:
    """Describes the run in a directory: the settings that differ from a recipe."""
    try:
        old = _kept_recipe(path)
    except (OSError, TypeError, ValueError):
        return "a model.keras, and no recipe.json that could be read"
    new = recipe.as_json()
    return "a run of another recipe" + "".join(
        f"; {name} is {old.get(name)!r} there, {new.get(name)!r} here"
        for name in {**new, **old}
        if old.get(name) != new.get(name)
    )
