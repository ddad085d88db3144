"""Recurrent layers in any-width models: trunk, stem, readout and refusals."""

import warnings

import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    TriBidirectional,
    TriDense,
    TriGRU,
    TriLSTM,
    TriSimpleRNN,
    count_macs,
    export_tflite,
    grow,
    reorder_channels,
    rotate_channels,
    slim,
    summarize,
    to_any_width,
)
from awn_keras.conversion import is_trained
from awn_keras.counting import count_active_parameters
from awn_keras.deploy.converter import custom_operators
from awn_keras.deploy.litert import run_tflite
from awn_keras.errors import ExportError
from awn_keras.layers.base import TriangularKernel
from tests.conftest import at_width, classification, eagerly, inputs_of

pytestmark = eagerly

L = keras.layers


def series(*layers, shape=(4, 3), readout=True):
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, L.Dense(3, name="scores")(x) if readout else x)


def randomized(model):
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.weights])
    return model


def text(**options):
    """Words, of which 0 fills up, and a recurrent layer that skips it."""
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(9, 6, mask_zero=True)(inputs)
    x = L.GRU(8, return_sequences=True, name="first", **options)(x)
    x = L.Bidirectional(L.LSTM(8, **options), name="second")(x)
    return keras.Model(inputs, L.Dense(3)(x))


WORDS = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [3, 0, 0, 0, 0]], "int32")


def assert_slims(model, x=None):
    x = inputs_of(model) if x is None else x
    assert len(model.distinct_widths) >= 3
    for width in model.distinct_widths:
        # The same sums in another order.
        np.testing.assert_allclose(
            at_width(model, width, x)[0],
            keras.ops.convert_to_numpy(slim(model, width)(x)),
            rtol=1e-4,
            atol=1e-5,
        )


# ------------------------------------------------------------------ what becomes what


def test_each_recurrent_layer_becomes_its_tri_layer_also_on_the_inputs():
    plain = series(
        L.GRU(8, return_sequences=True),
        L.LSTM(8, return_sequences=True),
        L.SimpleRNN(8, return_sequences=True),
        L.Bidirectional(L.GRU(8)),
    )
    model = to_any_width(plain, divisor=2)
    classes = [TriGRU, TriLSTM, TriSimpleRNN, TriBidirectional, L.Dense]
    assert [type(layer) for layer in model.layers[1:]] == classes
    kinds = [layer.kind for layer in summarize(model).layers]
    assert kinds == ["stem", "Tri", "Tri", "Tri", "readout"]
    assert (
        not model.layers[1].masks["kernel"].size - model.layers[1].masks["kernel"].sum()
    )  # the inputs are there at every width
    assert not model.layers[1].masks["recurrent_kernel"].all()
    small = [type(layer) for layer in slim(model, 0.5).layers[1:]]
    assert small == [layer_class.stock_class for layer_class in classes[:4]] + [L.Dense]
    assert_slims(randomized(model))


def test_both_directions_come_and_go_together():
    plain = series(L.Bidirectional(L.GRU(8, return_sequences=True)), L.LSTM(8))
    model = to_any_width(plain, divisor=2)
    both, after = model.layers[1:3]
    units = both.forward_layer.out_grades
    assert units.max() > units.min() == 0
    np.testing.assert_array_equal(both.out_grades, np.tile(units, 2))
    np.testing.assert_array_equal(after.in_grades, np.tile(units, 2))
    small = slim(model, 0.5).layers[1]
    assert (
        small.forward_layer.units == small.backward_layer.units == (units <= 0.5).sum()
    )
    wide = to_any_width(plain, divisor=2, width_multiplier=1.5)
    assert wide.layers[1].forward_layer.units == 12


def test_models_are_built_of_tri_layers_by_hand():
    inputs = keras.Input((4, 3))
    x = TriGRU(8, return_sequences=True)(inputs)
    x = TriBidirectional(L.LSTM(6), merge_mode="sum")(x)
    model = AnyWidthModel(inputs, L.Dense(2)(TriDense(8)(x)))
    assert_slims(randomized(model))
    # A stock one on the inputs stays whole, as its units read each other.
    x = TriDense(8)(L.Dense(8)(L.GRU(6, name="gru")(inputs)))
    model = AnyWidthModel(inputs, L.Dense(2)(x))
    assert slim(model, 0.25).get_layer("gru").units == 6


def test_the_last_recurrent_layer_is_a_readout():
    plain = series(L.Conv1D(8, 2), L.Conv1D(8, 2), L.GRU(3, name="gru"), readout=False)
    model = to_any_width(plain, divisor=2)
    assert type(model.get_layer("gru")) is L.GRU
    assert summarize(model).layers[-1].kind == "readout"
    assert_slims(randomized(model))
    plain = series(L.Conv1D(8, 2), L.Conv1D(8, 2), L.Bidirectional(L.LSTM(3, name="x")))
    model = to_any_width(plain, divisor=2, readouts=[plain.layers[3].name])
    assert_slims(randomized(model))


