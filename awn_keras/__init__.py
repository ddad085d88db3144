"""Any-width networks for Keras: train every width at once, run any of them.

Where Keras has no backend, as on a board that runs files, `AnyWidthInterpreter`,
`AnytimeInterpreter` and `read_photo` are there, which need LiteRT, NumPy and Pillow.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from awn_keras.extras import BACKENDS, MissingPackageError, how_to_install
from awn_keras.schemas import __version__ as __version__


def _missing(error: ModuleNotFoundError) -> str:
    """Gives what is not installed, if all would be there with it.

    Raises:
        ModuleNotFoundError: If something else is at fault.
    """
    if error.name not in ("keras", *BACKENDS):
        raise error
    return error.name


def _needs(name: str, missing: str) -> MissingPackageError:
    """What a user is told who asks for more than there is."""
    if missing == "keras":
        way_out = 'Keras, which is not installed: `pip install "awn_keras[tflite]"`.'
    else:
        way_out = (
            f"Keras on a backend. It is told to run on {how_to_install(missing)} To "
            "run on another, set the environment variable KERAS_BACKEND to one of "
            f"{', '.join(BACKENDS)}."
        )
    return MissingPackageError(
        f"{name} needs {way_out} Without it there are AnyWidthInterpreter, "
        "AnytimeInterpreter and read_photo, which run exported files."
    )


def _load() -> Any:
    """Imports all names that this machine can have, and gives their module."""
    try:
        return import_module("awn_keras.public")
    except ModuleNotFoundError as error:
        _missing(error)
        return import_module("awn_keras.runtime")


def _check_public(name: str) -> None:
    # `from awn_keras import cli` asks for an attribute before it imports a module.
    if name.startswith("_") or find_spec(f"awn_keras.{name}") is not None:
        raise AttributeError(f"module 'awn_keras' has no attribute {name!r}")


if getattr(sys.modules.get("_awn"), "reads_arguments", False):
    # The program `awn` answers wrong arguments before it imports Keras for seconds.
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
