"""The any-width model: one pass of the trunk trains and evaluates every width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.layers.base import TriangularKernel
from awn_keras.multi_width import MultiWidthModel
from awn_keras.objectives import Schedule, at_step, check_share, is_schedule
from awn_keras.propagation import (
    Propagation,
    Split,
    channel_axis,
    propagate,
    split,
)
from awn_keras.rules import WidthRule, rule_of
from awn_keras.widths import check_width


@dataclass
class _Trunk:
    """Trunk and tail, out of sight of Keras' tracking of layers."""

    parts: Split
    channel_levels: list[np.ndarray | None]  # for each tensor between the parts


@keras.saving.register_keras_serializable(package="awn_keras")
class AnyWidthModel(MultiWidthModel):
    """A functional Keras model that runs at any width from `min_width` to 1.

    Build it like a `keras.Model`: a plain layer on the input (the stem), Tri layers,
    the stock per-channel layers between them, and a plain layer on top (the readout),
    whose outputs are all there at every width. Compile, fit, evaluate, predict, save
    and load are Keras' own, with these additions:

    - `fit` trains several widths in every step, by one pass through the trunk;
    - `width` sets the width of `predict`, `evaluate` and `model(x)`;
    - logs hold each metric at the current width under its own name, and at the report
      widths as `accuracy_w025`; validation adds `auc`, the accuracy averaged over
      widths (`width_auc` if the model has a metric called `auc`). AUC needs one of
      Keras' accuracy metrics in `metrics`.

    A copy with the same widths is `AnyWidthModel.from_config(model.get_config())`;
    `keras.models.clone_model` knows only of Keras' own arguments.

    Args:
        inputs: `keras.Input`, or a structure of them.
        outputs: Tensors computed from `inputs`.
        name: Name of the model.
        min_width: Smallest width in (0, 1]; what is active at it is always on, and
            dense. `None` for the first of `widths_grid`, else 0.25.
        divisor: Channels come and go in blocks of this size; 8 suits phones.
        widths_grid: If only a few widths are needed: these, ascending, ending at 1.
            A width between two of them runs as the smaller one.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, a layer breaks the rule of
            any-width networks, or there is no readout.
        NotImplementedError: If there is no width rule for a layer.

    Example:
    >>> import keras
    >>> from awn_keras import AnyWidthModel, TriDense
    >>> inputs = keras.Input((4,))
    >>> x = keras.layers.Dense(8, activation="relu")(inputs)
    >>> x = TriDense(8, activation="relu")(x)
    >>> model = AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.5)
    >>> model.distinct_widths
    (0.5, 0.625, 0.75, 0.875, 1.0)

    Reference:
        Vu et al., Any-Width Networks (2020), sections 3 and 4.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        min_width: float | None = None,
        divisor: int = 1,
        widths_grid: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *(inputs, outputs, name),
            min_width=min_width,
            divisor=divisor,
            widths_grid=widths_grid,
            **kwargs,
        )
        parts = split(self, self.propagation)
        levels = [
            # A channel is active from the level on at which its grade is reached.
            None if grades is None else self._runtime.level_of(grades)
            for grades in parts.grades
        ]
        self._trunk = _Trunk(parts, levels)

    def compile(self, *args: Any, frozen_up_to: Schedule = 0.0, **kwargs: Any) -> None:
        """Configures training, as `keras.Model.compile` does.

        Args:
            *args: `optimizer`, `loss` and so on, as in Keras, then as in
                `MultiWidthModel.compile`: `widths`, `width_reduction`, `width_power`,
                `distillation`, `report_widths`, `curve_widths` and `loop`.
            frozen_up_to: A width: the networks up to it stay as they are, bit for bit,
                and only what wider ones add is trained (a channel never reads from a
                later one, so that this is possible). 0 for none; or a schedule of it
                over optimizer steps, to refine the wide end after joint training.
            **kwargs: As in Keras and in `MultiWidthModel.compile`.

        Raises:
            TypeError: If `frozen_up_to` is neither a number nor a schedule, and as
                `MultiWidthModel.compile` does.
            ValueError: If `frozen_up_to` is neither 0 nor in [min_width, 1), or the
                optimizer has `use_ema=True` with it, and as `MultiWidthModel.compile`
                does.
        """
        frozen_up_to = check_share(frozen_up_to, "frozen_up_to")
        if not is_schedule(frozen_up_to) and frozen_up_to != 0:
            check_width(frozen_up_to, self.min_width, "frozen_up_to")
            if frozen_up_to == 1:
                raise ValueError(
                    "`frozen_up_to` must be below 1, or nothing would be trained. "
                    "Received: frozen_up_to=1"
                )
        super().compile(*args, **kwargs)
        freezes = is_schedule(frozen_up_to) or frozen_up_to > 0
        if freezes and getattr(self.optimizer, "use_ema", False):
            raise ValueError(
                "`frozen_up_to` cannot hold what the optimizer's moving average puts "
                "in the weights' place. Use an optimizer with `use_ema=False`. "
                f"Received: optimizer={type(self.optimizer).__name__} with use_ema=True"
            )
        self._width_config["frozen_up_to"] = frozen_up_to

    def train_step(self, data: Any) -> dict[str, Any]:
        """One optimizer step over several widths; see `compile`.

        Args:
            data: `(x, y)` or `(x, y, sample_weight)`, a batch.

        Returns:
            The logs; see `MultiWidthModel.train_step`.
        """
        frozen = self._width_config["frozen_up_to"]
        if not is_schedule(frozen) and not frozen:
            return super().train_step(data)
        width = at_step(frozen, self.optimizer.iterations)
        # Put back afterwards, which no momentum or weight decay gets round.
        kept = [
            (variable, keras.ops.copy(variable.value), levels)
            for variable, levels in self._acting_from()
        ]
        logs = super().train_step(data)
        thresholds = self._runtime.thresholds.astype("float32")
        width = keras.ops.convert_to_tensor(width, "float32")
        level = keras.ops.sum(keras.ops.cast(width >= thresholds, "int32"))
        level = keras.ops.where(width >= np.float32(self.min_width), level, -1)
        for variable, old, levels in kept:
            variable.assign(keras.ops.where(levels <= level, old, variable.value))
        return logs

    def _acting_from(self) -> list[tuple[Any, np.ndarray]]:
        """For each weight the level from which on each of its entries acts."""
        found: dict[int, tuple[Any, np.ndarray]] = {}
        for node in self.propagation.nodes:
            layer, flow = node.operation, self.propagation.flows[id(node)]
            rule = rule_of(layer) or WidthRule()
            for weight in getattr(layer, "weights", []):
                levels = np.zeros([1] * len(weight.shape), "int32")
                for axes, grades in zip(
                    (rule.in_axes, rule.out_axes), flow.grades(), strict=True
                ):
                    axis, each = channel_axis(weight, axes, len(grades))
                    if axis is not None:
                        shape = [1] * len(weight.shape)
                        shape[axis] = -1
                        along = np.repeat(self._runtime.level_of(grades), each)
                        levels = np.maximum(levels, along.reshape(shape))
                if keras.backend.is_float_dtype(weight.dtype):
                    found[id(weight)] = (weight, levels)
        return list(found.values())

    def _propagate(self, new_grades: Callable[[int], np.ndarray]) -> Propagation:
        propagation = propagate(self, new_grades)
        for node in propagation.nodes:
            if isinstance(node.operation, TriangularKernel):
                flow = propagation.flows[id(node)]
                node.operation.set_grades(*flow.grades())
        return propagation

    def _features(self, inputs: Any, training: bool | None) -> list[Any]:
        """Runs the trunk, once for all widths."""
        return keras.tree.flatten(self._trunk.parts.trunk(inputs, training=training))

    def _outputs_at(
        self, levels: Any, features: list[Any], training: bool | None
    ) -> list[Any]:
        """Runs the tail at several levels `(n,)`, folded into its batch.

        Returns:
            The model's outputs, n times.
        """
        count = levels.shape[0]
        folded = []
        for x, channel_levels in zip(features, self._trunk.channel_levels, strict=True):
            shape = keras.ops.shape(x)
            stacked = keras.ops.broadcast_to(x, (count, *shape))
            if channel_levels is not None:
                active = channel_levels <= keras.ops.expand_dims(levels, -1)
                active = keras.ops.reshape(
                    active, (count, *(1,) * (len(shape) - 1), -1)
                )
                # Not a product: in mixed precision a wide channel may overflow, and
                # 0 * inf would carry it through the readout to narrow widths.
                stacked = keras.ops.where(active, stacked, keras.ops.zeros_like(x))
            folded.append(keras.ops.reshape(stacked, (-1, *shape[1:])))
        outputs = self._trunk.parts.tail(folded, training=training)
        pieces = [
            keras.ops.split(y, count, axis=0) for y in keras.tree.flatten(outputs)
        ]
        return [
            keras.tree.pack_sequence_as(outputs, list(piece))
            for piece in zip(*pieces, strict=True)
        ]

    def _training_logs(
        self, features: Any, outputs: list[Any], x: Any, y: Any, sample_weight: Any
    ) -> dict[str, Any]:
        return self._update_metrics("train", features, x, y, sample_weight)

    def _shared_losses(self) -> list[Any]:
        """What activity regularizers of the trunk's layers gave in its last run."""
        trunk = self._trunk.parts.trunk
        losses = trunk.losses  # weight regularizers come last
        count = sum(w.regularizer is not None for w in trunk.trainable_weights)
        return losses[: len(losses) - count]

    def weight_values(self, layer: keras.Layer, width: float) -> list[np.ndarray]:
        """Gives a layer's weights without what the triangle forbids.

        Args:
            layer: A layer of the model.
            width: Width in [min_width, 1].

        Returns:
            An array for each of `layer.weights`; they are the same at every width.
        """
        values = {id(weight): weight for weight in layer.weights}
        if isinstance(layer, TriangularKernel):
            # The kernel may hold forbidden entries since it was last assigned.
            kernel = layer.triangular_variable
            values[id(kernel)] = layer.masked(kernel)
        return [keras.ops.convert_to_numpy(value) for value in values.values()]
