"""The program that converts in a child process; see `awn_keras.deploy.child`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.deploy.child import OwnObject
from awn_keras.deploy.converter import convert
from awn_keras.errors import ExportError


def main(argv: Sequence[str]) -> int:
    """Does the job that `convert_in_child` has written to a folder.

    Args:
        argv: The folder, as the only entry.

    Returns:
        The exit code.
    """
    folder = Path(argv[0])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    representative = None
    if (folder / "representative.npz").exists():
        with np.load(folder / "representative.npz") as arrays:
            representative = [arrays[name] for name in arrays.files]
    try:
        objects = [OwnObject(*names) for names in job["own"]]
        own = {object_.saved_as: object_.imported() for object_ in objects}
        models = {
            signature: _load(folder / f"{index}.keras", own)
            for index, signature in enumerate(job["signatures"])
        }
        content = convert(models, job["precision"], representative, may_crash=True)
    except ExportError as error:
        (folder / "failure.txt").write_text(str(error), encoding="utf-8")
        return 1
    (folder / "result.tflite").write_bytes(content)
    return 0


def _load(path: Path, own: Mapping[str, Any]) -> keras.Model:
    try:
        # A conversion needs no optimizer. `safe_mode` protects from files of unknown
        # origin, and these files come from the parent.
        return keras.saving.load_model(
            path, custom_objects=own, compile=False, safe_mode=False
        )
    except Exception as error:  # the user's own layers may raise any error
        raise ExportError(
            "The process that converts on TensorFlow cannot load the model: "
            f"{type(error).__name__}: {error}\nTFLite's converter is part of "
            "TensorFlow, so all layers must run on TensorFlow. Write them with "
            "`keras.ops`, or let them support TensorFlow."
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
