"""Does a TFLite file compute what the model does? Runs both and compares."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.deploy.converter import ExportError, custom_operators, input_name
from awn_keras.deploy.gpu import GPUError, gpu_is_available, run_on_gpu
from awn_keras.deploy.signatures import (
    Refinement,
    signature_width,
    signatures,
)
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


def precision_of(path: Path) -> str | None:
    """The precision of a file, as the manifest beside it says.

    Args:
        path: The file.

    Returns:
        One of `PRECISIONS`; `None` if there is no manifest of this very file.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for manifest in (path.with_suffix(".json"), path.with_name("manifest.json")):
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
            if digest in [one["sha256"] for one in found["widths"]]:
                return str(found["precision"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


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
    tolerance: float | None = None,
) -> list[Verified]:
    """Runs all widths of a TFLite file with LiteRT and compares them with the model.

    They run on the CPU, and on LiteRT's GPU engine, too, where `gpu_is_available()`. A
    signature that refines runs after the one that keeps what it needs.

    Args:
        path: The file, as `export_tflite` writes it.
        model: The model that it was made from.
        samples: Inputs to compare on, `(n, ...)` as for `model.predict`: real ones are
            best. `None` for 4 random ones, standard normal.
        tolerance: Largest difference allowed, relative to the largest output if that
            exceeds 1. `None` for the exporter's at the file's precision, which the
            manifest beside it tells; without one, that of float32.

    Returns:
        One record for each signature, widths ascending.

    Raises:
        TypeError: If `model` has one width only, or is none.
        ValueError: If it is not a TFLite file, has a signature that is not a width of
            the model, or other inputs or outputs.
        ExportError: If it has operators that are not builtin, or an output differs by
            more than `tolerance` allows.
        OSError: If it cannot be read.
    """
    if not isinstance(model, MultiWidthModel):
        raise TypeError(
            "`model` must be an `AnyWidthModel`, or one of `awn_keras.baselines`: "
            f"`verify_tflite(path, model)`. Received: {type(model).__name__}"
        )
    content = Path(path).read_bytes()
    exact = {width_label(width): width for width in model.distinct_widths}
    found = []
    names = signatures(content, str(path))
    for name in names:
        width = _width_of(name, names, path)
        found.append((exact.get(width_label(width), width), name))
    outside = [width for width, _ in found if not model.min_width <= width <= 1]
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
    if tolerance is None:
        precision = precision_of(Path(path)) or "float32"
        tolerance = default_tolerance(model, precision)
    return [
        compare(model, width, content, name, inputs, tolerance)
        for width, name in sorted(found)
    ]


def _width_of(signature: str, names: Collection[str], path: Any) -> float:
    """The width at which a signature answers."""
    pair = Refinement.parse(signature)
    if pair is not None and pair.is_in(names):
        return pair.narrow if signature == pair.keep else pair.wide
    width = signature_width(signature)
    if width is None:
        raise ValueError(
            f"Signatures of '{path}' must be called after widths, as 'width_050', or "
            "belong together, as 'keep_025_to_100' and 'refine_025_to_100'. Received: "
            f"'{signature}'"
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
        np.asarray(
            keras.ops.convert_to_numpy(x) if keras.ops.is_tensor(x) else x,
            keras.backend.standardize_dtype(spec.dtype),
        )
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
        signature: The signature. One that refines runs after the one that keeps.
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
    by_name = dict(zip(map(input_name, model.inputs), inputs, strict=True))
    named = {
        name: keras.ops.convert_to_numpy(value).astype("float32")
        for name, value in zip(model.output_names, outputs, strict=True)
    }
    _check_contract(content, signature, by_name, named, model.name)
    where = f"'{model.name}' at width {width}"
    got = _run(content, by_name, signature)
    largest = _largest_error(got, named, tolerance, where)
    agreement = None
    first = model.output_names[0]
    if named[first].ndim == 2 and named[first].shape[1] > 1:
        answers, expected = (one[first].argmax(-1) for one in (got, named))
        agreement = float(np.mean(answers == expected))
    gpu_error = None
    if gpu_is_available():
        few, wanted = (
            {name: value[:4] for name, value in one.items()} for one in (by_name, named)
        )
        with contextlib.suppress(GPUError):  # it says that it cannot run the file
            got = _run(content, few, signature, on_gpu=True)
            gpu_error = _largest_error(got, wanted, tolerance, f"{where}, on the GPU,")
    return Verified(width, signature, largest, agreement, gpu_error)


def _check_contract(
    content: bytes,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    model_name: str,
) -> None:
    """A signature takes and gives what the model does; see `compare`."""
    given, gives = signatures(content, model_name)[signature]
    told = has = [(name, shape[1:]) for name, shape, _ in (*given, *gives)]
    must = [(name, inputs[name].shape[1:]) for name in sorted(inputs)]
    if Refinement.parse(signature) is not None:
        # Activations come besides, and an input may not be needed again.
        names = {name for name, _ in has}
        has = [one for one in has if one[0] in {*inputs, *outputs}]
        must = [one for one in must if one[0] in names]
    must += [(name, outputs[name].shape[1:]) for name in sorted(outputs)]
    if has != must:
        raise ValueError(
            f"Signature '{signature}' must have the inputs and outputs of model "
            f"'{model_name}', {must}. Received: {told}. Is it of another model?"
        )


def _run(
    content: bytes,
    inputs: Mapping[str, np.ndarray],
    signature: str,
    on_gpu: bool = False,
) -> dict[str, np.ndarray]:
    """Runs a signature by names; before one that refines, the one that keeps."""
    pair = Refinement.parse(signature)
    if pair is not None and signature == pair.refine:
        inputs = {**inputs, **_run(content, inputs, pair.keep, on_gpu)}
    given, gives = signatures(content, "content")[signature]
    ordered = [inputs[name] for name, _, _ in given]
    if on_gpu:
        values = run_on_gpu(content, ordered, signature).outputs
    else:
        values = run_tflite(content, ordered, signature)
    return dict(zip((name for name, _, _ in gives), values, strict=True))


def _largest_error(
    got: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    tolerance: float,
    where: str,
) -> float:
    largest = 0.0
    for name, value in wanted.items():
        error = float(np.abs(got[name] - value).max())
        # Written so that NaN fails too.
        if not error <= tolerance * max(1.0, float(np.abs(value).max())):
            real = (
                " Compare on real inputs (`samples`, `--dataset`): integers reach as "
                "far as those of the representative set."
            )
            raise ExportError(
                f"The TFLite file of {where} differs from the model by {error:.2g}, "
                f"more than tolerance={tolerance:g} allows."
                + real
                * (tolerance >= TOLERANCES["int8"])
            )
        largest = max(largest, error)
    return largest
