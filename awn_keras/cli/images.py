"""Images and names of classes, as models and files of them say."""

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
    """The names of a model's classes, from the `data.json` that training writes.

    Args:
        model: The model's file.

    Returns:
        The names; none if there is no such file.

    Raises:
        ValueError: If it is damaged.
        OSError: If it cannot be read.
    """
    from awn_keras.runs.sets import read_set

    said = read_set(model.parent)
    return [] if said is None else list(said["class_names"])


def as_file_takes(images: np.ndarray, dtype: Any, pixels: Pixels | None) -> np.ndarray:
    """Turns pixels into inputs of a file.

    Args:
        images: Pixels `(n, rows, cols, channels)`.
        dtype: Dtype of the file's input.
        pixels: How pixels become what it takes; `None` if it does not say, and is
            given pixels as they are.

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
    """Accuracy of each width of a file on the test images of a data set.

    Args:
        file: The file; its output is scores.
        data: The `ImageData`, which fits it; see `sets.load_dataset`.
        widths: Those of its widths to run. `None` for all.

    Returns:
        Accuracy in [0, 1] by signature.

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
