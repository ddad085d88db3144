"""Where a number was measured, and on which backend Keras runs.

Keras is imported where it is asked: a machine that only runs files has none.
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
    """Says where a number was measured, for JSON.

    Returns:
        A dict with the date (UTC), Keras' backend, versions of Python and the packages
        that matter (of TensorFlow, too, on other backends, if it is installed: it
        converts files), machine, processor, number of cores, and the names of the
        backend's accelerators.
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
    """Names of the GPUs, or the like, that a backend trains on."""
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
    """Versions of those that are installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def check_runs_on_tensorflow(what: str, reason: str, way_out: str = "") -> None:
    """Refuses on other backends what only TensorFlow can do.

    Args:
        what: Name of the class or function.
        reason: Why it needs TensorFlow, a clause that goes on after a colon.
        way_out: What else to do, a sentence.

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
    """What to call this machine where it must not be taken for another one."""
    return f"{_processor()}, {os.cpu_count()} cores ({platform.node()})"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    # Boards have no model name there.
    board = Path("/proc/device-tree/model")
    if not names and board.exists():
        names = [board.read_text().strip("\0\n ")]
    return names[0] if names else platform.processor() or platform.machine()
