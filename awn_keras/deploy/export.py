"""TFLite files of chosen widths, each run and compared before it is kept."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.environment import environment
from awn_keras.evaluation import count_macs, count_parameters
from awn_keras.files import write_whole
from awn_keras.multi_width import MultiWidthModel
from awn_keras.slimming import slim
from awn_keras.widths import check_widths, width_label

MANIFEST = "manifest.json"


class ExportError(RuntimeError):
    """A converted file has foreign operators or does not compute what it should."""


@dataclass(frozen=True)
class ExportedWidth:
    """One exported file.

    Args:
        width: Its width.
        file: Its name in the export's directory.
        signature: Name of the signature to run.
        bytes: Its size.
        sha256: Its hash, hexadecimal.
        macs: Multiply-accumulate operations for one sample; see `count_macs`.
        parameters: Number of weights; see `count_parameters`.
        largest_error: Largest absolute difference from the model's outputs, over the
            samples that were run.
    """

    width: float
    file: str
    signature: str
    bytes: int
    sha256: str
    macs: int
    parameters: int
    largest_error: float


def export_tflite(
    model: MultiWidthModel,
    directory: str | Path,
    *,
    widths: Sequence[float] | None = None,
    samples: Any = None,
    tolerance: float | None = None,
) -> list[ExportedWidth]:
    """Writes one float32 TFLite file for each width, and a manifest.

    A file has the batch size 1, one signature named after its width (`width_050`),
    and builtin operators only. Before any file is written, each is run with LiteRT on
    sample inputs and compared with the model at its width. `manifest.json` comes last:
    if it is there, every file it names is whole.

    Args:
        model: The model; it is left as it is.
        directory: Where to write; made if missing. Files are called
            `<model name>_width_050.tflite`.
        widths: Widths in [min_width, 1]. `None` for four, evenly spaced.
        samples: Inputs to compare on, `(n, ...)` as for `model.predict`: a few real
            ones are best. `None` for 4 random ones, standard normal.
        tolerance: Largest difference allowed, relative to the largest output if that
            exceeds 1. `None` for 1e-4, or 2e-2 if the model computes in half
            precision.

    Returns:
        What was written, in the order of widths.

    Raises:
        TypeError: If `model` has one width only.
        ValueError: If there is no width, one is out of range, `samples` do not fit the
            model's inputs, or these have unknown rows or cols.
        ExportError: If a file would need operators that are not builtin, or computes
            something else than the model. No file is written then.
        OSError: If the directory cannot be written.
    """
    if not isinstance(model, MultiWidthModel):
        raise TypeError(
            "`model` must be an `AnyWidthModel`, or one of `awn_keras.baselines`. "
            "Received: "
            f"'{getattr(model, 'name', model)}' ({type(model).__name__})"
        )
    if widths is None:
        widths = np.linspace(model.min_width, 1.0, 4).round(4).tolist()
    widths = sorted(set(check_widths(widths, model.min_width)))
    if not widths or len(set(map(width_label, widths))) < len(widths):
        raise ValueError(
            "`widths` must not be empty, and differ by a millionth at least, for their "
            f"names. Received: widths={widths}"
        )
    _check_shapes(model)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    inputs = _samples(model, samples)
    if tolerance is None:
        half = any("16" in layer.compute_dtype for layer in model.layers)
        tolerance = 2e-2 if half else 1e-4

    contents: dict[str, bytes] = {}
    exported = []
    for width in widths:
        label = f"width_{width_label(width)}"
        content = convert(slim(model, width, dtype="float32"), label)
        error = _compare(model, width, content, inputs, tolerance)
        file = f"{model.name}_{label}.tflite"
        contents[file] = content
        exported.append(
            ExportedWidth(
                width=width,
                file=file,
                signature=label,
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                macs=count_macs(model, width),
                parameters=count_parameters(model, width),
                largest_error=error,
            )
        )
    # An older manifest must not speak of the new files.
    (directory / MANIFEST).unlink(missing_ok=True)
    for file, content in contents.items():
        write_whole(directory / file, content)
    manifest = {
        "model": model.name,
        "min_width": model.min_width,
        "precision": "float32",
        "inputs": [_describe(x) for x in model.inputs],
        "outputs": [_describe(x) for x in model.outputs],
        "widths": [asdict(one) for one in exported],
        "environment": environment(),
    }
    write_whole(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return exported


def _check_shapes(model: MultiWidthModel) -> None:
    unknown = [x for x in model.inputs if None in x.shape[1:]]
    if unknown:
        raise ValueError(
            "TFLite files have fixed shapes: give the `Input` a full one. Received: "
            f"input '{unknown[0].name}' of shape {tuple(unknown[0].shape)}"
        )


def convert(model: keras.Model, signature: str) -> bytes:
    """Converts a plain functional Keras model to TFLite, float32, batch size 1.

    Args:
        model: A model of stock layers.
        signature: Name of the signature; its inputs and outputs have the names of the
            model's.

    Returns:
        The file's content.

    Raises:
        ExportError: If it needs operators that are not builtin.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    specs = [
        keras.InputSpec(shape=(1, *x.shape[1:]), dtype=x.dtype, name=_name(x))
        for x in model.inputs
    ]

    def serve(*inputs: Any) -> dict[str, Any]:
        structure = keras.tree.pack_sequence_as(model.input, list(inputs))
        outputs = keras.tree.flatten(model(structure, training=False))
        return dict(zip(model.output_names, outputs, strict=True))

    # By way of a SavedModel: the converter folds BatchNormalization into the kernels
    # only when it finds the weights there.
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(signature, serve, specs)
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=[signature]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except ConverterError as error:
            found = re.findall(r"^(?:Custom|Flex) ops: (.*)$", str(error), re.MULTILINE)
            raise ExportError(_not_builtin(model, found or [str(error)])) from error
    foreign = custom_operators(content)
    if foreign:
        raise ExportError(_not_builtin(model, foreign))
    return content


