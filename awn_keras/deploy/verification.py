"""Does a TFLite file compute what the model does? Runs both and compares."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.deploy.converter import ExportError, custom_operators, input_name
from awn_keras.deploy.gpu import GPUError, gpu_is_available, run_on_gpu
from awn_keras.deploy.interpreter import signature_width
from awn_keras.multi_width import MultiWidthModel
from awn_keras.widths import width_label

#: Largest difference allowed at each precision, relative to the largest output: what
#: rounding can do, not a fault. How many answers change is `Verified.agreement`.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "dynamic_range": 0.1, "int8": 0.3}


def default_tolerance(model: MultiWidthModel, precision: str) -> float:
    """The tolerance for a model's file: 2e-2 at least if it computes in half precision.

    Args:
        model: The model.
        precision: One of `PRECISIONS`.
    """
    half = any("16" in layer.compute_dtype for layer in model.layers)
    return max(TOLERANCES[precision], 2e-2 if half else 0)


@dataclass(frozen=True)
class Verified:
    """A width of a file, compared with the model.

    Args:
        width: The width.
        signature: The file's signature for it.
        largest_error: Largest absolute difference of outputs.
        agreement: Part of the samples for which file and model have the same largest
            output, in [0, 1]; `None` if the first output is not of shape
            `(batch, classes)`.
        gpu_error: Largest absolute difference of what LiteRT's GPU engine computes in
            float32, for the first 4 samples; `None` if no GPU is found here, or its
            engine cannot run the file.
    """

    width: float
    signature: str
    largest_error: float
    agreement: float | None
    gpu_error: float | None = None


def verify_tflite(
    path: str | Path,
    model: MultiWidthModel,
    *,
    samples: Any = None,
    tolerance: float = TOLERANCES["float32"],
) -> list[Verified]:
    """Runs all widths of a TFLite file with LiteRT and compares them with the model.

    They run on the CPU, and on LiteRT's GPU engine, too, where `gpu_is_available()`.

    Args:
        path: The file, as `export_tflite` writes it.
        model: The model that it was made from.
        samples: Inputs to compare on, `(n, ...)` as for `model.predict`: real ones are
            best. `None` for 4 random ones, standard normal.
        tolerance: Largest difference allowed, relative to the largest output if that
            exceeds 1. `TOLERANCES` has the exporter's for each precision.

    Returns:
        One record for each signature, widths ascending.

    Raises:
        ValueError: If it is not a TFLite file, has a signature that is not a width of
            the model, or other inputs or outputs.
        ExportError: If it has operators that are not builtin, or an output differs by
            more than `tolerance` allows.
        OSError: If it cannot be read.
    """
    content = Path(path).read_bytes()
    names = signatures(content, str(path))
    labels = {f"width_{width_label(w)}": w for w in model.distinct_widths}
    widths = {name: labels.get(name) or _parse(name, path) for name in names}
    outside = [w for w in widths.values() if not model.min_width <= w <= 1]
    if outside:
        raise ValueError(
            f"'{path}' has width {outside[0]}, outside the model's [{model.min_width}, "
            "1]: it was made from another model."
        )
    foreign = custom_operators(content)
    if foreign:
        raise ExportError(
            f"'{path}' has operators that stock TFLite does not: {', '.join(foreign)}."
        )
    inputs = check_samples(model, samples, "samples")
    return [
        compare(model, width, content, name, inputs, tolerance)
        for name, width in sorted(widths.items(), key=lambda item: item[1])
    ]


def signatures(content: bytes, file: str) -> dict[str, Any]:
    """Inputs and outputs of each signature of a TFLite file.

    Args:
        content: The file's content.
        file: What to call it in an error.

    Returns:
        For each signature `(inputs, outputs)`: tuples `(name, shape, dtype)` in the
        order of names.

    Raises:
        ValueError: If it is not a TFLite file, or has no signature.
    """
    from ai_edge_litert.interpreter import Interpreter

    if content[4:8] != b"TFL3":
        raise ValueError(f"'{file}' is not a TFLite file.")
    try:
        interpreter = Interpreter(model_content=content)
        found = {}
        for name in interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(name)
            found[name] = tuple(
                tuple(
                    (key, tuple(int(n) for n in one["shape"]), np.dtype(one["dtype"]))
                    for key, one in sorted(details.items())
                )
                for details in (
                    runner.get_input_details(),
                    runner.get_output_details(),
                )
            )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"'{file}' is not a TFLite file: {error}") from error
    if not found:
        raise ValueError(f"'{file}' has no signatures; `export_tflite` writes them.")
    return found


def _parse(signature: str, path: Any) -> float:
    width = signature_width(signature)
    if width is None:
        raise ValueError(
            f"Signatures of '{path}' must be called after widths, as in 'width_050'. "
            f"Received: '{signature}'"
        )
    return width


def run_tflite(
    content: bytes, inputs: Sequence[np.ndarray], signature: str | None = None
) -> list[np.ndarray]:
    """Runs a TFLite file with LiteRT, sample by sample.

    Args:
        content: The file's content; its batch size is 1.
        inputs: For each of its inputs an array `(n, ...)`, in the order of names.
        signature: Name of the signature. `None` for the only one.

    Returns:
        For each output an array `(n, ...)`, in the order of names.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    runner = interpreter.get_signature_runner(signature)
    names = sorted(runner.get_input_details())
    rows = [
        runner(**{name: x[i : i + 1] for name, x in zip(names, inputs, strict=True)})
        for i in range(len(inputs[0]))
    ]
    return [np.concatenate([row[name] for row in rows]) for name in sorted(rows[0])]


