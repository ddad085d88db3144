"""Where a number was measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Says where a number was measured, for JSON.

    Returns:
        A dict with the date (UTC), versions of Python and the packages that matter,
        machine, processor and number of cores.
    """
    packages = ("awn_keras", "keras", "tensorflow", "numpy", "ai-edge-litert")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


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