def _not_builtin(model: keras.Model, operators: list[str]) -> str:
    return (
        f"Model '{model.name}' needs operators that stock TFLite does not have: "
        f"{', '.join(operators)}. Replace the layers that use them."
    )


def custom_operators(content: bytes) -> list[str]:
    """Lists the operators of a TFLite file that are not builtin.

    Args:
        content: The file's content.

    Returns:
        Names of custom operators; Flex ones (TensorFlow's own) begin with `Flex`.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    return [
        (code.CustomCode() or b"?").decode()
        for code in codes
        if code.BuiltinCode() == schema.BuiltinOperator.CUSTOM
    ]


def run_tflite(content: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Runs a one-signature TFLite file with LiteRT, sample by sample.

    Args:
        content: The file's content; its batch size is 1.
        inputs: For each of its inputs an array `(n, ...)`, in the order of names that
            the signature lists.

    Returns:
        For each output an array `(n, ...)`, in the order of names.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    names = runner.get_input_details()
    rows = [
        runner(**{name: x[i : i + 1] for name, x in zip(names, inputs, strict=True)})
        for i in range(len(inputs[0]))
    ]
    return [np.concatenate([row[name] for row in rows]) for name in sorted(rows[0])]


def _samples(model: MultiWidthModel, samples: Any) -> list[np.ndarray]:
    """Checks sample inputs against the model's, flat and of its dtypes."""
    if samples is None:
        rng = np.random.default_rng(0)
        flat = [rng.normal(size=(4, *x.shape[1:])) for x in model.inputs]
    else:
        flat = keras.tree.flatten(samples)
    shapes = [np.shape(x) for x in flat]
    fit = len(flat) == len(model.inputs) and all(
        tuple(x.shape[1:]) == tuple(shape[1:])
        for shape, x in zip(shapes, model.inputs, strict=True)
    )
    if not fit or len({shape[0] for shape in shapes}) != 1 or shapes[0][0] == 0:
        raise ValueError(
            "`samples` must be at least one sample for inputs of shape "
            f"{[tuple(x.shape) for x in model.inputs]}. Received: arrays of shape "
            f"{shapes}"
        )
    return [
        np.asarray(x, keras.backend.standardize_dtype(spec.dtype))
        for x, spec in zip(flat, model.inputs, strict=True)
    ]


def _compare(
    model: MultiWidthModel,
    width: float,
    content: bytes,
    inputs: list[np.ndarray],
    tolerance: float,
) -> float:
    """Returns the largest difference between file and model, if it may be kept."""
    before = model.width
    try:
        model.width = width
        structure = keras.tree.pack_sequence_as(model.input, inputs)
        wanted = keras.tree.flatten(model(structure, training=False))
    finally:
        model.width = before
    by_name = dict(zip(map(_name, model.inputs), inputs, strict=True))
    got = run_tflite(content, [by_name[name] for name in sorted(by_name)])
    named = dict(zip(model.output_names, wanted, strict=True))
    largest = 0.0
    for array, name in zip(got, sorted(named), strict=True):
        expected = keras.ops.convert_to_numpy(named[name]).astype("float32")
        error = float(np.abs(array - expected).max())
        # Written so that NaN fails too.
        if not error <= tolerance * max(1.0, float(np.abs(expected).max())):
            raise ExportError(
                f"The TFLite file of '{model.name}' at width {width} differs from the "
                f"model by {error:.2g} in output '{name}', more than tolerance="
                f"{tolerance:g} allows. No file was written."
            )
        largest = max(largest, error)
    return largest


def _name(x: Any) -> str:
    """Name of an input or output: that of the layer it comes from."""
    return x._keras_history.operation.name


def _describe(x: Any) -> dict[str, Any]:
    """How a file's signature has it: with batch size 1."""
    return {"name": _name(x), "shape": [1, *x.shape[1:]], "dtype": "float32"}
