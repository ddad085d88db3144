import keras
import numpy as np
import pytest

from awn_keras.baselines import SNet, USNet
from tests.baselines.networks import conv_net
from tests.conftest import at_width, eagerly, inputs_of, rich, small_conv

pytestmark = eagerly

schedules = keras.optimizers.schedules


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
}
NETWORKS = {
    "conv": lambda: small_conv(divisor=2),
    "rich": rich,
    "grid": lambda: small_conv(None, widths_grid=[0.3, 0.6, 1.0]),
    "s_net": lambda: SNet(*graph(), widths=[0.25, 0.5, 0.75, 1.0]),
    "us_net": lambda: USNet(*graph()),
}


def graph():
    plain = conv_net()
    return plain.input, plain.output


def fit_a_little(model, **kwargs):
    x = inputs_of(model, 12)
    y = {
        name: np.random.default_rng(0).normal(size=(12, *output.shape[1:]))
        for name, output in zip(model.output_names, model.outputs, strict=True)
    }
    y = y if isinstance(model.output, dict) else next(iter(y.values()))
    model.fit(x, y, batch_size=4, verbose=0, **kwargs)


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [
        ("conv", "momentum"),
        ("conv", "adamw"),
        ("rich", "adamw"),
        ("grid", "momentum"),
        ("s_net", "adamw"),
        ("us_net", "momentum"),
    ],
)
def test_narrow_networks_stay_bit_for_bit(network, optimizer):
    model = NETWORKS[network]()
    model.compile(OPTIMIZERS[optimizer](), "mse")
    fit_a_little(model)  # so that momentum and statistics are under way
    x = inputs_of(model)
    widths = model.distinct_widths
    before = {width: at_width(model, width, x) for width in widths}
    model.width = 1.0
    frozen = 0.6
    model.compile(OPTIMIZERS[optimizer](), "mse", frozen_up_to=frozen)
    fit_a_little(model, epochs=2)
    changed = []
    for width in widths:
        after = at_width(model, width, x)
        same = all(
            np.array_equal(a, b) for a, b in zip(before[width], after, strict=True)
        )
        changed.append(not same)
        if width <= frozen:
            assert same, width
    assert any(width <= frozen for width in widths[1:])
    assert changed[-1]


def test_a_schedule_freezes_after_joint_training_with_momentum():
    model = small_conv()
    steps = 3
    schedule = schedules.PiecewiseConstantDecay([steps - 1], [0.0, 0.5])
    model.compile(OPTIMIZERS["momentum"](), "mse", frozen_up_to=schedule)
    x = inputs_of(model)
    start = at_width(model, 0.25, x)
    fit_a_little(model)  # three steps
    joint = {width: at_width(model, width, x) for width in (0.25, 0.5, 1.0)}
    assert (start[0] != joint[0.25][0]).any()
    fit_a_little(model)
    assert int(model.optimizer.iterations) == 2 * steps
    for width in (0.25, 0.5):
        np.testing.assert_array_equal(at_width(model, width, x)[0], joint[width][0])
    assert (at_width(model, 1.0, x)[0] != joint[1.0][0]).any()
