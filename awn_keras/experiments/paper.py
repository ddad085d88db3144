"""The runs of the paper's tables and figures, and the numbers in the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from awn_keras.architectures import lenet_3c1l
from awn_keras.counting import count_active_parameters, count_parameters
from awn_keras.data import DATASETS
from awn_keras.errors import ArgumentError
from awn_keras.runs.presets import paper_recipe, recommended_recipe
from awn_keras.runs.recipe import Recipe
from awn_keras.slimming import slim

#: Each seed trains every system once. A larger number is a typing error.
_MOST_SEEDS = 1000
#: Names of the systems in the paper.
NAMES = {
    "shared_bn": "standard BN",
    "s_net": "S-Net",
    "awn": "AWN",
    "awn_rs": "AWN+RS",
    "us_net": "US-Net",
    "nested_net": "NestedNet, channels",
    "nested_net_weights": "NestedNet, weights",
}
#: Systems that are compared, and that the paper does not have.
NESTED = ("nested_net", "nested_net_weights")
TABLE_1_WIDTHS = (1.0, 0.75, 0.5, 0.25)
#: Accuracies on MNIST at `TABLE_1_WIDTHS`.
TABLE_1 = {
    "s_net": (0.9905, 0.9893, 0.9891, 0.9869),
    "awn": (0.9897, 0.9887, 0.9882, 0.9843),
}
#: AUC by architecture and data set, then by system and number of calibrated widths.
#: Only US-Net is calibrated: at 4, 10 and 20 widths.
TABLE_2: dict[tuple[str, str], dict[tuple[str, int], float]] = {
    key: {
        ("s_net", 0): s_net,
        ("awn", 0): awn,
        ("awn_rs", 0): awn_rs,
        ("us_net", 4): us_4,
        ("us_net", 10): us_10,
        ("us_net", 20): us_20,
    }
    for key, (s_net, awn, awn_rs, us_4, us_10, us_20) in {
        ("lenet_3c1l", "fashion_mnist"): (
            *(0.8378, 0.9067, 0.9106),
            *(0.9040, 0.9070, 0.9074),
        ),
        ("lenet_3c1l", "cifar10"): (
            *(0.5699, 0.7112, 0.7375),
            *(0.6784, 0.7130, 0.7245),
        ),
        ("lenet_3c1l", "cifar100"): (
            *(0.2694, 0.4269, 0.4365),
            *(0.4012, 0.4138, 0.4180),
        ),
        ("mobilenet_v2", "cifar10"): (
            *(0.5097, 0.9091, 0.9072),
            *(0.9010, 0.9198, 0.9209),
        ),
        ("mobilenet_v2", "cifar100"): (
            *(0.4984, 0.7016, 0.6728),
            *(0.6669, 0.7162, 0.7224),
        ),
    }.items()
}
#: AUC of networks trained at full width only, on CIFAR-10.
FIGURE_6 = {"awn_full": 0.3585, "shared_bn_full": 0.2051}
#: Numbers of widths in a training step. `None` stands for all widths.
FIGURE_4_WIDTHS = (1, 2, 4, 8, None)
#: Steps between two records of batch statistics for figure 2.
TRACE_EVERY = 47


@dataclass(frozen=True)
class PaperRun:
    """A training run that a table or figure needs.

    Args:
        label: Name of the system or of the change. Runs on the same data set that
            differ only in their seed have the same label.
        recipe: Recipe of the run.
        trace_every: Number of steps between two records of a `StatisticsTrace`. `None`
            records nothing.
    """

    label: str
    recipe: Recipe
    trace_every: int | None = None

    @property
    def name(self) -> str:
        """Name of the run's directory and of the file with its result."""
        recipe = self.recipe
        parts = [recipe.dataset, recipe.architecture, self.label]
        if self.trace_every is not None:
            parts.append("traced")
        parts.append(f"seed{recipe.seed}")
        return "_".join([*parts, *recipe.variant])


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Args:
        title: Title of the table or figure.
        datasets: Data sets of the table or figure; the default first.
        runs: Function `runs(dataset, architecture)` that returns the runs with seed 0.
    """

    title: str
    datasets: tuple[str, ...]
    runs: Callable[[str, str], list[PaperRun]]


def _of_systems(
    *systems: str, trace: bool = False
) -> Callable[[str, str], list[PaperRun]]:
    def runs(dataset: str, architecture: str) -> list[PaperRun]:
        if trace and architecture != "lenet_3c1l":
            raise ArgumentError(
                "The paper has this for LeNet-3C1L only: take 'lenet_3c1l'. Received: "
                f"architecture={architecture!r}"
            )
        return [
            PaperRun(
                system,
                paper_recipe(dataset, architecture, system),
                TRACE_EVERY if trace else None,
            )
            for system in systems
        ]

    return runs


def _all_widths(paper: Recipe) -> dict[str, Any]:
    """Changes of the paper's recipe for steps over all widths.

    The loss is the mean over all widths instead of a sum. Rate and decay are scaled, so
    that a step is about as long as the paper's.
    """
    return {"sampler": "all", **paper.as_mean}


def _figure_4(dataset: str, architecture: str) -> list[PaperRun]:
    paper = paper_recipe(dataset, architecture)
    runs = []
    for count in FIGURE_4_WIDTHS:
        if count is None:
            changes = _all_widths(paper)
        elif count == 1:
            changes = {"sampler": "fixed", "widths": (1.0,)}
        else:
            changes = {"num_widths": count}
        recipe = replace(paper, **changes)
        # With the paper's number of widths, the run is AWN+RS of table 2. The same
        # label lets both share a result.
        label = f"awn_rs_{count or 'all'}" if recipe != paper else "awn_rs"
        runs.append(PaperRun(label, recipe))
    return runs


def _figure_6(dataset: str, architecture: str) -> list[PaperRun]:
    runs = []
    for label, system in (("awn_full", "awn"), ("shared_bn_full", "shared_bn")):
        recipe = paper_recipe(dataset, architecture, system)
        runs.append(PaperRun(label, replace(recipe, sampler="fixed", widths=(1.0,))))
    return runs


@cache
def individual_sizes(dataset: str) -> dict[tuple[str, float], int]:
    """Chooses the sizes of the plain networks to compare with an AWN of LeNet-3C1L.

    Args:
        dataset: One of `awn_keras.data.DATASETS`.

    Returns:
        Number of filters of a plain network, by kind and width, for each of
        `TABLE_1_WIDTHS`. The network of kind `"params"` has about as many weights as
        are active in the AWN at the width; forbidden weights do not count. The network
        of kind `"macs"` has as many MACs as the AWN's slim network.
    """
    awn = _lenet(dataset)
    weights = {
        filters: count_parameters(
            _lenet(dataset, filters=filters, width_multiplier=1.0, triangular=False)
        )
        for filters in range(1, 46)
    }
    sizes = {}
    for width in TABLE_1_WIDTHS:
        active = count_active_parameters(awn, width)
        sizes["params", width] = min(weights, key=lambda f: abs(weights[f] - active))
        sizes["macs", width] = slim(awn, width).get_layer("conv2").filters
    return sizes


#: Label of the recommended run of `improvements`, by data set. `recommended_arm` holds
#: the default for all other data sets.
_RECOMMENDED_ARMS = {"cifar10": "expected_cosine", "cifar100": "expected_cosine"}


def recommended_arm(dataset: str) -> str:
    """Names the run of `improvements` that uses `recommended_recipe` with LeNet-3C1L.

    Args:
        dataset: Name of a data set.

    Returns:
        The label of the run.
    """
    return _RECOMMENDED_ARMS.get(dataset, "cosine_fast_decay")


def _individual(dataset: str, architecture: str) -> list[PaperRun]:
    """Runs of plain networks of the sizes that an AWN has at four widths.

    Each size is trained by the paper's recipe and by the recipe of `awn train`. The
    runs of the AWN by both recipes follow.
    """
    if architecture != "lenet_3c1l":
        raise ArgumentError(
            "'individual' compares plain networks sized by `filters`, so "
            "`architecture` must be 'lenet_3c1l'. Received: "
            f"architecture={architecture!r}"
        )
    plain = paper_recipe(dataset, architecture, "plain")
    # `recommended_recipe` takes the mean of the losses, which is about as large as the
    # single loss of a plain network. So its rate and decay also suit a plain network.
    mean = recommended_recipe(dataset, architecture)
    names = ("learning_rate", "schedule", "weight_decay")
    better = replace(plain, **{name: getattr(mean, name) for name in names})
    runs = [
        PaperRun(f"plain_{filters}{suffix}", replace(recipe, filters=filters))
        for filters in sorted(set(individual_sizes(dataset).values()))
        for suffix, recipe in (("", plain), ("_recommended", better))
    ]
    arms = ("awn_rs", recommended_arm(dataset))
    awns = [run for run in _improvements(dataset, architecture) if run.label in arms]
    return [*runs, *awns]


@cache  # because `_as_many_weights` builds networks
def _improvements(dataset: str, architecture: str) -> list[PaperRun]:
    """Runs with single and combined changes that may improve the paper's recipe."""
    paper = paper_recipe(dataset, architecture)
    every = _all_widths(paper)
    decay = 2 * paper.weight_decay or 5e-4
    mean = {"sampler": "all", "width_reduction": "mean"}
    expected = {"sampler": "expected_sandwich"}
    late = {"distillation": 0.5, "late": 0.5}
    refined = {"frozen_up_to": 0.5, "late": 0.75}
    # AWN+RS sums four losses. The mean of the losses gives equal updates with four
    # times the rate and a quarter of the decay (`as_mean`). So the rate here stands for
    # 0.12, which is usual for one loss, and `4 * 5e-4` stands for the usual decay 5e-4.
    fast = {"learning_rate": 3 * paper.learning_rate, "schedule": "cosine"}
    arms: dict[str, dict[str, Any]] = {
        "awn_rs": {},
        "all_mean": mean,
        "awn_rs_all": every,  # also a run of figure 4
        "wide": {"width_power": 1.0},
        "late_distillation": late,
        "refined": refined,
        "strict": {"min_width": 0.01, "lowest_width": paper.min_width},
        "bn_momentum99": {"bn_momentum": 0.99},
        "cosine": {"schedule": "cosine"},
        "all_cosine": {**every, "schedule": "cosine"},
        "all_cosine_wide": {**every, "schedule": "cosine", "width_power": 0.5},
        "all_cosine_decay": {**every, "schedule": "cosine", "weight_decay": decay / 4},
        "decay": {"weight_decay": decay},
        "cosine_decay": {"schedule": "cosine", "weight_decay": decay},
        "cosine_fast": fast,
        "cosine_fast_light": {**fast, "weight_decay": 4 * 5e-5},
        "cosine_fast_decay": {**fast, "weight_decay": 4 * 5e-4},
        "expected_cosine": {**expected, "schedule": "cosine"},
        "expected_fast_decay": {**expected, **fast, "weight_decay": 4 * 5e-4},
        "longer": {"epochs": 2 * paper.epochs},
    }
    if paper.weight_decay:  # "light" divides the decay, so there must be one
        light = {"schedule": "cosine", "weight_decay": paper.weight_decay / 5}
        arms["cosine_light"] = light
    if architecture == "lenet_3c1l":
        for label, changes in (
            ("blocks8", {"divisor": 8}),
            ("grid4", {"widths_grid": TABLE_1_WIDTHS[::-1]}),
        ):
            arms[label] = {**changes, **_as_many_weights(dataset, changes)}
    return [
        PaperRun(label, replace(paper, **changes)) for label, changes in arms.items()
    ]


