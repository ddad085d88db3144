"""Verification: runs a TFLite file and its model, and compares the outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.data.inputs import random_inputs
from awn_keras.data.samples import collect_samples, fitting_arrays
from awn_keras.deploy.converter import custom_operators, input_name
from awn_keras.deploy.gpu import GPUError, gpu_is_available, run_on_gpu
from awn_keras.deploy.interface import Interface, image_inputs, takes_pixels
from awn_keras.deploy.litert import Signature, TFLiteFile, precision_of
from awn_keras.deploy.progress import Progress
from awn_keras.deploy.signatures import Refinement
from awn_keras.deploy.sizes import at_shape_of
from awn_keras.errors import ArgumentError, ArgumentTypeError, ExportError
from awn_keras.multi_width import MultiWidthModel
from awn_keras.training.arrays import samples_not_finite
from awn_keras.widths import find_width

#: Largest allowed difference at each precision, relative to the largest output. The
#: limits allow rounding errors, but not a wrong file. `Verified.agreement` shows how
#: often the class changes.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "dynamic_range": 0.1, "int8": 0.3}


def default_tolerance(model: MultiWidthModel, precision: str) -> float:
    """Returns the default tolerance for a model's file.

    It is at least 2e-2 if the model computes in half precision.

    Args:
        model: The model.
        precision: One of `PRECISIONS`.
    """
    half = any("16" in layer.compute_dtype for layer in model.layers)
    return max(TOLERANCES[precision], 2e-2 if half else 0)


@dataclass(frozen=True)
class Verified:
    """Result of the comparison of one width of a file with the model.

    Args:
        width: The width.
        signature: The file's signature for the width.
        largest_error: Largest absolute difference of outputs; 0 if all outputs are
            integers.
        agreement: Share in [0, 1] of the samples for which file and model have the same
            largest output. If the first output has integers, such as labels, the share
            of equal integers. `None` if the first output has neither integers nor the
            shape `(batch, classes)`.
        gpu_error: Largest absolute difference of LiteRT's GPU engine in float32, for
            the first 4 samples. `None` if there is no GPU here, or if the engine cannot
            run the file.
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
    verbose: int | str = "auto",
) -> list[Verified]:
    """Runs all widths of a TFLite file with LiteRT and compares them with the model.

    If the file takes pixels or gives probabilities and the model does not (see
    `export_tflite`), the model's inputs and outputs are converted before the
    comparison. The file runs on the CPU and, if there is one, on LiteRT's GPU engine. A
    `refine` signature runs after its `keep` signature.

    Args:
        path: A file of `export_tflite`.
        model: The model from which the file was exported.
        samples: Inputs for the comparison, `(n, ...)` as for `model.predict`. Real
            inputs are best. Of a `tf.data.Dataset`, a `PyDataset`, an iterable of
            samples or batches, or a folder of photos, at most 300 samples are used.
            `None` takes 4 random samples, standard normal at the first kernel.
        tolerance: Largest allowed difference of outputs, relative to the largest output
            if that exceeds 1. For integer outputs, such as labels, the largest share
            that may differ. `None` takes the default for the file's precision, which is
            stored in the file and in the manifest beside it. If neither is there, the
            precision is taken as float32.
        verbose: `1` shows a line for each width, `0` shows nothing. `"auto"` shows the
            lines in a terminal or a notebook, and elsewhere if the verification takes
            more than 10 seconds.

    Returns:
        One record for each signature, widths ascending.

    Raises:
        TypeError: If `model` has one width only, or is not a model.
        ValueError: If `path` is not a TFLite file, if a signature is not a width of the
            model, or if inputs, outputs or samples do not fit.
        ExportError: If the file has operators that are not builtin, if LiteRT cannot
            run the file, or if an output differs by more than `tolerance`.
        OSError: If the file cannot be read.
    """
    progress = Progress(verbose)
    if not isinstance(model, MultiWidthModel):
        raise ArgumentTypeError(
            "`model` must be an `AnyWidthModel` or a model of `awn_keras.baselines`, "
            f"as in `verify_tflite(path, model)`. Received: {type(model).__name__}"
        )
    file = TFLiteFile(path)
    by_width = sorted(
        (_width_of(signature, file, model), name)
        for name, signature in file.signatures.items()
    )
    outside = [width for width, _ in by_width if not model.min_width <= width <= 1]
    if outside:
        raise ArgumentError(
            f"`model` must be the model of the file: '{path}' has width {outside[0]}, "
            f"outside the model's range [{model.min_width}, 1]."
        )
    foreign = custom_operators(file.content)
    if foreign:
        raise ExportError(
            f"'{path}' must have builtin operators only, but it has "
            f"{', '.join(foreign)}."
        )
    model = at_shape_of(file, model)
    inputs = check_samples(model, samples, "samples")
    if tolerance is None:
        precision = precision_of(Path(path)) or "float32"
        tolerance = default_tolerance(model, precision)
    progress.begin(len(by_width))
    verified = []
    for width, name in by_width:
        verified.append(compare(model, width, file, name, inputs, tolerance))
        progress.done(f"{name} verified")
    return verified


