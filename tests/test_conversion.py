import os
import re
import sys

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from awn_keras import (
    AnyWidthModel,
    ConversionError,
    FixedWidths,
    TriBidirectional,
    TriConv1D,
    TriConv1DTranspose,
    TriConv2D,
    TriConv2DTranspose,
    TriConv3D,
    TriConv3DTranspose,
    TriDense,
    TriGRU,
    TriLayerNormalization,
    TriLSTM,
    TriSeparableConv1D,
    TriSeparableConv2D,
    WidthRule,
    channel_grades,
    count_macs,
    count_parameters,
    export_tflite,
    lenet_3c1l,
    register_width_rule,
    reorder_channels,
    slim,
    to_any_width,
    trade_off_curve,
)
from awn_keras.graph import graph_nodes
from awn_keras.layers.base import TriangularKernel, TriLayer
from awn_keras.rules import Graded
from awn_keras.rules.mixing import mixing
from benchmarks.loop import train_by_the_loop
from tests.conftest import (
    BACKEND,
    at_width,
    classification,
    eagerly,
    inputs_of,
    labelled,
)
from tests.graphs import random_graph, random_sequences
from tests.stock import NETWORKS, NO_FILES, OF_ONE_SIZE, RECURRENT
from tests.test_slimming import assert_close

pytestmark = pytest.mark.backends

L = keras.layers
#: Random graphs, the same in each run. For more, set AWN_GRAPHS=3000 and run
#: `pytest tests/test_conversion.py -k random`.
GRAPHS = int(os.environ.get("AWN_GRAPHS", "60"))
#: Graphs are small already, and shrinking one takes minutes.
PHASES = [phase for phase in Phase if phase is not Phase.shrink]


