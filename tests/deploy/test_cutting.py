from contextlib import contextmanager, nullcontext

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    TriConv2DTranspose,
    TriDense,
    architectures,
    lenet_3c1l,
    mobilenet_v2,
    slim,
    to_any_width,
)
from awn_keras.deploy import cutting
from awn_keras.deploy.converter import constants, convert
from awn_keras.deploy.cutting import continuation, cut
from awn_keras.layouts import Cut, candidates, choose_cuts
from awn_keras.slimming import slim_alike
from tests.conftest import inputs_of, rich, small_conv, small_dense
from tests.deploy.test_converter import operators_of
from tests.graphs import random_graph
from tests.test_slimming import randomize

WIDTHS = [0.25, 0.5, 1.0]


def assert_equal_networks(first, other, x):
    assert_equal(first(x), other(x))


def assert_equal(wanted, got, atol=2e-5):
    for left, right in zip(
        keras.tree.flatten(wanted), keras.tree.flatten(got), strict=True
    ):
        left, right = map(keras.ops.convert_to_numpy, (left, right))
        # The same sums in another order; values grow from layer to layer.
        scale = max(1.0, float(np.abs(left).max()))
        np.testing.assert_allclose(right, left, atol=atol * scale)


def triangular(model, widths=WIDTHS):
    return {
        name: candidate.cut_at(widths) for name, candidate in candidates(model).items()
    }


def blocks_of(network, name):
    return [layer for layer in network.layers if layer.name.startswith(f"{name}_part")]


def draw_model(data):
    keras.utils.set_random_seed(0)
    try:
        model = to_any_width(random_graph(data.draw), min_width=0.25, divisor=1)
    except ValueError as error:
        # The only thing that may be wrong with these graphs: too few channels.
        assume("only one network" not in str(error))
        raise
    return randomize(model)


# --------------------------------------------------------------------- the invariant


