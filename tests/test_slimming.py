import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    TriDense,
    count_parameters,
    lenet_3c1l,
    slim,
)
from awn_keras.graph import graph_nodes
from awn_keras.rules import Graded
from tests.conftest import (
    at_width,
    classification,
    eagerly,
    inputs_of,
    labelled,
    rich,
    small_conv,
    small_dense,
)

pytestmark = [pytest.mark.backends, eagerly]

CASES = {
    "dense": small_dense,
    "conv": small_conv,
    "conv-divisor": lambda: small_conv(divisor=4),
    "conv-grid": lambda: small_conv(None, widths_grid=[0.3, 0.6, 1.0]),
    "conv-all-on": lambda: small_conv(1.0),
    "rich": rich,
    "rich-any": lambda: rich(min_width=0.01),
    "lenet": lambda: lenet_3c1l((8, 8, 1), filters=8, padding="same"),
}


def randomize(model):
    """Gives random values to all weights, also to moving statistics."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        value = rng.normal(size=weight.shape)
        # Variances must be positive; the others may be anything, and kernels also
        # receive values in their forbidden half.
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


@pytest.fixture(params=CASES, scope="module")
def model(request):
    return randomize(CASES[request.param]())


def assert_close(got, wanted):
    """Equal up to the order of sums of some hundred numbers."""
    for output, other in zip(got, wanted, strict=True):
        scale = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(output, other, rtol=1e-5, atol=1e-5 * scale)


def test_slim_equals_the_model_at_every_distinct_width(model):
    x = inputs_of(model)
    for width in model.distinct_widths:
        small = slim(model, width)
        got = [np.asarray(y) for y in keras.tree.flatten(small(x))]
        assert_close(got, at_width(model, width, x))
        assert small.count_params() == count_parameters(model, width)


def test_slim_models_are_made_of_stock_layers(model):
    small = slim(model, 0.5 if model.min_width <= 0.5 else 1.0)
    assert type(small) is type(keras.Model(small.input, small.output))
    for layer in small.layers:
        assert type(layer).__module__.startswith("keras.src.layers")
    names = [node.operation.name for node in graph_nodes(model)]
    assert [node.operation.name for node in graph_nodes(small)] == names
    assert [x.name for x in small.inputs] == [
        x._keras_history.operation.name for x in model.inputs
    ]
    assert small.output_names == model.output_names


def test_hidden_activations_at_a_width_are_a_prefix_of_those_at_full_width(model):
    # Slimmed networks compute each width by itself; the trunk of the model computes
    # only the full one.
    kinds = model.propagation.kinds
    hidden = {
        node.operation.name: (node.outputs[0], kinds[id(node.outputs[0])].grades)
        for node in model.propagation.nodes
        if isinstance(kinds[id(node.outputs[0])], Graded)
    }
    x = inputs_of(model)
    whole = keras.Model(model.input, [tensor for tensor, _ in hidden.values()])(x)
    for width in model.distinct_widths[::3]:
        small = slim(model, width)
        tensors = {n.operation.name: n.outputs[0] for n in graph_nodes(small)}
        part = keras.Model(small.input, [tensors[name] for name in hidden])(x)
        for wide, narrow, (_, grades) in zip(
            keras.tree.flatten(whole),
            keras.tree.flatten(part),
            hidden.values(),
            strict=True,
        ):
            active = grades <= width
            assert_close([np.asarray(narrow)], [np.asarray(wide)[..., active]])


def test_the_model_is_left_as_it_is(model):
    x = inputs_of(model)
    before = [w.copy() for w in model.get_weights()], at_width(model, 1.0, x)
    small = slim(model, 1.0)
    for weight in small.weights:
        weight.assign(keras.ops.zeros(weight.shape, weight.dtype))
    after = model.get_weights(), at_width(model, 1.0, x)
    for weights, other in zip(before, after, strict=True):
        for old, new in zip(weights, other, strict=True):
            np.testing.assert_array_equal(old, new)


def test_a_trained_saved_and_loaded_model_slims(tmp_path):
    model = classification(small_conv())
    x, y = labelled(model)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    small = slim(loaded, 0.5)
    # Sums in another order.
    np.testing.assert_allclose(
        small.predict(x, verbose=0), at_width(model, 0.5, x)[0], atol=1e-5
    )
    # The slim model can be saved and loaded without awn_keras.
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras", compile=False)
    np.testing.assert_array_equal(again(x), small(x))


def test_slim_can_change_the_dtype():
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, dtype="mixed_float16")(inputs)
    x = TriConv2D(4, 3, dtype="mixed_float16")(x)
    x = keras.layers.Flatten(dtype="mixed_float16")(x)
    model = AnyWidthModel(inputs, keras.layers.Dense(2, dtype="mixed_float16")(x))
    assert slim(model, 0.5).compute_dtype == "float32"
    assert {y.compute_dtype for y in slim(model, 0.5).layers[1:]} == {"float16"}
    small = slim(model, 0.5, dtype="float32")
    assert {y.compute_dtype for y in small.layers} == {"float32"}
    x = inputs_of(model)
    # Half precision keeps three digits.
    np.testing.assert_allclose(at_width(model, 0.5, x)[0], small(x), atol=1e-2)


def test_initializers_of_the_whole_shape_are_left_behind():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, bias_initializer=keras.initializers.Constant([1.0] * 6))
    model = AnyWidthModel(inputs, keras.layers.Dense(2)(TriDense(6)(x(inputs))))
    x = inputs_of(model)
    assert_close([np.asarray(slim(model, 0.5)(x))], at_width(model, 0.5, x))


@settings(max_examples=10)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.sampled_from([1, 2, 4]),
    st.floats(0.05, 1.0),
    st.floats(0, 1),
)
def test_slim_equals_the_model_for_any_channel_counts(counts, divisor, least, where):
    inputs = keras.Input((3, 3, 2))
    x = keras.layers.Conv2D(counts[0], 1)(inputs)
    for count in counts[1:]:
        x = keras.layers.ReLU()(TriConv2D(count, 3, padding="same")(x))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    try:
        model = AnyWidthModel(inputs, outputs, min_width=least, divisor=divisor)
    except ValueError as error:
        assume("only one network" not in str(error))
        raise
    randomize(model)
    width = least + where * (1 - least)
    x = inputs_of(model)
    assert_close([np.asarray(slim(model, width)(x))], at_width(model, width, x))


@pytest.mark.parametrize("width", [0.1, 1.5])
def test_a_width_out_of_range_is_refused(width):
    with pytest.raises(ValueError, match=r"`width` must be"):
        slim(small_dense(), width)


def test_a_plain_model_is_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs), name="plain")
    with pytest.raises(TypeError, match=r"must be an `AnyWidthModel`.*'plain'"):
        slim(model, 0.5)


def test_initializers_are_those_of_the_layers():
    """A clone is the same network, not trained yet."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, kernel_initializer="he_normal")(inputs)
    x = TriDense(6, kernel_initializer="ones", name="tri")(x)
    model = AnyWidthModel(inputs, keras.layers.Dense(2)(x))
    clone = keras.models.clone_model(slim(model, 0.5))
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in clone.layers[1:]]
    assert np.ptp(kernels[0]) > 0
    np.testing.assert_array_equal(kernels[1], np.ones((3, 3)))
