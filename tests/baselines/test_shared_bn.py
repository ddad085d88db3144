import keras
import numpy as np
import pytest

from awn_keras import FixedWidths, SandwichWidths, UniformWidths
from awn_keras.baselines import SharedBN
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
from tests.conftest import classification, eagerly

pytestmark = eagerly


@pytest.fixture
def model():
    plain = conv_net()
    return randomize(SharedBN(plain.input, plain.output))


def test_all_widths_track_into_one_set_of_statistics(model):
    """The widths of a step update the moving mean one after the other."""
    widths = (0.5, 1.0)
    classification(model, widths=FixedWidths(widths), optimizer="sgd")
    before = {name: model.get_layer(name).get_weights()[2] for name in ("bn1", "bn2")}
    networks = [classification(by_hand(model, width)) for width in widths]
    model.fit(images(), labels(), batch_size=12, verbose=0)
    wanted = {name: value.copy() for name, value in before.items()}
    for network, (first, second) in zip(networks, map(sizes, widths), strict=True):
        for name, count in (("bn1", first), ("bn2", second)):
            layer = network.get_layer(name)
            layer.moving_mean.assign(wanted[name][:count])
        network.train_on_batch(images(), labels())
        for name, count in (("bn1", first), ("bn2", second)):
            wanted[name][:count] = numpy(network.get_layer(name).moving_mean)
    for name, value in wanted.items():
        assert_close(numpy(model.get_layer(name).moving_mean), value)
        assert (value != before[name]).all()


@pytest.mark.parametrize(
    "widths",
    [
        SandwichWidths(0.25, expected=True),
        UniformWidths(0.25, expected=True),
        SandwichWidths(0.25),
        FixedWidths([1.0, 0.5]),
    ],
    ids=lambda widths: type(widths).__name__ + "-expected" * widths.expected,
)
def test_training_logs_are_those_of_the_full_width(model, widths):
    """Where every step runs it. Before the step: its own statistics, no update."""
    # Not accuracy: narrower networks may be right equally often.
    metric = keras.metrics.SparseCategoricalCrossentropy("entropy", from_logits=True)
    classification(model, widths=widths, metrics=[metric])
    logits = by_hand(model, 1.0)(images(), training=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wanted = float(loss(labels(), logits))
    logs = model.train_on_batch(images(), labels(), return_dict=True)
    # float32 sums in another order.
    assert logs["entropy"] == pytest.approx(wanted, rel=1e-4)


def test_a_frozen_normalization_keeps_its_statistics(model):
    model.get_layer("bn2").trainable = False
    classification(model)
    before = model.get_layer("bn2").get_weights()
    model.fit(images(), labels(), verbose=0)
    for old, other in zip(before, model.get_layer("bn2").get_weights(), strict=True):
        np.testing.assert_array_equal(old, other)
