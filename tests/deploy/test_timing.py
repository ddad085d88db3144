import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, list_networks, slim, summarize, trade_off_curve
from awn_keras.deploy.converter import convert
from awn_keras.deploy.timing import medians, time_signatures, with_milliseconds
from tests.conftest import inputs_of, small_conv, small_dense


def curve_of(model, widths):
    x = inputs_of(model)
    y = np.zeros((len(x), *model.output_shape[1:]), "float32")
    return trade_off_curve(model, x, y, widths=widths)


def test_each_signature_is_timed_as_often():
    model = small_dense()
    content = convert({"a": slim(model, 0.5), "b": slim(model, 1.0)})
    times = time_signatures(content, ["b", "a"], runs=5, turns=2)
    assert {name: len(values) for name, values in times.items()} == {"b": 5, "a": 5}
    assert all(value > 0 for values in times.values() for value in values)


@pytest.mark.parametrize("make", [list_networks, summarize, curve_of])
def test_milliseconds_of_widths(make):
    model = small_conv()
    model.compile("sgd", "mse", metrics=["accuracy"])
    costs = make(model, widths=[0.25, 0.6, 1.0])
    assert costs.milliseconds == []
    timed = with_milliseconds(costs, model, runs=3)
    assert len(timed.milliseconds) == 3
    assert min(timed.milliseconds) > 0
    before, after = str(costs).splitlines(), str(timed).splitlines()
    if make is summarize:
        # The same but for how wide the columns are.
        rows, old = (
            [line.split() for line in lines if not line.startswith("---")]
            for lines in (after, before)
        )
        assert rows[:-1] == old
        assert rows[-1][0] == "ms"
    else:
        assert all(row.startswith(old) for row, old in zip(after, before, strict=True))
        assert after[0].endswith(" ms")
        values = [float(row.split()[-1]) for row in after[1:]]
        # Three digits are shown.
        assert values == pytest.approx(timed.milliseconds, rel=5e-3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_timed_as_it_is_exported(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_conv()
    finally:
        keras.config.set_dtype_policy("float32")
    timed = with_milliseconds(list_networks(model, [0.25, 1.0]), model, runs=1)
    assert len(timed.milliseconds) == 2


def test_what_cannot_be_timed_is_refused():
    model = small_conv()
    networks = list_networks(model, [1.0])
    with pytest.raises(ValueError, match="`runs` must be a positive integer"):
        with_milliseconds(networks, model, runs=0)
    with pytest.raises(TypeError, match="`costs` must be a result of `list_networks`"):
        with_milliseconds(model, model)
    with pytest.raises(TypeError, match=r"any-width|one width"):
        with_milliseconds(networks, slim(model, 1.0))


def test_a_curve_writes_milliseconds(tmp_path):
    model = small_conv()
    model.compile("sgd", "mse", metrics=["accuracy"])
    curve = with_milliseconds(curve_of(model, widths=[1.0]), model, runs=1)
    curve.to_csv(tmp_path / "curve.csv")
    header, row = (tmp_path / "curve.csv").read_text().splitlines()
    column = header.split(",").index("milliseconds")
    assert float(row.split(",")[column]) == curve.milliseconds[0]


def test_medians():
    assert medians({"a": [3.0, 1.0, 2.0], "b": [1.0, 2.0]}) == {"a": 2.0, "b": 1.5}


def test_open_sizes_are_timed_at_one():
    inputs = keras.Input((None, 2), name="series")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(8, 3)(inputs))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x))
    with pytest.warns(UserWarning, match="a part of its layers"):
        networks = list_networks(model, [1.0])
    with pytest.raises(ValueError, match=r"`input_shape=\(128, 2\)`"):
        with_milliseconds(networks, model, runs=1)
    timed = with_milliseconds(networks, model, runs=1, input_shape=(9, 2))
    assert timed.milliseconds[0] > 0
