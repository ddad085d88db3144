"""Images and class names for models and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from awn_keras.deploy.litert import TFLiteFile, TFLiteFolder
    from awn_keras.deploy.pixels import Pixels


def class_names_beside(model: Path) -> list[str]:
    """Reads a model's class names from the `data.json` that training writes.

    Args:
        model: File of the model.

    Returns:
        The names; an empty list if there is no `data.json`.

    Raises:
        ValueError: If `data.json` is damaged.
        OSError: If `data.json` cannot be read.
    """
    from awn_keras.runs.sets import read_set

    said = read_set(model.parent)
    return [] if said is None else list(said["class_names"])


def as_file_takes(images: np.ndarray, dtype: Any, pixels: Pixels | None) -> np.ndarray:
    """Converts pixels to inputs of a file.

    Args:
        images: Pixels `(n, rows, cols, channels)`.
        dtype: Dtype of the file's input.
        pixels: How pixels become inputs. With `None`, the file gets the pixels
            unchanged.

    Returns:
        Array of the same shape.
    """
    import numpy as np

    if pixels is None:
        return images
    if np.dtype(dtype).kind == "f":
        return pixels.to_inputs(images)
    return images.astype(dtype)


def accuracies_on(
    file: TFLiteFile | TFLiteFolder, data: Any, widths: Sequence[float] | None
) -> dict[str, float]:
    """Measures the accuracy of each width of a file on test images.

    Args:
        file: The file, with an output of scores.
        data: The `ImageData`, which must fit the file; see `sets.load_dataset`.
        widths: Widths of the file to run. `None` runs all.

    Returns:
        A dict from signatures to accuracies in [0, 1].

    Raises:
        ValueError: If the file has no such width.
    """
    import numpy as np

    from awn_keras.deploy.benchmark.host import accuracies

    widest = list(file.by_width.values())[-1]
    (tensor,) = widest.inputs
    pixels = file.pixels_of(tensor.name)
    batches = data.test()
    right: Counter[str] = Counter()
    count = 0
    for index in range(len(batches)):
        images, labels = (np.asarray(array) for array in batches[index])
        x = as_file_takes(images, tensor.dtype, pixels)
        for name, accuracy in accuracies(file, x, labels, widths).items():
            right[name] += round(accuracy * len(labels))
        count += len(labels)
    return {name: hits / count for name, hits in right.items()}
