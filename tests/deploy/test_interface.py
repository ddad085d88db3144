import keras
import numpy as np
import pytest

from awn_keras import slim
from awn_keras.deploy.converter import input_name
from awn_keras.deploy.interface import (
    Interface,
    activation_of,
    gives_logits,
    takes_pixels,
)
from awn_keras.deploy.pixels import Pixels
from awn_keras.graph import operation_of
from tests.conftest import classification, rich, small_conv, small_dense
from tests.deploy.classifiers import classifier, of_pixels, pixels, softmax

IMAGENET = {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}
layers = keras.layers


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ([], False),
        ([layers.Rescaling(1 / 255)], True),
        ([layers.Rescaling(1 / 127.5, -1)], True),
        ([layers.Rescaling([1 / 58.4, 1 / 57.1, 1 / 57.4], [-2.1, -2.0, -1.8])], True),
        ([layers.Rescaling(2.0, -1)], False),
        ([layers.Normalization(mean=[124, 116, 104], variance=[3400, 3300, 3300])], 1),
        ([layers.Normalization(mean=[0.5] * 3, variance=[0.05] * 3)], False),
        ([layers.Normalization(mean=0, variance=1e4, invert=True)], False),
        ([layers.RandomFlip(), layers.Resizing(12, 16), layers.Rescaling(0.004)], True),
        ([layers.Rescaling(1 / 255), layers.Normalization(mean=0.5, variance=0.1)], 1),
        ([layers.BatchNormalization()], False),
    ],
)
def test_a_model_takes_pixels_if_it_normalizes_them(before, wanted):
    assert takes_pixels(classifier(before=before)) == bool(wanted)


def test_an_adapted_layer_is_looked_at():
    layer = layers.Normalization()
    layer.adapt(pixels(20).astype("float32"))
    assert takes_pixels(classifier(before=[layer]))
    layer = layers.Normalization()
    layer.adapt(pixels(20).astype("float32") / 255)
    assert not takes_pixels(classifier(before=[layer]))


def test_integers_are_pixels_and_other_shapes_no_images():
    camera = classifier(dtype="uint8", before=[layers.Rescaling(2.0)])
    assert takes_pixels(camera)
    for model in (small_dense(), small_conv(), rich()):
        assert not takes_pixels(model)


@pytest.mark.parametrize("answers", ["activation", "layer", "operation"])
def test_a_last_softmax_is_found(answers):
    model = classifier(answers=answers)
    assert activation_of(operation_of(model.outputs[0])) == "softmax"
    assert activation_of(operation_of(classifier().outputs[0])) is None


def test_what_was_compiled_says_whether_they_are_logits():
    model = classifier()
    assert not gives_logits(model)
    assert gives_logits(classification(model))
    probabilities = keras.losses.SparseCategoricalCrossentropy()
    assert not gives_logits(classification(model, loss=probabilities))
    assert not gives_logits(rich())


# -------------------------------------------------------------------------- networks


def same_names(network, model):
    assert [input_name(x) for x in network.inputs] == [
        input_name(x) for x in model.inputs
    ]
    assert network.output_names == model.output_names


