import keras
import numpy as np
import pytest

from awn_keras.data import Batches, load_data, shift_and_flip


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
            16,
            flip=True,
            shift=4,
            seed=seed,
            first_epoch=first_epoch,
        )

    whole = batches()
    first = whole[1][0]
    assert not np.array_equal(first, images[16:32])
    whole.on_epoch_end()
    resumed = batches(first_epoch=1)
    for index in range(3):
        for value, other in zip(whole[index], resumed[index], strict=True):
            np.testing.assert_array_equal(value, other)
    assert not np.array_equal(first, whole[1][0])
    assert not np.array_equal(first, batches(seed=1)[1][0])


def image(rows=6, cols=5):
    """An image whose first channel encodes the position as row + col / 10."""
    row, col = np.meshgrid(np.arange(1.0, rows + 1), np.arange(cols), indexing="ij")
    return np.stack([row + col / 10, -row], axis=-1).astype("float32")


def test_shift_and_flip_crop_from_a_border():
    rng = np.random.default_rng(0)
    images = np.stack([image()] * 300)
    moved = shift_and_flip(images, rng, shift=2, border=[7, -7])
    assert moved.shape == images.shape
    assert moved.dtype == "float32"
    padded = np.tile(np.float32([7, -7]), (10, 9, 1))
    padded[2:-2, 2:-2] = image()
    possible = {
        (flip, top, left): window[:, :: -1 if flip else 1]
        for flip in (False, True)
        for top in range(5)
        for left in range(5)
        for window in [padded[top : top + 6, left : left + 5]]
    }
    seen = set()
    for crop in moved:
        match = [
            key for key, window in possible.items() if np.array_equal(window, crop)
        ]
        assert len(match) == 1
        seen.update(match)
    # 300 draws of 50 possibilities leave out few.
    assert len(seen) > 45


def test_batches_leave_the_arrays_alone():
    x = np.full((4, 2, 2, 1), 7, "uint8")
    images, _ = Batches(x, np.arange(4), 4, flip=True, shift=1)[0]
    images[:] = 1
    assert (x == 7).all()


def test_flips_and_shifts_are_turned_off_one_by_one():
    images = np.stack([image()] * 50)
    rng = np.random.default_rng
    flipped = shift_and_flip(images, rng(0), shift=0)
    assert {tuple(crop[0, :, 0]) for crop in flipped} == {
        tuple(image()[0, :, 0]),
        tuple(image()[0, ::-1, 0]),
    }
    shifted = shift_and_flip(images, rng(0), shift=1, flip=False, border=-1)
    assert len({crop.tobytes() for crop in shifted}) == 9
    # The shifts are equal with and without flips.
    both = shift_and_flip(images, rng(0), shift=1, border=-1)
    same = [np.array_equal(*pair) for pair in zip(both, shifted, strict=True)]
    assert 10 < sum(same) < 40


@pytest.mark.backends
# Keras' RandAugment on PyTorch.
@pytest.mark.filterwarnings("ignore:Tensor.T is deprecated on 0-D:UserWarning")
@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.RandomRotation(0.1, seed=1),
        lambda: keras.layers.RandomBrightness(0.3),
        lambda: keras.layers.RandAugment(),
    ],
    ids=["rotation", "brightness", "rand_augment"],
)
def test_layers_of_keras_draw_by_seed_and_epoch_only(layer):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 16, 16, 3), "uint8")
    layers = [layer()]

    def batches(seed=0, first_epoch=0, layers=layers):
        return Batches(
            images, np.arange(8), 4, layers=layers, seed=seed, first_epoch=first_epoch
        )

    whole = batches()
    first = [whole[index][0] for index in range(2)]
    assert first[0].dtype == "float32"
    assert not np.array_equal(first[0], images[:4])
    assert not np.array_equal(first[0], batches(seed=1)[0][0])
    whole.on_epoch_end()
    second = [whole[index][0] for index in range(2)]
    assert not np.array_equal(first[0], second[0])
    # Resumed: new layers, which have drawn nothing yet.
    resumed = batches(first_epoch=1, layers=[layer()])
    for index in (1, 0):
        np.testing.assert_array_equal(resumed[index][0], second[index])
