"""Opens TFLite files with LiteRT, lists their signatures, and runs single samples."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.deploy.attachments import LABELS, MANIFEST, attached, flatbuffer_of
from awn_keras.deploy.checks import check_integer
from awn_keras.deploy.manifests import parse_manifest, read_manifest
from awn_keras.deploy.operators import check_scales
from awn_keras.deploy.pixels import Pixels
from awn_keras.deploy.signatures import signature_width
from awn_keras.errors import ArgumentError, ArgumentTypeError, ExportError
from awn_keras.extras import check_installed
from awn_keras.widths import check_width, find_width

#: Arrays by name of the input or output, each `(1, ...)`.
Sample = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature.

    Args:
        name: Name in the signature.
        shape: Shape with the batch axis. A size that is not fixed counts as 1.
        declared_shape: Shape in the file, where -1 stands for a size that is not fixed.
        dtype: Dtype.
        scale: Value of one step of the quantized integers; 0 if the tensor is not
            quantized.
        zero_point: The quantized integer that stands for 0.
    """

    name: str
    shape: tuple[int, ...]
    declared_shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    zero_point: int

    @classmethod
    def of(cls, name: str, details: Mapping[str, Any]) -> Tensor:
        """Makes a tensor from LiteRT's details."""
        scale, zero_point = details["quantization"]
        return cls(
            name,
            tuple(details["shape"].tolist()),
            tuple(details["shape_signature"].tolist()),
            np.dtype(details["dtype"]),
            float(scale),
            int(zero_point),
        )

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape without the batch axis."""
        return self.shape[1:]

    def check_takes_samples(self) -> None:
        """Checks that samples can be run one by one.

        Raises:
            ValueError: If the batch size is not 1, or the rest of the shape is not
                fixed.
        """
        batch, rest = self.declared_shape[:1], self.declared_shape[1:]
        if batch not in ((1,), (-1,)) or -1 in rest:
            raise ArgumentError(
                "`path` must have signatures of batch size 1 and fixed shapes. "
                f"Received: '{self.name}' of shape {self.declared_shape}"
            )

    def encode(self, x: Any) -> np.ndarray:
        """Checks samples `(n, ...)`, and casts or quantizes them.

        Raises:
            TypeError: If the dtype of `x` does not fit.
            ValueError: If the shape of `x` does not fit, or if `x` has NaN and the
                input is quantized.
        """
        x = np.asarray(x)
        if x.ndim == 0 or x.shape[1:] != self.sample_shape:
            is_sample = x.shape == self.sample_shape
            hint = " Add the batch axis: `x[None]`." if is_sample else ""
            wanted = ", ".join(map(str, ("n", *self.sample_shape)))
            raise ArgumentError(
                f"`x` must have the shape ({wanted}) for input '{self.name}'. "
                f"Received: an array of shape {x.shape}.{hint}"
            )
        if self.scale and x.dtype.kind == "f":
            if np.isnan(x).any():
                raise ArgumentError(
                    f"`x` must not have NaN for the quantized input '{self.name}'."
                )
            limits = np.iinfo(self.dtype)
            steps = np.rint(x / self.scale) + self.zero_point
            return np.clip(steps, limits.min, limits.max).astype(self.dtype)
        fits = x.dtype == self.dtype if self.scale else _can_cast(x, self.dtype)
        if not fits:
            raise ArgumentTypeError(
                f"`x` must be {self.dtype}{' or floats' * bool(self.scale)} for "
                f"input '{self.name}', or fit into it. Received: an array of "
                f"{x.dtype}"
            )
        return x.astype(self.dtype)

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Turns quantized integers `(n, ...)` into float32; keeps other values."""
        if not self.scale:
            return y
        return (y.astype("float32") - self.zero_point) * np.float32(self.scale)


def _can_cast(x: np.ndarray, dtype: np.dtype) -> bool:
    if dtype.kind in "iu" and x.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return not x.size or (limits.min <= x.min() and x.max() <= limits.max)
    return np.can_cast(x.dtype, dtype, "same_kind")


