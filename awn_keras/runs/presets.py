"""Recipes to start from: the paper's recipes, and recipes with better results.

The tables below hold the changes to the defaults of `Recipe`. A data set, an
architecture or a system without a row keeps the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from awn_keras.errors import ArgumentError
from awn_keras.runs.recipe import UNUSED, Recipe

#: The paper's changes to the defaults of `Recipe` for a data set.
_CIFAR: Mapping[str, Any] = {"epochs": 100, "weight_decay": 5e-4}
_PAPER_DATASETS = {"cifar10": _CIFAR, "cifar100": _CIFAR}
#: The paper's changes for an architecture.
_PAPER_ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "mobilenet_v2": {
        "epochs": 100,
        "min_width": 0.35,
        "divisor": 8,
        "widths": (0.35, 0.5, 0.75, 1.0),
    },
}
#: Changes for the NestedNet, which the paper does not have. It trains as an S-Net does.
_NESTED: Mapping[str, Any] = {
    "system": "nested_net",
    "sampler": "fixed",
    "width_multiplier": 1.0,
}
#: The paper's changes for a system. A name stands for a system and its training.
PAPER_SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    "awn": {"sampler": "fixed"},
    "awn_rs": {},
    "s_net": {"system": "s_net", "sampler": "fixed", "width_multiplier": 1.0},
    "us_net": {"system": "us_net", "width_multiplier": 1.0},
    "nested_net": _NESTED,
    "nested_net_weights": {**_NESTED, "structure": "weights"},
    "shared_bn": {"system": "shared_bn", "sampler": "fixed", "width_multiplier": 1.0},
    "plain": {"system": "plain", "width_multiplier": 1.0},
}
#: The paper's changes for a pair of an architecture and a recipe's system.
_PAPER_EPOCHS = {("mobilenet_v2", "awn"): {"epochs": 350}}

#: The widths of a network that starts from trained weights.
TRAINED_WIDTHS = (0.7, 0.8, 0.9, 1.0)
#: Changes for networks that are converted, which the paper does not have. The losses
#: are averaged, the width multiplier is 1 because trained weights fit no other size,
#: and the learning rate suits batches of 64.
_CONVERTED: Mapping[str, Any] = {
    "width_multiplier": 1.0,
    "divisor": 8,
    "staircase": "nested",
    "width_reduction": "mean",
    "batch_size": 64,
    "learning_rate": 0.05,
    "schedule": "cosine",
    "warm_up": 0.1,
    "weight_decay": 0.0,
    "bn_momentum": None,
}
#: Further changes for trained weights: smaller steps keep more of the trained network.
_TRAINED: Mapping[str, Any] = {"batch_size": 32, "learning_rate": 0.02}
#: Further changes for an AWN with trained weights: with a few wide widths, the triangle
#: forbids little.
_TRIANGLE: Mapping[str, Any] = {
    "rotate": True,
    "order": "reading",
    "fade": 0.7,
    "min_width": TRAINED_WIDTHS[0],
    "widths_grid": TRAINED_WIDTHS,
    "widths": TRAINED_WIDTHS,
}
#: Networks of Tri layers, which are built and not converted.
_BUILT = ("lenet_3c1l", "mobilenet_v2")

#: Changes that gave better results than the paper's AWN+RS with averaged losses, by
#: architecture and data set. `None` stands for any other data set. All were measured
#: with the paper's staircase. For architectures without a row nothing was compared.
_EXPECTED_COSINE = {"schedule": "cosine", "sampler": "expected_sandwich"}
_RECOMMENDED: Mapping[tuple[str, str | None], Mapping[str, Any]] = {
    ("lenet_3c1l", None): {
        "learning_rate": 0.12,
        "schedule": "cosine",
        "weight_decay": 5e-4,
    },
    ("lenet_3c1l", "cifar10"): _EXPECTED_COSINE,
    ("lenet_3c1l", "cifar100"): _EXPECTED_COSINE,
}


def paper_recipe(
    dataset: str,
    architecture: str = "lenet_3c1l",
    system: str = "awn_rs",
    *,
    weights: str | None = None,
) -> Recipe:
    """Returns the paper's recipe for a system and an architecture on a data set.

    Args:
        dataset: Name of a data set.
        architecture: See `network_of`.
        system: `"awn"` (four fixed widths), `"awn_rs"` (random sampling by the
            sandwich rule), `"s_net"`, `"us_net"`, `"shared_bn"` (four fixed widths),
            `"nested_net"` or `"nested_net_weights"` (both not in the paper), or
            `"plain"`. Only AWNs are widened by sqrt(2).
        weights: `"imagenet"` to start from trained weights, or `None`.

    Returns:
        The recipe. It trains 20 epochs without weight decay, or on CIFAR 100 epochs
        with a weight decay of 5e-4. AWNs of `mobilenet_v2` train 350 epochs (the paper:
        350 to 1050); other settings of their schedule are those of LeNet. The paper has
        no networks that are converted. For them, the recipe is `recommended_recipe`
        with this system.

    Raises:
        ValueError: If the name of the architecture or of the system is wrong.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1.
    """
    if system not in PAPER_SYSTEMS:
        raise ArgumentError(
            f"`system` must be one of {sorted(PAPER_SYSTEMS)}. Received: "
            f"system={system!r}"
        )
    if architecture not in _BUILT or weights is not None:
        return _converted_recipe(dataset, architecture, weights, system)
    changes = {
        **_PAPER_DATASETS.get(dataset, {}),
        **_PAPER_ARCHITECTURES.get(architecture, {}),
        **PAPER_SYSTEMS[system],
    }
    kind = changes.get("system", Recipe.system)
    changes |= _PAPER_EPOCHS.get((architecture, kind), {})
    changes = {k: value for k, value in changes.items() if k not in UNUSED[kind]}
    return replace(Recipe(dataset, architecture), **changes)


def recommended_recipe(
    dataset: str,
    architecture: str = "lenet_3c1l",
    *,
    weights: str | None = None,
    folder: bool = False,
) -> Recipe:
    """Returns the recipe that `awn train` starts from.

    Args:
        dataset: Name of a data set, or of a folder of photos.
        architecture: See `network_of`.
        weights: `"imagenet"` to start from trained weights, or `None`.
        folder: Whether the data set is a folder of photos.

    Returns:
        A recipe for an AWN that averages the losses of widths. Photos train for 20
        epochs. The rest depends on the architecture:

        - `lenet_3c1l`: the best arm of `awn reproduce improvements` so far, with
          averaged losses. The learning rate falls along half a cosine. On CIFAR it is
          the arm `expected_cosine`, which was best on CIFAR-10: the paper's learning
          rate and weight decay (0.04 and 1.25e-4 for averaged losses), and all widths
          in each step, weighted as the sandwich rule draws them. On other data sets it
          is the arm `cosine_fast_decay`, which was best on Fashion-MNIST: 0.12 and
          5e-4.
        - `mobilenet_v2`: the paper's AWN+RS with a nested staircase. Nothing was
          compared for it.
        - Networks that are converted: the learning rate warms up to 0.05 with batches
          of 64, then falls along half a cosine. With trained weights it is 0.02 with
          batches of 32. Then the network also gets four widths from 0.7, its
          bottlenecks are rotated, and forbidden entries fade out.

    Raises:
        ValueError: If the name of the architecture is wrong.
    """
    if architecture not in _BUILT or weights is not None:
        return _converted_recipe(dataset, architecture, weights, "awn_rs")
    paper = paper_recipe(dataset, architecture)
    default = _RECOMMENDED.get((architecture, None), {"staircase": "nested"})
    # A folder may have the name of a data set of the paper, but is another data set.
    row = (architecture, None if folder else dataset)
    better = dict(_RECOMMENDED.get(row, default))
    if folder:
        better |= {"epochs": Recipe.epochs, "schedule": "cosine"}
    return replace(paper, **{**paper.as_mean, **better})


def without_triangle(recipe: Recipe) -> Recipe:
    """Resets the fields of a recipe that make a triangle forbid little.

    Args:
        recipe: A recipe that `recommended_recipe` gave for trained weights.

    Returns:
        The recipe with the defaults of `Recipe` in these fields. It suits a network
        that grows, and comparisons.
    """
    return replace(recipe, **{name: getattr(Recipe, name) for name in _TRIANGLE})


def _converted_recipe(
    dataset: str, architecture: str, weights: str | None, system: str
) -> Recipe:
    trained = weights is not None or architecture.endswith(".keras")
    changes = {**PAPER_SYSTEMS[system], **_CONVERTED}
    kind = changes.get("system", Recipe.system)
    if trained:
        changes |= _TRAINED
    if trained and kind == "awn":
        changes |= _TRIANGLE
    changes = {k: value for k, value in changes.items() if k not in UNUSED[kind]}
    return Recipe(dataset, architecture, weights=weights, **changes)
