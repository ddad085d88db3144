import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    WidthRule,
    per_sample,
    register_width_rule,
    slim,
)
from awn_keras.propagation import propagate
from awn_keras.rules import (
    CallSize,
    Graded,
    keeps_channels_apart,
    merges_channels,
    rule_of,
    traits_of,
)
from awn_keras.stages import Widths
from awn_keras.widths import channel_grades
from tests.conftest import HAS_ADAPTIVE_POOLING, at_width, inputs_of

pytestmark = pytest.mark.backends

L = keras.layers


def output_kind(build, channels=6):
    """Kind after `build`, which gets graded feature maps `(None, 4, 4, channels)`."""
    inputs = keras.Input((4, 4, 1))
    x = build(L.Conv2D(channels, 1, name="stem")(inputs))
    model = keras.Model(inputs, L.Dense(1, name="head")(x))
    return propagate(model, Widths()).kinds[id(x)]


def build_model(build, shape=(4, 4, 1)):
    """An any-width model of a stem, `build`, and a readout."""
    inputs = keras.Input(shape)
    x = build(L.Conv2D(6, 1, name="stem")(inputs))
    return AnyWidthModel(inputs, L.Dense(2, name="head")(x))


def tail_of(layer, batch=None):
    inputs = keras.Input((4, 4), batch_size=batch)
    x = L.Dense(6)(inputs)
    return AnyWidthModel(inputs, layer(L.Dense(3)(x)))


GRADES = channel_grades(6, min_width=0.25)


@pytest.mark.parametrize(
    "layer",
    [
        L.Activation("gelu"),
        *(
            (L.AdaptiveAveragePooling2D(2), L.AdaptiveMaxPooling2D((2, 3)))
            if HAS_ADAPTIVE_POOLING
            else ()
        ),
        L.AveragePooling2D(2),
        L.BatchNormalization(),
        L.CenterCrop(2, 3),
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
        L.GroupNormalization(-1),
        L.GroupNormalization(6),
        L.Softmax(axis=(1, 2)),
        L.TimeDistributed(L.BatchNormalization()),
        L.UnitNormalization(axis=[1, 2]),
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


def test_positions_may_go_into_the_channels_and_come_out_of_them():
    assert output_kind(L.Reshape((4, 24))) == Graded(np.tile(GRADES, 4))
    back = L.Reshape((2, 8, 6))
    assert output_kind(lambda x: back(L.Flatten()(x))) == Graded(GRADES)
    # Channels 0 and 3 are one now, and so are 1 and 4, 2 and 5.
    halves = channel_grades(3, min_width=0.25)
    assert output_kind(L.Reshape((4, 4, 2, 3))) == Graded(halves)


def test_a_tri_layer_gives_grades_of_its_own():
    assert output_kind(TriConv2D(9, 3)) == Graded(channel_grades(9, min_width=0.25))


def test_concatenation_concatenates_grades():
    kind = output_kind(lambda x: L.Concatenate()([x, TriConv2D(4, 1)(x)]))
    assert kind == Graded(np.concatenate([GRADES, channel_grades(4, min_width=0.25)]))


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


# -------------------------------------------------------------------------- errors


class Doubled(keras.Operation):
    """An operation that nothing is known of."""

    def call(self, x):
        return 2 * x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


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
        (L.Activation("softmax", name="a"), "'a'.*activation `softmax` must act"),
        (TriConv2D(4, 1, activation="softmax"), "activation `softmax`"),
        (conv_after_batch_norm, "'bn'.*after a readout.*'plain' is a plain.*TriConv2D"),
        (
            lambda x: TriConv2D(4, 1, name="t")(L.Conv2D(6, 1, name="plain")(x)),
            "'t'.*cannot stand after a readout, because.*'plain' is a plain layer",
        ),
        (
            lambda x: L.Add(name="add")([x, L.Conv2D(6, 1, name="plain")(x)]),
            "'add'.*joins channels that come and go .* with outputs of the readout "
            "'plain'",
        ),
        (L.BatchNormalization(axis=1), "`axis` must be the last"),
        (L.Permute((3, 1, 2)), "must keep the channels last"),
        (L.Reshape((24, 4)), "must keep the channels as the last axis"),
        (L.Reshape((96, 1)), "would make one channel of all"),
        (L.Rescaling([1.0] * 6), "`offset` must be numbers, because"),
        (L.MaxPooling2D(data_format="channels_first"), "must be 'channels_last'"),
        (L.Activation(keras.ops.softmax), "activation `softmax` must act"),
        (TriConv2D(4, 1, activation=L.PReLU()), "must act on each channel alone"),
        (L.Activation(L.BatchNormalization()), "must act on each channel alone"),
        (L.Dropout(0.1, noise_shape=(None, 1, 1, 6)), "entry of `noise_shape` must"),
        (keras.ops.softmax, "acts on the channels.*Put the operation after the"),
        (lambda x: Doubled()(x), "No width rule for operation.*Use a layer in its"),
        (
            lambda x: x * np.ones((2, 1, 1, 1), "float32"),
            "an array must have one entry for all samples",
        ),
        (
            lambda x: keras.ops.reshape(x, (-1, 16, 6)) + L.GlobalMaxPooling2D()(x),
            "same number of axes",
        ),
        (lambda x: x + L.GlobalMaxPooling2D()(x), "same number of axes"),
        (
            lambda x: keras.ops.mean(x, axis=(-1, 0), keepdims=True),
            r"acts on the samples and the channels of an input of shape \(None, 4, 4",
        ),
        (lambda x: keras.ops.max(x, axis=(1, -1)), "acts on the channels"),
    ],
)  # fmt: skip
def test_what_breaks_the_rule_is_named_with_reason_and_way_out(build, match):
    with pytest.raises((ValueError, NotImplementedError), match=match):
        build_model(build)


