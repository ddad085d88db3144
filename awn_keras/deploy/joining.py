"""Joins TFLite files to one file that stores equal constants once."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from awn_keras.errors import ArgumentError

_RUNTIME_VERSION = b"min_runtime_version"
#: The name of the entry that holds TFLite Metadata.
METADATA = b"TFLITE_METADATA"


@dataclass(frozen=True)
class Converted:
    """A converted function, and the signature that it gets.

    Args:
        content: Content of the TFLite file. Its first subgraph computes the function.
            The file needs no signature.
        signature: Name of the new signature.
        inputs: Names of the inputs, in the order of the subgraph's inputs.
        outputs: Names of the outputs, in the order of the subgraph's outputs.
    """

    content: bytes
    signature: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def join(files: Iterable[bytes | Converted]) -> bytes:
    """Joins TFLite files to one file that has the signatures of all.

    Constants that are equal byte for byte are stored once. Names of inner tensors and
    empty quantization entries are left out, because no runtime needs them. In a file of
    many widths they take half of the bytes that are not constants.

    Args:
        files: Contents of TFLite files with signatures, or converted functions; at
            least one.

    Returns:
        The content of the joined file, in which each signature computes what it did
        before. The content depends only on `files` and their order. A runtime that
        knows no signatures runs the first signature of the first file. Attached files
        are left out, and so is TFLite Metadata, which describes only one of `files`.

    Raises:
        ValueError: If `files` is empty, if a file has no signature, or if two
            signatures have the same name.
    """
    joined = _Joined()
    for file in files:
        joined.add(file)
    if not joined.model.signatureDefs:
        raise ArgumentError("`files` must not be empty.")
    return pack(joined.model)


def pack(model: Any) -> bytes:
    """Returns the content of a TFLite file from its object tree, LiteRT's `ModelT`."""
    import flatbuffers

    size = 0
    for buffer in model.buffers:
        buffer.Pack = functools.partial(_pack_aligned, buffer)
        size += 0 if buffer.data is None else len(buffer.data)
    builder = flatbuffers.Builder(size + size // 64 + 1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Joined:
    """The object tree of the joined file, to which files are added."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.model = schema.ModelT(
            version=3,
            operatorCodes=[],
            subgraphs=[],
            buffers=[],
            metadata=[],
            signatureDefs=[],
        )
        # The index of each constant's buffer. Buffer 0 is empty: tensors that are
        # computed refer to it.
        self.buffers: dict[bytes, int] = {}
        self._buffer(b"")
        self._codes: dict[tuple[Any, ...], int] = {}
        self._keys: set[str] = set()

    def add(self, file: bytes | Converted) -> None:
        from ai_edge_litert import schema_py_generated as schema

        content = file if isinstance(file, bytes) else file.content
        other = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        if isinstance(file, Converted):
            other.signatureDefs = [_signature_of(file, other.subgraphs[0])]
        first = len(self.model.subgraphs)
        codes = [self._code(code) for code in other.operatorCodes or ()]
        left_out = {e.buffer for e in other.metadata or () if e.name == METADATA}
        buffers = [
            0 if index in left_out else self._buffer(_data(buffer))
            for index, buffer in enumerate(other.buffers)
        ]
        for graph in other.subgraphs:
            for tensor in graph.tensors:
                tensor.buffer = buffers[tensor.buffer]
            for operator in graph.operators or ():
                operator.opcodeIndex = codes[operator.opcodeIndex]
                for options in (operator.builtinOptions, operator.builtinOptions2):
                    _shift_subgraphs(options, first)
            _leave_out(graph)
        self.model.subgraphs += other.subgraphs
        self.model.description = self.model.description or other.description
        self._sign(other.signatureDefs or (), first)
        for entry in other.metadata or ():
            if entry.name == METADATA:
                continue
            self._note(entry.name, _data(other.buffers[entry.buffer]))

    def _sign(self, definitions: Sequence[Any], first: int) -> None:
        if not definitions:
            raise ArgumentError(
                "`files` must have signatures. Received: a file without signatures"
            )
        for definition in definitions:
            name = definition.signatureKey.decode()
            if name in self._keys:
                raise ArgumentError(
                    "`files` must have signatures of different names. Received: "
                    f"'{name}' twice"
                )
            self._keys.add(name)
            definition.subgraphIndex += first
            graph = self.model.subgraphs[definition.subgraphIndex]
            graph.name = definition.signatureKey
            for entry in (*definition.inputs, *definition.outputs):
                graph.tensors[entry.tensorIndex].name = entry.name
            self.model.signatureDefs.append(definition)

    def _code(self, code: Any) -> int:
        key = (code.builtinCode, code.customCode, code.version)
        if key not in self._codes:
            self._codes[key] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        return self._codes[key]

    def _buffer(self, data: bytes) -> int:
        from ai_edge_litert import schema_py_generated as schema

        if data not in self.buffers:
            self.buffers[data] = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT(data=data))
        return self.buffers[data]

    def _note(self, name: bytes, data: bytes) -> None:
        """Keeps an entry of the first file that has it.

        Of `min_runtime_version` it keeps the newest version.
        """
        from ai_edge_litert import schema_py_generated as schema

        for entry in self.model.metadata:
            if entry.name == name:
                said = _data(self.model.buffers[entry.buffer])
                if name == _RUNTIME_VERSION and _version(said) < _version(data):
                    entry.buffer = self._buffer(data)
                return
        self.model.metadata.append(schema.MetadataT(name, self._buffer(data)))


def _signature_of(file: Converted, graph: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    inputs, outputs = (
        [
            schema.TensorMapT(name.encode(), int(index))
            for name, index in zip(names, indices, strict=True)
        ]
        for names, indices in (
            (file.inputs, graph.inputs),
            (file.outputs, graph.outputs),
        )
    )
    return schema.SignatureDefT(inputs, outputs, file.signature.encode())


def _leave_out(graph: Any) -> None:
    for tensor in graph.tensors:
        tensor.name = None
        if tensor.quantization is not None and tensor.quantization.scale is None:
            tensor.quantization = None


def _shift_subgraphs(options: Any, first: int) -> None:
    """Adds `first` to indices of subgraphs in the options of control flow."""
    for field, value in vars(options).items() if options is not None else ():
        if field == "branchSubgraphIndices":
            setattr(options, field, [index + first for index in value])
        elif field == "subgraph" or field.endswith("SubgraphIndex"):
            # An index of -1 stands for no subgraph.
            setattr(options, field, value + first if value >= 0 else value)


def _data(buffer: Any) -> bytes:
    return b"" if buffer.data is None else bytes(buffer.data)


def _version(data: bytes) -> tuple[int, ...]:
    numbers = data.rstrip(b"\0").decode().split(".")
    return tuple(int(number) for number in numbers if number.isdecimal())


def _pack_aligned(buffer: Any, builder: Any) -> int:
    """Packs a constant at a multiple of 16 bytes, as the schema demands.

    The generated Python code of the schema does not align constants.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = None
    content = _data(buffer)
    if content:
        size = len(content)
        builder.StartVector(1, size, 16)
        builder.head = builder.Head() - size
        builder.Bytes[builder.Head() : builder.Head() + size] = content
        data = builder.EndVector()
    schema.BufferStart(builder)
    if data is not None:
        schema.BufferAddData(builder, data)
    return schema.BufferEnd(builder)
