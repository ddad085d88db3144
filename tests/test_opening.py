import re

import keras
import numpy as np
import pytest

from awn_keras import (
    ConversionError,
    TriConv2D,
    UnitSpectralNorm,
    slim,
    to_any_width,
)
from awn_keras.opening import is_block, opened
from tests.conftest import assert_slims, inputs_of

pytestmark = pytest.mark.backends

L, ops = keras.layers, keras.ops


class ConvBlock(L.Layer):
    """A block that its config cannot rebuild, as is common in users' code."""

    def __init__(self, filters, residual=False):
        super().__init__()
        self.conv = L.Conv2D(filters, 3, padding="same", name="conv")
        self.norm = L.BatchNormalization(name="norm")
        self.residual = residual

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], self.conv.filters))

    def call(self, x, training=False):
        y = ops.relu(self.norm(self.conv(x), training=training))
        return x + y if self.residual else y


class Twice(L.Layer):
    """A block that consists of blocks."""

    def __init__(self, filters):
        super().__init__()
        self.blocks = [ConvBlock(filters), ConvBlock(filters, residual=True)]

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Backbone(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__()
        self.stem = ConvBlock(8)
        self.body = Twice(8)

    def call(self, x):
        return self.body(self.stem(x))


class OwnWeight(ConvBlock):
    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(name="scale", shape=(1,))

    def call(self, x):
        return self.scale * self.conv(x)


class OwnKernel(L.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 8))

    def call(self, x):
        return ops.matmul(x, self.kernel)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 8)


class Numbers(ConvBlock):
    """A block whose `call` fails on symbolic tensors."""

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("numbers, please")
        return self.conv(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.conv.filters)

    def compute_output_spec(self, x):
        return keras.KerasTensor(self.compute_output_shape(x.shape))


class Liar(Numbers):
    """A block whose `call` treats arrays differently from symbolic tensors."""

    def call(self, x):
        y = self.conv(x)
        return y if isinstance(x, keras.KerasTensor) else -y


def network(block):
    inputs = keras.Input((6, 6, 1))
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = L.GlobalAveragePooling2D()(block(x))
    return keras.Model(inputs, L.Dense(2, name="scores")(x))


def assert_converts(plain, tri):
    """Checks that conversion makes `tri` Tri layers, and that `slim` is exact."""
    model = to_any_width(plain, divisor=1)
    assert sum(isinstance(layer, TriConv2D) for layer in model.layers) == tri
    assert_slims(model)
    return model


def test_a_block_is_opened():
    plain = network(ConvBlock(8))
    weights = [ops.convert_to_numpy(w) for w in plain.weights]
    model = assert_converts(plain, 1)
    assert model.get_layer("conv").filters == 8
    # Conversion does not change the given model.
    for before, after in zip(weights, plain.weights, strict=True):
        np.testing.assert_array_equal(before, ops.convert_to_numpy(after))
    assert {layer.name for layer in plain.layers} >= {"stem", "scores"}


def test_blocks_within_blocks_are_opened():
    model = assert_converts(network(Twice(8)), 2)
    names = [layer.name for layer in model.layers if isinstance(layer, TriConv2D)]
    assert len(set(names)) == 2


def test_a_subclassed_model_within_a_model_is_opened():
    assert_converts(network(Backbone()), 3)


