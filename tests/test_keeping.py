import keras
import numpy as np
import pytest

from awn_keras import (
    ConversionError,
    TriConv2D,
    TriDense,
    grow,
    reorder_channels,
    slim,
    to_any_width,
)
from tests.conftest import assert_slims, at_width, inputs_of

pytestmark = pytest.mark.backends

L, ops = keras.layers, keras.ops


def recurrent():
    """Builds convolutions, a projection of the rows, an RNN over them, a readout."""
    inputs = keras.Input((8, 6, 1))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="conv")(x)
    x = L.Dense(6, name="projection")(ops.mean(x, axis=2))
    x = L.RNN(L.GRUCell(5), name="gru")(x)
    return keras.Model(inputs, L.Dense(3, name="scores")(x))


def residual(trained=True):
    """A stem, two convolutions of which one is added to it, and two more."""
    inputs = keras.Input((6, 6, 1))
    x = stem = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = L.Conv2D(12, 3, padding="same", activation="relu", name="inner")(x)
    x = L.Add(name="sum")([stem, L.Conv2D(8, 3, padding="same", name="outer")(x)])
    x = L.Conv2D(16, 3, activation="relu", name="wide")(x)
    x = L.Conv2D(16, 3, activation="relu", name="last")(x)
    x = L.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, L.Dense(2, name="scores")(x))
    if trained:
        model.get_layer("stem").bias.assign(np.linspace(-1, 1, 8))
    return model


# ------------------------------------------------------------------------- readouts


def test_a_chosen_readout_ends_the_trunk():
    plain = recurrent()
    with pytest.raises(ConversionError, match="'gru'"):
        to_any_width(plain)
    model = to_any_width(plain, divisor=1, readouts=["projection"])
    assert isinstance(model.get_layer("conv"), TriConv2D)
    for name in ("projection", "gru", "scores"):
        layer = model.get_layer(name)
        assert type(layer) is type(plain.get_layer(name))
    assert_slims(model)
    assert slim(model, 0.25).get_layer("projection").kernel.shape == (2, 6)


def test_other_outputs_keep_their_last_layer_as_readout():
    inputs = keras.Input((4,))
    x = L.Dense(8, name="stem")(inputs)
    x = L.Dense(8, name="hidden")(x)
    embedding = L.UnitNormalization()(L.Dense(4, name="embedding")(x))
    first = L.Dense(3, name="first")(embedding)
    second = L.Dense(2, name="second")(L.Dense(8, name="head")(x))
    model = to_any_width(
        keras.Model(inputs, [first, second]), divisor=1, readouts=("embedding",)
    )
    kinds = {layer.name: type(layer) for layer in model.layers}
    assert kinds["embedding"] is kinds["first"] is kinds["second"] is L.Dense
    assert kinds["hidden"] is kinds["head"] is TriDense


def test_networks_with_chosen_readouts_grow_and_are_reordered():
    plain = recurrent()
    x = inputs_of(plain)
    plain.get_layer("stem").bias.assign(np.linspace(-1, 1, 8))
    expected = ops.convert_to_numpy(plain(x))
    grown = grow(plain, 1.5, divisor=4, readouts=["projection"])
    reordered = reorder_channels(plain, readouts=["projection"])
    # The same sums in another order.
    np.testing.assert_allclose(
        at_width(grown, grown.min_width, x)[0], expected, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(reordered(x)), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("readouts", "error", "match"),
    [
        ("projection", TypeError, "`readouts` must be a list of names"),
        ([3], TypeError, "`readouts` must be a list of names"),
        (["gone"], ValueError, "'gone'. Layers that can be readouts: stem, conv, pro"),
        (["gru"], ValueError, r"mix channels \(Conv, Dense\). Received: 'gru' \(RNN\)"),
        (
            ["stem", "projection"],
            ValueError,
            "'stem', which is on a tensor that is the same at every width",
        ),
        (
            ["projection", "scores"],
            ValueError,
            "'scores', which is after another readout",
        ),
    ],
)
def test_what_cannot_be_a_readout_is_refused(readouts, error, match):
    with pytest.raises(error, match=match):
        to_any_width(recurrent(), readouts=readouts)


# ----------------------------------------------------------------------- keep_whole


def test_what_is_kept_whole_is_bit_for_bit_as_it_was():
    plain = residual()
    model = to_any_width(plain, divisor=1, keep_whole=["sum"])
    narrow = slim(model, 0.25)
    x = inputs_of(plain)

    def features(network, name):
        part = keras.Model(network.inputs[0], network.get_layer(name).output)
        return ops.convert_to_numpy(part(x))

    np.testing.assert_array_equal(features(narrow, "sum"), features(plain, "sum"))
    assert narrow.get_layer("wide").filters == 4
    assert_slims(model)


def test_all_before_it_stays_whole_and_nothing_behind():
    model = to_any_width(residual(), divisor=1, keep_whole=["inn*"])
    narrow = slim(model, 0.25)
    filters = {name: narrow.get_layer(name).filters for name in ("stem", "inner")}
    assert filters == {"stem": 8, "inner": 12}
    # A layer that is added to the stem keeps all its channels, too.
    assert narrow.get_layer("outer").filters == 8
    assert narrow.get_layer("wide").filters == 4


def test_kept_layers_come_before_stages():
    stages = {"*": {"min_width": 0.5}}
    model = to_any_width(
        residual(), divisor=1, keep_whole=["stem"], stages=stages, min_width=0.25
    )
    narrow = slim(model, 0.25)
    assert narrow.get_layer("stem").filters == 8
    assert narrow.get_layer("wide").filters == 8


def test_a_kept_model_is_saved(tmp_path):
    model = to_any_width(residual(), divisor=1, keep_whole=["sum"])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.distinct_widths == model.distinct_widths
    x = inputs_of(model)
    np.testing.assert_array_equal(
        at_width(loaded, 0.25, x)[0], at_width(model, 0.25, x)[0]
    )


@pytest.mark.parametrize(
    ("keep_whole", "error", "match"),
    [
        ("stem", TypeError, "`keep_whole` must be a list of names"),
        (["gone*"], ValueError, "of which 'gone\\*' matches none"),
        (["last"], ValueError, "must leave layers that become narrower"),
    ],
)
def test_what_cannot_be_kept_is_refused(keep_whole, error, match):
    with pytest.raises(error, match=match):
        to_any_width(residual(), keep_whole=keep_whole)
