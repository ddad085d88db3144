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

HELP = "Train a network on a known data set or on your photos, and show its curve."
#: Rows and cols of photos.
_SIZE = (96, 96)
#: Default network for photos. Its weights are in a Python package.
_NETWORK = "efficientnet_lite0"
_SYSTEM_HELP = (
    "train with the paper's recipe: awn_rs, awn, s_net, us_net, shared_bn, plain, or "
    "as a NestedNet: nested_net (channels), nested_net_weights (default: an any-width "
    "network with the recipe of docs/training.md)"
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
        help="share of the photos of each class to test on, if --data has no folder "
        "test (default: 0.2)",
    )
    add(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="store the pixels of --data in this folder, if they do not fit into "
        "memory",
    )
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="flip training images left to right at random (default: for photos and "
        "CIFAR)",
    )
    add(
        "--shift",
        type=int,
        help="largest random shift of training images, in pixels (default: an eighth "
        "of the size for photos, 4 for CIFAR)",
    )
    add(
        "--model",
        dest="architecture",
        help="network: lenet_3c1l (default), mobilenet_v2, efficientnet_lite0 "
        "(default with --data), any of keras.applications such as efficientnet_b0, or "
        "a .keras file",
    )
    add(
        "--weights",
        choices=("imagenet", "none"),
        help="initial weights (default: none; imagenet for efficientnet_lite0 with "
        "--data)",
    )
    add(
        "--rotate",
        action=argparse.BooleanOptionalAction,
        help="rotate the channels of trained bottlenecks, so that the first channels "
        "matter most (default: with --weights)",
    )
    add(
        "--order",
        help="order of trained channels: reading (default with --weights), "
        "importance, keep",
    )
    add(
        "--fade",
        type=float,
        help="share of the steps in which trained weights that the triangle forbids "
        "fade out (default: 0.7 with --weights)",
    )
    add(
        "--grow",
        type=float,
        metavar="FACTOR",
        help="keep the network as the narrowest width, and add channels up to FACTOR "
        "times its number",
    )
    add(
        "--warm-up",
        type=float,
        help="share of the steps in which the learning rate rises (default: 0; 0.1 "
        "for converted networks)",
    )
    add(
        "--label-smoothing",
        type=float,
        help="share of each label that is spread over all classes (default: 0)",
    )
    add(
        "--patience",
        type=int,
        help="end after this number of epochs without a better val_auc; the best "
        "model is stored as best.keras",
    )
    add(
        "--precision",
        help="precision of training steps: float32 (default), mixed_bfloat16",
    )
    add("--system", dest="paper_system", help=_SYSTEM_HELP)
    add("--output", type=Path, help="directory (default: runs/SET_MODEL[_SYSTEM])")
    add(
        "--resume",
        action="store_true",
        help="continue after the last finished epoch of an interrupted run",
    )
    add(
        "--devices",
        type=int,
        help="number of GPUs to train on, or of CPU devices if there is no GPU "
        "(default: 1)",
    )
    add(
        "--strategy",
        help="distribution over devices: mirrored (default with TensorFlow), "
        "data_parallel (default with JAX), multiworker (the machines of TF_CONFIG); "
        "see docs/distributed.md",
    )
    add(
        "--epochs",
        type=int,
        help="number of epochs (default: 20, for CIFAR 100; mobilenet_v2 without "
        "--data 350, or 100 for systems other than AWNs)",
    )
    add(
        "--batch-size",
        type=int,
        help="samples in a batch (default: 128; 64 for converted networks, 32 with "
        "--weights)",
    )
    add(
        "--learning-rate",
        type=float,
        help="initial learning rate of SGD (default: 0.12; 0.04 for CIFAR and "
        "mobilenet_v2; 0.01 with --system; 0.05 for converted networks, 0.02 with "
        "--weights)",
    )
    add(
        "--schedule",
        help="schedule of the learning rate: cosine (default), or steps (default for "
        "mobilenet_v2 and with --system), which divides it by ten after 50 %% and 75 "
        "%% of the epochs",
    )
    add("--momentum", type=float, help="momentum of SGD (default: 0.9)")
    add(
        "--weight-decay",
        type=float,
        help="weight decay (default: 5e-4, for CIFAR 1.25e-4; mobilenet_v2: 0, for "
        "CIFAR 1.25e-4; with --system 0, for CIFAR 5e-4)",
    )
    add(
        "--filters",
        type=int,
        help="channels of each convolution of lenet_3c1l, before --width-multiplier "
        "(default: 32)",
    )
    add(
        "--width-multiplier",
        type=parse_multiplier,
        help="factor on the channels: a number (default: sqrt(2)), or balanced",
    )
    add(
        "--min-width",
        type=float,
        help="smallest width (default: 0.25; 0.35 for mobilenet_v2). With --weights, "
        "the default is the four widths 0.7, 0.8, 0.9 and 1; a smallest width given "
        "here replaces them by all widths from it on",
    )
    add(
        "--divisor",
        type=int,
        help="size of the blocks in which channels come and go (default: 1; 8 for "
        "mobilenet_v2)",
    )
    add_widths_argument(parser, "--widths-grid", "the only widths of the model: ")
    add(
        "--staircase",
        help="rule for the widths at which channels appear: paper (default), or "
        "nested (default for mobilenet_v2 without --system)",
    )
    add_stages_argument(parser)
    add(
        "--sampler",
        help="widths of a training step: sandwich (default), expected_sandwich (all "
        "widths, each weighted by how often sandwich runs it; default for lenet_3c1l "
        "on CIFAR without --system), uniform, fixed (default with --system awn, s_net "
        "and shared_bn), all",
    )
    add(
        "--num-widths",
        type=int,
        help="number of widths in a step (default: 4); for expected_sandwich, which "
        "runs all widths, the sum of their weights",
    )
    add(
        "--width-reduction",
        help="combination of the losses of a step's widths: mean (default), or sum "
        "(default with --system). A sum of four losses needs a quarter of the "
        "learning rate and four times the weight decay",
    )
    add("--seed", type=int, help="seed of all random numbers (default: 0)")
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
    # A folder of photos is no data set of the paper, even if it has the name of one.
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
    if args.grow is not None:  # growing keeps the network, so no triangle recipe
        recipe = without_triangle(recipe)
    elif recipe.widths_grid and args.min_width not in (None, recipe.min_width):
        # The widths of the recipe do not start at this smallest width.
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