@dataclass(frozen=True)
class Signature:
    """A signature of an open file, with its inputs, its outputs and its runner.

    Args:
        name: Name of the signature.
        inputs: Inputs, in the order of names.
        outputs: Outputs, in the order of names.
        runner: LiteRT's runner. Only one thread at a time may use the runners of a
            file.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    runner: Callable[..., Sample]

    @classmethod
    def of(cls, name: str, runner: Any) -> Signature:
        """Makes a signature from LiteRT's runner."""
        inputs, outputs = (
            tuple(Tensor.of(*item) for item in sorted(details.items()))
            for details in (runner.get_input_details(), runner.get_output_details())
        )
        return cls(name, inputs, outputs, runner)

    @property
    def width(self) -> float | None:
        """The width in the signature's name; `None` if the name has no width."""
        return signature_width(self.name)

    def check_takes_samples(self) -> None:
        """Checks that samples can be run one by one; see `Tensor`."""
        for tensor in (*self.inputs, *self.outputs):
            tensor.check_takes_samples()

    def encode(self, x: Any) -> dict[str, np.ndarray]:
        """Checks and casts samples.

        Args:
            x: See `run`.

        Returns:
            An array `(n, ...)` for each input, in the dtype of the input.

        Raises:
            TypeError: If a dtype does not fit.
            ValueError: If names or shapes do not fit, or if an array has NaN and the
                input is quantized.
        """
        names = [tensor.name for tensor in self.inputs]
        if not isinstance(x, Mapping) and len(names) == 1:
            x = {names[0]: x}
        if not isinstance(x, Mapping) or set(x) != set(names):
            received = sorted(x) if isinstance(x, Mapping) else type(x).__name__
            raise ArgumentError(
                f"`x` must be a dict with an array for each of the inputs {names}. "
                f"Received: {received}"
            )
        arrays = {tensor.name: tensor.encode(x[tensor.name]) for tensor in self.inputs}
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise ArgumentError(
                "`x` must have the same number of samples for each input. Received: "
                f"{counts}"
            )
        return arrays

    def invoke(self, sample: Sample) -> Sample:
        """Computes the outputs of one sample. Arrays have the dtypes of the file.

        Raises:
            RuntimeError: If LiteRT fails.
        """
        try:
            return self.runner(**sample)
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"LiteRT cannot run signature '{self.name}' (is the file damaged?): "
                f"{error}"
            ) from error

    def run(
        self, x: Any, invoke: Callable[[Sample], Sample] | None = None
    ) -> dict[str, np.ndarray]:
        """Computes the outputs of samples, one sample at a time.

        Args:
            x: Samples `(n, ...)`; for several inputs, a dict with such an array for
                each.
            invoke: Function that computes one sample. `None` for the signature's own
                `invoke`.

        Returns:
            An array `(n, ...)` for each output. Quantized integers become float32.

        Raises:
            TypeError: See `encode`.
            ValueError: See `encode`.
            RuntimeError: If LiteRT fails.
        """
        arrays = self.encode(x)
        count = len(next(iter(arrays.values())))
        results = {
            tensor.name: np.empty((count, *tensor.sample_shape), tensor.dtype)
            for tensor in self.outputs
        }
        invoke = invoke or self.invoke
        for i in range(count):
            sample = {name: array[i : i + 1] for name, array in arrays.items()}
            row = invoke(sample)
            for name, result in results.items():
                result[i] = row[name][0]
        return {
            tensor.name: tensor.decode(results[tensor.name]) for tensor in self.outputs
        }


