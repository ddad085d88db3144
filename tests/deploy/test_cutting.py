import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    TriConv2DTranspose,
    TriDense,
    lenet_3c1l,
    mobilenet_v2,
    slim,
    to_any_width,
)
from awn_keras.deploy.cutting import Cut, cut
from awn_keras.deploy.layouts import candidates, choose_cuts
from tests.conftest import inputs_of, rich, small_conv, small_dense
from tests.graphs import random_graph
from tests.test_slimming import randomize

WIDTHS = [0.25, 0.5, 1.0]


def assert_equal_networks(one, other, x):
    for left, right in zip(
        keras.tree.flatten(one(x)), keras.tree.flatten(other(x)), strict=True
    ):
        # The same sums in another order; values grow from layer to layer.
        scale = max(1.0, float(np.abs(left).max()))
        np.testing.assert_allclose(right, left, atol=2e-5 * scale)


def triangular(model, widths=WIDTHS):
    return {name: one.cut(widths) for name, one in candidates(model).items()}


def blocks_of(network, name):
    return [layer for layer in network.layers if layer.name.startswith(f"{name}_part")]


# --------------------------------------------------------------------- the invariant


@settings(max_examples=20)
@given(st.data(), st.sets(st.sampled_from([0.4, 0.55, 0.7, 0.9]), max_size=3))
def test_a_cut_network_computes_the_same(data, widths):
    keras.utils.set_random_seed(0)
    try:
        model = to_any_width(random_graph(data.draw), min_width=0.25, divisor=1)
    except ValueError as error:
        # The only thing that may be wrong with these graphs: too few channels.
        assume("one network only" not in str(error))
        raise
    randomize(model)
    widths = sorted({model.min_width, *widths, 1.0})
    cuts = choose_cuts(model, widths, "triangular")
    x = inputs_of(model)
    for width in widths:
        network = slim(model, width)
        assert_equal_networks(network, cut(network, cuts), x)


@pytest.mark.parametrize("layout", ["auto", "triangular", "dense"])
@pytest.mark.parametrize("make", [small_conv, small_dense, rich])
def test_every_layout_computes_the_same(make, layout):
    model = randomize(make())
    widths = [model.min_width, 0.6, 1.0]
    cuts = choose_cuts(model, widths, layout)
    for width in widths:
        network = slim(model, width)
        assert_equal_networks(network, cut(network, cuts), inputs_of(model))


def test_more_ends_between_the_widths_compute_the_same():
    model = randomize(lenet_3c1l((16, 16, 1)))
    found = candidates(model)
    cuts = {
        name: found[name].cut(WIDTHS, range(1, 45, 4)) for name in ("conv2", "conv3")
    }
    assert len(cuts["conv3"].ends) > 8
    for width in WIDTHS:
        network = slim(model, width)
        assert_equal_networks(network, cut(network, cuts), inputs_of(model))


def test_a_residual_network_is_cut_through():
    model = randomize(mobilenet_v2((16, 16, 3)))
    network = slim(model, 1.0)
    parts = cut(network, triangular(model, [0.35, 1.0]))
    names = {layer.name for layer in parts.layers}
    # Normalization and depthwise convolutions follow the blocks.
    assert {"block5_expand_bn_part1", "block5_depthwise_conv_part0"} <= names
    x = inputs_of(model, 2)
    for left, right in zip(network(x), parts(x), strict=True):
        # 53 layers of random weights.
        scale = float(np.abs(left).max())
        np.testing.assert_allclose(right, left, atol=1e-4 * scale)


@pytest.mark.parametrize("transposed", [False, True])
def test_layers_that_are_called_twice_and_dropout(transposed):
    inputs = keras.Input((5, 5, 2))
    x = keras.layers.Conv2D(8, 3, padding="same")(inputs)
    layer_class = TriConv2DTranspose if transposed else TriConv2D
    shared = layer_class(8, 3, padding="same", activation="relu")
    x = keras.layers.Add()([shared(x), shared(keras.layers.ReLU()(x))])
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Dropout(0.1)(x))
    model = randomize(AnyWidthModel(inputs, outputs, min_width=0.25))
    cuts = triangular(model)
    assert len(cuts) == 2
    for width in WIDTHS:
        network = slim(model, width)
        assert_equal_networks(network, cut(network, cuts), inputs_of(model))