@contextmanager
def always_adding():
    """What row blocks read is added wherever it can be, not only where it pays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "adding_pays", lambda *sizes: True)
        yield


@settings(max_examples=20)
@given(st.data(), st.sampled_from([0.4, 0.55, 0.7, 0.9]), st.booleans())
def test_a_cut_network_computes_the_same(data, width, adding):
    model = draw_model(data)
    widths = sorted({model.min_width, width, 1.0})
    cuts = choose_cuts(model, widths, "triangular")
    x = inputs_of(model)
    with always_adding() if adding else nullcontext():
        for width in widths:
            network = slim(model, width)
            assert_equal_networks(network, cut(network, cuts), x)


@pytest.mark.backends
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
    model = randomize(lenet_3c1l((16, 16, 1), filters=16, width_multiplier=1.0))
    layers = candidates(model)
    cuts = {
        name: layers[name].cut_at(WIDTHS, range(1, 16, 2))
        for name in ("conv2", "conv3")
    }
    assert len(cuts["conv3"].ends) > 8
    for width in WIDTHS:
        network = slim(model, width)
        assert_equal_networks(network, cut(network, cuts), inputs_of(model))


@pytest.fixture(scope="module")
def residual():
    """MobileNetV2's first six blocks, with statistics of their own.

    With `randomize` its ReLU6 would cut off values in the thousands, and rounding in
    the first layers decide about the outputs.
    """
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        blocks = architectures._MOBILENET_V2[:3]
        patch.setattr(architectures, "_MOBILENET_V2", blocks)
        model = mobilenet_v2((16, 16, 3))
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(weight + rng.uniform(0, 0.2, weight.shape))
    return model


def test_a_residual_network_is_cut_through(residual):
    network = slim(residual, 1.0)
    parts = cut(network, triangular(residual, [0.35, 1.0]))
    names = {layer.name for layer in parts.layers}
    # Normalization and depthwise convolutions follow the blocks.
    assert {"block5_expand_bn_part1", "block5_depthwise_conv_part0"} <= names
    x = inputs_of(residual, 2)
    assert_nearly_equal(network(x), parts(x))


def assert_nearly_equal(wanted, got):
    wanted, got = (keras.ops.convert_to_numpy(values) for values in (wanted, got))
    for left, right in zip(wanted, got, strict=True):
        # The same sums in another order, 20 layers of them.
        scale = float(np.abs(left).max())
        np.testing.assert_allclose(right, left, atol=1e-4 * scale)


def test_projections_add_what_they_make_of_each_block(residual):
    network = slim(residual, 1.0)
    cuts = triangular(residual, [0.35, 0.6, 1.0])
    with always_adding():
        parts = cut(network, cuts)
    names = {layer.name for layer in parts.layers}
    assert {"block5_project_conv_part2", "block5_project_conv_part2_term2"} <= names
    # Each term has the factor of the normalization that follows, the first its shift.
    scale = parts.get_layer("block5_project_bn_part2_scale")
    whole = parts.get_layer("block5_project_bn_part2")
    for weight, other in zip(scale.weights, whole.weights, strict=True):
        shifts = weight.name in ("beta", "moving_mean")
        wanted = np.zeros(other.shape) if shifts else np.asarray(other)
        np.testing.assert_array_equal(np.asarray(weight), wanted)
    joined = cut(network, cuts, adds=False)
    assert not any("term" in layer.name for layer in joined.layers)
    # No weight twice, and none lost: but for the factors, which a file folds away.
    kernels, others = (
        sum(np.prod(w.shape) for w in each.weights if w.name == "kernel")
        for each in (parts, joined)
    )
    assert kernels == others
    x = inputs_of(residual, 2)
    assert_nearly_equal(network(x), parts(x))


def test_added_layers_of_other_cuts_share_their_kernels_at_all_widths():
    """Their ends are the same up to a narrow width, and differ beyond it."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(32, 1, name="stem")(inputs)
    left = TriConv2D(32, 1, name="left")(x)
    right = TriConv2D(32, 1, name="right")(x)
    x = keras.layers.ReLU()(keras.layers.Add()([left, right]))
    x = TriConv2D(32, 1, name="after")(x)
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = randomize(AnyWidthModel(inputs, outputs, min_width=0.25))
    layers = candidates(model)
    cuts = {
        "left": layers["left"].cut_at(WIDTHS, [24]),
        "right": layers["right"].cut_at(WIDTHS, [28]),
        "after": layers["after"].cut_at(WIDTHS, [24]),
    }
    assert cuts["left"].ends != cuts["right"].ends
    with always_adding():
        wide, narrow = (cut(slim(model, width), cuts) for width in (1.0, 0.5))
    for layer in narrow.layers:
        if "_part" in layer.name and layer.weights:
            twin = wide.get_layer(layer.name)
            for weight, other in zip(layer.weights, twin.weights, strict=True):
                np.testing.assert_array_equal(np.asarray(weight), np.asarray(other))
    assert any("term" in layer.name for layer in narrow.layers)
    assert_equal_networks(slim(model, 1.0), wide, inputs_of(model))


@pytest.mark.parametrize("adding", [False, True])
def test_unknown_rows_and_cols_are_cut_too(adding):
    inputs = keras.Input((None, None, 2))
    x = keras.layers.Conv2D(8, 1)(inputs)
    x = TriConv2D(8, 1, name="second")(TriConv2D(8, 1, name="first")(x))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = randomize(AnyWidthModel(inputs, outputs, min_width=0.25))
    network, cuts = slim(model, 1.0), triangular(model)
    x = np.random.default_rng(0).random((2, 5, 4, 2)).astype("float32")
    with always_adding() if adding else nullcontext():
        assert_equal_networks(network, cut(network, cuts), x)