class TFLiteFile:
    """A TFLite file, opened and read once.

    Args:
        source: The file's path or content. The file is mapped into memory, so do not
            write into the file while it is open. Replacing the file is safe.
        name: Name of the file in errors. `None` for the path.
        num_threads: Threads that LiteRT's CPU kernels use, at least 1.

    Attributes:
        name: Name of the file in errors.
        signatures: The signatures by name, at least one.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or `num_threads` is not an
            integer.
        ValueError: If `source` is not a whole TFLite file, if the file has no
            signature, if LiteRT cannot run an operator (see `check_scales`), or if
            `num_threads` is below 1.
        OSError: If the file cannot be read.
    """

    def __init__(
        self, source: str | Path | bytes, name: str | None = None, num_threads: int = 1
    ) -> None:
        check_integer(num_threads, "num_threads", 1)
        self._source = source
        self.name = name or ("content" if isinstance(source, bytes) else str(source))
        self.signatures = _open(source, self.name, num_threads)
        if not self.signatures:
            raise ArgumentError(
                f"'{self.name}' has no signatures; `export_tflite` writes them."
            )
        check_scales(self._mapped(), self.name)

    def _mapped(self) -> bytes | mmap.mmap:
        """The bytes of the file, without reading all of them into memory."""
        if isinstance(self._source, bytes):
            return self._source
        with Path(self._source).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @classmethod
    def of(
        cls, source: str | Path | bytes | TFLiteFile, name: str | None = None
    ) -> TFLiteFile:
        """Opens a file. Returns `source` if it is an open file."""
        return source if isinstance(source, TFLiteFile) else cls(source, name)

    @functools.cached_property
    def content(self) -> bytes:
        """The bytes of the file."""
        if isinstance(self._source, bytes):
            return self._source
        return Path(self._source).read_bytes()

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the content, hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @functools.cached_property
    def _attached(self) -> dict[str, bytes]:
        return attached(self._source)

    @functools.cached_property
    def described(self) -> dict[str, Any]:
        """The manifest that awn_keras wrote into the file; empty if there is none.

        Raises:
            ValueError: If the manifest is damaged; see `read_manifest`.
        """
        return parse_manifest(self._attached.get(MANIFEST, b"{}"), self.name)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in the file; empty if the file has no names."""
        text = self._attached.get(LABELS, b"").decode(errors="replace")
        return tuple(text.splitlines())

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in the order of the model; empty if not known."""
        return _input_names(self.described)

    def pixels_of(self, name: str) -> Pixels | None:
        """How pixels become an input; `None` if the file does not say so.

        Args:
            name: The input's name.
        """
        for entry in self.described.get("inputs", ()):
            if entry["name"] == name:
                return Pixels.parse(entry.get("pixels"))
        return None

    def scores_of(self, name: str) -> str | None:
        """The kind of an output: `"probabilities"`, `"logits"`, or `None` if not known.

        Args:
            name: The output's name.
        """
        for entry in self.described.get("outputs", ()):
            if entry["name"] == name:
                return entry.get("scores")
        return None

    @property
    def digests(self) -> tuple[str, ...]:
        """A tuple of `sha256` alone. A `TFLiteFolder` has a hash for each file."""
        return (self.sha256,)

    @functools.cached_property
    def by_width(self) -> dict[float, Signature]:
        """The signatures whose names have a width, by ascending width.

        Raises:
            ValueError: If no name has a width, or if one of the signatures cannot run
                single samples.
        """
        widths = {
            signature.width: signature
            for signature in self.signatures.values()
            if signature.width is not None
        }
        if not widths:
            raise ArgumentError(
                "`path` must have a signature for each width, named as "
                f"`width_050`. Received: a file with the signatures "
                f"{list(self.signatures)}. `awn_keras.deploy` exports such files."
            )
        for signature in widths.values():
            signature.check_takes_samples()
        return dict(sorted(widths.items()))

    def find_width(self, width: float) -> float:
        """Finds a width of the file. The widths in names of signatures are rounded.

        Args:
            width: The width.

        Returns:
            The width as it is a key of `by_width`.

        Raises:
            TypeError: If `width` is not a number.
            ValueError: If the file has no such width; see `by_width`.
        """
        return _find_width(width, self.by_width)

    def subgraph_of(self, signature: str) -> int:
        """The index of the subgraph that a signature runs.

        Raises:
            KeyError: If there is no such signature.
        """
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAs(self.content, 0)
        definitions = map(model.SignatureDefs, range(model.SignatureDefsLength()))
        indices = {
            definition.SignatureKey().decode(): definition.SubgraphIndex()
            for definition in definitions
        }
        return int(indices[signature])


def _input_names(described: Mapping[str, Any]) -> list[str]:
    """Names of the inputs in the order of the model, from a manifest."""
    return [entry["name"] for entry in described.get("inputs", ())]


