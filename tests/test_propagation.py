import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    TriDense,
    WidthRule,
    per_sample,
    register_width_rule,
    slim,
)
from awn_keras.graph import graph_nodes
from awn_keras.propagation import propagate, split, trace
from awn_keras.rules import Fixed, Graded, PerWidth, rule_of
from awn_keras.widths import channel_grades
from tests.conftest import at_width, inputs_of, rich, small_conv

L = keras.layers


def output_kind(build, channels=6):
    """Kind after `build`, which gets graded feature maps `(None, 4, 4, channels)`."""
    inputs = keras.Input((4, 4, 1))
    x = build(L.Conv2D(channels, 1, name="stem")(inputs))
    model = keras.Model(inputs, L.Dense(1, name="head")(x))
    return propagate(model, channel_grades).kinds[id(x)]


def build_model(build, shape=(4, 4, 1)):
    """An any-width model of a stem, `build`, and a readout."""
    inputs = keras.Input(shape)
    x = build(L.Conv2D(6, 1, name="stem")(inputs))
    return AnyWidthModel(inputs, L.Dense(2, name="head")(x))


GRADES = channel_grades(6)


@pytest.mark.parametrize(
    "layer",
    [
        L.Activation("gelu"),
        L.AveragePooling2D(2),
        L.BatchNormalization(),
        L.Cropping2D(1),
        L.Dropout(0.5),
        L.LeakyReLU(),
        L.MaxPooling2D(),
        L.PReLU(),
        L.Permute((2, 1, 3)),
        L.ReLU(6.0),
        L.Rescaling(2.0),
        L.Resizing(3, 3),
        L.SpatialDropout2D(0.5),
        L.UpSampling2D(),
        L.ZeroPadding2D(),
        L.DepthwiseConv2D(3),
        L.GlobalAveragePooling2D(),
        L.GlobalMaxPooling2D(keepdims=True),
        L.Reshape((16, 6)),
        L.Activation(L.LeakyReLU()),
        keras.activations.relu,
        keras.activations.gelu,
        lambda x: keras.ops.mean(x, axis=(1, 2), keepdims=True),
        lambda x: keras.ops.max(x, axis=1),
        lambda x: keras.ops.concatenate([x, x], axis=1),
    ],
    ids=lambda layer: getattr(layer, "name", getattr(layer, "__name__", "")),
)
def test_per_channel_layers_keep_the_grades(layer):
    assert output_kind(layer) == Graded(GRADES)


def test_depth_multiplier_repeats_grades():
    kind = output_kind(L.DepthwiseConv2D(3, depth_multiplier=2))
    assert kind == Graded(np.repeat(GRADES, 2))


@pytest.mark.parametrize("layer", [L.Flatten(), L.Reshape((96,)), L.Reshape((-1,))])
def test_flattening_tiles_grades(layer):
    assert output_kind(layer) == Graded(np.tile(GRADES, 16))


def test_a_tri_layer_gives_grades_of_its_own():
    assert output_kind(TriConv2D(9, 3)) == Graded(channel_grades(9))


def test_concatenation_concatenates_grades():
    kind = output_kind(lambda x: L.Concatenate()([x, TriConv2D(4, 1)(x)]))
    assert kind == Graded(np.concatenate([GRADES, channel_grades(4)]))


def test_concatenation_along_rows_keeps_grades():
    assert output_kind(lambda x: L.Concatenate(axis=1)([x, x])) == Graded(GRADES)


@pytest.mark.parametrize(
    "join", [L.Add(), L.Multiply(), L.Maximum(), L.Average(), L.Subtract()]
)
def test_merging_equal_grades_keeps_them(join):
    kind = output_kind(lambda x: join([x, TriConv2D(6, 1)(x)]))
    assert kind == Graded(GRADES)


