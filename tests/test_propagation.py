import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    TriDense,
    WidthRule,
    register_width_rule,
    slim,
)
from awn_keras.graph import graph_nodes
from awn_keras.layers import TRI_ATTENTION
from awn_keras.propagation import propagate, trace
from awn_keras.rules import Fixed, Graded, Labelled, PerWidth
from awn_keras.stages import Widths
from awn_keras.trunk import split
from awn_keras.widths import channel_grades
from tests.conftest import at_width, inputs_of, rich, small_conv
from tests.test_rules import GRADES, build_model, output_kind, tail_of

pytestmark = pytest.mark.backends

L = keras.layers


def equals_slim(model):
    x = inputs_of(model)
    for width in model.distinct_widths:
        # Sums in another order.
        np.testing.assert_allclose(
            at_width(model, width, x)[0], slim(model, width)(x), atol=1e-5
        )


def test_what_is_added_to_a_concatenation_follows_its_grades():
    inputs = keras.Input((4,))
    x = L.Dense(3)(inputs)
    parts = L.Concatenate()([TriDense(2)(x), TriDense(4, name="four")(x)])
    whole = TriDense(6, name="whole")
    model = AnyWidthModel(inputs, L.Dense(2)(L.Add()([whole(x), parts])))
    expected = [channel_grades(n, min_width=0.25) for n in (2, 4)]
    np.testing.assert_array_equal(whole.out_grades, np.concatenate(expected))
    equals_slim(model)


def test_what_is_added_to_the_inputs_is_always_there():
    inputs = keras.Input((2,))
    x = L.Dense(3)(inputs)
    both = L.Concatenate()([inputs, TriDense(3)(x)])
    whole = TriDense(5)
    model = AnyWidthModel(inputs, L.Dense(2)(L.Add()([whole(x), both])))
    assert (whole.out_grades[:2] == 0).all()
    equals_slim(model)


