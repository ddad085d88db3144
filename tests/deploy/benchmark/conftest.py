"""Files to measure, and devices that are not there."""

import json
import stat
import sys
from pathlib import Path

import keras
import pytest

from awn_keras import export_tflite, lenet_3c1l
from awn_keras.deploy.benchmark.devices import AdbDevice

FAKE_ADB = Path(__file__).with_name("fake_adb.py")


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A file of three widths, with its manifest."""
    keras.utils.set_random_seed(0)
    model = lenet_3c1l((16, 16, 1), filters=32, width_multiplier=1.0)
    path = tmp_path_factory.mktemp("benchmark") / "net.tflite"
    export_tflite(model, path, widths=[0.25, 0.5, 1.0])
    return path


class Phones:
    """What is connected to a stand-in for adb."""

    def __init__(self, folder):
        self.folder = folder
        self._state = folder / "state.json"
        self.adb = str(script(folder / "adb", f"{FAKE_ADB} {self._state}"))
        self._state.write_text('{"devices": {}}')

    def add(self, serial, **changes):
        """Connects a phone; returns how the library sees it."""
        root = self.folder / serial
        (root / "bin").mkdir(parents=True)
        (root / "data" / "local" / "tmp").mkdir(parents=True)
        props = {
            "ro.product.cpu.abi": changes.get("abi", "arm64-v8a"),
            "ro.product.manufacturer": "Maker",
            "ro.product.model": "Phone 7",
            "ro.soc.model": "SM8750",
            "ro.build.version.release": "15",
            "ro.build.fingerprint": "maker/phone:15/AB1",
        }
        tool(root, "getprop", "".join(f'{k}) echo "{v}";;' for k, v in props.items()))
        dumps = {
            "thermalservice": "Thermal Status: 0",
            "battery": "  level: 83\n  temperature: 291",
            "power": "  mWakefulness=Awake",
        }
        tool(root, "dumpsys", "".join(f'{k}) echo "{v}";;' for k, v in dumps.items()))
        script(root / "bin" / "pkill", f"{FAKE_ADB} --pkill")
        device = {"state": "device", "abi": "arm64-v8a", "root": str(root), **changes}
        self.change(serial, **device)
        return AdbDevice(serial, self.adb)

    def change(self, serial, **changes):
        state = json.loads(self._state.read_text())
        state["devices"].setdefault(serial, {}).update(changes)
        self._state.write_text(json.dumps(state))

    def files(self, serial):
        """What lies in the phone's folder for temporary files."""
        there = self.folder / serial / "data" / "local" / "tmp"
        return sorted(path.name for path in there.iterdir())


def script(path, words):
    """A program that runs Python with some words before its own arguments."""
    # Without what is installed, which takes most of the time to find.
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {words} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def tool(root, name, cases):
    path = root / "bin" / name
    path.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\nesac\n')
    path.chmod(0o755)


@pytest.fixture
def phones(tmp_path):
    (tmp_path / "phones").mkdir()
    return Phones(tmp_path / "phones")
