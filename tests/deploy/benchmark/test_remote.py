"""The whole way to a device, against a stand-in for adb that fails as the real one."""

import os
import re
import sys
from pathlib import Path

import pytest

from awn_keras.deploy.benchmark.devices import (
    DeviceError,
    SshDevice,
    adb_devices,
    check_program,
    find_program,
)
from awn_keras.deploy.benchmark.remote import benchmark_device
from awn_keras.deploy.litert import TFLiteFile
from tests.deploy.benchmark.conftest import script
from tests.deploy.benchmark.fake_adb import fake_program

FAST = {"runs": 3, "repeats": 1}


@pytest.fixture
def program(tmp_path):
    return fake_program(tmp_path / "benchmark_model")


def test_every_width_is_measured_and_the_phone_left_as_it_was(
    phones, program, exported
):
    phone = phones.add("R5CT1")
    seen = []
    report = benchmark_device(
        exported,
        phone,
        program,
        units=["cpu", "gpu"],
        threads=[1, 2],
        runs=20,
        warm_up=2,
        repeats=2,
        accuracy={"width_050": 0.9},
        on_progress=lambda report: seen.append(len(report.rows)),
    )
    assert report.failures == []
    assert phones.files("R5CT1") == []
    rows = {(each.target, each.threads, each.width): each for each in report.rows}
    assert len(rows) == 3 * 3
    assert seen[-1] == 9
    # 100 us for each percent of width, a third of it on the GPU.
    assert rows["android-cpu", 1, 0.5].median_ms == pytest.approx(5.0)
    assert rows["android-cpu", 2, 0.5].median_ms == pytest.approx(2.5)
    assert rows["android-gpu", 1, 1.0].median_ms == pytest.approx(10 / 3, rel=1e-3)
    row = rows["android-cpu", 1, 0.5]
    assert (row.runs, row.warm_up) == (40, 2)
    assert row.nodes_delegated == 7 + TFLiteFile(exported).subgraph_of("width_050")
    assert row.nodes > 7
    assert row.device == "Maker Phone 7 (R5CT1)"
    assert row.soc == "SM8750"
    assert row.build == "Android 15 maker/phone:15/AB1"
    assert row.thermal == (
        "thermal status 0, battery % 83, battery 0.1 C 291, screen Awake"
    )
    assert row.accuracy == 0.9
    assert row.precision == "float32"
    assert rows["android-gpu", 1, 0.5].fully_accelerated is True


