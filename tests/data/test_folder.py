"""Folders of photos become data sets. A broken folder gives one clear line."""

import os
import pathlib
import unicodedata

import numpy as np
import pytest
from PIL import Image

from awn_keras.data import Photos, load_folder
from awn_keras.photos import PhotoError, read_photo
from tests.data.folders import image, jpeg, photo, photos


@pytest.fixture
def root(tmp_path):
    return photos(tmp_path / "photos", cat=6, dog=6)


def load(root, **kwargs):
    return load_folder(root, **{"size": 8, **kwargs})


def test_a_folder_becomes_a_data_set(root, capsys):
    data = load(root, size=(8, 12), held_out=0.34)
    assert (data.name, data.class_names, data.classes) == ("photos", ("cat", "dog"), 2)
    assert data.input_shape == (8, 12, 3)
    assert data.x_train.shape == (8, 8, 12, 3)
    assert np.bincount(data.y_train).tolist() == [4, 4]
    assert np.bincount(data.y_test).tolist() == [2, 2]
    for images, labels in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        for path, pixels, label in zip(images.paths, images[:], labels, strict=True):
            np.testing.assert_array_equal(pixels, read_photo(path, (8, 12, 3)))
            assert path.parent.name == data.class_names[label]
    assert (data.flip, data.shift, data.largest_pixel) == (True, 1, 255)
    plain = load(root, flip=False, shift=0, channels=1)
    assert (plain.flip, plain.shift, plain.input_shape) == (False, 0, (8, 8, 1))
    assert capsys.readouterr().err == ""
    x, y = data.train(3)[0]
    assert (x.shape, x.dtype, y.shape) == ((3, 8, 12, 3), "float32", (3,))


def test_what_is_held_out_stays_when_photos_come(root):
    before = {path.name for path in load(root).x_test.paths if "cat" in str(path)}
    photo(root / "cat" / "new.png")
    photo(root / "dog" / "new.png")
    after = {path.name for path in load(root).x_test.paths if "cat" in str(path)}
    assert len(before ^ (after - {"new.png"})) <= 1


# ---------------------------------------------------------------------- broken ones


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def move_into(root, name):
    """The folder's folders, in one more folder."""
    (root / name).mkdir()
    for folder in ("cat", "dog"):
        (root / folder).rename(root / name / folder)


def alone(root, name):
    (root / name / "0.png").rename(root / "kept.png")
    for path in (root / name).iterdir():
        path.unlink()
    (root / "kept.png").rename(root / name / "0.png")


def both_parts(root):
    move_into(root, "train")
    photos(root / "test", cat=2, dog=2)


def without(root, name):
    both_parts(root)
    remove(root / "test" / name)


def stranger(root, name):
    both_parts(root)
    photos(root / "test", **{name: 2})


def empty_train(root):
    move_into(root, "test")
    (root / "train").mkdir()


def all_empty(folder):
    for path in folder.iterdir():
        path.write_bytes(b"")


def damaged_test(root):
    both_parts(root)
    all_empty(root / "test" / "cat")
    all_empty(root / "test" / "dog")


def too_large(root):
    file = root / "cat" / "wide.png"
    Image.new("1", (20_000, 20_000)).save(file)


def two_accents(root):
    for form in ("NFC", "NFD"):
        photos(root, **{unicodedata.normalize(form, "Äpfel"): 2})


def no_class_folders(root):
    for index, path in enumerate(sorted(root.rglob("*.png"))):
        path.rename(root / f"{index}.png")
    (root / "cat").rmdir()
    (root / "dog").rmdir()


def text_only(root):
    for name in ("cat", "dog"):
        remove(root / name)
        write(root / name / "notes.txt")


def no_folder(root):
    remove(root / "cat")
    remove(root / "dog")
    root.rmdir()


def a_file(root):
    no_folder(root)
    write(root)


