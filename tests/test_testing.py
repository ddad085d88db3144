"""Checks of a user's own layers accept right layers and reject wrong layers."""

import keras
import numpy as np
import pytest

from awn_keras import WidthRule, per_sample, register_width_rule
from awn_keras.rules import Labelled
from awn_keras.testing import check_width_rule

pytestmark = pytest.mark.backends

L = keras.layers


def own(rule):
    """Registers a layer class as users do."""

    def register(layer_class):
        layer_class = keras.saving.register_keras_serializable("test_testing")(
            layer_class
        )
        register_width_rule(layer_class, rule)
        return layer_class

    return register


@own(WidthRule(in_axes={"factor": -1}))
class Scale(L.Layer):
    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=(shape[-1],))

    def call(self, x):
        return x * self.factor


@own(WidthRule(in_axes={"variable": -1}))
class Unnamed(L.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],))

    def call(self, x):
        return x * self.factor


@own(WidthRule(in_axes={"positions": -1}))
class Positions(L.Layer):
    """Learned positions, as in a Transformer."""

    def build(self, shape):
        self.positions = self.add_weight(name="positions", shape=shape[1:])

    def call(self, x):
        return x + self.positions


@own(WidthRule(lambda call: Labelled(np.repeat(call.labels(), 2))))
class Twice(L.Layer):
    def call(self, x):
        return keras.ops.repeat(x, 2, axis=-1)


@own(WidthRule(per_sample))
class Sorted(L.Layer):
    def call(self, x):
        return keras.ops.sort(x)


@own(None)
class Centered(L.Layer):
    """Wrong: reads all channels."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=-1, keepdims=True)


@own(WidthRule(in_axes={"factor": -1}))
class Reversed(L.Layer):
    """Wrong: the weights of wide channels scale narrow ones."""

    def build(self, shape):
        self.factor = self.add_weight(
            name="factor", shape=(shape[-1],), initializer="random_normal"
        )

    def call(self, x):
        return x * keras.ops.flip(self.factor)


@own(None)
class OfTheBatch(L.Layer):
    """Wrong: reads other samples."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


@own(None)
class Forgetful(L.Layer):
    """Wrong: a saved layer has another factor."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        # The first copy is still right.
        config = {**super().get_config(), "factor": self.factor}
        self.factor = 1.0
        return config


@own(None)
class Stopped(L.Layer):
    """Wrong: its gradients in training depend on the number of channels."""

    def call(self, x, training=False):
        return x / x.shape[-1] if training else x


@own(
    WidthRule(
        in_axes={"factor": -1}, macs=lambda layer, size: np.array(layer.factor.shape[0])
    )
)
class Miscounted(Scale):
    """Wrong: its MACs are those of the full width at every width."""


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Scale(), (4, 12)),
        (Unnamed(), (4, 12)),
        (Positions(), (4, 12)),
        (Twice(), (4, 4, 6)),
        (L.BatchNormalization(), (4, 12)),
        (L.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 6)),
        (L.Dense(12), (8,)),
        (L.RMSNormalization(), (4, 12)),
        (L.Dropout(0.5), (12,)),
        (L.Add(), [(4, 12), (4, 12)]),
        (L.Concatenate(), [(4, 12), (4, 6)]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_right_layers_pass(layer, shape):
    check_width_rule(layer, shape)
    assert not layer.weights  # it is a copy that was built


def test_a_layer_after_the_readout_passes():
    check_width_rule(Sorted(), (4, 6), place="tail")
    with pytest.raises(ValueError, match="Put the layer after the readout"):
        check_width_rule(Sorted(), (4, 6))


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (Centered(), r"Centered\): at width 0.25 the slim layer computes other values"),
        (Reversed(), r"Reversed\): at width 0.25 the slim layer computes other values"),
        (OfTheBatch(), r"OfTheBatch\): for single samples, it computes"),
        (Forgetful(2.0), r"Forgetful\): after saving and loading, it computes"),
        (Miscounted(), r"Miscounted\): at width 0.25 the rule counts .* MACs, but"),
        (Stopped(), r"Stopped\): at width 0.25 a step changes '.*' by other values"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_wrong_layers_are_named(layer, match):
    with pytest.raises(AssertionError, match=match):
        check_width_rule(layer, (4, 12))


@pytest.mark.parametrize(
    ("layer", "shape", "arguments", "match"),
    [
        (L.ReLU(), (4, 0), {}, r"`input_shape` must have.*\(4, 0\)"),
        (L.ReLU(), (), {}, r"`input_shape` must have.*\(\)"),
        (L.ReLU(), (None, 4), {}, r"`input_shape` must have.*None"),
        (L.ReLU(), (4,), {"place": "stem"}, "`place` must be one of.*'stem'"),
        (L.ReLU, (4,), {}, "`layer` must be a Keras layer"),
    ],
)
def test_bad_arguments_are_refused(layer, shape, arguments, match):
    with pytest.raises((TypeError, ValueError), match=match):
        check_width_rule(layer, shape, **arguments)


def test_a_built_layer_is_refused():
    layer = L.Dense(4)
    layer.build((None, 3))
    with pytest.raises(ValueError, match="must not be built"):
        check_width_rule(layer, (3,))
