"""Conversion in a child process in which Keras runs on TensorFlow: the parent's side.

TFLite's converter is TensorFlow's, and a process has one Keras backend. So on JAX and
PyTorch plain models are saved, and the program `child_program` loads and converts them.
Nothing else of an export needs TensorFlow. On TensorFlow, too, that is done with models
on which the converter is known to crash: not the user's session ends then.

The folder holds `job.json`, a `.keras` file for each signature, and
`representative.npz`; the child adds `result.tflite`, or `failure.txt`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from awn_keras.errors import ExportError
from awn_keras.graph import functions_of

#: The module that the child runs.
PROGRAM = "awn_keras.deploy.child_program"


def _way_out() -> str:
    """What to do about a class that the child cannot import."""
    if keras.backend.backend() == "tensorflow":
        return (
            "Put it at the top level of a module of its own: a loop, on which the "
            "converter may crash, is converted by another process."
        )
    return (
        "Put it at the top level of a module of its own, or export in a process with "
        "the environment variable KERAS_BACKEND=tensorflow: every backend can load the "
        "model."
    )


def convert_in_child(
    models: Mapping[str, keras.Model],
    precision: str,
    representative: Sequence[np.ndarray] | None,
) -> bytes:
    """Converts in a child process; see `convert`, whose arguments these are.

    The child uses no GPU, of which this process may hold all memory. Lines that it
    prints are shown here, on stderr. It ends when this call does.

    Args:
        models: See `convert`. Classes and functions of the user's own must be at the
            top level of modules, which the child imports.
        precision: See `convert`.
        representative: See `convert`.

    Returns:
        The file's content.

    Raises:
        ExportError: See `convert`; also if a class cannot be imported, or the child
            ends early.
    """
    with _temporary_folder() as folder:
        try:
            own = _save(folder, models, precision, representative)
        except OSError as error:
            raise _no_space(error) from error
        for own_object in own:
            own_object.check_can_be_imported()
        code = _run(folder)
        result, failure = folder / "result.tflite", folder / "failure.txt"
        if result.exists():
            return result.read_bytes()
        if failure.exists():
            raise ExportError(failure.read_text(encoding="utf-8"))
        raise ExportError(_crash(code, folder / "stderr.txt"))


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory()
    except OSError as error:
        raise _no_space(error) from error
    with folder as name:
        yield Path(name)


def _no_space(error: OSError) -> ExportError:
    return ExportError(
        "The models to convert cannot be written to temporary files. Set the "
        "environment variable TMPDIR to a folder that has space and can be written "
        f"to. Received: {error}"
    )


def _save(
    folder: Path,
    models: Mapping[str, keras.Model],
    precision: str,
    representative: Sequence[np.ndarray] | None,
) -> set[OwnObject]:
    """Writes what the child reads; returns what it must import."""
    own: set[OwnObject] = set()
    for index, model in enumerate(models.values()):
        path = folder / f"{index}.keras"
        model.save(path)
        own |= _own_objects(path, model)
    if representative is not None:
        np.savez(folder / "representative.npz", *representative)
    job = {"signatures": list(models), "precision": precision, "own": [*own]}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return own


def _run(folder: Path) -> int:
    """Runs the child until it ends; returns its exit code."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "",
        # What can be imported here can be there; an empty entry is this folder.
        "PYTHONPATH": os.pathsep.join(str(path or Path.cwd()) for path in sys.path),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
    }
    # With -P the current folder does not come before these.
    command = [sys.executable, "-P", "-m", PROGRAM, str(folder)]
    with (
        # TensorFlow writes dozens of lines there: they are told if it crashes.
        (folder / "stderr.txt").open("wb") as stderr,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                sys.stderr.write(line)
            return process.wait()
        except BaseException:  # Ctrl-C, above all, which need not reach the child
            process.kill()
            raise


def _crash(code: int, stderr: Path) -> str:
    lines = stderr.read_text(encoding="utf-8", errors="replace").splitlines()
    ended = f"exit code {code}" if code >= 0 else f"signal {-code}"
    tail = "\n".join(lines[-20:]) or "It said nothing."
    way_out = ""
    if code == -signal.SIGSEGV:
        way_out = (
            " TFLite's converter crashes so on some loops over steps when it makes "
            "integers of them: write them without `keras.ops.map` and the like, or use "
            "`precision='dynamic_range'`."
        )
    return (
        f"The process that converts on TensorFlow ended with {ended}.{way_out} It said:"
        f"\n{tail}"
    )


class OwnObject(NamedTuple):
    """A class or function that is not Keras' own.

    Args:
        module: The module that it can be imported from.
        name: Its name there.
        saved_as: What a saved model calls it.
    """

    module: str
    name: str
    saved_as: str

    def check_can_be_imported(self) -> None:
        """Raises an ExportError if no other process can import it."""
        module = sys.modules.get(self.module)
        reason = ""
        if self.module == "__main__":
            reason = "is defined in `__main__`"
        elif module is not None and not hasattr(module, self.name):
            reason = f"is not at the top level of module '{self.module}'"
        if reason:
            raise ExportError(
                f"'{self.name}' {reason}, from which the process that converts on "
                f"TensorFlow cannot import it. {_way_out()}"
            )

    def imported(self) -> Any:
        """The class or function.

        Raises:
            ExportError: If it cannot be imported.
        """
        try:
            return getattr(importlib.import_module(self.module), self.name)
        except (AttributeError, ImportError) as error:
            raise ExportError(
                f"'{self.name}' of module '{self.module}' cannot be imported by the "
                f"process that converts on TensorFlow: {error}. {_way_out()}"
            ) from error


def _own_objects(path: Path, model: keras.Model) -> set[OwnObject]:
    """What a saved model names that Keras and awn_keras do not bring along."""
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))
    functions = functions_of(model)
    named: set[OwnObject] = set()
    for part in _dicts(config):
        name = part["class_name"]
        if name == "function":
            # Keras says what it is called, perhaps as registered, but not where it is.
            called = str(part["config"])
            function = keras.saving.get_registered_object(called)
            function = function or functions.get(called)
            if function is not None:
                where = function.__module__, function.__name__
                named.add(OwnObject(*where, saved_as=called))
        elif part.get("module") or part.get("registered_name"):
            # Keras names no module for what is defined in `__main__`.
            named.add(OwnObject(part["module"] or "__main__", name, saved_as=name))
    known = ("builtins", "keras", "awn_keras")
    return {part for part in named if part.module.partition(".")[0] not in known}


def _dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    """All dicts with a class name in a config, at any depth."""
    if isinstance(value, Mapping):
        if "class_name" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _dicts(part)