#: What makes a folder unusable, and the one line that says so.
REFUSED = {
    "no folder": (no_folder, "There is no folder .*photos"),
    "a file": (a_file, "photos must be a folder that has a folder of photos"),
    "empty": (
        lambda root: [remove(root / "cat"), remove(root / "dog")],
        r"photos has no photos, also not .* are files ending in \.bmp, \.gif",
    ),
    "texts only": (text_only, r"has no photos, .*\. It has \.txt \(2\)\."),
    "no class folders": (
        no_class_folders,
        r"photos has photos, but no folders of classes\. Put the .*photos/cat/\d+.png",
    ),
    "one class": (
        lambda root: remove(root / "dog"),
        "must have photos of at least two classes, but it has only 'cat'",
    ),
    "one folder around": (
        lambda root: move_into(root, "all"),
        "only 'all'.* If cat, dog are the classes, give .*photos/all",
    ),
    "one class and an empty one": (
        lambda root: [remove(root / "dog"), (root / "dog").mkdir()],
        "only 'cat'.*dog has no photos, so it is no class",
    ),
    "train without photos": (
        empty_train,
        "only 'test'.*give .*photos/test.*train has no photos",
    ),
    "upper and lower case": (
        lambda root: photos(root, Cat=2),
        "photos/Cat and .*photos/cat differ only in upper and lower case",
    ),
    "accents": (two_accents, "pfel and .*pfel differ only in .* an accent"),
    "a new class in test": (
        lambda root: stranger(root, "cow"),
        "test must have only classes of train: 'cat', 'dog'. Received: 'cow'",
    ),
    "another case in test": (
        lambda root: [without(root, "dog"), photos(root / "test", Dog=1)],
        "photos/test must have only classes of train: .*Received: 'Dog'",
    ),
    "one photo a class": (
        lambda root: [alone(root, "cat"), alone(root, "dog")],
        "At least one class must have two photos",
    ),
    "a class without good photos": (
        lambda root: all_empty(root / "dog"),
        "no readable photo of 'dog' to train on. .*dog/0.png is empty",
    ),
    "a test without good photos": (
        damaged_test,
        "photos has no readable photo to test on. .*cat/0.png is empty",
    ),
}


@pytest.mark.parametrize(("make", "match"), REFUSED.values(), ids=REFUSED)
def test_an_unusable_folder_is_refused_by_one_line(make, match, root):
    make(root)
    with pytest.raises((ValueError, OSError), match=match) as caught:
        load(root)
    assert "\n" not in str(caught.value)


#: What is left out of a folder, and the one line that says so.
LEFT_OUT = {
    "an empty class": (
        lambda root: (root / "bird").mkdir(),
        "photos/bird has no photos, so it is no class.",
    ),
    "a class of texts": (
        lambda root: write(root / "bird" / "a.txt"),
        "photos/bird has no photos, so it is no class.",
    ),
    "an empty file": (
        lambda root: write(root / "cat" / "z.jpg"),
        "photos/cat/z.jpg is empty.",
    ),
    "a text called photo": (
        lambda root: write(root / "cat" / "z.jpg", b"no photo"),
        "photos/cat/z.jpg is no photo of a known format.",
    ),
    "half a file": (
        lambda root: write(root / "cat" / "z.jpg", jpeg(size=(200, 200))[:4000]),
        "photos/cat/z.jpg is damaged: image file is truncated",
    ),
    "a file with a hole": (
        lambda root: write(
            root / "cat" / "z.png",
            (root / "cat" / "0.png").read_bytes()[:60] + bytes(200),
        ),
        "photos/cat/z.png is damaged: ",
    ),
    "too many pixels": (
        too_large,
        "photos/cat/wide.png has too many pixels to be a photo.",
    ),
    "a link to nowhere": (
        lambda root: (root / "cat" / "z.jpg").symlink_to(root / "gone.jpg"),
        "photos/cat/z.jpg is a link to a file that does not exist.",
    ),
    "texts beside photos": (
        lambda root: [write(root / "cat" / f"{n}.TXT") for n in range(2)],
        "Left out, because the names are not those of photos: .txt (2).",
    ),
    "photos of a kind that is not read": (
        lambda root: [write(root / "cat" / "a.heic"), write(root / "labels")],
        "the names are not those of photos: .heic (1), labels (1).",
    ),
    "photos beside the folders": (
        lambda root: photo(root / "z.png"),
        " left out, outside of the folders of classes: z.png",
    ),
    "a class of one photo": (
        lambda root: alone(root, "cat"),
        "'cat' has only one photo, which is used for training, not for the test.",
    ),
    "a class that test has not": (
        lambda root: without(root, "dog"),
        "No photo of 'dog' is in test.",
    ),
    "a class that is empty in test": (
        lambda root: [without(root, "dog"), (root / "test" / "dog").mkdir()],
        "No photo of 'dog' is in test.",
    ),
    "a folder beside train and test": (
        lambda root: [both_parts(root), (root / "labels").mkdir()],
        "labels is left out, because only train and test count.",
    ),
    "many damaged files": (
        lambda root: [write(root / "cat" / f"z{n}.jpg") for n in range(13)],
        "And 3 more files left out.",
    ),
}


