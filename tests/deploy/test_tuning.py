import json
import math

import pytest

from awn_keras import lenet_3c1l
from awn_keras.deploy import tuning
from awn_keras.deploy.export import export_tflite
from awn_keras.deploy.tuning import measured
from awn_keras.layouts import Cut, candidates, choose_cuts

WIDTHS = [0.5, 1.0]


@pytest.fixture
def model():
    return lenet_3c1l((16, 16, 1), filters=24, width_multiplier=1.0)


def test_layers_are_measured_whole_and_cut(model, tmp_path):
    cache = tmp_path / "folder" / "layers.json"
    milliseconds = measured(model, WIDTHS, cache)
    for candidate in candidates(model).values():
        for option in (None, candidate.cut_at(WIDTHS)):
            for width in WIDTHS:
                assert 0 < milliseconds(candidate, width, option) < math.inf
        # At the first end there is one block: the layer whole.
        assert milliseconds(candidate, 0.5, candidate.cut_at(WIDTHS)) == milliseconds(
            candidate, 0.5, None
        )
    unlikely = Cut(tuple((24, out) for out in range(1, 25)))
    assert milliseconds(candidates(model)["conv2"], 1.0, unlikely) == math.inf
    # Each of three layers: whole at two widths, and cut in one way at least.
    assert len(json.loads(cache.read_text())) >= 9


def test_what_was_measured_is_not_measured_again(model, tmp_path, monkeypatch):
    cache = tmp_path / "layers.json"
    measured(model, WIDTHS, cache)
    before = cache.read_text()

    def again(*args, **kwargs):
        raise AssertionError("measured twice")

    monkeypatch.setattr(tuning, "time_signatures", again)
    measured(model, [0.5], cache)
    measured(model, WIDTHS, cache)
    assert cache.read_text() == before


def test_measurements_decide(model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fake(content, names, **kwargs):
        return {name: [1.0] for name in names}

    monkeypatch.setattr(tuning, "time_signatures", fake)
    milliseconds = measured(model, WIDTHS)
    assert (tmp_path / "awn_keras" / "layers.json").exists()
    # All options take the same time: the one with fewest bytes is chosen.
    assert {"conv2", "conv3"} <= set(choose_cuts(model, WIDTHS, "auto", milliseconds))
    records = export_tflite(model, tmp_path / "a.tflite", widths=WIDTHS, tune=True)
    assert max(record.largest_error for record in records) < 1e-4


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_cache_is_measured_anew(model, tmp_path, content):
    cache = tmp_path / "layers.json"
    cache.write_text(content)
    milliseconds = measured(model, [1.0], cache)
    assert milliseconds(candidates(model)["conv2"], 1.0, None) < math.inf
    assert json.loads(cache.read_text())
