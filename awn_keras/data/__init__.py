"""Image data sets: the paper's by name."""

from awn_keras.data.batches import Batches, shift_and_flip
from awn_keras.data.images import ImageData
from awn_keras.data.named import DATASETS, DatasetUnavailableError, load_data

__all__ = [
    "DATASETS",
    "Batches",
    "DatasetUnavailableError",
    "ImageData",
    "load_data",
    "shift_and_flip",
]