def test_names_that_a_loaded_model_has_are_not_given_again(tmp_path):
    keras.utils.clear_session()
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(8, 3)(inputs)
    x = keras.layers.Add()([TriConv2D(8, 1, name="tri")(x), x])
    x = keras.layers.ReLU(name="tri_part0")(x)
    x = TriConv2D(8, 1)(keras.layers.Concatenate(axis=1)([x, x]))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    AnyWidthModel(inputs, outputs).save(tmp_path / "model.keras")
    keras.utils.clear_session()  # as in a new process
    model = randomize(keras.saving.load_model(tmp_path / "model.keras"))
    network = slim(model, 1.0)
    assert_equal_networks(network, cut(network, triangular(model)), inputs_of(model))


def test_calls_by_keyword_stay_whole():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8)(inputs)
    x = keras.layers.Dropout(0.1)(inputs=TriDense(8, name="tri")(inputs=x))
    x = keras.layers.Dropout(0.1, name="last")(keras.layers.Dense(3)(x))
    model = randomize(AnyWidthModel(inputs, x))
    network = slim(model, 1.0)
    parts = cut(network, triangular(model))
    assert_equal_networks(network, parts, inputs_of(model))
    assert parts.output_names == ["last"]


def test_masked_models_stay_whole():
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(10, 6, mask_zero=True)(inputs)
    x = TriDense(8)(keras.layers.Dense(8)(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = AnyWidthModel(inputs, keras.layers.Dense(2)(x))
    assert choose_cuts(model, [0.5, 1.0], "triangular") == {}


def test_parts_compute_in_the_networks_precision():
    model = randomize(small_conv())
    network = slim(model, 1.0, dtype="float32")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        parts = cut(network, triangular(model))
    finally:
        keras.config.set_dtype_policy("float32")
    computing = parts.layers[1:]  # after the input
    assert {layer.compute_dtype for layer in computing} == {"float32"}
    assert {x.dtype for x in (*parts.inputs, *parts.outputs)} == {"float32"}


# ---------------------------------------------------------------- zeros and sharing


def test_blocks_hold_no_zeros_and_miss_no_weight():
    model = randomize(lenet_3c1l((16, 16, 1)))
    widths = model.distinct_widths  # a block for each channel
    network = cut(slim(model, 1.0), triangular(model, widths))
    kernels = [layer.kernel for layer in blocks_of(network, "conv3")]
    layer = model.get_layer("conv3")
    whole = np.asarray(layer.masked(layer.kernel))
    assert sum(int(np.prod(k.shape)) for k in kernels) == np.count_nonzero(whole)
    assert all(np.count_nonzero(k) == np.prod(k.shape) for k in kernels)


def test_narrow_networks_consist_of_the_blocks_of_wide_ones():
    model = randomize(small_conv())
    cuts = triangular(model)
    wide = cut(slim(model, 1.0), cuts)
    narrow = cut(slim(model, 0.5), cuts)
    parts = [layer for layer in narrow.layers if "_part" in layer.name]
    assert len(parts) > 4
    for layer in parts:
        twin = wide.get_layer(layer.name)
        for one, other in zip(layer.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_outputs_keep_their_names():
    for model in (rich(), small_conv()):
        network = cut(slim(model, 1.0), triangular(model, [model.min_width, 1.0]))
        assert network.output_names == model.output_names
        assert any("_part1" in layer.name for layer in network.layers)


def test_the_slim_network_is_left_as_it_is():
    model = randomize(small_conv())
    network = slim(model, 1.0)
    before = [layer.name for layer in network.layers], network.get_weights()
    cut(network, triangular(model))
    assert [layer.name for layer in network.layers] == before[0]
    for one, other in zip(network.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_layer_that_ends_within_a_block_is_refused():
    model = small_conv()
    network = slim(model, 0.6)
    with pytest.raises(ValueError, match="does not end where a block does"):
        cut(network, triangular(model, [0.25, 1.0]))


def test_until_gives_the_first_blocks():
    rows = Cut(((4, 2), (8, 5), (9, 7)))
    assert rows.until(8, 5) == Cut(((4, 2), (8, 5)))
    columns = Cut(((4, 3), (8, 3)), readout=True)
    assert columns.until(4, 3) == Cut(((4, 3),), readout=True)
