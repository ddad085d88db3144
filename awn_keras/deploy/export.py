"""TFLite files of chosen widths, each run and compared before it is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.counting import (
    count_parameters,
    executed_macs,
    known_macs,
    warn_of_uncounted,
)
from awn_keras.deploy.appending import Earlier, extended
from awn_keras.deploy.calibration import check_scale, hold_out, warn_of_agreement
from awn_keras.deploy.converter import (
    check_can_convert,
    check_precision,
    constants,
    convert,
    input_name,
)
from awn_keras.deploy.convertible import check_convertible
from awn_keras.deploy.cutting import continuation, cut_networks
from awn_keras.deploy.interface import Interface
from awn_keras.deploy.litert import TFLiteFile
from awn_keras.deploy.metadata import check_metadata, with_metadata
from awn_keras.deploy.progress import Progress
from awn_keras.deploy.signatures import Refinement, width_signature
from awn_keras.deploy.sizes import InputShape, at_input_shape
from awn_keras.deploy.tuning import measured
from awn_keras.deploy.verification import (
    Verified,
    check_samples,
    compare,
    default_tolerance,
)
from awn_keras.environment import environment
from awn_keras.errors import ArgumentError
from awn_keras.files import check_can_write, together, write_whole
from awn_keras.layouts import Cut, candidates, choose_cuts, default_widths
from awn_keras.multi_width import MultiWidthModel, check_any_width_model
from awn_keras.schemas import SCHEMAS
from awn_keras.slimming import slim_alike
from awn_keras.widths import check_widths, width_label

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ExportedWidth:
    """One width of an export.

    Args:
        width: The width.
        file: Name of the file that holds it; all widths may be in one.
        signature: Name of the signature to run.
        bytes: The file's size.
        sha256: The file's hash, hexadecimal.
        macs: Multiply-accumulate operations for one sample; see `count_macs`.
        parameters: Number of weights; see `count_parameters`.
        largest_error: Largest absolute difference from the model's outputs, over the
            samples that were run.
        agreement: See `Verified`.
        gpu_error: See `Verified`.
        executed_macs: Multiply-accumulates that the file needs, whose kernels are cut.
        uncounted: Names of the layers whose multiply-accumulates are not known. `macs`
            and `executed_macs` are those of the others.
    """

    width: float
    file: str
    signature: str
    bytes: int
    sha256: str
    macs: int
    parameters: int
    largest_error: float
    agreement: float | None
    gpu_error: float | None
    executed_macs: int
    uncounted: list[str] = field(default_factory=list)


def export_tflite(
    model: MultiWidthModel,
    path: str | Path,
    *,
    widths: Sequence[float] | None = None,
    single_file: bool = True,
    layout: str = "auto",
    tune: bool = False,
    precision: str = "float32",
    representative: Any = None,
    samples: Any = None,
    tolerance: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    refine: tuple[float, float] | None = None,
    append_to: str | Path | None = None,
    inputs: str | None = None,
    outputs: str = "model",
    input_shape: InputShape | None = None,
    verbose: int | str = "auto",
) -> list[ExportedWidth]:
    """Writes a TFLite file that runs at several widths, and a manifest beside it.

    The file has one signature for each width, named after it (`width_050`), all with
    the same inputs (of the model's dtypes, unless `inputs` says otherwise) and float32
    outputs (integers, such as labels, stay integers), batch size 1, and builtin
    operators only. The widest comes first: it is what an app gets that knows no
    signatures.
    What widths have in common it holds once.

    The file says what it is by TFLite Metadata, which MediaPipe and Android read, and
    by an attached ZIP with `labels.txt` (if `metadata` has `class_names`) and
    `awn.json`, its manifest. How pixels become inputs is part of that: what
    `metadata["normalization"]` says; `mean` 0 and `std` 1 if the model `takes_pixels`.

    Before it is written, each signature is
    run with LiteRT on sample inputs and compared with the model at its width; so it is
    on LiteRT's GPU engine, where one is found. The manifest, `model.json` beside
    `model.tflite`, comes last: if it is there, the file is whole.

    Args:
        model: The model; it is left as it is.
        path: The file, which ends in `.tflite`; its folder is made if missing. If not
            `single_file`, a directory.
        widths: Widths in [min_width, 1]. `None` for four, evenly spaced; fewer if
            some of these run the same network.
        single_file: `False` for a file for each width, called
            `<model name>_width_050.tflite`, with one `manifest.json`.
        layout: How kernels lie in the file. `"auto"`: those that get faster by it are
            cut so that the zeros of the triangle are neither stored nor computed.
            `"triangular"`: all are, at the widths. `"dense"`: none is, and each width
            has a copy of its own. Systems of ordinary convolutions are dense at any
            layout.
        tune: For `layout="auto"`: measure each layer on this machine, which takes
            minutes at first, instead of estimating its time.
        precision: `"float32"`, `"float16"` (half the bytes), `"dynamic_range"` (int8
            constants, a quarter of the bytes), or `"int8"` (all in integers but the
            inputs and outputs).
        representative: For `"int8"`: some hundred training inputs, `(n, ...)` as for
            `model.predict`. They decide the ranges of activations, for all widths. Or
            a `tf.data.Dataset`, a `keras.utils.PyDataset`, an iterable of samples or
            batches, each with or without labels, or the path of a folder of photos;
            300 samples are taken of these.
        samples: Inputs to compare on, likewise: a hundred real ones are best. `None`
            for a fifth of `representative`, 100 at most, which then do not decide
            ranges (its first 16 if it has less than 100); without that for 4 random
            ones, standard normal where the first kernel reads them.
        tolerance: Largest difference allowed, relative to the largest output if that
            exceeds 1; of outputs that are integers the largest share that may differ.
            `None` for `TOLERANCES[precision]`, at least 2e-2 if the model computes in
            half precision.
        metadata: What the file and its manifest are to say to those who run it;
            anything that JSON holds. `class_names`, a list, become its labels.
            `normalization`, a dict with `mean` and `std` (numbers, or lists of three,
            in the unit of pixels), says that the model takes `(pixels - mean) / std`.
        refine: `(narrow, wide)`, two of `widths`, for two more signatures with which
            `AnytimeInterpreter` answers at the one and then refines the answer to that
            of the other, without computing again what they have in common.
        append_to: A file that an earlier export of this model wrote, with its manifest
            beside it. What is written has its signatures, as they are, besides those
            of `widths`, which are then new ones. `path` may be the same file.
        inputs: What images are in the file: `"uint8"` for pixels, which it casts and
            normalizes, so that an app has nothing to compute; `"float32"`; `None` for
            the model's own dtype.
        outputs: `"probabilities"` adds a softmax where the model gives logits,
            `"logits"` leaves out a final softmax, `"model"` does neither.
        input_shape: Shape of the file's input without the batch, such as
            `(128, 128, 1)`, for a model whose rows, cols or steps are not known. For
            several inputs a dict of shapes by name, or a list in the model's order.
        verbose: `1` shows a line for each width when it is converted, and when it is
            verified. `0` shows nothing. `"auto"` shows them on a terminal and in a
            notebook, and elsewhere once an export takes long.

    Returns:
        A record for each width of the file, ascending.

    Raises:
        ImportError: If TensorFlow, or LiteRT, is not installed.
        TypeError: If `model` has one width only, `metadata` is not JSON's, or
            `input_shape` no shape.
        ValueError: If there is no width, one is out of range, `path` is not a `.tflite`
            file (or is one, if not `single_file`), samples do not fit the model's
            inputs, these have unknown rows or cols and `input_shape` is not given or
            does not fit, or an option is none of those
            named, or not possible for this model; if names of classes are not as many
            as these, or `representative` is not in the scale of the model's inputs;
            with `refine`, if these are not two of the widths, ascending, the
            file is not one for all widths, `precision` is `"int8"`, or no layer can
            be cut; with `append_to`, if that is no export of this model with these
            options, has one of the widths, or `refine` is given.
        ExportError: If the model has a lookup table or, with `"int8"`, a recurrent
            layer without `unroll=True`, or one whose outputs are 0 for all of
            `representative`; if a file would need operators that are not
            builtin, or computes something else than the model, also at a width of
            `append_to`. No file is written then.
        OSError: If it cannot be written; where that can be known, before anything is
            converted.

    Warns:
        UserWarning: If the multiply-accumulates of some layers are not known; if a
            file of integers often answers otherwise than the model; if `representative`
            are pixels, and the arrays that `fit` was given were normalized, or the
            other way round.

    Examples:
        >>> from awn_keras import export_tflite, lenet_3c1l
        >>> model = lenet_3c1l()
        >>> exported = export_tflite(model, "lenet.tflite", widths=[0.25, 0.5, 1.0])
        >>> [width.signature for width in exported]
        ['width_025', 'width_050', 'width_100']
    """
    check_can_convert("`export_tflite`")
    progress = Progress(verbose)
    _check_append(append_to, widths, single_file, refine)
    widths = _check_widths(model, widths)
    check_convertible([model], precision)
    model = at_input_shape(model, input_shape)
    path = check_path(Path(path), single_file)
    beside = path.with_suffix(".json") if single_file else path / MANIFEST
    check_can_write(path if single_file else beside)
    _check_manifest(beside)
    if metadata is None:
        metadata = Earlier.metadata_of(append_to)
    shapes = [tuple(x.shape[1:]) for x in model.outputs]
    metadata = check_metadata(metadata, shapes)
    interface = Interface.of(model, inputs, outputs, metadata)
    described = _describe(model, layout, precision, metadata, interface)
    earlier = Earlier.of(append_to, described, widths)
    if representative is not None:
        representative = check_samples(model, representative, "representative")
        check_scale(model, interface, representative, "representative")
        model.warn_of_scale(representative)
    check_precision(precision, representative)
    pair = _check_refine(model, refine, widths, single_file, precision)
    compared, representative = _samples(model, interface, samples, representative)
    if tolerance is None:
        tolerance = default_tolerance(model, precision)

    # Integers are rounded before they are added, and what a refinement keeps is joined.
    refines = pair is not None or (earlier is not None and bool(earlier.refinement))
    adds = precision != "int8" and not refines
    uncounted = known_macs(model, widths).uncounted
    warn_of_uncounted(model.name, uncounted, stacklevel=2)
    files: dict[Path, tuple[TFLiteFile, list[Verified]]] = {}
    executed = dict(earlier.executed_macs) if earlier is not None else {}
    progress.begin(_steps(widths, pair, earlier))
    for group in [widths] if single_file else [[width] for width in widths]:
        cuts = _cuts(model, group, layout, tune, earlier)
        macs = executed_macs(model, group, cuts).tolist()
        executed.update(zip(group, macs, strict=True))
        named = {width_signature(width): width for width in group}
        # Who asks for no signature gets the first.
        networks = cut_networks(model, group[::-1], cuts, adds=adds)
        if pair is not None:
            networks.update(_continued(model, group, pair, cuts))
            named.update({pair.keep: pair.narrow, pair.refine: pair.wide})
        separate = path / f"{model.name}_{next(iter(named))}.tflite"
        place = path if single_file else separate
        content = convert(
            {name: interface.applied(network) for name, network in networks.items()},
            precision,
            _as_file(model, interface, representative),
            lambda name: progress.done(f"{name} converted"),
        )
        if earlier is not None:
            content = earlier.joined_with(content, group)
            named = {**earlier.widths, **earlier.refinement, **named}
        content = with_metadata(
            content, _embedded(model, described, named, executed, content)
        )
        file = TFLiteFile(content, place.name)
        verified = []
        for name, width in named.items():
            verified.append(compare(model, width, file, name, compared, tolerance))
            progress.done(f"{name} verified")
        files[place] = (file, verified)
    if precision in ("int8", "dynamic_range"):
        every = [one for _, verified in files.values() for one in verified]
        warn_of_agreement(every, len(compared[0]), precision)
    exported = [
        _record(model, file, one, executed[one.width])
        for file, verified in files.values()
        for one in verified
        if Refinement.parse(one.signature) is None
    ]
    exported.sort(key=lambda record: record.width)
    _write(beside, described, files, exported)
    return exported


def _steps(
    widths: Sequence[float], pair: Refinement | None, earlier: Earlier | None
) -> int:
    """Number of signatures to convert, and to verify."""
    new = len(widths) + (0 if pair is None else 2)
    old = 0 if earlier is None else len(earlier.widths) + len(earlier.refinement)
    return 2 * new + old


def _write(
    beside: Path,
    described: dict[str, Any],
    files: Mapping[Path, tuple[TFLiteFile, list[Verified]]],
    exported: list[ExportedWidth],
) -> None:
    """Writes the files, and the manifest last."""
    refined = [
        asdict(one)
        for _, verified in files.values()
        for one in verified
        if Refinement.parse(one.signature) is not None
    ]
    if refined:
        described["refinement"] = refined
    described["constants"] = {
        file.name: asdict(constants(file.content)) for file, _ in files.values()
    }
    described["widths"] = [asdict(record) for record in exported]
    beside.parent.mkdir(parents=True, exist_ok=True)
    with together():  # A manifest never speaks of other files.
        for place, (file, _) in files.items():
            write_whole(place, file.content)
        write_whole(beside, json.dumps(described, indent=1) + "\n")


def _as_file(
    model: MultiWidthModel, interface: Interface, arrays: list[np.ndarray] | None
) -> list[np.ndarray] | None:
    """Samples of the model's inputs as the file takes them."""
    if arrays is None:
        return None
    return [
        interface.to_file(input_name(x), array)
        for x, array in zip(model.inputs, arrays, strict=True)
    ]


def _embedded(
    model: MultiWidthModel,
    described: Mapping[str, Any],
    named: Mapping[str, float],
    executed: Mapping[float, int],
    content: bytes,
) -> dict[str, Any]:
    """The manifest that a file holds: what does not depend on the machine or the day.

    So the same model gives the same bytes, and a file tells nothing of who made it.
    """
    manifest = {key: value for key, value in described.items() if key != "environment"}
    rows = [
        {
            "width": width,
            "signature": name,
            "executed_macs": executed[width],
            "parameters": count_parameters(model, width),
            **_macs(model, width),
        }
        for name, width in sorted(named.items(), key=lambda item: item[1])
        if Refinement.parse(name) is None
    ]
    refinement = [
        {"width": width, "signature": name}
        for name, width in named.items()
        if Refinement.parse(name) is not None
    ]
    if refinement:
        manifest["refinement"] = refinement
    return {
        **manifest,
        "packages": described["environment"]["packages"],
        "constants": asdict(constants(content)),
        "widths": rows,
    }


def _check_widths(model: Any, widths: Any) -> list[float]:
    check_any_width_model(model)
    if widths is None:
        widths = default_widths(model)
    widths = sorted(set(check_widths(widths, model.min_width)))
    if not widths or len(set(map(width_label, widths))) < len(widths):
        raise ArgumentError(
            "`widths` must not be empty, and differ by a millionth at least, for their "
            f"names. Received: widths={widths}"
        )
    if len(set(model.output_names)) < len(model.output_names):
        raise ArgumentError(
            "Outputs must come from layers of their own, after which a file calls them."
            f" Received: outputs of the layers {model.output_names}. Put an `Identity` "
            "layer after one of them."
        )
    return widths


def _check_append(
    append_to: str | Path | None, widths: Any, single_file: bool, refine: Any
) -> None:
    if append_to is None:
        return
    if not single_file or refine is not None:
        raise ArgumentError(
            "`append_to` adds widths to one file: `single_file` must be True, and "
            f"`refine` None. Received: single_file={single_file}, refine={refine}"
        )
    if widths is None:
        raise ArgumentError("`append_to` needs `widths`: those that are to be added.")


def _cuts(
    model: MultiWidthModel,
    widths: list[float],
    layout: str,
    tune: bool,
    earlier: Earlier | None,
) -> dict[str, Cut]:
    """Where kernels are cut; after an earlier export, where it cut them, and more."""
    chosen_for = sorted(earlier.widths.values()) if earlier is not None else widths
    timed = [measured(model, chosen_for)] if tune and layout == "auto" else []
    cuts = choose_cuts(model, chosen_for, layout, *timed)
    if earlier is None:
        return cuts
    return extended(cuts, model, [*chosen_for, *widths])


def check_path(path: Path, single_file: bool) -> Path:
    """Raises a ValueError if a path does not fit the kind of export."""
    if single_file and path.suffix != ".tflite":
        raise ArgumentError(
            "`path` must end in '.tflite'; with `single_file=False` it is a directory. "
            f"Received: path={str(path)!r}"
        )
    if not single_file and path.suffix == ".tflite":
        raise ArgumentError(
            "With `single_file=False` `path` must be a directory. Received: "
            f"path={str(path)!r}"
        )
    return path


def _check_refine(
    model: MultiWidthModel,
    refine: Any,
    widths: list[float],
    single_file: bool,
    precision: str,
) -> Refinement | None:
    if refine is None:
        return None
    received = f"Received: refine={refine!r}"
    pair = [] if np.ndim(refine) != 1 else check_widths(refine, model.min_width)
    if len(pair) != 2 or not set(pair) <= set(widths) or pair[0] >= pair[1]:
        raise ArgumentError(
            "`refine` must be two of the exported widths, the narrower one first. "
            f"{received}, with widths {widths}"
        )
    if not single_file:
        raise ArgumentError(
            f"`refine` needs both widths in one file: `single_file=True`. {received}"
        )
    if precision == "int8":
        raise ArgumentError(
            "`refine` hands on activations as floats: `precision` must not be 'int8'. "
            f"'dynamic_range' stores int8 constants, too. {received}"
        )
    if all(layer.readout for layer in candidates(model).values()):
        raise ArgumentError(
            f"`refine` needs layers that give the same at both widths; '{model.name}' "
            "has no Tri layer that can be cut (`awn_keras.layouts.candidates`). "
            f"{received}"
        )
    return Refinement(*pair)


def _continued(
    model: MultiWidthModel,
    widths: Sequence[float],
    pair: Refinement,
    cuts: Mapping[str, Cut],
) -> dict[str, keras.Model]:
    """The two networks of a refinement; all that can be kept is cut for them."""
    rows = {
        name: layer.cut_at(widths)
        for name, layer in candidates(model).items()
        if not layer.readout
    }
    narrow, wide = slim_alike(model, (pair.narrow, pair.wide), dtype="float32")
    both = continuation(narrow, wide, {**rows, **cuts})
    return dict(zip((pair.keep, pair.refine), both, strict=True))


def _check_manifest(path: Path) -> None:
    """The manifest replaces an older one, and nothing else."""
    if not path.is_file():
        return
    try:
        ours = "widths" in json.loads(path.read_bytes())
    except (TypeError, ValueError, RecursionError):
        ours = False
    if not ours:
        raise ArgumentError(
            f"{path} is there already and is no manifest of an export, which would "
            "have this name. Choose another `path`."
        )


def _describe(
    model: MultiWidthModel,
    layout: str,
    precision: str,
    metadata: Mapping[str, Any],
    interface: Interface,
) -> dict[str, Any]:
    """What the manifest says of the export as a whole."""
    said = dict(metadata)
    if interface.inside is not None:
        # It would be taken for what is to be done before the file is run.
        said.pop("normalization", None)
    return {
        "schema": SCHEMAS["manifest"],
        "model": model.name,
        "min_width": model.min_width,
        "layout": layout,
        "precision": precision,
        "inputs": [
            _signature_has(x, input_name(x)) | interface.described(input_name(x))
            for x in model.inputs
        ],
        "outputs": [
            _signature_has(x, name) | _scores(name, x, interface)
            for name, x in zip(model.output_names, model.outputs, strict=True)
        ],
        "changed": interface.changed,
        "weights_sha256": _digest(model),
        "metadata": said,
        "environment": environment(),
    }


def _scores(name: str, x: keras.KerasTensor, interface: Interface) -> dict[str, Any]:
    """What a manifest says of an output besides name and shape."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    said = {"dtype": "float32" if "float" in dtype else dtype}
    if name == interface.output and interface.scores is not None:
        said["scores"] = interface.scores
    return said


def _digest(model: MultiWidthModel) -> str:
    """Tells states of a model's weights apart."""
    digest = hashlib.sha256()
    for layer in model.layers:
        for value in model.weight_values(layer, 1.0):
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _signature_has(x: keras.KerasTensor, name: str) -> dict[str, Any]:
    """How a signature has an input or output: with batch size 1."""
    return {"name": name, "shape": [1, *x.shape[1:]]}


def _samples(
    model: MultiWidthModel,
    interface: Interface,
    samples: Any,
    representative: list[np.ndarray] | None,
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """What to compare on, and what is left to decide ranges."""
    if samples is None and representative is not None:
        return hold_out(representative)
    given = check_samples(model, samples, "samples")
    if samples is not None:
        check_scale(model, interface, given, "samples")
    return given, representative


def _record(
    model: MultiWidthModel, file: TFLiteFile, verified: Verified, executed: int
) -> ExportedWidth:
    return ExportedWidth(
        width=verified.width,
        file=file.name,
        signature=verified.signature,
        bytes=len(file.content),
        sha256=file.sha256,
        executed_macs=executed,
        parameters=count_parameters(model, verified.width),
        largest_error=verified.largest_error,
        agreement=verified.agreement,
        gpu_error=verified.gpu_error,
        **_macs(model, verified.width),
    )


def _macs(model: MultiWidthModel, width: float) -> dict[str, Any]:
    """What a record says of the work of a width, in a file of any layout."""
    count = known_macs(model, [width])
    return {"macs": int(count.macs[0]), "uncounted": count.names}
