"""The arguments of `compile` about widths, checked and immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.training.freezing import check_frozen_up_to
from awn_keras.training.samplers import SandwichWidths, WidthSampler
from awn_keras.training.schedules import Schedule, check_share, is_on, is_schedule
from awn_keras.widths import Networks, check_width, check_widths

_REDUCTIONS = ("mean", "sum")
_CURVE_WIDTHS = 64


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of a training, and the widths at which the model is measured.

    Use `make`, which checks the user's arguments. `AnyWidthModel.compile` explains each
    setting.

    Args:
        widths: Sampler of the widths of a step, with a known seed.
        width_reduction: `"mean"` or `"sum"` of the losses of these widths.
        width_power: Losses are weighted by `width ** width_power`.
        distillation: Share in [0, 1] of the loss of narrow widths that compares with
            the outputs of the full width.
        frozen_up_to: Networks up to this width do not change; 0 for none.
        report_widths: Widths of the logs, ascending.
        curve_widths: Widths of the AUC, ascending.
        teacher: Model whose outputs replace those of the full width in the distillation
            of all widths, or `None`.
    """

    widths: WidthSampler
    width_reduction: str
    width_power: float
    distillation: Schedule
    frozen_up_to: Schedule
    report_widths: tuple[float, ...]
    curve_widths: tuple[float, ...]
    teacher: keras.Model | None = None

    @classmethod
    def make(
        cls,
        networks: Networks,
        *,
        widths: WidthSampler | None = None,
        width_reduction: str = "mean",
        width_power: float = 0.0,
        distillation: Schedule = 0.0,
        frozen_up_to: Schedule = 0.0,
        report_widths: Sequence[float] | None = None,
        curve_widths: Sequence[float] | None = None,
        teacher: keras.Model | None = None,
        shared_seed: bool = False,
    ) -> TrainingPlan:
        """Checks the arguments of `compile`, and sets the defaults.

        Args:
            networks: The model's networks.
            widths: See `AnyWidthModel.compile`.
            width_reduction: See `AnyWidthModel.compile`.
            width_power: See `AnyWidthModel.compile`.
            distillation: See `AnyWidthModel.compile`.
            frozen_up_to: See `AnyWidthModel.compile`.
            report_widths: See `AnyWidthModel.compile`.
            curve_widths: See `AnyWidthModel.compile`.
            teacher: See `AnyWidthModel.compile`.
            shared_seed: Whether a sampler without a seed gets the same seed in every
                process.

        Returns:
            The plan.

        Raises:
            TypeError: If `widths` is not a `WidthSampler`, if `width_power` is no
                number, if `distillation` or `frozen_up_to` is neither a number nor a
                schedule, or if `teacher` is not a model.
            ValueError: If an argument is out of range, or if there is a `teacher`
                without `distillation`.
        """
        low = networks.min_width
        if widths is None:
            widths = SandwichWidths(low, 1.0, num_widths=4)
        if not isinstance(widths, WidthSampler):
            raise ArgumentTypeError(
                "`widths` must be a `WidthSampler`, such as `SandwichWidths(0.25, "
                f"1.0)` or `FixedWidths([0.25, 1.0])`. Received: widths={widths!r}"
            )
        check_width(widths.smallest, low, "widths")
        if width_reduction not in _REDUCTIONS:
            raise ArgumentError(
                f"`width_reduction` must be one of {_REDUCTIONS}. Received: "
                f"width_reduction={width_reduction!r}"
            )
        if isinstance(width_power, bool) or not isinstance(width_power, Real):
            raise ArgumentTypeError(
                f"`width_power` must be a number. Received: width_power={width_power!r}"
            )
        if not np.isfinite(width_power):
            raise ArgumentError(
                "`width_power` must be a finite number. Received: "
                f"width_power={width_power}"
            )
        distillation = check_share(distillation, "distillation")
        if teacher is not None and not isinstance(teacher, keras.Model):
            raise ArgumentTypeError(
                f"`teacher` must be a Keras model. Received: teacher={teacher!r}"
            )
        if teacher is not None and not is_on(distillation):
            raise ArgumentError(
                "`distillation` must be above 0 with a `teacher`. "
                f"Received: distillation={distillation}"
            )
        frozen_up_to = check_frozen_up_to(frozen_up_to, low)
        if report_widths is None:
            report_widths = (low, (low + 1) / 2, 1.0)
        if curve_widths is None:
            # A limit, because each width of the curve is evaluated on every batch.
            every = networks.distinct_widths
            chosen = np.linspace(0, len(every) - 1, min(len(every), _CURVE_WIDTHS))
            curve_widths = [every[index] for index in chosen.round().astype(int)]
        return cls(
            widths.with_known_seed(shared=shared_seed),
            width_reduction,
            float(width_power),
            distillation,
            frozen_up_to,
            _ascending(report_widths, low, "report_widths"),
            _ascending(curve_widths, low, "curve_widths"),
            teacher,
        )

    def measuring_at(self, curve_widths: Sequence[float]) -> TrainingPlan:
        """Returns the same plan with other curve widths."""
        return replace(self, curve_widths=tuple(sorted(set(curve_widths))))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile`, serialized; for a teacher, its name."""
        config: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            # A saved model does not contain its teacher. The name is for the message
            # that asks for the teacher again.
            if isinstance(value, keras.Model):
                value = value.name
            if isinstance(value, WidthSampler) or is_schedule(value):
                value = keras.saving.serialize_keras_object(value)
            config[field.name] = list(value) if isinstance(value, tuple) else value
        return config


def _ascending(
    widths: Sequence[float], min_width: float, name: str
) -> tuple[float, ...]:
    return tuple(sorted(set(check_widths(widths, min_width, name))))
