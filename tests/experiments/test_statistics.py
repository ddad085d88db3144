import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from awn_keras import slim
from awn_keras.baselines import SharedBN, SNet
from awn_keras.experiments.figures import plot_statistics
from awn_keras.experiments.statistics import StatisticsTrace, trace_of
from awn_keras.runs.run import run
from tests.baselines.networks import conv_net, images, labels, numpy, randomize
from tests.conftest import classification
from tests.runs.conftest import QUICK
from tests.runs.killing import KillAfter, KilledError

KEYS = {"step", "mean", "variance", "moving_mean", "moving_variance"}


@pytest.fixture(params=[SharedBN, SNet])
def traced(request, tmp_path):
    plain = conv_net()
    model = classification(randomize(request.param(plain.input, plain.output)))
    trace = StatisticsTrace(
        images(), tmp_path / "s.json", every=3, channel=1, widths=(0.5, 1.0)
    )
    model.fit(images(), labels(), batch_size=4, epochs=2, verbose=0, callbacks=[trace])
    return model, trace


def test_it_looks_every_so_many_steps(traced):
    _, trace = traced
    assert [row["step"] for row in trace.rows] == [3, 6]
    assert all(set(row) == KEYS for row in trace.rows)


def test_it_sees_what_the_normalization_meets_at_each_width(traced):
    model, trace = traced
    last = trace.rows[-1]
    for index, width in enumerate((0.5, 1.0)):
        network = slim(model, width)
        # The convolution before it, on batch statistics of the layers below.
        layer = network.get_layer("bn2")
        x = numpy(keras.Model(network.input, layer.input)(images(), training=True))
        assert last["mean"][index] == pytest.approx(x[..., 1].mean(), rel=1e-5)
        assert last["variance"][index] == pytest.approx(x[..., 1].var(), rel=1e-5)
        tracked = numpy(network.get_layer("bn2").moving_mean)[1]
        assert last["moving_mean"][index] == pytest.approx(tracked, rel=1e-6)
    shared = last["moving_mean"][0] == last["moving_mean"][1]
    assert shared == isinstance(model, SharedBN)


def test_what_it_sees_is_drawn(traced):
    _, trace = traced
    axes = plot_statistics(trace.statistics)
    assert [ax.get_ylabel() for ax in axes] == ["mean", "variance"]
    drawn = [line.get_ydata() for line in axes[0].get_lines()]
    expected = [
        [row[key][index] for row in trace.rows]
        for index in range(2)
        for key in ("mean", "moving_mean")
    ]
    np.testing.assert_array_equal(drawn, expected)
    assert plot_statistics(trace.statistics, axes, legend=False) is axes


@pytest.mark.parametrize("content", ["{}", "[]", '{"rows": [{}]}', "[" * 10_000])
def test_what_it_goes_on_from_is_checked(content, tmp_path):
    path = tmp_path / "s.json"
    trace = StatisticsTrace(images(), path, every=1)
    trace.set_model(classification(conv_net()))
    trace.model.optimizer.iterations.assign(3)
    path.write_text(content)
    with pytest.raises(ValueError, match=r"s\.json' is not a file of awn_keras"):
        trace.on_train_begin()


def test_it_needs_no_file():
    plain = conv_net()
    model = classification(SharedBN(plain.input, plain.output))
    trace = StatisticsTrace(images(), every=1)
    model.fit(images(), labels(), epochs=2, verbose=0, callbacks=[trace])
    assert trace.statistics["rows"]


def test_looking_changes_nothing(tmp_path):
    results = []
    for callbacks in ([], [StatisticsTrace(images(), tmp_path / "s.json", every=1)]):
        keras.utils.set_random_seed(0)
        plain = conv_net()
        model = classification(SNet(plain.input, plain.output))
        model.fit(images(), labels(), verbose=0, shuffle=False, callbacks=callbacks)
        results.append(model.get_weights())
    for value, other in zip(*results, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6)


def test_a_statistics_trace_is_resumed(tmp_path):
    recipe = replace(QUICK, epochs=2)
    options = {"verbose": 0, "trace": trace_of(recipe, every=5)}
    whole = run(recipe, tmp_path / "whole", **options)
    with pytest.raises(KilledError):
        run(recipe, tmp_path / "killed", callbacks=[KillAfter(1)], **options)
    resumed = run(recipe, tmp_path / "killed", resume=True, **options)
    rows = whole.statistics["rows"]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    for entry, other in zip(rows, resumed.statistics["rows"], strict=True):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(entry["mean"], other["mean"], rtol=1e-3, atol=1e-4)
    content = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert content["statistics"]["rows"] == rows
