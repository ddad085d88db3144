"""Phones over adb and boards over ssh: run a command there, put a file there.

What a device is told goes through a shell, so that every word is quoted. What is put
there lies in a folder of its own, which is removed at the end.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import struct
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from awn_keras.errors import ArgumentError, AwnError


class DeviceError(AwnError, RuntimeError):
    """A device cannot be reached, or does not do what it should."""


class DeviceTimeoutError(DeviceError):
    """A command took longer than it may."""


@dataclass(frozen=True)
class Answer:
    """What a command gave.

    Args:
        status: Its exit status.
        text: What it wrote to stdout and stderr.
    """

    status: int
    text: str


class Device:
    """What runs commands elsewhere.

    Args:
        name: What to call it in messages.
        home: A folder there in which programs may be run.
    """

    #: Begins the names of its targets.
    kind = ""

    def __init__(self, name: str, home: str) -> None:
        self.name, self._home = name, home

    def _call(self, line: str, timeout: float) -> tuple[int, str, str]:
        """Has the device's shell run a line: status of the tool, stdout, stderr."""
        raise NotImplementedError

    def _copy(self, local: str, remote: str, timeout: float) -> tuple[int, str, str]:
        """Puts a file there: status of the tool, stdout, stderr."""
        raise NotImplementedError

    def push(self, local: Path, remote: str, timeout: float = 300) -> None:
        """Puts a file there.

        Raises:
            DeviceError: If it cannot be.
        """
        # Absolute, so that no name can be an option of the tool.
        status, out, err = self._copy(str(local.absolute()), remote, timeout)
        if status:
            said = " ".join((err or out).split())
            raise DeviceError(f"{self.name}: cannot put '{local.name}' there: {said}")

    def run(self, words: Sequence[str], timeout: float = 30) -> Answer:
        """Runs a command.

        Args:
            words: The program and its arguments; none of them is read by a shell.
            timeout: Seconds that it may take.

        Returns:
            Its status and output.

        Raises:
            DeviceError: If the device cannot be reached, or it takes longer.
        """
        # Old phones do not hand on a command's status, and a connection that breaks
        # must not look like a command that wrote nothing.
        line = f"{shlex.join(words)} 2>&1; s=$?; echo; echo awn-status:$s"
        status, out, err = self._call(line, timeout)
        match = re.search(r"\n?awn-status:(\d+)\s*$", out)
        if match is None:
            said = " ".join((err or out).split()) or f"status {status}"
            raise DeviceError(f"{self.name}: {said}")
        return Answer(int(match[1]), out[: match.start()].rstrip("\n"))

    def machine(self) -> str:
        """What `uname -m` says, such as `aarch64`."""
        return self.run(["uname", "-m"]).text.strip()

    def describe(self) -> dict[str, str | None]:
        """Fields of a `Row` that tell of the device: device, soc, build, governor."""
        raise NotImplementedError

    def state(self) -> str | None:
        """Temperature, battery, screen, as far as they can be read."""
        return None

    def stop(self, program: str) -> None:
        """Ends a program there that was started by its path.

        Raises:
            DeviceError: If the device cannot be reached.
        """
        # As a pattern that does not find the shell that is told it.
        answer = self.run(["pkill", "-9", "-f", f"[{program[0]}]{program[1:]}"])
        if answer.status > 1:  # 1: there was none any more
            said = " ".join(answer.text.split())
            raise DeviceError(f"{self.name}: cannot stop what hangs: {said}")

    @contextlib.contextmanager
    def folder(self) -> Iterator[str]:
        """A new folder there, which is removed at the end."""
        path = f"{self._home}/awn-{uuid.uuid4().hex[:12]}"
        made = self.run(["mkdir", "-p", path])
        if made.status:
            raise DeviceError(f"{self.name}: {' '.join(made.text.split())}")
        try:
            yield path
        finally:
            # If the device is gone, so that it cannot be: what went wrong comes first.
            with contextlib.suppress(DeviceError):
                self.run(["rm", "-rf", path])

    def _first(self, *commands: Sequence[str]) -> str | None:
        """What the first of some commands that says anything says."""
        for words in commands:
            answer = self.run(words)
            if answer.status == 0 and answer.text.strip():
                return answer.text.strip().splitlines()[0]
        return None


