import keras
import numpy as np
import pytest

from awn_keras.data.samples import MOST, collect_samples
from tests.conftest import rich, small_conv
from tests.data.folders import photos

X = np.random.default_rng(0).normal(size=(10, 6, 6, 2)).astype("float32")
Y = np.arange(10)


class Data(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[3 * index : 3 * index + 3], Y[3 * index : 3 * index + 3]


def dataset(*arrays, batch=None):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])
    return data if batch is None else data.batch(batch)


@pytest.mark.backends
@pytest.mark.parametrize(
    "make",
    [
        lambda: X,
        lambda: keras.ops.convert_to_tensor(X),
        lambda: list(X),
        lambda: [X[:4], X[4:]],
        lambda: iter(X),
        lambda: (X[i : i + 4] for i in (0, 4, 8)),
        lambda: zip(X, Y, strict=True),
        lambda: ((X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)),
        lambda: ([x, y] for x, y in zip(X, Y, strict=True)),
        Data,
        lambda: dataset(X),
        lambda: dataset(X, batch=4),
        lambda: dataset(X, Y),
        lambda: dataset(X, Y, batch=4),
    ],
)
def test_all_that_holds_samples_gives_the_same_ones(make):
    (got,) = collect_samples(make(), small_conv(), "samples")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(got), X)


def test_several_inputs_come_in_the_order_of_the_model():
    model = rich()
    vectors = np.arange(30.0).reshape(10, 3)
    named = {"vector": vectors, "image": X}
    elements = [
        {name: array[i] for name, array in named.items()} for i in range(len(X))
    ]
    labelled = ((element, 1) for element in elements)
    for samples in (named, [X, vectors], iter(elements), labelled):
        image, vector = collect_samples(samples, model, "samples")
        np.testing.assert_array_equal(image, X)
        np.testing.assert_array_equal(vector, vectors)


def test_of_endless_ones_some_hundred_are_taken():
    def forever():
        while True:
            yield X

    (got,) = collect_samples(forever(), small_conv(), "samples")
    assert len(got) == MOST


def test_what_has_no_samples_is_refused():
    with pytest.raises(ValueError, match="`representative` must have at least one sam"):
        collect_samples(iter(()), small_conv(), "representative")
    with pytest.raises(ValueError, match="`samples` must have samples of one shape"):
        collect_samples(iter([X[0], X[0, :4]]), small_conv(), "samples")


def test_a_folder_of_photos_is_read_at_the_size_of_the_input(tmp_path):
    inputs = keras.Input((8, 6, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    photos(tmp_path / "photos", cat=2)
    (tmp_path / "photos" / "cat" / "0.jpg").write_bytes(b"")
    (got,) = collect_samples(tmp_path / "photos", model, "samples")
    assert got.shape == (2, 8, 6, 3)
    assert got.max() > 100
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bad has no photo that can be read: .*empty"):
        collect_samples(tmp_path / "bad", model, "samples")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        collect_samples("nowhere", model, "samples")
    with pytest.raises(
        ValueError, match="`samples` can be a folder of photos only for"
    ):
        collect_samples(tmp_path / "photos", small_conv(), "samples")
