"""`awn train`."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

from awn_keras.cli.arguments import (
    Parser,
    add_stages_argument,
    add_widths_argument,
    parse_multiplier,
    parse_size,
)
from awn_keras.cli.output import write_line
from awn_keras.cli.sets import add_set_arguments
from awn_keras.files import check_can_write

HELP = "Train a network, on a known set or on your photos; see its curve."
#: Rows and cols of photos.
_SIZE = (96, 96)
#: What photos are trained on: its weights come in a package.
_NETWORK = "efficientnet_lite0"
_SYSTEM_HELP = (
    "by the paper's recipe: awn_rs, awn, s_net, us_net, shared_bn, plain (default: an "
    "any-width network by the recipe of docs/training.md)"
)


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    add = parser.add_argument
    add_set_arguments(parser, "train on", required=True)
    add(
        "--size",
        type=parse_size,
        metavar="N[,N]",
        help="rows and cols to which photos of --data are scaled (default: 96)",
    )
    add(
        "--held-out",
        type=float,
        help="part of each class's photos to test on, if --data has no folder test "
        "(default: 0.2)",
    )
    add(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="keep the pixels of --data there, if they are too many for the memory",
    )
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="flip training images left to right (default: photos and CIFAR)",
    )
    add(
        "--shift",
        type=int,
        help="shift training images by so many pixels at most (default: photos an "
        "eighth of their size, CIFAR 4)",
    )
    add(
        "--model",
        dest="architecture",
        help="lenet_3c1l (default), mobilenet_v2, efficientnet_lite0 (default of "
        "--data), any of keras.applications, as in efficientnet_b0, or a .keras file",
    )
    add(
        "--weights",
        choices=("imagenet", "none"),
        help="to start from (default: none; imagenet for efficientnet_lite0 on --data)",
    )
    add(
        "--rotate",
        action=argparse.BooleanOptionalAction,
        help="rotate trained bottlenecks, so that their first channels are read most "
        "(default: with --weights)",
    )
    add(
        "--order",
        help="of trained channels: reading (default with --weights), importance, keep",
    )
    add(
        "--fade",
        type=float,
        help="part of the steps in which what the triangle forbids of trained weights "
        "fades out (default: 0.7 with --weights)",
    )
    add(
        "--grow",
        type=float,
        metavar="FACTOR",
        help="keep the network as the narrowest width, and add channels up to FACTOR "
        "times as many",
    )
    add(
        "--warm-up",
        type=float,
        help="part of the steps in which the rate rises (default: 0; 0.1 for networks "
        "that are converted)",
    )
    add(
        "--label-smoothing",
        type=float,
        help="share of a label that is spread over all classes (default: 0)",
    )
    add(
        "--patience",
        type=int,
        help="end after so many epochs without a better val_auc; the best one is "
        "best.keras",
    )
    add("--precision", help="of steps: float32 (default), mixed_bfloat16")
    add("--system", dest="paper_system", help=_SYSTEM_HELP)
    add("--output", type=Path, help="default: runs/SET_MODEL[_SYSTEM]")
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
        help="default: 20, for CIFAR 100; mobilenet_v2 without --data: 350, other "
        "systems than AWNs 100",
    )
    add(
        "--batch-size",
        type=int,
        help="default: 128; 64 if converted, 32 with --weights",
    )
    add(
        "--learning-rate",
        type=float,
        help="of SGD, at first (default: 0.12; 0.04 for CIFAR and mobilenet_v2; with "
        "--system 0.01; 0.05 if converted, 0.02 with --weights)",
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
    add(
        "--width-multiplier",
        type=parse_multiplier,
        help="a number (default: sqrt(2)), or balanced",
    )
    add(
        "--min-width",
        type=float,
        help="smallest width (default: 0.25; 0.35 for mobilenet_v2; with --weights "
        "0.7, 0.8, 0.9 and 1, or all from the one given here)",
    )
    add(
        "--divisor",
        type=int,
        help="channels come in blocks of this size (default: 1; 8 for mobilenet_v2)",
    )
    add_widths_argument(parser, "--widths-grid")
    add(
        "--staircase",
        help="at which widths channels appear: paper (default), or nested (default of "
        "mobilenet_v2 without --system)",
    )
    add_stages_argument(parser)
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
    parser.renamed["system"] = "paper_system"


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.runs.devices import choose_devices
    from awn_keras.runs.presets import (
        paper_recipe,
        recommended_recipe,
        without_triangle,
    )
    from awn_keras.runs.recipe import Recipe
    from awn_keras.runs.run import run as start_run

    devices = choose_devices(args.strategy, args.devices)
    folder = None if args.data is None else args.data.expanduser().resolve()
    # No set of the paper, whatever its name.
    dataset = args.dataset or "photos"
    default = Recipe.architecture if folder is None else _NETWORK
    architecture = args.architecture or default
    weights = args.weights
    if weights is None and folder is not None and architecture == _NETWORK:
        weights = "imagenet"
    args.weights = None if weights == "none" else weights
    if args.paper_system is None:
        recipe = recommended_recipe(
            dataset, architecture, weights=args.weights, folder=folder is not None
        )
    else:
        recipe = paper_recipe(
            dataset, architecture, args.paper_system, weights=args.weights
        )
    given = {
        field.name: getattr(args, field.name)
        for field in fields(Recipe)
        if getattr(args, field.name, None) is not None
    }
    if folder is not None:
        given = {"size": _SIZE, **given, "dataset": folder.name, "folder": str(folder)}
    grid = args.widths_grid
    if args.grow is not None:  # which leaves the network as it is
        recipe = without_triangle(recipe)
    elif recipe.widths_grid and args.min_width not in (None, recipe.min_width):
        # The recipe's few widths do not begin there.
        recipe = replace(recipe, widths_grid=None, widths=Recipe.widths)
    elif grid and args.min_width is None:
        given["min_width"] = grid[0]
    recipe = replace(recipe, **given)
    name = f"{recipe.dataset}_{Path(recipe.architecture).stem}"
    if args.paper_system is not None:
        name += f"_{args.paper_system}"
    output = args.output or Path("runs") / name
    check_can_write(output, "--output", folder=True)
    result = start_run(
        recipe,
        output,
        resume=args.resume,
        data_dir=args.data_dir,
        download=args.download,
        cache=args.cache,
        devices=devices,
    )
    if not devices.chief:
        return
    for count, curve in result.curves.items():
        write_line((f"{count} widths calibrated:\n" if count else "") + str(curve))
        write_line(f"AUC {100 * curve.auc:.2f} %, in {output}")
