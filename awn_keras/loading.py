"""Loading of saved models, with clear errors for files that cannot be loaded."""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras

from awn_keras.archives import FAULTS, check_archive
from awn_keras.baselines import NestedNet, SharedBN, SNet, USNet
from awn_keras.errors import (
    ArgumentError,
    ArgumentTypeError,
    AwnError,
    UnsupportedError,
)
from awn_keras.files import parse_json
from awn_keras.model import AnyWidthModel
from awn_keras.multi_width import MultiWidthModel
from awn_keras.schemas import NewerError, anything, fields, or_null, text, values

#: Held while `_weights_in` replaces Keras' `Layer.add_weight`.
_one_at_a_time = threading.RLock()
#: Importing these classes registers them with Keras.
_CLASSES = (AnyWidthModel, NestedNet, SharedBN, SNet, USNet)
_ABOUT = "a saved Keras model (a .keras file of `model.save`)"
#: Required entries of `config.json`, checked before Keras reads the file.
_CONFIG = fields(
    {
        "class_name": text(),
        "module": or_null(text()),
        "registered_name": or_null(text()),
        "config": values(anything),
    },
    needed=("class_name", "config"),
)


def load_model(path: str | Path) -> MultiWidthModel:
    """Loads an `AnyWidthModel`, or a model of `awn_keras.baselines`.

    `keras.saving.load_model` loads the same files, but its errors for wrong files are
    hard to understand.

    Args:
        path: A `.keras` file.

    Returns:
        The model, compiled if the saved model was compiled.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a saved Keras model or is damaged, if it has
            layers of classes that are not imported, if names of classes and modules do
            not match, if its weights would be larger than the file, or if a later
            version of awn_keras wrote it.
        TypeError: If the file holds a model with one width only.
        NotImplementedError: If the model does not run on this backend.
    """
    path = Path(path)
    model = load_keras_model(path)
    if not isinstance(model, _CLASSES):
        raise ArgumentTypeError(
            f"{path} must hold an AnyWidthModel. Convert the model with `awn convert` "
            f"first. Received: a {type(model).__name__}, which has one width only"
        )
    return model


