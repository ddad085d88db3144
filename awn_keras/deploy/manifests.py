"""Reads and checks the manifest of an export, in the file itself or beside it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from awn_keras.files import parse_json, read_json
from awn_keras.schemas import (
    Check,
    MisfitError,
    anything,
    fields,
    file_name,
    items,
    number,
    of_kind,
    or_null,
    text,
    values,
)

#: Precisions of a file: `"float32"`; `"float16"`, with float16 constants;
#: `"dynamic_range"`, with int8 constants, where activations are quantized at run time;
#: `"int8"`, where all is int8, with ranges that are measured on samples.
PRECISIONS = ("float32", "float16", "dynamic_range", "int8")
_ABOUT = "the manifest of an export: export the model again"


def _numbers(value: Any, where: str) -> None:
    """Checks that a value is a number or a list of numbers."""
    try:
        number()(value, where)
    except MisfitError:
        items(number(), 1)(value, where)


_PIXELS = fields({"mean": _numbers, "std": _numbers})
_TENSORS = items(
    fields(
        {
            "name": text(),
            "shape": items(or_null(number(0, whole=True))),
            "dtype": text(),
            "pixels": or_null(_PIXELS),
            "scores": or_null(text("probabilities", "logits")),
        },
        needed=("name",),
    )
)
_RECORDS = items(
    fields(
        {
            "width": number(0, 1),
            "signature": text(),
            "file": file_name,
            "sha256": text(),
            "executed_macs": or_null(number(0, whole=True)),
        },
        needed=("width", "signature"),
    )
)
_FIELDS: dict[str, Check] = {
    "model": text(),
    "min_width": number(0, 1),
    "layout": text(),
    "precision": text(*PRECISIONS),
    "inputs": _TENSORS,
    "outputs": _TENSORS,
    "changed": fields(
        {
            "inputs": or_null(_PIXELS),
            "softmax": or_null(text("added", "left out")),
        },
        needed=(),
    ),
    "weights_sha256": text(),
    "metadata": values(anything),
    "widths": _RECORDS,
    "refinement": _RECORDS,
    "flatbuffer": fields({"sha256": text()}),
}


def read_manifest(path: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Reads a manifest that lies beside a file, or in a folder of files.

    Args:
        path: Path of the manifest.
        needed: Names of the fields that must be there.

    Returns:
        The fields of the manifest.

    Raises:
        ValueError: If the manifest is damaged, if a field has a value that it cannot
            have, or if a later awn_keras wrote the manifest.
        OSError: If the manifest cannot be read.
    """
    return read_json(path, of_kind("manifest", fields(_FIELDS, needed)), _ABOUT)


def parse_manifest(content: bytes, name: str) -> dict[str, Any]:
    """Reads a manifest that is attached to a TFLite file; see `read_manifest`.

    Args:
        content: The manifest's content.
        name: Name of the TFLite file, for messages.
    """
    check = of_kind("manifest", fields(_FIELDS, ()))
    return parse_json(content, f"awn.json in {name}", check, _ABOUT)
