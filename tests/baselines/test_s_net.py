import keras
import numpy as np
import pytest

from awn_keras import FixedWidths, SandwichWidths
from awn_keras.baselines import SNet
from tests.baselines.networks import (
    CLASSES,
    POSITIONS,
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

LISTED = (0.25, 0.5, 1.0)
NUMBERS = ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.fixture
def model():
    plain = conv_net()
    return randomize(SNet(plain.input, plain.output, widths=LISTED))


def rows_of(model, width):
    """gamma, beta and so on of a listed width, from the model's variables."""
    index = LISTED.index(width)
    rows = {}
    for name in ("bn1", "bn2"):
        own = model.get_layer(name)
        held = own if width == 1.0 else model._switchable[name]
        rows[name] = [
            numpy(getattr(held, number))
            if held is own
            else numpy(getattr(held, number))[index]
            for number in NUMBERS
        ]
    return rows


@pytest.mark.parametrize("width", LISTED)
def test_a_listed_width_is_a_network_built_on_its_own(model, width):
    network = by_hand(model, width, rows_of(model, width))
    model.width = width
    assert_close(numpy(model(images())), numpy(network(images())))


@pytest.mark.parametrize(
    ("width", "listed"), [(0.35, 0.5), (0.42, 0.5), (0.6, 1.0), (0.9, 1.0)]
)
def test_an_unlisted_width_uses_the_next_larger_normalization(model, width, listed):
    network = by_hand(model, width, rows_of(model, listed))
    model.width = width
    assert_close(numpy(model(images())), numpy(network(images())))
    assert sizes(width) != sizes(listed)  # or this would show nothing


def test_a_step_adds_the_gradients_of_the_networks(model):
    """Training of an S-Net, by networks built on their own and by plain Keras."""
    rate = 0.1
    classification(model, optimizer=keras.optimizers.SGD(rate), width_reduction="sum")
    kernel = np.zeros((3, 3, 6, 8))
    readout = np.zeros((POSITIONS, 8, CLASSES))
    gammas = {}
    for width in LISTED:
        network = by_hand(model, width, rows_of(model, width))
        before = [layer.get_weights() for layer in network.layers]
        classification(network, optimizer=keras.optimizers.SGD(rate))
        network.train_on_batch(images(), labels())
        change = {
            layer.name: [
                new - old for new, old in zip(layer.get_weights(), b, strict=True)
            ]
            for layer, b in zip(network.layers, before, strict=True)
        }
        first, second = sizes(width)
        kernel[:, :, :first, :second] += change["conv2"][0]
        readout[:, :second] += change["logits"][0].reshape(POSITIONS, -1, CLASSES)
        gammas[width] = [w[:4] for w in network.get_layer("bn2").get_weights()]
    old_kernel = model.get_layer("conv2").get_weights()[0]
    old_readout = model.get_layer("logits").get_weights()[0]
    model.fit(images(), labels(), batch_size=12, verbose=0)
    assert_close(model.get_layer("conv2").get_weights()[0], old_kernel + kernel)
    assert_close(
        model.get_layer("logits").get_weights()[0],
        old_readout + readout.reshape(-1, CLASSES),
    )
    # Each normalization, its moving statistics too, learns from its own width alone.
    for width, wanted in gammas.items():
        for got, row in zip(rows_of(model, width)["bn2"], wanted, strict=True):
            count = len(row)
            assert_close(got[:count], row)


def test_training_one_width_leaves_the_other_normalizations(model):
    classification(model, widths=FixedWidths([0.5]))
    before = {width: rows_of(model, width) for width in LISTED}
    model.fit(images(), labels(), verbose=0)
    for width in LISTED:
        for name, old in before[width].items():
            new = rows_of(model, width)[name]
            changed = [(a != b).any() for a, b in zip(old, new, strict=True)]
            assert changed == [width == 0.5] * 4, (width, name)


def test_all_listed_widths_are_trained_by_default():
    plain = conv_net()
    model = classification(SNet(plain.input, plain.output))
    assert model.plan.widths.fixed == (0.25, 0.5, 0.75, 1.0)
    assert model.widths == (0.25, 0.5, 0.75, 1.0)


def test_one_listed_width_is_an_ordinary_network():
    plain = conv_net()
    model = SNet(plain.input, plain.output, widths=[1.0])
    assert_close(numpy(model(images())), numpy(plain(images())))
    assert len(model.weights) == len(plain.weights)


@pytest.mark.parametrize("widths", [[0.5, 0.25, 1.0], [0.25, 0.5], [], [0.5, 1.5]])
def test_bad_lists_are_refused(widths):
    plain = conv_net()
    with pytest.raises(ValueError, match="widths"):
        SNet(plain.input, plain.output, widths=widths)


@pytest.mark.parametrize("widths", [FixedWidths([0.3, 1.0]), SandwichWidths(0.25)])
def test_unlisted_widths_cannot_be_trained(model, widths):
    with pytest.raises(ValueError, match="must be a `FixedWidths` of"):
        classification(model, widths=widths)
    assert not model.compiled
