"""Recipes to start from: the paper's, and what did better here.

Both are tables. A data set, architecture or system that has no row of its own gets the
default one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from awn_keras.errors import ArgumentError
from awn_keras.runs.recipe import UNUSED, Recipe

#: What the paper changes of `Recipe` for a data set; nothing for one without a row.
_CIFAR: Mapping[str, Any] = {"epochs": 100, "weight_decay": 5e-4}
_PAPER_DATASETS = {"cifar10": _CIFAR, "cifar100": _CIFAR}
#: The same for an architecture.
_PAPER_ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "mobilenet_v2": {
        "epochs": 100,
        "min_width": 0.35,
        "divisor": 8,
        "widths": (0.35, 0.5, 0.75, 1.0),
    },
}
#: The same for a system, which is named here as the paper trains it.
PAPER_SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    "awn": {"sampler": "fixed"},
    "awn_rs": {},
    "s_net": {"system": "s_net", "sampler": "fixed", "width_multiplier": 1.0},
    "us_net": {"system": "us_net", "width_multiplier": 1.0},
    "shared_bn": {"system": "shared_bn", "sampler": "fixed", "width_multiplier": 1.0},
    "plain": {"system": "plain", "width_multiplier": 1.0},
}
#: The same for an architecture and a recipe's system together.
_PAPER_EPOCHS = {("mobilenet_v2", "awn"): {"epochs": 350}}

#: The widths of a network that starts from trained weights.
TRAINED_WIDTHS = (0.7, 0.8, 0.9, 1.0)
#: For networks that are converted, of which the paper has none: a mean of losses,
#: weights of 1 (a multiplier would not fit trained ones), a rate for batches of 64.
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
#: The same for one that starts from trained weights: smaller steps keep more of them.
_TRAINED: Mapping[str, Any] = {"batch_size": 32, "learning_rate": 0.02}
#: The same for one of which a triangle forbids a part: little of a few wide widths.
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

#: What did better than the paper's AWN+RS as a mean of losses, for an architecture and
#: a data set; `None` stands for any other data set. All of it was measured in the
#: paper's staircase. With an architecture that has no row nothing was compared.
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
    """Gives the paper's recipe for a system and an architecture on a data set.

    Args:
        dataset: Name of a data set.
        architecture: See `network_of`.
        system: `"awn"` (four fixed widths), `"awn_rs"` (random sampling by the
            sandwich rule), `"s_net"`, `"us_net"`, `"shared_bn"` (four fixed widths) or
            `"plain"`. Only AWNs are widened by sqrt(2).
        weights: `"imagenet"` to start from trained weights, or `None`.

    Returns:
        For networks that are converted, of which the paper has none, what
        `recommended_recipe` gives, for this system. Else
        20 epochs without weight decay; on CIFAR 100 epochs with 5e-4. AWNs of
        `mobilenet_v2` train 350 epochs (the paper: 350 to 1050); the rest of its
        schedule is LeNet's.

    Raises:
        ValueError: If the name of an architecture or a system is wrong.

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
    """Gives the recipe that `awn train` starts from.

    Args:
        dataset: Name of a data set, or of a folder of photos.
        architecture: See `network_of`.
        weights: `"imagenet"` to start from trained weights, or `None`.
        folder: Whether the data set is a folder of photos.

    Returns:
        For an AWN that takes the mean of the losses. With `lenet_3c1l` the arm of
        `awn reproduce improvements` that did best so far, written as such a mean; the
        rate falls along half a cosine. For CIFAR, by CIFAR-10, `expected_cosine`: the
        paper's rate and decay, as a mean 0.04 and 1.25e-4, and all widths in each
        step, weighed as the sandwich draws them. Else, by Fashion-MNIST,
        `cosine_fast_decay`: 0.12 and 5e-4. With `mobilenet_v2`, with which nothing was
        compared, the paper's AWN+RS, in a nested staircase. Networks that are
        converted warm up and then follow half a cosine, from 0.05 with batches of 64,
        or from 0.02 with batches of 32 if they are trained already; then they get four
        widths from 0.7, bottlenecks are rotated, and what the triangle forbids fades
        out. Photos are trained on for 20 epochs.

    Raises:
        ValueError: If the name of the architecture is wrong.
    """
    if architecture not in _BUILT or weights is not None:
        return _converted_recipe(dataset, architecture, weights, "awn_rs")
    paper = paper_recipe(dataset, architecture)
    default = _RECOMMENDED.get((architecture, None), {"staircase": "nested"})
    # Whatever a folder is called, it is no set of the paper.
    row = (architecture, None if folder else dataset)
    better = dict(_RECOMMENDED.get(row, default))
    if folder:
        better |= {"epochs": Recipe.epochs, "schedule": "cosine"}
    return replace(paper, **{**paper.as_mean, **better})


def without_triangle(recipe: Recipe) -> Recipe:
    """Takes back what a recipe does so that a triangle forbids little.

    Args:
        recipe: What `recommended_recipe` gives for trained weights.

    Returns:
        The recipe, with `Recipe`'s defaults in these fields: for a network that grows,
        or to compare with.
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
