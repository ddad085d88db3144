import json
from dataclasses import replace

import numpy as np
import pytest

from awn_keras.loading import load_model
from awn_keras.photos import PhotoError
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.run import run
from awn_keras.runs.sets import load_set, read_set
from tests.data.folders import image, jpeg, photo, photos
from tests.runs.conftest import QUICK
from tests.runs.killing import KillAfter, KilledError


@pytest.fixture
def recipe(tmp_path):
    """13 batches of 4 photos an epoch."""
    root = photos(tmp_path / "photos", cat=26, dog=26)
    return Recipe(
        "photos",
        folder=str(root),
        size=(16, 16),
        held_out=0.01,
        filters=4,
        epochs=2,
        num_widths=2,
        batch_size=4,
    )


def test_a_killed_and_resumed_run_on_photos_is_an_uninterrupted_one(
    recipe, tmp_path, monkeypatch
):
    # Streamed in one run, from a cache in the other.
    whole = run(recipe, tmp_path / "whole", cache=tmp_path / "cache", verbose=0)
    monkeypatch.setattr("awn_keras.data.folder._IN_MEMORY", 0)
    with pytest.raises(KilledError):
        run(recipe, tmp_path / "killed", verbose=0, callbacks=[KillAfter(1)])
    before = (tmp_path / "killed" / "data.json").read_text()
    resumed = run(recipe, tmp_path / "killed", resume=True, verbose=0)
    assert len(resumed.history) == 2
    for weight, other in zip(
        whole.model.get_weights(), resumed.model.get_weights(), strict=True
    ):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "whole" / "data.json").read_text() == before
    told = json.loads(before)
    assert told["class_names"] == ["cat", "dog"]
    assert told["train"] == {"cat": 25, "dog": 25}
    assert told["test"] == {"cat": 1, "dog": 1}
    assert (told["input_shape"], told["largest_pixel"]) == ([16, 16, 3], 255)


def test_a_run_whose_photos_changed_is_not_resumed(recipe, tmp_path):
    recipe = replace(recipe, epochs=1)
    run(recipe, tmp_path / "run", verbose=0)
    photo(tmp_path / "photos" / "dog" / "new.png")
    match = "photos of photos are not the photos .* there were 52, now there are 53"
    with pytest.raises(ValueError, match=match):
        run(recipe, tmp_path / "run", resume=True, verbose=0)


def test_a_run_of_before_is_not_resumed_on_pixels(finished, tmp_path):
    from awn_keras import lenet_3c1l

    _, directory = finished
    for name in ("recipe.json", "data.json", "history.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    old = lenet_3c1l((8, 8, 1), padding="same", filters=4, staircase="paper")
    old.save(tmp_path / "model.keras")
    match = "another version of awn_keras: its network lacks preprocessing\\. Training"
    with pytest.raises(ValueError, match=match):
        run(QUICK, tmp_path, resume=True, verbose=0)


def test_a_damaged_photo_ends_training_by_its_name(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("awn_keras.data.folder._IN_MEMORY", 0)
    for name in ("x", "y", "z"):  # one of them at least is trained on
        path = tmp_path / "photos" / "cat" / f"{name}.jpg"
        path.write_bytes(jpeg(size=(200, 200))[:4000])
    with pytest.raises(PhotoError, match=r"cat/.\.jpg is damaged: .*Remove the file"):
        run(recipe, tmp_path / "run", verbose=0)


def test_how_images_are_changed_is_up_to_the_recipe(recipe):
    data = load_set(recipe)
    assert (data.flip, data.shift, data.input_shape) == (True, 2, (16, 16, 3))
    data = load_set(replace(recipe, flip=False, shift=0))
    assert (data.flip, data.shift) == (False, 0)
    data = load_set(Recipe("digits", flip=True))
    assert (data.flip, data.shift) == (True, 0)
    with pytest.raises(ValueError, match="`held_out` must be below 1"):
        load_set(replace(recipe, held_out=1.0))


def test_the_same_photos_are_held_out_for_each_seed(recipe):
    first, other = load_set(recipe), load_set(replace(recipe, seed=5))
    assert first.x_test.paths == other.x_test.paths


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"folder": "photos"}, "`size` must be the rows and cols to which"),
        ({"size": (8, 8)}, "`size` is for a folder of photos"),
        ({"held_out": 0.5}, "`held_out` is for a folder of photos"),
    ],
)
def test_a_folder_needs_a_size_and_others_none(arguments, match):
    with pytest.raises(ValueError, match=match):
        Recipe("digits", **arguments)


def test_what_lies_beside_a_model_is_read_or_refused(finished, tmp_path):
    _, directory = finished
    assert read_set(directory)["class_names"] == list("0123456789")
    assert read_set(directory)["largest_pixel"] == 16
    assert read_set(tmp_path) is None
    (tmp_path / "data.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not a file of a training run"):
        read_set(tmp_path)


def test_the_network_of_a_run_takes_photos_as_they_are(recipe, tmp_path):
    run(replace(recipe, epochs=1), tmp_path / "run", verbose=0)
    model = load_model(tmp_path / "run" / "model.keras")
    layer = model.get_layer("preprocessing")
    pixels = np.asarray(image(0, (16, 16)), "float32")[None]
    assert np.abs(np.asarray(layer(pixels))).max() < 10
    assert layer.mean.shape[-1] == 3
