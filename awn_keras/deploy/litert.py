"""TFLite files in LiteRT: what a file holds, and running it sample by sample."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.deploy.attachments import LABELS, MANIFEST, attached, flatbuffer_of
from awn_keras.deploy.checks import check_integer
from awn_keras.deploy.manifests import parse_manifest, read_manifest
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
        name: Its name in the signature.
        shape: Its shape with the batch axis; a size that is not fixed counts as 1.
        declared_shape: Its shape as the file declares it: -1 for what is not fixed.
        dtype: Its dtype.
        scale: What a step of quantized integers is worth; 0 if it is not quantized.
        zero_point: The quantized integer that means 0.
    """

    name: str
    shape: tuple[int, ...]
    declared_shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    zero_point: int

    @classmethod
    def of(cls, name: str, details: Mapping[str, Any]) -> Tensor:
        """From what LiteRT tells of it."""
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
            ValueError: If the batch size is not 1, or the rest of the shape not fixed.
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
            TypeError: If their dtype does not fit.
            ValueError: If their shape does not fit, or there is NaN to quantize.
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
        """Turns quantized integers `(n, ...)` into float32, and keeps the rest."""
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
    """A signature of an open file: what it takes and gives, and what runs it.

    Args:
        name: Its name.
        inputs: Its inputs, in the order of names.
        outputs: Its outputs, likewise.
        runner: LiteRT's runner. It is for one thread at a time, with those of all
            signatures of the file.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    runner: Callable[..., Sample]

    @classmethod
    def of(cls, name: str, runner: Any) -> Signature:
        """From LiteRT's runner."""
        inputs, outputs = (
            tuple(Tensor.of(*item) for item in sorted(details.items()))
            for details in (runner.get_input_details(), runner.get_output_details())
        )
        return cls(name, inputs, outputs, runner)

    @property
    def width(self) -> float | None:
        """The width that its name tells, or `None`."""
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
            An array `(n, ...)` for each input, of its dtype.

        Raises:
            TypeError: If a dtype does not fit.
            ValueError: If names or shapes do not fit, or there is NaN to quantize.
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
        """Computes the outputs of one sample, all in the dtypes of the file.

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
        """Computes the outputs of samples, one by one.

        Args:
            x: Samples `(n, ...)`; if there are several inputs, a dict of such arrays.
            invoke: What computes one sample. `None` for the signature's own.

        Returns:
            An array `(n, ...)` for each output, float32 in place of quantized integers.

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
        source: The file's path, or its content. A file is mapped into memory: it must
            not be written into while it is in use; replacing it is safe.
        name: What to call it in an error. `None` for its path.
        num_threads: Threads that LiteRT's CPU kernels use, at least 1.

    Attributes:
        name: See above.
        signatures: Its signatures by name, at least one.

    Raises:
        TypeError: If `source` is no path or bytes, or `num_threads` not an integer.
        ValueError: If it is not a whole TFLite file, has no signature, or `num_threads`
            is below 1.
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

    @classmethod
    def of(
        cls, source: str | Path | bytes | TFLiteFile, name: str | None = None
    ) -> TFLiteFile:
        """Opens a file, unless it is open."""
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
        """What awn_keras wrote into the file, its manifest; empty if nothing.

        Raises:
            ValueError: If it is damaged; see `read_manifest`.
        """
        return parse_manifest(self._attached.get(MANIFEST, b"{}"), self.name)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, as the file has them; empty if it has none."""
        text = self._attached.get(LABELS, b"").decode(errors="replace")
        return tuple(text.splitlines())

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in the order of the model's; empty if not known."""
        return _input_names(self.described)

    def pixels_of(self, name: str) -> Pixels | None:
        """How pixels become an input, as the file says; `None` if it does not.

        Args:
            name: The input's name.
        """
        for entry in self.described.get("inputs", ()):
            if entry["name"] == name:
                return Pixels.parse(entry.get("pixels"))
        return None

    def scores_of(self, name: str) -> str | None:
        """What the file says of an output: `"probabilities"`, `"logits"` or nothing.

        Args:
            name: The output's name.
        """
        for entry in self.described.get("outputs", ()):
            if entry["name"] == name:
                return entry.get("scores")
        return None

    @property
    def digests(self) -> tuple[str, ...]:
        """`sha256` alone, as a `TFLiteFolder` has those of its files."""
        return (self.sha256,)

    @functools.cached_property
    def by_width(self) -> dict[float, Signature]:
        """The signatures that are called after widths, ascending.

        Raises:
            ValueError: If there is none, or one of them cannot be run sample by sample.
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
        """Finds one of the file's widths, up to the rounding in its name.

        Args:
            width: A width.

        Returns:
            The key of it in `by_width`.

        Raises:
            TypeError: If `width` is not a number.
            ValueError: If the file has no such width; see `by_width`.
        """
        return _find_width(width, self.by_width)

    def subgraph_of(self, signature: str) -> int:
        """Index of the subgraph that a signature runs.

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
    """Names of the inputs in the order of the model's, as a file says."""
    return [entry["name"] for entry in described.get("inputs", ())]


