"""Trials that kill commands of `awn` or fill their disk, and check the files after.

Each command runs in a fork of this process, which has imported all modules already. So
a trial does not spend its time on imports. This process must not compute anything with
TensorFlow before it forks, because TensorFlow's threads would not survive a fork.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from PIL import Image

from awn_keras import cli
from awn_keras.deploy.attachments import attached
from benchmarks.cases import Case
from tests.failing import contents
from tests.fuzz.commands import inside
from tests.fuzz.places import copy_of, make_place

_QUICK = "--runs 2 --warm-up 1 --repeats 2 --min-seconds 0"
_FILES = "--output out/r.json --csv out/r.csv --html out/r.html"


@dataclass(frozen=True)
class Scenario:
    """A command that writes to the folder `out`.

    Args:
        words: The command.
        older: The command that has written older files there; `None` if there are none.
        again: The command to run after a kill; `None` runs `words` again.
        together: Whether `out` must hold only old files or only new files, and never a
            mixture.
    """

    words: str
    older: str | None = None
    again: str | None = None
    together: bool = False


_TRAIN = (
    "train --dataset digits --filters 4 --epochs 2 --widths-grid 0.25,0.5,1 "
    "--output out"
)
SCENARIOS = {
    "train": Scenario(_TRAIN, again=f"{_TRAIN} --resume"),
    "export": Scenario(
        "export model.keras --widths 0.5,1 --output out/net.tflite",
        "export model.keras --widths 0.25,1 --output out/net.tflite",
        together=True,
    ),
    "evaluate": Scenario(
        "evaluate model.keras --data photos --widths 0.5,1 --output out",
        "evaluate model.keras --data photos --widths 0.25,1 --output out",
        together=True,
    ),
    "benchmark": Scenario(
        f"benchmark net.tflite {_QUICK} {_FILES}",
        f"benchmark old.tflite {_QUICK} {_FILES}",
    ),
    "convert": Scenario(
        "convert plain.keras --output out/new.keras --divisor 2", together=True
    ),
    "demo": Scenario("demo --output out"),
}
#: Scenarios in the order of their trials. The demo is in the list once and the others
#: twice, because a demo takes as long as ten other commands.
_TURNS = [name for name in SCENARIOS if name != "demo"] * 2 + ["demo"]
_ON_DISK = [name for name in SCENARIOS if name != "demo"]


# ------------------------------------------------------------------------- commands


def _fork(folder: Path, words: str) -> int:
    """Starts a command in a folder and returns the id of its process."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        with inside(folder):
            code = cli.main(words.split(), log=folder / "log")
    finally:
        os._exit(code)  # an error must not reach the parent's loop in the child


def _wait(process: int, seconds: float | None = None) -> int | None:
    """Waits for a process and returns its exit code.

    With `seconds`, kills a process that takes longer and returns `None`.
    """
    start = time.monotonic()
    while seconds is not None and time.monotonic() - start < seconds:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    if seconds is not None:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return None if seconds is not None else os.waitstatus_to_exitcode(status)


def _run(folder: Path, words: str) -> int | None:
    return _wait(_fork(folder, words))


def _make(folder: Path) -> None:
    """Writes the files that commands read, in a child process.

    A child process, because this process must not compute before it forks.
    """
    process = os.fork()
    if process:
        if _wait(process):
            raise RuntimeError("the place could not be made")
        return
    code = 1
    try:
        make_place(folder)
        shutil.copy(folder / "net.tflite", folder / "old.tflite")
        code = 0
    finally:
        os._exit(code)


@dataclass(frozen=True)
class _Known:
    """The files of a scenario whose command is not disturbed.

    Args:
        older: A folder with the older files.
        before: The contents of `older`, as `_essence` returns them.
        after: The contents of `out` after the command, likewise.
        seconds: How long the command takes.
        size: Bytes of all files in `out` after the command.
    """

    older: Path
    before: dict[str, Any]
    after: dict[str, Any]
    seconds: float
    size: int


