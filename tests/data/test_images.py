import keras
import numpy as np
import pytest

from awn_keras import lenet_3c1l, slim
from awn_keras.data import ImageData, load_data


def test_batches_are_pixels():
    data = load_data("digits")
    for batches, pixels in (
        (data.train(100), data.x_train),
        (data.test(), data.x_test),
    ):
        images = np.concatenate(
            [x for x, _ in (batches[i] for i in range(len(batches)))]
        )
        assert images.dtype == "float32"
        assert images.shape == pixels.shape
        np.testing.assert_array_equal(
            np.sort(images, axis=None), np.sort(pixels, axis=None)
        )


@pytest.mark.backends
def test_the_preprocessing_makes_mean_0_and_deviation_1(tmp_path):
    data = load_data("digits")
    layer = data.preprocessing()
    images = keras.ops.convert_to_numpy(layer(data.x_train.astype("float32")))
    # float32 sums of 92,000 numbers.
    assert images.mean() == pytest.approx(0, abs=1e-4)
    assert images.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(
        images, (data.x_train - data.mean) / data.std, rtol=1e-5, atol=1e-5
    )
    assert not layer.weights
    network = lenet_3c1l((8, 8, 1), filters=4, padding="same", preprocessing=layer)
    assert network.layers[1] is layer
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    x = data.test()[0][0]
    wanted = network.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), wanted)
    # The same sums, perhaps in another order.
    plain = slim(network, 1.0).predict(x, verbose=0)
    np.testing.assert_allclose(plain, wanted, atol=1e-5)


def test_the_preprocessing_computes_in_float32_in_any_policy():
    data = load_data("digits")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = data.preprocessing()
    finally:
        keras.config.set_dtype_policy(policy)
    assert layer.compute_dtype == "float32"


def test_a_channel_without_deviation_becomes_0():
    x = np.zeros((6, 8, 8, 2), "uint8")
    x[..., 0] = 200
    x[:3, ..., 1] = 4
    data = ImageData("flat", x, np.arange(6), x, np.arange(6))
    images = keras.ops.convert_to_numpy(data.preprocessing()(x.astype("float32")))
    assert not images[..., 0].any()
    assert set(np.unique(images[..., 1])) == {-1.0, 1.0}


def test_moments_are_those_of_numpy():
    x = np.random.default_rng(0).integers(0, 256, (70, 9, 8, 3), "uint8")
    data = ImageData("random", x, np.arange(70), x, np.arange(70))
    np.testing.assert_allclose(data.mean, x.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, x.std((0, 1, 2)), rtol=1e-6)


def test_training_images_are_augmented_as_the_set_says():
    x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8")
    y = np.arange(8)
    plain = ImageData("plain", x, y, x, y)
    data = ImageData("cifar", x, y, x, y, flip=True, shift=4)
    np.testing.assert_array_equal(
        np.sort(plain.train(8)[0][0], axis=None), np.sort(x, axis=None)
    )
    np.testing.assert_array_equal(data.test(8)[0][0], x)
    batches, two = data.train(8, seed=1), data.train(8, seed=1)
    np.testing.assert_array_equal(batches[0][0], two[0][0])
    first = batches[0][0]
    # A shift fills the free border with the mean color.
    border = set(map(tuple, np.rint(data.mean)[None]))
    assert border <= set(map(tuple, first.reshape(-1, 3)))
    batches.on_epoch_end()
    assert not np.array_equal(np.sort(first, None), np.sort(batches[0][0], None))
    with pytest.raises(ValueError, match=r"`shift` must be .*below.*shift=32"):
        ImageData("wide", x, y, x, y, shift=32)
