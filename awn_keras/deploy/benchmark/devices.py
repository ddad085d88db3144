"""Runs commands on phones over adb and on boards over ssh, and copies files there.

A device's shell reads each command, so every word is quoted. Files are copied to a new
folder on the device, which is removed at the end.
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
    """A device cannot be reached, or a command on it fails."""


class DeviceTimeoutError(DeviceError):
    """A command exceeds its time limit."""


@dataclass(frozen=True)
class Answer:
    """The result of a command.

    Args:
        status: Exit status.
        text: Output on stdout and stderr.
    """

    status: int
    text: str


class Device:
    """A device that runs commands.

    Args:
        name: Name of the device in messages.
        home: A folder on the device in which programs can run.
    """

    #: First part of the names of targets on such devices.
    kind = ""

    def __init__(self, name: str, home: str) -> None:
        self.name, self._home = name, home

    def _call(self, line: str, timeout: float) -> tuple[int, str, str]:
        """Runs a line in the device's shell: status of the tool, stdout, stderr."""
        raise NotImplementedError

    def _copy(self, local: str, remote: str, timeout: float) -> tuple[int, str, str]:
        """Copies a file to the device: status of the tool, stdout, stderr."""
        raise NotImplementedError

    def push(self, local: Path, remote: str, timeout: float = 300) -> None:
        """Copies a file to the device.

        Raises:
            DeviceError: If the file cannot be copied.
        """
        # An absolute path never looks like an option of the tool.
        status, out, err = self._copy(str(local.absolute()), remote, timeout)
        if status:
            said = " ".join((err or out).split())
            raise DeviceError(f"{self.name}: cannot put '{local.name}' there: {said}")

    def run(self, words: Sequence[str], timeout: float = 30) -> Answer:
        """Runs a command.

        Args:
            words: The program and its arguments. The shell expands none of them.
            timeout: Time limit in seconds.

        Returns:
            Status and output of the command.

        Raises:
            DeviceError: If the device cannot be reached, or if the command exceeds the
                time limit.
        """
        # The last line of the output has the status: adb of old phones does not return
        # it, and without the line a broken connection would look like no output.
        line = f"{shlex.join(words)} 2>&1; s=$?; echo; echo awn-status:$s"
        status, out, err = self._call(line, timeout)
        match = re.search(r"\n?awn-status:(\d+)\s*$", out)
        if match is None:
            said = " ".join((err or out).split()) or f"status {status}"
            raise DeviceError(f"{self.name}: {said}")
        return Answer(int(match[1]), out[: match.start()].rstrip("\n"))

    def machine(self) -> str:
        """The output of `uname -m`, such as `aarch64`."""
        return self.run(["uname", "-m"]).text.strip()

    def describe(self) -> dict[str, str | None]:
        """Fields of a `Row` on the device: device, soc, build, governor."""
        raise NotImplementedError

    def state(self) -> str | None:
        """Temperature, battery and screen; `None` if none of them can be read."""
        return None

    def stop(self, program: str) -> None:
        """Ends a program on the device that was started by its path.

        Raises:
            DeviceError: If the device cannot be reached.
        """
        # The brackets keep the pattern from matching the shell that runs `pkill`,
        # whose command line has the pattern.
        answer = self.run(["pkill", "-9", "-f", f"[{program[0]}]{program[1:]}"])
        if answer.status > 1:  # 1: the program has ended already
            said = " ".join(answer.text.split())
            raise DeviceError(
                f"{self.name}: cannot stop the program that hangs: {said}"
            )

    @contextlib.contextmanager
    def folder(self) -> Iterator[str]:
        """A new folder on the device, which is removed at the end."""
        path = f"{self._home}/awn-{uuid.uuid4().hex[:12]}"
        made = self.run(["mkdir", "-p", path])
        if made.status:
            raise DeviceError(f"{self.name}: {' '.join(made.text.split())}")
        try:
            yield path
        finally:
            # If the connection is lost, the folder cannot be removed. This error must
            # not replace the first error.
            with contextlib.suppress(DeviceError):
                self.run(["rm", "-rf", path])

    def _first(self, *commands: Sequence[str]) -> str | None:
        """First line of the output of the first command that has any output."""
        for words in commands:
            answer = self.run(words)
            if answer.status == 0 and answer.text.strip():
                return answer.text.strip().splitlines()[0]
        return None


