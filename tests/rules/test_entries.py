"""A user's own layers and functions whose code shows how they treat channels."""

import keras
import numpy as np
import pytest

from awn_keras import ConversionError, to_any_width
from awn_keras.rules import rule_of
from awn_keras.rules.entries import acts_on_entries
from awn_keras.testing import check_width_rule
from tests.conftest import assert_slims, eagerly

pytestmark = pytest.mark.backends

L, ops = keras.layers, keras.ops


@keras.saving.register_keras_serializable(package="tests.entries")
class Own(L.Layer):
    """A layer of a user's own, of one weight."""

    shape_of = staticmethod(lambda shape: shape[-1:])

    def build(self, shape):
        self.factor = self.add_weight(
            name="factor", shape=self.shape_of(shape), initializer="random_normal"
        )

    def call(self, x):
        return x * self.factor


@keras.saving.register_keras_serializable(package="tests.entries")
class Positions(Own):
    shape_of = staticmethod(lambda shape: shape[1:])

    def call(self, x):
        return x + ops.cast(self.factor, x.dtype)


@keras.saving.register_keras_serializable(package="tests.entries")
class Shared(Own):
    """One factor for all channels, and activations."""

    shape_of = staticmethod(lambda shape: ())

    def call(self, x):
        return ops.relu(self.factor * x) ** 2 + 0.5


@keras.saving.register_keras_serializable(package="tests.entries")
class Reshaped(Own):
    def call(self, x):
        return ops.reshape(self.factor, (1, 1, 1, -1)) * x + self.factor[None, None]


@keras.saving.register_keras_serializable(package="tests.entries")
class Sized(Own):
    """It is told the number of channels, and another number that is the same."""

    def __init__(self, rows, dim, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.dim = rows, dim

    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=(self.rows, 1, self.dim))

    def get_config(self):
        return {**super().get_config(), "rows": self.rows, "dim": self.dim}


@keras.saving.register_keras_serializable(package="tests.entries")
class Dropped(L.Layer):
    """Drops whole samples in training; it has no weights."""

    def __init__(self, rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x, training=False):
        if not training:
            return x
        shape = (ops.shape(x)[0], *[1] * (len(x.shape) - 1))
        return x * ops.floor(self.rate + keras.random.uniform(shape, seed=self.seed))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


ACCEPTED = {
    "one factor a channel": (Own, {"factor": -1}, None),
    "positions": (Positions, {"factor": -1}, None),
    "shared": (Shared, {}, None),
    "reshaped": (Reshaped, {"factor": -1}, None),
    "sized": (lambda: Sized(8, 8), {"factor": -1}, "dim"),
    "dropped": (Dropped, {}, None),
}


def built(layer, shape=(8, 4, 8)):
    layer(keras.Input(shape))
    return layer


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_code_of_a_layer_says_its_rule(name):
    make, in_axes, argument = ACCEPTED[name]
    layer = built(make())
    before = [ops.convert_to_numpy(weight) for weight in layer.weights]
    rule = rule_of(layer)
    assert dict(rule.in_axes) == in_axes
    assert rule.channels == argument
    assert rule_of(layer) == rule  # of a layer that was read before
    for value, weight in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(value, ops.convert_to_numpy(weight))


@eagerly
@pytest.mark.parametrize("name", [name for name in ACCEPTED if name != "dropped"])
def test_a_layer_whose_code_is_read_is_exact(name):
    # Dropping draws anew in each pass that is compared.
    check_width_rule(ACCEPTED[name][0](), (8, 4, 8))


def test_numbers_for_samples_are_drawn_anew():
    layer = built(Dropped())
    state = ops.convert_to_numpy(layer.seed.state)
    assert rule_of(layer) is not None
    np.testing.assert_array_equal(state, ops.convert_to_numpy(layer.seed.state))


def test_a_network_of_layers_without_rules_is_slimmed_exactly():
    inputs = keras.Input((6, 6, 3))
    x = Positions()(L.Conv2D(8, 3, padding="same")(inputs))
    x = Own()(L.Conv2D(16, 3, activation=quick_gelu)(Dropped()(Shared()(x))))
    outputs = L.Dense(3)(L.GlobalAveragePooling2D()(x))
    assert_slims(to_any_width(keras.Model(inputs, outputs), divisor=1))


# ----------------------------------------------------------------------- what is not


class Mean(Own):
    def call(self, x):
        return x - ops.mean(x, axis=-1, keepdims=True)


class Mixed(Own):
    """The same number of rows and channels, and the wrong ones have factors."""

    def call(self, x):
        return x * ops.reshape(self.factor, (-1, 1, 1))


class Turned(Own):
    def call(self, x):
        return x * ops.flip(self.factor)


class OfSamples(L.Layer):
    """Numbers for each sample outside training."""

    def call(self, x):
        return x * ops.arange(1.0, 3.0)[:, None, None, None]

    def compute_output_shape(self, shape):
        return shape


class Array(Own):
    """An array of numbers for the channels, which are no weights."""

    def call(self, x):
        return x * ops.arange(8.0)


class InTraining(Own):
    def call(self, x, training=False):
        return ops.cumsum(x, axis=-1) if training else x


class Hidden(Own):
    """Its code does something else to numbers."""

    def call(self, x):
        return x if isinstance(x, keras.KerasTensor) else -x


class Lossy(Own):
    def call(self, x):
        self.add_loss(ops.mean(x))
        return x


class Stale(Own):
    """Its config cannot make it of another size."""

    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=(8,))


class OfTwo(Own):
    def call(self, x, y=None):
        return x if y is None else x + y


@pytest.mark.parametrize(
    "layer_class",
    [Mean, Mixed, Turned, OfSamples, Array, InTraining, Hidden, Lossy, Stale, OfTwo],
)
def test_what_does_more_has_no_rule(layer_class):
    layer = built(layer_class())
    losses = len(layer.losses)
    assert rule_of(layer) is None
    assert len(layer.losses) == losses
    inputs = keras.Input((8, 4, 3))
    x = L.Conv2D(8, 1)(layer(L.Conv2D(8, 1)(inputs)))
    plain = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    with pytest.raises(ConversionError, match="No width rule for layer"):
        to_any_width(plain)


def quick_gelu(x):
    return x * ops.sigmoid(1.702 * x)


def test_functions_that_act_on_each_entry():
    assert acts_on_entries(quick_gelu)
    assert acts_on_entries(lambda x: ops.gelu(x, approximate=True))
    assert not acts_on_entries(ops.softmax)
    assert not acts_on_entries(lambda x: x - ops.max(x))
    assert not acts_on_entries(lambda x: x * np.arange(4.0))
    assert not acts_on_entries(lambda x: ops.clip(x, 0.0, np.arange(4.0)))
    assert not acts_on_entries(lambda x: np.tanh(x))
    assert not acts_on_entries(Hidden().call)
