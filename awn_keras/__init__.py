"""Any-width networks for Keras: train every width at once, run any of them.

On a machine without Keras, such as a board that runs files, `AnyWidthInterpreter`,
`AnytimeInterpreter` and `read_photo` are there, which need LiteRT, NumPy and Pillow.
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

try:
    __version__ = version("awn_keras")
except PackageNotFoundError:  # running from a source tree
    __version__ = "0+unknown"


def _has_keras() -> bool:
    try:
        return find_spec("keras") is not None
    except (ImportError, ValueError):
        return False


def _load() -> Any:
    """Imports all names that this machine can have, and gives their module."""
    return import_module("awn_keras.public" if _has_keras() else "awn_keras.runtime")


if getattr(sys.modules.get("_awn"), "reads_arguments", False):
    # The program `awn` answers wrong arguments before it imports Keras for seconds.
    def __getattr__(name: str) -> Any:
        # `from awn_keras import cli` asks for an attribute before it imports a module.
        if name.startswith("_") or find_spec(f"awn_keras.{name}") is not None:
            raise AttributeError(f"module 'awn_keras' has no attribute {name!r}")
        return getattr(_load(), name)

elif _has_keras():
    from awn_keras.public import *  # noqa: F403
    from awn_keras.public import __all__ as __all__
else:
    from awn_keras.runtime import *  # noqa: F403
    from awn_keras.runtime import __all__ as __all__

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module 'awn_keras' has no attribute {name!r}")
        raise ImportError(
            f"`awn_keras.{name}` needs Keras and TensorFlow, which are not installed: "
            "`pip install awn_keras`. Without them there are "
            f"{', '.join(__all__)}, which run exported files."
        )