class Classifier(keras.Model):
    """A subclassed model that is a network of its own."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.pooling = L.GlobalAveragePooling2D()
        self.scores = L.Dense(2, name="scores")

    def call(self, x, training=False):
        if isinstance(x, dict):
            x = x["image"] + x["offset"]
        return self.scores(self.pooling(self.backbone(x)))


class OfTwo(Classifier):
    def call(self, x, y):
        return super().call(x + y)


IMAGES = np.random.default_rng(0).normal(size=(3, 6, 6, 1)).astype("float32")


@pytest.mark.parametrize(
    "inputs", [IMAGES, {"image": IMAGES, "offset": 0.5 * IMAGES}], ids=["one", "named"]
)
def test_a_subclassed_model_is_opened(inputs):
    plain = Classifier()
    plain(inputs)
    assert_converts(plain, 2)  # the first is the stem
    plain.scores.bias.assign([1.0, 2.0])  # trained, so that weights are kept
    wanted = ops.convert_to_numpy(plain(inputs))
    model = to_any_width(plain, min_width=1.0)
    # The same sums in another order.
    np.testing.assert_allclose(ops.convert_to_numpy(model(inputs)), wanted, rtol=1e-5)
    # What a message says to do, and what to do for other dtypes than float32.
    for call in (plain.call, plain):
        given = keras.Input((6, 6, 1))
        if isinstance(inputs, dict):
            given = {name: keras.Input((6, 6, 1), name=name) for name in inputs}
        assert_converts(keras.Model(given, call(given)), 2)


def test_a_subclassed_model_of_unknown_inputs_is_refused():
    of_two = OfTwo()
    of_two(IMAGES, IMAGES)
    for plain in (Classifier(), of_two):
        with pytest.raises(
            TypeError, match=r"Make a functional model of .*model\.call\(inputs\)"
        ):
            to_any_width(plain)


def test_a_block_that_is_shared_stays_shared():
    block = ConvBlock(8)
    model = assert_converts(network(lambda x: block(block(x))), 1)
    assert model.get_layer("conv").filters == 8


def test_normalization_in_a_block_still_trains():
    model = to_any_width(network(ConvBlock(8)), divisor=1)
    norm = model.get_layer("norm")
    before = ops.convert_to_numpy(norm.moving_mean)
    x = inputs_of(model, 8)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, np.zeros(8), verbose=0)
    assert not np.array_equal(before, ops.convert_to_numpy(norm.moving_mean))


def test_a_graph_computes_what_the_block_does():
    block = Twice(4)
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype("float32")
    expected = ops.convert_to_numpy(block(x))
    graph = opened(block, (keras.Input((5, 5, 4)),), {})
    # The same operations.
    np.testing.assert_allclose(ops.convert_to_numpy(graph([x])), expected, atol=1e-6)
    assert {part.name for part in block.blocks[0]._flatten_layers()} >= {"conv", "norm"}


def test_what_is_a_block():
    assert is_block(ConvBlock(3))
    assert not is_block(L.MultiHeadAttention(2, 2))
    assert not is_block(keras.Sequential([L.Dense(3)]))
    assert not is_block(L.Dense(3))


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (OwnWeight(8), r"'own_weight.*weights of its own: .*scale"),
        (Numbers(8), r"fails on symbolic tensors \(.*numbers, please"),
        (Liar(8), "does not compute the same on symbolic tensors as on numbers"),
    ],
)
def test_why_a_block_stays_closed_is_said(block, match):
    with pytest.raises(ConversionError, match=match):
        to_any_width(network(block))


def test_a_function_of_operations_is_opened():
    model = assert_converts(
        network(lambda x: L.Conv2D(8, 3)(L.Lambda(lambda y: ops.tanh(y) ** 2)(x))), 1
    )
    assert not any(isinstance(layer, L.Lambda) for layer in model.layers)


# ------------------------------------------------------------------ the size of a batch


class Flattened(ConvBlock):
    """A block that reads the number of samples, and computes sizes from it."""

    def call(self, x):
        batch, channels = ops.shape(x)[0], ops.shape(x)[-1]
        y = ops.reshape(self.conv(x), (batch, -1, channels))
        if isinstance(x, keras.KerasTensor):
            assert y.shape[1] == x.shape[1] * x.shape[2]
        return ops.reshape(ops.relu(y), (batch, *x.shape[1:]))


class Windows(ConvBlock):
    """A block that turns windows of an image into samples."""

    def call(self, x):
        batch, rows, *others = ops.shape(x)
        return self.conv(ops.reshape(x, (batch * rows // 2, 2, *others)))


class Moved(ConvBlock):
    def call(self, x):
        return ops.reshape(self.conv(x), (x.shape[1], ops.shape(x)[0], *x.shape[2:]))


class Token(ConvBlock):
    """A block that puts equal numbers before each sample, like a class token."""

    def call(self, x):
        token = ops.tile(ops.ones((1, 1, *x.shape[2:])), (ops.shape(x)[0], 1, 1, 1))
        return self.conv(ops.concatenate([token, x], axis=1))


class Positions(ConvBlock):
    """An embedding of constant positions."""

    def __init__(self):
        super().__init__(8)
        self.positions = L.Embedding(6, 8)

    def build(self, shape):
        super().build(shape)
        self.positions.build((6,))

    def call(self, x):
        return self.conv(x + self.positions(ops.arange(6)))


def test_a_block_that_asks_for_the_size_of_a_batch_is_opened():
    assert_converts(network(Flattened(8)), 1)


@pytest.mark.parametrize(
    ("block", "match"),
    [
        # Conversion cannot know that this block does not mix samples.
        (Windows(8), r"'windows.*must keep the channels|samples"),
        (Moved(8), r"'moved.*samples of a batch to another axis.*\(6, None, 6, 8\)"),
        (Token(8), r"'token.*needs the number of samples in a batch.*`Concatenate`"),
        (
            Positions(),
            r"'positions.*would become constants: .*embeddings'",
        ),
    ],
    ids=["windows", "moved", "token", "positions"],
)
def test_what_cannot_be_opened_for_any_batch_is_said(block, match):
    weights = [ops.convert_to_numpy(w) for w in block.weights]
    with pytest.raises(ConversionError, match=match):
        to_any_width(network(block))
    for before, after in zip(weights, block.weights, strict=False):
        np.testing.assert_array_equal(before, ops.convert_to_numpy(after))


class OfAnySize(ConvBlock):
    """A block whose inner model was built for larger images than its input."""

    def build(self, shape):
        self.branch = keras.Sequential([L.Conv2D(8, 1, name="branch"), L.ReLU()])
        self.branch.build((None, shape[1] + 2, shape[2] + 2, shape[3]))
        super().build(shape)

    def call(self, x):
        return self.conv(x) + self.branch(x)


def test_a_sequence_in_a_block_takes_any_rows_and_cols():
    block = OfAnySize(8)
    plain = network(block)
    spec = block.branch._functional.input_spec
    assert_converts(plain, 2)
    assert repr(block.branch._functional.input_spec) == repr(spec)


# -------------------------------------------------------------- what configs do not say


def quick_gelu(x):
    """A function that is not registered with Keras."""
    return x * ops.sigmoid(1.702 * x)


class Activated(ConvBlock):
    def __init__(self, filters):
        super().__init__(filters)
        policy = keras.dtype_policies.get("float32")
        self.identity = L.Identity(dtype=policy)  # has no config
        self.activations = [
            L.Activation(quick_gelu),
            L.Activation(lambda x: ops.gelu(x, approximate=True)),
        ]

    def call(self, x):
        x = self.conv(self.identity(x))
        for activation in self.activations:
            x = activation(x)
        return x


def test_functions_and_policies_of_parts_need_no_config():
    assert_converts(network(Activated(8)), 1)


class NoConfig(L.Layer):
    def __init__(self, values):
        super().__init__(name="no_config")
        self.values = values

    def call(self, x):
        return x


class OtherCode(Numbers):
    """A block whose copy has another size."""

    def __init__(self, filters=4, **kwargs):
        super().__init__(filters)

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("numbers, please")
        return x + self.conv(x)

    def compute_output_spec(self, x):
        if self.conv.filters != x.shape[-1]:
            raise ValueError("sizes do not fit")
        return super().compute_output_spec(x)


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (
            lambda x: keras.Sequential([NoConfig(np.ones(3)), L.ReLU()])(x),
            r"'no_config' \(NoConfig\): cannot be made again.*get_config",
        ),
        (OtherCode(8), r"'other_code.*fails on symbolic tensors \(numbers, please"),
    ],
)
def test_a_layer_of_which_there_can_be_no_copy_is_named(block, match):
    with pytest.raises(ConversionError, match=match):
        to_any_width(network(block))


def doubled(x):
    """A function of numbers."""
    if isinstance(x, keras.KerasTensor):
        raise TypeError("numbers, please")
    return 2 * x


def test_a_closed_function_stays_on_the_inputs():
    inputs = keras.Input((6, 6, 1))
    x = L.Lambda(doubled, output_shape=(6, 6, 1), name="doubled")(inputs)
    x = L.Conv2D(8, 3)(L.Conv2D(8, 3)(x))
    plain = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    nested = keras.Model(plain.input, plain(plain.input))  # copied twice, so
    assert assert_converts(nested, 1).get_layer("doubled").function is doubled
    with pytest.raises(ConversionError, match=r"'f' \(Lambda\).*numbers, please"):
        to_any_width(network(L.Lambda(doubled, output_shape=(6, 6, 8), name="f")))


def pages(x):
    """A function whose error has many lines, like errors of TensorFlow."""
    raise ValueError("numbers, please.\n\n```\n" + 50 * "x = Input(...)\n" + "```")


def test_the_reason_of_a_closed_function_is_short_and_the_way_out_is_said():
    closed = L.Lambda(pages, output_shape=(6, 6, 8), name="f")
    with pytest.raises(ConversionError) as error:
        to_any_width(network(closed))
    (finding,) = error.value.findings
    assert "\n" not in finding
    assert len(finding) < 400
    assert finding.endswith(
        "Write its code with `keras.ops`, or as a layer class of your own with a width "
        "rule (`register_width_rule`)."
    )


def centered(x):
    return x - ops.mean(x, axis=-1, keepdims=True)


class Centering(L.Layer):
    """A layer of several layers, one of which cannot be converted."""

    def __init__(self):
        super().__init__(name="centering")
        self.norm = L.UnitNormalization(name="unit")

    def call(self, x):
        return self.norm(x)


@pytest.mark.parametrize(
    ("layer", "part", "outer"),
    [
        (L.Lambda(centered, name="center"), "mean", "center"),
        (Centering(), "unit", "centering"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_an_error_names_the_layer_whose_part_cannot_convert(layer, part, outer, nested):
    plain = network(layer)
    if nested:
        plain = keras.Model(plain.input, plain(plain.input))
    with pytest.raises(ConversionError) as error:
        to_any_width(plain)
    (finding,) = error.value.findings
    named = rf"Layer '\w*{part}\w*' \(\w+\) in layer '{outer}': "
    assert re.match(named, finding), finding


def test_a_divided_kernel_has_a_constraint():
    shared = L.SpectralNormalization(L.Conv2D(8, 3, padding="same", name="conv"))
    plain = network(lambda x: shared(ops.relu(shared(x))))
    kernel = shared.layer.kernel
    kernel.assign(5 * np.random.default_rng(0).normal(size=kernel.shape))
    model = assert_converts(plain, 1)
    conv = model.get_layer("conv")
    assert isinstance(conv.kernel_constraint, UnitSpectralNorm)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(inputs_of(model, 8), np.zeros(8), verbose=0)
    norms = []
    for width in (0.25, 1.0):
        small = slim(model, width).get_layer("conv")
        assert small.kernel_constraint is None  # of stock classes
        matrix = ops.convert_to_numpy(small.kernel).reshape(-1, small.filters)
        norms.append(np.linalg.norm(matrix, 2))
    # See `test_constraints` for the error of the norm; a part is not longer.
    assert norms[1] == pytest.approx(1, abs=0.01)
    assert norms[0] <= norms[1]


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (L.Conv2D(8, 3, kernel_constraint="unit_norm", name="c"), "has another"),
        (OwnKernel(name="c"), "has no"),
    ],
)
def test_what_a_constraint_cannot_divide_is_named(layer, match):
    with pytest.raises(ConversionError, match=rf"'c'\).*{match} constraint"):
        to_any_width(network(L.SpectralNormalization(layer)))
