import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from awn_keras import (
    SandwichWidths,
    TriConv2D,
    WidthRule,
    count_macs,
    lenet_3c1l,
    mobilenet_v2,
    register_width_rule,
    slim,
    to_any_width,
    trade_off_curve,
)
from awn_keras.baselines import NestedNet, SharedBN, SNet, USNet
from awn_keras.baselines.sliced import active_part, normalized_by_batch, put_back
from awn_keras.deploy import export_tflite
from awn_keras.loading import load_model
from tests.baselines.networks import (
    assert_close,
    by_hand,
    conv_net,
    images,
    labels,
    numpy,
    randomize,
    sizes,
)
from tests.conftest import classification, eagerly, traced

pytestmark = eagerly

L = keras.layers
SYSTEMS = (NestedNet, SharedBN, SNet, USNet)
NUMBERS = ("gamma", "beta", "moving_mean", "moving_variance")
WIDTHS = (0.25, 0.4, 0.5, 0.8, 1.0)


def of(system, plain=None, **kwargs):
    plain = conv_net() if plain is None else plain
    return system(plain.input, plain.output, **kwargs)


@pytest.fixture(params=SYSTEMS)
def model(request):
    model = of(request.param)
    if isinstance(model, USNet):
        model.calibrate(images(), widths=[0.25, 0.6, 1.0])
    return randomize(model)


# ----------------------------------------------------------------------- cutting


@given(
    st.lists(
        st.lists(st.integers(0, 5), min_size=1, max_size=4).map(sorted),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 3),
    st.integers(-1, 6),
    st.integers(0, 2),
)
def test_cutting_keeps_what_is_active(parts, times, level, axis):
    """Ascending levels, concatenated ones, and flattened ones (all runs equal)."""
    levels = np.tile(np.concatenate(parts), times)
    if level < 0:
        level = int(levels.min())
    shape = [2, 3, 2]
    shape[axis] = len(levels)
    value = np.random.default_rng(0).normal(size=shape)
    got = active_part(tf.constant(value), axis, levels, tf.constant(level))
    np.testing.assert_array_equal(got, np.compress(levels <= level, value, axis))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 4))
def test_what_is_put_back_leaves_the_rest(levels, level):
    levels = np.array(levels)
    whole = np.arange(len(levels), dtype=float)
    part = active_part(tf.constant(whole), 0, levels, tf.constant(level))
    if not levels.any():
        part = tf.constant(whole)
    got = put_back(tf.constant(whole), part + 100, levels, tf.constant(level))
    np.testing.assert_array_equal(got, np.where(levels <= level, whole + 100, whole))


# ----------------------------------------------------------------------- running


@given(st.integers(2, 5), st.integers(1, 4), st.booleans())
def test_normalization_in_one_operator_is_that_of_keras(batch, channels, factors):
    rng = np.random.default_rng(batch)
    x = (3 * rng.normal(size=(batch, 3, 4, channels)) + 5).astype("float32")
    layer = keras.layers.BatchNormalization(
        momentum=0.0, epsilon=1e-3, scale=factors, center=factors
    )
    layer.build(x.shape)
    randomize(layer)
    wanted = numpy(layer(x, training=True))
    numbers = {w.name: keras.ops.convert_to_tensor(w) for w in layer.weights}
    y, mean, variance = normalized_by_batch(
        keras.ops.convert_to_tensor(x), numbers, 1e-3
    )
    # float32 sums of 60 numbers, in another order.
    np.testing.assert_allclose(numpy(y), wanted, rtol=1e-3, atol=1e-4)
    # With momentum 0 the moving statistics are those of the batch.
    np.testing.assert_allclose(numpy(mean), numpy(layer.moving_mean), rtol=1e-5)
    np.testing.assert_allclose(numpy(variance), numpy(layer.moving_variance), rtol=1e-4)


def test_a_width_computes_what_a_network_of_its_size_does():
    model = randomize(of(SharedBN))
    for width in WIDTHS:
        model.width = width
        assert_close(numpy(model(images())), numpy(by_hand(model, width)(images())))


def test_work_becomes_smaller_and_is_not_masked():
    seen = []

    class Spy(L.Layer):
        def call(self, x):
            seen.append(int(keras.ops.shape(x)[-1]))
            return x

        def compute_output_shape(self, shape):
            return shape

    register_width_rule(Spy)
    inputs = keras.Input((6, 6, 2))
    x = Spy()(L.Conv2D(6, 3)(inputs))
    x = Spy()(L.Conv2D(8, 3)(x))
    model = of(SharedBN, keras.Model(inputs, L.Dense(3)(L.Flatten()(x))))
    for width in WIDTHS:
        model.width = width
        seen.clear()
        model(images())
        assert tuple(seen) == sizes(width)