def test_what_is_added_is_folded_and_shared_in_a_file(residual):
    cuts = triangular(residual, [0.35, 0.6, 1.0])
    with always_adding():
        networks = {
            name: cut(slim(residual, width), cuts)
            for name, width in {"a": 0.35, "b": 0.6, "c": 1.0}.items()
        }
    content = convert(networks)
    kinds = operators_of(content)
    assert not kinds & {schema.BuiltinOperator.MUL, schema.BuiltinOperator.SUB}
    alone = constants(convert({"c": networks["c"]}))
    # Some layers are too small to be cut, and a copy for each width.
    assert constants(content).stored < 1.05 * alone.stored


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
    model = randomize(lenet_3c1l((16, 16, 1), filters=16, width_multiplier=1.0))
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
        for weight, other in zip(layer.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, other)


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
    for weight, other in zip(network.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(weight, other)


def test_a_layer_that_ends_within_a_block_is_refused():
    model = small_conv()
    network = slim(model, 0.6)
    with pytest.raises(ValueError, match="must end at the end of the layer"):
        cut(network, triangular(model, [0.25, 1.0]))


def test_until_gives_the_first_blocks():
    rows = Cut(((4, 2), (8, 5), (9, 7)))
    assert rows.until(8, 5) == Cut(((4, 2), (8, 5)))
    columns = Cut(((4, 3), (8, 3)), readout=True)
    assert columns.until(4, 3) == Cut(((4, 3),), readout=True)


# --------------------------------------------------------------------- continuation


def continue_both(model, narrow, wide, x):
    """What a continued network computes, and its two halves."""
    slims = slim_alike(model, (narrow, wide), dtype="float32")
    rows = {
        name: candidate.cut_at([narrow, wide])
        for name, candidate in candidates(model).items()
        if not candidate.readout
    }
    first, rest = continuation(*slims, rows)
    count = len(model.outputs)
    inputs = [keras.ops.convert_to_tensor(array) for array in keras.tree.flatten(x)]
    given = keras.tree.pack_sequence_as(first.input, inputs)
    answers, kept = (lambda y: (y[:count], y[count:]))(first(given))
    refined = keras.tree.flatten(rest([*inputs, *kept]))
    assert first.output_names[count:] == [
        tensor._keras_history.operation.name for tensor in rest.inputs[len(inputs) :]
    ]
    return (answers, refined), (first, rest), slims


@settings(max_examples=20)
@given(st.data(), st.sampled_from([0.5, 0.8, 1.0]))
def test_a_continued_network_computes_what_the_wide_one_does(data, wide):
    model = draw_model(data)
    assume(any(not candidate.readout for candidate in candidates(model).values()))
    x = inputs_of(model)
    outputs, _, slims = continue_both(model, model.min_width, wide, x)
    for network, got in zip(slims, outputs, strict=True):
        assert_equal(network(x), got)


def test_a_continuation_has_no_weight_of_the_narrow_network():
    model = randomize(lenet_3c1l((16, 16, 1), filters=16, width_multiplier=1.0))
    x = inputs_of(model)
    _, (first, rest), (narrow, _) = continue_both(model, 0.25, 1.0, x)
    assert first.count_params() == narrow.count_params()
    layers = candidates(model)
    for name in ("conv2", "conv3"):
        assert [layer.name for layer in blocks_of(rest, name)] == [f"{name}_part1"]
        (block,) = blocks_of(rest, name)
        (_, narrow_outputs), (total, outputs) = layers[name].cut_at([0.25, 1.0]).ends
        assert block.kernel.shape[2:] == (total, outputs - narrow_outputs)
    # After everything that treats channels by themselves.
    assert [x.name for x in rest.inputs] == ["image", "pool2_kept", "pool3_kept"]


def test_a_residual_network_goes_on(residual):
    x = inputs_of(residual, 2)
    outputs, (_, rest), slims = continue_both(residual, 0.35, 1.0, x)
    names = {layer.name for layer in rest.layers}
    assert {"block5_add_kept", "block5_depthwise_relu_kept"} <= names
    assert not any(name.endswith("_part0") for name in names)
    for network, got in zip(slims, outputs, strict=True):
        assert_equal(network(x), got, atol=1e-4)  # 20 layers of them


def test_copies_of_a_shared_layer_may_have_any_names():
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(8, 3, padding="same")(inputs)
    x = TriConv2D(8, 3, padding="same", name="first")(x)
    shared = keras.layers.Reshape((16, 8))
    y = TriConv2D(8, 1, name="second")(x)
    x = keras.layers.Add()([shared(x), shared(y)])
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x))
    model = randomize(AnyWidthModel(inputs, outputs, min_width=0.25))
    x = inputs_of(model)
    outputs, _, slims = continue_both(model, 0.25, 1.0, x)
    for network, got in zip(slims, outputs, strict=True):
        assert_equal(network(x), got)


def test_networks_that_do_not_continue_are_refused():
    model = small_conv()
    narrow, other = slim(model, 0.5), slim(model, 1.0)
    with pytest.raises(ValueError, match="none of its layers is cut"):
        continuation(narrow, other, {})
    with pytest.raises(ValueError, match="must be networks of one model"):
        continuation(slim(small_dense(), 0.5), other, triangular(model))
    with pytest.raises(ValueError, match="must end at the end of the layer"):
        continuation(slim(model, 0.6), other, triangular(model, [0.25, 1.0]))