def train_a_little(model):
    """Gives every weight a value that training could have given it."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        value = weight.numpy()
        if "variance" in weight.path or "gamma" in weight.path:
            value = rng.uniform(0.5, 1.5, value.shape)
        elif "kernel" not in weight.path:
            value = rng.normal(scale=0.3, size=value.shape)
        weight.assign(value)
    for layer in model._flatten_layers():
        if isinstance(layer, L.Normalization):
            layer.finalize_state()  # derives values from the new weights
    return model


def outputs_of(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def conv_net(classes=3, name="net", top=True):
    """A stem and two convolutions with normalization. One has a shortcut."""
    inputs = keras.Input((6, 6, 2), name="image")
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(x))
    y = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    y = L.ReLU(name="relu2")(L.BatchNormalization(name="bn2")(y))
    x = L.Add(name="add")([x, y])
    if top:
        x = L.GlobalAveragePooling2D(name="pool")(x)
        x = L.Dense(classes, name="head")(x)
    return keras.Model(inputs, x, name=name)


def classes_of(model):
    return {layer.name: type(layer) for layer in model.layers}


# ------------------------------------------------------------------------ families

FAMILIES = {
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "MobileNetV3Large": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "VGG16": 32,
    "NASNetMobile": 32,
}


#: One for each way of joining channels: none, Add, gates and Add, Concatenate.
TRAINED = ("MobileNet", "MobileNetV2", "EfficientNetB0", "DenseNet121")


def family(name, size):
    return getattr(keras.applications, name)(
        input_shape=(size, size, 3),
        weights=None,
        classes=5,
        classifier_activation=None,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), FAMILIES.items(), ids=FAMILIES)
@eagerly
def test_a_family_converts_slims_exactly_and_trains(name, size):
    keras.utils.set_random_seed(0)  # pytest-randomly has set another seed
    model = to_any_width(family(name, size), min_width=0.35)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (8, size, size, 3)).astype("float32")
    x = x if "Efficient" in name or "V3" in name else x / 128 - 1
    if name in TRAINED:
        check_that_a_step_lowers_the_loss(model, x)
    train_a_little(model)
    kinds = model.propagation.kinds
    hidden = {
        node.operation.name: (node.outputs[0], kinds[id(node.outputs[0])].grades)
        for node in model.propagation.nodes
        if isinstance(kinds[id(node.outputs[0])], Graded)
    }
    assert len(hidden) > 15
    whole = keras.Model(model.input, [tensor for tensor, _ in hidden.values()])(x)
    # Width 1 slices nothing. Tests that train families compare the whole copy.
    for width in (0.35, 0.6, 1.0) if name in TRAINED else (0.35, 0.6):
        small = slim(model, width)
        tensors = {n.operation.name: n.outputs[0] for n in graph_nodes(small)}
        features = [tensors[name] for name in hidden]
        got, part = keras.Model(small.input, [small.output, features])(x)
        assert_within([np.asarray(got)], at_width(model, width, x))
        for wide, narrow, (_, grades) in zip(whole, part, hidden.values(), strict=True):
            wide = np.asarray(wide)[..., grades <= width]
            assert_within([np.asarray(narrow)], [wide])


def check_that_a_step_lowers_the_loss(model, x):
    for layer in model.layers:
        if isinstance(layer, L.Dropout):
            layer.rate = 0.0  # dropout would blur the comparison of two losses
    model.compile(
        # A small step, because statistics of only 8 samples make the loss steep.
        keras.optimizers.SGD(1.0, global_clipnorm=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        widths=FixedWidths([0.35, 0.6, 1.0]),
        report_widths=[],
        run_eagerly=True,
    )
    losses = [model.train_on_batch(x, np.arange(8) % 5) for _ in range(2)]
    assert losses[1] < losses[0]


def assert_within(got, wanted):
    """Allows 1e-4 of the largest value for float32 sums through about 100 layers."""
    for output, other in zip(got, wanted, strict=True):
        assert np.isfinite(output).all()
        scale = np.abs(other).max()
        assert scale > 0
        np.testing.assert_allclose(output, other, rtol=0, atol=1e-4 * scale)


@eagerly
def test_convnext_is_exact_at_every_width():
    plain = keras.applications.convnext.ConvNeXtTiny  # the smaller ones are not shown
    network = sys.modules[plain.__module__].ConvNeXt(
        depths=(1, 1, 2, 1),
        projection_dims=(16, 24, 32, 48),
        drop_path_rate=0.1,
        layer_scale_init_value=1.0,
        input_shape=(32, 32, 3),
        weights=None,
        classes=2,
        name="small_convnext",
    )
    model = to_any_width(network, divisor=4)
    train_a_little(model)
    x = inputs_of(model, 2)
    for width in (0.25, 0.5, 0.75, 1.0):
        small = slim(model, width)
        assert_close(outputs_of(small, x), at_width(model, width, x))
        assert count_macs(model, width) == count_macs(small)
        assert count_parameters(model, width) == small.count_params()
    tri = {type(layer) for layer in model.layers if isinstance(layer, TriLayer)}
    assert tri == {TriConv2D, TriDense, TriLayerNormalization}


# -------------------------------------------------------------------- random graphs


def hidden_of(model, names):
    tensors = {n.operation.name: n.outputs[0] for n in graph_nodes(model)}
    return keras.Model(model.input, [tensors[name] for name in names])


def grades_of_channels(model):
    """Grades of all tensors of the trunk, by the name of the layer that makes them."""
    kinds = model.propagation.kinds
    return {
        node.operation.name: kinds[id(node.outputs[0])].grades
        for node in model.propagation.nodes
        if isinstance(kinds[id(node.outputs[0])], Graded)
    }


def gradients(model, x, y, loop):
    """Gradients: the part that a step of SGD with rate 1 subtracts."""
    values = model.get_weights()
    model.compile(
        keras.optimizers.SGD(1.0),
        "mse",
        widths=FixedWidths([model.min_width, 0.7, 1.0]),
        report_widths=[],
        run_eagerly=True,
    )
    if loop:
        train_by_the_loop(model)
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    model.train_on_batch(x, y)
    after = [weight.numpy().copy() for weight in model.trainable_weights]
    model.set_weights(values)
    return [old - new for old, new in zip(before, after, strict=True)]


def assert_one_pass_trains_as_the_loop(model, x):
    y = [np.ones((3, *output.shape[1:]), "float32") for output in model.outputs]
    one_pass, loop = (gradients(model, x, y, loop=loop) for loop in (False, True))
    largest = max(np.abs(gradient).max() for gradient in loop)
    for got, wanted in zip(one_pass, loop, strict=True):
        # float32 sums in another order. A bias before a normalization has the gradient
        # 0, but its terms are as large as those of other gradients.
        atol = 1e-4 * np.abs(wanted).max() + 1e-5 * largest
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=atol)


@pytest.mark.slow
@settings(max_examples=GRAPHS, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(
    st.data(),
    st.sampled_from((0.1, 0.3, 0.5)),
    st.sampled_from((1, 2, 4)),
    st.sampled_from((1.0, 2**0.5)),
)
@eagerly
def test_random_graphs(data, min_width, divisor, multiplier):
    keras.utils.set_random_seed(0)  # pytest-randomly has set another seed
    assert_exact(random_graph(data.draw), min_width, divisor, multiplier)


@pytest.mark.slow
@settings(
    max_examples=GRAPHS // 5, suppress_health_check=list(HealthCheck), phases=PHASES
)
@given(
    st.data(),
    st.sampled_from((0.1, 0.3, 0.5)),
    st.sampled_from((1, 2, 4)),
    st.sampled_from((1.0, 2**0.5)),
)
@eagerly
def test_random_sequences(data, min_width, divisor, multiplier):
    keras.utils.set_random_seed(0)  # pytest-randomly has set another seed
    assert_exact(random_sequences(data.draw), min_width, divisor, multiplier)


def assert_exact(plain, min_width, divisor, multiplier):
    """Converts a model, and compares outputs, channels and gradients at widths."""
    try:
        model = to_any_width(
            plain, min_width=min_width, divisor=divisor, width_multiplier=multiplier
        )
    except ValueError as error:
        # Random graphs may be refused for two reasons: they have too few channels, or
        # wider parts of channels would end within a channel.
        assume("only one network" not in str(error))
        unfit = ("cannot widen", "that a wider model does not have")
        assume(multiplier == 1 or not any(text in str(error) for text in unfit))
        raise
    train_a_little(model)
    x = inputs_of(model, 3)
    grades = grades_of_channels(model)
    whole = hidden_of(model, grades)(x)
    for width in {min_width, 0.7, 1.0}:
        small = slim(model, width)
        assert_close(outputs_of(small, x), at_width(model, width, x))
        part = hidden_of(small, grades)(x)
        for wide, narrow, grade in zip(
            *map(keras.tree.flatten, (whole, part)), grades.values(), strict=True
        ):
            assert_close([np.asarray(narrow)], [np.asarray(wide)[..., grade <= width]])
    assert_one_pass_trains_as_the_loop(model, x)


@pytest.mark.parametrize(
    ("multiplier", "name"),
    [
        *((1.0, name) for name in (*NETWORKS, *NO_FILES)),
        *((2**0.5, n) for n in (*NETWORKS, *NO_FILES) if n not in OF_ONE_SIZE),
    ],
)
@eagerly
def test_seldom_layers_are_exact_at_every_width(multiplier, name):
    if BACKEND == "jax" and name in RECURRENT:
        pytest.skip("JAX compiles each loop over steps anew, for seconds")
    plain = {**NETWORKS, **NO_FILES}[name]()
    model = to_any_width(plain, divisor=4, width_multiplier=multiplier)
    train_a_little(model)
    x = inputs_of(model, 3)
    grades = grades_of_channels(model)
    whole = hidden_of(model, grades)(x)
    macs = set()
    for width in (0.25, 0.5, 0.75, 1.0):
        small = slim(model, width)
        assert_close(outputs_of(small, x), at_width(model, width, x))
        part = hidden_of(small, grades)(x)
        for wide, narrow, grade in zip(whole, part, grades.values(), strict=True):
            assert_close([np.asarray(narrow)], [np.asarray(wide)[..., grade <= width]])
        assert count_macs(model, width) == count_macs(small)
        assert count_parameters(model, width) == small.count_params()
        macs.add(count_macs(model, width))
    assert len(macs) == 4  # no layer is whole at every width
    assert_one_pass_trains_as_the_loop(model, x)


@pytest.mark.parametrize(
    ("name", "tri_classes"),
    [
        ("conv1d-transpose", {TriConv1DTranspose}),
        ("conv3d", {TriConv3D}),
        ("conv3d-transpose", {TriConv3D, TriConv3DTranspose}),
        ("separable1d", {TriSeparableConv1D}),
        ("lstm", {TriLSTM}),
        ("temporal-convolutions", {TriConv1D, TriGRU}),
        ("convolutional-recurrent", {TriConv2D, TriBidirectional}),
    ],
)
def test_their_tri_layers(name, tri_classes):
    model = to_any_width(NETWORKS[name](), divisor=4)
    classes = {type(x) for x in model.layers if isinstance(x, TriangularKernel)}
    assert classes == tri_classes
    small = {type(layer) for layer in slim(model, 0.5).layers}
    assert {layer_class.stock_class for layer_class in tri_classes} <= small


def test_a_decoders_features_come_and_go_by_channels():
    model = to_any_width(NETWORKS["decoder"](), divisor=4)
    maps = next(x.name for x in model.layers if isinstance(x, L.Reshape))
    dense = [x for x in model.layers if isinstance(x, TriDense)]
    (grades,) = {tuple(x.out_grades) for x in dense if x.units == 96}
    # 16 channels in blocks of 4, the first of which is always on, at 6 positions.
    assert grades == tuple(np.tile(channel_grades(16, 4, min_width=0.25), 6))
    assert slim(model, 0.5).get_layer(maps).target_shape == (2, 3, 8)
    wide = to_any_width(NETWORKS["decoder"](), divisor=4, width_multiplier=1.5)
    maps = next(x for x in wide.layers if isinstance(x, L.Reshape))
    assert maps.target_shape == (2, 3, 24)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (L.Softmax((1, 3)), r"sum over the channels.*Received: axis=\(1, 3\)"),
        (L.Softmax(0), "`axis` must not be the batch axis"),
        (
            L.UnitNormalization(),
            "normalizes over the channels.*must not include the last",
        ),
        (L.GroupNormalization(4), "groups=-1.*Received: groups=4 for 8 channels"),
        (L.Reshape((6, 6, 8, 1)), "would make one channel of all"),
        (L.Reshape((6, 16, 3)), "`to_any_width` turns a complete channel shuffle"),
        (L.TimeDistributed(L.Conv1D(8, 1)), "Conv1D.*Use the inner layer in its place"),
        (L.TimeDistributed(L.GroupNormalization(-1)), "another size at each width"),
        (L.TimeDistributed(L.LayerNormalization()), "it treats each step separately"),
        (L.TimeDistributed(L.Softmax()), "TimeDistributed of Softmax.*sum over the ch"),
    ],
)
def test_what_is_not_exact_is_refused(layer, match):
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(8, 3, padding="same")(inputs)
    x = L.Dense(8)(layer(x))
    with pytest.raises(ConversionError, match=match):
        to_any_width(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))


@pytest.mark.parametrize("layer", [L.Softmax(0), L.UnitNormalization(0)])
def test_no_layer_of_the_tail_mixes_samples(layer):
    inputs = keras.Input((4,))
    x = layer(L.Dense(3)(L.Dense(8)(inputs)))
    with pytest.raises(ConversionError, match="`axis` must not be the batch axis"):
        to_any_width(keras.Model(inputs, x))


@pytest.mark.slow
@settings(
    max_examples=GRAPHS // 5, suppress_health_check=list(HealthCheck), phases=PHASES
)
@given(st.data())
@eagerly
def test_reordering_leaves_the_outputs_of_random_graphs(data):
    keras.utils.set_random_seed(0)  # pytest-randomly has set another seed
    plain = random_graph(data.draw)
    train_a_little(plain)
    x = inputs_of(plain, 3)
    assume(any(weight.name in ("bias", "beta") for weight in plain.weights))
    assert_close(outputs_of(reorder_channels(plain), x), outputs_of(plain, x))


@eagerly
def test_reordering_leaves_the_outputs_of_a_real_architecture():
    plain = train_a_little(family("MobileNetV3Small", 32))
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    reordered = reorder_channels(plain)
    assert_within(outputs_of(reordered, x), outputs_of(plain, x))
    old, new = (
        model.get_layer("expanded_conv_project_bn").gamma.numpy()
        for model in (plain, reordered)
    )
    assert not np.array_equal(old, new)


# --------------------------------------------------------------- what becomes of what


def test_stem_and_readout_stay_and_what_is_between_becomes_triangular():
    plain = conv_net()
    model = to_any_width(plain, min_width=0.3, divisor=2)
    assert isinstance(model, AnyWidthModel)
    assert (model.name, model.min_width, model.divisor) == ("net", 0.3, 2)
    changed = {**classes_of(plain), "conv": TriConv2D}
    assert classes_of(model) == changed
    assert [x.name for x in model.inputs] == [x.name for x in plain.inputs]


def test_the_divisor_is_8_unless_given():
    assert to_any_width(conv_net()).divisor == 8


def test_a_grid_of_widths():
    model = to_any_width(conv_net(), divisor=1, widths_grid=[0.25, 0.5, 1.0])
    assert model.distinct_widths == (0.25, 0.5, 1.0)


def test_the_input_model_is_untouched():
    plain = train_a_little(conv_net())
    plain.compile("sgd", "mse")
    weights, config = plain.get_weights(), plain.get_config()
    x = inputs_of(plain)
    before = outputs_of(plain, x)
    for model in (
        to_any_width(plain, divisor=2),
        to_any_width(plain, divisor=2, order="importance"),
        reorder_channels(plain),
    ):
        for weight in model.weights:
            weight.assign(keras.ops.zeros_like(weight))
    for old, new in zip(weights, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(outputs_of(plain, x)[0], before[0])
    assert plain.get_config() == config
    assert plain.get_layer("conv").output.shape == (None, 6, 6, 8)  # one call only
    plain.fit(x, np.zeros((5, 3)), verbose=0)


def test_layers_keep_their_settings():
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(8, 3)(inputs)
    x = L.Conv2D(
        8,
        (3, 1),
        strides=2,
        padding="same",
        activation="gelu",
        kernel_regularizer=keras.regularizers.L2(0.1),
        kernel_constraint=keras.constraints.MaxNorm(2.0),
        dtype="mixed_float16",
        trainable=False,
        name="conv",
    )(x)
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    layer = to_any_width(plain, divisor=1).get_layer("conv")
    old = plain.get_layer("conv").get_config()
    new = layer.get_config()
    del new["in_grades"], new["out_grades"]
    assert new == old
    assert not layer.trainable


def test_the_conversion_can_be_saved_and_loaded(tmp_path):
    model = train_a_little(to_any_width(conv_net(), divisor=2))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = inputs_of(model)
    for width in (0.25, 1.0):
        np.testing.assert_array_equal(
            at_width(loaded, width, x)[0], at_width(model, width, x)[0]
        )


def test_a_sequential_model_converts():
    plain = keras.Sequential(
        [keras.Input((5,)), L.Dense(8, "relu"), L.Dense(8, "relu"), L.Dense(2)]
    )
    model = to_any_width(plain, divisor=1)
    assert [type(layer) for layer in model.layers[1:]] == [L.Dense, TriDense, L.Dense]


def test_tri_layers_of_a_plain_model_get_their_place():
    inputs = keras.Input((4,))
    x = TriDense(8, name="tri")(L.Dense(8)(inputs))
    plain = train_a_little(keras.Model(inputs, L.Dense(2)(x)))
    model = to_any_width(plain, min_width=0.5, divisor=2)
    assert (model.get_layer("tri").out_grades[:4] == 0).all()
    with pytest.raises(ValueError, match="has Tri layers, such as 'tri'"):
        to_any_width(plain, order="importance")


def test_a_head_that_mixes_again_stays_in_the_tail():
    """Layers after the last layer that mixes channels do not belong to the trunk."""
    inputs = keras.Input((4,))
    x = L.Dense(8, name="hidden")(L.Dense(8)(inputs))
    scores = L.Dense(3, name="scores")(x)
    both = L.Dense(2, name="again")(scores)
    model = to_any_width(keras.Model(inputs, [scores, both]), divisor=1)
    classes = classes_of(model)
    assert classes["hidden"] is TriDense
    assert classes["scores"] is classes["again"] is L.Dense


# -------------------------------------------------------------------------- weights


def test_the_weights_of_a_trained_model_are_kept_under_the_mask():
    plain = train_a_little(conv_net())
    model = to_any_width(plain, divisor=2)
    for layer in plain.layers:
        kept = model.get_layer(layer.name)
        for old, new in zip(layer.get_weights(), kept.get_weights(), strict=True):
            mask = 1.0
            if isinstance(kept, TriangularKernel) and old.ndim == 4:
                mask = kept.in_grades[:, None] <= kept.out_grades
                assert not mask.all()
            np.testing.assert_array_equal(new, old * mask)


@pytest.mark.parametrize("order", ["keep", "importance"])
def test_without_a_triangle_the_conversion_is_the_trained_model(order):
    plain = train_a_little(conv_net())
    model = to_any_width(plain, min_width=1.0, order=order)
    x = inputs_of(model)
    assert_close(outputs_of(model, x), outputs_of(plain, x))


def test_an_untrained_model_gets_weights_drawn_for_the_triangle():
    inputs = keras.Input((256,))
    x = L.Dense(256)(inputs)
    x = L.Dense(256, name="tri", kernel_initializer="lecun_normal")(x)
    model = to_any_width(keras.Model(inputs, L.Dense(2)(x)), divisor=8, min_width=0.1)
    kernel = model.get_layer("tri").kernel.numpy()
    # Each output channel's sum of squares is 1, of 256 * 0.1 normal numbers or more.
    np.testing.assert_allclose(np.square(kernel).sum(axis=0).mean(), 1.0, rtol=0.05)
    narrow = np.square(kernel[:, :24]).sum(axis=0).mean()
    np.testing.assert_allclose(narrow, 1.0, rtol=0.3)


@pytest.mark.parametrize("width_multiplier", [1.0, 1.5])
def test_initializers_that_hold_an_array(width_multiplier):
    inputs = keras.Input((4,))
    array = keras.initializers.Constant(np.arange(8.0))
    x = L.Dense(8, bias_initializer=array, activation="relu")(inputs)
    x = L.BatchNormalization(beta_initializer=array)(x)
    x = L.Dense(8, bias_initializer=array, name="tri")(x)
    plain = keras.Model(inputs, L.Dense(3)(x))
    model = to_any_width(plain, width_multiplier=width_multiplier, divisor=4)
    bias = keras.ops.convert_to_numpy(model.get_layer("tri").bias)
    # A layer that is widened to 12 channels cannot use the 8 numbers of the array. It
    # uses the default initializer.
    wanted = np.arange(8.0) if width_multiplier == 1 else np.zeros(12)
    np.testing.assert_array_equal(bias, wanted)


@pytest.mark.parametrize("change", ["bias", "beta", "gamma", "moving_mean"])
def test_any_changed_bias_or_statistic_makes_a_model_a_trained_one(change):
    plain = conv_net()
    weight = next(w for w in plain.weights if w.name == change)
    weight.assign(weight + 0.01)
    model = to_any_width(plain, divisor=2)
    stem = (net.get_layer("stem").kernel for net in (plain, model))
    np.testing.assert_array_equal(*stem)


def test_without_biases_and_statistics_weights_are_kept():
    inputs = keras.Input((4,))
    x = L.Dense(8, use_bias=False, name="stem")(inputs)
    plain = keras.Model(inputs, L.Dense(2, use_bias=False)(x))
    model = to_any_width(plain, divisor=1)
    np.testing.assert_array_equal(
        *(net.get_layer("stem").kernel for net in (plain, model))
    )


def test_adapted_normalization_is_kept():
    normalization = L.Normalization()
    normalization.adapt(3 + 5 * np.random.default_rng(0).normal(size=(50, 4)))
    inputs = keras.Input((4,))
    plain = keras.Model(
        inputs, L.Dense(2)(L.Dense(8, name="stem")(normalization(inputs)))
    )
    train_a_little(plain.get_layer("stem"))
    model = to_any_width(plain, min_width=0.5, divisor=1)
    x = inputs_of(model)
    # There is no Tri layer: only the order of sums differs.
    assert_close(at_width(model, 1.0, x), outputs_of(plain, x))


def test_what_an_untrained_model_has_learned_elsewhere_is_kept():
    normalization = L.Normalization()
    normalization.adapt(100 + np.random.default_rng(0).normal(size=(50, 4)))
    inputs, words = keras.Input((4,)), keras.Input((4,), dtype="int32")
    x = L.Dense(8)(normalization(inputs))
    y = L.Flatten()(L.Embedding(9, 2, trainable=False, name="vectors")(words))
    x = L.Dense(8, name="inner")(L.Concatenate()([x, L.Dense(8)(y)]))
    plain = keras.Model([inputs, words], L.Dense(2)(x))
    plain.get_layer("vectors").set_weights([np.full((9, 2), 7.0)])
    model = to_any_width(plain, divisor=1)
    np.testing.assert_array_equal(
        model.get_layer("vectors").get_weights()[0], np.full((9, 2), 7.0)
    )
    name = normalization.name
    np.testing.assert_array_equal(model.get_layer(name).mean, normalization.mean)
    kernels = [net.get_layer("inner").get_weights()[0] for net in (plain, model)]
    assert (kernels[0] != kernels[1]).any()


def test_masks_of_padded_words_are_no_channels():
    words = keras.Input((6,), dtype="int32")
    x = L.Dense(8)(L.Embedding(9, 4, mask_zero=True)(words))
    x = L.Dense(8, name="inner")(L.BatchNormalization()(x))
    x = L.GlobalAveragePooling1D()(x)
    plain = train_a_little(keras.Model(words, L.Dense(2)(x)))
    model = to_any_width(plain, divisor=1)
    x = np.random.default_rng(0).integers(0, 3, (4, 6))
    whole = to_any_width(plain, min_width=1.0)
    assert_close(outputs_of(whole, x), outputs_of(plain, x))
    for width in (0.25, 0.6, 1.0):
        assert_close(outputs_of(slim(model, width), x), at_width(model, width, x))


def test_one_channel_for_all_others_is_not_widened():
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3)(inputs)
    gate = L.Conv2D(1, 3, padding="same", activation="sigmoid", name="gate")(x)
    x = L.Flatten()(L.Multiply()([x, gate]))
    plain = keras.Model(inputs, L.Dense(2)(x))
    model = to_any_width(plain, divisor=1, width_multiplier=2.0)
    assert model.get_layer("gate").filters == 1


# ------------------------------------------------------------------ width multiplier


@eagerly
def test_the_multiplier_widens_the_trunk_in_multiples_of_the_divisor():
    plain = keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=10)
    model = to_any_width(plain, min_width=0.35, width_multiplier=2**0.5, divisor=8)
    for layer in plain.layers:
        new = model.get_layer(layer.name)
        if not isinstance(layer, L.Conv2D) or isinstance(layer, L.DepthwiseConv2D):
            continue
        wanted = 8 * int(layer.filters * 2**0.5 / 8 + 0.5)
        assert new.filters == wanted
    assert model.get_layer("predictions").units == 10


@eagerly
def test_slim_models_have_whole_blocks():
    plain = keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=10)
    model = to_any_width(plain, min_width=0.35, divisor=8)
    for width in (0.35, 0.5, 0.77, 1.0):
        small = slim(model, width)
        counts = [
            layer.output.shape[-1]
            for layer in small.layers[:-1]
            if isinstance(layer, L.Conv2D | L.DepthwiseConv2D)
        ]
        assert len(counts) == 52
        # Layers of 16 and 24 channels have blocks of four, all others of eight.
        assert all(count % (4 if count <= 24 else 8) == 0 for count in counts)


def squeeze_excite_net(channels=20):
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(channels, 3, name="stem")(inputs)
    y = L.Reshape((1, 1, channels))(L.GlobalAveragePooling2D()(x))
    y = L.Conv2D(4, 1, activation="relu", name="squeeze")(y)
    y = L.Conv2D(channels, 1, activation="sigmoid", name="excite")(y)
    x = L.Multiply()([x, y])
    return keras.Model(inputs, L.Dense(2)(L.Reshape((-1,))(x)))


def test_the_multiplier_reaches_reshapes_and_small_layers():
    plain = squeeze_excite_net()
    model = to_any_width(plain, divisor=8, width_multiplier=1.5)
    filters = {n: model.get_layer(n).filters for n in ("stem", "squeeze", "excite")}
    # 30 is nearest to 32; 6 is below the divisor and stays.
    assert filters == {"stem": 32, "squeeze": 6, "excite": 32}
    assert isinstance(model.get_layer("excite"), TriConv2D)
    x = inputs_of(model)
    assert_close(outputs_of(slim(model, 0.5), x), at_width(model, 0.5, x))


def test_what_is_added_to_a_concatenation_is_widened_as_its_parts():
    inputs = keras.Input((4,))
    x = L.Dense(20, name="stem")(inputs)
    parts = L.Concatenate()([L.Dense(20, name="a")(x), L.Dense(20, name="b")(x)])
    whole = L.Dense(40, name="whole")(x)
    plain = keras.Model(inputs, L.Dense(2)(L.Add()([parts, whole])))
    model = to_any_width(plain, divisor=8, width_multiplier=2**0.5)
    units = [model.get_layer(name).units for name in ("a", "b", "whole")]
    # 20 * sqrt(2) = 28.3 is nearest to 32; 40 * sqrt(2) = 56.6 alone would give 56.
    assert units == [32, 32, 64]
    x = inputs_of(model)
    assert_close(outputs_of(slim(model, 0.5), x), at_width(model, 0.5, x))


def test_a_trained_model_cannot_be_widened():
    with pytest.raises(ValueError, match="weights of 'net' do not fit"):
        to_any_width(train_a_little(conv_net()), width_multiplier=2.0)


@pytest.mark.parametrize("multiplier", [0, -1.0, float("inf"), float("nan")])
def test_a_multiplier_out_of_range_is_refused(multiplier):
    with pytest.raises(ValueError, match="`width_multiplier` must be above 0"):
        to_any_width(conv_net(), width_multiplier=multiplier)


def test_layers_are_widened_by_name_or_by_a_function():
    inputs = keras.Input((4,))
    x = L.Dense(9, name="stem")(inputs)
    x = L.Dense(12, name="one")(x)
    x = L.Dense(12, name="two")(x)
    plain = keras.Model(inputs, L.Dense(2)(x))
    for multiplier in ({"two": 2}, lambda layer: 2.0 if layer.name == "two" else 1.0):
        model = to_any_width(plain, width_multiplier=multiplier)
        # Layers that keep their size are not rounded to the divisor, either.
        units = [model.get_layer(name).units for name in ("stem", "one", "two")]
        assert units == [9, 12, 24]
    # Layers that are added to each other are widened together, as the first one is.
    model = to_any_width(conv_net(), width_multiplier={"stem": 2, "conv": 3})
    assert [model.get_layer(name).filters for name in ("stem", "conv")] == [16, 16]


@pytest.mark.parametrize(
    ("multiplier", "error", "match"),
    [
        ({"nobody": 2.0}, ValueError, r"must name layers.*unknown names \['nobody'\]"),
        ({"conv": 0.0}, ValueError, r"must be above 0.*0.0 of layer 'conv'"),
        ({"conv": "wide"}, TypeError, "must be a number above 0, a mapping"),
        (lambda layer: None, TypeError, "None returned for layer"),
        ("wide", TypeError, "or 'balanced'. Received: width_multiplier='wide'"),
        (True, TypeError, "must be a number"),
    ],
)
def test_bad_multipliers_are_refused(multiplier, error, match):
    with pytest.raises(error, match=match):
        to_any_width(conv_net(), width_multiplier=multiplier)


def test_a_trained_model_is_not_balanced():
    with pytest.raises(ValueError, match="must be 1 for a trained model"):
        to_any_width(train_a_little(conv_net()), width_multiplier="balanced")


# -------------------------------------------------------------------------- ordering


def gammas(model, name):
    return np.abs(model.get_layer(name).gamma.numpy())


def test_the_strongest_channels_come_first():
    plain = train_a_little(conv_net())
    model = reorder_channels(plain)
    # Both normalizations belong to the same channels, since they are added.
    importance = gammas(plain, "bn") + gammas(plain, "bn2")
    order = np.argsort(-importance)
    for name in ("bn", "bn2"):
        np.testing.assert_array_equal(gammas(model, name), gammas(plain, name)[order])
    assert (np.diff(importance) > 0).any()
    converted = to_any_width(plain, divisor=2, order="importance")
    np.testing.assert_array_equal(gammas(converted, "bn2"), gammas(model, "bn2"))


def test_without_gamma_the_kernel_says_what_is_strong():
    inputs = keras.Input((4,))
    x = L.Dense(8, name="stem")(inputs)
    plain = keras.Model(inputs, L.Dense(2)(L.BatchNormalization(scale=False)(x)))
    train_a_little(plain)
    norms = np.abs(reorder_channels(plain).get_layer("stem").kernel.numpy()).sum(0)
    assert (np.diff(norms) <= 0).all()
    before = np.abs(plain.get_layer("stem").kernel.numpy()).sum(0)
    np.testing.assert_allclose(norms, np.sort(before)[::-1])


def test_channels_of_a_concatenation_stay_in_their_layers():
    inputs = keras.Input((4,))
    x = L.Dense(4, name="stem")(inputs)
    parts = [L.Dense(n, name=name)(x) for n, name in ((3, "a"), (5, "b"))]
    x = L.Add()([L.Concatenate()(parts), L.Dense(8, name="whole")(x)])
    plain = train_a_little(keras.Model(inputs, L.Dense(2)(x)))
    for name, count in (
        ("a", 3),
        ("b", 5),
    ):  # each stronger than the last
        kernel = plain.get_layer(name).kernel
        kernel.assign(np.full((4, count), 10.0) * np.arange(1, count + 1))
    model = reorder_channels(plain)
    x = inputs_of(plain)
    assert_close(outputs_of(model, x), outputs_of(plain, x))
    for name, start in (("a", 0), ("b", 3)):
        bias = plain.get_layer(name).bias.numpy()
        moved = [
            list(bias).index(value) for value in model.get_layer(name).bias.numpy()
        ]
        assert moved == sorted(moved, reverse=True)
        whole = plain.get_layer("whole").bias.numpy()[start:][moved]
        got = model.get_layer("whole").bias.numpy()[start : start + len(moved)]
        np.testing.assert_array_equal(got, whole)


def test_what_is_added_to_the_inputs_keeps_its_place():
    inputs = keras.Input((3,))
    x = L.Dense(4)(inputs)
    x = L.Add()([L.Concatenate()([inputs, x]), L.Dense(7, name="whole")(x)])
    plain = train_a_little(keras.Model(inputs, L.Dense(2)(x)))
    model = reorder_channels(plain)
    x = inputs_of(plain)
    assert_close(outputs_of(model, x), outputs_of(plain, x))
    bias = [net.get_layer("whole").bias.numpy()[:3] for net in (plain, model)]
    np.testing.assert_array_equal(*bias)


@pytest.mark.parametrize(
    "convert", [reorder_channels, lambda m: to_any_width(m, order="importance")]
)
def test_an_untrained_model_has_no_order(convert):
    with pytest.raises(ValueError, match="'net' is untrained"):
        convert(conv_net())


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match=r"`order` must be one of.*order='best'"):
        to_any_width(conv_net(), order="best")


# --------------------------------------------------------------------- nested models


def transfer():
    base = conv_net(top=False, name="base")
    inputs = keras.Input((6, 6, 2), name="photo")
    augmented = keras.Sequential([L.RandomFlip(), L.Rescaling(0.5)], name="augment")
    x = base(augmented(inputs))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(2, name="head")(L.Dropout(0.1)(x)))


def test_nested_models_are_dissolved():
    plain = train_a_little(transfer())
    model = to_any_width(plain, divisor=2)
    assert classes_of(model)["conv"] is TriConv2D
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    x = inputs_of(model)
    whole = to_any_width(plain, min_width=1.0)
    assert_close(outputs_of(whole, x), outputs_of(plain, x))
    assert_close(outputs_of(reorder_channels(plain), x), outputs_of(plain, x))
    # RandomFlip flips unless it is told not to.
    wanted = at_width(model, 0.5, x, training=False)
    assert_close(outputs_of(slim(model, 0.5), x), wanted)


# `pytest.warns` repeats what else it met, Keras' own use of NumPy included.
repeats_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@repeats_warnings
def test_of_a_frozen_model_what_was_cut_is_trained_and_the_rest_stays():
    plain = train_a_little(transfer())
    plain.get_layer("base").trainable = False
    with pytest.warns(UserWarning, match=r"'conv'.* are trainable now"):
        model = classification(to_any_width(plain, divisor=2))
    conv = model.get_layer("conv")
    assert isinstance(conv, TriConv2D)
    assert conv.trainable
    nodes = [node.operation for node in model.propagation.nodes]
    frozen = [layer for layer in nodes if layer.weights and not layer.trainable]
    cut = nodes.index(conv)
    # Before the cut nothing changes. After the cut, normalization learns, too.
    assert all(
        nodes.index(layer) < cut or not isinstance(layer, L.BatchNormalization)
        for layer in frozen
    )
    before = [value for layer in frozen for value in layer.get_weights()]
    kernel = conv.get_weights()[0]
    x, y = labelled(model)
    model.fit(x, y % 2, verbose=0)
    after = [value for layer in frozen for value in layer.get_weights()]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert (conv.get_weights()[0] != kernel).any()


def test_the_momentum_of_normalization_can_be_set():
    plain = train_a_little(conv_net())
    model = to_any_width(plain, bn_momentum=0.8)
    assert [model.get_layer(name).momentum for name in ("bn", "bn2")] == [0.8, 0.8]
    assert plain.get_layer("bn").momentum == 0.99
    for wrong in (1.0, -0.1, "0.9"):
        with pytest.raises(ValueError, match=r"`bn_momentum` must be in \[0, 1\)"):
            to_any_width(plain, bn_momentum=wrong)


def test_a_frozen_layer_that_loses_nothing_brings_no_warning():
    plain = train_a_little(transfer())
    plain.get_layer("base").trainable = False
    to_any_width(plain, min_width=1.0)  # pytest makes an error of a warning


def test_an_auxiliary_output_that_is_fed_back_is_one_finding():
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3)(L.Conv2D(8, 3)(inputs))
    scores = L.Conv2D(3, 1, name="scores")(x)
    x = L.Concatenate(name="back")([x, scores])
    x = L.BatchNormalization()(L.Conv2D(8, 1)(x))
    head = L.Dense(2)(L.Flatten()(x))
    with pytest.raises(ConversionError, match="'back'") as error:
        to_any_width(keras.Model(inputs, [scores, head]))
    assert len(error.value.findings) == 1


def test_layers_of_nested_models_get_names_of_their_own():
    left, right = (conv_net(top=False, name=name) for name in ("left", "right"))
    inputs = keras.Input((6, 6, 2))
    x = L.Concatenate()([left(inputs), keras.Sequential([right])(inputs)])
    x = L.Flatten()(x)
    plain = train_a_little(keras.Model(inputs, L.Dense(2)(x)))
    model = to_any_width(plain, divisor=2)
    names = [layer.name for layer in model.layers]
    assert len(set(names)) == len(names)
    assert "conv" in names
    assert any(name.endswith("_conv") and "right" in name for name in names)
    x = inputs_of(model)
    whole = to_any_width(plain, min_width=1.0)
    assert_close(outputs_of(whole, x), outputs_of(plain, x))


def test_a_model_that_is_called_twice_shares_its_layers():
    base = conv_net(top=False, name="base")
    inputs = [keras.Input((6, 6, 2), name=name) for name in ("first", "second")]
    joined = L.Subtract()([base(x) for x in inputs])
    outputs = L.Dense(2)(L.GlobalMaxPooling2D()(joined))
    plain = train_a_little(keras.Model(inputs, outputs))
    model = to_any_width(plain, divisor=2)
    assert len(model.weights) == len(plain.weights)
    x = inputs_of(model)
    whole = to_any_width(plain, min_width=1.0)
    assert_close(outputs_of(whole, x), outputs_of(plain, x))
    assert_close(outputs_of(slim(model, 0.5), x), at_width(model, 0.5, x))


def test_a_nested_model_may_be_called_with_a_dict_and_other_dtypes():
    left = keras.Input((6,), name="z")
    right = keras.Input((6,), name="a")
    joined = L.Concatenate()([L.Dense(8)(left), L.Dense(4)(right)])
    base = keras.Model([left, right], joined)
    inputs = [keras.Input((6,), dtype="uint8"), keras.Input((6,))]
    x = L.Dense(8)(base({"z": inputs[0], "a": inputs[1]}))
    plain = train_a_little(keras.Model(inputs, L.Dense(3)(x)))
    x = [np.arange(12).reshape(2, 6).astype("uint8"), np.ones((2, 6), "float32")]
    whole = to_any_width(plain, min_width=1.0)
    assert_close(outputs_of(whole, x), outputs_of(plain, x))


def test_a_nested_model_that_is_called_on_another_rank_is_refused():
    inner = keras.Sequential([keras.Input((1,)), L.Dense(8)], name="inner")
    inputs = keras.Input(())
    model = keras.Model(inputs, inner(inputs))
    with pytest.raises(ValueError, match="Nested model 'inner' is called on a tensor"):
        to_any_width(model)


class OwnCall(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training) * 3.0


def test_a_call_of_its_own_is_refused():
    own = OwnCall([keras.Input((4,)), L.Dense(8), L.Dense(8)], name="own")
    with pytest.raises(TypeError, match=r"'own' \(OwnCall\) overrides `call`"):
        to_any_width(own)
    inputs = keras.Input((4,))
    # Inside another model, it is opened like any nested model.
    outer = keras.Model(inputs, L.Dense(2)(own(inputs)))
    model = to_any_width(outer)
    assert sum(isinstance(layer, TriDense) for layer in model.layers) == 1
    assert len(model.distinct_widths) > 1


# -------------------------------------------------------------------------- refusals


def test_all_findings_come_at_once_and_each_once():
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3)(inputs)
    x = L.UnitNormalization(name="norm1")(x)
    x = L.UnitNormalization(name="norm2")(L.Conv2D(8, 1)(x))
    x = L.Softmax(name="softmax")(x)
    x = L.Reshape((4, 2, 4))(
        L.GlobalAveragePooling2D(keepdims=True)(L.Conv2D(32, 1)(x))
    )
    x = L.Flatten()(L.Permute((1, 3, 2), name="shuffle")(x))
    model = keras.Model(inputs, L.Dense(2)(x), name="mine")
    with pytest.raises(
        ConversionError, match="'mine' cannot become any-width"
    ) as error:
        to_any_width(model)
    findings = error.value.findings
    for part in ("norm1", "'softmax'", "'shuffle' (Permute): must keep"):
        assert any(part in finding for finding in findings), part
    assert "The same holds for 'norm2'." in findings[0]
    assert len(findings) == 3


def test_what_follows_from_a_finding_is_none():
    ops = keras.ops
    inputs = keras.Input((8, 8, 3))
    x = L.Permute((3, 1, 2), name="cause")(L.Conv2D(16, 3, padding="same")(inputs))
    for _ in range(4):  # the cause hides whether these layers are right
        x = L.Add()([x, L.BatchNormalization()(x)])
        x = L.Reshape((16, 8, 8))(L.Reshape((8, 128))(x))
        x = L.Multiply()([x, ops.mean(x, axis=-1, keepdims=True)])
        x = ops.softmax(ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))))
    x = L.Attention(name="other")([x, x])  # refused at any place
    x = L.Conv2D(8, 3)(L.Permute((2, 3, 1))(x))
    x = L.Conv2D(8, 3)(L.Softmax(name="third")(x))
    with pytest.raises(ConversionError) as error:
        to_any_width(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    findings = error.value.findings
    assert len(findings) == 3
    for name, finding in zip(("cause", "other", "third"), findings, strict=True):
        assert f"'{name}'" in finding


def test_one_reason_at_tensors_of_many_sizes_is_one_finding():
    """Gates that read all channels in three stages, as in CBAM."""
    inputs = x = keras.Input((16, 16, 3))
    for filters in (16, 32, 64):
        x = L.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = x * keras.ops.sigmoid(keras.ops.max(x, axis=-1, keepdims=True))
    with pytest.raises(ConversionError) as error:
        to_any_width(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    (finding,) = error.value.findings
    assert "acts on the channels of an input of shape (None, 8, 8, 16)" in finding
    assert re.search(r"The same holds for 'max_\d+', 'max_\d+'\.$", finding)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (
            conv_net(top=False),
            "'stem', 'conv' are the last layers that mix.*a Dense layer after pooling",
        ),
        (
            keras.applications.MobileNetV2(
                (32, 32, 3), include_top=False, weights=None
            ),
            "'Conv_1_bn'.*'Conv_1' is the last layer that mix.*a Dense layer after "
            "pooling",
        ),
    ],
)
def test_a_feature_map_at_the_end_needs_a_readout(model, match):
    with pytest.raises(ConversionError, match=match):
        to_any_width(model)


def test_a_layer_is_either_in_the_trunk_or_a_readout():
    layer = L.Dense(8, name="both")
    inputs = keras.Input((4,))
    x = layer(L.Dense(8)(inputs))
    model = keras.Model(inputs, layer(x))
    with pytest.raises(ConversionError, match=r"'both'.*both inside the trunk and as"):
        to_any_width(model)


def test_a_mixing_layer_without_tri_layer_is_refused_between_stem_and_readout():
    class Mix(L.Dense):
        pass

    axes = {"in_axes": {"kernel": 0}, "out_axes": {"kernel": 1, "bias": 0}}
    register_width_rule(Mix, WidthRule(mixing, **axes, channels="units", stem=True))
    inputs = keras.Input((5,))
    x = Mix(8, name="inner")(L.Dense(8)(inputs))
    model = keras.Model(inputs, L.Dense(2)(x))
    with pytest.raises(ConversionError, match=r"'inner'.*there is no Tri layer for it"):
        to_any_width(model)


def test_a_model_without_channels_that_come_and_go_is_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ConversionError, match="No output of the model depends on the"):
        to_any_width(keras.Model(inputs, L.Dense(2)(inputs)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Subclassed(), "must be a functional model"),
        (keras.Sequential([L.Dense(2)]), "Sequential one that is built"),
        ("net.keras", "`model` must be a Keras model"),
        (L.Dense(2), "`model` must be a Keras model"),
    ],
)
def test_what_has_no_graph_is_refused(model, match):
    with pytest.raises(TypeError, match=match):
        to_any_width(model)


def test_an_any_width_model_is_refused():
    with pytest.raises(TypeError, match="'lenet_3c1l' is any-width already"):
        to_any_width(lenet_3c1l())


# ------------------------------------------------------------------- several readouts


def two_headed():
    """Takes an image and a vector. Returns classes and a number."""
    image, vector = (
        keras.Input((6, 6, 2), name="image"),
        keras.Input((4,), name="vector"),
    )
    x = L.Conv2D(8, 3, activation="relu")(image)
    x = L.Conv2D(8, 3, activation="relu", name="conv")(x)
    x = L.Concatenate()([L.Flatten()(x), L.Dense(8, activation="relu")(vector)])
    x = L.Dense(16, activation="relu", name="joint")(x)
    classes = L.Dense(3, activation="softmax", name="classes")(x)
    number = L.Dense(1, name="number")(L.Dense(8, activation="relu", name="deep")(x))
    return keras.Model(
        {"image": image, "vector": vector}, {"classes": classes, "number": number}
    )


def compile_two_headed(model, **kwargs):
    model.compile(
        keras.optimizers.Adam(0.01),
        loss={"classes": "sparse_categorical_crossentropy", "number": "mse"},
        loss_weights={"classes": 1.0, "number": 0.5},
        metrics={"classes": ["accuracy"], "number": ["mae"]},
        **kwargs,
    )
    return model


def data_for_two_heads(model, count=64):
    x = inputs_of(model, count)
    y = {
        "classes": (x["vector"][:, 0] > 0).astype(int),
        "number": x["vector"][:, 1:2]
        + x["image"][:, 2:4, 2:4].mean(axis=(1, 2))[:, :1],
    }
    return x, y


def test_a_two_headed_model_trains_every_readout_at_every_width(tmp_path):
    keras.utils.set_random_seed(0)  # pytest-randomly has set another seed
    plain = two_headed()
    model = compile_two_headed(
        to_any_width(plain, divisor=1), widths=FixedWidths([0.25, 0.6, 1.0])
    )
    assert classes_of(model)["joint"] is classes_of(model)["deep"] is TriDense
    x, y = data_for_two_heads(model)
    before = model.evaluate(x, y, return_dict=True, verbose=0)
    model.fit(x, y, batch_size=8, epochs=30, verbose=0)
    after = model.evaluate(x, y, return_dict=True, verbose=0)
    for width in ("025", "100"):
        assert f"number_mae_w{width}" in after
        # Half of the samples are of each class.
        assert after[f"classes_accuracy_w{width}"] > 0.7
    # At width 0.25, the number comes from only 2 channels. The next test checks that
    # this width is trained, too.
    assert after["number_mae_w100"] < 0.7 * before["number_mae_w100"]
    curve = trade_off_curve(model, x, y)
    assert len(curve.accuracy) == len(model.distinct_widths)
    for width in (0.25, 0.6):
        small = slim(model, width)
        assert_close(outputs_of(small, x), at_width(model, width, x))
    (record,) = export_tflite(model, tmp_path / "a.tflite", widths=[0.25])
    assert record.largest_error < 1e-4


@eagerly
def test_the_loss_of_two_heads_is_that_of_their_slim_networks():
    model = compile_two_headed(
        to_any_width(two_headed(), divisor=1),
        widths=FixedWidths([0.25, 0.6, 1.0]),
        report_widths=[],
    )
    model.optimizer.learning_rate = 0.0
    x, y = data_for_two_heads(model, 8)
    loss = model.train_on_batch(x, y, return_dict=True)["loss"]
    slim_losses = [
        compile_two_headed(slim(model, width)).evaluate(x, y, verbose=0)[0]
        for width in (0.25, 0.6, 1.0)
    ]
    # Sums in another order.
    assert float(loss) == pytest.approx(np.mean(slim_losses), rel=1e-5)


# ------------------------------------------------------------------------ end to end


def u_net(size=16):
    """Encoder, transposed convolutions, concatenated skips, classes of pixels."""

    def block(x, channels):
        for _ in range(2):
            x = L.Conv2D(channels, 3, padding="same", use_bias=False)(x)
            x = L.ReLU()(L.BatchNormalization(momentum=0.9)(x))
        return x

    inputs = keras.Input((size, size, 1), name="image")
    skips, x = [], inputs
    for channels in (8, 16):
        x = block(x, channels)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = block(x, 16)
    for channels in (16, 8):
        x = L.Conv2DTranspose(channels, 2, strides=2, name=f"up{channels}")(x)
        x = block(L.Concatenate()([x, skips.pop()]), channels)
    return keras.Model(inputs, L.Conv2D(2, 1, name="pixels")(x), name="u_net")


def bright_squares(count=64, size=16):
    """Images with a bright square in noise; its pixels are class 1."""
    rng = np.random.default_rng(0)
    y = np.zeros((count, size, size), int)
    for labels, (row, col) in zip(
        y, rng.integers(0, size - 6, (count, 2)), strict=True
    ):
        labels[row : row + 6, col : col + 6] = 1
    x = y[..., None] + rng.normal(scale=0.5, size=(count, size, size, 1))
    return x.astype("float32"), y


@pytest.mark.slow
def test_a_segmentation_network_end_to_end(tmp_path):
    keras.utils.set_random_seed(0)  # pytest-randomly has set another seed
    model = to_any_width(u_net(), divisor=1)
    assert isinstance(model.get_layer("up16"), TriConv2DTranspose)
    x, y = bright_squares()
    classification(model, optimizer=keras.optimizers.Adam(0.01))
    model.fit(x[:48], y[:48], batch_size=8, epochs=30, verbose=0)
    curve = trade_off_curve(model, x[48:], y[48:])
    # The square has 14 % of the pixels, so a model that learns nothing reaches 0.86.
    assert curve.accuracy[-1] > 0.9
    assert min(curve.accuracy) > 0.8
    for width in (0.25, 0.5, 1.0):
        small = slim(model, width)
        assert_close(outputs_of(small, x[:4]), at_width(model, width, x[:4]))
    assert isinstance(small.get_layer("up16"), L.Conv2DTranspose)
    assert count_macs(small) == curve.macs[-1]
    path = tmp_path / "a.tflite"
    for record in export_tflite(model, path, widths=[0.25, 1.0], samples=x[:4]):
        assert record.largest_error < 1e-4


def keyword_net(frames=40, coefficients=10):
    """One-dimensional convolutions over time, as for spotting words in audio."""
    inputs = keras.Input((frames, coefficients), name="mfcc")
    x = inputs
    for channels, strides in ((16, 1), (16, 2), (24, 2)):
        x = L.Conv1D(channels, 5, strides=strides, padding="same", use_bias=False)(x)
        x = L.ReLU()(L.BatchNormalization(momentum=0.9)(x))
    x = L.ReLU()(L.DepthwiseConv1D(3, padding="same", name="depthwise")(x))
    x = L.Conv1D(24, 3, padding="causal", activation="relu", name="causal")(x)
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, L.Dense(4, name="words")(x), name="keywords")


def chirps(count=160, frames=40, coefficients=10):
    """Ridges that rise, fall, stay low or stay high over time."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, count)
    time = np.linspace(0, 1, frames)
    places = np.stack([time, 1 - time, 0 * time + 0.2, 0 * time + 0.8])[y]
    places = places * (coefficients - 1)
    x = np.exp(-((places[..., None] - np.arange(coefficients)) ** 2))
    return (x + rng.normal(scale=0.2, size=x.shape)).astype("float32"), y


