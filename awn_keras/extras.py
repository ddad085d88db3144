"""Packages that `pip install awn_keras` leaves out, and the extras that bring them."""

from __future__ import annotations

from importlib.util import find_spec

from awn_keras.errors import AwnError

#: By the name that a package is imported by: what pip calls it, and our extra.
_PACKAGES = {
    "PIL": ("pillow", "data"),
    "ai_edge_litert": ("ai-edge-litert", "tflite"),
    "ipywidgets": ("ipywidgets", "notebooks"),
    "jax": ("jax", "jax"),
    "matplotlib": ("matplotlib", "plot"),
    "sklearn": ("scikit-learn", "data"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "tensorflow": ("tensorflow", "tflite"),
    "tensorflow_datasets": ("tensorflow-datasets", "data"),
    "tensorflow_model_optimization": ("tensorflow-model-optimization", "quantization"),
    "tf_keras": ("tf-keras", "quantization"),
    "torch": ("torch", "torch"),
}
#: What Keras runs on: one of these.
BACKENDS = ("tensorflow", "jax", "torch")


class MissingPackageError(AwnError, ImportError):
    """A package is not installed; the message says how to install it.

    Attributes:
        name: The name that it is imported by.
    """


def check_installed(who: str, *packages: str, why: str = "") -> None:
    """Checks that packages are there, before work that would end without them.

    Args:
        who: What needs them, at the beginning of a sentence.
        *packages: The names that they are imported by.
        why: What for, a clause that goes on after a comma.

    Raises:
        ImportError: If one is not installed.
    """
    for package in packages:
        try:
            installed = find_spec(package) is not None
        except (ImportError, ValueError):  # half an installation, or none in a test
            installed = False
        if not installed:
            error = MissingPackageError(
                f"{who} needs the package {how_to_install(package, why)}"
            )
            error.name = package
            raise error


def how_to_install(package: str, why: str = "") -> str:
    """Says how to install a package.

    Args:
        package: The name that it is imported by.
        why: See `check_installed`.

    Returns:
        The rest of a sentence that begins with "... needs the package".
    """
    name, extra = _PACKAGES[package]
    return (
        f"{name}{why and f', {why}'}, which is not installed: `pip install {name}`, or "
        f'`pip install "awn_keras[{extra}]"`.'
    )
