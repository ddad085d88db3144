import csv
import json
import warnings

import keras
import numpy as np
import pytest

from awn_keras import (
    TradeOffCurve,
    count_macs,
    slim,
    trade_off_curve,
)
from tests.conftest import (
    classification,
    eagerly,
    inputs_of,
    labelled,
    small_conv,
    small_dense,
)
from tests.test_counting import partly_known

pytestmark = [pytest.mark.backends, eagerly]


@pytest.fixture(scope="module")
def curve_of_model():
    keras.utils.set_random_seed(0)
    model = classification(small_conv(None, widths_grid=[0.25, 0.5, 1.0]))
    x, y = labelled(model)
    model.fit(x, y, verbose=0)
    return trade_off_curve(model, x, y), model, (x, y)


def test_the_curve_is_that_of_slimmed_networks(curve_of_model):
    curve, model, (x, y) = curve_of_model
    assert curve.widths == [0.25, 0.5, 1.0]
    for index, width in enumerate(curve.widths):
        small = classification(slim(model, width))
        loss, accuracy = small.evaluate(x, y, verbose=0)
        # Sums in another order.
        assert curve.loss[index] == pytest.approx(loss, rel=1e-5)
        assert curve.accuracy[index] == pytest.approx(accuracy)
        assert curve.parameters[index] == small.count_params()
        assert curve.macs[index] == count_macs(small)
    assert curve.metrics == {"accuracy": curve.accuracy}


def test_auc_is_the_trapezoid_over_the_range():
    curve = TradeOffCurve(
        [0.25, 0.5, 1.0], [0.0, 1.0, 1.0], [0] * 3, [1] * 3, [1] * 3, {}
    )
    assert curve.auc == pytest.approx((0.125 + 0.5) / 0.75)


def test_chosen_widths(curve_of_model):
    curve, model, data = curve_of_model
    some = trade_off_curve(model, *data, widths=[1.0, 0.5, 1.0])
    assert some.widths == [0.5, 1.0]
    assert some.accuracy == curve.accuracy[1:]
    with pytest.raises(TypeError, match="`widths` must be a sequence"):
        trade_off_curve(model, *data, widths=0.5)


def test_csv_and_json(curve_of_model, tmp_path):
    curve = curve_of_model[0]
    curve.to_csv(tmp_path / "curve.csv")
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("width", "accuracy", "loss", "macs", "parameters"),
        *("executed_macs", "active_parameters"),
    ]
    assert [float(row["width"]) for row in rows] == curve.widths
    assert [float(row["accuracy"]) for row in rows] == curve.accuracy
    curve.to_json(tmp_path / "curve.json")
    content = json.loads((tmp_path / "curve.json").read_text())
    assert content.pop("auc") == curve.auc
    assert TradeOffCurve(**content) == curve


def test_x_and_y_are_no_tuple():
    model = classification(small_dense())
    with pytest.raises(
        ValueError, match=r"`trade_off_curve\(model, x, y\)`.*2 entries"
    ):
        trade_off_curve(model, labelled(model))


def test_plot(curve_of_model, tmp_path):
    curve = curve_of_model[0]
    axes = curve.plot()
    np.testing.assert_allclose(axes.lines[0].get_xdata(), curve.widths)
    np.testing.assert_allclose(
        axes.lines[0].get_ydata(), 100 * np.array(curve.accuracy)
    )
    assert curve.plot(axes, label="again") is axes
    assert [text.get_text() for text in axes.get_legend().get_texts()][1] == "again"
    axes.figure.savefig(tmp_path / "curve.png")
    with pytest.raises(TypeError, match=r"`\.figure\.savefig\('c\.png'\)`"):
        curve.plot("c.png")


def test_str_is_a_table(curve_of_model):
    lines = str(curve_of_model[0]).splitlines()
    assert lines[0].split() == [
        *("width", "accuracy", "loss", "MACs", "executed", "parameters")
    ]
    assert [line.split()[0] for line in lines[1:]] == ["0.2500", "0.5000", "1.0000"]
    # A curve of an earlier version has no executed MACs.
    unknown = TradeOffCurve([0.5], [0.9], [1.0], [10], [5], {})
    assert str(unknown).splitlines()[1].split()[-3:] == ["10", "-", "5"]


def test_a_curve_without_accuracy():
    model = small_dense(widths_grid=[0.5, 1.0])
    model.compile("sgd", "mse", metrics=["mae"])
    curve = trade_off_curve(model, inputs_of(model), np.zeros((5, 3)))
    assert curve.accuracy == []
    assert len(curve.metrics["mae"]) == 2
    with pytest.raises(
        ValueError, match=r"Compile the model with `metrics=\['accuracy"
    ):
        curve.auc  # noqa: B018
    with pytest.raises(ValueError, match="no accuracy"):
        curve.plot()


def test_a_plain_model_has_no_curve():
    plain = slim(small_dense(), 1.0)
    with pytest.raises(TypeError, match="must be an `AnyWidthModel`"):
        trade_off_curve(plain, np.zeros((1, 4)), np.zeros(1))


def test_a_partial_number_of_macs_is_told_everywhere(tmp_path):
    model = classification(partly_known())
    x, y = labelled(model)
    y %= 2  # its last layer has two outputs
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "MACs of model", UserWarning)
        curve = trade_off_curve(model, x, y, widths=[0.5, 1.0])
    (said,) = caught
    assert "a part of its layers" in str(said.message)
    assert "'own', 'other'" in str(said.message)
    assert curve.uncounted == ["own", "other"]
    assert curve.macs == [44, 120]
    _, narrow, _, note = str(curve).splitlines()
    assert "44+" in narrow.split()
    assert note.endswith("cannot be counted: 'own', 'other'")
    curve.to_json(tmp_path / "curve.json")
    content = json.loads((tmp_path / "curve.json").read_text())
    assert content.pop("auc") == curve.auc
    assert TradeOffCurve(**content) == curve
    curve.to_csv(tmp_path / "curve.csv")
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["uncounted_layers"] for row in rows] == ["own other"] * 2