def test_operators_are_merges():
    assert output_kind(lambda x: keras.ops.relu6(x + 3.0) * x / 6.0) == Graded(GRADES)


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
        WidthRule(lambda call: Graded(call.grades()[len(call.grades()) // 2 :])),
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
        (L.MultiHeadAttention(1, 2), "attention mixes all channels"),
        (L.LSTM(3), "its state mixes all channels"),
        (L.Lambda(lambda x: x), "cannot be seen"),
        (L.TimeDistributed(L.Dense(2)), "No width rule"),
    ],
)
def test_sequence_layers_before_the_readout_are_refused(build, match):
    inputs = keras.Input((5, 3))
    x = L.Dense(4)(inputs)
    x = build(x, x) if isinstance(build, L.MultiHeadAttention) else build(x)
    with pytest.raises((ValueError, NotImplementedError), match=match):
        AnyWidthModel(inputs, L.Dense(2)(x))


def test_all_refusals_are_found_in_one_walk():
    inputs = keras.Input((4, 4, 1))
    x = L.LayerNormalization(name="one")(L.Conv2D(6, 1)(inputs))
    x = L.Lambda(lambda x: x, name="two")(TriConv2D(6, 1)(x))
    x = L.Add()([x, L.Conv2D(6, 1, groups=2, name="three")(x)])
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
    kinds = propagate(keras.Model(inputs, tail), channel_grades).kinds
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


# -------------------------------------------------------------------------- errors


def conv_after_batch_norm(x):
    return L.BatchNormalization(name="bn")(L.Conv2D(6, 1, name="plain")(x))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (
            L.LayerNormalization(name="ln"),
            r"'ln' \(LayerNormalization\): cannot stand before the readout: it norm",
        ),
        (L.Softmax(name="s"), r"'s' \(Softmax\).*Put it after the readout"),
        (L.UnitNormalization(), "normalizes over the channels"),
        (L.Activation("softmax", name="a"), "'a'.*activation `softmax` is not known"),
        (TriConv2D(4, 1, activation="softmax"), "activation `softmax`"),
        (conv_after_batch_norm, "'bn'.*after a readout.*'plain' is a plain.*TriConv2D"),
        (
            lambda x: TriConv2D(4, 1, name="t")(L.Conv2D(6, 1, name="plain")(x)),
            "'t'.*cannot stand after a readout. 'plain' is a plain layer",
        ),
        (
            lambda x: L.Add(name="add")([x, L.Conv2D(6, 1, name="plain")(x)]),
            "'add'.*joins graded channels with what the readout 'plain' gave",
        ),
        (L.BatchNormalization(axis=1), "`axis` must be the last"),
        (L.Permute((3, 1, 2)), "must keep the channels last"),
        (L.Reshape((24, 4)), "must keep the channels as the last axis"),
        (L.Conv2D(6, 1, groups=2), "`groups` must be 1"),
        (L.Rescaling([1.0] * 6), "must be numbers on graded channels"),
        (L.MaxPooling2D(data_format="channels_first"), "must be 'channels_last'"),
        (L.Activation(keras.ops.relu), "activation `relu` is not known"),
        (TriConv2D(4, 1, activation=L.PReLU()), "not known to act on each channel"),
        (L.Activation(L.BatchNormalization()), "not known to act on each channel"),
        (L.Dropout(0.1, noise_shape=(None, 1, 1, 6)), "last of `noise_shape` must be"),
        (keras.ops.softmax, "mixes channels.*Put it after the readout"),
        (lambda x: x**2, "No width rule.*Use a Keras layer in its place"),
        (lambda x: x * np.ones(6, "float32"), "an array cannot follow the channels"),
        (
            lambda x: keras.ops.reshape(x, (-1, 16, 6)) + L.GlobalMaxPooling2D()(x),
            "No width rule",
        ),
        (lambda x: x + L.GlobalMaxPooling2D()(x), "same number of axes"),
        (
            lambda x: keras.ops.mean(x, axis=(-1, 0), keepdims=True),
            r"neither batch nor channels.*axis=\(-1, 0\)",
        ),
        (lambda x: keras.ops.max(x, axis=(1, -1)), "neither batch nor channels"),
    ],
)  # fmt: skip
def test_what_breaks_the_rule_is_named_with_reason_and_way_out(build, match):
    with pytest.raises((ValueError, NotImplementedError), match=match):
        build_model(build)


