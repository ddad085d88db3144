"""Everything that decides a training run, and the model that comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from awn_keras.architectures import lenet_3c1l, mobilenet_v2
from awn_keras.baselines import SharedBN, SNet, USNet
from awn_keras.data import DATASETS, ImageData
from awn_keras.multi_width import MultiWidthModel
from awn_keras.training.samplers import (
    FixedWidths,
    SandwichWidths,
    UniformWidths,
    WidthSampler,
)
from awn_keras.widths import check_width, check_widths

#: `awn` has triangular convolutions; `shared_bn`, `s_net` and `us_net` slice ordinary
#: ones; `plain` is an ordinary network of one width.
SYSTEMS = ("awn", "shared_bn", "s_net", "us_net", "plain")
#: Ways to choose the widths of a step.
SAMPLERS = ("sandwich", "expected_sandwich", "uniform", "fixed", "all")
#: The learning rate falls to a tenth twice, or along half a cosine.
SCHEDULES = ("steps", "cosine")
#: Keras' dtype policies of the training steps. Weights, batch statistics, losses and
#: the curve that a run reports are float32 in both.
PRECISIONS = ("float32", "mixed_bfloat16")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run. Defaults are the paper's for LeNet.

    Args:
        dataset: One of `awn_keras.data.DATASETS`.
        architecture: One of `ARCHITECTURES`.
        system: One of `SYSTEMS`.
        filters: Channels of each convolution, before `width_multiplier`; for
            `lenet_3c1l` only.
        width_multiplier: Widens every convolution.
        epochs: Passes over the training set, before `scale`.
        scale: Part of `epochs` that is really run, in (0, 1]; at least one epoch.
            Below 1 results are marked as reduced.
        batch_size: Samples in a step.
        learning_rate: Of SGD with `momentum`, at first.
        schedule: One of `SCHEDULES`: divided by 10 after 50 % and 75 % of the steps,
            or half a cosine down to 0. Refining (`frozen_up_to`) follows joint
            training with a schedule of its own.
        momentum: Momentum in [0, 1).
        weight_decay: The paper's, in the gradient.
        min_width: Smallest width, in (0, 1].
        divisor: See `AnyWidthModel`.
        widths_grid: See `AnyWidthModel`.
        sampler: One of `SAMPLERS`.
        widths: Widths of the sampler `fixed`, ascending; an S-Net's list.
        num_widths: Widths in a step; for the sandwiches and `uniform`. All run with
            `expected_sandwich`, and their weights sum to it.
        width_reduction: See `AnyWidthModel.compile`.
        width_power: See `AnyWidthModel.compile`.
        distillation: Share of the full width's answers in the loss of narrower
            widths, from `late` on.
        frozen_up_to: Width up to which networks stay as they are, from `late` on; 0
            for none. See `AnyWidthModel.compile`.
        late: Part of the steps, in [0, 1), after which these two begin.
        lowest_width: The smallest width that is trained and evaluated, if above
            `min_width`; what is active at `min_width` is dense.
        bn_momentum: Of the moving statistics of BatchNormalization.
        calibrations: Numbers of evenly spread widths at which a US-Net is calibrated;
            each gives a curve.
        calibration_batches: Training batches that a calibration sees.
        precision: One of `PRECISIONS`.
        seed: Seed of everything that is drawn.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1.
    """

    dataset: str = "fashion_mnist"
    architecture: str = "lenet_3c1l"
    system: str = "awn"
    filters: int = 32
    width_multiplier: float = 2**0.5
    epochs: int = 20
    scale: float = 1.0
    batch_size: int = 128
    learning_rate: float = 0.01
    schedule: str = "steps"
    momentum: float = 0.9
    weight_decay: float = 0.0
    min_width: float = 0.25
    divisor: int = 1
    widths_grid: tuple[float, ...] | None = None
    sampler: str = "sandwich"
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    num_widths: int = 4
    width_reduction: str = "sum"
    width_power: float = 0.0
    distillation: float = 0.0
    frozen_up_to: float = 0.0
    late: float = 0.5
    lowest_width: float | None = None
    bn_momentum: float = 0.9
    calibrations: tuple[int, ...] = (4, 10, 20)
    calibration_batches: int = 100
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks names and ranges.

        Raises:
            ValueError: If one is wrong.
        """
        for name, allowed in (
            ("dataset", DATASETS),
            ("architecture", ARCHITECTURES),
            ("system", SYSTEMS),
            ("schedule", SCHEDULES),
            ("sampler", SAMPLERS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {sorted(allowed)}. Received: "
                    f"{name}={getattr(self, name)!r}"
                )
        for name in (
            *("filters", "epochs", "batch_size", "num_widths", "divisor"),
            "calibration_batches",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: "
                    f"{name}={getattr(self, name)}"
                )
        for name in ("learning_rate", "width_multiplier"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"`{name}` must be above 0. Received: {name}={getattr(self, name)}"
                )
        for name, end in (
            *(("momentum", 1), ("bn_momentum", 1), ("late", 1)),
            *(("weight_decay", math.inf), ("seed", 2**32)),
        ):
            if not 0 <= getattr(self, name) < end:
                raise ValueError(
                    f"`{name}` must be in [0, {end}). Received: "
                    f"{name}={getattr(self, name)}"
                )
        check_width(self.min_width, name="min_width")
        check_width(self.scale, name="scale")
        check_widths(self.widths)
        if self.lowest_width is not None:
            check_width(self.lowest_width, self.min_width, "lowest_width")
        self._check_unused()

    def _check_unused(self) -> None:
        for to, unused in (
            ("architecture", ARCHITECTURES[self.architecture].unused),
            ("system", _UNUSED[self.system]),
        ):
            for name in unused:
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(
                        f"`{name}` means nothing to {to}={getattr(self, to)!r}: leave "
                        f"it out. Received: {name}={getattr(self, name)}"
                    )
        if self.system == "s_net" and self.sampler != "fixed":
            raise ValueError(
                "An S-Net trains its listed widths: `sampler` must be 'fixed'. "
                f"Received: sampler={self.sampler!r}"
            )

    @property
    def epochs_run(self) -> int:
        """Epochs after scaling."""
        return max(1, round(self.epochs * self.scale))

    @property
    def variant(self) -> list[str]:
        """What sets it apart from the paper's way to train, for names of files."""
        parts = [f"scale{self.scale:g}"] if self.scale < 1 else []
        return parts + ([self.precision] if self.precision != "float32" else [])

    @property
    def as_mean(self) -> dict[str, Any]:
        """Changes that make a sum of losses their mean, with the same update.

        The sum of n losses is their mean at n times the rate. Weight decay, which is
        added once, is not to become n times as strong.
        """
        return {
            "width_reduction": "mean",
            "learning_rate": self.num_widths * self.learning_rate,
            "weight_decay": self.weight_decay / self.num_widths,
        }

    def curve_widths(self, model: MultiWidthModel) -> list[float]:
        """Lists the widths over which a model's AUC is taken.

        Args:
            model: The recipe's model.

        Returns:
            Its distinct widths from `lowest_width` on, which is the first.
        """
        widths = list(model.distinct_widths)
        if self.lowest_width is None:
            return widths
        wider = [width for width in widths if width > self.lowest_width]
        return [self.lowest_width, *wider]

    @classmethod
    def paper(
        cls, dataset: str, architecture: str = "lenet_3c1l", system: str = "awn_rs"
    ) -> Recipe:
        """The paper's recipe for a system and an architecture on a data set.

        Args:
            dataset: One of `awn_keras.data.DATASETS`.
            architecture: One of `ARCHITECTURES`.
            system: `"awn"` (four fixed widths), `"awn_rs"` (random sampling by the
                sandwich rule), `"s_net"`, `"us_net"`, `"shared_bn"` (four fixed
                widths) or `"plain"`. Only AWNs are widened by sqrt(2).

        Returns:
            20 epochs without weight decay; on CIFAR 100 epochs with 5e-4. AWNs of
            `mobilenet_v2` train 350 epochs (the paper: 350 to 1050); the rest of its
            schedule is LeNet's.

        Raises:
            ValueError: If a name is wrong.

        Reference:
            Vu et al., Any-Width Networks (2020), section 5.1.
        """
        if system not in _PAPER_SYSTEMS:
            raise ValueError(
                f"`system` must be one of {sorted(_PAPER_SYSTEMS)}. Received: "
                f"system={system!r}"
            )
        recipe = cls(dataset, architecture)
        if dataset.startswith("cifar"):
            recipe = replace(recipe, epochs=100, weight_decay=5e-4)
        changes = {**ARCHITECTURES[architecture].paper, **_PAPER_SYSTEMS[system]}
        unused = _UNUSED[changes.get("system", cls.system)]
        changes = {k: value for k, value in changes.items() if k not in unused}
        recipe = replace(recipe, **changes)
        if architecture == "mobilenet_v2" and recipe.system == "awn":
            recipe = replace(recipe, epochs=350)
        return recipe

    @classmethod
    def recommended(cls, dataset: str, architecture: str = "lenet_3c1l") -> Recipe:
        """The recipe that `awn train` starts from, at the paper's epochs.

        Args:
            dataset: One of `awn_keras.data.DATASETS`.
            architecture: One of `ARCHITECTURES`.

        Returns:
            For an AWN that takes the mean of the losses. With `lenet_3c1l` the arm of
            `awn reproduce improvements` that did best so far, written as such a mean;
            the rate falls along half a cosine. For CIFAR, by CIFAR-10,
            `expected_cosine`: the paper's rate and decay, as a mean 0.04 and 1.25e-4,
            and all widths in each step, weighed as the sandwich draws them. Else, by
            Fashion-MNIST, `cosine_fast_decay`: 0.12 and 5e-4. With `mobilenet_v2`,
            with which nothing was compared, the paper's AWN+RS.

        Raises:
            ValueError: If a name is wrong.
        """
        paper = cls.paper(dataset, architecture)
        chosen = ARCHITECTURES[architecture]
        cifar = dataset.startswith("cifar")
        better = chosen.recommended_for_cifar if cifar else chosen.recommended
        return replace(paper, **{**paper.as_mean, **better})


