import importlib.util
import subprocess
import sys

import hypothesis
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import strategies as st

from awn_keras import (
    AnyWidthInterpreter,
    AnyWidthModel,
    TriConv2D,
    TriDense,
    architectures,
    lenet_3c1l,
    mobilenet_v2,
    slim,
)
from awn_keras.data import load_data
from awn_keras.deploy import quantization_aware
from awn_keras.deploy.litert import TFLiteFile, precision_of, run_tflite
from awn_keras.deploy.pixels import Pixels
from awn_keras.deploy.quantization_aware import (
    convert_int8,
    quantize_aware,
    tf_keras_at,
    to_tf_keras,
)
from awn_keras.errors import ExportError
from awn_keras.graph import graph_nodes
from tests.conftest import (
    at_width,
    classification,
    inputs_of,
    rich,
    small_conv,
    small_dense,
)
from tests.graphs import random_graph
from tests.test_slimming import randomize

L = keras.layers


@pytest.fixture(scope="module")
def tfmot():
    # `importorskip` would import it and so decide what `tf.keras` is in other tests.
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        pytest.skip("needs the extra `quantization`")
    return quantization_aware._import_tfmot()


@pytest.fixture(scope="module")
def tf_keras(tfmot):
    import tf_keras

    return tf_keras


def joined():
    """Two inputs and outputs; Add, Concatenate, a depthwise convolution, ReLU6."""
    image, vector = keras.Input((6, 6, 2), name="z"), keras.Input((3,), name="a")
    x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(6, 3, use_bias=False)(image)))
    y = TriConv2D(6, 1, use_bias=False)(L.DepthwiseConv2D(3, padding="same")(x))
    x = L.Add(name="sum")([x, L.BatchNormalization()(y)])
    x = L.Concatenate()([L.Flatten()(x), L.Dense(4, activation="relu")(vector)])
    x = TriDense(7, activation="relu")(x)
    probabilities = L.Dense(2, activation="softmax", name="q")(x)
    outputs = {"q": probabilities, "b": L.Dense(3, name="b")(x)}
    return AnyWidthModel({"z": image, "a": vector}, outputs)


def predict(model, x):
    # Eagerly: to make a graph takes longer than to run it once.
    return [y.numpy() for y in keras.tree.flatten(model(x, training=False))]


def fitted(quantized, x):
    """Some steps towards zero."""
    count = len(keras.tree.flatten(x)[0])
    y = keras.tree.map_structure(
        lambda output: np.zeros((count, *output.shape[1:])), quantized.output
    )
    quantized.compile("sgd", "mse")
    quantized.fit(x, y, epochs=3, verbose=0)
    return quantized


def ranges(quantized, layer):
    """How activations are quantized: by the name of the tensor, its least and most."""
    weights = quantized.get_layer(layer).weights
    names = [weight.name.rpartition("/")[2].removesuffix(":0") for weight in weights]
    return dict(zip(names, (weight.numpy() for weight in weights), strict=True))


# ----------------------------------------------------------------- Keras 3 to tf_keras


@pytest.mark.parametrize("make", [lenet_3c1l, small_dense, joined])
def test_tf_keras_computes_what_the_model_does(tf_keras, make):
    model = randomize(make())
    x = inputs_of(model)
    for width in (0.5, 1.0):
        plain = tf_keras_at(model, width)
        assert isinstance(plain, tf_keras.Model)
        assert plain.name == model.name
        assert plain.input_names == [tensor.name for tensor in slim(model, 1.0).inputs]
        wanted = at_width(model, width, x)
        for got, expected in zip(predict(plain, x), wanted, strict=True):
            # The same sums, perhaps in another order.
            np.testing.assert_allclose(
                got, expected, atol=1e-5 * np.abs(expected).max()
            )


def test_sequential_models(tf_keras):
    model = keras.Sequential([L.Dense(3)])
    with pytest.raises(TypeError, match="a Sequential one that is built"):
        to_tf_keras(model)
    model.build((None, 4))
    assert to_tf_keras(model).output_shape == (None, 3)


def test_a_layer_that_is_called_twice_is_one_layer(tf_keras):
    inputs = keras.Input((4,))
    layer = L.Dense(4, activation="gelu", name="shared")
    plain = to_tf_keras(keras.Model(inputs, layer(layer(inputs))))
    assert plain.count_params() == 20