def in_order(x: Any, signature: Signature, names: Sequence[str]) -> Any:
    """Gives the arrays of several inputs, in order, their names.

    Args:
        x: What a user gives for a signature's inputs.
        signature: The signature.
        names: Names of its inputs in the order of the model's; empty if the file does
            not say it.

    Returns:
        A dict of arrays, if `x` is a list or tuple and there are several inputs. Else
        `x`.

    Raises:
        ValueError: If the order is not known, there is not an array for each input, or
            the arrays have the shapes of others.
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
            "these, or export the file with this one, too: `export_tflite(model, path, "
            f"widths=[..., {width}])`. Received: width={width}"
        )
    return known


class TFLiteFolder:
    """The files that `export_tflite(..., single_file=False)` wrote, as if one.

    Args:
        folder: The folder. Its `manifest.json` says which files belong together;
            without one, all of its `.tflite` files do.
        num_threads: See `TFLiteFile`.

    Attributes:
        name: The folder's path.
        files: The files, open, narrowest first.
        by_width: A signature for each width, ascending.

    Raises:
        ValueError: If there is no such file, or two have the same width; see
            `TFLiteFile`.
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
        """What the widest file says; see `TFLiteFile`."""
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
                f"'{manifest}' does not say which files belong together: export anew, "
                "or remove it."
            )
        return [folder / str(name) for name in sorted(names)]
    there = sorted(folder.glob("*.tflite"))
    if not there:
        raise ArgumentError(f"`path` must have .tflite files. Received: '{folder}'")
    return there


def open_tflite(
    path: str | Path | bytes, num_threads: int = 1
) -> TFLiteFile | TFLiteFolder:
    """Opens a file, or a folder of files for a width each.

    Args:
        path: The file, its content, or the folder.
        num_threads: See `TFLiteFile`.

    Returns:
        It; a folder has the same attributes but for those of one file.

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
    """The precision of a file, as it says, or the manifest beside it.

    Args:
        path: The file.

    Returns:
        One of `PRECISIONS`; `None` if there is no manifest of this very file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a manifest of this very file is damaged.
    """
    content = path.read_bytes()
    said = parse_manifest(attached(content).get(MANIFEST, b"{}"), str(path))
    of = said.get("flatbuffer", {}).get("sha256")
    if "precision" in said and of == _digest(flatbuffer_of(content)):
        return str(said["precision"])
    digest = _digest(content)
    for beside in (path.with_suffix(".json"), path.with_name("manifest.json")):
        with contextlib.suppress(OSError):
            # Another file of this name says nothing of this one.
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
        # LiteRT reports what cannot be read as if it were another kind of file.
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
    """Runs a TFLite file with LiteRT on the CPU, sample by sample.

    Args:
        source: The file, open, or its content; its batch size is 1.
        inputs: For each of its inputs an array `(n, ...)`, in the order of names.
        signature: Name of the signature. `None` for the only one.

    Returns:
        For each output an array `(n, ...)`, in the order of names; float32 in place of
        quantized integers.

    Raises:
        ValueError: If it is no TFLite file, has no such signature, or the inputs are
            not those of the signature.
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
