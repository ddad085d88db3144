"""Reading a saved model of several widths, or saying why that cannot be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras

from awn_keras.baselines import SharedBN, SNet, USNet
from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.model import AnyWidthModel
from awn_keras.multi_width import MultiWidthModel

#: Imported here, so that Keras knows what a file may name.
_CLASSES = (AnyWidthModel, SharedBN, SNet, USNet)


def load_model(path: str | Path) -> MultiWidthModel:
    """Loads an `AnyWidthModel`, or one of `awn_keras.baselines`.

    `keras.saving.load_model` does the same with Keras' own errors, which for a file
    that is not a model come from the depths of its reader.

    Args:
        path: A `.keras` file.

    Returns:
        The model, compiled if it was.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a saved Keras model, or a damaged one, or has layers
            of classes that are not imported.
        TypeError: If it holds another kind of model.
    """
    path = Path(path)
    model = load_keras_model(path)
    if not isinstance(model, _CLASSES):
        raise ArgumentTypeError(
            f"{path} holds a {type(model).__name__}, which has one width only; an "
            "AnyWidthModel is needed. `awn convert` makes one of it."
        )
    return model


def load_keras_model(path: str | Path, *, compiled: bool = True) -> keras.Model:
    """Loads any model that `model.save` wrote.

    Args:
        path: A `.keras` file.
        compiled: Whether to compile the model if it was.

    Returns:
        The model.

    Raises:
        FileNotFoundError: See `load_model`.
        ValueError: See `load_model`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    wanted = f"{path} is not a saved Keras model (a .keras file of `model.save`)"
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ArgumentError(f"{wanted}.")
    try:
        return keras.saving.load_model(path, compile=compiled)
    except (
        *(AttributeError, EOFError, KeyError, OSError, TypeError, ValueError),
        zipfile.BadZipFile,
    ) as error:
        if "Could not locate" in str(error):
            raise ArgumentError(
                f"{path} has layers or functions of its own: load it in Python, where "
                "their classes are imported. Keras says: "
                f"{str(error).partition('Make sure')[0].strip()}"
            ) from error
        raise ArgumentError(f"{wanted}, or is damaged: {error}") from error