def load_keras_model(path: str | Path, *, compiled: bool = True) -> keras.Model:
    """Loads any model that `model.save` wrote.

    Code in the file is not run: Keras' safe mode refuses it, unless you turned the safe
    mode off.

    Args:
        path: A `.keras` file.
        compiled: Whether to compile the model, if the saved model was compiled.

    Returns:
        The model.

    Raises:
        FileNotFoundError: See `load_model`.
        ValueError: See `load_model`.
        NotImplementedError: See `load_model`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    _check_format(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = check_archive(archive, path.stat().st_size, str(path), _ABOUT)
            config_json = archive.read("config.json")
            saved_by = _keras_version(archive)
    except ArgumentError:
        raise
    except (KeyError, *FAULTS) as error:
        raise ArgumentError(
            f"{path} is not {_ABOUT}, or is damaged: {error}"
        ) from error
    config = parse_json(config_json, f"{path}, config.json", _CONFIG, f"of {_ABOUT}")
    _check_classes(config, path)
    _check_compiled(config.get("compile_config"), path)
    try:
        with _weights_in(size), _warnings_if_whole():
            return keras.saving.load_model(path, compile=compiled)
    except UnsupportedError:  # the file is fine, but the model needs another backend
        raise
    except Exception as error:  # Keras may raise anything for a damaged file
        raise _unreadable(path, error, saved_by) from error


def _keras_version(archive: zipfile.ZipFile) -> str:
    """The version of Keras that saved a model; "0" if the file does not say."""
    try:
        version = json.loads(archive.read("metadata.json"))["keras_version"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return "0"
    return version if re.fullmatch(r"\d+(\.\w+)*", str(version)) else "0"


def _as_numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _check_format(path: Path) -> None:
    """Refuses other formats, with the way to convert them to `.keras` files."""
    if path.suffix in (".h5", ".hdf5"):
        raise ArgumentError(
            f"{path} is not {_ABOUT}, but a file of the older format HDF5. Convert the "
            f"file: `keras.saving.load_model('{path.name}').save('{path.stem}.keras')`."
        )
    if path.is_dir() and (path / "saved_model.pb").exists():
        raise ArgumentError(
            f"{path} is not {_ABOUT}, but a SavedModel, which holds a graph instead of "
            "layers. Save the model again, from the program that has its layers. If "
            "all layers are those of Keras, run, with TensorFlow up to 2.15 or with "
            "tf_keras, "
            f"`tf_keras.models.load_model('{path.name}').save('{path.name}.h5')`, and "
            "then here "
            f"`keras.saving.load_model('{path.name}.h5').save('{path.name}.keras')`."
        )
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ArgumentError(f"{path} is not {_ABOUT}.")


def _unreadable(path: Path, error: Exception, saved_by: str) -> AwnError:
    """Makes the error for a complete archive that Keras cannot read."""
    if isinstance(error, NewerError):
        return NewerError(str(path), error.schema, error.newest)
    said = " ".join(str(error).split())
    if "Could not locate" in said:
        what = said[said.rindex("Could not locate") :].partition("Make sure")[0]
        return _foreign(path, what.strip())
    if "lambda" in said.lower() and "unsafe" in said.lower():
        return ArgumentError(
            f"{path} contains Python code of a Lambda layer, which loading would run. "
            "If you trust the author of the file, load it in Python: "
            "`keras.saving.load_model(path, safe_mode=False)`."
        )
    if not isinstance(error, AwnError):
        said = f"{type(error).__name__}: {said[:500]}"
    if _as_numbers(saved_by) > _as_numbers(keras.__version__):
        return ArgumentError(
            f"{path} was saved by Keras {saved_by}, and cannot be read by Keras "
            f"{keras.__version__}, which is installed. Update: `pip install --upgrade "
            f"keras`. {said}"
        )
    return ArgumentError(f"{path} is not {_ABOUT}, or is damaged: {said}")


def _foreign(path: Path, what: str) -> ArgumentError:
    return ArgumentError(
        f"{path} has custom layers or functions. Load the file in Python, after "
        f"importing their classes. {what}"
    )


# ------------------------------------------------------------------------- classes


def _check_classes(config: Any, path: Path) -> None:
    """Checks that the names of each class in a config fit together.

    A config names a class by class name, module and registered name. Keras takes the
    class with the registered name and ignores the other names, so a file could make
    Keras use another class than it shows.
    """
    left = [config]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        if not isinstance(part, dict):
            continue
        left += part.values()
        if isinstance(part.get("class_name"), str) and "module" in part:
            _check_class(part, path)


def _check_class(part: dict[str, Any], path: Path) -> None:
    name, module = part["class_name"], part["module"]
    registered = part.get("registered_name")
    if not isinstance(module, str | None) or not isinstance(registered, str | None):
        raise ArgumentError(
            f"{path} is not {_ABOUT}. There, the module and the registered name of "
            f"'{name}' must be text, and are {module!r} and {registered!r}."
        )
    known = keras.saving.get_registered_object(registered) if registered else None
    package = (module or "").partition(".")[0]
    if known is None:
        own = keras.saving.get_registered_object(name)
        if package not in ("", "builtins", "keras", "awn_keras") and own is None:
            raise _foreign(path, f"It names '{name}' of the module '{module}'.")
        return
    home = known.__module__.partition(".")[0]
    # The module of a user's class may differ, because the class may have moved, for
    # instance from a script to a module.
    ours = home in ("awn_keras", "keras")
    if (isinstance(known, type) and name != known.__name__) or (
        ours and package not in ("", "builtins", home)
    ):
        raise ArgumentError(
            f"{path} is refused: it names '{name}' of the module '{module}' by the "
            f"name '{registered}', which is {known.__module__}.{known.__name__}."
        )


#: Functions by which Keras reads names of losses and metrics. Keras calls them only at
#: the first use of a loaded model, so a wrong name would not be noticed while loading.
_READERS = {
    "loss": keras.losses.get,
    "metrics": keras.metrics.get,
    "weighted_metrics": keras.metrics.get,
}
#: Names for which Keras chooses loss or metric by the shape of the outputs.
_ANY_KIND = ("accuracy", "acc", "crossentropy", "ce")


def _check_compiled(said: Any, path: Path) -> None:
    """Checks the names of losses and metrics that a model was compiled with."""
    for field, read in _READERS.items() if isinstance(said, dict) else ():
        left = [said.get(field)]
        while left:
            part = left.pop()
            if isinstance(part, list):
                left += part
            elif isinstance(part, dict) and "class_name" not in part:
                left += part.values()
            elif not isinstance(part, dict | None) and part not in _ANY_KIND:
                _check_readable(part, field, read, path)


def _check_readable(
    name: Any, field: str, read: Callable[[Any], Any], path: Path
) -> None:
    try:
        if isinstance(name, str) and read(name):
            return
    except ValueError:
        pass
    raise ArgumentError(
        f"{path} is not {_ABOUT}, or is damaged: in its 'compile_config', '{field}' "
        f"must be names that Keras knows, but is {name!r}."
    )


@contextlib.contextmanager
def _warnings_if_whole() -> Iterator[None]:
    """A context that drops its warnings if it ends in an error, which says enough."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for each in caught:
        warnings.warn_explicit(
            each.message, each.category, each.filename, each.lineno, source=each.source
        )


# ------------------------------------------------------------------------- weights


@contextlib.contextmanager
def _weights_in(size: int) -> Iterator[None]:
    """A context in which layers cannot make more weights than a file can hold.

    A damaged file of a few bytes could otherwise fill the memory. Keras has no hook
    before a layer makes a weight, so the context replaces `Layer.add_weight`. Layers
    that other threads build meanwhile are not limited.

    Args:
        size: Size of the file in bytes.
    """
    # A byte holds two numbers of int4, the smallest dtype.
    left = most = 2 * size
    thread = threading.get_ident()

    def add_weight_that_fits(layer: Any, shape: Any = None, *a: Any, **kw: Any) -> Any:
        nonlocal left
        if threading.get_ident() != thread:
            return add_weight(layer, shape, *a, **kw)
        # Layers may also pass a number, or TensorFlow's TensorShape.
        sizes = [*shape] if isinstance(shape, Iterable) else [shape or 1]
        left -= math.prod(int(x) for x in sizes)
        if left < 0:
            raise ArgumentError(
                f"its layer '{layer.name}' has a weight of shape {tuple(sizes)}, and "
                f"the file holds {most // 2:,} bytes"
            )
        return add_weight(layer, shape, *a, **kw)

    # With two threads at a time, one would restore the replaced method of the other.
    with _one_at_a_time:
        add_weight = keras.layers.Layer.add_weight
        keras.layers.Layer.add_weight = add_weight_that_fits
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = add_weight
