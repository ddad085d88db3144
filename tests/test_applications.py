"""Networks of keras.applications by name take pixels and return logits."""

import importlib

import keras
import numpy as np
import pytest

from awn_keras import applications, to_any_width
from awn_keras.applications import application, application_names
from awn_keras.errors import WeightsUnavailableError
from tests.conftest import eagerly

pytestmark = eagerly

#: A network of each way to scale pixels, with the size of its smallest images.
WAYS = {"mobilenet_v2": 32, "ResNet50": 32, "DenseNet121": 32, "mobilenetv3small": 32}


def test_names_are_found_however_they_are_written():
    names = application_names()
    assert names["mobilenetv2"] == "MobileNetV2"
    assert names["efficientnetb0"] == "EfficientNetB0"
    assert not any(name.startswith("_") for name in names.values())
    built = application("mobilenet-v2", (32, 32, 3), 4)
    assert built.name == "mobilenetv2_1.00_32"
    assert built.output_shape == (None, 4)


@pytest.mark.parametrize("name", WAYS)
def test_pixels_are_scaled_as_the_family_does(name, monkeypatch):
    """The network preprocesses pixels as `preprocess_input` does."""
    function = applications._function_of(name)
    trunks = []

    def trained(*args, weights, **kwargs):
        trunks.append(function(*args, weights=None, **kwargs))
        return trunks[-1]

    trained.__module__ = function.__module__
    monkeypatch.setattr(applications, "_function_of", lambda _: trained)
    size = WAYS[name]
    network = application(name, (size, size, 3), 5, weights="imagenet", dropout=0.0)
    twin = function(include_top=False, input_shape=(size, size, 3), weights=None)
    twin.set_weights(trunks[0].get_weights())
    if name == "ResNet50":  # its weights expect blue, green, red
        kernel = twin.get_layer("conv1_conv").kernel
        kernel.assign(keras.ops.convert_to_numpy(kernel)[:, :, ::-1])
    pixels = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype("f4")
    module = importlib.import_module(function.__module__)
    features = keras.ops.convert_to_numpy(twin(module.preprocess_input(pixels.copy())))
    kernel, bias = network.get_layer("logits").get_weights()
    wanted = features.mean(axis=(1, 2)) @ kernel + bias
    # Pixels are scaled by another formula, and many layers enlarge the rounding error.
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(network(pixels)), wanted, rtol=1e-3, atol=1e-4
    )


def test_a_network_becomes_any_width_with_its_scaling():
    model = to_any_width(application("mobilenet_v2", (32, 32, 3), 4))
    assert model.get_layer("preprocessing").mean is not None
    assert len(model.distinct_widths) > 10


def test_grey_images_are_scaled_alike():
    layer = application("mobilenet_v2", (32, 32, 1), 4).get_layer("preprocessing")
    scaled = keras.ops.convert_to_numpy(layer(np.float32([[0.0], [255.0]])))
    np.testing.assert_allclose(scaled.ravel(), [-1, 1], atol=1e-6)


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(
        ValueError, match=r"a network of keras\.applications: .*'Xception'"
    ):
        application("mobilenet_v7", (32, 32, 3), 4)
    with pytest.raises(ValueError, match=r"MobileNetV2 does not take images of shape"):
        application("mobilenet_v2", (8, 8, 3), 4)
    with pytest.raises(ValueError, match="`weights` must be 'imagenet' or None"):
        application("mobilenet_v2", (32, 32, 3), 4, weights="jft")
    with pytest.raises(ValueError, match=r"must have 3 channels \(RGB\)"):
        application("mobilenet_v2", (32, 32, 1), 4, weights="imagenet")


def test_missing_weights_are_said_to_be_missing(monkeypatch):
    def fails(*args, **kwargs):
        # The error of Keras without internet access.
        raise Exception("URL fetch failure on https://x.h5: None -- [Errno -2]")  # noqa: TRY002

    module = importlib.import_module("keras.src.applications.mobilenet_v2")
    monkeypatch.setattr(module.file_utils, "get_file", fails)
    with pytest.raises(WeightsUnavailableError, match=r"MobileNetV2 .*efficientnet_"):
        application("mobilenet_v2", (96, 96, 3), 4, weights="imagenet")


def test_other_faults_are_not_taken_for_missing_weights(monkeypatch):
    def fails(*args, **kwargs):
        raise MemoryError("no room")

    module = importlib.import_module("keras.src.applications.mobilenet_v2")
    monkeypatch.setattr(module.file_utils, "get_file", fails)
    with pytest.raises(MemoryError, match="no room"):
        application("mobilenet_v2", (96, 96, 3), 4, weights="imagenet")