def test_settings_that_have_another_name_or_none_in_tf_keras(tf_keras):
    inputs = keras.Input((5, 5, 3), batch_size=2)
    normalization = L.Normalization()
    x = L.Conv2D(
        3,
        3,
        activation="silu",
        kernel_initializer=keras.initializers.VarianceScaling(mode="fan_out"),
        kernel_regularizer=keras.regularizers.L2(0.1),
        kernel_constraint=keras.constraints.NonNeg(),
    )(normalization(inputs))
    x = L.BatchNormalization(gamma_regularizer=keras.regularizers.L1(0.1))(x)
    x = L.PReLU(shared_axes=[1, 2])(L.LeakyReLU(0.3)(x))
    x = L.UpSampling2D(interpolation="bilinear")(L.Dropout(0.5)(x))
    x = L.SeparableConv2D(4, 3, depth_multiplier=2)(x)
    x = L.Softmax()(L.Conv2DTranspose(2, 3, strides=2)(L.Rescaling(0.1)(x)))
    model = randomize(keras.Model(inputs, x))
    normalization.adapt(np.random.default_rng(0).normal(3, 2, size=(50, 5, 5, 3)))
    plain = to_tf_keras(model)
    assert plain.input_shape == (2, 5, 5, 3)
    assert plain.losses == []


def test_inputs_of_unknown_rows_and_cols(tf_keras):
    inputs = keras.Input((None, None, 3))
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3)(inputs))
    model = AnyWidthModel(inputs, L.Dense(2)(x))
    assert tf_keras_at(model, 0.5).input_shape == (None, None, None, 3)
    with pytest.raises(
        ValueError, match=r"needs a fixed input size.*\(None, None, None, 3\)"
    ):
        convert_int8(quantize_aware(model, 0.5), "width_050")


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=15)
def test_random_graphs_are_rebuilt_or_name_their_operator(tf_keras, data):
    model = random_graph(data.draw, max_steps=4)
    layers = [node.operation for node in graph_nodes(model)]
    known = [hasattr(tf_keras.layers, type(layer).__name__) for layer in layers]
    if all(known) and all(isinstance(layer, L.Layer) for layer in layers):
        to_tf_keras(model)  # which compares outputs
    else:
        with pytest.raises(NotImplementedError, match="tf_keras has no layer like"):
            to_tf_keras(model)


def test_operators_and_unknown_layers_are_refused(tf_keras):
    with pytest.raises(
        NotImplementedError, match=r"no layer like .*\((Mult|Relu).*Resc"
    ):
        quantize_aware(rich(), 0.5)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.RMSNormalization(name="rms")(inputs))
    with pytest.raises(NotImplementedError, match=r"like 'rms' \(RMSNormalization\)"):
        to_tf_keras(model)
    model = keras.Model(inputs, L.Dense(2, activation="celu", name="odd")(inputs))
    with pytest.raises(NotImplementedError, match=r"'odd' \(Dense\) has argum.*celu"):
        to_tf_keras(model)


@pytest.mark.parametrize(
    ("activation", "bias"), [("hard_sigmoid", 0.0), ("relu", np.nan)]
)
def test_a_model_that_computes_something_else_is_refused(tf_keras, activation, bias):
    inputs = keras.Input((4,))
    layer = L.Dense(2, activation=activation, name="odd")
    model = keras.Model(inputs, layer(inputs), name="m")
    layer.bias.assign([bias, bias])
    with pytest.raises(ExportError, match="Output 'odd' of model 'm' differs by"):
        to_tf_keras(model)


# ------------------------------------------------------------------------ quantization


def test_the_file_computes_what_the_fitted_model_does(tf_keras):
    model = randomize(small_conv())
    x = inputs_of(model, 40)
    before, weights = at_width(model, 0.5, x), model.get_weights()
    quantized = fitted(quantize_aware(model, 0.5, representative=x), x)
    content = convert_int8(quantized, "width_050")
    (got,), (wanted,) = run_tflite(content, [x]), predict(quantized, x)
    limits = ranges(quantized, quantized.layers[-1].name)
    step = (limits["post_activation_max"] - limits["post_activation_min"]) / 255
    # Integer arithmetic may round a value between two steps the other way.
    np.testing.assert_allclose(got, wanted, atol=1.01 * step)
    assert np.mean(np.abs(got - wanted) < 0.01 * step) > 0.8
    # Keras 3 goes on beside Keras 2, and the model is as it was.
    np.testing.assert_array_equal(at_width(model, 0.5, x), before)
    # A graph may sum in another order.
    np.testing.assert_allclose(model.predict(x, verbose=0), before[0], rtol=1e-4)
    for weight, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_several_inputs_and_outputs_keep_their_names(tf_keras):
    model = joined()
    x = inputs_of(model, 40)
    quantized = fitted(quantize_aware(model, 1.0, representative=x), x)
    assert set(quantized.output) == {"q", "b"}
    content = convert_int8(quantized, "width_100")
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_signature_list() == {
        "width_100": {"inputs": ["a", "z"], "outputs": ["b", "q"]}
    }
    for detail in interpreter.get_input_details() + interpreter.get_output_details():
        assert detail["dtype"] is np.float32
    got = run_tflite(content, [x["a"], x["z"]])
    for output, other in zip(got, predict(quantized, x), strict=True):
        # A step of 1/255 of the range, at each of the layers.
        np.testing.assert_allclose(output, other, atol=0.02 * np.ptp(other))


