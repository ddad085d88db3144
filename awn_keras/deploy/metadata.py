"""Writes TFLite Metadata, which MediaPipe, Android's libraries and awn_keras read.

The schema is `metadata_schema.fbs` of MediaPipe. Numbers of slots below follow the
order of the fields in the schema. Only the fields that an image classifier needs are
written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from awn_keras.deploy.attachments import LABELS, MANIFEST, attach
from awn_keras.deploy.joining import METADATA, pack
from awn_keras.deploy.pixels import Pixels, is_image_shape
from awn_keras.errors import ArgumentError, ArgumentTypeError

# Values of the schema: the file identifier, members of unions and enumerations, and the
# first version of the schema that has all of them.
_IDENTIFIER = b"M001"
_FEATURE, _IMAGE = 1, 2
_NORMALIZATION = 1
_COLOR_SPACES = {3: 1, 1: 2}  # RGB, GRAYSCALE, by the number of channels
_TENSOR_AXIS_LABELS = 2
_PARSER_VERSION = "1.0.0"


def with_metadata(content: bytes, manifest: Mapping[str, Any]) -> bytes:
    """Adds a description of its inputs and outputs to a TFLite file.

    Args:
        content: A TFLite file with signatures and without attached files.
        manifest: The description, of values that JSON can hold. `model` is the model's
            name. `inputs` and `outputs` are lists of dicts with `name` and `shape`; an
            image input also has `dtype`, and may have `pixels`. `metadata` may have
            `class_names`.

    Returns:
        The content of the file with TFLite Metadata for each subgraph and with attached
        files: `labels.txt`, if names of classes are known, and `awn.json`. `awn.json`
        holds the manifest, and the size and the SHA-256 of the flatbuffer, which is the
        file without attached files.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    labels = labels_of(manifest["metadata"])
    model.buffers.append(schema.BufferT(data=_described(model, manifest, labels)))
    model.metadata = [
        *(entry for entry in model.metadata or () if entry.name != METADATA),
        schema.MetadataT(METADATA, len(model.buffers) - 1),
    ]
    flatbuffer = pack(model)
    about = {
        **manifest,
        "flatbuffer": {
            "bytes": len(flatbuffer),
            "sha256": hashlib.sha256(flatbuffer).hexdigest(),
        },
    }
    files = {MANIFEST: json.dumps(about).encode()}
    if labels:
        files = {LABELS: "".join(f"{name}\n" for name in labels).encode(), **files}
    return attach(flatbuffer, files)


def check_metadata(
    metadata: Any, outputs: Sequence[tuple[int | None, ...]]
) -> dict[str, Any]:
    """Checks the argument `metadata` of an export.

    Args:
        metadata: The value that the user gave.
        outputs: Shapes of the model's outputs without the batch.

    Returns:
        `metadata` as a dict.

    Raises:
        TypeError: If `metadata` is not a mapping, or has a value that JSON cannot hold.
        ValueError: If the model has one output of class scores, and the number of
            `class_names` is not the number of classes.
    """
    if not isinstance(metadata, Mapping):
        raise ArgumentTypeError(
            "`metadata` must be a dict, such as {'class_names': [...]}. Received: "
            f"{type(metadata).__name__}"
        )
    try:
        json.dumps(dict(metadata))
    except TypeError as error:
        raise ArgumentTypeError(
            f"`metadata` must be what JSON holds: {error}"
        ) from error
    names, (shape, *others) = labels_of(metadata), outputs
    is_scores = not others and len(shape) == 1 and (shape[0] or 0) > 1
    if names and is_scores and len(names) != shape[0]:
        raise ArgumentError(
            f"`metadata['class_names']` must have a name for each of the {shape[0]} "
            f"classes. Received: {len(names)} names"
        )
    return dict(metadata)


def labels_of(metadata: Mapping[str, Any]) -> list[str]:
    """The names of classes, without line breaks; an empty list if not known."""
    names = metadata.get("class_names")
    if not isinstance(names, Sequence) or isinstance(names, str):
        return []
    return [" ".join(str(name).split()) for name in names]


