"""The command `awn`: arguments in, one call, a table out."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

SYSTEM_HELP = (
    "by the paper's recipe: awn_rs, awn, s_net, us_net, shared_bn, plain (default: an "
    "any-width network by the recipe of docs/training.md)"
)
PRECISION_HELP = "float32 (default), float16, dynamic_range, int8"
PROGRAM_HELP = "LiteRT's benchmark_model for that device; see tflite/README.md"
INPUTS_HELP = "inputs are (pixels - mean) / std of the training set"
WIDTHS_HELP = "widths in (0, 1], separated by commas, as in 0.25,0.5,1"


class _Parser(argparse.ArgumentParser):
    """Answers bad arguments by one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments. `None` for the process's own.

    Returns:
        The exit code: 0, or 2 after bad input, which one line on stderr explains (of
        a model that cannot be converted, one line for each reason).
    """
    args = _parser().parse_args(argv)
    from awn_keras.conversion import ConversionError
    from awn_keras.data import DatasetUnavailableError
    from awn_keras.deploy.benchmark import DeviceError
    from awn_keras.deploy.converter import ExportError
    from awn_keras.deploy.engine import EngineError

    try:
        args.run(args)
    except (
        DatasetUnavailableError,
        DeviceError,
        EngineError,
        ExportError,
        IncompleteError,
        NotImplementedError,
        OSError,
        TypeError,
        ValueError,
    ) as error:
        findings = isinstance(error, ConversionError)  # a line for each
        message = str(error) if findings else " ".join(str(error).split())
        message = _as_typed(message, args.parser)
        sys.stderr.write(f"awn {args.command}: error: {message}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"awn {args.command}: interrupted\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="awn", description="Any-width networks: train once, run any width."
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[Any], None], text: str) -> Any:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run, parser=sub)
        return sub

    demo = command(
        "demo", _demo, "Train on scikit-learn's digits, show the curve, export TFLite."
    )
    demo.add_argument("--output", type=Path, default=Path("awn_demo"), help="directory")

    train = command("train", _train, "Train a network of the paper; see its curve.")
    add = train.add_argument
    add("--dataset", required=True, help="digits, mnist, fashion_mnist, cifar10, ...")
    add("--model", dest="architecture", help="lenet_3c1l (default), mobilenet_v2")
    add("--system", dest="paper_system", help=SYSTEM_HELP)
    add("--output", type=Path, help="default: runs/DATASET_MODEL[_SYSTEM]")
    add("--resume", action="store_true", help="go on from the last finished epoch")
    add(
        "--devices",
        type=int,
        help="train on so many GPUs, or, where there are none, processor devices "
        "(default: 1)",
    )
    add(
        "--strategy",
        help="mirrored (default with TensorFlow), data_parallel (default with JAX), "
        "multiworker (machines of TF_CONFIG); see docs/distributed.md",
    )
    add(
        "--epochs",
        type=int,
        help="default: 20, for CIFAR 100; mobilenet_v2: 350, other systems than AWNs "
        "100",
    )
    add("--batch-size", type=int, help="default: 128")
    add(
        "--learning-rate",
        type=float,
        help="of SGD, at first (default: 0.12; 0.04 for CIFAR and mobilenet_v2; with "
        "--system 0.01)",
    )
    add(
        "--schedule",
        help="of the rate: cosine (default), or steps (default for mobilenet_v2 and "
        "with --system): a tenth after 50 %% and 75 %%",
    )
    add("--momentum", type=float, help="default: 0.9")
    add(
        "--weight-decay",
        type=float,
        help="default: 5e-4, for CIFAR 1.25e-4; mobilenet_v2: 0, for CIFAR 1.25e-4; "
        "with --system 0, for CIFAR 5e-4",
    )
    add("--filters", type=int, help="lenet_3c1l's, before --width-multiplier")
    add("--width-multiplier", type=float, help="default: sqrt(2)")
    add(
        "--min-width",
        type=float,
        help="smallest width (default: 0.25; 0.35 for mobilenet_v2)",
    )
    add(
        "--divisor",
        type=int,
        help="channels come in blocks of this size (default: 1; 8 for mobilenet_v2)",
    )
    add("--widths-grid", type=_widths, metavar="W,W,...", help=WIDTHS_HELP)
    add(
        "--sampler",
        help="widths of a step: sandwich (default), expected_sandwich (default of "
        "lenet_3c1l for CIFAR without --system: all widths, each weighed by how often "
        "the sandwich runs it), uniform, fixed (default of --system awn, s_net and "
        "shared_bn), all",
    )
    add(
        "--num-widths",
        type=int,
        help="widths in a step (default: 4); expected_sandwich runs all, and their "
        "weights sum to it",
    )
    add(
        "--width-reduction",
        help="of the losses: mean (default), or sum (default with --system); a sum of "
        "four takes a quarter of the rate and four times the decay",
    )
    add("--seed", type=int, help="of everything drawn (default: 0)")
    _add_data_arguments(train)

    reproduce = command(
        "reproduce",
        _reproduce,
        "Run a table or figure of the paper, beside its numbers.",
    )
    add = reproduce.add_argument
    add("experiment", help="table1, table2, figure2, figure4, ..., or individual")
    add("--dataset", help="default: the paper's first")
    add("--model", dest="architecture", default="lenet_3c1l")
    add("--seeds", type=int, default=1, help="runs of each system (default: 1)")
    add("--scale", type=float, default=1.0, help="part of the epochs; marks results")
    add("--precision", default="float32", help="of steps: float32, mixed_bfloat16")
    add("--systems", help="some of the runs only, separated by commas")
    add("--show", action="store_true", help="run nothing: show what is finished")
    add("--results", type=Path, default=Path("results/paper"), help="JSON, figures")
    add("--work", type=Path, default=Path("runs/paper"), help="checkpoints")
    _add_data_arguments(reproduce)

    convert = command("convert", _convert, "Make a saved Keras model any-width.")
    convert.add_argument("model", type=Path, help="a .keras file")
    add = convert.add_argument
    add("--output", type=Path, help="file (default: MODEL_any_width.keras)")
    add("--min-width", type=float, help="smallest width (default: 0.25)")
    add("--divisor", type=int, default=8, help="channels per block (default: 8)")
    add("--widths-grid", type=_widths, metavar="W,W,...", help=WIDTHS_HELP)
    add("--width-multiplier", type=float, default=1.0, help="default: 1")
    add("--order", default="keep", help="keep (default), or importance if trained")

    evaluate = command("evaluate", _evaluate, "Evaluate a saved model at many widths.")
    evaluate.add_argument("model", type=Path, help="a .keras file")
    evaluate.add_argument(
        "--dataset", required=True, help=f"digits, mnist, ...; {INPUTS_HELP}"
    )
    evaluate.add_argument("--widths", type=_widths, metavar="W,W,...", help=WIDTHS_HELP)
    evaluate.add_argument("--output", type=Path, help="directory for csv, json, png")
    _add_data_arguments(evaluate)

    summary = command(
        "summary", _summarize, "Show the layers of a saved model, or its networks."
    )
    summary.add_argument("model", type=Path, help="a .keras file")
    summary.add_argument("--widths", type=_widths, metavar="W,W,...", help=WIDTHS_HELP)
    summary.add_argument(
        "--networks",
        action="store_true",
        help="list the distinct networks (those at --widths, if given) and their costs",
    )

    export = command("export", _export, "Write a TFLite file that runs at some widths.")
    export.add_argument("model", type=Path, help="a .keras file")
    add = export.add_argument
    add("--output", type=Path, help="file (default: MODEL.tflite), or directory")
    add(
        "--widths",
        type=_widths,
        metavar="W,W,...",
        help=f"{WIDTHS_HELP} (default: 4, evenly spaced)",
    )
    files = export.add_mutually_exclusive_group()
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
        "--layout", default="auto", help="of kernels: auto (default), triangular, dense"
    )
    add("--tune", action="store_true", help="measure layers here, to choose the layout")
    add("--precision", default="float32", help=PRECISION_HELP)
    add(
        "--refine",
        type=_widths,
        metavar="W,W",
        help="answer at one of the widths, then refine to another (AnytimeInterpreter)",
    )
    add(
        "--representative",
        type=Path,
        metavar="FILE.npy",
        help="training inputs (n, ...) for int8 (default: 200 of --dataset's)",
    )
    add(
        "--dataset",
        help=f"compare on this set's first 100 test images; {INPUTS_HELP}",
    )
    _add_data_arguments(export)

    verify = command("verify", _verify, "Compare a TFLite file with the model.")
    verify.add_argument("file", type=Path, help="a .tflite file")
    verify.add_argument("--against", type=Path, required=True, help="a .keras file")
    verify.add_argument(
        "--precision",
        help="the file's: decides what may differ (default: as its manifest says)",
    )
    verify.add_argument(
        "--dataset",
        help=f"compare on this set's first 500 test images; {INPUTS_HELP}",
    )
    _add_data_arguments(verify)

    benchmark = command(
        "benchmark",
        _benchmark,
        "Measure each width of TFLite files, here or elsewhere.",
    )
    benchmark.add_argument("files", type=Path, nargs="+", help=".tflite files")
    add = benchmark.add_argument
    add("--dry", action="store_true", help="only count what each width costs")
    add("--targets", type=_words, metavar="T,T", help="here: cpu (default), gpu")
    add("--android", action="store_true", help="on an Android device, by adb")
    add("--serial", action="append", default=[], help="which one; may be repeated")
    add("--adb", default="adb", help="the program (default: adb)")
    add("--ssh", action="append", default=[], metavar="USER@BOARD", help="on a board")
    add("--cpu", action="store_true", help="there: on the CPU (default)")
    add("--gpu", action="store_true", help="there: on the GPU")
    add("--benchmark-model", type=Path, metavar="PROGRAM", help=PROGRAM_HELP)
    add("--cooldown", type=float, default=0.0, help="seconds between runs there")
    add("--threads", type=_integers, default=(1,), metavar="N,N", help="default: 1")
    add("--widths", type=_widths, metavar="W,W,...", help=WIDTHS_HELP)
    add("--runs", type=int, default=50, help="timed runs in a repetition (default: 50)")
    add("--warm-up", type=int, default=5, help="runs before them (default: 5)")
    add("--min-seconds", type=float, default=0.3, help="of one (default: 0.3)")
    add("--repeats", type=int, default=5, help="repetitions (default: 5)")
    add("--timeout", type=float, default=600, help="seconds for one (default: 600)")
    add("--output", type=Path, help="report (default: FILE.benchmark.json)")
    add("--merge", action="append", type=Path, default=[], help="add rows of a report")
    add("--csv", type=Path, help="write the rows as CSV, too")
    add("--html", type=Path, help="write an HTML page with a picture, too")
    add(
        "--dataset",
        help=f"measure accuracy, too, on this set's test images; {INPUTS_HELP}",
    )
    _add_data_arguments(benchmark)

    pick = command("pick", _pick, "Pick the best width that keeps to a budget.")
    pick.add_argument("report", type=Path, help="a report of `awn benchmark`")
    add = pick.add_argument
    add("--budget-ms", type=float, help="longest latency, in ms")
    add("--budget-kb", type=float, help="longest file, in kB of 1000 bytes")
    add("--target", help="cpu, gpu, android-cpu, ..., if there are several")
    add("--device", help="which device, if there are several")
    add("--threads", type=int, help="for how many threads, if there are several")
    add("--file", help="which file, if there are several")
    add("--quantile", default="p90", help="of latency: median, p90 (default), p95")
    return parser


def _version() -> str:
    from awn_keras import __version__

    return f"awn_keras {__version__}"


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS sets")
    parser.add_argument(
        "--download", action="store_true", help="let TFDS fetch a missing set"
    )


def _widths(text: str) -> tuple[float, ...]:
    from awn_keras.widths import check_width

    try:
        return tuple(check_width(float(part)) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{WIDTHS_HELP}. Received: {text!r}"
        ) from error


# ------------------------------------------------------------------------ commands


def _demo(args: argparse.Namespace) -> None:
    from awn_keras.curves import trade_off_curve
    from awn_keras.data import load_data
    from awn_keras.deploy import export_tflite
    from awn_keras.files import write_whole
    from awn_keras.runs.presets import recommended_recipe
    from awn_keras.runs.result import holds_run_of
    from awn_keras.runs.run import run

    directory = _writable(args.output)
    # So narrow that the digits, which are easy, show what width is worth.
    recipe = replace(recommended_recipe("digits"), epochs=15, min_width=0.05)
    if holds_run_of(recipe, directory):  # an earlier demo
        (directory / "model.keras").unlink()
    start = time.perf_counter()
    result = run(recipe, directory)
    seconds = time.perf_counter() - start
    _print(str(result.curve))
    data = load_data("digits")
    test = data.test()
    widths = [0.05, 0.25, 0.5, 1.0]
    exported = export_tflite(
        *(result.model, directory / "digits.tflite"),
        widths=widths,
        samples=test[0][0][:100],
        metadata=_metadata(data),
    )
    chosen = trade_off_curve(result.model, test, widths=widths)
    summary = _summary(result.curve, chosen.accuracy, exported, seconds, directory)
    write_whole(directory / "summary.txt", summary)
    _print("\n" + summary)


def _summary(
    curve: Any, accuracy: list[float], exported: Any, seconds: float, directory: Path
) -> str:
    full = exported[-1]
    lines = [
        f"One training run of {seconds:.0f} s gave {len(curve.widths)} networks in one "
        "model. On average they read",
        f"{100 * curve.auc:.1f} % of the test digits right (AUC). Four of them are in "
        f"one TFLite file of {full.bytes / 1e3:.0f} kB:",
        "",
    ]
    for right, one in zip(accuracy, exported, strict=True):
        lines.append(
            f"  width {one.width:4.2f}: {100 * right:5.1f} % right, {one.macs:9,} "
            f"multiplications for a digit"
            + (f" ({full.macs / one.macs:5.1f} times fewer)" if one is not full else "")
        )
    error = max(one.largest_error for one in exported)
    lines += [
        "",
        "Each was run with LiteRT and answers as the model does at its width "
        f"(largest difference {error:.0e}).",
        f"In {directory}: digits.tflite with its manifest digits.json, model.keras, "
        "curve.png, curve.csv, result.json, and this text as summary.txt.",
    ]
    return "\n".join(lines) + "\n"


def _train(args: argparse.Namespace) -> None:
    from awn_keras.runs.devices import choose_devices
    from awn_keras.runs.presets import paper_recipe, recommended_recipe
    from awn_keras.runs.recipe import Recipe
    from awn_keras.runs.run import run

    devices = choose_devices(args.strategy, args.devices)
    network = (args.dataset, args.architecture or Recipe.architecture)
    if args.paper_system is None:
        recipe = recommended_recipe(*network)
    else:
        recipe = paper_recipe(*network, args.paper_system)
    given = {
        field.name: getattr(args, field.name)
        for field in fields(Recipe)
        if getattr(args, field.name, None) is not None
    }
    recipe = replace(recipe, **given)
    name = f"{recipe.dataset}_{recipe.architecture}"
    if args.paper_system is not None:
        name += f"_{args.paper_system}"
    output = args.output or Path("runs") / name
    result = run(
        recipe,
        output,
        resume=args.resume,
        data_dir=args.data_dir,
        download=args.download,
        devices=devices,
    )
    if not devices.chief:
        return
    for count, curve in result.curves.items():
        _print((f"{count} widths calibrated:\n" if count else "") + str(curve))
        _print(f"AUC {100 * curve.auc:.2f} %, in {output}")


def _reproduce(args: argparse.Namespace) -> None:
    from awn_keras.experiments.paper import runs_of
    from awn_keras.experiments.reproduce import (
        SEEDS,
        finished_kinds,
        finished_runs,
        run_missing,
        show,
        write_report,
    )

    which = (args.experiment, args.dataset, args.architecture)
    systems = None if args.systems is None else args.systems.split(",")
    kind = {"scale": args.scale, "precision": args.precision}
    runs = runs_of(*which, seeds=args.seeds, systems=systems, **kind)
    every = runs_of(*which, seeds=max(args.seeds, SEEDS), **kind)
    results = _writable(args.results)
    here = len(finished_runs(every, results))
    for options, count in finished_kinds(*which, results).items():
        if count > here:
            _print(f"{count} finished runs have {options}: give these to see them.")
    if not args.show:
        run_missing(
            *(runs, results, _writable(args.work)),
            report=_print,
            verbose=1 if sys.stdout.isatty() else 2,
            data_dir=args.data_dir,
            download=args.download,
        )
    _print(str(show(args.experiment, finished_runs(every, results), results)))
    write_report(results)
    _print(f"All tables and figures: {results / 'README.md'}")


def _convert(args: argparse.Namespace) -> None:
    from awn_keras.conversion import to_any_width
    from awn_keras.loading import load_keras_model
    from awn_keras.summary import list_networks

    output = args.output or args.model.with_name(f"{args.model.stem}_any_width.keras")
    if output.suffix != ".keras":
        raise ValueError(f"`--output` must be a .keras file. Received: {output}")
    if output.exists():
        raise ValueError(
            f"{output} is there already, and may have been trained. Remove it, or name "
            "another one with `--output`."
        )
    model = to_any_width(
        load_keras_model(args.model, compiled=False),
        min_width=args.min_width,
        divisor=args.divisor,
        widths_grid=args.widths_grid,
        width_multiplier=args.width_multiplier,
        order=args.order,
    )
    _writable(output.parent)
    partial = output.with_name(f"{output.stem}.partial.keras")
    model.save(partial)
    partial.replace(output)
    ends = list_networks(model, [model.min_width, 1.0])
    count = len(model.distinct_widths)
    _print(f"{output}: {count} networks. The narrowest and the widest:")
    _print(str(ends))
    _print("Compile and fit it as any Keras model; then it runs at every width.")


def _evaluate(args: argparse.Namespace) -> None:
    from awn_keras.curves import trade_off_curve
    from awn_keras.data import load_data
    from awn_keras.loading import load_model
    from awn_keras.pictures import new_figure

    model = load_model(args.model)
    output = args.output and _writable(args.output)
    data = load_data(args.dataset, data_dir=args.data_dir, download=args.download)
    _check_data_fits(model, data)
    curve = trade_off_curve(model, data.test(), widths=args.widths)
    _print(str(curve))
    if output:
        curve.to_csv(output / "curve.csv")
        curve.to_json(output / "curve.json")
    if output and curve.accuracy:
        figure, ax = new_figure()
        curve.plot(ax)
        figure.savefig(output / "curve.png", dpi=150)


def _summarize(args: argparse.Namespace) -> None:
    from awn_keras.loading import load_model
    from awn_keras.summary import list_networks, summarize

    show = list_networks if args.networks else summarize
    _print(str(show(load_model(args.model), widths=args.widths)))


def _export(args: argparse.Namespace) -> None:
    from awn_keras.deploy import export_tflite
    from awn_keras.deploy.export import check_path
    from awn_keras.loading import load_model

    model = load_model(args.model)
    default = args.model.with_name(
        f"{args.model.stem}.tflite" if args.single_file else f"{args.model.stem}_tflite"
    )
    output = check_path(args.output or default, args.single_file)
    data, samples, representative, metadata = _data_for(args, model), None, None, None
    if args.representative:
        representative = _load_array(args.representative)
    if data is not None:
        samples = data.test()[0][0][:100]
        if representative is None:
            representative = data.train(200)[0][0]
        metadata = _metadata(data)
    _writable(output.parent if args.single_file else output)
    exported = export_tflite(
        *(model, output),
        widths=args.widths,
        single_file=args.single_file,
        layout=args.layout,
        tune=args.tune,
        precision=args.precision,
        representative=representative if args.precision == "int8" else None,
        samples=samples,
        metadata=metadata,
        refine=args.refine,
    )
    _print(
        f"{'width':>8} {'MACs':>13} {'file kB':>9} {_AGREEMENT_HEAD}  signature, file"
    )
    for one in exported:
        _print(
            f"{one.width:8.4g} {one.macs:13,} {one.bytes / 1e3:9.1f} "
            f"{_agreement(one)}  {one.signature}, {one.file}"
        )
    if args.refine:
        narrow, wide = args.refine
        _print(f"AnytimeInterpreter: answers at {narrow:g}, refines to {wide:g}")


def _verify(args: argparse.Namespace) -> None:
    from awn_keras.deploy import verify_tflite
    from awn_keras.deploy.verification import TOLERANCES, default_tolerance
    from awn_keras.loading import load_model

    precision = args.precision
    if precision is not None and precision not in TOLERANCES:
        raise ValueError(
            f"`--precision` must be one of {', '.join(TOLERANCES)}. Received: "
            f"{precision}"
        )
    model = load_model(args.against)
    data = _data_for(args, model)
    verified = verify_tflite(
        *(args.file, model),
        samples=None if data is None else data.test()[0][0],
        tolerance=None if precision is None else default_tolerance(model, precision),
    )
    _print(f"{'width':>8} {_AGREEMENT_HEAD}  signature")
    for one in verified:
        _print(f"{one.width:8.4g} {_agreement(one)}  {one.signature}")


_AGREEMENT_HEAD = f"{'largest error':>14} {'on GPU':>8} {'same class':>11}"


def _agreement(one: Any) -> str:
    same = "-" if one.agreement is None else f"{100 * one.agreement:.1f} %"
    gpu = "-" if one.gpu_error is None else f"{one.gpu_error:.1e}"
    return f"{one.largest_error:14.1e} {gpu:>8} {same:>11}"


def _benchmark(args: argparse.Namespace) -> None:
    from awn_keras.deploy.benchmark import write_html

    if args.dry:
        _count(args)
        return
    output = args.output or Path(f"{args.files[0].with_suffix('')}.benchmark.json")
    for path in filter(None, (output, args.csv, args.html)):
        _writable(path.parent)
    report, new = _measure(args, output)
    if args.csv:
        report.to_csv(args.csv)
    if args.html:
        write_html(report, args.html)
    shown = report if args.merge else new
    if shown.rows:
        _print(shown.table())
    for warning in shown.warnings():
        _print(f"warning: {warning}")
    _print(f"{len(new.rows)} rows measured, {len(report.rows)} in {output}")
    if new.failures:
        raise IncompleteError("; ".join(map(str, new.failures)))


def _count(args: argparse.Namespace) -> None:
    """What `--dry` tells."""
    from awn_keras.deploy.benchmark import costs_of
    from awn_keras.deploy.benchmark.host import Subject

    if args.csv or args.html or args.output:
        raise ValueError("`--dry` writes no file: leave `--output`, `--csv`, `--html`.")
    for path in args.files:
        found = costs_of(path.read_bytes(), str(path))
        if args.widths:
            chosen = Subject.of(path, args.widths).widths
            found = {name: found[name] for name in chosen}
        _print(f"{path}\n{_costs(found)}")


class IncompleteError(RuntimeError):
    """Something could not be measured; the rest is on disk."""


def _measure(args: argparse.Namespace, output: Path) -> tuple[Any, Any]:
    """The report, which is on disk after each row, and what is new in it."""
    from awn_keras.deploy.benchmark import Report
    from awn_keras.deploy.benchmark.host import Subject

    # What was measured before stays, unless of an earlier export, and nothing else is
    # overwritten.
    before = Report.load(output) if output.exists() else Report()
    for path in args.files:  # all of them, before the first one is measured
        Subject.of(path, args.widths)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        before = before.without_older(path.name, digest)
    old = before.merged(map(Report.load, args.merge))
    found: list[Any] = []

    def save(now: Report) -> None:
        old.merged([*found, now]).save(output)

    for path in args.files:
        for measure in _places(args, path):
            found.append(measure(on_progress=save))
    return old.merged(found), Report().merged(found)


def _places(args: argparse.Namespace, path: Path) -> list[Callable[..., Any]]:
    """What is to be called to measure a file, here and on devices."""
    from awn_keras.deploy.benchmark import (
        SshDevice,
        adb_devices,
        benchmark_device,
        benchmark_tflite,
    )

    common = {
        "threads": args.threads,
        "widths": args.widths,
        "runs": args.runs,
        "warm_up": args.warm_up,
        "min_seconds": args.min_seconds,
        "repeats": args.repeats,
        "timeout": args.timeout,
        "accuracy": _accuracies(args, path),
    }
    places: list[Callable[..., Any]] = []
    elsewhere = args.android or args.serial or args.ssh
    if not elsewhere and (
        args.cpu or args.gpu or args.benchmark_model or args.cooldown
    ):
        raise ValueError(
            "`--cpu`, `--gpu`, `--benchmark-model` and `--cooldown` are for a device: "
            "add `--android` or `--ssh`. Here it is `--targets cpu,gpu`."
        )
    if args.targets or not elsewhere:
        targets = args.targets or ("cpu",)
        places.append(partial(benchmark_tflite, path, targets=targets, **common))
    devices: list[Any] = [SshDevice(host) for host in args.ssh]
    if args.android or args.serial:
        devices += adb_devices(args.adb, args.serial)
    units = [name for name in ("cpu", "gpu") if getattr(args, name)] or ["cpu"]
    for device in devices:
        options = {**common, "units": units, "cooldown": args.cooldown}
        program = args.benchmark_model
        places.append(partial(benchmark_device, path, device, program, **options))
    return places


def _accuracies(args: argparse.Namespace, path: Path) -> dict[str, float] | None:
    from awn_keras.data import load_data
    from awn_keras.deploy.benchmark import accuracies

    if not args.dataset:
        return None
    data = load_data(args.dataset, data_dir=args.data_dir, download=args.download)
    return accuracies(path, *data.test(len(data.y_test))[0], args.widths)


def _costs(found: Any) -> str:
    heads = ("MACs", "parameters", "constants", "activations")
    lines = [" ".join(f"{head:>15}" for head in heads) + "  signature"]
    for name, costs in sorted(found.items(), key=lambda item: item[1].macs):
        sizes = (costs.constant_bytes, costs.activation_bytes)
        kilobytes = " ".join(f"{size / 1e3:12,.0f} kB" for size in sizes)
        lines.append(f"{costs.macs:15,} {costs.parameters:15,} {kilobytes}  {name}")
    return "\n".join(lines)


def _pick(args: argparse.Namespace) -> None:
    from awn_keras.deploy.benchmark import Report, pick_width

    pick = pick_width(
        Report.load(args.report),
        budget_ms=args.budget_ms,
        budget_kb=args.budget_kb,
        target=args.target,
        device=args.device,
        threads=args.threads,
        file=args.file,
        quantile=args.quantile,
    )
    about = f"{pick.row.signature} of {pick.row.file}"
    if pick.ms is not None:
        about += f", {pick.quantile} {pick.ms:.3g} ms"
    if args.budget_kb is not None and pick.row.file_bytes is not None:
        about += f", {pick.row.file_bytes / 1e3:.0f} kB"
    if pick.uncertainty_ms is not None:
        about += f" (within {pick.uncertainty_ms:.2g} ms)"
    if pick.row.accuracy is not None:
        about += f", accuracy {pick.row.accuracy:.2%}"
    if not pick.fits:
        _print(f"Nothing keeps to the budget. The narrowest, width {pick.width:.4g}:")
    _print(f"{pick.width:.4g}: {about}")
    if pick.fits and (pick.interpolated_width or 0) > pick.width:
        _print(
            f"An export at width {pick.interpolated_width:.3g} is expected to keep to "
            "it, too."
        )
    if pick.fits and pick.dominated:
        widths = ", ".join(f"{width:.4g}" for width in pick.dominated)
        _print(f"Slower and no better than others: {widths}")


# ------------------------------------------------------------------------- helpers


#: Arguments of functions whose option is called otherwise than they are.
_RENAMED = {"name": "dataset", "system": "paper_system"}
_RENAMED_IN_EXPORT = {**_RENAMED, "path": "output"}  # elsewhere it is what is read


def _as_typed(message: str, parser: argparse.ArgumentParser) -> str:
    """Puts options in the place of the Python arguments that a message names.

    Args:
        message: A message of the library, such as "`precision='int8'` needs ...".
        parser: The command's.

    Returns:
        The message as the command's user knows things: "`--precision int8` needs ...".
    """
    options = [action for action in parser._actions if action.option_strings]
    renamed = _RENAMED_IN_EXPORT if parser.prog.endswith(" export") else _RENAMED

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        for action in options:
            if name != action.dest and renamed.get(name) != action.dest:
                continue
            typed = action.option_strings[0]
            if action.nargs == 0 and value is not None:  # a flag, on or off
                if value != str(action.const):
                    continue
            elif value is not None:
                typed += " " + value.strip("'")
            return f"`{typed}`"
        return match[0]

    return re.sub(r"`(\w+)(?:=([^`]*))?`", option, message)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"integers, separated by commas. Received: {text!r}"
        ) from error


def _data_for(args: argparse.Namespace, model: Any) -> Any:
    """The data set of `--dataset`, if it is given and fits the model."""
    from awn_keras.data import load_data

    if not args.dataset:
        return None
    data = load_data(args.dataset, data_dir=args.data_dir, download=args.download)
    _check_data_fits(model, data)
    return data


def _metadata(data: Any) -> dict[str, Any]:
    """What those who run a file must know of its inputs and outputs."""
    return {
        "class_names": list(data.class_names),
        "normalization": {
            "formula": "(pixels - mean) / std",
            "mean": data.mean.tolist(),
            "std": data.std.tolist(),
        },
    }


def _load_array(path: Path) -> Any:
    import zipfile

    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{path} is not an .npy file of numbers: it is an archive.")
    return array


def _check_data_fits(model: Any, data: Any) -> None:
    inputs = [tuple(x.shape[1:]) for x in model.inputs]
    if inputs != [data.input_shape]:
        raise ValueError(
            f"`--dataset` must have images of shape {inputs}. Received: {data.name}, "
            f"of {data.input_shape}"
        )
    outputs = [tuple(x.shape[1:]) for x in model.outputs]
    if outputs != [(data.classes,)]:
        raise ValueError(
            f"`--dataset` must have classes for outputs of shape {outputs}. Received: "
            f"{data.name}, of {data.classes} classes"
        )


def _writable(directory: Path) -> Path:
    """Makes a directory and finds out now whether it can be written."""
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / ".awn_probe.partial"
    try:
        probe.touch()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return directory


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