def test_a_recurrent_layer_can_be_kept_whole():
    plain = randomized(
        series(L.GRU(8, return_sequences=True, name="kept"), L.LSTM(8), L.Dense(8))
    )
    model = to_any_width(plain, divisor=2, keep_whole=["kept"])
    kept = model.get_layer("kept")
    assert all(mask.all() for mask in kept.masks.values())
    for ours, theirs in zip(
        kept.get_weights(), plain.get_layer("kept").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert_slims(model)


@pytest.mark.parametrize("unroll", [False, True])
def test_padding_is_skipped_at_every_width(unroll):
    plain = randomized(text(unroll=unroll))
    model = to_any_width(plain, divisor=2)
    assert_slims(model, WORDS)
    shorter = WORDS[:1].copy()
    shorter[0, 2:] = 0
    longer = WORDS[:1].copy()
    longer[0, 3:] = 1
    for width in (0.25, 1.0):
        answers = [at_width(model, width, x)[0] for x in (WORDS[:1], shorter, longer)]
        assert not np.allclose(answers[0], answers[1], atol=1e-3)
        assert not np.allclose(answers[0], answers[2], atol=1e-3)


# ---------------------------------------------------------------------------- weights


@pytest.mark.backends
def test_a_trained_model_keeps_what_the_triangle_allows():
    plain = randomized(
        series(L.LSTM(8, return_sequences=True), L.Bidirectional(L.GRU(8)))
    )
    model = to_any_width(plain, divisor=2)
    masked = 0
    for layer, old in zip(model.layers[1:3], plain.layers[1:3], strict=True):
        masks = iter(layer.masks.values())
        for ours, theirs in zip(layer.weights, old.get_weights(), strict=True):
            wanted = theirs
            if "kernel" in ours.name:
                mask = next(masks)
                masked += int((~mask).sum())
                wanted = np.where(mask, theirs, 0)
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), wanted)
    assert masked > 100


def test_an_lstm_alone_does_not_seem_trained():
    plain = series(L.LSTM(8))
    assert not is_trained(plain)
    plain.get_layer("scores").bias.assign([1.0, 0.0, 0.0])
    assert is_trained(plain)


def test_forbidden_entries_of_gates_fade_out():
    plain = randomized(series(L.GRU(8, return_sequences=True), L.GRU(8)))
    model = to_any_width(plain, divisor=2, fade=10)
    assert model.has_forbidden_entries()
    assert_slims(model)  # they act in training alone
    y = np.zeros(5, int)
    classification(model, optimizer=keras.optimizers.SGD(1e-2))
    model.fit(inputs_of(model), y, epochs=3, verbose=0)
    assert model.has_forbidden_entries()
    model.fit(inputs_of(model), y, epochs=9, verbose=0)
    assert not model.has_forbidden_entries()


@pytest.mark.backends
def test_narrow_units_stay_as_they_are():
    plain = series(L.GRU(8, return_sequences=True), L.Bidirectional(L.LSTM(8)))
    model = randomized(to_any_width(plain, divisor=2))
    x = inputs_of(model)
    before = [at_width(model, width, x)[0] for width in (0.5, 1.0)]
    classification(model, optimizer=keras.optimizers.SGD(0.1), frozen_up_to=0.5)
    model.fit(x, np.zeros(5, int), epochs=2, verbose=0)
    after = [at_width(model, width, x)[0] for width in (0.5, 1.0)]
    np.testing.assert_array_equal(after[0], before[0])
    assert not np.allclose(after[1], before[1], atol=1e-3)


@pytest.mark.parametrize("order", ["importance", "reading"])
def test_units_change_places_in_all_gates_together(order):
    plain = randomized(
        series(
            L.Dense(8),
            L.GRU(8, return_sequences=True),
            L.Bidirectional(L.LSTM(8, return_sequences=True)),
            L.SimpleRNN(8),
        )
    )
    x = inputs_of(plain)
    wanted = keras.ops.convert_to_numpy(plain(x))
    reordered = reorder_channels(plain)
    assert not np.array_equal(
        reordered.layers[2].get_weights()[1], plain.layers[2].get_weights()[1]
    )
    # The same sums in another order, through four steps of three layers.
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(reordered(x)), wanted, rtol=1e-3, atol=1e-4
    )
    assert_slims(to_any_width(plain, divisor=2, order=order))


def test_reading_first_puts_what_the_state_reads_first():
    """A unit that all others read must come first, or the triangle forbids that."""
    plain = randomized(series(L.SimpleRNN(8, use_bias=False), L.Dense(8)))
    rnn = plain.layers[1]
    rng = np.random.default_rng(0)
    kernel = rng.uniform(0.9, 1.1, (3, 8))
    recurrent = rng.uniform(0, 0.01, (8, 8))
    recurrent[5] = 3.0
    rnn.set_weights([kernel, recurrent])
    model = to_any_width(plain, divisor=1, order="reading")
    layer = model.layers[1]
    read = np.abs(layer.get_weights()[1]).sum(axis=1)
    assert layer.out_grades[read.argmax()] == 0
    assert read.max() == 8 * 3.0  # of all units, none of which is forbidden to


