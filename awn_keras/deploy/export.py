"""Export of TFLite files, each verified against the model before it is written."""

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
        file: Name of the file with this width. One file may hold all widths.
        signature: Name of the signature to run.
        bytes: Size of the file in bytes.
        sha256: SHA-256 of the file, hexadecimal.
        macs: Multiply-accumulate operations for one sample; see `count_macs`.
        parameters: Number of weights; see `count_parameters`.
        largest_error: Largest absolute difference from the model's outputs, over the
            compared samples.
        agreement: See `Verified`.
        gpu_error: See `Verified`.
        executed_macs: MACs for one sample in the file, which skips zeros of cut
            kernels.
        uncounted: Names of layers whose MACs are not known. `macs` and `executed_macs`
            leave these layers out.
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

    The file has one signature for each width, named after the width (`width_050`). All
    signatures have batch size 1, equal inputs of the model's dtypes (or as `inputs`
    says), and builtin operators only. Outputs are float32; integer outputs, such as
    labels, stay integers. The signature of the widest width comes first, for apps that
    name no signature. The file stores the weights that several widths share only once.

    The file describes itself with TFLite Metadata, which MediaPipe and Android read,
    and with an attached ZIP. The ZIP holds `awn.json`, the manifest, and `labels.txt`
    if `metadata` has `class_names`. The description says how pixels become inputs: as
    `metadata["normalization"]` says, or with `mean` 0 and `std` 1 if the model takes
    pixels.

    Before the file is written, LiteRT runs each signature on sample inputs, and the
    outputs are compared with the model at this width. If LiteRT has a GPU engine on
    this machine, the GPU is compared, too. The manifest, `model.json` beside
    `model.tflite`, is written last. So if the manifest exists, the file is complete.

    Args:
        model: An `AnyWidthModel`, or a model of `awn_keras.baselines`. It does not
            change.
        path: The file, which ends in `.tflite`. A missing folder is created. With
            `single_file=False`, a directory.
        widths: Widths in [min_width, 1]. `None` takes four widths, evenly spaced, or
            fewer if some of them run the same network.
        single_file: `False` writes a separate file for each width, named `<model
            name>_width_050.tflite`, and one `manifest.json`.
        layout: Layout of the kernels. `"auto"` cuts the kernels that get faster when
            cut, so that the zeros of the triangle are neither stored nor computed.
            `"triangular"` cuts all kernels, at the widths. `"dense"` cuts none, and
            stores a copy of each kernel for each width. For models of
            `awn_keras.baselines`, all layouts are dense.
        tune: Whether to measure each layer on this machine for `layout="auto"`, instead
            of estimating its time. The first measurement takes minutes.
        precision: `"float32"`; `"float16"` (half the bytes); `"dynamic_range"` (int8
            constants, a quarter of the bytes); or `"int8"` (integers everywhere except
            in the inputs and outputs).
        representative: Required for `"int8"`: some hundred training inputs, which set
            the ranges of activations for all widths. Arrays `(n, ...)` as for
            `model.predict`; or a `tf.data.Dataset`, a `keras.utils.PyDataset`, an
            iterable of samples or batches (each with or without labels), or the path of
            a folder of photos, of which at most 300 samples are used.
        samples: Inputs for the comparison, in the formats of `representative`. A
            hundred real inputs are best. `None` takes a fifth of `representative`, at
            most 100, and does not use these samples for the ranges (with fewer than 100
            samples, the first 16, which are also used for the ranges). Without
            `representative`, `None` takes 4 random samples, standard normal at the
            first kernel.
        tolerance: Largest allowed difference of outputs, relative to the largest output
            if that exceeds 1. For integer outputs, the largest share that may differ.
            `None` takes `TOLERANCES[precision]`, or at least 2e-2 if the model computes
            in half precision.
        metadata: Information for users of the file, a dict that JSON can hold, stored
            in the file and its manifest. `class_names`, a list, become the labels.
            `normalization`, a dict with `mean` and `std` (numbers, or lists of three,
            in the unit of pixels), says that the model takes `(pixels - mean) / std`.
            `None` takes that of `append_to`.
        refine: `(narrow, wide)`, two of `widths`. Adds two signatures for
            `AnytimeInterpreter`, which computes outputs at the narrow width, and then
            those at the wide width without repeating the shared work.
        append_to: A file of an earlier export of this model, with its manifest beside
            it. The new file has the old signatures unchanged, and those of `widths`,
            which must be new. `path` may be the same file.
        inputs: Dtype of image inputs in the file. `"uint8"` takes pixels; the file
            casts and normalizes them, so an app computes nothing. `"float32"`; or
            `None` for the model's own dtype.
        outputs: `"probabilities"` adds a softmax if the model gives logits. `"logits"`
            removes a final softmax. `"model"` changes nothing.
        input_shape: Shape of the file's input without the batch, such as `(128, 128,
            1)`, for a model with unknown rows, cols or steps. For several inputs, a
            dict of shapes by name, or a list in the model's order.
        verbose: `1` shows a line for each converted and each verified width, `0` shows
            nothing. `"auto"` shows the lines in a terminal or a notebook, and elsewhere
            if the export takes more than 10 seconds.

    Returns:
        A record for each width of the file, ascending.

    Raises:
        ImportError: If TensorFlow or LiteRT is not installed.
        TypeError: If `model` has one width only, if `metadata` cannot be stored as
            JSON, or if `input_shape` is not a shape.
        ValueError: If `widths` is empty or out of range; if `path` does not fit
            `single_file`; if samples do not fit the model's inputs; if rows, cols or
            steps are unknown and `input_shape` is missing or does not fit; if an option
            has an unknown value, or is not possible for this model; if the number of
            `class_names` is not the number of classes; or if `representative` has
            another scale than the model's inputs. With `refine`, if it is not two
            ascending widths of `widths`, if `single_file` is `False`, if `precision` is
            `"int8"`, or if no layer can be cut. With `append_to`, if the file is no
            export of this model with these options, if it already has one of `widths`,
            or if `refine` is given.
        ExportError: If the model has a lookup table; with `"int8"`, if it has a
            recurrent layer without `unroll=True`; if the file would need operators that
            are not builtin; or if an output differs from the model by more than
            `tolerance`, also at a width of `append_to`. No file is written then.
        OSError: If a file cannot be written. If possible, this is checked before the
            conversion.

    Warns:
        UserWarning: If the MACs of some layers are not known; if a file of integers
            often gives another class than the model; or if `representative` holds
            pixels and the inputs of `fit` were normalized, or the other way round.

    Examples:
        >>> from awn_keras import export_tflite, lenet_3c1l
        >>> model = lenet_3c1l()
        >>> exported = export_tflite(model, "lenet.tflite", widths=[0.25, 0.5, 1.0])
        >>> [width.signature for width in exported]
        ['width_025', 'width_050', 'width_100']
    """
    # All arguments are checked before the conversion, which can take minutes.
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

    # Adding the results of blocks would round integers twice, and a refinement must
    # keep joined activations. So then blocks are joined instead of added.
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
        # The widest first: LiteRT runs the first signature if an app names none.
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
            # The old widths are verified again below: the model may have changed since.
            content = earlier.joined_with(content, group)
            named = {**earlier.widths, **earlier.refinement, **named}
        content = with_metadata(
            content, _embedded(model, described, named, executed, content)
        )
        # The content is verified in memory, so a wrong file is never written.
        file = TFLiteFile(content, place.name)
        verified = []
        for name, width in named.items():
            verified.append(compare(model, width, file, name, compared, tolerance))
            progress.done(f"{name} verified")
        files[place] = (file, verified)
    if precision in ("int8", "dynamic_range"):
        every = [result for _, verified in files.values() for result in verified]
        warn_of_agreement(every, len(compared[0]), precision)
    exported = [
        _record(model, file, result, executed[result.width])
        for file, verified in files.values()
        for result in verified
        if Refinement.parse(result.signature) is None
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
        asdict(result)
        for _, verified in files.values()
        for result in verified
        if Refinement.parse(result.signature) is not None
    ]
    if refined:
        described["refinement"] = refined
    described["constants"] = {
        file.name: asdict(constants(file.content)) for file, _ in files.values()
    }
    described["widths"] = [asdict(record) for record in exported]
    beside.parent.mkdir(parents=True, exist_ok=True)
    with together():  # files and manifest must belong to the same export
        for place, (file, _) in files.items():
            write_whole(place, file.content)
        write_whole(beside, json.dumps(described, indent=1) + "\n")


def _as_file(
    model: MultiWidthModel, interface: Interface, arrays: list[np.ndarray] | None
) -> list[np.ndarray] | None:
    """Converts samples for the model into samples for the file."""
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
    """The manifest inside the file, without machine and date.

    So equal models give equal bytes, and the file does not show who made it.
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
            "`widths` must not be empty, and must differ by at least a millionth, "
            f"because signatures are named after them. Received: widths={widths}"
        )
    if len(set(model.output_names)) < len(model.output_names):
        raise ArgumentError(
            "Each output must come from a different layer, because the file names "
            "outputs after layers. Put an `Identity` layer after one of them. "
            f"Received: outputs of the layers {model.output_names}"
        )
    return widths


def _check_append(
    append_to: str | Path | None, widths: Any, single_file: bool, refine: Any
) -> None:
    if append_to is None:
        return
    if not single_file or refine is not None:
        raise ArgumentError(
            "With `append_to`, `single_file` must be True and `refine` must be None. "
            f"Received: single_file={single_file}, refine={refine}"
        )
    if widths is None:
        raise ArgumentError("`widths` must name the new widths with `append_to`.")


def _cuts(
    model: MultiWidthModel,
    widths: list[float],
    layout: str,
    tune: bool,
    earlier: Earlier | None,
) -> dict[str, Cut]:
    """Chooses the cuts of kernels. With `append_to`, it adds to the earlier cuts."""
    chosen_for = sorted(earlier.widths.values()) if earlier is not None else widths
    timed = [measured(model, chosen_for)] if tune and layout == "auto" else []
    cuts = choose_cuts(model, chosen_for, layout, *timed)
    if earlier is None:
        return cuts
    return extended(cuts, model, [*chosen_for, *widths])


def check_path(path: Path, single_file: bool) -> Path:
    """Checks that a path fits the kind of export.

    Raises:
        ValueError: If the ending of the path does not fit `single_file`.
    """
    if single_file and path.suffix != ".tflite":
        raise ArgumentError(
            "`path` must end in '.tflite'. (With `single_file=False`, `path` is a "
            f"directory.) Received: path={str(path)!r}"
        )
    if not single_file and path.suffix == ".tflite":
        raise ArgumentError(
            "`path` must be a directory with `single_file=False`. Received: "
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
            "`refine` needs `single_file=True`, because both widths must be in one "
            f"file. {received}"
        )
    if precision == "int8":
        raise ArgumentError(
            "`precision` must not be 'int8' with `refine`, which passes activations on "
            f"as floats. 'dynamic_range' also stores int8 constants. {received}"
        )
    if all(layer.readout for layer in candidates(model).values()):
        raise ArgumentError(
            "`refine` needs Tri layers that can be cut (see "
            f"`awn_keras.layouts.candidates`); '{model.name}' has none. {received}"
        )
    return Refinement(*pair)


def _continued(
    model: MultiWidthModel,
    widths: Sequence[float],
    pair: Refinement,
    cuts: Mapping[str, Cut],
) -> dict[str, keras.Model]:
    """Makes the two networks of a refinement, with every possible kernel cut."""
    rows = {
        name: layer.cut_at(widths)
        for name, layer in candidates(model).items()
        if not layer.readout
    }
    narrow, wide = slim_alike(model, (pair.narrow, pair.wide), dtype="float32")
    both = continuation(narrow, wide, {**rows, **cuts})
    return dict(zip((pair.keep, pair.refine), both, strict=True))


def _check_manifest(path: Path) -> None:
    """Checks that the manifest does not overwrite a file that is not a manifest."""
    if not path.is_file():
        return
    try:
        ours = "widths" in json.loads(path.read_bytes())
    except (TypeError, ValueError, RecursionError):
        ours = False
    if not ours:
        raise ArgumentError(
            f"{path} already exists and is not the manifest of an export. The manifest "
            "would have this name: choose another `path`."
        )


def _describe(
    model: MultiWidthModel,
    layout: str,
    precision: str,
    metadata: Mapping[str, Any],
    interface: Interface,
) -> dict[str, Any]:
    """The part of the manifest that describes the whole export."""
    said = dict(metadata)
    if interface.inside is not None:
        # The file normalizes pixels itself. A reader would normalize them twice.
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
    """Dtype and kind of scores of an output, for the manifest."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    said = {"dtype": "float32" if "float" in dtype else dtype}
    if name == interface.output and interface.scores is not None:
        said["scores"] = interface.scores
    return said


def _digest(model: MultiWidthModel) -> str:
    """Hash of the model's weights."""
    digest = hashlib.sha256()
    for layer in model.layers:
        for value in model.weight_values(layer, 1.0):
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _signature_has(x: keras.KerasTensor, name: str) -> dict[str, Any]:
    """Name and shape of an input or output of a signature, with batch size 1."""
    return {"name": name, "shape": [1, *x.shape[1:]]}


def _samples(
    model: MultiWidthModel,
    interface: Interface,
    samples: Any,
    representative: list[np.ndarray] | None,
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Splits the samples: for the comparison, and for the ranges."""
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
    """MACs of a width in a dense file, and the layers that are not counted."""
    count = known_macs(model, [width])
    return {"macs": int(count.macs[0]), "uncounted": count.names}