_CALIBRATION = ("calibrations", "calibration_batches")
_GRADES = ("widths_grid", "lowest_width")
#: Fields that mean nothing to a system.
_UNUSED: dict[str, tuple[str, ...]] = {
    "awn": _CALIBRATION,
    "shared_bn": (*_CALIBRATION, *_GRADES),
    "s_net": (*_CALIBRATION, *_GRADES, "min_width", "num_widths"),
    "us_net": _GRADES,
    "plain": (
        *(*_CALIBRATION, *_GRADES, "min_width", "sampler", "widths", "num_widths"),
        *("width_reduction", "width_power", "distillation", "frozen_up_to"),
    ),
}
_PAPER_SYSTEMS: dict[str, dict[str, Any]] = {
    "awn": {"sampler": "fixed"},
    "awn_rs": {},
    "s_net": {"system": "s_net", "sampler": "fixed", "width_multiplier": 1.0},
    "us_net": {"system": "us_net", "width_multiplier": 1.0},
    "shared_bn": {"system": "shared_bn", "sampler": "fixed", "width_multiplier": 1.0},
    "plain": {"system": "plain", "width_multiplier": 1.0},
}


@dataclass(frozen=True)
class Architecture:
    """A network that a recipe can name.

    Args:
        build: Builds the network of a recipe for a data set: an `AnyWidthModel`, or
            a plain one where the recipe's system is not `awn`.
        paper: What differs in the paper's recipe from that for LeNet.
        recommended: What did better here than the paper's recipe, but for CIFAR.
        recommended_for_cifar: The same for CIFAR.
        unused: Fields of a recipe that mean nothing to this network.
    """

    build: Callable[[Recipe, ImageData], keras.Model]
    paper: Mapping[str, Any] = field(default_factory=dict)
    recommended: Mapping[str, Any] = field(default_factory=dict)
    recommended_for_cifar: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def _shared_arguments(recipe: Recipe) -> dict[str, Any]:
    names = (
        *("width_multiplier", "weight_decay", "bn_momentum"),
        *("min_width", "divisor", "widths_grid"),
    )
    arguments = {name: getattr(recipe, name) for name in names}
    return {**arguments, "triangular": recipe.system == "awn"}


