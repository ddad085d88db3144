import keras
import numpy as np
import pytest
import tensorflow as tf

from awn_keras import SandwichWidths, slim
from awn_keras.baselines import USNet
from awn_keras.data import load_data
from awn_keras.training.samplers import draw_levels
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


@pytest.fixture
def model():
    plain = conv_net()
    return randomize(USNet(plain.input, plain.output))


def measured_by_hand(model, width, batches):
    """Averages of the statistics of batches, in a network built on its own."""
    network = by_hand(model, width)
    means, variances, weights = [], [], []
    for name in ("bn1", "bn2"):
        inner = keras.Model(network.input, network.get_layer(name).input)
        values = [numpy(inner(x, training=True)) for x in batches]
        means.append([x.mean(axis=(0, 1, 2)) for x in values])
        variances.append([x.var(axis=(0, 1, 2)) for x in values])
        weights = [len(x) for x in batches]
    return [
        (
            np.average(mean, axis=0, weights=weights),
            np.average(variance, axis=0, weights=weights),
        )
        for mean, variance in zip(means, variances, strict=True)
    ]


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_calibration_is_what_a_hand_computation_gives(model, width):
    x = images(20)
    model.calibrate(x, widths=[0.25, 0.5, 1.0], batch_size=8)  # 8, 8, 4 images
    wanted = measured_by_hand(model, width, [x[:8], x[8:16], x[16:]])
    network = slim(model, width)
    for name, (mean, variance) in zip(("bn1", "bn2"), wanted, strict=True):
        layer = network.get_layer(name)
        assert_close(numpy(layer.moving_mean), mean)
        assert_close(numpy(layer.moving_variance), variance)


def test_a_width_between_uses_the_next_larger_calibration(model):
    model.calibrate(images(), widths=[0.25, 0.5, 1.0])
    for width, calibrated in ((0.35, 0.5), (0.6, 1.0), (0.5, 0.5)):
        rows = {}
        for name, count in zip(("bn1", "bn2"), sizes(width), strict=True):
            whole = slim(model, calibrated).get_layer(name).get_weights()
            assert len(whole[0]) >= count
            rows[name] = whole
        model.width = width
        wanted = by_hand(model, width, rows)(images())
        assert_close(numpy(model(images())), numpy(wanted))
        narrower = slim(model, 0.25).get_layer("bn2").get_weights()
        assert (rows["bn2"][2][:2] != narrower[2]).any()  # or this would show nothing


