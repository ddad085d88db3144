"""Conversion in a child process in which Keras runs on TensorFlow: the parent's side.

TFLite's converter is part of TensorFlow, and a process has one Keras backend. So on JAX
and PyTorch the parent saves the plain models, and the program `child_program` loads and
converts them. No other part of an export needs TensorFlow. On TensorFlow, models on
which the converter may crash are converted in a child, too, so that a crash does not
end the user's session.

Parent and child share a temporary folder. The parent writes `job.json`, a `.keras` file
for each signature and, for int8, `representative.npz`. The child adds `result.tflite`
or `failure.txt`.
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
    """The way out for a class that the child cannot import."""
    if keras.backend.backend() == "tensorflow":
        return (
            "Put it at the top level of a module: the model has a loop, on which "
            "the converter may crash, so another process converts the model."
        )
    return (
        "Put it at the top level of a module. Or save the model, and export it in a "
        "process with the environment variable KERAS_BACKEND=tensorflow: every backend "
        "can load the model."
    )


def convert_in_child(
    models: Mapping[str, keras.Model],
    precision: str,
    representative: Sequence[np.ndarray] | None,
) -> bytes:
    """Converts in a child process, with arguments of `convert`.

    The child uses no GPU, because this process may hold all memory of the GPU. Lines
    that the child prints appear on stderr of this process. The child ends when this
    call ends.

    Args:
        models: See `convert`. The user's own classes and functions must be at the top
            level of modules that the child can import.
        precision: See `convert`.
        representative: See `convert`.

    Returns:
        The file's content.

    Raises:
        ExportError: See `convert`. Also if a class cannot be imported, if temporary
            files cannot be written, or if the child ends early.
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
        "environment variable TMPDIR to a writable folder with enough space. "
        f"Received: {error}"
    )


def _save(
    folder: Path,
    models: Mapping[str, keras.Model],
    precision: str,
    representative: Sequence[np.ndarray] | None,
) -> set[OwnObject]:
    """Writes the files for the child. Returns the objects that it must import."""
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
        # The child can import all that this process can import. An empty entry of
        # `sys.path` stands for the current folder.
        "PYTHONPATH": os.pathsep.join(str(path or Path.cwd()) for path in sys.path),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
    }
    # With -P the current folder does not come before the folders of PYTHONPATH.
    command = [sys.executable, "-P", "-m", PROGRAM, str(folder)]
    with (
        # TensorFlow writes dozens of lines to stderr. Only the error of a crash shows
        # them.
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
        except BaseException:  # mainly Ctrl-C, which need not reach the child
            process.kill()
            raise


def _crash(code: int, stderr: Path) -> str:
    lines = stderr.read_text(encoding="utf-8", errors="replace").splitlines()
    ended = f"exit code {code}" if code >= 0 else f"signal {-code}"
    tail = "\n".join(lines[-20:]) or "(nothing)"
    way_out = ""
    if code == -signal.SIGSEGV:
        way_out = (
            " TFLite's converter crashes this way when it quantizes some loops over "
            "steps. Write the model without `keras.ops.map` and similar loops, or use "
            "`precision='dynamic_range'`."
        )
    return (
        f"The process that converts on TensorFlow ended with {ended}.{way_out} Its "
        f"last lines:\n{tail}"
    )


class OwnObject(NamedTuple):
    """A class or function that is not part of Keras.

    Args:
        module: The module that has the class or function.
        name: Name in the module.
        saved_as: Name in a saved model.
    """

    module: str
    name: str
    saved_as: str

    def check_can_be_imported(self) -> None:
        """Raises an ExportError if another process cannot import the object."""
        module = sys.modules.get(self.module)
        reason = ""
        if self.module == "__main__":
            reason = "is defined in `__main__`"
        elif module is not None and not hasattr(module, self.name):
            reason = f"is not at the top level of module '{self.module}'"
        if reason:
            raise ExportError(
                f"'{self.name}' {reason}, so the process that converts on TensorFlow "
                f"cannot import it. {_way_out()}"
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
    """The objects in a saved model that are not part of Keras or awn_keras."""
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))
    functions = functions_of(model)
    named: set[OwnObject] = set()
    for part in _dicts(config):
        name = part["class_name"]
        if name == "function":
            # Keras saves the name of a function, or the name under which it was
            # registered, but not its module.
            called = str(part["config"])
            function = keras.saving.get_registered_object(called)
            function = function or functions.get(called)
            if function is not None:
                where = function.__module__, function.__name__
                named.add(OwnObject(*where, saved_as=called))
        elif part.get("module") or part.get("registered_name"):
            # Keras saves no module for a class that is defined in `__main__`.
            named.add(OwnObject(part["module"] or "__main__", name, saved_as=name))
    known = ("builtins", "keras", "awn_keras")
    return {part for part in named if part.module.partition(".")[0] not in known}


def _dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    """All dicts in a config that have a class name, at any depth."""
    if isinstance(value, Mapping):
        if "class_name" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _dicts(part)
