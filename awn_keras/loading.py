"""Reading a saved any-width model, or saying why that cannot be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras

from awn_keras.model import AnyWidthModel


def load_model(path: str | Path) -> AnyWidthModel:
    """Loads an any-width model that `model.save` wrote.

    `keras.saving.load_model` does the same with Keras' own errors, which for a file
    that is not a model come from the depths of its reader.

    Args:
        path: A `.keras` file.

    Returns:
        The model, compiled if it was.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a saved Keras model, or a damaged one.
        TypeError: If it holds another kind of model.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    wanted = f"{path} is not a saved Keras model (a .keras file of `model.save`)"
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"{wanted}.")
    try:
        model = keras.saving.load_model(path)
    except (
        *(AttributeError, EOFError, KeyError, OSError, TypeError, ValueError),
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"{wanted}, or is damaged: {error}") from error
    if not isinstance(model, AnyWidthModel):
        raise TypeError(
            f"{path} holds a {type(model).__name__}, which has one width only; an "
            "AnyWidthModel is needed."
        )
    return model
