"""Attention and einsums in any-width models: trunk, readout and refusals."""

import warnings

import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    ConversionError,
    TriDense,
    TriEinsumDense,
    TriGroupQueryAttention,
    TriMultiHeadAttention,
    count_macs,
    count_parameters,
    export_tflite,
    grow,
    reorder_channels,
    rotate_channels,
    slim,
    summarize,
    to_any_width,
)
from awn_keras.baselines import SharedBN
from awn_keras.counting import count_active_parameters
from awn_keras.deploy.converter import custom_operators
from awn_keras.deploy.litert import run_tflite
from awn_keras.testing import check_width_rule
from tests.conftest import at_width, classification, eagerly, inputs_of, labelled, newer

pytestmark = eagerly

L = keras.layers
GATE = newer(L.MultiHeadAttention, use_gate=True)
WINDOW = newer(L.MultiHeadAttention, sliding_window=2)


def tokens(*blocks, channels=16, shape=(5, 3), pool=True):
    """Blocks with a residual around each, between a stem and a readout."""
    inputs = keras.Input(shape)
    x = L.Dense(channels)(inputs)
    for block in blocks:
        x = L.Add()([x, block(x)])
    x = L.GlobalAveragePooling1D()(x) if pool else x
    return keras.Model(inputs, L.Dense(3, name="scores")(x))


def attending(layer, **call):
    return lambda x: layer(L.LayerNormalization()(x), x, **call)


def randomized(model):
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.weights])
    return model


def assert_slims(model, x=None):
    x = inputs_of(model) if x is None else x
    for width in model.distinct_widths:
        small = slim(model, width)
        # The same sums in another order.
        np.testing.assert_allclose(
            at_width(model, width, x)[0],
            keras.ops.convert_to_numpy(small(x)),
            rtol=1e-4,
            atol=1e-5,
        )
        assert count_macs(model, width) == count_macs(small)
        assert count_parameters(model, width) == small.count_params()
        nonzero = sum(np.count_nonzero(w) for w in small.get_weights())
        assert count_active_parameters(model, width) == nonzero


def test_whole_heads_come_and_go():
    plain = tokens(
        attending(L.MultiHeadAttention(4, 3, name="heads")),
        attending(L.GroupQueryAttention(3, 4, 2, name="groups")),
    )
    model = to_any_width(plain, divisor=4)
    heads, groups = (model.get_layer(name) for name in ("heads", "groups"))
    assert type(heads) is TriMultiHeadAttention
    assert type(groups) is TriGroupQueryAttention
    kinds = {layer.name: layer.kind for layer in summarize(model).layers}
    assert kinds["heads"] == kinds["groups"] == "Tri"
    assert len(model.distinct_widths) == 4
    for width, count, pairs in ((0.25, 1, 1), (0.5, 2, 1), (0.75, 3, 1), (1.0, 4, 2)):
        small = slim(model, width)
        assert type(small.get_layer("heads")) is L.MultiHeadAttention
        assert small.get_layer("heads").num_heads == count
        assert small.get_layer("groups").num_key_value_heads == pairs
        assert small.get_layer("groups").num_query_heads == 2 * pairs
    assert_slims(randomized(model))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.MultiHeadAttention(3, 2, value_dim=4, use_bias=False, **GATE),
        lambda: L.MultiHeadAttention(2, 2, dropout=0.2, **WINDOW),
        lambda: L.MultiHeadAttention(1, 4),
        lambda: L.MultiHeadAttention(20, 2),  # more heads than channels
        lambda: L.GroupQueryAttention(2, 3, 3, use_bias=False, **GATE),
    ],
)
@pytest.mark.parametrize("divisor", [1, 4])
def test_every_width_is_exact(layer, divisor):
    assert_slims(randomized(to_any_width(tokens(attending(layer())), divisor=divisor)))


def test_attention_along_one_of_two_axes_of_positions():
    """As in MobileViT: pixels of the same place in each patch see each other."""
    inputs = keras.Input((4, 6, 3))
    x = L.Dense(8)(inputs)
    x = L.MultiHeadAttention(2, 3, attention_axes=2)(x, x)
    model = to_any_width(
        keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x))), divisor=2
    )
    assert_slims(randomized(model))


def test_another_number_of_channels_comes_out():
    inputs = keras.Input((5, 3))
    x = L.Dense(8)(inputs)
    x = L.MultiHeadAttention(2, 3, output_shape=12, name="attention")(x, x)
    model = to_any_width(keras.Model(inputs, L.Dense(2)(x)), divisor=2)
    assert slim(model, 0.5).get_layer("attention").output.shape[-1] == 6
    assert_slims(randomized(model))


def test_queries_of_others_must_have_the_same_channels():
    def model(value, key=None):
        inputs = keras.Input((5, 3))
        x = L.Dense(8, name="query")(inputs)
        others = [y(inputs) for y in (value, key) if y is not None]
        x = L.MultiHeadAttention(2, 3, name="attention")(x, *others)
        return keras.Model(inputs, L.Dense(2)(x))

    both = to_any_width(model(L.Dense(8), L.Dense(8)), divisor=2)
    assert_slims(randomized(both))
    for value in (L.Dense(6), L.Identity()):
        with pytest.raises(ConversionError, match="must have the same channels"):
            to_any_width(model(value))


