import csv
import json
from dataclasses import replace

import pytest

from awn_keras import slim, trade_off_curve
from awn_keras.data import load_data
from awn_keras.loading import load_model
from awn_keras.runs.result import holds_run_of
from awn_keras.runs.run import run
from tests.runs.conftest import QUICK


def test_older_recipes_are_still_read(tmp_path):
    """A result from before there was a second architecture."""
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


def test_a_run_writes_what_it_says(finished):
    result, directory = finished
    assert sorted(path.name for path in directory.iterdir()) == [
        *("curve.csv", "curve.png", "data.json", "history.json"),
        *("model.keras", "recipe.json", "result.json"),
    ]
    content = json.loads((directory / "result.json").read_text())
    assert content["auc"] == result.curve.auc
    assert content["reduced"] is False
    assert [curve["calibrated"] for curve in content["curves"]] == [0]
    assert content["curves"][0]["accuracy"] == result.curve.accuracy
    assert content["recipe"]["dataset"] == "digits"
    assert len(content["history"]) == 3
    best = max(logs["val_auc"] for logs in content["history"])
    assert content["best_epoch"]["auc"] == best
    # The curve is that of the last epoch. Both are float32 sums.
    assert content["history"][-1]["val_auc"] == pytest.approx(content["auc"], abs=1e-6)
    assert content["seconds"] > 0
    with (directory / "curve.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + len(result.curve.widths)
    # Chance is 10 %, so the network learns.
    assert result.curve.auc > 0.3


SYSTEMS = {
    "s_net": replace(QUICK, system="s_net", sampler="fixed", num_widths=4),
    "us_net": replace(
        QUICK, system="us_net", calibrations=(2, 4), calibration_batches=3
    ),
    "shared_bn": replace(QUICK, system="shared_bn"),
    "plain": replace(QUICK, system="plain", num_widths=4),
}


def test_a_trained_us_net_is_kept_with_its_last_calibration(tmp_path):
    result = run(replace(SYSTEMS["us_net"], epochs=1), tmp_path, verbose=0)
    kept = load_model(tmp_path / "model.keras")
    assert kept.calibrated_widths == (0.25, 0.5, 0.75, 1.0)
    curve = trade_off_curve(kept, load_data("digits").test())
    assert curve.accuracy == result.curve.accuracy
    # As if it had been killed before its result was written.
    (tmp_path / "result.json").unlink()
    again = run(replace(SYSTEMS["us_net"], epochs=1), tmp_path, resume=True, verbose=0)
    assert (tmp_path / "result.json").exists()
    for count, curve in again.curves.items():
        assert curve.accuracy == result.curves[count].accuracy


def test_a_curve_says_where_its_networks_begin(finished):
    result, directory = finished
    content = json.loads((directory / "result.json").read_text())
    starts = content["curves"][0]["starts"]
    assert starts[0] == 0.25
    for start, width in zip(starts, content["curves"][0]["widths"], strict=True):
        assert result.model.start_of(width) == start <= width
    assert starts == sorted(set(starts))


def test_a_curve_of_a_calibrated_network_is_that_of_its_slim_networks(tmp_path):
    result = run(replace(SYSTEMS["us_net"], epochs=1), tmp_path, verbose=0)
    test = load_data("digits").test(360)
    x, y = test[0]
    assert result.model.calibrated_widths == (0.25, 0.5, 0.75, 1.0)
    for width in (0.25, 1.0):
        scores = slim(result.model, width).predict(x, verbose=0)
        accuracy = result.curves[4].accuracy[0 if width < 1 else -1]
        assert accuracy == pytest.approx((scores.argmax(-1) == y).mean())


def test_scaled_runs_are_shorter_and_marked(tmp_path):
    recipe = replace(QUICK, epochs=10, scale=0.1)
    run(recipe, tmp_path, verbose=0)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["reduced"] is True
    assert len(content["history"]) == recipe.epochs_run == 1
