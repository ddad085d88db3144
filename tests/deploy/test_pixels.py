import numpy as np
import pytest
from PIL import Image

from awn_keras.deploy.litert import Tensor
from awn_keras.deploy.pixels import (
    Pixels,
    are_photos,
    is_image_shape,
    photos_to_inputs,
)

IMAGENET = Pixels((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))


def tensor(shape=(1, 4, 6, 3), dtype="float32", scale=0.0):
    return Tensor("photo", shape, shape, np.dtype(dtype), scale, 0)


@pytest.fixture
def photo():
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype("uint8")
    return array, Image.fromarray(array)


def test_every_pixel_comes_back():
    x = np.arange(256, dtype="uint8")[:, None].repeat(3, 1)
    for pixels in (Pixels(), IMAGENET, Pixels((33.0,), (0.01,))):
        np.testing.assert_array_equal(pixels.to_pixels(pixels.to_inputs(x)), x)
    np.testing.assert_array_equal(
        Pixels().to_pixels(np.float32([[-9, 300]])), [[0, 255]]
    )


def test_the_formula_is_that_of_the_manifest():
    x = np.float32([[10, 20, 30]])
    wanted = (x - np.float32(IMAGENET.mean)) / np.float32(IMAGENET.std)
    np.testing.assert_allclose(IMAGENET.to_inputs(x), wanted, rtol=1e-6)
    low, high = IMAGENET.limits()
    assert low == pytest.approx(-123.7 / 58.4)
    assert high == pytest.approx((255 - 103.5) / 57.4)
    assert Pixels.parse(IMAGENET.described()) == IMAGENET


@pytest.mark.parametrize(
    "said", [None, "(p - mean) / std", {}, {"mean": 3}, ["mean", "std"]]
)
def test_what_cannot_be_computed_with_says_nothing(said):
    assert Pixels.parse(said) is None


@pytest.mark.parametrize(
    ("mean", "std"),
    [(0, 0), (0, -1), ("a", 1), ([1, 2], 1), (0, [1, 2, 3, 4]), (np.nan, 1)],
)
def test_what_cannot_be_right_is_refused(mean, std):
    with pytest.raises(ValueError, match=r"must have `mean` and `std`, each a number"):
        Pixels.parse({"mean": mean, "std": std})


def test_three_means_need_three_channels():
    assert Pixels.parse({"mean": 1, "std": [1, 2, 3]}) == Pixels((1.0,), (1, 2, 3))
    with pytest.raises(ValueError, match="each of the input's 1 channels"):
        IMAGENET.to_inputs(np.zeros((4, 4, 1)))


def test_what_is_an_image():
    assert is_image_shape((None, 8, 8, 3))
    assert is_image_shape([1, 8, 8, 1])
    for shape in ((1, 8, 8, 2), (1, 8, 8), (1, 3), ()):
        assert not is_image_shape(shape)


def test_what_is_a_photo(photo):
    array, image = photo
    assert are_photos(image)
    assert are_photos([image, image])
    assert not any(map(are_photos, (array, [array], [], "a.jpg", [image, array])))


@pytest.mark.parametrize("pixels", [None, Pixels(), IMAGENET])
def test_a_file_of_pixels_gets_pixels(photo, pixels):
    array, image = photo
    x = photos_to_inputs([image], tensor(dtype="uint8"), pixels)
    assert x.dtype == np.uint8
    np.testing.assert_array_equal(x, array[None])


def test_a_file_of_floats_gets_what_it_says(photo):
    array, image = photo
    x = photos_to_inputs([image, image], tensor(), IMAGENET)
    np.testing.assert_array_equal(x, IMAGENET.to_inputs(array)[None].repeat(2, 0))
    # LiteRT's scale says what integers are worth.
    x = photos_to_inputs([image], tensor(dtype="int8", scale=0.02), IMAGENET)
    assert x.dtype == np.float32


def test_a_photo_of_another_size_is_scaled(photo):
    x = photos_to_inputs([photo[1]], tensor((1, 2, 2, 1), "uint8"), None)
    assert x.shape == (1, 2, 2, 1)


def test_a_file_that_says_nothing_needs_an_array(photo):
    with pytest.raises(ValueError, match=r"does not say how pixels become input 'ph"):
        photos_to_inputs([photo[1]], tensor(), None)
    with pytest.raises(ValueError, match=r"Photos need an input of shape"):
        photos_to_inputs([photo[1]], tensor((1, 4)), Pixels())