@pytest.mark.parametrize(("make", "line"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_left_out_is_told_by_one_line(make, line, root, capsys):
    make(root)
    data = load(root)
    lines = capsys.readouterr().err.splitlines()
    assert sum(line in printed for printed in lines) == 1
    assert data.notes == tuple(lines)
    # All other photos are in the data set and can be read.
    counts = np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert counts.tolist() in ([6, 6], [1, 6], [8, 8], [8, 6])
    assert np.isfinite(data.train(4)[0][0]).all()
    assert len(data.x_train[:]) == len(data.y_train)


def silent(root):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        write(root / name)
        write(root / "cat" / name)
    photo(root / ".thumbnails" / "a.png")
    photo(root / "cat" / ".hidden" / "a.png")
    photo(root / "__MACOSX" / "cat" / "a.png")


def kinds(root):
    image(1).convert("L").save(root / "cat" / "grey.jpg")
    image(1).convert("CMYK").save(root / "cat" / "cmyk.jpg")
    image(1).convert("RGBA").save(root / "cat" / "alpha.png")
    image(1).convert("P").save(root / "cat" / "palette.gif")
    Image.fromarray(np.full((9, 9), 40_000, "uint16")).save(root / "cat" / "deep.png")


def test_what_systems_leave_behind_is_no_matter(root, capsys):
    silent(root)
    data = load(root)
    assert len(data.x_train) + len(data.x_test) == 12
    assert capsys.readouterr().err == ""


def test_photos_of_every_kind_are_read(root, capsys):
    kinds(root)
    (root / "dog" / "0.png").rename(root / "dog" / "PHOTO.PNG")
    data = load(root)
    assert len(data.x_train) + len(data.x_test) == 17
    assert capsys.readouterr().err == ""


def test_what_may_not_be_read_is_named(root, monkeypatch, capsys):
    # Permissions do not bind root, under which tests may run.
    locked = root / "cat" / "3.png"
    plain = pathlib.Path.open

    def refuse(path, *args, **kwargs):
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    load(root)
    said = f"Left out: {locked} cannot be read: permission denied.\n"
    assert capsys.readouterr().err == said
    scan = os.scandir

    def refuse_folder(path):
        if str(path) == str(root / "dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse_folder)
    with pytest.raises(PermissionError, match="photos/dog"):
        load(root)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 0}, "`size` must be rows and cols.*size=0"),
        ({"size": (8, -1)}, "`size` must be rows and cols"),
        ({"channels": 4}, r"`channels` must be 3 \(RGB\) or 1.*channels=4"),
        ({"held_out": 0}, "`held_out` must be above 0.*held_out=0"),
        ({"held_out": 1.5}, "`held_out` must be above 0.*held_out=1.5"),
        ({"shift": 8}, "`shift` must be at least 0, and below .*shift=8"),
    ],
)
def test_arguments_are_checked(arguments, match, root):
    with pytest.raises(ValueError, match=match):
        load(root, **arguments)


# ------------------------------------------------------------- where pixels are kept


def test_pixels_are_the_same_wherever_they_are_kept(root, tmp_path, monkeypatch):
    write(root / "cat" / "z.jpg")
    in_memory = load(root, verbose=False)
    cached = load(root, cache=tmp_path / "cache", verbose=False)
    again = load(root, cache=tmp_path / "cache", verbose=False)
    monkeypatch.setattr("awn_keras.data.folder._IN_MEMORY", 0)
    streamed = load(root, verbose=False)
    for other in (cached, again, streamed):
        assert other.fingerprint == in_memory.fingerprint
        assert other.notes == in_memory.notes
        np.testing.assert_array_equal(other.mean, in_memory.mean)
        for epoch in (0, 1):
            for index in range(3):
                for first, two in zip(
                    in_memory.train(4, first_epoch=epoch)[index],
                    other.train(4, first_epoch=epoch)[index],
                    strict=True,
                ):
                    np.testing.assert_array_equal(first, two)


def test_a_damaged_photo_that_shows_late_is_named(root, monkeypatch):
    monkeypatch.setattr("awn_keras.data.folder._IN_MEMORY", 0)
    write(root / "cat" / "z.jpg", jpeg(size=(200, 200))[:4000])
    data = load(root, verbose=False, held_out=0.5)
    match = (
        r"cat/z\.jpg is damaged: .*\. Remove the file and start again\. With .*cache"
    )
    with pytest.raises(PhotoError, match=match):
        data.x_train[:], data.x_test[:]


def test_mean_and_deviation_are_of_some_photos(root, monkeypatch):
    whole = load(root)
    pixels = np.asarray(whole.x_train)
    np.testing.assert_allclose(whole.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    monkeypatch.setattr("awn_keras.data.images._SAMPLED", 3)
    some = load(root)
    assert not np.array_equal(some.mean, whole.mean)
    np.testing.assert_array_equal(some.mean, load(root).mean)


def test_all_photos_may_be_for_the_test(root):
    data = load(root, held_out=1, class_names=["bird", "cat", "dog"])
    assert isinstance(data.x_train, Photos)
    assert len(data.x_train) == 0
    assert data.classes == 3
    assert np.bincount(data.y_test).tolist() == [0, 6, 6]
    assert data.test()[0][0].shape == (12, 8, 8, 3)