@pytest.mark.parametrize("answers", ["logits", "activation", "layer", "operation"])
@pytest.mark.parametrize("outputs", ["model", "probabilities", "logits"])
def test_answers_are_what_was_asked_for_under_the_same_name(answers, outputs):
    model = classifier(answers=answers)
    interface = Interface.of(model, None, outputs, {})
    network = interface.applied(slim(model, 1.0))
    same_names(network, model)
    x = np.random.default_rng(0).normal(size=(3, 12, 16, 3)).astype("float32")
    got, own = np.asarray(network(x)), np.asarray(model(x))
    model_gives = "logits" if answers == "logits" else "probabilities"
    if outputs in ("model", model_gives):
        # The same layers.
        np.testing.assert_allclose(got, own, rtol=1e-6)
    elif outputs == "probabilities":
        # Softmax of another library.
        np.testing.assert_allclose(got, softmax(own), rtol=1e-5)
    else:
        np.testing.assert_allclose(softmax(got), own, rtol=1e-5)
        assert np.abs(got.sum(-1) - 1).min() > 1e-3
    # What the comparison makes of both is the same.
    np.testing.assert_allclose(
        interface.comparable(model.output_names[0], got),
        interface.expected(model.output_names[0], own),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("before", "metadata"),
    [
        ([layers.Rescaling(1 / 127.5, -1)], {}),
        ([], {"normalization": IMAGENET}),
        ([], {"normalization": {"mean": 127, "std": 128}}),
    ],
)
def test_a_network_of_pixels_computes_what_the_model_does(before, metadata):
    model = classifier(before=before)
    interface = Interface.of(model, "uint8", "model", metadata)
    network = interface.applied(slim(model, 1.0))
    same_names(network, model)
    assert network.inputs[0].dtype == "uint8"
    photos = pixels(3)
    x = photos.astype("float32")
    if metadata:
        x = Pixels.parse(metadata["normalization"]).to_inputs(photos)
    np.testing.assert_array_equal(interface.to_file("photo", x), photos)
    np.testing.assert_allclose(interface.to_model("photo", x), x, atol=1e-5)
    # Scale and offset are rounded once more.
    np.testing.assert_allclose(network(photos), model(x), atol=1e-4)
    assert interface.pixels == Pixels()


def test_a_model_of_integers_may_be_a_file_of_floats():
    model = of_pixels(dtype="uint8")
    assert Interface.of(model, None, "model", {}).dtypes == {"photo": "uint8"}
    assert Interface.of(model, "uint8", "model", {}).inside is None
    interface = Interface.of(model, "float32", "model", {})
    network = interface.applied(slim(model, 1.0))
    assert network.inputs[0].dtype == "float32"
    photos = pixels(3)
    np.testing.assert_allclose(
        network(photos.astype("float32")), model(photos), rtol=1e-5
    )
    assert interface.to_file("photo", photos).dtype == "float32"


def test_a_network_that_is_asked_for_nothing_is_left():
    for model in (classifier(), rich(), small_dense()):
        network = slim(model, 1.0)
        assert Interface.of(model, None, "model", {}).applied(network) is network


@pytest.mark.parametrize(
    ("make", "inputs", "outputs", "metadata", "match"),
    [
        (classifier, "int8", "model", {}, r"`inputs` must be one of \(None, 'float32'"),
        (classifier, None, "softmax", {}, "`outputs` must be one of"),
        (classifier, "uint8", "model", {}, "needs to know how pixels become the"),
        (small_dense, "uint8", "model", {}, r"is about images.*\(None, 4\)"),
        (rich, None, "logits", {}, "needs a model with one output of scores"),
        (classifier, None, "model", {"normalization": {"mean": 0, "std": 0}}, "above"),
        (
            lambda: classifier(shape=(12, 16, 1)),
            *(None, "model", {"normalization": IMAGENET}, "input's 1 channels"),
        ),
    ],
)
def test_what_cannot_be_is_refused(make, inputs, outputs, metadata, match):
    with pytest.raises(ValueError, match=match):
        Interface.of(make(), inputs, outputs, metadata)


def test_a_sigmoid_is_no_softmax():
    inputs = keras.Input((4,))
    x = layers.Dense(3, activation="sigmoid")(layers.Dense(4)(inputs))
    model = keras.Model(inputs, x)
    assert Interface.of(model, None, "probabilities", {}).softmax is None
    assert Interface.of(model, None, "model", {}).scores == "probabilities"
    with pytest.raises(ValueError, match="the model ends in a sigmoid"):
        Interface.of(model, None, "logits", {})


def test_numbers_of_a_table_are_not_pixels():
    metadata = {"normalization": {"mean": [1, 2, 3, 4], "std": [1, 1, 1, 1]}}
    assert Interface.of(small_dense(), None, "model", metadata).pixels is None