def test_ranges_begin_with_those_of_representative_inputs(tf_keras):
    model = joined()
    x = {"z": 20 * inputs_of(model, 70)["z"], "a": inputs_of(model, 70)["a"]}
    quantized = quantize_aware(model, 0.5, representative=x)
    plain = tf_keras_at(model, 0.5)
    summed = tf_keras.Model(plain.input, plain.get_layer("sum").output)
    (summed,) = predict(summed, x)
    largest = ranges(quantized, "quant_q")["pre_activation_max"]
    logits = plain.get_layer("q")
    logits.activation = None
    (wanted, _) = sorted(predict(plain, x), key=lambda y: y.shape[1])
    assert largest == pytest.approx(max(0, wanted.max()), rel=1e-5)
    # The sum goes into a Concatenate, by way of Flatten, and keeps a range of its own.
    assert ranges(quantized, "quant_sum")["output_max"] == pytest.approx(
        summed.max(), rel=1e-5
    )
    inputs = [layer for layer in quantized.layers if "quantize_layer" in layer.name]
    largest = sorted(
        ranges(quantized, tensor.name)[f"{tensor.name}_max"] for tensor in inputs
    )
    assert largest == pytest.approx(sorted([x["z"].max(), x["a"].max()]))


def test_without_representative_inputs_ranges_are_those_of_tfmot(tf_keras):
    quantized = quantize_aware(small_dense(), 0.5)
    limits = ranges(quantized, quantized.layers[-1].name)
    assert (limits["post_activation_min"], limits["post_activation_max"]) == (-6, 6)


def test_a_layer_that_gives_0_for_all_samples_keeps_the_range_of_tfmot(tf_keras):
    model = small_dense()
    kernel, bias = model.layers[1].get_weights()
    model.layers[1].set_weights([kernel, bias - 1e3])
    quantized = quantize_aware(model, 0.5, representative=inputs_of(model, 70))
    limits = ranges(quantized, f"quant_{model.layers[1].name}")
    assert (limits["post_activation_min"], limits["post_activation_max"]) == (-6, 6)
    content = convert_int8(quantized, "width_050")
    (outputs,) = run_tflite(content, [inputs_of(model, 5)])
    assert np.isfinite(outputs).all()


@pytest.mark.filterwarnings("ignore:.*has no Tri layer:UserWarning")
def test_separable_convolutions(tf_keras):
    # As in a fresh process, where both Keras count from 0: tfmot gives the parts of a
    # separable convolution the next automatic names.
    tf_keras.backend.reset_uids()
    keras.backend.clear_session()
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 1, activation="relu")(inputs)
    x = L.DepthwiseConv2D(1, name="depthwise_conv2d_2")(x)
    x = L.ReLU()(L.SeparableConv2D(4, 3)(L.SeparableConv2D(4, 1)(x)))
    model = AnyWidthModel(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    x = inputs_of(model, 8)
    quantized = quantize_aware(model, 0.5, representative=x)
    content = convert_int8(fitted(quantized, x), "width_050")
    assert run_tflite(content, [x])[0].shape == (8, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"width": 0.1}, ValueError, "`width` must be at least the model's"),
        (
            {"representative": np.zeros((3, 5))},
            ValueError,
            "`representative` must have",
        ),
        (
            {"representative": np.zeros((0, 4))},
            ValueError,
            "`representative` must have",
        ),
        ({"model": keras.Sequential()}, TypeError, "must be an `AnyWidthModel`"),
    ],
)
def test_bad_arguments_are_refused(tfmot, arguments, error, match):
    with pytest.raises(error, match=match):
        quantize_aware(**{"model": small_dense(), "width": 0.5, **arguments})


def test_layers_that_tfmot_does_not_know_are_refused(tfmot):
    inputs = keras.Input((4,))
    x = L.PReLU(name="odd")(L.Dense(4)(inputs))
    with pytest.raises(RuntimeError, match=r"Layer odd:.* is not supported"):
        quantize_aware(AnyWidthModel(inputs, L.Dense(2)(x)), 1.0)
    x = L.Dense(2)(L.Dense(4, activation="elu")(inputs))
    with pytest.raises(ValueError, match="Only some Keras activations"):
        quantize_aware(AnyWidthModel(inputs, x), 1.0)