def test_other_layers_calibrate_as_in_inference():
    """Dropout would make variances larger, and another in every calibration."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(6, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Dropout(0.5)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = randomize(USNet(inputs, keras.layers.Dense(3)(x)))
    model.calibrate(images(), widths=[1.0])
    first = slim(model, 1.0).get_layer("bn").get_weights()
    values = numpy(model.get_layer("conv")(images()))
    assert_close(first[2], values.mean(axis=(0, 1, 2)))
    assert_close(first[3], values.var(axis=(0, 1, 2)))


def test_a_frozen_normalization_is_calibrated_too(model):
    model.get_layer("bn2").trainable = False
    before = model.get_layer("bn2").get_weights()
    model.calibrate(images(), widths=[0.5, 1.0])
    wanted = measured_by_hand(model, 0.5, [images()])[1]
    layer = slim(model, 0.5).get_layer("bn2")
    assert_close(numpy(layer.moving_mean), wanted[0])
    for old, other in zip(before, model.get_layer("bn2").get_weights(), strict=True):
        np.testing.assert_array_equal(old, other)


def test_training_on_forgets_the_calibration(model):
    classification(model)
    model.calibrate(images(), widths=[0.5, 1.0])
    count = len(model.weights)
    scores = model.predict(images(), verbose=0)
    model.fit(images(), labels(), verbose=0)
    assert model.calibrated_widths == ()
    assert len(model.weights) < count
    # What was traced with the calibration is not used any more.
    assert_close(model.predict(images(), verbose=0), numpy(model(images())))
    assert (model.predict(images(), verbose=0) != scores).any()


def test_predictions_at_a_width_follow_the_calibration(model):
    x = images(20)
    classification(model)

    def assert_like_the_slimmed_network():
        # The same sums in another order.
        got, wanted = model.predict(x, width=0.25, verbose=0), slim(model, 0.25)(x)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        return got

    before = assert_like_the_slimmed_network()
    model.calibrate(x, widths=[0.25, 0.5, 1.0], batch_size=8)
    calibrated = assert_like_the_slimmed_network()
    assert np.abs(before - calibrated).max() > 1e-3
    model.fit(x, labels(20), verbose=0)  # which forgets the calibration
    assert np.abs(assert_like_the_slimmed_network() - calibrated).max() > 1e-3


def test_several_inputs_are_calibrated_from_a_list_or_dict():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = keras.layers.Concatenate()([keras.layers.Dense(4)(a), keras.layers.Dense(4)(b)])
    x = keras.layers.BatchNormalization(name="bn")(x)
    outputs = keras.layers.Dense(2)(keras.layers.Dense(4)(x))
    model = USNet([a, b], outputs)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(9, n)).astype("float32") for n in (4, 3)]
    model.calibrate(data, widths=[1.0], batch_size=9)
    inner = keras.Model(model.input, model.get_layer("bn").input)
    wanted = numpy(inner(data)).mean(axis=0)
    assert_close(numpy(slim(model, 1.0).get_layer("bn").moving_mean), wanted)


def test_before_calibration_it_runs_with_the_moving_statistics(model):
    for width in (0.25, 0.7, 1.0):
        model.width = width
        assert_close(numpy(model(images())), numpy(by_hand(model, width)(images())))


def test_calibration_changes_no_other_weight_and_training_ignores_it(model):
    before = [numpy(w) for w in model.weights]
    twin = USNet.from_config(model.get_config())
    twin.set_weights(before)
    model.calibrate(images(), widths=3)
    for old, weight in zip(before, model.weights, strict=False):
        np.testing.assert_array_equal(old, numpy(weight))
    for each in (model, twin):
        widths = SandwichWidths(0.25, seed=0)
        classification(each, optimizer=keras.optimizers.SGD(0.1), widths=widths)
        each.fit(images(), labels(), verbose=0)
    for weight, other in zip(
        twin.trainable_weights, model.trainable_weights, strict=True
    ):
        assert_close(numpy(weight), numpy(other))


def test_calibrating_again_replaces_what_was_there(model):
    classification(model)
    model.calibrate(images(), widths=4)
    assert model.calibrated_widths == (0.25, 0.5, 0.75, 1.0)
    scores = model.predict(images(), verbose=0)
    count = len(model.weights)
    model.calibrate(images(seed=5), widths=[0.3, 1.0])
    assert model.calibrated_widths == (0.3, 1.0)
    assert len(model.weights) == count
    assert (model.predict(images(), verbose=0) != scores).any()


def test_numbers_of_widths_are_spread_evenly(model):
    model.calibrate(images(), widths=10)
    np.testing.assert_allclose(model.calibrated_widths, np.linspace(0.25, 1, 10))


def test_all_kinds_of_data_give_the_same(model):
    x = images(20)
    pairs = tf.data.Dataset.from_tensor_slices((x, np.zeros(20))).batch(8)
    results = []
    for data in (x, pairs, [x[:8], x[8:16], x[16:]]):
        model.calibrate(data, widths=[0.5, 1.0], batch_size=8)
        results.append(slim(model, 0.5).get_layer("bn2").get_weights())
    for other in results[1:]:
        for first, two in zip(results[0], other, strict=True):
            assert_close(first, two)


def test_a_pydataset_is_read_and_batches_are_limited():
    data = load_data("digits").train(32)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Flatten()(x)
    model = USNet(inputs, keras.layers.Dense(10)(x))
    model.calibrate(data, widths=[1.0], batches=2)
    kept = slim(model, 1.0).get_layer("bn").get_weights()
    model.calibrate([data[0], data[1]], widths=[1.0])
    for value, other in zip(
        kept, slim(model, 1.0).get_layer("bn").get_weights(), strict=True
    ):
        assert_close(value, other)


@traced
def test_every_step_runs_the_sandwich():
    plain = conv_net()
    model = classification(USNet(plain.input, plain.output))
    model.fit(images(), labels(), verbose=0)
    drawn = set()
    for step in range(30):
        narrow, wide, *middle = numpy(
            draw_levels(model.plan.widths, model.networks, step)
        ).tolist()
        assert (narrow, wide) == (0, len(model.distinct_widths) - 1)
        assert len(middle) == 2
        assert all(narrow <= level <= wide for level in middle)
        drawn.update(middle)
    # 60 draws of some ten networks: not to see half of them is next to impossible.
    assert len(drawn) > len(model.distinct_widths) / 2


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"widths": 1}, "`widths` must be at least 2, or a list"),
        ({"widths": []}, "must hold at least one width"),
        ({"widths": [0.1, 1.0]}, "0.1"),
        ({"data": []}, "`data` must hold at least one batch"),
        ({"batches": 0}, "`data` must hold at least one batch"),
        ({"widths": [0.5]}, "The largest width to calibrate must be 1.0"),
    ],
)
def test_bad_calibrations_are_refused(model, kwargs, match):
    with pytest.raises(ValueError, match=match):
        model.calibrate(**{"data": images(), **kwargs})
    assert model.calibrated_widths == ()


def test_labels_are_no_part_of_the_data(model):
    with pytest.raises(TypeError, match="pass the inputs alone"):
        model.calibrate((images(), labels()))
