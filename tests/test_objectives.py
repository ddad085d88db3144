import keras
import numpy as np
import pytest
import tensorflow as tf

from awn_keras import FixedWidths, SandwichWidths, UniformWidths
from awn_keras.baselines import SNet, USNet
from awn_keras.objectives import at_step, width_factors
from tests.baselines.networks import conv_net
from tests.conftest import (
    at_width,
    classification,
    inputs_of,
    labelled,
    rich,
    small_conv,
    small_dense,
)
from tests.test_model import LOSS, assert_same_gradients, gradients_of_a_step

WIDTHS = (0.25, 0.5, 1.0)
schedules = keras.optimizers.schedules


def gradients_by_hand(model, x, loss_of):
    """Gradients of a loss of the outputs at `WIDTHS`, each run by itself."""
    with tf.GradientTape() as tape:
        outputs = []
        for width in WIDTHS:
            model.width = width
            outputs.append(model(x, training=True))
        loss = loss_of(outputs)
    model.width = 1.0
    return [np.asarray(g) for g in tape.gradient(loss, model.trainable_weights)]


# -------------------------------------------------------------------- width_power


def test_factors_keep_the_sum_of_what_widths_count():
    for widths, power, counts, factors in (
        ([0.25, 0.75], 1.0, [1, 1], [0.5, 1.5]),
        ([0.25, 1.0], 0.0, [1, 1], [1, 1]),
        ([0.25, 0.5, 1.0], 1.0, [2, 1, 1], [1, 1, 2]),
    ):
        got = width_factors(np.array(widths, "float32"), power, counts)
        np.testing.assert_allclose(got, factors, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("power", [1.0, -0.5])
def test_losses_are_weighted_by_width(reduction, power):
    model = small_dense()
    x, y = labelled(model)
    factors = np.array(WIDTHS) ** power
    factors *= 3 / factors.sum()
    if reduction == "mean":
        factors /= 3

    def weighted(outputs):
        return sum(f * LOSS(y, o) for f, o in zip(factors, outputs, strict=True))

    wanted = gradients_by_hand(model, x, weighted)
    got = gradients_of_a_step(
        *(model, x, y),
        loss=LOSS,
        widths=FixedWidths(WIDTHS),
        width_reduction=reduction,
        width_power=power,
    )
    assert_same_gradients(got, wanted)


def test_weighted_one_pass_gradients_equal_the_loops():
    model = small_conv()
    x, y = labelled(model)
    arguments = {"loss": LOSS, "widths": SandwichWidths(seed=1), "width_power": 2.0}
    one_pass = gradients_of_a_step(model, x, y, **arguments)
    loop = gradients_of_a_step(model, x, y, loop=True, **arguments)
    assert_same_gradients(one_pass, loop)


# ------------------------------------------------------------------- distillation


def distilled(y, share, sample_weight=None):
    """The loss written out: labels for the full width, a mixture for the others."""

    def loss_of(outputs):
        *narrow, teacher = outputs
        answers = tf.stop_gradient(tf.nn.softmax(teacher))
        weights = 1.0 if sample_weight is None else sample_weight
        total = LOSS(y, teacher, sample_weight)
        for student in narrow:
            learned = -tf.reduce_sum(answers * tf.nn.log_softmax(student), axis=-1)
            label = LOSS(y, student, sample_weight)
            total += (1 - share) * label + share * tf.reduce_mean(weights * learned)
        return total / len(outputs)

    return loss_of


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_narrow_widths_learn_from_the_full_one(share, weighted):
    model = small_dense()
    x, y = labelled(model)
    weights = np.random.default_rng(0).uniform(size=len(x)).astype("float32")
    weights = weights if weighted else None
    wanted = gradients_by_hand(model, x, distilled(y, share, weights))
    got = gradients_of_a_step(
        *(model, x, y, weights),
        loss=LOSS,
        widths=FixedWidths(WIDTHS),
        distillation=share,
    )
    assert_same_gradients(got, wanted)
    plain = gradients_of_a_step(
        *(model, x, y, weights), loss=LOSS, widths=FixedWidths(WIDTHS)
    )
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(got, plain, strict=True))