def of_images(rows, cols):
    inputs = keras.Input((rows, cols, 1), name="image")
    x = L.GlobalAveragePooling2D()(TriConv2D(4, 3)(L.Conv2D(4, 3)(inputs)))
    return randomize(AnyWidthModel(inputs, L.Dense(2, name="scores")(x)))


IMAGES = np.random.default_rng(0).normal(size=(40, 8, 6, 1)).astype("float32")


def test_a_file_has_the_size_that_is_asked_for(tf_keras):
    model = of_images(None, None)
    free = quantize_aware(model, 0.5)
    with pytest.raises(
        ValueError, match=r"Give the size.*'image' of shape \(None, None,"
    ):
        convert_int8(free, "width_050")
    with pytest.raises(ValueError, match=r"must fit input 'image'.*\(8, 6, 3\)"):
        convert_int8(free, "width_050", input_shape=(8, 6, 3))
    interpreter = Interpreter(
        model_content=convert_int8(free, "width_050", input_shape=(8, 6, 1))
    )
    assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 8, 6, 1]
    quantized = quantize_aware(model, 0.5, representative=IMAGES, input_shape=(8, 6, 1))
    content = convert_int8(quantized, "width_050")
    (got,), (wanted,) = run_tflite(content, [IMAGES]), predict(quantized, IMAGES)
    # Some steps of 1/255 of the range: one at each of the layers.
    np.testing.assert_allclose(got, wanted, atol=0.02 * np.ptp(wanted))


def test_a_file_says_what_it_was_told(tf_keras, tmp_path):
    quantized = quantize_aware(of_images(8, 6), 0.5, representative=IMAGES)
    classes = ["cat", "dog"]
    told = {"class_names": classes, "normalization": {"mean": 10.0, "std": 20.0}}
    content = convert_int8(quantized, "width_050", metadata=told)
    assert not TFLiteFile(convert_int8(quantized, "width_050")).described
    file = TFLiteFile(content)
    assert file.labels == tuple(classes)
    assert file.pixels_of("image") == Pixels((10.0,), (20.0,))
    path = tmp_path / "quantized.tflite"
    path.write_bytes(content)
    assert precision_of(path) == "int8"
    got = AnyWidthInterpreter(path).run(IMAGES[:1], width=0.5)
    np.testing.assert_array_equal(got, run_tflite(content, [IMAGES[:1]])[0])
    with pytest.raises(ValueError, match="name for each of the"):
        convert_int8(quantized, "width_050", metadata={"class_names": ["one"]})
    with pytest.raises(TypeError, match="what JSON holds"):
        convert_int8(quantized, "width_050", metadata={"by": tf_keras})
    with pytest.raises(TypeError, match="`metadata` must be a dict"):
        convert_int8(quantized, "width_050", metadata=classes)


def test_a_model_that_computes_in_float_is_refused(tf_keras):
    with pytest.raises(ExportError, match=r"`quantize_aware`.*int8: CONV_2D"):
        convert_int8(tf_keras_at(small_conv(), 0.5), "width_050")


def test_operators_that_are_not_builtin_are_refused(tf_keras):
    import tensorflow as tf

    inputs = tf_keras.Input((4,))
    model = tf_keras.Model(inputs, tf_keras.layers.Lambda(tf.math.erfinv)(inputs))
    with pytest.raises(ExportError, match=r"Model 'model.*Erfinv"):
        convert_int8(model, "width_050")


# --------------------------------------------------------------- pruning and clustering


def test_pruned_and_clustered_models_are_quantized_and_exported(tfmot, tf_keras):
    model = randomize(small_conv())
    x = inputs_of(model, 40)
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=1)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(tf_keras_at(model, 1.0), schedule)
    pruned.compile("sgd", "mse")
    update = tfmot.sparsity.keras.UpdatePruningStep()
    pruned.fit(x, np.zeros((40, 3)), verbose=0, callbacks=[update])
    plain = tfmot.sparsity.keras.strip_pruning(pruned)
    kernel = plain.layers[-1].get_weights()[0]
    assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.02)

    kind = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    clustered = tfmot.clustering.keras.cluster_weights(tf_keras_at(model, 1.0), 8, kind)
    plain = tfmot.clustering.keras.strip_clustering(clustered)
    assert len(np.unique(plain.layers[-1].get_weights()[0])) <= 8

    import tensorflow as tf

    content = tf.lite.TFLiteConverter.from_keras_model(plain).convert()
    (got,) = run_tflite(content, [x])
    # Folding of BatchNormalization rounds each weight once more.
    (wanted,) = predict(plain, x)
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())

    quantized = fitted(tfmot.quantization.keras.quantize_model(plain), x)
    content = convert_int8(quantized, "width_100")
    assert run_tflite(content, [x])[0].shape == (40, 3)


