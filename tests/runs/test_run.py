import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from awn_keras import architectures, count_macs, slim
from awn_keras.data import load_data
from awn_keras.loading import load_model
from awn_keras.runs.build import build
from awn_keras.runs.presets import paper_recipe
from awn_keras.runs.run import run
from tests.runs.conftest import QUICK
from tests.runs.killing import KillAfter, KilledError


class Epochs(keras.callbacks.Callback):
    """Records the epochs that run."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)


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
    for weight, other in zip(
        whole.model.get_weights(), resumed.model.get_weights(), strict=True
    ):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-5)
    assert [logs["epoch"] for logs in resumed.history] == [0, 1, 2]
    assert resumed.history[-1]["loss"] == pytest.approx(
        whole.history[-1]["loss"], rel=1e-3
    )


def test_resuming_a_finished_run_trains_no_more(finished):
    result, directory = finished
    again = run(QUICK, directory, resume=True, verbose=0)
    assert again.curve == result.curve
    assert len(again.history) == 3


@pytest.mark.parametrize("resume", [False, True])
def test_another_recipe_needs_another_directory(resume, finished):
    _, directory = finished
    match = "another recipe; filters is 4 there, 5 here. Name another directory"
    with pytest.raises(ValueError, match=match):
        run(replace(QUICK, filters=5), directory, resume=resume)


def test_a_finished_run_is_not_overwritten(finished):
    _, directory = finished
    with pytest.raises(ValueError, match="holds a run already"):
        run(QUICK, directory)


SYSTEMS = {
    "s_net": replace(QUICK, system="s_net", sampler="fixed", num_widths=4),
    "us_net": replace(
        QUICK, system="us_net", calibrations=(2, 4), calibration_batches=3
    ),
    "shared_bn": replace(QUICK, system="shared_bn"),
    "nested_net": replace(
        QUICK, system="nested_net", sampler="fixed", num_widths=4, structure="weights"
    ),
    "plain": replace(QUICK, system="plain", num_widths=4),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_run_killed_and_resumed(system, tmp_path):
    recipe = replace(SYSTEMS[system], epochs=2)
    whole = run(recipe, tmp_path / "whole", verbose=0)
    with pytest.raises(KilledError):
        run(recipe, tmp_path / "killed", verbose=0, callbacks=[KillAfter(1)])
    begun = Epochs()
    resumed = run(
        recipe, tmp_path / "killed", resume=True, verbose=0, callbacks=[begun]
    )
    assert begun.epochs == [1]
    for weight, other in zip(
        whole.model.get_weights(), resumed.model.get_weights(), strict=True
    ):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-4)
    content = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert content["recipe"]["system"] == system
    counts = [curve["calibrated"] for curve in content["curves"]]
    assert counts == ([2, 4] if system == "us_net" else [0])
    if system == "plain":
        assert content["curves"][0]["widths"] == [1.0]
        assert content["curves"][0]["macs"] == [count_macs(whole.model)]
    else:
        assert len(content["curves"][0]["widths"]) == len(whole.model.distinct_widths)
        assert content["best_epoch"] is None
    assert content["auc"] == content["curves"][-1]["auc"]


def test_what_begins_late_goes_on_after_a_kill(tmp_path):
    """Teaching and freezing begin in the second epoch, which alone is resumed."""
    late = {"distillation": 0.5, "frozen_up_to": 0.5, "late": 0.45}
    recipe = replace(QUICK, epochs=2, sampler="expected_sandwich", **late)
    whole = run(recipe, tmp_path / "whole", verbose=0)
    with pytest.raises(KilledError):
        run(recipe, tmp_path / "killed", verbose=0, callbacks=[KillAfter(1)])
    before = load_model(tmp_path / "killed" / "model.keras")
    resumed = run(recipe, tmp_path / "killed", resume=True, verbose=0)
    for weight, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-4)
    for width, stays in ((0.5, True), (1.0, False)):
        networks = slim(before, width), slim(resumed.model, width)
        pairs = zip(*(network.get_weights() for network in networks), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) is stays
    untaught = run(replace(recipe, distillation=0.0), tmp_path / "untaught", verbose=0)
    differences = [
        np.abs(np.subtract(weight, other)).max()
        for weight, other in zip(
            whole.model.weights, untaught.model.weights, strict=True
        )
    ]
    assert max(differences) > 1e-3


def test_seconds_are_those_of_training_alone(tmp_path, monkeypatch):
    class Clock(keras.callbacks.Callback):
        """A second passes in each training step, a thousand in validation."""

        now = 0.0

        def on_train_batch_end(self, batch, logs=None):
            self.now += 1

        def on_test_batch_end(self, batch, logs=None):
            self.now += 1000

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("awn_keras.runs.run.time", clock)
    recipe = replace(QUICK, epochs=2)
    result = run(recipe, tmp_path, verbose=0, callbacks=[clock])
    steps = len(load_data(recipe.dataset).train(recipe.batch_size))
    assert [logs["seconds"] for logs in result.history] == [steps, steps]


@pytest.mark.slow
@pytest.mark.parametrize("system", ["awn_rs", "s_net", "us_net"])
def test_the_papers_mobilenet_is_trained_by_its_recipe(system, tmp_path, monkeypatch):
    """Reduced: an epoch, a thirtieth of the channels, three blocks, two widths."""
    stages = architectures._MOBILENET_V2[:2]
    monkeypatch.setattr("awn_keras.architectures._MOBILENET_V2", stages)
    recipe = paper_recipe("digits", "mobilenet_v2", system)
    recipe = replace(recipe, width_multiplier=0.03, scale=0.002)
    if system == "s_net":
        recipe = replace(recipe, widths=(0.35, 1.0))
    if system == "us_net":
        recipe = replace(recipe, num_widths=2, calibrations=(2,))
    result = run(recipe, tmp_path, verbose=0)
    (logs,) = result.history
    assert np.isfinite(logs["loss"])
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["reduced"]
    curve = result.curve
    assert curve.widths == list(result.model.distinct_widths)
    assert curve.macs == sorted(set(curve.macs))
    x, y = load_data("digits").test(512)[0]
    for index in (0, -1):
        scores = slim(result.model, curve.widths[index]).predict(x, verbose=0)
        right = np.mean(scores.argmax(-1) == y)
        # An image of the 360 may have two scores that are alike up to rounding.
        assert curve.accuracy[index] == pytest.approx(right, abs=1.5 / len(y))


def test_mixed_precision_is_resumed_and_reported_in_float32(tmp_path):
    recipe = replace(QUICK, precision="mixed_bfloat16")
    whole = run(recipe, tmp_path / "whole", verbose=0)
    with pytest.raises(KilledError):
        run(recipe, tmp_path / "killed", callbacks=[KillAfter(2)], verbose=0)
    killed = run(recipe, tmp_path / "killed", resume=True, verbose=0)
    for weight, other in zip(whole.model.weights, killed.model.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert whole.curve == killed.curve
    assert whole.model.get_layer("conv2").compute_dtype == "float32"
    kept = load_model(tmp_path / "whole" / "model.keras")
    assert kept.get_layer("conv2").compute_dtype == "bfloat16"  # what goes on training
    np.testing.assert_array_equal(
        kept.get_layer("conv2").kernel, whole.model.get_layer("conv2").kernel
    )


def test_a_finished_run_in_mixed_precision_is_not_trained_again(tmp_path):
    """A US-Net is kept once more at the end, with its calibration, in float32."""
    recipe = replace(paper_recipe("digits", system="us_net"), filters=4, epochs=1)
    recipe = replace(recipe, precision="mixed_bfloat16", calibrations=(2,))
    first = run(recipe, tmp_path, verbose=0)
    seen = Epochs()
    again = run(recipe, tmp_path, resume=True, callbacks=[seen], verbose=0)
    assert seen.epochs == []
    assert again.curves == first.curves
    for weight, other in zip(
        first.model.optimizer.variables, again.model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(weight, other)


def test_training_ends_when_the_best_epoch_is_long_ago(tmp_path):
    # This rate destroys what the first epochs learned.
    recipe = replace(QUICK, epochs=30, patience=2, learning_rate=3.0)
    result = run(recipe, tmp_path, verbose=0)
    scores = [logs["val_auc"] for logs in result.history]
    best = int(np.argmax(scores))
    assert len(scores) == best + 3 < 30
    assert result.curve.auc == pytest.approx(scores[best], abs=1e-6)
    assert (tmp_path / "best.keras").exists()
    # A finished run is not continued.
    again = run(recipe, tmp_path, resume=True, verbose=0)
    assert len(again.history) == len(scores)
    assert again.curve.auc == result.curve.auc


def test_a_warm_up_comes_before_the_cosine():
    recipe = replace(QUICK, epochs=10, schedule="cosine", warm_up=0.25)
    rate = build(recipe, load_data("digits")).optimizer._learning_rate
    rates = np.array([float(rate(step)) for step in range(120)])
    assert rates.argmax() == 30
    np.testing.assert_allclose(rates[:31], 0.01 * np.arange(31) / 30, rtol=1e-5)
    assert (np.diff(rates[30:]) < 0).all()
    assert rates[-1] < 1e-5


def test_labels_are_smoothed():
    model = build(replace(QUICK, label_smoothing=0.2), load_data("digits"))
    assert model.loss.label_smoothing == 0.2
