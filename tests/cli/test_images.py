import json

import numpy as np
import pytest

from awn_keras.cli.images import as_file_takes, class_names_beside
from awn_keras.deploy.pixels import Pixels
from tests.deploy.classifiers import pixels

OWN = Pixels((120.0, 110.0, 100.0), (58.0, 57.0, 60.0))


@pytest.mark.parametrize(
    ("dtype", "takes"), [("uint8", Pixels()), ("float32", Pixels()), ("float32", OWN)]
)
def test_a_file_gets_what_it_takes_of_pixels(dtype, takes):
    photos = pixels(3)
    x = as_file_takes(photos.astype("float32"), dtype, takes)
    assert x.dtype == dtype
    wanted = photos if takes == Pixels() else OWN.to_inputs(photos)
    np.testing.assert_allclose(x, wanted, atol=1e-6)


def test_a_file_that_says_nothing_gets_pixels_as_they_are():
    batch = pixels(3).astype("float32")
    assert as_file_takes(batch, "float32", None) is batch


def test_names_lie_beside_a_model(tmp_path):
    model, data = tmp_path / "model.keras", tmp_path / "data.json"
    assert class_names_beside(model) == []
    data.write_text(json.dumps({"class_names": ["a", "b"], "more": 1}))
    assert class_names_beside(model) == ["a", "b"]
    for bad, match in (
        ('{"class_names": "ab"}', "is not a file of a training run"),
        ("[]", "is not a file of a training run"),
        ("{", "is not JSON"),
    ):
        data.write_text(bad)
        with pytest.raises(ValueError, match=match):
            class_names_beside(model)