class _Places:
    """Makes folders to run commands in, and learns what each command writes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._place = folder, folder / "place"
        self._place.mkdir()
        _make(self._place)
        self._known: dict[str, _Known] = {}

    def fresh(self, name: str, folder: Path) -> Path:
        """Makes another folder with all files that commands read, without `out`."""
        target = folder / name
        target.mkdir()
        return copy_of(self._place, target)

    def known(self, name: str) -> _Known:
        """Returns what a scenario writes; runs the scenario on the first call."""
        if name not in self._known:
            self._known[name] = self._learn(name)
        return self._known[name]

    def _learn(self, name: str) -> _Known:
        scenario = SCENARIOS[name]
        folder = self.fresh(name, self._folder)
        out, older = folder / "out", self._folder / f"{name}_older"
        if scenario.older is not None:
            _expect(folder, scenario.older)
            shutil.copytree(out, older)
        else:
            older.mkdir()
        start = time.monotonic()
        _expect(folder, scenario.words)
        seconds = time.monotonic() - start
        files = [path for path in out.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        return _Known(older, _essence(older), _essence(out), seconds, size)


def _expect(folder: Path, words: str) -> None:
    if _run(folder, words) != 0:
        raise RuntimeError(f"`awn {words}`: {(folder / 'stderr').read_text()}")


# ---------------------------------------------------------------------------- files

#: Keys of JSON whose values differ from run to run.
_VOLATILE = {"environment", "time", "seconds", "shared_object_id"}


def _essence(folder: Path) -> dict[str, Any]:
    """Returns the contents of the files in a folder, without times and machines."""
    return {
        # A killed command may leave a part of a file under a temporary name.
        name: data if ".partial" in name else _content(name, data)
        for name, data in contents(folder).items()
        if name not in ("summary.txt", "filler")
    }


def _content(name: str, data: bytes) -> Any:
    if name in ("r.json", "r.csv", "r.html"):
        return _rows(name, data)
    if name.endswith(".json"):
        return _steady(json.loads(data))
    if name.endswith(".keras"):
        return _model(data)
    if name.endswith(".tflite"):
        said = attached(data)
        return [len(data), _steady(json.loads(said["awn.json"]))]
    return data


def _model(data: bytes) -> Any:
    """Returns the layers and weights of a .keras file.

    Two files of the same model can have different bytes, so bytes cannot be compared.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        config = _steady(json.loads(archive.read("config.json")))
        weights = archive.read("model.weights.h5")
    arrays = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()].tobytes()

    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(keep)
    return config, arrays


def _rows(name: str, data: bytes) -> Any:
    """Returns which rows a report has. Their times differ from run to run."""
    if name == "r.html":
        return data.count(b"<tr><td>cpu</td>")
    if name == "r.json":
        rows = json.loads(data)["rows"]
    else:
        rows = list(csv.DictReader(data.decode().splitlines()))
    return sorted((row["file"], row["signature"]) for row in rows)


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if k not in _VOLATILE}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _unreadable(folder: Path) -> str:
    """Names a file that is incomplete but has its final name; "" if none is."""
    for name, data in contents(folder).items():
        if ".partial" in name or name in ("lock", "filler"):
            continue
        try:
            _content(name, data)
            if name.endswith(".png"):
                Image.open(io.BytesIO(data)).load()
        except Exception as error:  # noqa: BLE001 -- readers raise many types
            return f"{name} is not whole: {type(error).__name__}: {error}"
        if name.endswith((".csv", ".txt")) and not data.endswith(b"\n"):
            return f"{name} is not whole"
    return ""