def test_a_schedule_begins_to_distil_late():
    model = small_dense()
    x, y = labelled(model)
    arguments = {"loss": LOSS, "widths": FixedWidths(WIDTHS)}
    step = {
        share: gradients_of_a_step(model, x, y, distillation=share, **arguments)
        for share in (0.0, 1.0)
    }
    for boundary, share in ((0, 0.0), (-1, 1.0)):  # the first step is number 0
        schedule = schedules.PiecewiseConstantDecay([boundary], [0.0, 1.0])
        got = gradients_of_a_step(model, x, y, distillation=schedule, **arguments)
        assert_same_gradients(got, step[share])


def test_at_step():
    assert at_step(0.5, 3) == 0.5
    schedule = schedules.PiecewiseConstantDecay([2], [0.0, 0.75])
    assert [float(at_step(schedule, step)) for step in (2, 3)] == [0.0, 0.75]


def test_us_nets_distil_in_place():
    plain = conv_net()
    model = USNet(plain.input, plain.output)
    x, y = labelled(model)
    wanted = gradients_by_hand(model, x, distilled(y, 1.0))
    arguments = {"loss": LOSS, "widths": FixedWidths(WIDTHS)}
    got = gradients_of_a_step(model, x, y, distillation=1.0, **arguments)
    assert_same_gradients(got, wanted)


# ------------------------------------------------------------------- frozen_up_to


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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
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


def test_objectives_are_saved_with_the_model(tmp_path):
    late = schedules.PiecewiseConstantDecay([2], [0.0, 0.5])
    model = classification(
        small_conv(),
        widths=SandwichWidths(0.25, expected=True),
        width_power=0.5,
        distillation=late,
        frozen_up_to=late,
    )
    model.fit(*labelled(model), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.get_compile_config() == model.get_compile_config()
    assert loaded._width_config["width_power"] == 0.5
    assert loaded._width_config["widths"].expected
    assert float(loaded._width_config["distillation"](3)) == 0.5
    for one in (model, loaded):
        one.fit(*labelled(model), shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"width_power": float("inf")}, ValueError, "`width_power` must be a finite"),
        ({"distillation": 1.5}, ValueError, r"`distillation` must be in \[0, 1\]"),
        ({"distillation": "late"}, TypeError, "`distillation` must be a number"),
        (
            {"distillation": 0.5, "loss": "sparse_categorical_crossentropy"},
            ValueError,
            "needs a model of one output, logits",
        ),
        (
            {"distillation": 0.5, "widths": UniformWidths()},
            ValueError,
            "needs the full width in every step",
        ),
        ({"distillation": 0.5, "loop": True}, ValueError, "cannot distill"),
        (
            {"distillation": 0.5, "loss_weights": [2.0]},
            ValueError,
            "`loss_weights` must be left out",
        ),
        (
            {
                "distillation": 0.5,
                "loss": keras.losses.SparseCategoricalCrossentropy(
                    from_logits=True, reduction="sum"
                ),
            },
            ValueError,
            "default `reduction`",
        ),
        ({"frozen_up_to": 0.1}, ValueError, "`frozen_up_to` must be at least"),
        ({"frozen_up_to": 1.0}, ValueError, "`frozen_up_to` must be below 1"),
        ({"frozen_up_to": True}, TypeError, "`frozen_up_to` must be a number"),
        (
            {"frozen_up_to": 0.5, "optimizer": keras.optimizers.SGD(use_ema=True)},
            ValueError,
            "moving average.*`use_ema=False`",
        ),
    ],
)
def test_bad_objectives_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        classification(small_conv(), **arguments)


def test_several_outputs_cannot_be_distilled():
    with pytest.raises(ValueError, match=r"one output, logits.*2 outputs"):
        rich().compile("sgd", {"scores": "mse", "classes": LOSS}, distillation=0.5)