def test_masks_come_along():
    """Of words, of what is told by a second input, and of the past."""
    words = keras.Input((5,), dtype="int32", name="words")
    seen = keras.Input((5, 5), dtype="bool", name="seen")
    x = L.Dense(8)(L.Embedding(9, 6, mask_zero=True)(words))
    x = L.MultiHeadAttention(2, 3)(x, x, attention_mask=seen, use_causal_mask=True)
    x = L.GlobalAveragePooling1D()(x)
    model = randomized(
        to_any_width(keras.Model([words, seen], L.Dense(2)(x)), divisor=2)
    )
    seen = np.tril(np.ones((2, 5, 5), bool))
    seen[1, :, 1:3] = False
    seen[1, [1, 2], [1, 2]] = True
    words = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]], "int32")
    assert_slims(model, [words, seen])
    before = at_width(model, 0.5, [words, seen])[0]
    seen[0, :, 3:] = False  # they are masked already
    np.testing.assert_allclose(
        at_width(model, 0.5, [words, seen])[0], before, rtol=1e-5, atol=1e-6
    )


def test_one_pass_trains_heads_and_saves_them(tmp_path):
    model = to_any_width(tokens(attending(L.MultiHeadAttention(4, 3))), divisor=4)
    x, y = labelled(model)
    classification(model).fit(x, y, verbose=0)
    (layer,) = (x for x in model.layers if isinstance(x, TriMultiHeadAttention))
    assert not layer.has_forbidden_entries()
    assert_slims(model, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(at_width(loaded, 0.5, x)[0], at_width(model, 0.5, x)[0])
    assert_slims(loaded, x)


def test_a_trained_network_keeps_its_weights_and_may_be_ordered():
    plain = randomized(tokens(attending(L.MultiHeadAttention(4, 3, name="heads"))))
    x = inputs_of(plain)
    whole = to_any_width(plain, min_width=1.0)
    np.testing.assert_allclose(whole(x), plain(x), rtol=1e-4, atol=1e-5)
    for order in ("importance", "reading"):
        assert_slims(to_any_width(plain, divisor=4, order=order))
    # The same sums in another order.
    np.testing.assert_allclose(
        reorder_channels(plain)(x), plain(x), rtol=1e-3, atol=1e-4
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Model", UserWarning)
        rotated = rotate_channels(plain, x, verbose=0)
    assert "has no linear bottleneck" in str(caught[0].message)
    np.testing.assert_allclose(rotated(x), plain(x), rtol=1e-4, atol=1e-5)


def test_heads_are_widened_in_step():
    plain = tokens(
        attending(L.MultiHeadAttention(4, 3, name="heads")),
        attending(L.GroupQueryAttention(3, 4, 2, name="groups")),
    )
    model = to_any_width(plain, divisor=4, width_multiplier=1.5)
    assert model.get_layer("heads").num_heads == 6
    assert model.get_layer("groups").num_query_heads == 6
    assert_slims(randomized(model))


def test_a_network_grows_by_whole_heads():
    plain = randomized(tokens(attending(L.MultiHeadAttention(2, 3, name="heads"))))
    x = inputs_of(plain)
    model = grow(plain, 2.0, divisor=4)
    assert model.get_layer("heads").num_heads == 4
    assert slim(model, model.min_width).get_layer("heads").num_heads == 2
    for width in model.distinct_widths:
        np.testing.assert_allclose(
            at_width(model, width, x)[0], plain(x), rtol=1e-4, atol=1e-5
        )
    with pytest.raises(ValueError, match=r"cannot grow layer 'heads'.*whole number"):
        grow(
            tokens(attending(L.MultiHeadAttention(5, 3, name="heads"))), 1.25, divisor=4
        )


@pytest.mark.parametrize("frozen_up_to", [0.5])
def test_what_acts_up_to_a_width_can_stay(frozen_up_to):
    model = to_any_width(tokens(attending(L.MultiHeadAttention(4, 3))), divisor=4)
    randomized(model)
    x = inputs_of(model)
    before = {w: slim(model, w).get_weights() for w in model.distinct_widths}
    y = np.ones((len(x), 3), "float32")
    model.compile(keras.optimizers.SGD(0.1), "mse", frozen_up_to=frozen_up_to)
    model.fit(x, y, verbose=0)
    for width, weights in before.items():
        after = slim(model, width).get_weights()
        same = all(np.array_equal(a, b) for a, b in zip(after, weights, strict=True))
        assert same == (width <= frozen_up_to)


def test_files_hold_heads(tmp_path):
    model = randomized(
        to_any_width(
            tokens(
                attending(L.MultiHeadAttention(4, 3), use_causal_mask=True),
                attending(L.GroupQueryAttention(3, 4, 2)),
            ),
            divisor=4,
        )
    )
    x = inputs_of(model)
    path = tmp_path / "model.tflite"
    records = export_tflite(model, path, widths=[0.25, 0.5, 1.0], samples=x)
    content = path.read_bytes()
    assert custom_operators(content) == []
    for record in records:
        (got,) = run_tflite(content, [x], record.signature)
        # float32: sums in another order.
        np.testing.assert_allclose(
            got, np.asarray(slim(model, record.width)(x)), rtol=1e-4, atol=1e-5
        )


def test_quantized_files_hold_heads(tmp_path):
    model = to_any_width(tokens(attending(L.MultiHeadAttention(4, 3))), divisor=4)
    x = inputs_of(model, 32)
    path = tmp_path / "model.tflite"
    records = export_tflite(
        model, path, widths=[0.5, 1.0], precision="int8", representative=x, samples=x
    )
    assert custom_operators(path.read_bytes()) == []
    for record in records:
        (got,) = run_tflite(path.read_bytes(), [x], record.signature)
        wanted = np.asarray(slim(model, record.width)(x))
        # Steps of 1/256 of each tensor's range, through a few layers.
        assert np.abs(got - wanted).max() < 0.1 * np.ptp(wanted)


# ---------------------------------------------------------------------- by hand, alone


def test_models_are_built_of_tri_layers_by_hand():
    inputs = keras.Input((5, 3))
    x = L.Dense(8)(inputs)
    x = TriMultiHeadAttention(2, 4)(x, x)
    x = TriEinsumDense("abc,cd->abd", (5, 12), bias_axes="d", activation="relu")(x)
    x = TriGroupQueryAttention(3, 4, 2)(x, x)
    model = AnyWidthModel(inputs, L.Dense(2)(TriDense(8)(x)), min_width=0.25)
    assert_slims(randomized(model))


@pytest.mark.parametrize(
    "layer",
    [
        L.EinsumDense("abc,cd->abd", (5, 12), bias_axes="d"),
        L.EinsumDense("...c,dc->...d", 12, activation="gelu"),
    ],
)
def test_an_einsum_of_the_last_axis_is_a_dense_layer(layer):
    check_width_rule(layer, (5, 8))
    wide = to_any_width(tokens_of(layer), divisor=4, width_multiplier=2.0)
    assert wide.get_layer(layer.name).output.shape[-1] == 24
    assert_slims(randomized(wide))


def tokens_of(layer):
    inputs = keras.Input((5, 3))
    x = type(layer).from_config(layer.get_config())(L.Dense(8)(inputs))
    return keras.Model(inputs, L.Dense(2)(x))


def test_attention_on_the_inputs_stays():
    inputs = keras.Input((5, 4))
    x = L.MultiHeadAttention(2, 3, name="whole")(inputs, inputs)
    x = L.Dense(8)(L.Dense(8)(x))
    model = to_any_width(keras.Model(inputs, L.Dense(2)(x)), divisor=2)
    assert type(model.get_layer("whole")) is L.MultiHeadAttention
    assert slim(model, 0.5).get_layer("whole").num_heads == 2
    assert_slims(randomized(model))


def test_a_readout_of_attention_has_outputs_of_its_own():
    def model(**options):
        inputs = keras.Input((5, 3))
        x = L.Dense(8)(L.Dense(8)(inputs))
        x = L.MultiHeadAttention(2, 3, name="attention", **options)(x, x)
        return keras.Model(inputs, L.GlobalAveragePooling1D()(x))

    readout = to_any_width(model(output_shape=4), divisor=2)
    assert type(readout.get_layer("attention")) is L.MultiHeadAttention
    assert_slims(randomized(readout))
    with pytest.raises(
        ConversionError, match="give MultiHeadAttention an `output_shape`"
    ):
        to_any_width(model())


# ---------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (
            lambda x: L.MultiHeadAttention(2, 3)(x, x, return_attention_scores=True)[0],
            "`return_attention_scores` must be False",
        ),
        (
            lambda x: L.MultiHeadAttention(2, 3, output_shape=(2, 8))(x, x)[:, :, 0],
            "`output_shape` must be one number",
        ),
        (
            lambda x: L.MultiHeadAttention(2, 3)(x, x, attention_mask=x[:, :, :5] > 0),
            "a mask must be the same at every width",
        ),
        (
            lambda x: L.EinsumDense("abc,bcd->abd", (5, 16))(x),
            "must multiply the last axis by a matrix",
        ),
        (lambda x: L.Attention()([x, x]), "each score is a sum over all channels"),
    ],
)
def test_what_cannot_be_is_refused(block, match):
    inputs = keras.Input((5, 3))
    x = block(L.Dense(16)(inputs))
    x = L.Dense(8, activation="relu")(L.Flatten()(x))
    with pytest.raises(ConversionError, match=match):
        to_any_width(keras.Model(inputs, L.Dense(2)(x)))


def test_sliced_baselines_take_no_attention():
    plain = tokens(lambda x: L.MultiHeadAttention(2, 3, name="heads")(x, x))
    with pytest.raises(NotImplementedError, match=r"'heads'.*cannot be sliced"):
        SharedBN(plain.input, plain.output)
