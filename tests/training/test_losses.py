import keras
import numpy as np
import pytest

from awn_keras import FixedWidths, SandwichWidths
from awn_keras.baselines import USNet
from awn_keras.training import backends
from awn_keras.training.losses import is_stock_loss
from awn_keras.training.samplers import width_factors
from tests.baselines.networks import conv_net
from tests.conftest import eagerly, labelled, small_conv, small_dense
from tests.test_model import (
    LOSS,
    assert_same_gradients,
    clone,
    gradients_of_a_step,
)

pytestmark = eagerly

WIDTHS = (0.25, 0.5, 1.0)
schedules = keras.optimizers.schedules


def gradients_by_hand(model, x, loss_of):
    """Gradients of a loss of the outputs at `WIDTHS`, each run by itself."""
    model = clone(model)
    model.compile("sgd", LOSS)
    model.optimizer.build(model.trainable_variables)
    x = keras.ops.convert_to_tensor(x)
    gradients, _ = backends.differentiate(
        model,
        lambda: (loss_of([model.at(w)(x, training=True) for w in WIDTHS]), None),
    )
    return [keras.ops.convert_to_numpy(gradient) for gradient in gradients]


# -------------------------------------------------------------------- width_power


def test_factors_keep_the_sum_of_what_widths_count():
    for widths, power, counts, factors in (
        ([0.25, 0.75], 1.0, [1, 1], [0.5, 1.5]),
        ([0.25, 1.0], 0.0, [1, 1], [1, 1]),
        ([0.25, 0.5, 1.0], 1.0, [2, 1, 1], [1, 1, 2]),
    ):
        got = width_factors(np.array(widths, "float32"), power, counts)
        np.testing.assert_allclose(got, factors, rtol=1e-6)


@pytest.mark.backends
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
        model,
        x,
        y,
        loss=LOSS,
        widths=FixedWidths(WIDTHS),
        width_reduction=reduction,
        width_power=power,
    )
    assert_same_gradients(got, wanted)


@pytest.mark.backends
def test_weighted_one_pass_gradients_equal_the_loops():
    model = small_conv()
    x, y = labelled(model)
    arguments = {"loss": LOSS, "widths": SandwichWidths(seed=1), "width_power": 2.0}
    one_pass = gradients_of_a_step(model, x, y, **arguments)
    loop = gradients_of_a_step(model, x, y, loop=True, **arguments)
    assert_same_gradients(one_pass, loop)


# ------------------------------------------------------------ stock losses together

STOCK = [
    keras.losses.BinaryCrossentropy(from_logits=True),
    keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    keras.losses.Huber(0.3),
    keras.losses.MeanAbsoluteError(reduction="mean_with_sample_weight"),
    keras.losses.MeanSquaredError(reduction="sum"),
]


@pytest.mark.backends
@pytest.mark.parametrize("loss", STOCK, ids=lambda x: x.name)
def test_a_stock_loss_is_the_same_for_all_widths_at_once(loss):
    model = small_dense()
    x, y = labelled(model)
    y = keras.utils.to_categorical(y, 3)
    weights = np.random.default_rng(0).uniform(size=len(x)).astype("float32")
    arguments = {"loss": loss, "widths": FixedWidths(WIDTHS)}
    together = gradients_of_a_step(model, x, y, weights, **arguments)
    assert is_stock_loss(loss)
    loop = gradients_of_a_step(model, x, y, weights, loop=True, **arguments)
    assert_same_gradients(together, loop)


@pytest.mark.backends
def test_a_loss_of_the_users_own_is_called_for_each_width():
    calls = []

    def loss(y_true, y_pred):
        calls.append(y_pred.shape)
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    model = small_dense()
    x, y = labelled(model)
    model.compile(
        "sgd", loss, widths=FixedWidths(WIDTHS), report_widths=[], curve_widths=[]
    )
    model.train_on_batch(x, keras.utils.to_categorical(y, 3))
    assert not is_stock_loss(loss)
    assert set(calls) == {(40, 3)}
    assert len(calls) >= len(WIDTHS)


# ------------------------------------------------------------------- distillation