@pytest.mark.slow
def test_a_keyword_network_end_to_end(tmp_path):
    keras.utils.set_random_seed(0)  # pytest-randomly has set another seed
    model = to_any_width(keyword_net(), divisor=1)
    assert isinstance(model.get_layer("causal"), TriConv1D)
    x, y = chirps()
    classification(model, optimizer=keras.optimizers.Adam(0.01))
    model.fit(x[:120], y[:120], batch_size=20, epochs=15, verbose=0)
    curve = trade_off_curve(model, x[120:], y[120:])
    # Chance is 0.25.
    assert curve.accuracy[-1] > 0.8
    assert min(curve.accuracy) > 0.5
    for width in (0.25, 0.5, 1.0):
        small = slim(model, width)
        assert_close(outputs_of(small, x[:4]), at_width(model, width, x[:4]))
    path = tmp_path / "a.tflite"
    for record in export_tflite(model, path, widths=[0.25, 1.0], samples=x[:4]):
        assert record.largest_error < 1e-4


def test_separable_convolutions_become_triangular():
    inputs = keras.Input((6, 6, 3))
    x = L.SeparableConv2D(8, 3, name="stem")(inputs)
    x = L.SeparableConv2D(8, 3, depth_multiplier=2, name="inner")(x)
    plain = keras.Model(inputs, L.SeparableConv2D(2, 1, name="readout")(x))
    model = train_a_little(to_any_width(plain, divisor=1))
    classes = classes_of(model)
    assert classes["stem"] is classes["readout"] is L.SeparableConv2D
    assert classes["inner"] is TriSeparableConv2D
    x = inputs_of(model)
    for width in model.distinct_widths:
        assert_close(outputs_of(slim(model, width), x), at_width(model, width, x))


class OwnStem(L.Layer):
    """A stem whose attributes have other names than its arguments."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.count = units

    def get_config(self):
        return {**super().get_config(), "units": self.count}

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.count))

    def call(self, x):
        return x @ self.kernel


def test_a_stem_of_ones_own_is_widened_ordered_and_slimmed():
    rule = WidthRule(
        lambda call: call.new_channels(call.output_shape[-1]),
        out_axes={"kernel": 1},
        channels="units",
        stem=True,
    )
    register_width_rule(OwnStem, rule)
    inputs = keras.Input((4,))
    x = L.Dense(8, use_bias=False)(OwnStem(8, name="stem")(inputs))
    plain = keras.Model(inputs, L.Dense(2)(x))
    wide = to_any_width(plain, width_multiplier=2.0)
    assert wide.get_layer("stem").count == 16
    train_a_little(plain)
    converted = to_any_width(plain, divisor=1, order="importance")
    sizes = np.abs(np.asarray(slim(converted, 0.5).get_layer("stem").kernel)).sum(0)
    assert len(sizes) == 4
    assert (np.diff(sizes) <= 0).all()