def _kept(scenario: Scenario, known: _Known, out: Path) -> str:
    """Checks the files of a command that was killed or refused.

    Returns:
        What is wrong with the files, or "".
    """
    fault = _unreadable(out)
    if fault:
        return fault
    now = {name: what for name, what in _essence(out).items() if ".partial" not in name}
    lost = known.before.keys() - now.keys()
    if lost:
        return f"lost: {sorted(lost)}"
    if scenario.together and now not in (known.before, known.after):
        return f"some of {sorted(now)} are older, and some new"
    if "r.json" in now:
        rows = now["r.json"]
        if now["r.csv"] != rows or now["r.html"] != len(rows):
            return (
                f"the report has the rows {rows}, its CSV {now['r.csv']}, and its page "
                f"has {now['r.html']} rows"
            )
    return ""


def _same(now: dict[str, Any], known: _Known) -> str:
    differ = [k for k in {*now, *known.after} if now.get(k) != known.after.get(k)]
    return f"a rerun gives other files: {sorted(differ)}" if differ else ""


# ----------------------------------------------------------------------------- cases


def kills(seeds: Iterator[int]) -> Iterator[Case]:
    """Kills a command at a random moment, checks its files, and runs it again."""
    with tempfile.TemporaryDirectory() as root:
        places = _Places(Path(root))
        for seed in seeds:
            name = _TURNS[seed % len(_TURNS)]
            known = places.known(name)
            moment = random.Random(seed).uniform(0, 1.05 * known.seconds)
            with tempfile.TemporaryDirectory() as folder:
                place = places.fresh(name, Path(folder))
                shutil.copytree(known.older, place / "out")
                code = _wait(_fork(place, SCENARIOS[name].words), moment)
                outcome = "killed" if code is None else "ended before"
                fault = _after_kill(SCENARIOS[name], known, place, code)
            yield Case(seed, name, outcome, fault)


def _after_kill(
    scenario: Scenario, known: _Known, place: Path, code: int | None
) -> str:
    if code:
        return f"exit code {code}: {(place / 'stderr').read_text()}"
    fault = _kept(scenario, known, place / "out")
    if fault:
        return fault
    if scenario.words.startswith("convert") and (place / "out/new.keras").exists():
        return ""  # the file is complete, and a rerun would refuse to replace it
    code = _run(place, scenario.again or scenario.words)
    if code:
        return f"the rerun's exit code is {code}: {(place / 'stderr').read_text()}"
    return _same(_essence(place / "out"), known)


def full_disks(seeds: Iterator[int]) -> Iterator[Case]:
    """Runs a command on a disk with too little space, then again with enough."""
    with tempfile.TemporaryDirectory() as root:
        places = _Places(Path(root))
        for seed in seeds:
            name = _ON_DISK[seed % len(_ON_DISK)]
            known = places.known(name)
            with tempfile.TemporaryDirectory() as folder:
                place = places.fresh(name, Path(folder))
                (place / "out").mkdir()
                with _disk(place / "out"):
                    yield _on_disk(seed, name, known, place)


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Mounts a disk of 8 MB on a folder."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "awn", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _on_disk(seed: int, name: str, known: _Known, place: Path) -> Case:
    scenario, out = SCENARIOS[name], place / "out"
    shutil.copytree(known.older, out, dirs_exist_ok=True)
    # Whole pages of 4 kB, as tmpfs counts. Mostly too little for the command's files.
    room = 4096 * random.Random(seed).randrange(1 + known.size // 4096)
    free = shutil.disk_usage(out).free
    (out / "filler").write_bytes(bytes(max(0, free - room)))
    code = _run(place, scenario.words)
    said = (place / "stderr").read_text()
    (out / "filler").unlink()
    outcome = "had room" if code == 0 else "refused"
    if code not in (0, 2) or (code == 2 and "No space left on device" not in said):
        return Case(seed, name, outcome, f"exit code {code}: {said}")
    fault = _kept(scenario, known, out)
    leftovers = [path.name for path in out.glob("*.partial*")]
    if not fault and code == 2 and leftovers:
        fault = f"unfinished files are left: {leftovers}"
    if not fault and code == 2:
        again = _run(place, scenario.again or scenario.words)
        fault = f"the rerun's exit code is {again}" if again else ""
    return Case(seed, name, outcome, fault or _same(_essence(out), known))
