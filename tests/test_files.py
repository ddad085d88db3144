import itertools
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import awn_keras
from awn_keras.files import (
    check_can_write,
    read_json,
    together,
    try_lock,
    whole_file,
    write_whole,
)
from tests.failing import CALLS, contents, failing, small_disk


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes(tmp_path):
    write_whole(tmp_path / "a", "ä")
    assert (tmp_path / "a").read_bytes() == "ä".encode()
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    write_whole(tmp_path / "a", "")
    assert (tmp_path / "a").read_bytes() == b""
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("call", CALLS)
def test_a_failure_leaves_the_old_file_and_nothing_else(call, tmp_path):
    write_whole(tmp_path / "a", "old")
    # The error names the final file, not the temporary file beside it.
    match = f"No space left on device: '{tmp_path / 'a'}'$"
    with failing(call, 0), pytest.raises(OSError, match=match):
        write_whole(tmp_path / "a", "new content")
    assert contents(tmp_path) == {"a": b"old"}
    assert not open_files(tmp_path)


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path):
    write_whole(tmp_path / "a", "old")
    with failing("fsync", 1) as fault:
        write_whole(tmp_path / "a", "new")
    assert fault.came
    assert contents(tmp_path) == {"a": b"new"}


def open_files(folder):
    """Returns the open files of this process in a folder."""
    files = (os.path.realpath(f) for f in Path("/proc/self/fd").iterdir())
    return [file for file in files if file.startswith(str(folder))]


