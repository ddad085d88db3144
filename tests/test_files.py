from concurrent.futures import ThreadPoolExecutor

import pytest

from awn_keras.files import check_can_write, read_json, write_whole


def test_text_and_bytes(tmp_path):
    write_whole(tmp_path / "a", "ä")
    assert (tmp_path / "a").read_bytes() == "ä".encode()
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", "old")

    def disk_full(path, data):
        with path.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", "new content")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_several_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "shared.txt"
    texts = [str(number) * 10_000 for number in range(4)]

    def write(text):
        for _ in range(50):
            write_whole(path, text)
            assert path.read_text() in texts

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, texts))  # raises what a writer raised
    assert [p.name for p in tmp_path.iterdir()] == ["shared.txt"]


def test_what_cannot_be_written_is_known_before(tmp_path, monkeypatch):
    check_can_write(tmp_path / "new" / "folder" / "a")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(IsADirectoryError, match="`output` must be a file, not a dir"):
        check_can_write(tmp_path, "output")
    with pytest.raises(NotADirectoryError, match=r"'.*file' is a file. Received: path"):
        check_can_write(tmp_path / "file" / "a" / "b")
    check_can_write(tmp_path / "new", folder=True)
    check_can_write(tmp_path, folder=True)
    with pytest.raises(NotADirectoryError, match="`work` must be a folder, not a file"):
        check_can_write(tmp_path / "file", "work", folder=True)
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="in a folder that can be written to"):
        check_can_write(tmp_path / "a")


def test_json_is_read_or_the_file_named(tmp_path):
    write_whole(tmp_path / "a.json", '{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    write_whole(tmp_path / "a.json", '{"a": ')
    with pytest.raises(ValueError, match=r"a.json' is not JSON.*Remove it"):
        read_json(tmp_path / "a.json")