def test_each_repetition_is_told(phones, program, exported, capsys):
    phone = phones.add("R5CT1")
    benchmark_device(exported, phone, program, runs=3, repeats=2, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    starts = [
        f"[{n}/2] repetition of {exported.name} on {phone.name} in" for n in (1, 2)
    ]
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize("version", ["2.18", "litert"])
def test_other_versions_of_the_program(phones, tmp_path, exported, version):
    phone = phones.add("A")
    other = fake_program(tmp_path / "other", version=version)
    report = benchmark_device(exported, phone, other, **FAST)
    assert report.failures == []
    row = next(each for each in report.rows if each.width == 1.0)
    if version == "2.18":
        assert row.median_ms is None
        assert row.mean_ms == pytest.approx(10.0025)
    else:
        assert row.median_ms == pytest.approx(10.0)
        assert row.memory_mb == 7.07


@pytest.mark.parametrize("name", ["a b.tflite", "x; echo $HOME > gone.tflite", "-n"])
def test_file_names_are_no_commands(phones, program, exported, tmp_path, name):
    phone = phones.add("A")
    path = tmp_path / name
    path.write_bytes(exported.read_bytes())
    report = benchmark_device(path, phone, program, widths=[1.0], **FAST)
    assert report.failures == []
    assert report.rows[0].file == name
    assert phones.files("A") == []
    assert not list(tmp_path.rglob("gone.tflite"))


def test_signatures_and_commands_are_words_not_lines(phones):
    phone = phones.add("A")
    for text in ("$(echo no)", "a; echo no", "'", '"', "a\nb", "*", "~", "\\"):
        answer = phone.run(["printf", "%s|", "x", text])
        assert answer.status == 0
        assert answer.text == f"x|{text}|"
    assert phone.run(["sh", "-c", "echo out; echo err >&2; exit 7"]).status == 7


# ------------------------------------------------------------------ what goes wrong


def fail(report, match):
    """The one failure of a report, which is one line."""
    (failure,) = report.failures
    assert "\n" not in str(failure)
    assert re.search(match, str(failure)), str(failure)


@pytest.mark.parametrize(
    ("behaviour", "match"),
    [
        ({"crashes": True}, "android-cpu, width_050, 1 threads: .* crashed: "),
        ({"fails": "Failed to allocate tensors!"}, "status 1: Failed to allocate"),
        ({"version": "nonsense"}, "no timings in its output, which ends with: A vers"),
        ({"old": True}, "too old to run a signature.*awn export --separate"),
    ],
)
def test_a_width_that_fails_costs_a_row(phones, tmp_path, exported, behaviour, match):
    phone = phones.add("A")
    bad = fake_program(tmp_path / "bad", only=["width_050"], **behaviour)
    report = benchmark_device(exported, phone, bad, runs=3, repeats=2)
    fail(report, match)
    assert sorted(row.width for row in report.rows) == [0.25, 1.0]
    assert phones.files("A") == []


def test_a_program_that_hangs_is_stopped(phones, tmp_path, exported):
    phone = phones.add("A")
    bad = fake_program(tmp_path / "bad", only=["width_050"], hangs=True)
    report = benchmark_device(exported, phone, bad, timeout=4, **FAST)
    fail(report, "width_050, 1 threads: benchmark_model hangs: A: no answer within 4 s")
    assert len(report.rows) == 2
    assert phones.files("A") == []
    running = [
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if os.access(path, os.R_OK) and path.parent.name != str(os.getpid())
    ]
    assert not any(str(tmp_path).encode() in line for line in running)


def test_what_cannot_be_stopped_ends_the_measurement(phones, tmp_path, exported):
    phone = phones.add("A")
    pkill = tmp_path / "phones" / "A" / "bin" / "pkill"
    pkill.write_text("#!/bin/sh\necho pkill: not found\nexit 127\n")
    pkill.chmod(0o755)
    bad = fake_program(tmp_path / "bad", hangs=True)
    report = benchmark_device(exported, phone, bad, timeout=3, **FAST)
    fail(report, "cannot stop the program that hangs: pkill: not found")


def test_a_gpu_delegate_that_is_missing_is_no_measurement(phones, tmp_path, exported):
    phone = phones.add("A")
    bad = fake_program(tmp_path / "bad", gpu="none")
    report = benchmark_device(
        exported, phone, bad, units=["gpu", "cpu"], widths=[1.0], **FAST
    )
    fail(report, "android-gpu, width_100, 1 threads: its output does not show that the")
    assert [row.target for row in report.rows] == ["android-cpu"]


def test_a_phone_that_goes_offline_leaves_what_was_measured(phones, program, exported):
    phone = phones.add("A", goes_offline_after=18)
    report = benchmark_device(exported, phone, program, **FAST)
    fail(report, "android: A: error: device offline")
    assert 1 <= len(report.rows) < 3


def test_a_connection_that_breaks_is_not_an_empty_answer(phones, program, exported):
    phone = phones.add("A", no_status=True)
    report = benchmark_device(exported, phone, program, **FAST)
    fail(report, "android: A: ")
    assert report.rows == []


def test_a_disk_that_is_full(phones, program, exported):
    phone = phones.add("A", full=1000)
    report = benchmark_device(exported, phone, program, **FAST)
    fail(report, "cannot put 'net.tflite' there: .*No space left on device")
    assert phones.files("A") == []


def test_a_program_for_another_machine(phones, tmp_path, exported):
    phone = phones.add("A")
    other = fake_program(tmp_path / "other", machine=62)
    fail(
        benchmark_device(exported, phone, other, **FAST),
        "is a program for x86_64, but the device is arm64-v8a",
    )
    # Most such phones run 32-bit programs, too; this one says that it does not.
    older = fake_program(tmp_path / "older", machine=40)
    report = benchmark_device(exported, phone, older, widths=[1.0], **FAST)
    fail(report, "not executable: 64-bit ELF file")
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    fail(
        benchmark_device(exported, phone, text, **FAST), "is not a program for Android"
    )
    # What a phone says itself, if its ABI is told wrong.
    wrong = phones.add("B", abi="armeabi-v7a")
    (tmp_path / "phones" / "B" / "bin" / "getprop").write_text(
        "#!/bin/sh\necho arm64-v8a"
    )
    program = fake_program(tmp_path / "program")
    report = benchmark_device(exported, wrong, program, widths=[1.0], **FAST)
    fail(report, "not executable: 64-bit ELF file")


def test_devices_that_are_not_ready(phones):
    with pytest.raises(DeviceError, match="No Android device is connected"):
        adb_devices(phones.adb)
    phones.add("A")
    assert [device.name for device in adb_devices(phones.adb)] == ["A"]
    phones.add("B")
    with pytest.raises(DeviceError, match=r"Several.*: A, B\. Name the.*--serial"):
        adb_devices(phones.adb)
    assert [device.name for device in adb_devices(phones.adb, ["B", "A"])] == ["B", "A"]
    with pytest.raises(DeviceError, match=r"C is not connected\. Connected: A, B"):
        adb_devices(phones.adb, ["C"])
    phones.change("A", state="unauthorized")
    with pytest.raises(DeviceError, match=r"A is unauthorized\. Unlock it, and allow"):
        adb_devices(phones.adb, ["A"])
    phones.change("A", state="offline")
    with pytest.raises(DeviceError, match=r"A is offline\. Plug it in again"):
        adb_devices(phones.adb, ["A"])
    wireless = "adb-R5CT (2)._adb-tls-connect._tcp"
    phones.add(wireless)
    assert [device.name for device in adb_devices(phones.adb, [wireless])] == [wireless]
    with pytest.raises(DeviceError, match="'/none/adb' was not found"):
        adb_devices("/none/adb")
    with pytest.raises(DeviceError, match="cannot be run: Permission denied"):
        adb_devices(__file__)


def test_the_program_of_litert_cli_is_found(phones, tmp_path, monkeypatch, exported):
    phone = phones.add("A")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DeviceError, match="A needs benchmark_model for arm64-v8a"):
        find_program(phone)
    folder = tmp_path / ".cache" / "litert-cli" / "binaries" / "arm64-v8a"
    folder.mkdir(parents=True)
    fake_program(folder / "benchmark_model")
    assert find_program(phone) == folder / "benchmark_model"
    report = benchmark_device(exported, phone, widths=[1.0], **FAST)
    assert len(report.rows) == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"units": []}, "`units` must be of"),
        ({"units": ["npu"]}, r"`units` must be of .*'npu'"),
        ({"runs": 0}, "`runs` must be at least 1"),
        ({"threads": [0]}, "`threads` must be at least 1"),
        ({"cooldown": -1}, "`cooldown` must not be negative"),
        ({"min_seconds": -1}, "`min_seconds` must not be negative"),
        ({"widths": [0.7]}, r"must be widths of .*\[0\.25, 0\.5, 1\.0\].*\[0\.7\]"),
    ],
)
def test_bad_arguments_are_refused(phones, program, exported, change, match):
    phone = phones.add("A")
    with pytest.raises(ValueError, match=match):
        benchmark_device(exported, phone, program, **{**FAST, **change})