_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def _tool(words: Sequence[str], timeout: float, name: str) -> tuple[int, str, str]:
    """Runs a program on this machine: status, stdout, stderr."""
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
        serial: Serial number, as `adb devices` lists it.
        adb: Path or name of the program adb.
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
        """The ABI that the device prefers, such as `arm64-v8a`."""
        return self._property("ro.product.cpu.abi") or super().machine()

    def _property(self, *names: str) -> str | None:
        return self._first(*(["getprop", name] for name in names))

    def describe(self) -> dict[str, str | None]:
        """Maker, model, chip and build from `getprop`, and the clock governor."""
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
        """Thermal status (0 is cool), battery and screen from `dumpsys`."""
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
        host: `user@board`, as for ssh. ssh must connect without asking for a password.
        ssh: Path or name of the program ssh.
        scp: Path or name of the program scp.

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
        adb: Path or name of the program adb.
        serials: Serial numbers of the devices to use. Empty for the only device.

    Returns:
        The devices.

    Raises:
        DeviceError: If a device is missing, not authorized or offline, or if several
            devices are connected and `serials` is empty.
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
            f"Several Android devices are connected: {', '.join(wanted)}. Name the "
            "devices to measure with `--serial`."
        )
    for serial in wanted:
        state = states.get(serial)
        if state is None:
            known = ", ".join(states) or "none"
            raise DeviceError(
                f"Android device {serial} is not connected. Connected: {known}"
            )
        if state != "device":
            hint = advice.get(state, "`adb devices` must call it 'device'.")
            raise DeviceError(f"Android device {serial} is {state}. {hint}")
    return [AdbDevice(serial, adb) for serial in wanted]


_ARM_64 = ("arm64-v8a", "aarch64", "arm64")
#: Machine numbers of ELF files, with the names that such devices give themselves.
_MACHINES = {
    183: _ARM_64,
    # Most 64-bit machines run 32-bit programs, too. On other machines, the program
    # fails with the system's error.
    40: (*("armeabi-v7a", "armeabi", "armv7l", "armv6l", "armv8l"), *_ARM_64),
    62: ("x86_64", "amd64"),
    3: ("x86", "i386", "i686", "x86_64"),
    243: ("riscv64",),
}


def check_program(path: Path, machine: str) -> None:
    """Checks that a device can run a program.

    Args:
        path: Path of the program on this machine.
        machine: The device's name for its kind of machine; see `Device.machine`.

    Raises:
        DeviceError: If the file is not a program for Linux, or if the program is for
            another kind of machine.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or len(head) < 20:
        raise DeviceError(
            f"'{path}' is not a program for Android or Linux (ELF). tflite/README.md "
            "says where Google publishes benchmark_model."
        )
    order = "<" if head[5] == 1 else ">"
    (kind,) = struct.unpack(f"{order}H", head[18:20])
    known = _MACHINES.get(kind, (f"ELF machine {kind}",))
    if machine not in known:
        raise DeviceError(
            f"'{path}' is a program for {known[0]}, but the device is {machine}. Use "
            "the benchmark_model for this machine."
        )


def find_program(device: Device) -> Path:
    """Finds `benchmark_model` for a device in the cache of litert-cli.

    Args:
        device: The device.

    Returns:
        Path of the program on this machine.

    Raises:
        DeviceError: If the program is not in the cache, or if the device cannot be
            reached.
    """
    machine = device.machine()
    path = Path.home() / ".cache" / "litert-cli" / "binaries" / machine
    path /= "benchmark_model"
    if not path.is_file():
        raise DeviceError(
            f"{device.name} needs benchmark_model for {machine}. Name the program "
            "with `--benchmark-model`. tflite/README.md says where Google publishes it."
        )
    return path