def _width_of(signature: Signature, file: TFLiteFile, model: MultiWidthModel) -> float:
    """The width of a signature; the model's own number, if the model has that width."""
    pair = Refinement.parse(signature.name)
    if pair is not None and pair.is_in(file.signatures):
        width: float | None = pair.narrow if signature.name == pair.keep else pair.wide
    else:
        width = signature.width
    if width is None:
        raise ArgumentError(
            f"Signatures of '{file.name}' must be named after widths, such as "
            "'width_050', or come in pairs such as 'keep_025_to_100' and "
            f"'refine_025_to_100'. Received: '{signature.name}'"
        )
    return find_width(width, model.distinct_widths) or width


def check_samples(
    model: MultiWidthModel, samples: Any, argument: str
) -> list[np.ndarray]:
    """Collects samples and checks them against the model's inputs.

    Args:
        model: The model.
        samples: Samples for `collect_samples`, or `None` for 4 random samples.
        argument: Name of the argument for errors.

    Returns:
        For each input an array of its dtype, in the model's order.

    Raises:
        ValueError: If samples do not fit, if there is none, or if they have NaN or
            infinite numbers.
    """
    if samples is None:
        flat: list[Any] = random_inputs(model, 4)
        if takes_pixels(model):
            images = image_inputs(model)
            flat = [
                np.clip(np.rint(values), 0, 255)
                if any(x is image for image in images)
                else values
                for x, values in zip(model.inputs, flat, strict=True)
            ]
    else:
        flat = collect_samples(samples, model, argument)
    arrays = fitting_arrays(flat, model, argument)
    for array in arrays:
        wrong = samples_not_finite(array)
        if len(wrong):
            raise ArgumentError(
                f"`{argument}` must have no NaN and no infinite numbers. Remove the "
                f"samples that have them. Received: NaN or infinite numbers in "
                f"{len(wrong):,} of {len(array):,} samples, first in sample {wrong[0]}"
            )
    return arrays


def compare(
    model: MultiWidthModel,
    width: float,
    file: TFLiteFile,
    signature: str,
    inputs: list[np.ndarray],
    tolerance: float,
) -> Verified:
    """Compares a signature of a file with the model at a width.

    Args:
        model: The model. Its `width` does not change.
        width: The width.
        file: The file.
        signature: The signature. A `refine` signature runs after its `keep` signature.
        inputs: Inputs for both, from `check_samples`.
        tolerance: See `verify_tflite`.

    Returns:
        The result of the comparison.

    Raises:
        ValueError: If the signature has other inputs or outputs than the model.
        ExportError: If LiteRT cannot run the signature, or if an output differs by more
            than `tolerance`.
    """
    interface = Interface.parse(file.described, model)
    names = list(map(input_name, model.inputs))
    by_name = {
        name: interface.to_file(name, x) for name, x in zip(names, inputs, strict=True)
    }
    inputs = [
        interface.to_model(name, x) for name, x in zip(names, inputs, strict=True)
    ]
    before = model.width
    try:
        model.width = width
        structure = keras.tree.pack_sequence_as(model.input, inputs)
        outputs = keras.tree.flatten(model(structure, training=False))
    finally:
        model.width = before
    named = {
        name: interface.expected(name, _numbers(keras.ops.convert_to_numpy(value)))
        for name, value in zip(model.output_names, outputs, strict=True)
    }
    _check_contract(file.signatures[signature], by_name, named, model.name)
    where = f"'{model.name}' at width {width}"
    got = _compared(interface, _run(file, by_name, signature))
    largest = _largest_error(got, named, tolerance, where)
    agreement = None
    first = model.output_names[0]
    if _are_integers(named[first]):
        agreement = float(np.mean(got[first] == named[first]))
    elif named[first].ndim == 2 and named[first].shape[1] > 1:
        agreement = float(np.mean(got[first].argmax(-1) == named[first].argmax(-1)))
    gpu_error = None
    if gpu_is_available():
        few, wanted = (
            {name: value[:4] for name, value in arrays.items()}
            for arrays in (by_name, named)
        )
        with contextlib.suppress(GPUError):  # the engine cannot run every file
            got = _compared(interface, _run(file, few, signature, on_gpu=True))
            gpu_error = _largest_error(got, wanted, tolerance, f"{where}, on the GPU,")
    return Verified(width, signature, largest, agreement, gpu_error)


