import numpy as np
import pytest
import tensorflow_datasets as tfds

from awn_keras.data import (
    DATASETS,
    Batches,
    DatasetUnavailableError,
    ImageData,
    load_data,
    shift_and_flip,
)


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


def test_images_are_normalized_per_channel():
    data = load_data("digits")
    images = np.concatenate([x for x, _ in (data.train(100)[i] for i in range(15))])
    assert images.dtype == "float32"
    assert images.shape == data.x_train.shape
    # float32 sums of 92,000 numbers.
    assert images.mean() == pytest.approx(0, abs=1e-4)
    assert images.std() == pytest.approx(1, abs=1e-4)


def test_an_epoch_holds_each_sample_once():
    data = load_data("digits")
    batches = data.train(64)
    labels = np.concatenate([batches[i][1] for i in range(len(batches))])
    np.testing.assert_array_equal(np.sort(labels), np.sort(data.y_train))
    test = data.test(64)
    labels = np.concatenate([test[i][1] for i in range(len(test))])
    np.testing.assert_array_equal(labels, data.y_test)


def test_order_depends_on_seed_and_epoch_only():
    data = load_data("digits")

    def epoch(number, seed=0):
        batches = data.train(64, seed=seed)
        for _ in range(number):
            batches.on_epoch_end()
        return batches[3][1].tolist()

    assert epoch(2) == data.train(64, first_epoch=2)[3][1].tolist()
    assert epoch(0) != epoch(1) != epoch(2)
    assert epoch(1, seed=1) != epoch(1)


def test_augmentation_depends_on_seed_and_epoch_only():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), "uint8")

    def batches(seed=0, first_epoch=0):
        return Batches(
            images,
            np.arange(40),
            np.zeros(3),
            np.ones(3),
            16,
            augment=True,
            seed=seed,
            first_epoch=first_epoch,
        )

    whole = batches()
    first = whole[1][0]
    assert not np.array_equal(first, images[16:32])
    whole.on_epoch_end()
    resumed = batches(first_epoch=1)
    for index in range(3):
        for one, other in zip(whole[index], resumed[index], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first, whole[1][0])
    assert not np.array_equal(first, batches(seed=1)[1][0])


def image(rows=6, cols=5):
    """Each pixel tells its place: row + col / 10, plus a second channel."""
    row, col = np.meshgrid(np.arange(1.0, rows + 1), np.arange(cols), indexing="ij")
    return np.stack([row + col / 10, -row], axis=-1).astype("float32")


def test_shift_and_flip_crop_from_a_border():
    rng = np.random.default_rng(0)
    images = np.stack([image()] * 300)
    moved = shift_and_flip(images, rng, padding=2)
    assert moved.shape == images.shape
    assert moved.dtype == "float32"
    padded = np.pad(image(), ((2, 2), (2, 2), (0, 0)))
    possible = {
        (flip, top, left): window[:, :: -1 if flip else 1]
        for flip in (False, True)
        for top in range(5)
        for left in range(5)
        for window in [padded[top : top + 6, left : left + 5]]
    }
    seen = set()
    for one in moved:
        match = [key for key, window in possible.items() if np.array_equal(window, one)]
        assert len(match) == 1
        seen.update(match)
    # 300 draws of 50 possibilities leave out few.
    assert len(seen) > 45


def test_augmentation_is_for_training_on_cifar():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    y = np.arange(8)
    cifar = ImageData("cifar10", x, y, x, y)
    assert cifar.train().augment
    assert not cifar.test().augment
    assert not ImageData("mnist", x, y, x, y).train().augment
    assert ImageData("cifar10_part", x, y, x, y, augment=True).train().augment
    one, two = cifar.train(8, seed=1), cifar.train(8, seed=1)
    np.testing.assert_array_equal(one[0][0], two[0][0])
    first = one[0][0]
    one.on_epoch_end()
    assert not np.array_equal(np.sort(first, None), np.sort(one[0][0], None))


def test_batches_leave_the_arrays_alone():
    x = np.zeros((4, 2, 2, 1), "uint8")
    batches = Batches(x, np.arange(4), [1.0], [2.0], 4)
    images, _ = batches[0]
    assert images.max() == -0.5
    assert not x.any()


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
