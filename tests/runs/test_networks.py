"""The networks that a recipe can name."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, lenet_3c1l
from awn_keras.architectures import efficientnet_lite0
from awn_keras.baselines import USNet
from awn_keras.runs.build import build
from awn_keras.runs.presets import (
    paper_recipe,
    recommended_recipe,
    without_triangle,
)
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.sets import load_set
from tests.data.folders import photos
from tests.test_conversion import train_a_little

L = keras.layers


@pytest.fixture
def folder(tmp_path):
    return str(photos(tmp_path / "photos", cat=12, dog=12))


def recipe_of(folder, architecture, size=32, weights=None, **changes):
    recipe = recommended_recipe("photos", architecture, weights=weights, folder=True)
    return replace(
        recipe, folder=folder, size=(size, size), held_out=0.25, batch_size=4, **changes
    )


def momenta(model):
    return {
        layer.momentum
        for layer in model.layers
        if isinstance(layer, L.BatchNormalization)
    }


def built(recipe):
    return build(recipe, load_set(recipe, verbose=False))


@pytest.mark.parametrize("name", ["mobilenetv3_small", "MobileNet"])
def test_a_network_of_keras_applications_by_name(folder, name):
    model = built(recipe_of(folder, name))
    assert isinstance(model, AnyWidthModel)
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 2))
    # 20 epochs of 5 steps: statistics follow within a twentieth of them.
    assert momenta(model) == {0.8}
    assert model.fade is None


def test_a_pretrained_network_fades(folder, monkeypatch):
    untrained = efficientnet_lite0((32, 32, 3), 2)
    for weight in untrained.weights:
        weight.assign(weight + 0.01)
    monkeypatch.setattr(
        "awn_keras.runs.networks.efficientnet_lite0", lambda *args, **kwargs: untrained
    )
    model = built(recipe_of(folder, "efficientnet_lite0", weights="imagenet"))
    assert float(model.fade(0)) == 1
    assert float(model.fade(69)) > 0
    assert float(model.fade(70)) == 0  # 0.7 of 100 steps
    assert model.has_forbidden_entries()


def test_a_pretrained_network_is_rotated(folder, monkeypatch):
    """At full width, with nothing forbidden, it answers as it did."""
    base = train_a_little(efficientnet_lite0((32, 32, 3), 2))
    monkeypatch.setattr(
        "awn_keras.runs.networks.efficientnet_lite0", lambda *args, **kwargs: base
    )
    recipe = recipe_of(folder, "efficientnet_lite0", weights="imagenet")
    whole = replace(recipe, widths_grid=(1.0,), min_width=1.0, order="keep", fade=0.0)
    assert whole.rotate
    model, same = built(whole), built(replace(whole, rotate=False))
    kernels = [
        each.get_layer("block3_project_conv").get_weights()[0] for each in (model, same)
    ]
    assert not np.allclose(*kernels)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    answers = [keras.ops.convert_to_numpy(each(pixels)) for each in (model, same)]
    # As in tests/test_rotating.py.
    np.testing.assert_allclose(*answers, atol=2e-4 * abs(answers[1]).max(), rtol=0)


def test_a_plain_system_trains_the_network_itself(folder):
    for system, kind in (("plain", keras.Model), ("us_net", USNet)):
        recipe = paper_recipe("photos", "MobileNetV2", system)
        changes = {"folder": folder, "size": (32, 32), "held_out": 0.25}
        model = built(replace(recipe, batch_size=4, **changes))
        assert isinstance(model, kind)
        assert not isinstance(model, AnyWidthModel)
        assert momenta(model) == {0.8}


#: For a file whose weights are not worth keeping.
UNTRAINED = {"rotate": False, "order": "keep", "fade": 0.0}


def saved(path, *layers, size=16):
    model = keras.Sequential([keras.Input((size, size, 3)), *layers])
    model.save(path)
    return str(path)


TRUNK = (
    L.Conv2D(8, 3, activation="relu", name="first"),
    L.Conv2D(8, 3, activation="relu", name="second"),
)


def test_a_file_with_scores_of_the_classes_stays_as_it_is(folder, tmp_path):
    layers = (L.Rescaling(1 / 255), *TRUNK, L.GlobalAveragePooling2D(), L.Dense(2))
    path = saved(tmp_path / "mine.keras", *layers)
    model = built(recipe_of(folder, path, 16, **UNTRAINED))
    assert "preprocessing" not in [layer.name for layer in model.layers]
    assert model.output_shape == (None, 2)
    kept = keras.saving.load_model(path).get_layer("first").get_weights()[0]
    np.testing.assert_array_equal(
        model.get_layer("first").get_weights()[0].shape, kept.shape
    )


def test_a_file_of_features_gets_pixels_scaled_and_a_readout(folder, tmp_path):
    path = saved(tmp_path / "trunk.keras", *TRUNK)
    model = built(recipe_of(folder, path, 16, **UNTRAINED))
    names = [layer.name for layer in model.layers]
    assert "preprocessing" in names
    assert names[-2:] == ["pool", "logits"]
    assert model.output_shape == (None, 2)


def test_what_does_not_fit_is_refused(folder, tmp_path):
    three = saved(tmp_path / "three.keras", *TRUNK, L.Flatten(), L.Dense(3))
    any_width = tmp_path / "any.keras"
    lenet_3c1l((16, 16, 3), 2).save(any_width)
    for architecture, size, match in (
        (three, 16, r"must have scores of 2 classes, as photos has.*shape \[\(3,\)\]"),
        (three, 24, r"must take images of shape \(24, 24, 3\)"),
        (str(any_width), 16, "holds a model of several widths already"),
        (str(tmp_path / "no.keras"), 16, "There is no file"),
        ("efficientnet_b99", 16, r"`architecture` must be one of .*'EfficientNetB0'"),
    ):
        with pytest.raises((ValueError, OSError), match=match):
            built(recipe_of(folder, architecture, size))


@pytest.mark.parametrize(
    ("architecture", "changes", "match"),
    [
        ("lenet_3c1l", {"weights": "imagenet"}, "`weights` has no effect on"),
        ("lenet_3c1l", {"fade": 0.5}, "`fade` has no effect on"),
        ("mobilenet_v3_small", {"weight_decay": 0.1}, "`weight_decay` has no effect"),
        ("mobilenet_v3_small", {"weights": "jft"}, "`weights` must be 'imagenet'"),
        ("mobilenet_v3_small", {"order": "best"}, "`order` must be one of"),
        ("mobilenet_v3_small", {"fade": 1.0}, r"`fade` must be in \[0, 1\)"),
        ("lenet_3c1l", {"warm_up": 0.1}, "`warm_up` needs `schedule='cosine'`"),
        ("lenet_3c1l", {"patience": 0}, "`patience` must be at least 1"),
        ("lenet_3c1l", {"patience": 1, "system": "us_net"}, "needs a validation after"),
    ],
)
def test_settings_that_mean_nothing_are_refused(architecture, changes, match):
    with pytest.raises(ValueError, match=match):
        Recipe("digits", architecture, **changes)


def test_a_network_grows_by_its_recipe(folder):
    recipe = replace(without_triangle(recipe_of(folder, "MobileNet")), grow=1.5)
    model = built(recipe)
    assert model.min_width == pytest.approx(2 / 3)
    assert model.plan.widths.smallest == model.min_width
    assert model.get_layer("conv1").filters == 48
    with pytest.raises(ValueError, match="`fade` has no effect with `grow`"):
        replace(recipe, fade=0.5)
