import zipfile

import pytest

from awn_keras import slim
from awn_keras.deploy.attachments import attach, attached, flatbuffer_of
from awn_keras.deploy.converter import convert
from awn_keras.deploy.litert import TFLiteFile
from tests.conftest import small_dense


@pytest.fixture(scope="module")
def content():
    return convert({"serve": slim(small_dense(), 1.0)})


FILES = {"labels.txt": "größe\n".encode(), "awn.json": b"{}"}


def test_a_file_is_a_flatbuffer_and_an_archive(content, tmp_path):
    whole = attach(content, FILES)
    path = tmp_path / "a.tflite"
    path.write_bytes(whole)
    # What any unzipper reads.
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
        # MediaPipe reads no compressed ones.
        kinds = {entry.compress_type for entry in archive.infolist()}
    assert kinds == {zipfile.ZIP_STORED}
    assert attached(path) == attached(whole) == FILES
    assert flatbuffer_of(whole) == content
    assert list(TFLiteFile(path).signatures) == ["serve"]


def test_the_same_files_give_the_same_bytes(content, monkeypatch):
    before = attach(content, FILES)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert attach(content, FILES) == before


def test_nothing_is_attached_to_other_files(content, tmp_path):
    assert attached(content) == {}
    assert flatbuffer_of(content) == content
    with pytest.raises(FileNotFoundError):
        attached(tmp_path / "none.tflite")
