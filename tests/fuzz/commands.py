"""Runs commands of `awn` in this process, and checks how they end."""

import contextlib
import io
import os
import traceback
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from unittest import mock

import keras
from matplotlib.figure import Figure

from awn_keras import cli
from awn_keras.deploy import export, timing, tuning
from awn_keras.deploy.benchmark import host
from awn_keras.deploy.benchmark.report import Report
from awn_keras.multi_width import MultiWidthModel
from tests.failing import contents


class TakenError(BaseException):
    """A command accepted its arguments and files, and began its slow work."""


def _take(*args, **kwargs):
    raise TakenError


def _draw(figure, to, *, format, **kwargs):
    to.write("<svg/>" if format == "svg" else b"picture")


def _no_network(*args, **kwargs):
    raise urllib.error.URLError("no network")


#: Functions that begin the slow work of commands. Calls to them end the command.
_WORK = [
    *((keras.Model, "fit"), (MultiWidthModel, "fit")),
    *((export, "convert"), (tuning, "convert")),
    *((timing, "convert"), (host, "run_apart")),
]


def run(words):
    """Runs a command in the current folder.

    Args:
        words: The command and its arguments.

    Returns:
        A description of what is wrong ("" if nothing is), and whether the command
        refused. Nothing is wrong if the command did its work or began its slow work. A
        refusal must have exit code 2 and one line on stderr, and change no file.
    """
    before = contents(Path())
    # `_awn` sets these encodings, too.
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
        for _ in range(2)
    )
    log = io.StringIO()
    with contextlib.ExitStack() as stack:
        for owner, name in _WORK:
            stack.enter_context(mock.patch.object(owner, name, _take))
        stack.enter_context(mock.patch.object(Figure, "savefig", _draw))
        for name in ("urlopen", "urlretrieve"):
            stack.enter_context(mock.patch.object(urllib.request, name, _no_network))
        stack.enter_context(mock.patch.object(cli, "describe_fault", _describe(log)))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        warned = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)  # Python ignores these by default
        # Tests run TensorFlow's functions as Python; `awn` does not.
        warnings.filterwarnings("ignore", message="Even though the `tf.config")
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # argparse ends the process itself
            code = stop.code
        except TakenError:
            code = None
    err.flush()
    said = err.buffer.getvalue().decode()
    leftovers = [name for name in contents(Path()) if ".partial" in name]
    if code not in (None, 0, 2):
        return f"exit code {code}: {said}{log.getvalue()}", False
    if leftovers:
        return f"unfinished files are left: {leftovers}", code == 2
    if code != 2:
        return "", False
    return _fault_of_refusal(words[0], said, warned, before), True


def _describe(log):
    def describe_fault(error, path=None):
        log.write("".join(traceback.format_exception(error)))
        return "a fault"

    return describe_fault


def _fault_of_refusal(command, said, warned, before):
    # Notes may come before the error. The error about a network that cannot be
    # converted has a line for each reason.
    mark = next(
        (x for x in (f"awn {command}: error: ", "awn: error: ") if x in said), ""
    )
    line = said.rpartition(mark)[2] if mark else ""
    if not mark or (line.count("\n") != 1 and "cannot be converted" not in line):
        return f"there must be one line at the end: {said}"
    if "Traceback" in said:
        return f"there is a traceback: {said}"
    if warned:
        return f"there is a warning, too: {[str(each.message) for each in warned]}"
    after = contents(Path())
    changed = {
        name for name in {*before, *after} if before.get(name) != after.get(name)
    }
    if command == "benchmark":  # writes a report about what it could not measure
        changed -= {name for name in changed if _is_report(name)}
    return f"files changed: {sorted(changed)}: {said}" if changed else ""


def _is_report(name):
    return name.endswith(".json") and bool(Report.load(name).failures)


@contextlib.contextmanager
def inside(folder):
    """Makes a folder the current folder, with its own programs, caches and data."""
    folder = Path(folder).resolve()
    variables = {
        "PATH": f"{folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
        **{name: str(folder / "cache") for name in ("XDG_CACHE_HOME", "HOME")},
        "TFDS_DATA_DIR": str(folder / "sets"),
    }
    with contextlib.chdir(folder), mock.patch.dict(os.environ, variables):
        yield