def test_a_layer_that_would_be_empty_is_refused():
    class UpperHalf(L.Layer):
        def call(self, x):
            return x[..., x.shape[-1] // 2 :]

    register_width_rule(
        UpperHalf,
        WidthRule(lambda call: Labelled(call.labels()[len(call.labels()) // 2 :])),
    )
    inputs = keras.Input((4,))
    x = L.Dense(4)(inputs)
    x = UpperHalf(name="late")(x)
    with pytest.raises(ValueError, match=r"'late'.*no channel at the smallest width"):
        AnyWidthModel(inputs, L.Dense(2)(x))


def test_a_layer_without_other_layers_that_mix_after_it_is_no_stem():
    wide, deep = keras.Input((3,)), keras.Input((4,))
    x = L.Dense(2)(TriDense(6)(L.Dense(6)(deep)))
    linear = L.Dense(2, name="linear")
    model = AnyWidthModel([wide, deep], L.Add()([linear(wide), x]))
    kinds = model.propagation.kinds
    assert kinds[id(linear.output)] == Fixed()
    equals_slim(model)


@pytest.mark.parametrize(
    "layer", [L.Embedding(9, 4), L.LayerNormalization(), L.LSTM(4)]
)
def test_stock_layers_on_the_input_may_mix_channels(layer):
    inputs = keras.Input((5,) if isinstance(layer, L.Embedding) else (5, 3))
    x = L.Flatten()(layer(inputs))
    model = AnyWidthModel(inputs, L.Dense(2)(TriDense(6)(L.Dense(6)(x))))
    x = np.abs(inputs_of(model))
    # Sums in another order.
    np.testing.assert_allclose(
        at_width(model, 0.5, x)[0], slim(model, 0.5)(x), atol=1e-5
    )


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (L.MultiHeadAttention(1, 2), "Or use TriMultiHeadAttention, or give"),
        (L.GroupQueryAttention(2, 2, 2), "use TriGroupQueryAttention, or give"),
        (L.RNN(L.LSTMCell(3)), "its state mixes all channels.*there is no Tri layer"),
        (
            L.ConvLSTM1D(3, 1),
            "there is no Tri layer.*use GRU, LSTM or SimpleRNN",
        ),
        (L.Bidirectional(L.RNN(L.GRUCell(3))), "Bidirectional of one of them"),
        (
            L.Bidirectional(L.GRU(3), backward_layer=L.GRU(2, go_backwards=True)),
            "as many units in both directions",
        ),
        (L.Lambda(lambda x: x), "cannot see what its function"),
        (L.TimeDistributed(L.LayerNormalization()), "it treats each step separately"),
        (L.TimeDistributed(L.Masking()), "inner layer has no width rule"),
    ],
)
def test_sequence_layers_before_the_readout_are_refused(build, match):
    inputs = keras.Input((5, 3))
    x = L.Dense(4)(inputs)
    x = x[:, :, None] if isinstance(build, L.ConvLSTM1D) else x
    x = build(x, x) if type(build) in TRI_ATTENTION else build(x)
    with pytest.raises((ValueError, NotImplementedError), match=match):
        AnyWidthModel(inputs, L.Dense(2)(x))


def test_all_refusals_are_found_in_one_walk():
    inputs = keras.Input((4, 4, 1))
    x = L.LayerNormalization(name="one")(L.Conv2D(6, 1)(inputs))
    x = L.Lambda(lambda x: x, name="two")(TriConv2D(6, 1)(x))
    x = L.Add()([x, L.Softmax(name="three")(x)])
    refusals = []
    trace(keras.Model(inputs, L.Dense(1)(x)), refusals=refusals)
    assert [layer.name for layer, _ in refusals[:3]] == ["one", "two", "three"]


def test_one_channel_broadcasts():
    kind = output_kind(lambda x: x * TriConv2D(1, 1, activation="sigmoid")(x))
    assert kind == Graded(GRADES)


def test_kinds_of_stem_readout_and_tail():
    inputs = keras.Input((4, 4, 1))
    scaled = L.Rescaling(2.0)(inputs)
    stem = L.Conv2D(6, 1)(scaled)
    readout = L.Conv2D(3, 1, name="readout")(stem)
    tail = L.Softmax()(L.LayerNormalization()(L.Reshape((48,))(readout)))
    kinds = propagate(keras.Model(inputs, tail), Widths()).kinds
    assert kinds[id(scaled)] == Fixed()
    assert kinds[id(stem)] == Graded(GRADES)
    assert kinds[id(readout)] == kinds[id(tail)] == PerWidth("readout")
    assert kinds[id(tail)].readout == "readout"


def test_a_tri_layer_on_the_input_is_dense():
    inputs = keras.Input((4,))
    layer = TriDense(5)
    model = AnyWidthModel(inputs, L.Dense(2)(layer(inputs)))
    assert (layer.get_weights()[0] != 0).all()
    assert model.distinct_widths[-1] == 1.0


def test_preprocessing_may_be_nested_or_unknown():
    class Noise(L.Layer):
        def call(self, x):
            return x + 1.0

    preprocess = keras.Sequential([L.Rescaling(0.5), L.RandomFlip()])
    inputs = keras.Input((4, 4, 1))
    x = preprocess(Noise()(inputs))
    model = AnyWidthModel(inputs, L.Dense(2)(L.Flatten()(TriConv2D(4, 1)(x))))
    small = slim(model, 0.5)
    x = inputs_of(model)
    got = at_width(model, 0.5, x, training=False)[0]
    # Sums in another order.
    np.testing.assert_allclose(got, small(x, training=False), atol=1e-6)


@pytest.mark.parametrize("nested", [False, True])
def test_adapted_normalization_slims(nested):
    normalization = L.Normalization()
    normalization.adapt(3 + 5 * np.random.default_rng(0).normal(size=(50, 4)))
    before = keras.Sequential([normalization]) if nested else normalization
    after = L.Normalization()
    after.adapt(2 + np.random.default_rng(1).normal(size=(50, 3)))
    inputs = keras.Input((4,))
    x = TriDense(6)(L.Dense(6)(before(inputs)))
    model = AnyWidthModel(inputs, after(L.Dense(3)(x)))
    x = inputs_of(model)
    # Sums in another order.
    np.testing.assert_allclose(
        at_width(model, 0.5, x)[0], slim(model, 0.5)(x), atol=1e-5
    )


def test_shared_layers_without_weights_may_stand_anywhere():
    relu = L.ReLU()
    inputs = keras.Input((4,))
    x = relu(L.Dense(6)(inputs))
    x = relu(L.Dense(6)(relu(TriDense(6)(x))))
    model = AnyWidthModel(inputs, L.Dense(2)(x))
    x = inputs_of(model)
    # Sums in another order.
    np.testing.assert_allclose(
        at_width(model, 0.5, x)[0], slim(model, 0.5)(x), atol=1e-6
    )


def test_shared_layers_with_weights_work_at_places_of_equal_grades():
    tri, head = TriDense(6), L.Dense(2)
    inputs = keras.Input((4,))
    x = L.Dense(6)(inputs)
    outputs = L.Add()([head(tri(x)), head(tri(tri(x)))])
    model = AnyWidthModel(inputs, outputs)
    x = inputs_of(model)
    # Sums in another order.
    np.testing.assert_allclose(
        at_width(model, 0.5, x)[0], slim(model, 0.5)(x), atol=1e-5
    )


def test_a_layer_of_ones_own_that_trains_on_the_input_needs_a_rule():
    class Own(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 3))

        def call(self, x):
            return x @ self.w

    inputs = keras.Input((4,))
    with pytest.raises(NotImplementedError, match="No width rule"):
        AnyWidthModel(inputs, L.Dense(2)(TriDense(4)(Own()(inputs))))


def test_a_model_without_readout_is_refused():
    inputs = keras.Input((4,))
    outputs = TriDense(4, name="last")(L.Dense(4)(inputs))
    with pytest.raises(ValueError, match="no readout before its output 'last'"):
        AnyWidthModel(inputs, outputs)


def test_a_model_that_width_does_not_touch_is_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="No output of the model depends on the width"):
        AnyWidthModel(inputs, L.ReLU()(inputs))


