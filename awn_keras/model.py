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
    """Trunk and tail, in a dataclass so that Keras does not track the layers again."""

    parts: Split
    channel_levels: list[np.ndarray | None]  # for each tensor between the parts


@keras.saving.register_keras_serializable(package="awn_keras")
class AnyWidthModel(MultiWidthModel):
    """A functional Keras model that runs at any width from `min_width` to 1.

    Build an `AnyWidthModel` like a `keras.Model`. Put a plain layer on the input (the
    stem), then Tri layers with stock per-channel layers between them, then a plain
    layer on top (the readout). All outputs of the readout exist at every width.
    `compile`, `fit`, `evaluate`, `predict`, `save` and loading work as in Keras, with
    these additions:

    - `fit` trains several widths in every step, with one pass through the trunk (all
      layers before the readout).
    - `width` sets the width of `predict`, `evaluate` and `model(x)`.
    - Logs hold each metric at the current width under its own name, and at the report
      widths under names like `accuracy_w025`.
    - Validation logs `auc`, the accuracy averaged over widths. AUC needs one of Keras'
      accuracy metrics in `metrics`. If the model has a metric called `auc`, the log is
      called `width_auc`.

    To copy a model with its widths, call
    `AnyWidthModel.from_config(model.get_config())`. `keras.models.clone_model` does not
    copy the widths.

    Args:
        inputs: `keras.Input`, or a structure of them.
        outputs: Tensors computed from `inputs`.
        name: Name of the model.
        min_width: Smallest width in (0, 1]. Channels that are active at `min_width` are
            active at every width, and their kernel is dense. `None` takes the first of
            `widths_grid`, or 0.25 without a grid.
        divisor: Size of the blocks in which channels come and go. A layer that would
            have fewer than four blocks gets smaller blocks. 8 suits phones.
        widths_grid: The widths of a model that needs only a few: ascending, the last
            one 1. Between two grid widths the model runs at the smaller one.
        staircase: Rule for the widths at which blocks of channels appear. With
            `"nested"` outputs depend on every active channel at every width. `"paper"`
            is the exact staircase of the paper. See `channel_grades`.
        stages: Settings for layers whose channels appear at other widths. Keys are
            patterns of layer names. A value may hold `min_width` (channels active at
            this width are always on), `divisor`, or `widths_grid` (the only widths at
            which these layers change). An example: `{"block_[1-5]_*": {"widths_grid":
            [0.25, 0.5, 1.0]}, "code": {"min_width": 0.5}}`. If several patterns match a
            layer, the first pattern counts. If layers are added to each other, the
            settings of the layer with the fewest channels count; among layers of equal
            size, those of the first input of the `Add`.
        fade: Schedule by which forbidden entries of a trained model fade out; see
            `to_any_width`.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, if a layer breaks the rule of
            any-width networks, or if there is no readout.
        NotImplementedError: If a layer has no width rule.

    Warns:
        UserWarning: If the model has no Tri layer, but a plain convolution or dense
            layer follows the readout. Such a model probably lacks its Tri layers.

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
        # Before the base constructor, which calls `_propagate`, which reads `_fade`.
        self._fade = fade_schedule(fade)
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
            # `level_of` gives the first level at which a channel of this grade is
            # active.
            None if grades is None else self.networks.level_of(grades)
            for grades in parts.grades
        ]
        self._trunk = _Trunk(parts, levels)
        self._warn_of_a_long_tail()

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes a model from a config; see `keras.Model.from_config`."""
        # Old files have no `staircase`. They were written when the only rule was the
        # paper's.
        return super().from_config({"staircase": "paper", **config}, custom_objects)

    def _warn_of_a_long_tail(self) -> None:
        """Warns if there is no Tri layer and a plain layer follows the readout."""
        if any(isinstance(layer, TriLayer) for layer in self.layers):
            return
        for node in self.propagation.nodes:
            kind = self.propagation.flows[id(node)].inputs[0]
            if isinstance(kind, PerWidth) and hasattr(node.operation, "kernel"):
                warnings.warn(
                    f"Model '{self.name}' has no Tri layer: layer '{kind.readout}' is "
                    f"its readout, so '{node.operation.name}' and all later layers "
                    "keep all channels at every width. To make these layers narrow, "
                    "replace each plain layer between the first and the last by its "
                    "Tri layer (TriConv2D, TriDense), or call `to_any_width(model)`.",
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
        """Schedule of the factor, 0 to 1, on forbidden entries in training steps.

        `None` if nothing fades out.
        """
        return self._fade

    def has_forbidden_entries(self) -> bool:
        """Whether a forbidden entry that fades out is still other than zero."""
        return self._fade is not None and any(
            layer.has_forbidden_entries()
            for layer in self.layers
            if isinstance(layer, TriangularKernel) and layer.built
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the functional model, its widths and `fade`."""
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
        """Runs the tail at several levels `(n,)`, which are folded into the batch.

        Returns:
            A list of n entries: the model's outputs at each level.
        """
        count = levels.shape[0]

        def fold(x: Any) -> Any:
            # Samples stay the first axis, because each replica of a distributed
            # training holds a part of that axis.
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
                # A product with the mask would be wrong: in mixed precision a wide
                # channel may overflow, and 0 * inf is NaN, which the readout would
                # carry to narrow widths.
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
            # `tail(...)` would warn that the masks are lost, although they are passed.
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
        """Losses of the trunk's activity regularizers in its last run."""
        trunk = self._trunk.parts.trunk
        losses = trunk.losses  # Keras lists the losses of weight regularizers last
        count = sum(w.regularizer is not None for w in trunk.trainable_weights)
        return losses[: len(losses) - count]

    def weight_values(self, layer: keras.Layer, width: float) -> list[np.ndarray]:
        """Returns a layer's weights, with forbidden entries at zero.

        Args:
            layer: A layer of the model.
            width: Width in [min_width, 1]. The weights are equal at every width.

        Returns:
            A list with an array for each of `layer.weights`, of its shape.
        """
        tri = isinstance(layer, TriangularKernel)
        values = layer.masked_weights() if tri else layer.weights
        return [keras.ops.convert_to_numpy(value) for value in values]
