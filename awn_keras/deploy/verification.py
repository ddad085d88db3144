"""Does a TFLite file compute what the model does? Runs both and compares."""

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
        largest_error: Largest absolute difference of outputs; 0 if all are integers,
            of which only `agreement` tells.
        agreement: Part of the samples for which file and model have the same largest
            output, in [0, 1]; if the first output has integers, such as labels, the
            part of these that is equal. `None` if it is neither that nor of shape
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
    verbose: int | str = "auto",
) -> list[Verified]:
    """Runs all widths of a TFLite file with LiteRT and compares them with the model.

    Where the file takes pixels or gives probabilities and the model does not (see
    `export_tflite`), what the model is given and gives is changed likewise. They run
    on the CPU, and on LiteRT's GPU engine, too, where `gpu_is_available()`. A
    signature that refines runs after the one that keeps what it needs.

    Args:
        path: The file, as `export_tflite` writes it.
        model: The model that it was made from.
        samples: Inputs to compare on, `(n, ...)` as for `model.predict`: real ones are
            best. Or up to 300 of a `tf.data.Dataset`, a `PyDataset`, an iterable of
            samples or batches, or a folder of photos. `None` for 4 random ones,
            standard normal where the first kernel reads them.
        tolerance: Largest difference allowed, relative to the largest output if that
            exceeds 1; of outputs that are integers, such as labels, the largest share
            that may differ. `None` for the exporter's at the file's precision, which it
            tells, or the manifest beside it; without both, that of float32.
        verbose: `1` shows a line for each width, `0` none, and `"auto"` shows them on a
            terminal and in a notebook, and elsewhere once it takes long.

    Returns:
        One record for each signature, widths ascending.

    Raises:
        TypeError: If `model` has one width only, or is none.
        ValueError: If it is not a TFLite file, has a signature that is not a width of
            the model, or other inputs or outputs.
        ExportError: If it has operators that are not builtin, LiteRT cannot run it, or
            an output differs by more than `tolerance` allows.
        OSError: If it cannot be read.
    """
    progress = Progress(verbose)
    if not isinstance(model, MultiWidthModel):
        raise ArgumentTypeError(
            "`model` must be an `AnyWidthModel`, or one of `awn_keras.baselines`: "
            f"`verify_tflite(path, model)`. Received: {type(model).__name__}"
        )
    file = TFLiteFile(path)
    by_width = sorted(
        (_width_of(signature, file, model), name)
        for name, signature in file.signatures.items()
    )
    outside = [width for width, _ in by_width if not model.min_width <= width <= 1]
    if outside:
        raise ArgumentError(
            f"'{path}' has width {outside[0]}, outside the model's [{model.min_width}, "
            "1]: it was made from another model."
        )
    foreign = custom_operators(file.content)
    if foreign:
        raise ExportError(
            f"'{path}' has operators that stock TFLite does not: {', '.join(foreign)}."
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
    """The width at which a signature answers: the model's own, if it has that one."""
    pair = Refinement.parse(signature.name)
    if pair is not None and pair.is_in(file.signatures):
        width: float | None = pair.narrow if signature.name == pair.keep else pair.wide
    else:
        width = signature.width
    if width is None:
        raise ArgumentError(
            f"Signatures of '{file.name}' must be called after widths, as 'width_050', "
            "or belong together, as 'keep_025_to_100' and 'refine_025_to_100'. "
            f"Received: '{signature.name}'"
        )
    return find_width(width, model.distinct_widths) or width


def check_samples(
    model: MultiWidthModel, samples: Any, argument: str
) -> list[np.ndarray]:
    """Checks sample inputs against the model's.

    Args:
        model: The model.
        samples: What `collect_samples` takes, or `None` for 4 random ones.
        argument: What to call them in an error.

    Returns:
        For each input an array of its dtype, in the model's order.

    Raises:
        ValueError: If they do not fit, there is none, or they have NaN or infinite
            numbers.
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
                f"`{argument}` must have no NaN and no infinite numbers. Leave these "
                f"samples out. Received: {len(wrong):,} of {len(array):,}, the first "
                f"of them number {wrong[0]}"
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
        model: The model; it is left at its width.
        width: The width.
        file: The file.
        signature: The signature. One that refines runs after the one that keeps.
        inputs: What to run both on, as `check_samples` returns it.
        tolerance: See `verify_tflite`.

    Returns:
        How well they agree.

    Raises:
        ValueError: If the signature has other inputs or outputs than the model.
        ExportError: If LiteRT cannot run it, or an output differs by more than
            `tolerance` allows.
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
        with contextlib.suppress(GPUError):  # it says that it cannot run the file
            got = _compared(interface, _run(file, few, signature, on_gpu=True))
            gpu_error = _largest_error(got, wanted, tolerance, f"{where}, on the GPU,")
    return Verified(width, signature, largest, agreement, gpu_error)


def _check_contract(
    signature: Signature,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    model_name: str,
) -> None:
    """A signature takes and gives what the model does; see `compare`."""
    takes, gives = (
        [(tensor.name, tensor.sample_shape) for tensor in tensors]
        for tensors in (signature.inputs, signature.outputs)
    )
    must_take = [(name, inputs[name].shape[1:]) for name in sorted(inputs)]
    must_give = [(name, outputs[name].shape[1:]) for name in sorted(outputs)]
    received = [*takes, *gives]
    if Refinement.parse(signature.name) is not None:
        # Activations come besides, and an input may not be needed again.
        taken = {name for name, _ in takes}
        must_take = [(name, shape) for name, shape in must_take if name in taken]
        takes = [(name, shape) for name, shape in takes if name in inputs]
        gives = [(name, shape) for name, shape in gives if name in outputs]
    if (takes, gives) != (must_take, must_give):
        raise ArgumentError(
            f"Signature '{signature.name}' must have the inputs and outputs of model "
            f"'{model_name}', {[*must_take, *must_give]}. Received: {received}. Is it "
            "of another model?"
        )


def _run(
    file: TFLiteFile,
    inputs: Mapping[str, np.ndarray],
    name: str,
    on_gpu: bool = False,
) -> dict[str, np.ndarray]:
    """Runs a signature; before one that refines, the one that keeps."""
    pair = Refinement.parse(name)
    if pair is not None and name == pair.refine:
        inputs = {**inputs, **_run(file, inputs, pair.keep, on_gpu)}
    signature = file.signatures[name]
    given = {tensor.name: inputs[tensor.name] for tensor in signature.inputs}
    if not on_gpu:
        try:
            return signature.run(given)
        except RuntimeError as error:
            raise ExportError(
                f"Signature '{name}' of '{file.name}' cannot be run by LiteRT: {error} "
                "In a file of int8 it may be a layer whose outputs are 0 for all of "
                "`representative`, such as a ReLU of few channels that is never "
                "active: there is no range to divide into steps. Train the model "
                "further, leave the narrowest widths out, or use "
                "`precision='dynamic_range'`."
            ) from error
    outputs = run_on_gpu(file, list(given.values()), name).outputs
    names = [tensor.name for tensor in signature.outputs]
    return dict(zip(names, outputs, strict=True))


def _compared(
    interface: Interface, outputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: interface.comparable(name, y) for name, y in outputs.items()}


def _are_integers(outputs: np.ndarray) -> bool:
    """Whether outputs are labels or the like: next to one another is not close."""
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
        # Written so that NaN fails too.
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
        " Compare on real inputs (`samples`, `--dataset`): integers reach as far as "
        "those of the representative set."
    )
