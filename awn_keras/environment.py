"""Description of the machine and the software with which numbers are measured.

Functions import Keras when they need it, because a machine that only runs exported
files may not have Keras.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from awn_keras.errors import UnsupportedError


def environment() -> dict[str, Any]:
    """Describes this machine and its software, for JSON.

    Returns:
        A dict with the date (UTC), Keras' backend, versions of Python and packages,
        machine, processor, number of cores, and the names of the backend's
        accelerators. If TensorFlow is installed, its version is listed on every
        backend, because TensorFlow converts files.
    """
    import keras

    backend = keras.backend.backend()
    packages = ["awn_keras", "keras", "tensorflow", "numpy", "ai-edge-litert"]
    if backend != "tensorflow":
        packages.append(backend)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "backend": backend,
        "packages": _versions(packages),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerators": _accelerators(backend),
    }


def _accelerators(backend: str) -> list[str]:
    """Names of the GPUs and other accelerators on which a backend trains."""
    if backend == "jax":
        import jax

        return [each.device_kind for each in jax.devices() if each.platform != "cpu"]
    if backend == "torch":
        import torch

        return [
            torch.cuda.get_device_name(index)
            for index in range(torch.cuda.device_count())
        ]
    import tensorflow as tf

    return [
        tf.config.experimental.get_device_details(each).get("device_name", each.name)
        for each in tf.config.list_physical_devices("GPU")
    ]


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that are installed, by name."""
    versions = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def check_runs_on_tensorflow(what: str, reason: str, way_out: str = "") -> None:
    """Checks that Keras runs on TensorFlow.

    Args:
        what: Name of the class or function that needs TensorFlow.
        reason: Reason for the need: a clause that follows a colon in the message.
        way_out: Alternative for the user: a sentence at the end of the message.

    Raises:
        NotImplementedError: If Keras runs on another backend.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UnsupportedError(
            f"`{what}` needs Keras on TensorFlow: {reason}. Received: backend "
            f"'{backend}'. Set the environment variable KERAS_BACKEND=tensorflow "
            f"before Keras is imported. {way_out}".rstrip()
        )


def this_machine() -> str:
    """A name of this machine that differs from the names of other machines."""
    return f"{_processor()}, {os.cpu_count()} cores ({platform.node()})"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    # On ARM boards, /proc/cpuinfo has no model name.
    board = Path("/proc/device-tree/model")
    if not names and board.exists():
        names = [board.read_text().strip("\0\n ")]
    return names[0] if names else platform.processor() or platform.machine()