def _as_many_weights(dataset: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Finds the size with which other grades have as many weights as the paper's.

    Without this, a change of the grades would also change the size of the network.
    """
    wanted = count_active_parameters(_lenet(dataset), 1.0)
    filters = min(
        range(32, 46),
        key=lambda f: abs(
            count_active_parameters(
                _lenet(dataset, filters=f, width_multiplier=1.0, **changes), 1.0
            )
            - wanted
        ),
    )
    return {"filters": filters, "width_multiplier": 1.0}


def classes_of(dataset: str) -> int:
    """Number of classes of a data set."""
    return 100 if dataset == "cifar100" else 10


def _lenet(dataset: str, **kwargs: Any) -> Any:
    """Builds LeNet-3C1L for a data set."""
    shape, classes = DATASETS[dataset], classes_of(dataset)
    padding = "same" if min(shape[:2]) < 16 else "valid"
    return lenet_3c1l(shape, classes, padding=padding, staircase="paper", **kwargs)


_TABLE_2 = _of_systems("s_net", "awn", "awn_rs", "us_net", *NESTED)
EXPERIMENTS = {
    "table1": Experiment(
        "accuracy at four widths",
        ("mnist",),
        _of_systems("shared_bn", "s_net", "awn", trace=True),
    ),
    "table2": Experiment(
        "AUC of all systems", ("fashion_mnist", "cifar10", "cifar100"), _TABLE_2
    ),
    "figure2": Experiment(
        "batch statistics and moving statistics of a channel at four widths",
        ("mnist",),
        _of_systems("shared_bn", "s_net", "awn", trace=True),
    ),
    "figure4": Experiment(
        "AUC against the number of widths in a step", ("fashion_mnist",), _figure_4
    ),
    "figure5": Experiment(
        "trade-off curves", ("fashion_mnist", "cifar10", "cifar100"), _TABLE_2
    ),
    "individual": Experiment(
        "plain networks trained one by one",
        ("fashion_mnist", "cifar10", "cifar100"),
        _individual,
    ),
    "improvements": Experiment(
        "changes of the paper's recipe", ("fashion_mnist", "cifar10"), _improvements
    ),
    "figure6": Experiment(
        "networks trained at full width only", ("cifar10",), _figure_6
    ),
}


def runs_of(
    experiment: str,
    dataset: str | None = None,
    architecture: str = "lenet_3c1l",
    *,
    seeds: int = 1,
    scale: float = 1.0,
    precision: str = "float32",
    systems: Sequence[str] | None = None,
) -> list[PaperRun]:
    """Lists the runs of a table or figure.

    Args:
        experiment: One of `EXPERIMENTS`.
        dataset: Data set. `None` takes the experiment's default.
        architecture: Architecture.
        seeds: Number of seeds, 1 to 1000. The first seed is 0.
        scale: See `Recipe`.
        precision: See `Recipe`.
        systems: Labels of the runs to keep. `None` keeps all.

    Returns:
        The runs: all systems with the first seed, then all with the second, and so on.

    Raises:
        ValueError: If a name is not known, if the architecture does not fit the
            experiment, if `seeds` is out of range, or if `systems` is empty.
    """
    if experiment not in EXPERIMENTS:
        raise ArgumentError(
            f"The experiment must be one of {sorted(EXPERIMENTS)}. Received: "
            f"{experiment!r}"
        )
    dataset = EXPERIMENTS[experiment].datasets[0] if dataset is None else dataset
    if dataset not in DATASETS:
        raise ArgumentError(
            f"`dataset` must be one of {sorted(DATASETS)}. Received: dataset={dataset}"
        )
    if not 1 <= seeds <= _MOST_SEEDS:
        raise ArgumentError(
            f"`seeds` must be at least 1 and at most {_MOST_SEEDS}. Received: "
            f"seeds={seeds}"
        )
    runs = EXPERIMENTS[experiment].runs(dataset, architecture)
    labels = [run.label for run in runs]
    unknown = sorted(set(systems or ()) - set(labels))
    if unknown or systems == []:
        raise ArgumentError(f"`systems` must be of {labels}. Received: {unknown}")
    return [
        replace(
            run,
            recipe=replace(run.recipe, seed=seed, scale=scale, precision=precision),
        )
        for seed in range(seeds)
        for run in runs
        if systems is None or run.label in systems
    ]
