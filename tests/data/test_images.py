import numpy as np
import pytest

from awn_keras.data import ImageData, load_data


def test_images_are_normalized_per_channel():
    data = load_data("digits")
    images = np.concatenate([x for x, _ in (data.train(100)[i] for i in range(15))])
    assert images.dtype == "float32"
    assert images.shape == data.x_train.shape
    # float32 sums of 92,000 numbers.
    assert images.mean() == pytest.approx(0, abs=1e-4)
    assert images.std() == pytest.approx(1, abs=1e-4)


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
