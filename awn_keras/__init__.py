"""Any-width networks for Keras: train every width at once, run any of them.

A machine that only runs exported files needs no Keras backend. Without one, this
package offers `AnyWidthInterpreter`, `AnytimeInterpreter` and `read_photo`. They need
LiteRT, NumPy and Pillow.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from awn_keras.extras import BACKENDS, MissingPackageError, how_to_install
from awn_keras.schemas import __version__ as __version__


def _missing(error: ModuleNotFoundError) -> str:
    """Returns the name of the missing package, if it is Keras or a backend.

    Raises:
        ModuleNotFoundError: If another package is missing.
    """
    if error.name not in ("keras", *BACKENDS):
        raise error
    return error.name


def _needs(name: str, missing: str) -> MissingPackageError:
    """The error for a public name that needs the missing package."""
    if missing == "keras":
        way_out = 'Keras, which is not installed: `pip install "awn_keras[tflite]"`.'
    else:
        way_out = (
            f"a Keras backend. Keras is set to use {how_to_install(missing)} To use "
            "another backend, set the environment variable KERAS_BACKEND to one of "
            f"{', '.join(BACKENDS)}."
        )
    return MissingPackageError(
        f"{name} needs {way_out} Only AnyWidthInterpreter, AnytimeInterpreter and "
        "read_photo, which run exported files, work without it."
    )


def _load() -> Any:
    """Imports the module with all public names that this machine can run."""
    try:
        return import_module("awn_keras.public")
    except ModuleNotFoundError as error:
        _missing(error)
        return import_module("awn_keras.runtime")


def _check_public(name: str) -> None:
    # `from awn_keras import cli` asks for an attribute before it imports a submodule.
    # An AttributeError here makes Python import the submodule.
    if name.startswith("_") or find_spec(f"awn_keras.{name}") is not None:
        raise AttributeError(f"module 'awn_keras' has no attribute {name!r}")


if getattr(sys.modules.get("_awn"), "reads_arguments", False):
    # Keras takes seconds to import. The program `awn` checks its arguments first.
    def __getattr__(name: str) -> Any:
        _check_public(name)
        return getattr(_load(), name)

else:
    try:
        from awn_keras.public import *  # noqa: F403
        from awn_keras.public import __all__ as __all__
    except ModuleNotFoundError as error:
        _without = _missing(error)
        from awn_keras.runtime import *  # noqa: F403
        from awn_keras.runtime import __all__ as __all__

        def __getattr__(name: str) -> Any:
            _check_public(name)
            raise _needs(f"`awn_keras.{name}`", _without)