class Unknown(L.Layer):
    def call(self, x):
        return keras.ops.flip(x, -1)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (Unknown(name="u"), r"No width rule for layer 'u' \(Unknown\).*register_width"),
        (
            L.Lambda(lambda x: x, name="f"),
            r"'f' \(Lambda\).*cannot see what its function",
        ),
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


def test_a_rule_that_forgets_all_weights_is_refused_at_once():
    register_width_rule(Scale)
    with pytest.raises(
        ValueError, match=r"'s'.*names no weights, but \['scale'\] have"
    ):
        build_model(Scale(name="s"))


def test_a_rule_that_forgets_a_weight_is_found_by_slim():
    class Affine(Scale):
        def build(self, shape):
            super().build(shape)
            self.offset = self.add_weight(name="offset", shape=(shape[-1],))

    register_width_rule(Affine, WidthRule(in_axes={"scale": -1}))
    with pytest.raises(
        ValueError, match=r"'s'.*gives weight 'offset' the shape \(6,\)"
    ):
        slim(build_model(Affine(name="s")), 0.5)


def test_a_rule_must_give_a_grade_for_each_channel():
    class Twice(L.Layer):
        def call(self, x):
            return keras.ops.concatenate([x, x], axis=-1)

    register_width_rule(Twice, WidthRule(lambda call: call.kinds[0]))
    with pytest.raises(ValueError, match="gives 6 labels for 12 channels"):
        build_model(Twice())


def test_a_layer_of_ones_own_in_the_tail():
    class First(L.Layer):
        def call(self, x):
            return keras.ops.flip(x, -1) - keras.ops.mean(x, axis=-1, keepdims=True)

    register_width_rule(First, WidthRule(per_sample))
    assert tail_of(First())
    with pytest.raises(ValueError, match="mixes channels"):
        build_model(First())


def test_a_rule_does_not_hold_for_subclasses():
    class MyReLU(L.ReLU):
        pass

    assert rule_of(L.ReLU()) is not None
    assert rule_of(MyReLU()) is None


def test_a_rule_of_a_subclass_leaves_what_is_known_of_its_base():
    class Last(L.Dense):
        pass

    class MyNormalization(L.BatchNormalization):
        pass

    register_width_rule(Last, WidthRule(per_sample))
    register_width_rule(MyNormalization)
    layer = Last(3)
    layer(keras.Input((4,)))
    size = CallSize("last", (None, 4), (None, 3), inputs=4, outputs=3)
    assert traits_of(layer).macs(layer, size) == 12
    assert traits_of(layer).kind is per_sample
    with pytest.raises(ValueError, match="batch statistics cannot serve all widths"):
        tail_of(MyNormalization())


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


@pytest.mark.parametrize(
    ("layer", "apart", "merges"),
    [
        (L.BatchNormalization(), True, False),
        (L.ReLU(6.0), True, False),
        (L.DepthwiseConv2D(3, depth_multiplier=2), True, False),
        (L.GlobalAveragePooling2D(), True, False),
        (L.MaxPooling2D(), True, False),
        (L.Add(), False, True),
        (L.Concatenate(), False, False),
        (L.Conv2D(4, 1), False, False),
        (L.Flatten(), False, False),
        (L.LayerNormalization(), False, False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_layers_that_may_be_run_on_blocks_of_channels(layer, apart, merges):
    assert keeps_channels_apart(layer) is apart
    assert merges_channels(layer) is merges
