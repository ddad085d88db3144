"""Benchmarks of each width, here and on devices, and the choice of a width."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from awn_keras.deploy.benchmark.costs import Costs, costs_of
    from awn_keras.deploy.benchmark.devices import (
        AdbDevice,
        Device,
        DeviceError,
        SshDevice,
        adb_devices,
    )
    from awn_keras.deploy.benchmark.host import accuracies, benchmark_tflite
    from awn_keras.deploy.benchmark.page import plot_report, write_html
    from awn_keras.deploy.benchmark.picker import Pick, pareto_front, pick_width
    from awn_keras.deploy.benchmark.remote import benchmark_device
    from awn_keras.deploy.benchmark.report import Failure, Report, Row

__all__ = [
    "AdbDevice",
    "Costs",
    "Device",
    "DeviceError",
    "Failure",
    "Pick",
    "Report",
    "Row",
    "SshDevice",
    "accuracies",
    "adb_devices",
    "benchmark_device",
    "benchmark_tflite",
    "costs_of",
    "pareto_front",
    "pick_width",
    "plot_report",
    "write_html",
]

_MODULES = {
    "AdbDevice": "devices",
    "Costs": "costs",
    "Device": "devices",
    "DeviceError": "devices",
    "Failure": "report",
    "Pick": "picker",
    "Report": "report",
    "Row": "report",
    "SshDevice": "devices",
    "accuracies": "host",
    "adb_devices": "devices",
    "benchmark_device": "remote",
    "benchmark_tflite": "host",
    "costs_of": "costs",
    "pareto_front": "picker",
    "pick_width": "picker",
    "plot_report": "page",
    "write_html": "page",
}


def __getattr__(name: str) -> Any:
    # Lazy, because `picker` must also work on a machine without Matplotlib.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