# ------------------------------------------------------------------------------ ssh


@pytest.fixture
def board(tmp_path):
    """A board that is this machine; ssh and scp are stand-ins that note their words."""
    code = tmp_path / "tools.py"
    code.write_text(
        "import json, pathlib, subprocess, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
        "from tests.deploy.benchmark import fake_adb\n"
        "kind, *words = sys.argv[1:]\n"
        "if kind == 'ssh':\n"
        "    assert words[:4] == ['-o', 'BatchMode=yes', '-o', 'ConnectTimeout=10']\n"
        "    host, line = words[4:]\n"
        "    if host == 'pi@gone':\n"
        "        sys.exit('ssh: connect to host gone port 22: No route to host')\n"
        "    sys.exit(subprocess.run(['sh', '-c', line], check=False).returncode)\n"
        "*_, local, remote = words\n"
        "device = {'root': '', 'abi': 'x86_64'}\n"
        "sys.exit(fake_adb.push(device, local, remote.partition(':')[2]))\n"
    )
    tools = [str(script(tmp_path / kind, f"{code} {kind}")) for kind in ("ssh", "scp")]
    return lambda host: SshDevice(host, *tools)


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is this machine")
def test_a_board_is_measured_by_the_same_program(board, tmp_path, exported):
    device = board("pi@board")
    if device.machine() != "x86_64":
        pytest.skip("the stand-in knows x86_64")
    other = fake_program(tmp_path / "program", machine=62, version="litert")
    before = set(Path("/tmp").glob("awn-*"))
    report = benchmark_device(exported, device, other, **FAST)
    assert report.failures == []
    assert {row.target for row in report.rows} == {"ssh-cpu"}
    assert all("pi@board" in row.device for row in report.rows)
    assert set(Path("/tmp").glob("awn-*")) == before


def test_a_board_that_cannot_be_reached(board, program, exported):
    report = benchmark_device(exported, board("pi@gone"), program, **FAST)
    fail(report, "ssh: pi@gone: ssh: connect to host gone port 22: No route to host")


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "a;b", ""])
def test_hosts_are_no_options(host):
    with pytest.raises(ValueError, match="`ssh` must be a host"):
        SshDevice(host)


def test_programs_are_checked_by_their_header(tmp_path):
    head = b"\x7fELF\x01\x02" + bytes(12) + b"\x00\x28"  # 32 bits, big endian
    (tmp_path / "program").write_bytes(head)
    check_program(tmp_path / "program", "armv7l")
    with pytest.raises(DeviceError, match="is a program for armeabi-v7a"):
        check_program(tmp_path / "program", "riscv64")
    (tmp_path / "program").write_bytes(head[:10])
    with pytest.raises(DeviceError, match="is not a program"):
        check_program(tmp_path / "program", "armv7l")
