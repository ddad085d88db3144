import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awn_keras.data.listing import (
    at_most,
    fingerprint,
    held_out_names,
    list_photos,
    photos_below,
)
from tests.data.folders import photo, photos

NAMES = st.lists(st.text("abc/.1", min_size=1), min_size=1, max_size=40, unique=True)
PARTS = st.floats(0.01, 0.99)


@given(NAMES, PARTS, st.integers(0, 5))
def test_the_held_out_part_is_as_large_as_said(names, part, seed):
    chosen = held_out_names(names, part, seed)
    assert chosen <= set(names)
    if len(names) == 1:
        assert not chosen
        return
    assert 1 <= len(chosen) <= len(names) - 1
    # Rounded, and moved by the two bounds at most.
    assert abs(len(chosen) - part * len(names)) <= 1
    assert chosen == held_out_names(names[::-1], part, seed)


@given(NAMES, PARTS, st.integers(0, 5), st.text("xyz", min_size=1))
def test_a_new_photo_moves_at_most_one_other(names, part, seed, new):
    before = held_out_names(names, part, seed)
    after = held_out_names([*names, new], part, seed)
    assert len(before ^ (after - {new})) <= 1


def test_another_seed_holds_out_others():
    names = [str(number) for number in range(100)]
    assert held_out_names(names, 0.2, 0) != held_out_names(names, 0.2, 1)
    assert held_out_names(names, 1, 0) == set(names)


def names_of(part):
    return [photo.name for photo in part]


def test_folders_are_classes_and_their_folders_belong_to_them(tmp_path):
    photos(tmp_path, cat=4, dog=3)
    photo(tmp_path / "cat" / "winter" / "snow" / "a b.JPG")
    listing = list_photos(tmp_path, 0.5, 0)
    assert listing.class_names == ("cat", "dog")
    names = names_of(listing.train) + names_of(listing.test)
    assert len(names) == 8
    assert "cat/winter/snow/a b.JPG" in names
    for listed in (*listing.train, *listing.test):
        assert listed.name.startswith(listing.class_names[listed.label])
        assert listed.path.stat().st_size == listed.size
    assert not listing.notes


@pytest.mark.parametrize("test", ["test", "val", "Validation"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_folders_may_say_which_part_a_photo_is_of(train, test, tmp_path):
    photos(tmp_path / train, cat=3, dog=2)
    photos(tmp_path / test, cat=1, dog=2)
    listing = list_photos(tmp_path, 0.5, 0)
    assert [listed.label for listed in listing.train] == [0, 0, 0, 1, 1]
    assert [listed.label for listed in listing.test] == [0, 1, 1]
    assert not listing.notes


def test_test_comes_before_validation(tmp_path):
    for part in ("train", "val", "test"):
        photos(tmp_path / part, cat=1, dog=1)
    listing = list_photos(tmp_path, 0.5, 0)
    assert {listed.path.parent.parent.name for listed in listing.test} == {"test"}
    assert listing.notes == ["val is left out, because only train and test count."]


def test_trains_are_a_class_too(tmp_path):
    photos(tmp_path, train=3, test=3, bus=3)
    assert list_photos(tmp_path, 0.3, 0).class_names == ("bus", "test", "train")


def test_names_may_have_spaces_and_accents_in_either_form(tmp_path):
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        photos(root, **{unicodedata.normalize(form, "Grüne Äpfel"): 3, "Birnen": 3})
        listing = list_photos(root, 0.3, 0)
        assert listing.class_names == ("Birnen", "Grüne Äpfel")
        assert fingerprint([listing.train, listing.test]) == fingerprint(
            [listing.train[::-1], listing.test]
        )
    # A copy on a system that encodes accents differently gives the same data set.
    composed, other = (list_photos(tmp_path / form, 0.3, 0) for form in ("NFC", "NFD"))
    assert names_of(composed.test) == names_of(other.test)


def test_links_are_followed_and_circles_end(tmp_path):
    photos(tmp_path / "elsewhere", cat=3)
    root = photos(tmp_path / "photos", dog=3)
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (root / "dog" / "again").symlink_to(root / "dog")
    listing = list_photos(root, 0.3, 0)
    assert listing.class_names == ("cat", "dog")
    assert len(listing.train) + len(listing.test) == 6


def test_the_fingerprint_is_of_names_and_sizes(tmp_path):
    root = photos(tmp_path, cat=3, dog=3)

    def prints():
        listing = list_photos(root, 0.3, 0)
        parts = [listing.train, listing.test]
        return fingerprint(parts), fingerprint(parts, times=True)

    plain, timed = prints()
    assert prints() == (plain, timed)
    os.utime(root / "cat" / "0.png", ns=(1, 1))
    assert prints()[0] == plain
    assert prints()[1] != timed
    with (root / "cat" / "0.png").open("ab") as file:
        file.write(b"0")
    assert prints()[0] != plain
    (root / "cat" / "0.png").unlink()
    assert prints()[0] != plain


def test_classes_may_be_given(tmp_path):
    root = photos(tmp_path, cat=2, bird=2)
    listing = list_photos(root, 1, 0, ["dog", "cat", "bird"])
    assert not listing.train
    assert sorted(listed.label for listed in listing.test) == [1, 1, 2, 2]
    match = r"must have only classes of the model: 'cat', 'dog'. Received: 'bird'"
    with pytest.raises(ValueError, match=match):
        list_photos(root, 1, 0, ["cat", "dog"])
    # One class alone can be tested, too.
    only = photos(tmp_path / "only", cat=1)
    assert len(list_photos(only, 1, 0, ["cat", "dog"]).test) == 1


def test_photos_below_are_all_of_them(tmp_path):
    photos(tmp_path, cat=2)
    photo(tmp_path / "z.jpg")
    (tmp_path / "notes.txt").write_text("no photo")
    names = [path.name for path in photos_below(tmp_path)]
    assert sorted(names) == ["0.png", "1.png", "z.jpg"]
    (tmp_path / "none").mkdir()
    with pytest.raises(
        ValueError, match="none has no photos, also not in folders below"
    ):
        photos_below(tmp_path / "none")


def test_ten_lines_are_listed_and_the_rest_is_counted():
    lines = [str(number) for number in range(13)]
    assert at_most(lines[:10], "files") == lines[:10]
    assert at_most(lines, "files") == [*lines[:10], "And 3 more files."]
