import csv
import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from awn_keras import FixedWidths, SandwichWidths, UniformWidths
from awn_keras.data import load_data
from awn_keras.experiments.training import Recipe, build, holds_run_of, run

QUICK = Recipe("digits", filters=4, epochs=3, num_widths=3)


class KilledError(Exception):
    pass


class KillAfter(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4 and self.model.optimizer.iterations > 12 * self.at:
            raise KilledError


class Epochs(keras.callbacks.Callback):
    """Remembers which epochs were run."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return run(QUICK, directory, verbose=0), directory


def test_the_papers_recipes():
    fashion = Recipe.paper("fashion_mnist")
    assert (fashion.epochs, fashion.weight_decay) == (20, 0.0)
    cifar = Recipe.paper("cifar100")
    assert (cifar.epochs, cifar.weight_decay) == (100, 5e-4)
    for recipe in (fashion, cifar):
        assert (recipe.batch_size, recipe.learning_rate, recipe.momentum) == (
            *(128, 0.01),
            0.9,
        )
        assert (recipe.sampler, recipe.num_widths, recipe.min_width) == (
            *("sandwich", 4),
            0.25,
        )


def test_the_papers_recipe_for_another_architecture():
    recipe = Recipe.paper("cifar10", "mobilenet_v2")
    assert recipe == replace(
        Recipe.paper("cifar10"),
        architecture="mobilenet_v2",
        min_width=0.35,
        divisor=8,
    )
    with pytest.raises(ValueError, match="`architecture` must be one of"):
        Recipe.paper("cifar10", "resnet")
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        Recipe.paper("imagenet", "mobilenet_v2")


def test_a_mobilenet_is_built_from_its_recipe():
    recipe = replace(
        Recipe.paper("digits", "mobilenet_v2"), width_multiplier=0.5, weight_decay=0.1
    )
    model = build(recipe, load_data("digits"))
    assert model.name == "mobilenet_v2"
    assert (model.min_width, model.divisor) == (0.35, 8)
    assert model.get_layer("stem_conv").filters == 16
    assert model.get_layer("head_conv").filters == 640
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 10))
    assert model.losses
    assert model.optimizer.momentum == 0.9


def test_older_recipes_are_still_read(tmp_path):
    """What was written before there was a second architecture."""
    old = """{
        "dataset": "digits", "architecture": "lenet_3c1l", "filters": 4,
        "width_multiplier": 1.4142135623730951, "epochs": 3, "batch_size": 128,
        "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0,
        "min_width": 0.25, "divisor": 1, "widths_grid": null,
        "sampler": "sandwich", "num_widths": 3, "width_reduction": "sum", "seed": 0
    }"""
    (tmp_path / "recipe.json").write_text(old)
    (tmp_path / "model.keras").touch()
    assert holds_run_of(QUICK, tmp_path)


def test_the_schedule_divides_by_ten_at_half_and_three_quarters():
    model = build(replace(QUICK, epochs=8), load_data("digits"))
    steps = 8 * 12
    rate = model.optimizer._learning_rate
    rates = [float(rate(step)) for step in (0, steps // 2, steps // 2 + 1, steps - 1)]
    # A boundary's step itself still has the old rate.
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.001, 0.0001], rtol=1e-6)
    assert model.optimizer.momentum == 0.9


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [("sandwich", SandwichWidths), ("uniform", UniformWidths), ("all", FixedWidths)],
)
def test_samplers(sampler, expected):
    model = build(replace(QUICK, sampler=sampler), load_data("digits"))
    widths = model._width_config["widths"]
    assert type(widths) is expected
    count = len(model.distinct_widths) if sampler == "all" else 3
    assert widths.num_widths == count


def test_a_run_writes_what_it_says(finished):
    result, directory = finished
    assert sorted(path.name for path in directory.iterdir()) == [
        *("curve.csv", "curve.png", "history.json"),
        *("model.keras", "recipe.json", "result.json"),
    ]
    content = json.loads((directory / "result.json").read_text())
    assert content["auc"] == result.curve.auc
    assert content["paper_auc"] is None
    assert content["recipe"]["dataset"] == "digits"
    assert len(content["history"]) == 3
    best = max(logs["val_auc"] for logs in content["history"])
    assert content["best_epoch"]["auc"] == best
    # The curve is that of the last epoch. Both are float32 sums.
    assert content["history"][-1]["val_auc"] == pytest.approx(content["auc"], abs=1e-6)
    assert content["seconds"] > 0
    with (directory / "curve.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + len(result.curve.widths)
    # It learns: chance is 10 %.
    assert result.curve.auc > 0.3


def test_a_killed_and_resumed_run_is_an_uninterrupted_one(finished, tmp_path):
    whole, _ = finished
    with pytest.raises(KilledError):
        run(QUICK, tmp_path, verbose=0, callbacks=[KillAfter(1)])
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1
    # As if it had been killed between the two files of an epoch.
    history = json.loads((tmp_path / "history.json").read_text())
    (tmp_path / "history.json").write_text(json.dumps([*history, {"epoch": 1}]))
    begun = Epochs()
    resumed = run(QUICK, tmp_path, resume=True, verbose=0, callbacks=[begun])
    assert begun.epochs == [1, 2]
    for one, other in zip(
        whole.model.get_weights(), resumed.model.get_weights(), strict=True
    ):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert [logs["epoch"] for logs in resumed.history] == [0, 1, 2]
    assert resumed.history[-1]["loss"] == pytest.approx(
        whole.history[-1]["loss"], rel=1e-3
    )


def test_resuming_a_finished_run_trains_no_more(finished):
    result, directory = finished
    again = run(QUICK, directory, resume=True, verbose=0)
    assert again.curve == result.curve
    assert len(again.history) == 3


def test_another_recipe_cannot_resume(finished):
    _, directory = finished
    with pytest.raises(ValueError, match="another recipe; filters is 4 there, 5 here"):
        run(replace(QUICK, filters=5), directory, resume=True)


def test_a_finished_run_is_not_overwritten(finished):
    _, directory = finished
    with pytest.raises(ValueError, match="holds a run already"):
        run(QUICK, directory)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dataset": "imagenet"}, "`dataset` must be one of.*'imagenet'"),
        ({"architecture": "resnet"}, "`architecture` must be one of"),
        ({"sampler": "random"}, "`sampler` must be one of"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"width_multiplier": float("inf")}, "`width_multiplier` must be above 0"),
        ({"momentum": float("nan")}, r"`momentum` must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, r"`weight_decay` must be in \[0, inf\)"),
        ({"min_width": 1.5}, r"`min_width` must be in \(0, 1\]"),
        (
            {"architecture": "mobilenet_v2", "filters": 16},
            "`filters` means nothing to architecture='mobilenet_v2': leave it out",
        ),
    ],
)
def test_bad_recipes_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Recipe(**arguments)
