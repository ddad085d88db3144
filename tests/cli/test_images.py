import json
from types import SimpleNamespace

import numpy as np
import pytest

from awn_keras.cli.images import as_file_takes, class_names_beside
from awn_keras.deploy.pixels import Pixels
from tests.deploy.classifiers import pixels

OWN = Pixels((120.0, 110.0, 100.0), (58.0, 57.0, 60.0))
DATA = SimpleNamespace(mean=np.float32(OWN.mean), std=np.float32(OWN.std))


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(
    ("dtype", "takes"), [("uint8", Pixels()), ("float32", Pixels()), ("float32", OWN)]
)
def test_a_file_gets_what_it_takes_of_any_batch(normalized, dtype, takes):
    photos = pixels(3)
    batch = OWN.to_inputs(photos) if normalized else photos.astype("float32")
    x = as_file_takes(batch, DATA, dtype, takes)
    assert x.dtype == dtype
    wanted = photos if takes == Pixels() else OWN.to_inputs(photos)
    # Normalized, rounded to pixels and normalized again.
    np.testing.assert_allclose(x, wanted, atol=1e-6)


def test_a_file_that_says_nothing_gets_images_as_they_are():
    batch = OWN.to_inputs(pixels(3))
    assert as_file_takes(batch, DATA, "float32", None) is batch


def test_names_lie_beside_a_model(tmp_path):
    model, data = tmp_path / "model.keras", tmp_path / "data.json"
    assert class_names_beside(model) == []
    data.write_text(json.dumps({"class_names": ["a", "b"], "more": 1}))
    assert class_names_beside(model) == ["a", "b"]
    for other in ("{}", "[]", '{"class_names": []}'):
        data.write_text(other)
        assert class_names_beside(model) == []
    for bad, match in (
        ('{"class_names": "ab"}', "must have a list of names as `class_names`"),
        ('{"class_names": [1]}', "must have a list of names as `class_names`"),
        ("{", "is not JSON"),
    ):
        data.write_text(bad)
        with pytest.raises(ValueError, match=match):
            class_names_beside(model)
