"""How long each width takes, here and on a phone, and which one to pick."""

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