def _check_contract(
    signature: Signature,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    model_name: str,
) -> None:
    """Checks that a signature has the inputs and outputs of the model."""
    takes, gives = (
        [(tensor.name, tensor.sample_shape) for tensor in tensors]
        for tensors in (signature.inputs, signature.outputs)
    )
    must_take = [(name, inputs[name].shape[1:]) for name in sorted(inputs)]
    must_give = [(name, outputs[name].shape[1:]) for name in sorted(outputs)]
    received = [*takes, *gives]
    if Refinement.parse(signature.name) is not None:
        # These signatures also pass activations on, and `refine` may not need an input.
        taken = {name for name, _ in takes}
        must_take = [(name, shape) for name, shape in must_take if name in taken]
        takes = [(name, shape) for name, shape in takes if name in inputs]
        gives = [(name, shape) for name, shape in gives if name in outputs]
    if (takes, gives) != (must_take, must_give):
        raise ArgumentError(
            f"Signature '{signature.name}' must have the inputs and outputs of model "
            f"'{model_name}': {[*must_take, *must_give]}. Give the model from which "
            f"the file was exported. Received: {received}"
        )


def _run(
    file: TFLiteFile,
    inputs: Mapping[str, np.ndarray],
    name: str,
    on_gpu: bool = False,
) -> dict[str, np.ndarray]:
    """Runs a signature; before a `refine` signature, its `keep` signature."""
    pair = Refinement.parse(name)
    if pair is not None and name == pair.refine:
        inputs = {**inputs, **_run(file, inputs, pair.keep, on_gpu)}
    signature = file.signatures[name]
    given = {tensor.name: inputs[tensor.name] for tensor in signature.inputs}
    if not on_gpu:
        return signature.run(given)
    outputs = run_on_gpu(file, list(given.values()), name).outputs
    names = [tensor.name for tensor in signature.outputs]
    return dict(zip(names, outputs, strict=True))


def _compared(
    interface: Interface, outputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: interface.comparable(name, y) for name, y in outputs.items()}


def _are_integers(outputs: np.ndarray) -> bool:
    """Whether outputs are integers such as labels, whose differences mean nothing."""
    return outputs.dtype.kind in "biu"


def _numbers(outputs: np.ndarray) -> np.ndarray:
    return outputs if _are_integers(outputs) else outputs.astype("float32")


def _largest_error(
    got: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    tolerance: float,
    where: str,
) -> float:
    largest = 0.0
    for name, value in wanted.items():
        if _are_integers(value):
            _check_agreement(name, got[name], value, tolerance, where)
            continue
        error = float(np.abs(got[name] - value).max())
        # `not <=` instead of `>`, so that NaN fails, too.
        if not error <= tolerance * max(1.0, float(np.abs(value).max())):
            raise ExportError(
                f"The TFLite file of {where} differs from the model by {error:.2g}, "
                f"more than tolerance={tolerance:g} allows.{_way_out(tolerance)}"
            )
        largest = max(largest, error)
    return largest


def _check_agreement(
    name: str, got: np.ndarray, wanted: np.ndarray, tolerance: float, where: str
) -> None:
    differing = float(np.mean(got != wanted))
    if not differing <= tolerance:
        raise ExportError(
            f"The TFLite file of {where} gives other integers than the model for "
            f"{differing:.1%} of output '{name}', more than tolerance={tolerance:g} "
            f"allows.{_way_out(tolerance)}"
        )


def _way_out(tolerance: float) -> str:
    if tolerance < TOLERANCES["int8"]:
        return ""
    return (
        " Compare on real inputs (`samples`, `--dataset`): int8 ranges cover only "
        "values like those of the representative set."
    )