class Unknown(L.Layer):
    def call(self, x):
        return x[..., ::-1]


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda x: L.Dense(3)(x)[:, :2], "after the readout.*Use a Keras layer in its"),
        (Unknown(name="u"), r"No width rule for layer 'u' \(Unknown\).*register_width"),
        (L.Lambda(lambda x: x, name="f"), r"'f' \(Lambda\).*cannot be seen"),
        (L.GroupNormalization(2), "normalizes over the channels"),
        (
            lambda x: Unknown(name="u")(L.Dense(3, name="plain")(x)),
            r"'u'.*after the readout 'plain'.*Unknown, WidthRule\(per_sample\)",
        ),
        (
            keras.Sequential([L.Dense(4)], name="nested"),
            "Nested model 'nested'.*Call its layers on the outer tensors",
        ),
    ],
)
def test_layers_without_a_rule_are_refused_never_guessed(build, match):
    with pytest.raises((ValueError, NotImplementedError), match=match):
        build_model(build)


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
    with pytest.raises(ValueError, match=r"'bn'.*shared between places of which only"):
        AnyWidthModel(inputs, L.Dense(2)(batch_normalization(x)))


def tail_of(layer, batch=None):
    inputs = keras.Input((4, 4), batch_size=batch)
    x = L.Dense(6)(inputs)
    return AnyWidthModel(inputs, layer(L.Dense(3)(x)))


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (lambda x: L.Concatenate(axis=0)([x, x]), "`axis` must not be the batch's"),
        (lambda x: keras.ops.softmax(x, axis=0), "`axis` must not be the batch's"),
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


# ------------------------------------------------------------------------ registry


@keras.saving.register_keras_serializable(package="tests")
class Scale(L.Layer):
    def build(self, shape):
        self.scale = self.add_weight(
            name="scale", shape=(shape[-1],), initializer="random_normal"
        )

    def call(self, x):
        return x * self.scale


def test_a_registered_layer_propagates_and_slims():
    register_width_rule(Scale, WidthRule(in_axes={"scale": -1}))
    model = build_model(Scale(name="scale"))
    small = slim(model, 0.5)
    assert small.get_layer("scale").scale.shape == (3,)
    x = inputs_of(model)
    # Sums in another order.
    np.testing.assert_allclose(at_width(model, 0.5, x)[0], small(x), atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        ({"scal": -1}, r"'s'.*names none of the layer's weights \['scale'\]"),
        ({"scale": 3}, r"'s'.*axis 3 of weight 'scale' of shape \(6,\)"),
    ],
)
def test_a_rule_must_fit_the_weights(axes, match):
    register_width_rule(Scale, WidthRule(in_axes=axes))
    with pytest.raises(ValueError, match=match):
        build_model(Scale(name="s"))


def test_a_rule_that_forgets_a_weight_is_found_by_slim():
    register_width_rule(Scale)
    with pytest.raises(ValueError, match=r"'s'.*leaves weight 'scale' at shape \(6,\)"):
        slim(build_model(Scale(name="s")), 0.5)


def test_a_rule_must_give_a_grade_for_each_channel():
    class Twice(L.Layer):
        def call(self, x):
            return keras.ops.concatenate([x, x], axis=-1)

    register_width_rule(Twice, WidthRule(lambda call: call.kinds[0]))
    with pytest.raises(ValueError, match="gives 6 grades for 12 channels"):
        build_model(Twice())


def test_a_layer_of_ones_own_in_the_tail():
    class First(L.Layer):
        def call(self, x):
            return x[..., ::-1] - keras.ops.mean(x, axis=-1, keepdims=True)

    register_width_rule(First, WidthRule(per_sample))
    assert tail_of(First())
    with pytest.raises(ValueError, match="mixes channels"):
        build_model(First())


def test_a_rule_does_not_hold_for_subclasses():
    class MyReLU(L.ReLU):
        pass

    assert rule_of(L.ReLU()) is not None
    assert rule_of(MyReLU()) is None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((int,), "`layer_class` must be a Keras layer class"),
        ((L.ReLU(),), "`layer_class` must be a Keras layer class"),
        ((Scale, {"scale": -1}), "`rule` must be a `WidthRule`"),
    ],
)
def test_bad_registrations_are_refused(arguments, match):
    with pytest.raises(TypeError, match=match):
        register_width_rule(*arguments)


def test_a_per_channel_layer_must_keep_the_number_of_channels():
    class Half(L.Layer):
        def call(self, x):
            return x[..., ::2]

    register_width_rule(Half)
    with pytest.raises(ValueError, match="must keep the number of channels"):
        build_model(Half())


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