def _described(model: Any, manifest: Mapping[str, Any], labels: list[str]) -> bytes:
    """The flatbuffer `ModelMetadata`."""
    writer = _Writer()
    inputs, outputs = (
        {entry["name"]: entry for entry in manifest[key]}
        for key in ("inputs", "outputs")
    )
    names = {definition.subgraphIndex: definition for definition in model.signatureDefs}
    subgraphs = []
    for index, graph in enumerate(model.subgraphs):
        definition = names.get(index)
        takes, gives = (
            _names(definition, kind, indices)
            for kind, indices in (("inputs", graph.inputs), ("outputs", graph.outputs))
        )
        title = "" if definition is None else definition.signatureKey.decode()
        subgraphs.append(
            writer.table(
                4,
                {
                    0: writer.text(title),
                    2: writer.vector([_input(writer, n, inputs.get(n)) for n in takes]),
                    3: writer.vector(
                        [_output(writer, n, outputs.get(n), labels) for n in gives]
                    ),
                },
            )
        )
    widths = ", ".join(str(row["width"]) for row in manifest.get("widths", ()))
    root = writer.table(
        8,
        {
            0: writer.text(str(manifest["model"])),
            1: writer.text(f"An any-width network of awn_keras, at widths {widths}."),
            3: writer.vector(subgraphs),
            7: writer.text(_PARSER_VERSION),
        },
    )
    return writer.finish(root)


def _names(definition: Any, kind: str, indices: Any) -> list[str]:
    """Names of a subgraph's inputs or outputs, in its own order."""
    entries = getattr(definition, kind, None) or ()
    known = {entry.tensorIndex: entry.name.decode() for entry in entries}
    return [known.get(int(index), "") for index in indices]


def _input(writer: _Writer, name: str, entry: Any) -> int:
    slots = {0: writer.text(name)}
    shape: list[int] = [] if entry is None else entry["shape"]
    if is_image_shape(shape):
        image = writer.table(1, {}, {0: _COLOR_SPACES[shape[-1]]})
        slots[3] = writer.table(2, {1: image}, {0: _IMAGE})
        pixels = Pixels.parse(entry.get("pixels"))
        # An input of uint8 pixels needs no normalization, and MediaPipe expects none.
        if pixels is not None and entry["dtype"] == "float32":
            # MediaPipe reads only files with one mean and std for all channels, so
            # equal numbers are written once.
            mean, std = (
                writer.floats(values if len(set(values)) > 1 else values[:1])
                for values in (pixels.mean, pixels.std)
            )
            options = writer.table(2, {0: mean, 1: std})
            unit = writer.table(2, {1: options}, {0: _NORMALIZATION})
            slots[4] = writer.vector([unit])
    return writer.table(7, slots)


def _output(writer: _Writer, name: str, entry: Any, labels: list[str]) -> int:
    slots = {0: writer.text(name)}
    shape: list[int] = [] if entry is None else entry["shape"]
    if labels and len(shape) == 2 and shape[-1] == len(labels):
        content = writer.table(0, {})
        slots[3] = writer.table(2, {1: content}, {0: _FEATURE})
        about = {0: writer.text(LABELS), 1: writer.text("Names of the classes.")}
        file = writer.table(3, about, {2: _TENSOR_AXIS_LABELS})
        slots[6] = writer.vector([file])
    return writer.table(7, slots)


class _Writer:
    """Writes tables of a flatbuffer. Parts of a table must be written before it."""

    def __init__(self) -> None:
        import flatbuffers

        self._builder = flatbuffers.Builder()

    def text(self, text: str) -> int:
        return self._builder.CreateString(text)

    def floats(self, values: Sequence[float]) -> int:
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self._builder.PrependFloat32(value)
        return self._builder.EndVector()

    def vector(self, tables: Sequence[int]) -> int:
        self._builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            self._builder.PrependUOffsetTRelative(table)
        return self._builder.EndVector()

    def table(
        self, size: int, pointers: Mapping[int, int], codes: Mapping[int, int] = {}
    ) -> int:
        """Writes a table.

        Args:
            size: Number of slots.
            pointers: Slots that point at a part, with the part's place.
            codes: Slots that hold a byte, with the byte.

        Returns:
            The place of the table.
        """
        self._builder.StartObject(size)
        for slot, place in pointers.items():
            self._builder.PrependUOffsetTRelativeSlot(slot, place, 0)
        for slot, code in codes.items():
            self._builder.PrependUint8Slot(slot, code, 0)
        return self._builder.EndObject()

    def finish(self, root: int) -> bytes:
        self._builder.Finish(root, _IDENTIFIER)
        return bytes(self._builder.Output())