_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def _tool(words: Sequence[str], timeout: float, name: str) -> tuple[int, str, str]:
    """Runs a program here."""
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        message = (
            f"'{words[0]}' was not found. Install it (adb: Android's platform-tools; "
            "ssh and scp: OpenSSH). `--adb PATH` says where adb is."
        )
        raise DeviceError(message) from error
    except PermissionError as error:
        raise DeviceError(f"'{words[0]}' cannot be run: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceTimeoutError(f"{name}: no answer within {timeout:g} s.") from error
    return done.returncode, done.stdout, done.stderr


class AdbDevice(Device):
    """An Android device.

    Args:
        serial: Its serial number, as `adb devices` lists it.
        adb: The program.
    """

    kind = "android"

    def __init__(self, serial: str, adb: str = "adb") -> None:
        super().__init__(serial, "/data/local/tmp")
        self._adb = adb

    def _call(self, line: str, timeout: float) -> tuple[int, str, str]:
        return _tool([self._adb, "-s", self.name, "shell", line], timeout, self.name)

    def _copy(self, local: str, remote: str, timeout: float) -> tuple[int, str, str]:
        words = [self._adb, "-s", self.name, "push", local, remote]
        return _tool(words, timeout, self.name)

    def machine(self) -> str:
        """The ABI that it prefers, such as `arm64-v8a`."""
        return self._property("ro.product.cpu.abi") or super().machine()

    def _property(self, *names: str) -> str | None:
        return self._first(*(["getprop", name] for name in names))

    def describe(self) -> dict[str, str | None]:
        """Maker, model, chip and build by `getprop`; the clock governor."""
        maker = self._property("ro.product.manufacturer")
        model = self._property("ro.product.model")
        release = self._property("ro.build.version.release")
        fingerprint = self._property("ro.build.fingerprint", "ro.build.display.id")
        return {
            "device": " ".join(filter(None, [maker, model, f"({self.name})"])),
            "soc": self._property(
                "ro.soc.model", "ro.board.platform", "ro.hardware.chipname"
            ),
            "build": " ".join(
                filter(None, [release and f"Android {release}", fingerprint])
            ),
            "governor": self._first(["cat", _GOVERNOR]),
        }

    def state(self) -> str | None:
        """Thermal status (0 is cool), battery and screen, by `dumpsys`."""
        parts = []
        for label, service, pattern in (
            ("thermal status", "thermalservice", r"Thermal Status: (\d+)"),
            ("battery %", "battery", r"level: (\d+)"),
            ("battery 0.1 C", "battery", r"temperature: (\d+)"),
            ("screen", "power", r"mWakefulness=(\w+)"),
        ):
            match = re.search(pattern, self.run(["dumpsys", service]).text)
            if match:
                parts.append(f"{label} {match[1]}")
        return ", ".join(parts) or None


class SshDevice(Device):
    """A Linux board, such as a Raspberry Pi.

    Args:
        host: `user@board`, as for ssh, which must not have to ask for a password.
        ssh: The program.
        scp: The program.

    Raises:
        ValueError: If the host's name could be an option of ssh.
    """

    kind = "ssh"

    def __init__(self, host: str, ssh: str = "ssh", scp: str = "scp") -> None:
        if not re.fullmatch(r"[\w.@:%\[\]][\w.@:%\[\]-]*", host):
            raise ArgumentError(f"`ssh` must be a host, user@board. Received: {host!r}")
        super().__init__(host, "/tmp")
        self._ssh, self._scp = ssh, scp

    _OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")

    def _call(self, line: str, timeout: float) -> tuple[int, str, str]:
        words = [self._ssh, *self._OPTIONS, self.name, line]
        return _tool(words, timeout, self.name)

    def _copy(self, local: str, remote: str, timeout: float) -> tuple[int, str, str]:
        words = [self._scp, "-q", *self._OPTIONS, local, f"{self.name}:{remote}"]
        return _tool(words, timeout, self.name)

    def describe(self) -> dict[str, str | None]:
        """The board's name, machine, kernel and clock governor."""
        model = self._first(["cat", "/proc/device-tree/model"], ["uname", "-n"])
        return {
            "device": f"{(model or '').strip(chr(0))} ({self.name})".strip(),
            "soc": self.machine(),
            "build": self._first(["uname", "-sr"]),
            "governor": self._first(["cat", _GOVERNOR]),
        }

    def state(self) -> str | None:
        """Temperature of the first thermal zone, in thousandths of a degree."""
        value = self._first(["cat", "/sys/class/thermal/thermal_zone0/temp"])
        return value and f"0.001 C {value}"


def adb_devices(adb: str = "adb", serials: Sequence[str] = ()) -> list[AdbDevice]:
    """Finds the Android devices that are ready.

    Args:
        adb: The program.
        serials: Those wanted. If there are none, the only one.

    Returns:
        The devices.

    Raises:
        DeviceError: If one is missing, is not authorized or offline, or there are
            several and none is named.
    """
    status, out, err = _tool([adb, "devices"], 60, "adb")
    if status:
        raise DeviceError(f"`adb devices` failed: {' '.join((err or out).split())}")
    states = {}
    for line in out.splitlines():
        match = re.match(r"([^\t]+)\t(\S.*)$", line)
        if match:
            states[match[1]] = match[2].strip()
    advice = {
        "unauthorized": "Unlock it, and allow this computer to debug it.",
        "offline": "Plug it in again, or run `adb reconnect`.",
    }
    wanted = list(serials) or list(states)
    if not wanted:
        raise DeviceError(
            "No Android device is connected. Plug one in with USB debugging on; "
            "`adb devices` must list it."
        )
    if len(wanted) > 1 and not serials:
        raise DeviceError(
            f"Several Android devices are connected: {', '.join(wanted)}. Name those "
            "to measure: `--serial`."
        )
    for serial in wanted:
        state = states.get(serial)
        if state is None:
            known = ", ".join(states) or "none"
            raise DeviceError(f"Android device {serial} is not connected; {known} is.")
        if state != "device":
            hint = advice.get(state, "`adb devices` must call it 'device'.")
            raise DeviceError(f"Android device {serial} is {state}. {hint}")
    return [AdbDevice(serial, adb) for serial in wanted]


_ARM_64 = ("arm64-v8a", "aarch64", "arm64")
#: Machines of ELF files, and what devices of that kind call themselves.
_MACHINES = {
    183: _ARM_64,
    # Most 64-bit machines run these, too; if not, they say so themselves.
    40: (*("armeabi-v7a", "armeabi", "armv7l", "armv6l", "armv8l"), *_ARM_64),
    62: ("x86_64", "amd64"),
    3: ("x86", "i386", "i686", "x86_64"),
    243: ("riscv64",),
}


def check_program(path: Path, machine: str) -> None:
    """Checks that a program is one for a device.

    Args:
        path: The program, here.
        machine: What the device says it is; see `Device.machine`.

    Raises:
        DeviceError: If it is no Linux program, or one for another machine.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or len(head) < 20:
        raise DeviceError(
            f"'{path}' is no program for Android or Linux (ELF). tflite/README.md says "
            "where Google publishes benchmark_model."
        )
    order = "<" if head[5] == 1 else ">"
    (kind,) = struct.unpack(f"{order}H", head[18:20])
    known = _MACHINES.get(kind, (f"ELF machine {kind}",))
    if machine not in known:
        raise DeviceError(
            f"'{path}' is a program for {known[0]}, and the device is {machine}. Take "
            "that of its kind."
        )


def find_program(device: Device) -> Path:
    """Finds `benchmark_model` for a device where litert-cli keeps what it fetched.

    Args:
        device: The device.

    Raises:
        DeviceError: If it is not there, or the device cannot be reached.
    """
    machine = device.machine()
    path = Path.home() / ".cache" / "litert-cli" / "binaries" / machine
    path /= "benchmark_model"
    if not path.is_file():
        raise DeviceError(
            f"{device.name} needs benchmark_model for {machine}: name it with "
            "`--benchmark-model`. tflite/README.md says where Google publishes it."
        )
    return path