def check_samples(
    model: MultiWidthModel, samples: Any, argument: str
) -> list[np.ndarray]:
    """Checks sample inputs against the model's.

    Args:
        model: The model.
        samples: Arrays `(n, ...)` as for `model.predict`, or `None` for 4 random ones.
        argument: What to call them in an error.

    Returns:
        For each input an array of its dtype, in the model's order.

    Raises:
        ValueError: If they do not fit, or there is none.
    """
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
            f"`{argument}` must be at least one sample for inputs of shape "
            f"{[tuple(x.shape) for x in model.inputs]}. Received: arrays of shape "
            f"{shapes}"
        )
    return [
        np.asarray(x, keras.backend.standardize_dtype(spec.dtype))
        for x, spec in zip(flat, model.inputs, strict=True)
    ]


def compare(
    model: MultiWidthModel,
    width: float,
    content: bytes,
    signature: str,
    inputs: list[np.ndarray],
    tolerance: float,
) -> Verified:
    """Compares a signature of a file with the model at a width.

    Args:
        model: The model; it is left at its width.
        width: The width.
        content: The file's content.
        signature: The signature.
        inputs: What to run both on, as `check_samples` returns it.
        tolerance: See `verify_tflite`.

    Returns:
        How well they agree.

    Raises:
        ValueError: If the signature has other inputs or outputs than the model.
        ExportError: If an output differs by more than `tolerance` allows.
    """
    before = model.width
    try:
        model.width = width
        structure = keras.tree.pack_sequence_as(model.input, inputs)
        outputs = keras.tree.flatten(model(structure, training=False))
    finally:
        model.width = before
    given, gives = signatures(content, model.name)[signature]
    by_name = dict(zip(map(input_name, model.inputs), inputs, strict=True))
    named = {
        name: keras.ops.convert_to_numpy(value).astype("float32")
        for name, value in zip(model.output_names, outputs, strict=True)
    }
    has = [(name, shape[1:]) for name, shape, _ in (*given, *gives)]
    must = [(name, by_name[name].shape[1:]) for name in sorted(by_name)]
    must += [(name, named[name].shape[1:]) for name in sorted(named)]
    if has != must:
        raise ValueError(
            f"Signature '{signature}' must have the inputs and outputs of model "
            f"'{model.name}', {must}. Received: {has}"
        )
    ordered = [by_name[name] for name in sorted(by_name)]
    wanted = [named[name] for name in sorted(named)]
    where = f"'{model.name}' at width {width}"
    got = run_tflite(content, ordered, signature)
    largest = _largest_error(got, wanted, tolerance, where)
    agreement = None
    index = sorted(named).index(model.output_names[0])
    if wanted[index].ndim == 2 and wanted[index].shape[1] > 1:
        answers, expected = (one[index].argmax(-1) for one in (got, wanted))
        agreement = float(np.mean(answers == expected))
    gpu_error = None
    if gpu_is_available():
        few = [x[:4] for x in ordered]
        with contextlib.suppress(GPUError):  # it says that it cannot run the file
            got = run_on_gpu(content, few, signature).outputs
            few = [value[:4] for value in wanted]
            gpu_error = _largest_error(got, few, tolerance, f"{where}, on the GPU,")
    return Verified(width, signature, largest, agreement, gpu_error)


def _largest_error(
    got: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    tolerance: float,
    where: str,
) -> float:
    largest = 0.0
    for array, value in zip(got, wanted, strict=True):
        error = float(np.abs(array - value).max())
        # Written so that NaN fails too.
        if not error <= tolerance * max(1.0, float(np.abs(value).max())):
            raise ExportError(
                f"The TFLite file of {where} differs from the model by {error:.2g}, "
                f"more than tolerance={tolerance:g} allows."
            )
        largest = max(largest, error)
    return largest
