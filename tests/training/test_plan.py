import keras
import numpy as np
import pytest

from awn_keras import SandwichWidths, UniformWidths
from tests.conftest import classification, eagerly, labelled, rich, small_conv
from tests.test_model import LOSS

pytestmark = eagerly

schedules = keras.optimizers.schedules


def test_a_plan_is_saved_with_the_model(tmp_path):
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
    assert loaded.plan.width_power == 0.5
    assert loaded.plan.widths.expected
    assert float(loaded.plan.distillation(3)) == 0.5
    for each in (model, loaded):
        each.fit(*labelled(model), shuffle=False, verbose=0)
    for weight, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"width_power": float("inf")}, ValueError, "`width_power` must be a finite"),
        ({"width_power": "x"}, TypeError, "`width_power` must be a number"),
        ({"width_power": None}, TypeError, "`width_power` must be a number"),
        ({"distillation": 1.5}, ValueError, r"`distillation` must be in \[0, 1\]"),
        ({"distillation": "late"}, TypeError, "`distillation` must be a number"),
        (
            {"distillation": 0.5, "loss": "sparse_categorical_crossentropy"},
            ValueError,
            "needs a model with one output, which gives logits",
        ),
        (
            {"distillation": 0.5, "widths": UniformWidths()},
            ValueError,
            "needs the full width in every step",
        ),
        (
            {"distillation": 0.5, "loss_weights": [2.0]},
            ValueError,
            "no `loss_weights`",
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
            "moving averages.*`use_ema=False`",
        ),
    ],
)
def test_bad_plans_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        classification(small_conv(), **arguments)


def test_several_outputs_cannot_be_distilled():
    with pytest.raises(ValueError, match=r"one output, which gives logits.*2 outputs"):
        rich().compile("sgd", {"scores": "mse", "classes": LOSS}, distillation=0.5)