def test_every_width_slims_to_a_plain_network(model):
    for width in WIDTHS:
        network = slim(model, width)
        assert not isinstance(network, type(model))
        assert network.get_layer("conv2").filters == sizes(width)[1]
        model.width = width
        assert_close(numpy(model(images())), numpy(network(images())))
        assert count_macs(model, width) == count_macs(network)


def test_predict_runs_at_the_width_that_is_set_without_a_new_trace(model):
    for width in WIDTHS:
        model.width = width
        got = model.predict(images(), verbose=0)
        assert_close(got, numpy(slim(model, width)(images())))


def test_concatenations_and_additions_are_sliced():
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(6, 3, padding="same")(inputs)
    y = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    y = L.BatchNormalization()(L.Concatenate()([x, y, inputs]))
    y = L.Conv2D(6, 1)(y)
    x = L.GlobalAveragePooling2D()(L.Add()([x, y]))
    model = randomize(of(SharedBN, keras.Model(inputs, L.Dense(3)(L.Dense(5)(x)))))
    for width in WIDTHS:
        model.width = width
        assert_close(numpy(model(images())), numpy(slim(model, width)(images())))


def test_the_papers_networks_can_be_sliced():
    plain = lenet_3c1l((16, 16, 1), filters=8, width_multiplier=1.0, triangular=False)
    assert not any(isinstance(layer, TriConv2D) for layer in plain.layers)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype("float32")
    model = of(SNet, plain)
    model.width = 0.5
    assert_close(numpy(model(x)), numpy(slim(model, 0.5)(x)))


@pytest.mark.slow
def test_mobilenet_v2_can_be_sliced():
    plain = mobilenet_v2((16, 16, 3), width_multiplier=0.25, triangular=False)
    model = randomize(of(USNet, plain, min_width=0.35, divisor=8))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    for width in (0.35, 0.7, 1.0):
        model.width = width
        got, wanted = numpy(model(x)), numpy(slim(model, width)(x))
        # Random weights make numbers of any size; 52 layers of sums.
        np.testing.assert_allclose(
            got, wanted, rtol=1e-3, atol=1e-3 * abs(wanted).max()
        )


# ------------------------------------------------------------- the whole interface


def test_the_interface_is_that_of_an_any_width_model(model, tmp_path):
    classification(model)
    model.fit(images(), labels(), batch_size=4, verbose=0)
    logs = model.evaluate(images(), labels(), return_dict=True, verbose=0)
    assert {"loss", "accuracy", "accuracy_w025", "auc"} <= set(logs)
    curve = trade_off_curve(model, images(), labels())
    assert curve.widths == list(model.distinct_widths)
    for width, accuracy in zip(curve.widths, curve.accuracy, strict=True):
        scores = numpy(slim(model, width)(images()))
        assert accuracy == pytest.approx(np.mean(scores.argmax(-1) == labels()))
    path = tmp_path / "a.tflite"
    exported = export_tflite(model, path, widths=[0.5, 1.0], samples=images(2))
    assert [record.width for record in exported] == [0.5, 1.0]


