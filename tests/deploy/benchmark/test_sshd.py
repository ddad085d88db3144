"""A board that is reached by the real ssh and scp: this machine's own sshd."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from awn_keras.cli import main
from awn_keras.deploy.benchmark.devices import DeviceError, SshDevice
from awn_keras.deploy.benchmark.remote import benchmark_device
from tests.deploy.benchmark.fake_adb import fake_program

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None,
    reason="sshd is not installed (Debian: openssh-server)",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An sshd with keys, port and configuration of its own; how to reach it."""
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
        subprocess.run(words, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PidFile": "none",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        # The folder of tests may be writable by others.
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
    }
    lines = "".join(f"{name} {value}\n" for name, value in settings.items())
    (folder / "sshd_config").write_text(lines)
    Path("/run/sshd").mkdir(exist_ok=True)  # as Debian's service makes it
    words = [SSHD, "-D", "-e", "-f", folder / "sshd_config"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(words, stderr=log) as process,
    ):
        try:
            _wait_for(port, process, folder / "log")
            yield folder, port
        finally:
            process.terminate()


def _wait_for(port, process, log):
    for _ in range(100):
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def tools(server, tmp_path, monkeypatch):
    """A folder of ssh and scp that know the server's port and the user's key."""
    folder, port = server
    (tmp_path / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n"
        f" IdentityFile {folder / 'user'}\n IdentitiesOnly yes\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile {tmp_path / 'known'}\n"
        " LogLevel ERROR\n"
        # Nobody listens at a port that only root may take, and root does not.
        "Host gone\n HostName 127.0.0.1\n Port 1\n"
    )
    for name in ("ssh", "scp"):
        real = shutil.which(name)
        (tmp_path / name).write_text(
            f'#!/bin/sh\nexec {real} -F {tmp_path / "config"} "$@"\n'
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@needs_sshd
def test_every_width_is_measured_over_ssh(tools, tmp_path, exported):
    device = SshDevice("board")
    if device.machine() != "x86_64":
        pytest.skip("the stand-in for benchmark_model knows x86_64")
    program = fake_program(tmp_path / "program", machine=62, version="litert")
    # What scp has put there is no program yet; see `fake_adb.push`.
    code = tmp_path / "made_runnable.py"
    code.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
        "from tests.deploy.benchmark import fake_adb\n"
        "*_, local, remote = sys.argv\n"
        "device = {'root': '', 'abi': 'x86_64'}\n"
        "sys.exit(fake_adb.push(device, local, remote.partition(':')[2]))\n"
    )
    scp = tmp_path / "scp"
    copied = scp.read_text().replace("exec ", "").rstrip()
    scp.write_text(f'{copied} && exec {sys.executable} -I -S {code} "$@"\n')
    before = set(Path("/tmp").glob("awn-*"))
    report = benchmark_device(exported, device, program, runs=3, repeats=1)
    assert report.failures == []
    assert sorted(row.width for row in report.rows) == [0.25, 0.5, 1.0]
    assert {row.target for row in report.rows} == {"ssh-cpu"}
    assert all("(board)" in row.device for row in report.rows)
    assert set(Path("/tmp").glob("awn-*")) == before


@needs_sshd
@pytest.mark.parametrize("text", ["$(echo no)", "a; echo no", "'", '"', "a\nb", "*"])
def test_words_stay_words_over_ssh(text, tools):
    answer = SshDevice("board").run(["printf", "%s|", "x", text])
    assert (answer.status, answer.text) == (0, f"x|{text}|")


@needs_sshd
def test_a_files_name_is_no_command_over_scp(tools, tmp_path, exported):
    device = SshDevice("board")
    path = tmp_path / "x; echo $HOME > gone.tflite"
    path.write_bytes(exported.read_bytes())
    with device.folder() as folder:
        device.push(path, f"{folder}/model.tflite")
        assert Path(folder, "model.tflite").read_bytes() == path.read_bytes()
    assert not Path(folder).exists()


@needs_sshd
@pytest.mark.parametrize(
    ("host", "said"),
    [("gone", "Connection refused"), ("nobody-xyz@board", "Permission denied")],
)
def test_a_board_that_lets_nobody_in_ends_in_one_line(
    host, said, tools, tmp_path, exported, capsys
):
    with pytest.raises(DeviceError, match=said):
        SshDevice(host).machine()
    program = fake_program(tmp_path / "program", machine=62)
    words = f"benchmark {exported} --ssh {host} --benchmark-model {program}"
    assert main([*words.split(), "--output", str(tmp_path / "r.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"awn benchmark: error: ssh: {host}: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--serial R5CT1", "Android device R5CT1 is not connected. Connected: none"),
        ("--android", "No Android device is connected."),
    ],
)
def test_adb_without_a_device_ends_in_one_line(
    words, said, tmp_path, exported, monkeypatch, capsys
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("HOME", str(tmp_path))  # where adb keeps its key
    monkeypatch.setenv("ADB_VENDOR_KEYS", str(tmp_path))
    words = f"benchmark {exported} {words} --output {tmp_path / 'r.json'}"
    try:
        assert main(words.split()) == 2
    finally:
        subprocess.run(["adb", "kill-server"], check=True, capture_output=True)
    error = capsys.readouterr().err
    assert error.startswith("awn benchmark: error: ")
    assert said in error
    assert error.count("\n") == 1
