import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    count_macs,
    count_parameters,
    lenet_3c1l,
    mobilenet_v2,
    slim,
    to_any_width,
)
from awn_keras.counting import executed_at_full_width
from awn_keras.deploy.benchmark.costs import costs_of
from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut
from awn_keras.layouts import candidates, choose_cuts, default_widths
from tests.conftest import at_width, eagerly, inputs_of

pytestmark = [pytest.mark.slow, eagerly]

L = keras.layers


def wide_and_narrow_end():
    """First few channels on many pixels, where cuts are slow. Then the opposite."""
    x = inputs = keras.Input((32, 32, 3), name="image")
    x = L.Conv2D(16, 3, padding="same", name="stem")(x)
    x = L.ReLU()(L.Conv2D(16, 3, padding="same", name="early")(x))
    x = L.MaxPooling2D(4)(x)
    x = L.Conv2D(256, 1, name="late1")(x)
    shortcut = x = L.ReLU()(L.Conv2D(256, 3, padding="same", name="late2")(x))
    x = L.ReLU()(L.Conv2D(256, 3, padding="same", name="late3")(x))
    x = L.GlobalAveragePooling2D()(L.Add()([x, shortcut]))
    return keras.Model(inputs, L.Dense(5, name="readout")(x))


def test_a_balanced_network_computes_and_stores_as_much_as_the_plain_one():
    plain = wide_and_narrow_end()
    model = to_any_width(plain, width_multiplier="balanced")
    macs, weights = executed_at_full_width(model)
    product = macs / count_macs(plain) * (weights / count_parameters(plain))
    # Numbers of channels are multiples of 8.
    assert product == pytest.approx(1, rel=0.1)
    filters = {
        layer.name: (layer.filters, plain.get_layer(layer.name).filters)
        for layer in model.layers
        if hasattr(layer, "filters")
    }
    for name in ("stem", "early"):
        assert filters[name][0] == filters[name][1]
    # Layers whose outputs are added have equal numbers of channels.
    assert filters["late2"] == filters["late3"]
    assert filters["late3"][0] > 256
    x = inputs_of(model, 2)
    for width in (0.25, 1.0):
        # Sums in another order.
        np.testing.assert_allclose(
            slim(model, width)(x), at_width(model, width, x)[0], rtol=1e-4, atol=1e-5
        )


def test_what_is_counted_at_full_width_is_what_the_file_has():
    model = to_any_width(wide_and_narrow_end(), width_multiplier=1.5)
    cuts = choose_cuts(model, default_widths(model))
    content = convert({"w": cut(slim(model, 1.0), cuts)})
    costs = costs_of(content)["w"]
    macs, weights = executed_at_full_width(model)
    assert macs == costs.macs
    # The converter adds constants of its own, such as shapes.
    assert weights == pytest.approx(costs.parameters, rel=0.01)


def test_a_network_that_is_never_cut_keeps_its_size():
    plain = lenet_3c1l((16, 16, 1), filters=4, width_multiplier=1.0, triangular=False)
    model = to_any_width(plain, width_multiplier="balanced", divisor=1)
    assert not {name for name, x in candidates(model).items() if not x.readout} & set(
        choose_cuts(model, default_widths(model))
    )
    assert model.count_params() == plain.count_params()


def test_the_networks_of_the_paper_are_balanced_too():
    model = mobilenet_v2((32, 32, 3), width_multiplier="balanced", classes=3)
    assert isinstance(model, AnyWidthModel)
    assert (model.name, model.min_width) == ("mobilenet_v2", 0.35)
    plain = mobilenet_v2((32, 32, 3), 3, width_multiplier=1.0, triangular=False)
    macs, weights = executed_at_full_width(model)
    product = macs / count_macs(plain) * (weights / count_parameters(plain))
    assert product == pytest.approx(1, rel=0.1)
    lenet = lenet_3c1l(width_multiplier={"conv3": 2.0})
    assert [lenet.get_layer(f"conv{i}").filters for i in (1, 2, 3)] == [32, 32, 64]
    with pytest.raises(ValueError, match="must be a number with `triangular=False`"):
        lenet_3c1l(width_multiplier="balanced", triangular=False)