def _lenet_3c1l(recipe: Recipe, data: ImageData) -> keras.Model:
    small = min(data.input_shape[:2]) < 16
    return lenet_3c1l(
        data.input_shape,
        data.classes,
        filters=recipe.filters,
        padding="same" if small else "valid",
        **_shared_arguments(recipe),
    )


def _mobilenet_v2(recipe: Recipe, data: ImageData) -> keras.Model:
    return mobilenet_v2(data.input_shape, data.classes, **_shared_arguments(recipe))


#: Architectures by name.
ARCHITECTURES = {
    "lenet_3c1l": Architecture(
        _lenet_3c1l,
        recommended={
            "learning_rate": 0.12,
            "schedule": "cosine",
            "weight_decay": 5e-4,
        },
        recommended_for_cifar={
            "schedule": "cosine",
            "sampler": "expected_sandwich",
        },
    ),
    "mobilenet_v2": Architecture(
        _mobilenet_v2,
        paper={
            "epochs": 100,
            "min_width": 0.35,
            "divisor": 8,
            "widths": (0.35, 0.5, 0.75, 1.0),
        },
        unused=("filters",),
    ),
}


def build(recipe: Recipe, data: ImageData) -> keras.Model:
    """Builds and compiles a recipe's model.

    Args:
        recipe: The recipe. Keras' global random state is seeded from it.
        data: Its data set.

    Returns:
        The model, untrained: a `MultiWidthModel`, or a `keras.Model` if the system is
        `plain`.

    Raises:
        ValueError: If the recipe's arguments do not fit.
    """
    keras.utils.set_random_seed(recipe.seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        network = ARCHITECTURES[recipe.architecture].build(recipe, data)
    finally:
        keras.config.set_dtype_policy(policy)
    model = _of_system(recipe, network)
    steps = recipe.epochs_run * len(data.train(recipe.batch_size))
    arguments: dict[str, Any] = {}
    if isinstance(model, MultiWidthModel):
        arguments = {
            "widths": _sampler(recipe, model),
            "width_reduction": recipe.width_reduction,
            "width_power": recipe.width_power,
            "distillation": _late(recipe, recipe.distillation, steps),
            "frozen_up_to": _late(recipe, recipe.frozen_up_to, steps),
            "curve_widths": recipe.curve_widths(model),
        }
    model.compile(
        keras.optimizers.SGD(_schedule(recipe, steps), momentum=recipe.momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **arguments,
    )
    return model


def _of_system(recipe: Recipe, network: keras.Model) -> keras.Model:
    graph = (network.input, network.output, network.name)
    if recipe.system == "s_net":
        return SNet(*graph, widths=recipe.widths, divisor=recipe.divisor)
    sliced = {"shared_bn": SharedBN, "us_net": USNet}.get(recipe.system)
    if sliced is None:
        return network
    return sliced(*graph, min_width=recipe.min_width, divisor=recipe.divisor)


def _schedule(recipe: Recipe, steps: int) -> Any:
    schedules = keras.optimizers.schedules
    joint = _last_early_step(recipe, steps) if recipe.frozen_up_to else 0
    joint = joint or steps  # Refining from the first step on is a run like any other.
    if recipe.schedule == "cosine":
        first = joint + 1  # That is when `_late` begins.
        if first >= steps:
            return schedules.CosineDecay(recipe.learning_rate, steps)
        return schedules.CosineDecayRestarts(
            recipe.learning_rate, first, t_mul=(steps - first) / first
        )
    rates = [recipe.learning_rate / 10**i for i in range(3)]
    boundaries = [round(0.5 * joint), round(0.75 * joint)]
    if joint < steps:
        boundaries += [joint + round(part * (steps - joint)) for part in (0, 0.5, 0.75)]
        rates *= 2
    return schedules.PiecewiseConstantDecay(boundaries, rates)


def _last_early_step(recipe: Recipe, steps: int) -> int:
    """The last step before `late`."""
    return round(recipe.late * steps)


def _late(recipe: Recipe, value: float, steps: int) -> Any:
    """A value that holds from `late` on, and 0 before."""
    if not value or not recipe.late:
        return value
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [_last_early_step(recipe, steps)], [0.0, value]
    )


def _sampler(recipe: Recipe, model: MultiWidthModel) -> WidthSampler:
    if recipe.sampler == "all":
        return FixedWidths(recipe.curve_widths(model))
    if recipe.sampler == "fixed":
        return FixedWidths(recipe.widths)
    sampler = UniformWidths if recipe.sampler == "uniform" else SandwichWidths
    lowest = recipe.lowest_width or recipe.min_width
    return sampler(
        *(lowest, 1.0, recipe.num_widths, recipe.seed),
        expected=recipe.sampler == "expected_sandwich",
    )