def in_order(x: Any, signature: Signature, names: Sequence[str]) -> Any:
    """Makes a dict by name of a list of arrays for several inputs.

    Args:
        x: The user's samples for the inputs of a signature.
        signature: The signature.
        names: Names of the inputs in the order of the model; empty if the file does not
            have the order.

    Returns:
        A dict of arrays, if `x` is a list or tuple and the signature has several
        inputs. Otherwise `x`.

    Raises:
        ValueError: If the order is not known, if the number of arrays is not the number
            of inputs, or if the shape of an array does not fit its input.
    """
    several = len(signature.inputs) > 1 and isinstance(x, list | tuple)
    if not several:
        return x
    shapes = {tensor.name: tensor.sample_shape for tensor in signature.inputs}
    if set(names) != set(shapes):
        raise ArgumentError(
            f"`x` must be a dict with an array for each of the inputs {sorted(shapes)}:"
            f" the file does not say their order. Received: a {type(x).__name__}"
        )
    received = [np.shape(array) for array in x]
    wanted = [shapes[name] for name in names]
    if [shape[1:] for shape in received] != wanted:
        said = ", ".join(
            f"'{name}' ({', '.join(map(str, ('n', *shapes[name])))})" for name in names
        )
        raise ArgumentError(
            f"`x` must have an array for each input in this order: {said}. Received: "
            f"arrays of shape {received}. A dict by name is clear in any order."
        )
    return dict(zip(names, x, strict=True))


def _find_width(width: float, by_width: Mapping[float, Signature]) -> float:
    known = find_width(check_width(width), by_width)
    if known is None:
        raise ArgumentError(
            f"`width` must be one of the file's widths, {list(by_width)}. Run one of "
            "these widths, or export the file with the new width, too: "
            f"`export_tflite(model, path, widths=[..., {width}])`. Received: "
            f"width={width}"
        )
    return known