def distilled(y, share, sample_weight=None):
    """The loss written out: labels for the full width, a mixture for the others."""

    def loss_of(outputs):
        *narrow, teacher = outputs
        answers = keras.ops.stop_gradient(keras.ops.softmax(teacher))
        weights = 1.0 if sample_weight is None else sample_weight
        total = LOSS(y, teacher, sample_weight)
        for student in narrow:
            learned = -keras.ops.sum(answers * keras.ops.log_softmax(student), axis=-1)
            label = LOSS(y, student, sample_weight)
            total += (1 - share) * label + share * keras.ops.mean(
                keras.ops.multiply(weights, learned)
            )
        return total / len(outputs)

    return loss_of


@pytest.mark.backends
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_narrow_widths_learn_from_the_full_one(share, weighted):
    model = small_dense()
    x, y = labelled(model)
    weights = np.random.default_rng(0).uniform(size=len(x)).astype("float32")
    weights = weights if weighted else None
    wanted = gradients_by_hand(model, x, distilled(y, share, weights))
    got = gradients_of_a_step(
        model,
        x,
        y,
        weights,
        loss=LOSS,
        widths=FixedWidths(WIDTHS),
        distillation=share,
    )
    assert_same_gradients(got, wanted)
    plain = gradients_of_a_step(
        model, x, y, weights, loss=LOSS, widths=FixedWidths(WIDTHS)
    )
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(got, plain, strict=True))


@pytest.mark.backends
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


def test_us_nets_distil_in_place():
    plain = conv_net()
    model = USNet(plain.input, plain.output)
    x, y = labelled(model)
    wanted = gradients_by_hand(model, x, distilled(y, 1.0))
    arguments = {"loss": LOSS, "widths": FixedWidths(WIDTHS)}
    got = gradients_of_a_step(model, x, y, distillation=1.0, **arguments)
    assert_same_gradients(got, wanted)


# ------------------------------------------------------------------------ teacher


@pytest.mark.backends
def test_all_widths_learn_from_a_teacher():
    model, teacher = small_dense(), small_dense()
    x, y = labelled(model)
    share = 0.4

    def loss_of(outputs):
        answers = keras.ops.softmax(teacher(x, training=False))
        soft = keras.losses.CategoricalCrossentropy(from_logits=True)
        losses = [
            (1 - share) * LOSS(y, each) + share * soft(answers, each)
            for each in outputs
        ]
        return sum(losses) / len(losses)

    expected = gradients_by_hand(model, x, loss_of)
    got = gradients_of_a_step(
        model,
        x,
        y,
        loss=LOSS,
        widths=FixedWidths(WIDTHS),
        distillation=share,
        teacher=teacher,
    )
    assert_same_gradients(got, expected)


@pytest.mark.backends
def test_a_teacher_stays_as_it_is_and_needs_no_full_width():
    model, teacher = small_conv(), small_conv()
    before = teacher.get_weights()
    x, y = labelled(model)
    model.compile(
        "sgd", LOSS, widths=FixedWidths([0.25]), distillation=0.5, teacher=teacher
    )
    model.fit(x, y, verbose=0)
    for ours, theirs in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_says_that_it_has_no_teacher(tmp_path):
    model, teacher = small_dense(), small_dense()
    teacher.name = "wise"
    model.compile("sgd", LOSS, distillation=0.5, teacher=teacher)
    x, y = labelled(model)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "taught.keras")
    with pytest.warns(UserWarning, match="with the teacher 'wise', which its file"):
        loaded = keras.saving.load_model(tmp_path / "taught.keras")
    assert loaded.plan.teacher is None
    assert loaded.plan.distillation == 0
    loaded.fit(x, y, verbose=0)


def test_a_teacher_must_fit():
    model = small_dense()
    with pytest.raises(
        ValueError, match=r"`distillation` must be above 0 with a `teacher`"
    ):
        model.compile("sgd", LOSS, teacher=small_dense())
    with pytest.raises(TypeError, match=r"`teacher` must be a Keras model"):
        model.compile("sgd", LOSS, distillation=0.5, teacher="small_dense")
    with pytest.raises(ValueError, match=r"`teacher` must have the inputs and outputs"):
        model.compile("sgd", LOSS, distillation=0.5, teacher=small_conv())
