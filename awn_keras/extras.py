"""Optional packages, and the extras of awn_keras that install them."""

from __future__ import annotations

from importlib.util import find_spec

from awn_keras.errors import AwnError

#: By the name in an import: the name in pip, and the extra of awn_keras.
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
#: The backends of Keras that awn_keras supports.
BACKENDS = ("tensorflow", "jax", "torch")


class MissingPackageError(AwnError, ImportError):
    """A package is not installed. The message says how to install it.

    Attributes:
        name: Name of the package in an import.
    """


def check_installed(who: str, *packages: str, why: str = "") -> None:
    """Checks that packages are installed, before long work that needs them.

    Args:
        who: Subject of the message's sentence, such as "Running a TFLite file".
        *packages: Names of the packages in an import.
        why: The reason, as a clause that follows the package's name after a comma.

    Raises:
        ImportError: If a package is not installed.
    """
    for package in packages:
        try:
            installed = find_spec(package) is not None
        except (ImportError, ValueError):  # a broken installation, or a test hides it
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
        package: Name of the package in an import.
        why: See `check_installed`.

    Returns:
        The rest of a sentence after "... needs the package".
    """
    name, extra = _PACKAGES[package]
    return (
        f"{name}{why and f', {why}'}, which is not installed: `pip install {name}`, or "
        f'`pip install "awn_keras[{extra}]"`.'
    )