def test_a_writer_that_raises_leaves_the_old_file(tmp_path):
    write_whole(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as temporary:
        temporary.write_bytes(b"new"[: 1 // 0])
    assert contents(tmp_path) == {"a": b"old"}


def test_a_writer_may_want_a_suffix(tmp_path):
    with whole_file(tmp_path / "a.keras", ".keras") as temporary:
        assert temporary.suffix == ".keras"
        temporary.write_text("new")
        assert names(tmp_path) == [temporary.name]
    assert names(tmp_path) == ["a.keras"]


def test_several_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "shared.txt"
    texts = [str(number) * 10_000 for number in range(4)]

    def write(text):
        for _ in range(50):
            write_whole(path, text)
            assert path.read_text() in texts

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, texts))  # raises the error of a writer
    assert names(tmp_path) == ["shared.txt"]


# -------------------------------------------------------------------------- together


def write_three(folder):
    with together():
        write_whole(folder / "a", "new a")
        with together():  # of a part of it
            write_whole(folder / "b", "new b")
        write_whole(folder / "names them", "a, b")
        assert "a" not in names(folder) or (folder / "a").read_text() == "old a"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "old", [{}, {"b": "old b"}, {"a": "old a", "b": "old b", "names them": "old"}]
)
@pytest.mark.parametrize("links", [True, False])
def test_all_files_change_or_none(call, old, links, tmp_path, monkeypatch):
    if not links:  # as on FAT

        def no_links(path, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    new = {"a": b"new a", "b": b"new b", "names them": b"a, b"}
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in old.items():
            (folder / name).write_text(text)
        before = contents(folder)
        try:
            with failing(call, number) as fault:
                write_three(folder)
        except OSError:
            assert fault.came
            assert contents(folder) == before
        else:
            assert contents(folder) == new
        assert not open_files(folder)
        if not fault.came:
            break
    # Three files, and with fsync also the folder.
    assert number == 3 + (call == "fsync")


def test_a_block_that_raises_changes_nothing(tmp_path):
    write_whole(tmp_path / "a", "old")

    def write():
        with together():
            write_whole(tmp_path / "a", "new")
            write_whole(tmp_path / "a" / "b", "not in a file")

    with pytest.raises(NotADirectoryError):
        write()
    assert contents(tmp_path) == {"a": b"old"}
    write_whole(tmp_path / "a", "new")  # on its own again
    assert contents(tmp_path) == {"a": b"new"}


def test_a_file_may_be_written_twice(tmp_path):
    write_whole(tmp_path / "a", "old")
    for number in (0, 1, 2):
        with pytest.raises(OSError, match="No space"), failing("replace", number):
            write_twice(tmp_path)
        assert contents(tmp_path) == {"a": b"old"}
    write_twice(tmp_path)
    assert contents(tmp_path) == {"a": b"second", "b": b"b"}


def write_twice(folder):
    with together():
        write_whole(folder / "a", "first")
        write_whole(folder / "a", "second")
        write_whole(folder / "b", "b")


@pytest.mark.parametrize("size", [35_000, 60_000, 120_000])
def test_a_full_disk_leaves_the_old_files(size, tmp_path):
    # 128 kB less two files of 20 kB: two more of them fit, and then one, or none.
    old = {"a": b"a" * 20_000, "b": b"b" * 20_000}
    with small_disk(tmp_path / "disk", 128) as disk:
        for name, content in old.items():
            (disk / name).write_bytes(content)
        full = pytest.raises(OSError, match=r"No space left on device: '.*/disk/[abc]'")
        with full, together():
            for name in "abc":
                write_whole(disk / name, name.encode() * size)
        assert contents(disk) == old
        with together():
            for name in old:
                write_whole(disk / name, "small")
        assert contents(disk) == dict.fromkeys("ab", b"small")


# ------------------------------------------------------------------------- leftovers

#: Writes half a file, says so, and waits to be killed.
KILLED = """
import sys, types
from pathlib import Path
package = types.ModuleType("awn_keras")  # importing all of it would take long
package.__path__ = [sys.argv[2]]
sys.modules["awn_keras"] = package
from awn_keras.files import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("half", flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_killed_runs_go_and_those_of_others_stay(tmp_path):
    package = Path(awn_keras.__file__).parent
    started = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path / "a", package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout.readline() == b"half\n"
    killed, alive = started
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    mine = ["b.partial", "c.123.partial", "pixels.partial"]
    for name in mine:
        (tmp_path / name).touch()
    assert len(names(tmp_path)) == 5
    write_whole(tmp_path / "other", "any file there")
    assert len(names(tmp_path)) == 5  # one less, one more
    assert {*mine, "other"} < set(names(tmp_path))
    alive.communicate()
    assert alive.returncode == 0
    assert (tmp_path / "a").read_text() == "half"
    assert names(tmp_path) == sorted([*mine, "a", "other"])


def test_a_lock_is_held_until_its_file_is_closed(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as file:
        assert try_lock(file.fileno())
        with path.open() as other:
            assert not try_lock(other.fileno())
    with path.open() as other:
        assert try_lock(other.fileno())


# ----------------------------------------------------------------------------- links


def test_a_link_is_followed(tmp_path):
    for folder in ("real", "links"):
        (tmp_path / folder).mkdir()
    real, link = tmp_path / "real" / "a", tmp_path / "links" / "a"
    link.symlink_to(real)
    for content in (b"through a link to nothing", b"again"):
        write_whole(link, content)
        assert link.is_symlink()
        assert real.read_bytes() == content
    with together():
        write_whole(link, "new")
        write_whole(tmp_path / "links" / "b", "new")
    assert link.is_symlink()
    assert contents(tmp_path / "real") == {"a": b"new"}


def test_what_cannot_be_replaced_is_refused(tmp_path):
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(OSError, match=r"Too many levels of symbolic links: '.*round'"):
        write_whole(tmp_path / "round", "new")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        match = f"'.*{name}' must be a file, .* not a device or a pipe"
        with pytest.raises(OSError, match=match):
            write_whole(tmp_path / name, "new")
        with pytest.raises(OSError, match=r"`output` must be a file, .* Received: o"):
            check_can_write(tmp_path / name, "output")
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, "new")


# ----------------------------------------------------------------- checks and reading


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
    with pytest.raises(ValueError, match=r"a.json' is not .*remove it, .*not JSON"):
        read_json(tmp_path / "a.json")
