"""The settings of a training run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from awn_keras.baselines.nested_net import STRUCTURES
from awn_keras.conversion import ORDERS
from awn_keras.errors import ArgumentError
from awn_keras.multi_width import MultiWidthModel
from awn_keras.runs.networks import network_of
from awn_keras.stages import Stages, Widths
from awn_keras.widths import STAIRCASES, check_width, check_widths

#: `awn` has triangular convolutions; `shared_bn`, `s_net`, `us_net` and `nested_net`
#: slice ordinary convolutions; `plain` is an ordinary network of one width.
SYSTEMS = ("awn", "shared_bn", "s_net", "us_net", "nested_net", "plain")
#: Ways to choose the widths of a step.
SAMPLERS = ("sandwich", "expected_sandwich", "uniform", "fixed", "all")
#: `steps`: the learning rate falls to a tenth twice; `cosine`: along half a cosine.
SCHEDULES = ("steps", "cosine")
#: Keras' dtype policies of the training steps. Weights, batch statistics, losses and
#: the curve that a run reports are float32 in both.
PRECISIONS = ("float32", "mixed_bfloat16")
_CALIBRATION = ("calibrations", "calibration_batches")
_GRADES = ("widths_grid", "lowest_width", "staircase", "stages")
#: Fields of a recipe that have no effect on a system.
UNUSED: dict[str, tuple[str, ...]] = {
    "awn": (*_CALIBRATION, "structure"),
    "shared_bn": (*_CALIBRATION, *_GRADES, "structure"),
    "s_net": (*_CALIBRATION, *_GRADES, "min_width", "num_widths", "structure"),
    "us_net": (*_GRADES, "structure"),
    "nested_net": (*_CALIBRATION, *_GRADES, "min_width", "num_widths"),
    "plain": (
        *(*_CALIBRATION, *_GRADES, "min_width", "sampler", "widths", "num_widths"),
        "structure",
        *("width_reduction", "width_power", "distillation", "frozen_up_to"),
    ),
}


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run. Defaults are the paper's for LeNet.

    Args:
        dataset: Name of a data set that `load_data` knows.
        architecture: See `network_of`.
        system: One of `SYSTEMS`.
        filters: Channels of each convolution, before `width_multiplier`. Only for
            `lenet_3c1l`.
        width_multiplier: Factor on the channels of every convolution: a number, or
            `"balanced"`; see `to_any_width`.
        epochs: Passes over the training set, before `scale`.
        scale: Part of `epochs` that is run, in (0, 1]; at least one epoch. Below 1,
            results are marked as reduced.
        batch_size: Samples in a step.
        learning_rate: Initial learning rate of SGD.
        schedule: One of `SCHEDULES`. `"steps"` divides the learning rate by 10 after
            50 % and again after 75 % of the steps. `"cosine"` lowers it along half a
            cosine to 0. Refining (`frozen_up_to`), which follows joint training, has
            its own schedule.
        momentum: Momentum of SGD, in [0, 1).
        weight_decay: Weight decay in the gradient, as in the paper; at least 0.
        min_width: Smallest width, in (0, 1].
        divisor: See `AnyWidthModel`.
        widths_grid: See `AnyWidthModel`.
        staircase: See `AnyWidthModel`.
        stages: See `AnyWidthModel`.
        sampler: One of `SAMPLERS`.
        widths: Widths of the sampler `fixed`, ascending; also the widths of an S-Net
            and a NestedNet.
        structure: Structure of a NestedNet, which is pruned in the first quarter of the
            steps; see `awn_keras.baselines.NestedNet`.
        num_widths: Number of widths in a step, for the sandwich samplers and `uniform`.
            With `expected_sandwich` all widths run, and their weights sum to
            `num_widths`.
        width_reduction: See `AnyWidthModel.compile`.
        width_power: See `AnyWidthModel.compile`.
        distillation: Share of the full width's outputs in the loss of narrower widths,
            after `late`. See `AnyWidthModel.compile`.
        frozen_up_to: Width up to which networks do not change after `late`; 0 for none.
            See `AnyWidthModel.compile`.
        late: Part of the steps, in [0, 1), after which `distillation` and
            `frozen_up_to` begin.
        lowest_width: The smallest width that is trained and evaluated, if above
            `min_width`. Channels that are active at `min_width` have no triangle.
        bn_momentum: Momentum of the moving statistics of BatchNormalization, in [0, 1).
            `None` for a momentum that fits the number of steps.
        calibrations: Numbers of evenly spread widths at which a US-Net is calibrated.
            Each number gives a curve.
        calibration_batches: Number of training batches for a calibration.
        precision: One of `PRECISIONS`.
        seed: Seed of all random numbers.
        folder: Path of a folder of photos to train on. `dataset` is then its name.
        size: Rows and cols to which photos are scaled.
        held_out: Part of each class's photos for testing; see `load_folder`.
        flip: Whether training images are flipped. `None` for the data set's
            default.
        shift: Largest shift of training images, in pixels. `None` for the data set's
            default.
        weights: `"imagenet"` to start from trained weights, or `None` for random
            weights.
        rotate: Whether the channels of trained bottlenecks are rotated, which reads
            some training images; see `rotate_channels`.
        order: Order of the channels of trained weights; see `to_any_width`.
        fade: Part of the steps, in [0, 1), in which forbidden entries of trained
            weights fade out; 0 drops them at once. See `to_any_width`.
        grow: Factor between the channels of the full width and of the network, which
            becomes the narrowest width; see `awn_keras.grow`. `None` makes the network
            itself any-width.
        warm_up: Part of the steps, in [0, 1), in which the learning rate rises to
            `learning_rate`. Only with `"cosine"`.
        label_smoothing: Part of a label, in [0, 1), that is spread over all classes.
        patience: Training ends after so many epochs without a better `val_auc` (for a
            plain network, `val_accuracy`), and the result is the model of the best
            epoch. `None` trains all epochs; the result is the last model.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1.
    """

    dataset: str = "fashion_mnist"
    architecture: str = "lenet_3c1l"
    system: str = "awn"
    filters: int = 32
    width_multiplier: float | str = 2**0.5
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
    staircase: str = "paper"
    stages: Stages | None = None
    sampler: str = "sandwich"
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    structure: str = "channels"
    num_widths: int = 4
    width_reduction: str = "sum"
    width_power: float = 0.0
    distillation: float = 0.0
    frozen_up_to: float = 0.0
    late: float = 0.5
    lowest_width: float | None = None
    bn_momentum: float | None = 0.9
    calibrations: tuple[int, ...] = (4, 10, 20)
    calibration_batches: int = 100
    precision: str = "float32"
    seed: int = 0
    folder: str | None = None
    size: tuple[int, int] | None = None
    held_out: float = 0.2
    flip: bool | None = None
    shift: int | None = None
    weights: str | None = None
    rotate: bool = False
    order: str = "keep"
    fade: float = 0.0
    grow: float | None = None
    warm_up: float = 0.0
    label_smoothing: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        """Checks names and ranges.

        Raises:
            ValueError: If a field is wrong.
        """
        for name, allowed in (
            ("system", SYSTEMS),
            ("schedule", SCHEDULES),
            ("sampler", SAMPLERS),
            ("precision", PRECISIONS),
            ("staircase", STAIRCASES),
            ("order", ORDERS),
            ("structure", STRUCTURES),
        ):
            if getattr(self, name) not in allowed:
                raise ArgumentError(
                    f"`{name}` must be one of {sorted(allowed)}. Received: "
                    f"{name}={getattr(self, name)!r}"
                )
        for name in (
            *("filters", "epochs", "batch_size", "num_widths", "divisor"),
            "calibration_batches",
        ):
            if getattr(self, name) < 1:
                raise ArgumentError(
                    f"`{name}` must be at least 1. Received: "
                    f"{name}={getattr(self, name)}"
                )
        for name in ("learning_rate", "width_multiplier"):
            _check_above_0(getattr(self, name), name)
        for name, end in (
            *(("momentum", 1), ("bn_momentum", 1), ("late", 1), ("fade", 1)),
            *(("weight_decay", math.inf), ("seed", 2**32), ("warm_up", 1)),
            ("label_smoothing", 1),
        ):
            if getattr(self, name) is None and name == "bn_momentum":
                continue
            if not 0 <= getattr(self, name) < end:
                raise ArgumentError(
                    f"`{name}` must be in [0, {end}). Received: "
                    f"{name}={getattr(self, name)}"
                )
        Widths.of(self.min_width, stages=self.stages or None)
        check_width(self.scale, name="scale")
        check_widths(self.widths)
        if self.lowest_width is not None:
            check_width(self.lowest_width, self.min_width, "lowest_width")
        self._check_unused()
        self._check_folder()
        self._check_start()

    def _check_start(self) -> None:
        """Checks the fields that concern the start and the end of training."""
        if self.warm_up and (self.schedule != "cosine" or self.frozen_up_to):
            raise ArgumentError(
                "`warm_up` needs `schedule='cosine'` without `frozen_up_to`. Received: "
                f"warm_up={self.warm_up}, schedule={self.schedule!r}, "
                f"frozen_up_to={self.frozen_up_to}"
            )
        if self.weights not in (None, "imagenet"):
            raise ArgumentError(
                f"`weights` must be 'imagenet' or None. Received: weights="
                f"{self.weights!r}"
            )
        if self.grow is not None:
            for name in (
                *("rotate", "order", "fade", "widths_grid", "stages"),
                "lowest_width",
            ):
                if getattr(self, name) != getattr(type(self), name):
                    raise ArgumentError(
                        f"`{name}` has no effect with `grow`, which does not change "
                        f"the network: leave `{name}` out. Received: {name}="
                        f"{getattr(self, name)!r}, grow={self.grow}"
                    )
        if self.patience is not None and self.patience < 1:
            raise ArgumentError(
                f"`patience` must be at least 1. Received: patience={self.patience}"
            )
        if self.patience is not None and self.system not in ("awn", "plain"):
            raise ArgumentError(
                "`patience` needs a validation after each epoch, which only the "
                f"systems awn and plain have. Received: system={self.system!r}"
            )

    def _check_folder(self) -> None:
        if self.folder is not None:
            if self.size is None:
                raise ArgumentError(
                    "`size` must be the rows and cols to which photos are scaled. "
                    "Received: size=None"
                )
            return
        for name in ("size", "held_out"):
            if getattr(self, name) != getattr(type(self), name):
                raise ArgumentError(
                    f"`{name}` is for a folder of photos: leave it out. Received: "
                    f"{name}={getattr(self, name)}"
                )

    def _check_unused(self) -> None:
        for to, unused in (
            ("architecture", network_of(self.architecture).unused),
            ("system", UNUSED[self.system]),
        ):
            for name in unused:
                if getattr(self, name) != getattr(type(self), name):
                    raise ArgumentError(
                        f"`{name}` has no effect on {to}={getattr(self, to)!r}: leave "
                        f"it out. Received: {name}={getattr(self, name)}"
                    )
        if self.system in ("s_net", "nested_net") and self.sampler != "fixed":
            raise ArgumentError(
                f"`system={self.system}` trains its listed widths: `sampler` must be "
                f"'fixed'. Received: sampler={self.sampler!r}"
            )

    @property
    def epochs_run(self) -> int:
        """Epochs after scaling."""
        return max(1, round(self.epochs * self.scale))

    @property
    def variant(self) -> list[str]:
        """Differences from the paper's training, for names of files."""
        parts = [f"scale{self.scale:g}"] if self.scale < 1 else []
        return parts + ([self.precision] if self.precision != "float32" else [])

    @property
    def as_mean(self) -> dict[str, Any]:
        """Changes that replace the sum of losses by their mean, with equal updates.

        The sum of n losses gives the updates of their mean with n times the learning
        rate. Weight decay is added once, so it is divided by n to keep its strength.
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
            The distinct widths of the model, beginning with `lowest_width` if it is
            set.
        """
        widths = list(model.distinct_widths)
        if self.lowest_width is None:
            return widths
        wider = [width for width in widths if width > self.lowest_width]
        return [self.lowest_width, *wider]

    def as_json(self) -> dict[str, Any]:
        """Converts the recipe to types of JSON.

        Returns:
            A dict of the fields.
        """
        return json.loads(json.dumps(asdict(self)))


def _check_above_0(value: Any, name: str) -> None:
    if name == "width_multiplier" and value == "balanced":
        return
    if isinstance(value, str) or not 0 < value < math.inf:
        raise ArgumentError(f"`{name}` must be above 0. Received: {name}={value}")
