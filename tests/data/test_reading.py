import json
import tracemalloc

import numpy as np
import pytest

from awn_keras.data import load_folder
from awn_keras.data.reading import Bar, Photos, kept_on_disk
from tests.data.folders import photo, photos

SHAPE = (8, 8, 3)


@pytest.fixture
def paths(tmp_path):
    return [photo(tmp_path / f"{n}.png", seed=n) for n in range(7)]


def test_photos_are_taken_as_from_an_array(paths):
    read = Photos(paths, SHAPE)
    array = np.asarray(read)
    assert (read.shape, read.dtype, read.ndim) == (array.shape, array.dtype, array.ndim)
    kept = Photos(paths[1:3], SHAPE, pixels=array, rows=np.array([1, 2]))
    np.testing.assert_array_equal(kept[:], array[1:3])
    for index in (
        *(0, -1, np.int64(3), slice(2), slice(None, None, -2), [3, 0, 3]),
        *(np.array([], int), np.arange(7) % 2 == 0),
    ):
        np.testing.assert_array_equal(read[index], array[index])
    with pytest.raises(IndexError):
        read[7]


def test_what_is_kept_on_disk_is_found_there(paths, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "cache"
    pixels, faults = kept_on_disk(paths, SHAPE, folder, "key", Bar(7, ""))
    assert not faults
    np.testing.assert_array_equal(pixels, Photos(paths, SHAPE)[:])
    assert sorted(path.name for path in folder.iterdir()) == ["key.json", "key.pixels"]

    def fail(*args):
        raise AssertionError("read again")

    monkeypatch.setattr("awn_keras.data.reading.read_photo", fail)
    again, _ = kept_on_disk(paths, SHAPE, folder, "key", Bar(7, ""))
    np.testing.assert_array_equal(again, pixels)
    assert not again.flags.writeable


def test_reading_into_a_file_goes_on_where_it_was_killed(paths, tmp_path, monkeypatch):
    paths[1].write_bytes(b"")
    monkeypatch.setattr("awn_keras.data.reading._AT_ONCE", 2)
    from awn_keras.data import reading

    plain, seen = reading.read_photo, []

    def kill(path, shape):
        if path == paths[5]:
            raise KeyboardInterrupt
        return plain(path, shape)

    def remember(path, shape):
        seen.append(path)
        return plain(path, shape)

    monkeypatch.setattr(reading, "read_photo", kill)
    with pytest.raises(KeyboardInterrupt):
        kept_on_disk(paths, SHAPE, tmp_path / "cache", "key", Bar(7, ""))
    state = json.loads((tmp_path / "cache" / "key.progress").read_text())
    assert state["rows"] == 4
    monkeypatch.setattr(reading, "read_photo", remember)
    pixels, faults = kept_on_disk(paths, SHAPE, tmp_path / "cache", "key", Bar(7, ""))
    assert sorted(seen) == paths[4:]
    assert list(faults) == [1]
    good = [0, 2, 3, 4, 5, 6]
    wanted = Photos([paths[n] for n in good], SHAPE)[:]
    np.testing.assert_array_equal(pixels[good], wanted)


def test_a_changed_file_is_read_again(tmp_path):
    root = photos(tmp_path / "photos", cat=3, dog=3)

    def pixels():
        data = load_folder(root, size=8, cache=tmp_path / "cache", held_out=0.5)
        return np.concatenate([data.x_train[:], data.x_test[:]])

    before = pixels()
    photo(root / "cat" / "0.png", colour=(0, 0, 0))
    assert not np.array_equal(pixels(), before)


def test_a_bar_shows_what_takes_long(monkeypatch, capsys):
    bar = Bar(3, "Reading 3 photos")
    bar.step()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("awn_keras.data.reading._PATIENCE", 0.0)
    bar.step()
    out = capsys.readouterr().out
    assert "Reading 3 photos:" in out
    assert "2/3" in out


def test_memory_does_not_grow_with_the_number_of_photos(tmp_path, monkeypatch):
    monkeypatch.setattr("awn_keras.data.folder._IN_MEMORY", 0)
    first = photo(tmp_path / "photos" / "a" / "0.png", size=(32, 32))
    peaks = []
    for count in (100, 1000):
        for name in ("a", "b"):
            for number in range(count):
                path = tmp_path / "photos" / name / f"{number}.png"
                path.parent.mkdir(exist_ok=True)
                if not path.exists():
                    path.hardlink_to(first)
        data = load_folder(tmp_path / "photos", size=32)
        batches = data.train(32)
        tracemalloc.start()
        for index in range(len(batches)):
            batches[index]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    few, many = peaks
    # All 2,000 take 6 MB; a batch in three forms takes 0.5 MB.
    assert many < 2e6
    assert many < 1.3 * few