def test_flattening_unknown_rows_is_refused():
    inputs = keras.Input((None, 4, 1))
    outputs = L.Flatten(name="flat")(TriConv2D(6, 1)(L.Conv2D(6, 1)(inputs)))
    with pytest.raises(ValueError, match=r"'flat'.*rows and cols must be known"):
        AnyWidthModel(inputs, outputs)


def test_a_shared_layer_on_fixed_and_on_graded_channels_is_refused():
    batch_normalization = L.BatchNormalization(name="bn")
    inputs = keras.Input((6,))
    x = TriDense(6)(L.Dense(6)(batch_normalization(inputs)))
    with pytest.raises(
        ValueError, match=r"'bn'.*is called several times, but only some"
    ):
        AnyWidthModel(inputs, L.Dense(2)(batch_normalization(x)))


MIXES = "mixes the samples of a batch"


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (lambda x: keras.ops.mean(x, axis=(0,), keepdims=True), MIXES),
        (lambda x: keras.ops.max(x, axis=-3, keepdims=True), MIXES),
        (lambda x: L.Concatenate(axis=0)([x, x]), "`axis` must not be the batch axis"),
        (lambda x: keras.ops.softmax(x, axis=0), MIXES),
        (L.LSTM(2, stateful=True), "`stateful` must be False"),
        (L.Dense(3, activation=L.BatchNormalization()), "cannot stand after a readout"),
    ],
)
def test_layers_that_mix_the_samples_of_a_batch_are_refused_in_the_tail(layer, match):
    # There the widths of a step are folded into the batch.
    with pytest.raises(ValueError, match=match):
        tail_of(layer, batch=2)


def test_a_readout_that_mixes_the_samples_of_a_batch_is_refused():
    with pytest.raises(ValueError, match="BatchNormalization as `activation`"):
        build_model(lambda x: L.Dense(3, activation=L.BatchNormalization())(x))


@pytest.mark.parametrize(
    "layer", [L.LSTM(2), keras.ops.softmax, L.Softmax(), L.Reshape((-1,))]
)
def test_layers_that_mix_channels_only_may_stand_in_the_tail(layer):
    model = tail_of(layer)
    x = inputs_of(model)
    # Sums in another order.
    np.testing.assert_allclose(
        at_width(model, 0.5, x)[0], slim(model, 0.5)(x), atol=1e-5
    )


def test_a_shared_reshape_has_a_shape_at_each_of_its_calls():
    reshape = L.Reshape((16, 6))
    inputs = keras.Input((4, 4, 1))
    x = L.Conv2D(6, 1)(inputs)
    y = L.Concatenate()([TriConv2D(2, 1)(x), TriConv2D(4, 1)(x)])
    heads = [L.Dense(2)(reshape(x)), L.Dense(2)(reshape(y))]
    model = AnyWidthModel(inputs, L.Add()(heads), min_width=0.1)
    x = inputs_of(model)
    for width in model.distinct_widths:
        # Sums in another order.
        np.testing.assert_allclose(
            at_width(model, width, x)[0], slim(model, width)(x), atol=1e-5
        )


def test_reshape_in_the_tail_of_images_of_unknown_size():
    inputs = keras.Input((None, None, 3))
    x = L.Conv2D(2, 1)(L.Conv2D(6, 1)(inputs))
    model = AnyWidthModel(inputs, L.Reshape((-1,))(x))
    x = np.ones((2, 5, 4, 3), "float32")
    # Sums in another order.
    np.testing.assert_allclose(
        at_width(model, 0.5, x)[0], slim(model, 0.5)(x), atol=1e-5
    )


# --------------------------------------------------------------------------- split


@pytest.mark.parametrize("make", [small_conv, rich])
def test_trunk_then_tail_is_the_model(make):
    model = make()
    parts = split(model, model.propagation)
    x = inputs_of(model)
    outputs = parts.tail(keras.tree.flatten(parts.trunk(x)))
    for got, wanted in zip(
        keras.tree.flatten(outputs), at_width(model, 1.0, x), strict=True
    ):
        # The same operations on the same numbers, at full width nothing is masked.
        np.testing.assert_array_equal(got, wanted)


def test_trunk_and_tail_share_all_layers():
    model = rich()
    parts = split(model, model.propagation)
    ids = {id(weight) for part in (parts.trunk, parts.tail) for weight in part.weights}
    assert ids == {id(weight) for weight in model.weights}
    trunk = [node.operation.name for node in graph_nodes(parts.trunk)]
    assert "scores" not in trunk
    assert "scores" in [node.operation.name for node in graph_nodes(parts.tail)]
