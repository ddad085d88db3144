"""The any-width model: one pass of the trunk trains and evaluates every width."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.graph import mask_of, set_mask
from awn_keras.layers.base import TriangularKernel, TriLayer
from awn_keras.multi_width import MultiWidthModel
from awn_keras.propagation import Propagation, propagate_triangles
from awn_keras.rules import PerWidth
from awn_keras.stages import Stages, Widths
from awn_keras.training.schedules import Fade, fade_schedule
from awn_keras.trunk import Split, split


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
        divisor: Channels come and go in blocks of this size, or smaller ones where a
            layer would have less than four; 8 suits phones.
        widths_grid: If only a few widths are needed: these, ascending, ending at 1.
            A width between two of them runs as the smaller one.
        staircase: At which widths blocks of channels appear. `"nested"`: where
            something reads them, so that outputs depend on every channel of every
            width. `"paper"`: the paper's exact staircase. See `channel_grades`.
        stages: Layers whose channels appear at other widths. For each pattern of names
            `min_width` (channels that are active at it are on at every width),
            `divisor` or `widths_grid` (the only widths at which these layers change),
            as in `{"block_[1-5]_*": {"widths_grid": [0.25, 0.5, 1.0]}, "code":
            {"min_width": 0.5}}`. If several patterns match a layer, the first one
            counts. Of layers that are added to each other the one of fewest channels
            counts; of layers of equal size, the first input of the `Add`.
        fade: For a trained model whose forbidden entries are to fade out; see
            `to_any_width`.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, a layer breaks the rule of
            any-width networks, or there is no readout.
        NotImplementedError: If there is no width rule for a layer.

    Warns:
        UserWarning: If there is no Tri layer, and a plain convolution or dense layer
            follows the readout: Tri layers seem to be forgotten.

    Examples:
        >>> import keras
        >>> from awn_keras import AnyWidthModel, TriDense
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, activation="relu")(inputs)
        >>> x = TriDense(8, activation="relu")(x)
        >>> model = AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.5)
        >>> model.distinct_widths
        (0.5, 0.666667, 0.833334, 1.0)

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
        staircase: str = "nested",
        stages: Stages | None = None,
        fade: Fade = None,
        **kwargs: Any,
    ) -> None:
        self._fade = fade_schedule(fade)  # layers get their places in what follows
        super().__init__(
            inputs,
            outputs,
            name,
            min_width=min_width,
            divisor=divisor,
            widths_grid=widths_grid,
            staircase=staircase,
            stages=stages,
            **kwargs,
        )
        parts = split(self, self.propagation)
        levels = [
            # A channel is active from the level on at which its grade is reached.
            None if grades is None else self.networks.level_of(grades)
            for grades in parts.grades
        ]
        self._trunk = _Trunk(parts, levels)
        self._warn_of_a_long_tail()

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes a model as a file describes it; see `keras.Model.from_config`."""
        # Files from before there was a choice have the paper's rule.
        return super().from_config({"staircase": "paper", **config}, custom_objects)

    def _warn_of_a_long_tail(self) -> None:
        """Warns if Tri layers seem to be forgotten: plain layers follow plain ones."""
        if any(isinstance(layer, TriLayer) for layer in self.layers):
            return
        for node in self.propagation.nodes:
            kind = self.propagation.flows[id(node)].inputs[0]
            if isinstance(kind, PerWidth) and hasattr(node.operation, "kernel"):
                warnings.warn(
                    f"Model '{self.name}' has no Tri layer: layer '{kind.readout}' is "
                    f"its readout, and '{node.operation.name}' and all else that "
                    "follows is whole at every width. If that is not meant, use a Tri "
                    "layer (TriConv2D, TriDense) in place of each plain one between "
                    "the first and the last, or `to_any_width(model)`.",
                    stacklevel=3,
                )
                return

    def _propagate(self, widths: Widths) -> Propagation:
        triangles, acting = propagate_triangles(self, widths)
        for node in triangles.nodes:
            if isinstance(node.operation, TriLayer):
                flow = triangles.flows[id(node)]
                node.operation.set_grades(
                    *flow.grades(), keeps_forbidden=self._fade is not None
                )
        return acting

    @property
    def fade(self) -> keras.optimizers.schedules.LearningRateSchedule | None:
        """Share in which forbidden entries act in each training step, or `None`."""
        return self._fade

    def has_forbidden_entries(self) -> bool:
        """Whether there is something left that fades out."""
        return self._fade is not None and any(
            layer.has_forbidden_entries()
            for layer in self.layers
            if isinstance(layer, TriangularKernel) and layer.built
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the functional model's config and the widths' arguments."""
        config = super().get_config()
        if self._fade is not None:
            config["fade"] = keras.saving.serialize_keras_object(self._fade)
        return config

    @property
    def _graph_class(self) -> type[MultiWidthModel]:
        return AnyWidthModel

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

        def fold(x: Any) -> Any:
            # The samples' axis stays the first one: replicas hold a part of it each.
            return keras.ops.reshape(x, (-1, *keras.ops.shape(x)[2:]))

        def unfold(y: Any) -> list[Any]:
            shape = keras.ops.shape(y)
            y = keras.ops.reshape(y, (-1, count, *shape[1:]))
            return list(keras.ops.unstack(y, count, axis=1))

        def for_each_level(x: Any) -> Any:
            shape = keras.ops.shape(x)
            x = keras.ops.expand_dims(x, 1)
            return keras.ops.broadcast_to(x, (shape[0], count, *shape[1:]))

        folded, masks = [], []
        for x, channel_levels in zip(features, self._trunk.channel_levels, strict=True):
            if channel_levels is None:
                stacked = for_each_level(x)
            else:
                active = keras.ops.less_equal(
                    channel_levels, keras.ops.expand_dims(levels, -1)
                )
                active = keras.ops.reshape(
                    active, (1, count, *(1,) * (len(x.shape) - 2), -1)
                )
                # Not a product: in mixed precision a wide channel may overflow, and
                # 0 * inf would carry it through the readout to narrow widths.
                stacked = keras.ops.where(
                    active, keras.ops.expand_dims(x, 1), keras.ops.zeros((), x.dtype)
                )
            folded.append(fold(stacked))
            mask = mask_of(x)
            masks.append(None if mask is None else fold(for_each_level(mask)))
        tail = self._trunk.parts.tail
        if all(mask is None for mask in masks):
            outputs = tail(folded, training=training)
        else:
            # Called as a layer, Keras warns of the masks, as if they were lost.
            outputs = tail.call(folded, training=training, mask=masks)
        unfolded = []
        for y in keras.tree.flatten(outputs):
            unfolded.append(unfold(y))
            if mask_of(y) is not None:
                for each, mask in zip(unfolded[-1], unfold(mask_of(y)), strict=True):
                    set_mask(each, mask)
        return [
            keras.tree.pack_sequence_as(outputs, list(ys))
            for ys in zip(*unfolded, strict=True)
        ]

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
        tri = isinstance(layer, TriangularKernel)
        values = layer.masked_weights() if tri else layer.weights
        return [keras.ops.convert_to_numpy(value) for value in values]