def test_a_recurrent_network_grows_bit_for_bit():
    plain = randomized(
        series(L.GRU(8, return_sequences=True), L.Bidirectional(L.LSTM(8)), L.Dense(8))
    )
    model = grow(plain, 2.0, divisor=4)
    narrow = slim(model, model.min_width)
    for ours, theirs in zip(narrow.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.layers[2].forward_layer.units == 16
    x = inputs_of(model)
    wanted = keras.ops.convert_to_numpy(plain(x))
    for width in model.distinct_widths:
        # Sums over more channels, which add zeros, in another order.
        np.testing.assert_allclose(at_width(model, width, x)[0], wanted, atol=2e-5)


def test_channels_that_a_recurrent_layer_makes_or_reads_are_not_rotated():
    plain = randomized(
        series(L.Dense(8), L.SimpleRNN(8, activation=None), L.Dense(8, "relu"))
    )
    x = inputs_of(plain, 40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Model", UserWarning)
        copy = rotate_channels(plain, x, verbose=0)
    assert "has no linear bottleneck" in str(caught[0].message)
    for ours, theirs in zip(copy.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ------------------------------------------------------------------------------- costs


def test_macs_by_hand():
    plain = series(
        L.GRU(8, return_sequences=True), L.Bidirectional(L.LSTM(8)), shape=(6, 3)
    )
    model = to_any_width(plain, divisor=2)
    for width, units in ((0.25, 2), (1.0, 8)):
        gru = 6 * 3 * (3 + units) * units
        both = 2 * 6 * 4 * (units + units) * units
        assert count_macs(model, width) == gru + both + 2 * units * 3
    acts = sum(
        int(np.count_nonzero(keras.ops.convert_to_numpy(w)))
        for w in randomized(model).layers[1].masked_weights()
    )
    rest = sum(
        int(np.count_nonzero(keras.ops.convert_to_numpy(w)))
        for layer in model.layers[2:]
        for w in (
            layer.masked_weights()
            if isinstance(layer, TriangularKernel)
            else layer.weights
        )
    )
    assert count_active_parameters(model, 1.0) == acts + rest


# ------------------------------------------------------------------------------- files


@pytest.mark.parametrize("unroll", [False, True])
def test_files_skip_padding(unroll, tmp_path):
    model = randomized(to_any_width(text(unroll=unroll), divisor=2))
    path = tmp_path / "model.tflite"
    records = export_tflite(model, path, widths=[0.25, 1.0], samples=WORDS)
    content = path.read_bytes()
    assert custom_operators(content) == []
    for record in records:
        (got,) = run_tflite(content, [WORDS], record.signature)
        # float32: sums in another order.
        np.testing.assert_allclose(
            got, np.asarray(slim(model, record.width)(WORDS)), rtol=1e-4, atol=1e-5
        )


def test_a_loop_over_steps_is_refused_in_int8_before_conversion(tmp_path):
    model = to_any_width(series(L.Dense(8), L.GRU(8, name="steps")), divisor=2)
    x = inputs_of(model, 8)
    with pytest.raises(ExportError, match=r"'steps' \(TriGRU\).*`unroll=True`"):
        export_tflite(
            model, tmp_path / "model.tflite", precision="int8", representative=x
        )


# ----------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda x: L.GRU(8, return_state=True)(x)[0], "`return_state` must be False"),
        (
            lambda x: L.Bidirectional(L.LSTM(8, return_state=True))(x)[0],
            "`return_state` must be False",
        ),
        (
            lambda x: L.GRU(8)(x, initial_state=[x[:, 0]]),
            "`initial_state` cannot be given",
        ),
        (lambda x: L.LSTM(8, activation="softmax")(x), "`softmax`"),
        (lambda x: L.LSTM(8, recurrent_activation="softmax")(x), "`softmax`"),
        (lambda x: L.Bidirectional(L.GRU(8, "softmax"))(x), "`softmax`"),
        (lambda x: L.Bidirectional(L.GRU(8), merge_mode=None)(x)[0], "no Tri layer"),
        (lambda x: L.RNN(L.LSTMCell(8))(x), "there is no Tri layer for it"),
        (
            lambda x: L.TimeDistributed(L.GRU(8))(x[:, :, None]),
            "its inner layer has no width rule",
        ),
    ],
)
def test_what_does_not_fit_before_the_readout_is_refused(build, match):
    inputs = keras.Input((4, 3))
    x = build(L.Dense(8)(inputs))
    plain = keras.Model(inputs, L.Dense(2)(x))
    with pytest.raises(ValueError, match=match):
        to_any_width(plain, divisor=2)


def test_a_state_that_stays_is_refused():
    inputs = keras.Input(batch_shape=(2, 4, 3))
    x = L.GRU(8, stateful=True)(L.Dense(8)(inputs))
    with pytest.raises(ValueError, match="`stateful` must be False"):
        to_any_width(keras.Model(inputs, L.Dense(2)(x)), divisor=2)