def test_a_saved_model_is_the_same_and_goes_on(model, tmp_path):
    classification(model)
    model.fit(images(), labels(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    for key in {"divisor", "min_width", "widths", "calibrated_widths"}:
        assert loaded.get_config().get(key) == model.get_config().get(key)
    for width in WIDTHS:
        loaded.width = model.width = width
        np.testing.assert_array_equal(numpy(loaded(images())), numpy(model(images())))
    for each in (model, loaded):
        each.fit(images(), labels(), verbose=0)
    for weight, other in zip(model.weights, loaded.weights, strict=True):
        assert_close(numpy(weight), numpy(other))


def test_a_fresh_process_loads_a_saved_model(tmp_path):
    """Nothing but the loader is imported there."""
    of(USNet).save(tmp_path / "model.keras")
    code = (
        "from awn_keras.loading import load_model\n"
        f"print(type(load_model({str(tmp_path / 'model.keras')!r})).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "USNet\n", done.stderr


@traced
def test_training_logs_are_those_of_the_largest_width():
    model = classification(of(SharedBN), widths=SandwichWidths(0.25, 1.0, 3))
    right = {}
    for width in (0.25, 1.0):
        model.width = width
        scores = numpy(model(images(), training=True))
        right[width] = np.mean(scores.argmax(-1) == labels())
    assert right[0.25] != right[1.0]
    history = model.fit(images(), labels(), batch_size=len(labels()), verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    assert history["accuracy"] == [pytest.approx(right[1.0])]


def test_weight_decay_counts_once():
    inputs = keras.Input((4,))
    x = L.Dense(4, kernel_regularizer=keras.regularizers.L2(0.5))(inputs)
    model = of(SharedBN, keras.Model(inputs, L.Dense(3)(x)))
    classification(model, width_reduction="sum")
    x, y = np.zeros((2, 4), "float32"), np.zeros(2)
    kernel = numpy(model.layers[1].kernel)
    loss = model.fit(x, y, verbose=0).history["loss"][0]
    # All logits are 0: four widths, each with the loss of three equal chances.
    wanted = 4 * np.log(3) + 0.5 * (kernel**2).sum()
    assert loss == pytest.approx(wanted, rel=1e-5)


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (L.PReLU(name="odd"), "'odd' .PReLU. cannot be sliced.*BatchNormalization"),
        (L.SeparableConv2D(4, 3, name="odd"), "'odd' .SeparableConv2D. cannot be"),
        (L.Reshape((-1,), name="odd"), "'odd' .Reshape. cannot be sliced"),
        (
            L.Conv2D(4, 3, activity_regularizer="l2", name="odd"),
            "'odd' .Conv2D.*`activity_regularizer`. Leave out",
        ),
        (L.BatchNormalization(renorm=True, name="odd"), "'odd'.*`renorm=False`"),
    ],
)
def test_layers_that_cannot_be_sliced_are_named(layer, match):
    inputs = keras.Input((6, 6, 2))
    x = layer(L.Conv2D(4, 3)(inputs))
    x = x if len(x.shape) == 2 else L.GlobalAveragePooling2D()(x)
    plain = keras.Model(inputs, L.Dense(3)(L.Dense(4)(x)))
    with pytest.raises(NotImplementedError, match=match):
        of(SharedBN, plain)


def test_causal_convolutions_are_refused():
    inputs = keras.Input((6, 2))
    x = L.Conv1D(4, 3, padding="causal", name="odd")(L.Conv1D(4, 3)(inputs))
    plain = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    with pytest.raises(NotImplementedError, match=r"'odd'.*causal padding"):
        of(SharedBN, plain)


def test_what_breaks_the_rule_of_widths_is_refused_as_for_any_width_networks():
    inputs = keras.Input((6, 6, 2))
    x = L.Softmax(name="odd")(L.Conv2D(4, 3)(inputs))
    plain = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    with pytest.raises(ValueError, match=r"'odd'.*cannot stand before the readout"):
        of(SharedBN, plain)


@pytest.mark.parametrize(
    "layer",
    [
        L.LayerNormalization(),
        L.Conv2D(8, 3, groups=2),
        L.Conv2D(8, 3, groups=8),
        lambda x: x[..., :4],
        lambda x: x * np.ones(8, "float32"),
        lambda x: keras.ops.concatenate(keras.ops.split(x, 2, axis=-1)[::-1], axis=-1),
    ],
)
def test_what_takes_channels_by_their_number_cannot_be_sliced(layer):
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(8, 1)(layer(L.Conv2D(8, 3)(inputs)))
    plain = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    with pytest.raises(NotImplementedError, match="cannot be sliced to a width"):
        of(SharedBN, plain)


def test_an_any_width_model_is_no_plain_one():
    model = to_any_width(conv_net(), divisor=2)
    for system in SYSTEMS:
        with pytest.raises(NotImplementedError, match=r"'conv2' .TriConv2D. cannot be"):
            of(
                system,
                keras.Model(
                    model.input, L.Dense(3)(L.Dense(8)(model.layers[-2].output))
                ),
            )


def test_normalizations_of_inputs_are_called_as_they_are():
    """Whatever their axis: what they work on does not come and go."""
    inputs = keras.Input((6, 6, 2))
    x = L.BatchNormalization(axis=1)(inputs)
    x = L.Conv2D(4, 3)(x)
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(x))
    model = randomize(of(SharedBN, keras.Model(inputs, L.Dense(3)(x))))
    for width in (0.25, 1.0):
        model.width = width
        assert_close(numpy(model(images())), numpy(slim(model, width)(images())))
    classification(model).fit(images(), labels(), verbose=0)


def test_normalizations_of_ones_own_class_are_refused():
    class Own(L.BatchNormalization):
        def call(self, x, training=None, mask=None):
            return 2 * super().call(x, training, mask)

    register_width_rule(Own, WidthRule(in_axes=dict.fromkeys(NUMBERS, 0)))
    inputs = keras.Input((6, 6, 2))
    x = Own(name="odd")(L.Conv2D(4, 3)(inputs))
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(x))
    with pytest.raises(NotImplementedError, match=r"'odd' .Own. cannot be sliced"):
        of(SharedBN, keras.Model(inputs, L.Dense(3)(x)))
