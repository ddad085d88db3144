"""Image data sets: those of the paper by name, and folders of photos."""

from awn_keras.data.batches import Batches, shift_and_flip
from awn_keras.data.folder import load_folder
from awn_keras.data.images import ImageData
from awn_keras.data.named import DATASETS, DatasetUnavailableError, load_data
from awn_keras.data.reading import Photos

__all__ = [
    "DATASETS",
    "Batches",
    "DatasetUnavailableError",
    "ImageData",
    "Photos",
    "load_data",
    "load_folder",
    "shift_and_flip",
]
