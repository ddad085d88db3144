"""`awn export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from awn_keras.cli.arguments import (
    WIDTHS_HELP,
    Parser,
    add_input_shape_argument,
    metadata_of,
    parse_widths,
)
from awn_keras.cli.images import class_names_beside
from awn_keras.cli.output import (
    AGREEMENT_HEAD,
    agreement,
    told_on_stderr,
    write_line,
)
from awn_keras.cli.sets import add_set_arguments, load_dataset, some_of
from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.files import check_can_write

HELP = "Write a TFLite file that runs at several widths."
_PRECISION_HELP = "float32 (default), float16, dynamic_range, int8"


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, help="a .keras file")
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        help="file (default: MODEL.tflite); with --separate, a directory",
    )
    add(
        "--widths",
        type=parse_widths,
        metavar="W,W,...",
        help=f"{WIDTHS_HELP} (default: 4, evenly spaced)",
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--single-file",
        action="store_true",
        default=True,
        help="one file with a signature for each width (default)",
    )
    files.add_argument(
        "--separate",
        action="store_false",
        dest="single_file",
        help="a file for each width, in a directory (default: MODEL_tflite)",
    )
    add(
        "--layout",
        default="auto",
        help="layout of kernels: auto (default; cuts kernels that get faster), "
        "triangular (cuts all), dense (cuts none)",
    )
    add(
        "--tune",
        action="store_true",
        help="measure layers on this machine to choose the layout (takes minutes)",
    )
    add("--precision", default="float32", help=_PRECISION_HELP)
    add(
        "--inputs",
        help="dtype of image inputs: float32, or uint8 for pixels, which the file "
        "normalizes itself (default: as in the model)",
    )
    add(
        "--outputs",
        help="model (unchanged), probabilities (adds a softmax), or logits (removes a "
        "softmax); default: probabilities if class names are known and the model "
        "gives logits, otherwise model",
    )
    add(
        "--refine",
        type=parse_widths,
        metavar="W,W",
        help="narrow and wide width: add signatures that compute the narrow outputs "
        "first, then refine them (for AnytimeInterpreter)",
    )
    add(
        "--append-to",
        type=Path,
        metavar="FILE",
        help="earlier export of the model, with its .json beside it: the new file has "
        "its widths, too; --output may be the same file",
    )
    add(
        "--representative",
        type=Path,
        metavar="FILE.npy",
        help="training inputs (n, ...) that set the ranges of int8 (default: 200 "
        "images of --dataset or --data)",
    )
    add_input_shape_argument(parser)
    add_set_arguments(parser, "compare on 100 test images of a data set")
    parser.renamed["path"] = "output"


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.counting import WARNING as UNCOUNTED
    from awn_keras.counting import macs_cell, uncounted_note
    from awn_keras.deploy import export_tflite
    from awn_keras.deploy.calibration import WARNING
    from awn_keras.deploy.export import check_path
    from awn_keras.loading import load_model

    model = load_model(args.model)
    default = args.model.with_name(
        f"{args.model.stem}.tflite" if args.single_file else f"{args.model.stem}_tflite"
    )
    output = check_path(args.output or default, args.single_file)
    data = load_dataset(args, args.model, model)
    samples = representative = None
    metadata: dict[str, Any] | None = None
    if args.representative:
        representative = _load_array(args.representative)
    if data is not None:
        samples = some_of(data.x_test, 100)
        if representative is None:
            trained_on = data.x_train if len(data.x_train) else data.x_test
            representative = some_of(trained_on, 200)
        metadata = metadata_of(data)
    elif names := class_names_beside(args.model):
        metadata = {"class_names": names}
    check_can_write(output, "--output", folder=not args.single_file)
    before = _options_of(args.append_to)
    with told_on_stderr(WARNING, UNCOUNTED):
        exported = export_tflite(
            model,
            output,
            widths=args.widths,
            single_file=args.single_file,
            layout=args.layout,
            tune=args.tune,
            precision=args.precision,
            representative=representative if args.precision == "int8" else None,
            samples=samples,
            metadata=metadata,
            refine=args.refine,
            append_to=args.append_to,
            inputs=args.inputs or before.get("inputs"),
            input_shape=args.input_shape,
            outputs=args.outputs or before.get("outputs") or _outputs(model, metadata),
        )
    write_line(
        f"{'width':>8} {'MACs':>13} {'executed':>13} {'file kB':>9} {AGREEMENT_HEAD}  "
        "signature, file"
    )
    for network in exported:
        write_line(
            f"{network.width:8.4g} {macs_cell(network.macs, network.uncounted):>13} "
            f"{macs_cell(network.executed_macs, network.uncounted):>13} "
            f"{network.bytes / 1e3:9.1f} "
            f"{agreement(network)}  {network.signature}, {network.file}"
        )
    for line in uncounted_note(exported[0].uncounted):
        write_line(line)
    if args.refine:
        narrow, wide = args.refine
        write_line(f"AnytimeInterpreter: runs at {narrow:g}, refines to {wide:g}")


def _options_of(append_to: Path | None) -> dict[str, str]:
    """The `--inputs` and `--outputs` of an earlier export, read from its file."""
    from awn_keras.deploy.litert import TFLiteFile

    if append_to is None:
        return {}
    changed = TFLiteFile(append_to).described.get("changed", {})
    softmax = {"added": "probabilities", "left out": "logits", None: "model"}
    options = {"outputs": softmax[changed.get("softmax")]}
    return options | ({"inputs": "uint8"} if changed.get("inputs") else {})


def _outputs(model: Any, metadata: dict[str, Any] | None) -> str:
    """The default of `--outputs`."""
    from awn_keras.deploy.interface import gives_logits

    named = bool(metadata and metadata.get("class_names"))
    return "probabilities" if named and gives_logits(model) else "model"


def _load_array(path: Path) -> Any:
    import numpy as np

    try:
        # Mapped, so that a wrong header cannot make NumPy allocate too much memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged header may raise anything
        raise ArgumentError(
            f"{path} is not an .npy file of numbers: {error}"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ArgumentTypeError(
            f"{path} is not an .npy file of numbers, but an archive (.npz)."
        )
    if array.dtype.kind not in "biuf":
        raise ArgumentTypeError(
            f"{path} is not an .npy file of real numbers. Received: dtype {array.dtype}"
        )
    return array
