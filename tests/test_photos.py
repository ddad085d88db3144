"""Reading a photo of any file format as pixels of a given size."""

import numpy as np
import pytest
from PIL import Image

from awn_keras.photos import PhotoError, read_photo

SHAPE = (6, 8, 3)
RED = (200, 40, 20)


def save(path, image, **options):
    image.save(path, **options)
    return path


def plain(mode="RGB", color=RED, size=(32, 24)):
    return Image.new(mode, size, color)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "png", "tiff", "webp", "jpg"])
def test_every_kind_of_file_gives_the_same_pixels(tmp_path, suffix):
    pixels = read_photo(save(tmp_path / f"a.{suffix}", plain()), SHAPE)
    assert pixels.shape == SHAPE
    assert pixels.dtype == "uint8"
    # Lossy kinds round colours.
    np.testing.assert_allclose(pixels, np.broadcast_to(RED, SHAPE), atol=3)


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    path = save(tmp_path / "a.jpg", plain().convert("CMYK"))
    pixels = read_photo(path, SHAPE)
    np.testing.assert_allclose(pixels, np.broadcast_to(RED, SHAPE), atol=4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    image = plain("RGBA", (*RED, 0))
    if mode == "P":
        image = plain("P", 0)
        image.info["transparency"] = 0
    image = image.convert(mode)
    path = save(
        tmp_path / "a.png", image, **({"transparency": 0} if mode == "P" else {})
    )
    assert (read_photo(path, SHAPE) == 255).all()


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_rgb_and_back(tmp_path, mode):
    path = save(tmp_path / "a.png", plain(mode, 255))
    assert (read_photo(path, SHAPE) == 255).all()
    assert read_photo(path, (6, 8, 1)).shape == (6, 8, 1)


def test_sixteen_bits_become_eight(tmp_path):
    values = np.full((24, 32), 257 * 100, "uint16")
    path = save(tmp_path / "a.png", Image.fromarray(values))
    assert (read_photo(path, SHAPE) == 100).all()


def test_a_photo_is_turned_as_its_exif_tag_says(tmp_path):
    image = Image.new("RGB", (32, 24))
    image.paste((255, 255, 255), (0, 0, 16, 24))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees: the left half is then above
    path = save(tmp_path / "a.jpg", image, exif=exif, quality=95)
    pixels = read_photo(path, (8, 6, 3))
    assert pixels[:3].min() > 250
    assert pixels[5:].max() < 5


def test_an_open_image_is_read_as_its_file_is(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), "uint8"))
    path = save(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_photo(image, SHAPE), read_photo(path, SHAPE))


def test_a_large_jpeg_is_read_as_well_as_a_png_of_it(tmp_path):
    gradient = np.linspace(0, 255, 400).astype("uint8")
    image = Image.fromarray(
        np.broadcast_to(gradient[None, :, None], (300, 400, 3)).copy()
    )
    jpeg = read_photo(save(tmp_path / "a.jpg", image, quality=95), SHAPE)
    png = read_photo(save(tmp_path / "a.png", image), SHAPE)
    # A JPEG that is decoded at a smaller size averages pixels differently.
    np.testing.assert_allclose(jpeg.astype(int), png, atol=4)


def damaged(path, content):
    path.write_bytes(content)
    return path


def test_broken_files_are_named(tmp_path):
    whole = save(
        tmp_path / "whole.jpg", plain(size=(200, 200)), quality=95
    ).read_bytes()
    for name, content, message in (
        ("empty.jpg", b"", "empty.jpg is empty"),
        ("text.jpg", b"no photo at all", "text.jpg is no photo of a known format"),
        (
            "half.jpg",
            whole[: len(whole) // 2],
            "half.jpg is damaged: image file is trunc",
        ),
    ):
        with pytest.raises(PhotoError, match=message):
            read_photo(damaged(tmp_path / name, content), SHAPE)
    with pytest.raises(PhotoError, match="is a folder, not a photo"):
        read_photo(tmp_path, SHAPE)
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        read_photo(tmp_path / "none.jpg", SHAPE)


def test_a_photo_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "large.png", plain(size=(100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PhotoError, match=r"large\.png has too many pixels"):
        read_photo(path, SHAPE)


def test_channels_must_be_those_of_photos(tmp_path):
    with pytest.raises(ValueError, match=r"3 channels \(RGB\) or 1"):
        read_photo(tmp_path, (8, 8, 4))