class TFLiteFolder:
    """The files that `export_tflite(..., single_file=False)` wrote, used like one file.

    Args:
        folder: The folder. Its `manifest.json` says which files belong together.
            Without a `manifest.json`, all `.tflite` files in the folder do.
        num_threads: See `TFLiteFile`.

    Attributes:
        name: The folder's path.
        files: The open files, narrowest first.
        by_width: A signature for each width, ascending.

    Raises:
        ValueError: If there is no `.tflite` file, or if two files have the same width;
            see `TFLiteFile`.
        OSError: If a file cannot be read.
    """

    def __init__(self, folder: str | Path, num_threads: int = 1) -> None:
        self.name = str(folder)
        self.files = [
            TFLiteFile(path, num_threads=num_threads) for path in _files(Path(folder))
        ]
        self.files.sort(key=lambda file: min(file.by_width))
        signatures = [item for file in self.files for item in file.by_width.items()]
        self.by_width = dict(sorted(signatures, key=lambda item: item[0]))
        if len(self.by_width) < len(signatures):
            raise ArgumentError(
                f"'{self.name}' has several files of one width: "
                f"{[file.name for file in self.files]}. Name one file, or a folder "
                "with the files of one export."
            )

    @property
    def described(self) -> dict[str, Any]:
        """The manifest of the widest file; see `TFLiteFile`."""
        return self.files[-1].described

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; see `TFLiteFile`."""
        return self.files[-1].labels

    @property
    def digests(self) -> tuple[str, ...]:
        """The hash of each file."""
        return tuple(file.sha256 for file in self.files)

    @property
    def input_names(self) -> list[str]:
        """See `TFLiteFile`."""
        return _input_names(self.described)

    def pixels_of(self, name: str) -> Pixels | None:
        """See `TFLiteFile`."""
        return self.files[-1].pixels_of(name)

    def scores_of(self, name: str) -> str | None:
        """See `TFLiteFile`."""
        return self.files[-1].scores_of(name)

    def find_width(self, width: float) -> float:
        """See `TFLiteFile`."""
        return _find_width(width, self.by_width)


def _files(folder: Path) -> list[Path]:
    """The files of the export in a folder."""
    manifest = folder / "manifest.json"
    if manifest.exists():
        records = read_manifest(manifest, ["widths"])["widths"]
        names = {record.get("file") for record in records}
        if None in names or not names:
            raise ArgumentError(
                f"'{manifest}' does not say which files belong together. Export again, "
                "or remove the manifest."
            )
        return [folder / str(name) for name in sorted(names)]
    there = sorted(folder.glob("*.tflite"))
    if not there:
        raise ArgumentError(f"`path` must have .tflite files. Received: '{folder}'")
    return there


def open_tflite(
    path: str | Path | bytes, num_threads: int = 1
) -> TFLiteFile | TFLiteFolder:
    """Opens a file, or a folder with a file for each width.

    Args:
        path: Path or content of the file, or path of the folder.
        num_threads: See `TFLiteFile`.

    Returns:
        The file or folder. A folder has the attributes of a file, except those that
        concern a single file.

    Raises:
        TypeError: See `TFLiteFile`.
        ValueError: See `TFLiteFile` and `TFLiteFolder`.
        OSError: See `TFLiteFile`.
    """
    if isinstance(path, str | Path) and Path(path).is_dir():
        check_integer(num_threads, "num_threads", 1)
        return TFLiteFolder(path, num_threads)
    return TFLiteFile(path, num_threads=num_threads)


def precision_of(path: Path) -> str | None:
    """The precision of a file, from the manifest in the file or beside the file.

    Args:
        path: Path of the file.

    Returns:
        One of `PRECISIONS`; `None` if no manifest has the file's hash.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the manifest in the file, or a manifest beside the file that has
            the file's hash, is damaged.
    """
    content = path.read_bytes()
    said = parse_manifest(attached(content).get(MANIFEST, b"{}"), str(path))
    of = said.get("flatbuffer", {}).get("sha256")
    if "precision" in said and of == _digest(flatbuffer_of(content)):
        return str(said["precision"])
    digest = _digest(content)
    for beside in (path.with_suffix(".json"), path.with_name("manifest.json")):
        with contextlib.suppress(OSError):
            # The manifest may belong to an earlier file of this name.
            if digest.encode() in beside.read_bytes():
                return str(read_manifest(beside, ["precision"])["precision"])
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _open(
    source: str | Path | bytes, name: str, num_threads: int
) -> dict[str, Signature]:
    check_installed("Running a TFLite file", "ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    if isinstance(source, bytes):
        where: dict[str, Any] = {"model_content": source}
    elif isinstance(source, str | Path):
        # For a file that cannot be read, LiteRT reports a wrong file type. `open`
        # raises a clear OSError.
        Path(source).open("rb").close()
        where = {"model_path": str(source)}
    else:
        raise ArgumentTypeError(
            "`path` must be the path of a TFLite file, or its content as bytes. "
            f"Received: path={source!r}"
        )
    try:
        interpreter = Interpreter(**where, num_threads=num_threads)
        return {
            key: Signature.of(key, interpreter.get_signature_runner(key))
            for key in interpreter.get_signature_list()
        }
    except (RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"'{name}' is not a TFLite file, or not a whole one. LiteRT says: {error}"
        ) from error


def run_tflite(
    source: bytes | TFLiteFile,
    inputs: Sequence[np.ndarray],
    signature: str | None = None,
) -> list[np.ndarray]:
    """Runs a TFLite file with LiteRT on the CPU, one sample at a time.

    Args:
        source: The open file, or its content. Its batch size is 1.
        inputs: For each input an array `(n, ...)`, in the order of names.
        signature: Name of the signature. `None` for the only signature.

    Returns:
        For each output an array `(n, ...)`, in the order of names. Quantized integers
        become float32.

    Raises:
        TypeError: If the dtype of an array does not fit.
        ValueError: If `source` is not a TFLite file, if the file has no such signature,
            or if the arrays do not fit the inputs.
    """
    known = TFLiteFile.of(source).signatures
    if signature is None:
        (signature,) = known
    if signature not in known:
        raise ArgumentError(
            f"`signature` must be one of the file's, {list(known)}. Received: "
            f"signature={signature!r}"
        )
    names = [tensor.name for tensor in known[signature].inputs]
    outputs = known[signature].run(dict(zip(names, inputs, strict=True)))
    return [outputs[name] for name in sorted(outputs)]
