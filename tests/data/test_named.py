import numpy as np
import pytest
import tensorflow_datasets as tfds

from awn_keras.data import DATASETS, DatasetUnavailableError, load_data


def test_digits_are_embedded():
    data = load_data("digits")
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.dtype == "uint8"
    assert data.input_shape == DATASETS["digits"]
    assert data.classes == 10
    # Each class is in the test set in its share.
    assert np.bincount(data.y_test).min() >= 34
    again = load_data("digits")
    np.testing.assert_array_equal(data.x_test, again.x_test)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"`name` must be one of.*'imagenet'"):
        load_data("imagenet")


def test_a_missing_set_says_what_to_do(tmp_path):
    with pytest.raises(
        DatasetUnavailableError,
        match=r"'mnist' is not prepared at .*--download.*--data",
    ):
        load_data("mnist", data_dir=tmp_path)


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", fail)
    with pytest.raises(DatasetUnavailableError, match="failed: no route to host"):
        load_data("mnist", data_dir=tmp_path, download=True)


def test_a_prepared_set_is_read_through_tfds(tmp_path, monkeypatch):
    # TFDS's own preparation, fed with files of the original format.
    rng = np.random.default_rng(0)
    paths = {}
    for split, count in (("train", 60), ("test", 10)):
        for kind, shape in (("data", (count, 28, 28)), ("labels", (count,))):
            array = rng.integers(0, 10, shape).astype("uint8")
            header = bytes([0, 0, 8, len(shape)]) + b"".join(
                n.to_bytes(4, "big") for n in shape
            )
            paths[f"{split}_{kind}"] = str(tmp_path / f"{split}_{kind}")
            (tmp_path / f"{split}_{kind}").write_bytes(header + array.tobytes())
    module = tfds.builder_cls("mnist").__module__
    monkeypatch.setattr(f"{module}._TRAIN_EXAMPLES", 60)
    monkeypatch.setattr(f"{module}._TEST_EXAMPLES", 10)
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda *_: paths
    )
    data = load_data("mnist", data_dir=tmp_path / "tfds", download=True)
    assert data.x_train.shape == (60, 28, 28, 1)
    assert data.y_test.shape == (10,)
    again = load_data("mnist", data_dir=tmp_path / "tfds")
    np.testing.assert_array_equal(again.x_train, data.x_train)


def test_a_damaged_set_is_not_read(tmp_path):
    version = tfds.builder_cls("mnist").VERSION
    folder = tmp_path / "mnist" / str(version)
    folder.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        (folder / name).write_text("{")
    match = "'mnist' cannot be read from .*--data-dir.*TFDS says: "
    with pytest.raises(DatasetUnavailableError, match=match):
        load_data("mnist", data_dir=tmp_path)