# ---------------------------------------------------------------------------- the extra


@pytest.mark.parametrize("missing", ["tf_keras", "tensorflow_model_optimization"])
def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch, missing):
    # The other one may be there, or not.
    monkeypatch.setitem(sys.modules, "tf_keras", keras)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as raised:
        quantize_aware(small_dense(), 0.5)
    assert raised.value.name == missing
    assert f"package {missing.replace('_', '-')}," in str(raised.value)
    assert 'pip install "awn_keras[quantization]"' in str(raised.value)


@pytest.mark.slow
def test_tf_keras_does_not_become_what_tensorflow_calls_keras(tfmot):
    code = """
import os
import tensorflow as tf
from awn_keras import lenet_3c1l
from awn_keras.deploy.quantization_aware import quantize_aware
quantize_aware(lenet_3c1l(), 0.5)
assert "TF_USE_LEGACY_KERAS" not in os.environ
assert tf.keras.__version__.startswith("3."), tf.keras.__version__
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# ------------------------------------------------------------------------------- slow


@pytest.mark.slow
def test_mobilenet_v2(tf_keras, monkeypatch):
    # Its first three blocks, which have all kinds of layers.
    blocks = architectures._MOBILENET_V2[:2]
    monkeypatch.setattr(architectures, "_MOBILENET_V2", blocks)
    model = mobilenet_v2(width_multiplier=0.25)
    x = inputs_of(model, 32)
    quantized = fitted(quantize_aware(model, 0.5, representative=x), x)
    content = convert_int8(quantized, "width_050")
    (got,), (wanted,) = run_tflite(content, [x]), predict(quantized, x)
    # Roundings of eleven layers add up.
    assert np.sqrt(np.mean((got - wanted) ** 2)) < 0.05 * np.ptp(wanted)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Rescaling(1 / 128, offset=-127 / 128),
        keras.layers.Normalization(
            mean=[120.0, 110.0, 100.0], variance=[9.0, 16.0, 25.0]
        ),
    ],
    ids=["rescaling", "normalization"],
)
def test_what_scales_images_is_a_convolution_to_tfmot(layer, tf_keras):
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(8, 3)(layer(inputs))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(TriConv2D(8, 1)(x)))
    model = AnyWidthModel(inputs, outputs)
    pixels = np.random.default_rng(0).uniform(0, 255, (50, 6, 6, 3)).astype("float32")
    quantized = quantize_aware(model, 1.0, representative=pixels)
    # Training finds the ranges of weights; at a rate of 0 it changes nothing else.
    quantized.compile(tf_keras.optimizers.SGD(0.0), "mse")
    quantized.fit(pixels, np.zeros((50, 2)), verbose=0)
    (wanted,) = at_width(model, 1.0, pixels)
    # Eight bits for each of three layers, of values up to the largest.
    np.testing.assert_allclose(
        quantized(pixels), wanted, atol=0.05 * np.abs(wanted).max()
    )
    content = convert_int8(quantized, "width_100")
    (got,) = run_tflite(content, [pixels])
    np.testing.assert_allclose(got, wanted, atol=0.06 * np.abs(wanted).max())


@pytest.mark.slow
def test_digits_keep_their_accuracy(tf_keras):
    data = load_data("digits")
    model = lenet_3c1l(
        data.input_shape,
        filters=8,
        padding="same",
        preprocessing=data.preprocessing(),
    )
    classification(model, optimizer="adam")
    model.fit(data.train(32), epochs=8, shuffle=False, verbose=0)
    images, labels = map(np.concatenate, zip(*data.train(), strict=True))
    quantized = quantize_aware(model, 0.5, representative=images[:200])
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    quantized.compile(tf_keras.optimizers.SGD(3e-4, momentum=0.9), loss)
    quantized.fit(images, labels, batch_size=32, verbose=0)
    ((x, y),) = data.test()
    (got,) = run_tflite(convert_int8(quantized, "width_050"), [x])
    (wanted,) = at_width(model, 0.5, x)
    accuracy = np.mean(wanted.argmax(1) == y)
    assert accuracy > 0.8
    assert np.mean(got.argmax(1) == y) >= accuracy - 0.01
