"""S-Net: a BatchNormalization for each of a few widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.baselines.sliced import Pass, SlicedModel, Statistics
from awn_keras.errors import ArgumentError
from awn_keras.training.samplers import FixedWidths, WidthSampler
from awn_keras.widths import check_widths_grid

if keras.backend.backend() == "tensorflow":  # elsewhere `SlicedModel` refuses
    import tensorflow as tf

_NUMBERS = ("gamma", "beta", "moving_mean", "moving_variance")


@keras.saving.register_keras_serializable(package="awn_keras")
class SNet(SlicedModel):
    """A slimmable network: switchable BatchNormalization at a few listed widths.

    Ordinary convolutions are sliced to the width. Each listed width has its own factors
    and moving statistics in every BatchNormalization; those stored in the layer belong
    to width 1. The model runs at any width from the smallest listed width on. An
    unlisted width uses the BatchNormalization of the next larger listed width. (If an
    unlisted width has the active channels of the listed width just below, it runs the
    network of this listed width.)

    Args:
        inputs: `keras.Input`, or a structure of them.
        outputs: Tensors computed from `inputs` by stock layers.
        name: Name of the model.
        widths: The listed widths in (0, 1], ascending, the last one 1.
        divisor: Size of the blocks in which channels come and go.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, or if the graph cannot be sliced.
        NotImplementedError: If a layer cannot be sliced, or if Keras does not run on
            TensorFlow.

    Examples:
        >>> import keras
        >>> from awn_keras import lenet_3c1l
        >>> from awn_keras.baselines import SNet
        >>> plain = lenet_3c1l(triangular=False, width_multiplier=1.0)
        >>> model = SNet(plain.input, plain.output, widths=[0.25, 0.5, 0.75, 1.0])

    Reference:
        Yu et al., Slimmable Neural Networks (2018), section 3.3; Vu et al., Any-Width
        Networks (2020), section 5.1 (unlisted widths).
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        divisor: int = 1,
        **kwargs: Any,
    ) -> None:
        self.widths = check_widths_grid(widths)
        super().__init__(
            inputs,
            outputs,
            name,
            min_width=self.widths[0],
            divisor=divisor,
            **kwargs,
        )
        rows = len(self.widths) - 1
        self._switchable = {
            layer.name: Statistics(layer, rows, _NUMBERS, f"{layer.name}_listed")
            for layer in (self._normalizations if rows else [])
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the functional model's config and the widths."""
        config = super().get_config()
        del config["min_width"]
        return {**config, "widths": list(self.widths)}

    def compile(
        self, *args: Any, widths: WidthSampler | None = None, **kwargs: Any
    ) -> None:
        """Configures training; see `AnyWidthModel.compile`.

        Args:
            *args: See `AnyWidthModel.compile`.
            widths: A `FixedWidths` of listed widths. `None` for all listed widths.
            **kwargs: See `AnyWidthModel.compile`.

        Raises:
            ValueError: If a width is not listed.
        """
        widths = FixedWidths(self.widths) if widths is None else widths
        listed = isinstance(widths, WidthSampler) and not widths.num_random
        if isinstance(widths, WidthSampler) and not (
            listed and set(widths.fixed) <= set(self.widths)
        ):
            raise ArgumentError(
                f"`widths` must be a `FixedWidths` of {list(self.widths)}: an S-Net "
                "trains only its listed widths, each with its own BatchNormalization. "
                f"Received: widths={widths!r}"
            )
        super().compile(*args, widths=widths, **kwargs)

    def _row(self, level: Any) -> Any:
        """Index of the listed width whose BatchNormalization a level uses."""
        listed = self.networks.level_of(np.asarray(self.widths))
        return tf.math.count_nonzero(listed < level, dtype="int32")

    def _normalization(self, layer: Any, run: Pass) -> dict[str, Any]:
        own = super()._normalization(layer, run)
        narrow = self._switchable.get(layer.name)
        if narrow is None:
            return own
        row = self._row(run.level)
        return {
            w.name: tf.gather(tf.concat([w.value, own[w.name][None]], axis=0), row)
            for w in narrow.weights
        }

    def _track(self, layer: Any, level: Any, statistics: dict[str, Any]) -> None:
        narrow = self._switchable.get(layer.name)
        if narrow is None:
            super()._track(layer, level, statistics)
            return
        row, last = self._row(level), len(self.widths) - 1
        for name, value in statistics.items():
            own, rows = getattr(layer, name), getattr(narrow, name)
            own.assign(tf.where(row == last, value, own.value))
            chosen = tf.one_hot(row, last, on_value=True, off_value=False)
            rows.assign(tf.where(chosen[:, None], value[None], rows.value))

    def _acting_from(self) -> list[tuple[Any, np.ndarray]]:
        # The weights of a listed width act above the next smaller listed width.
        listed = self.networks.level_of(np.asarray(self.widths))
        starts = np.append(0, listed[:-1] + 1).astype("int32")
        acting = {
            id(variable): (variable, levels)
            for variable, levels in super()._acting_from()
        }
        for layer in self._normalizations:
            for name in _NUMBERS if layer.name in self._switchable else ():
                own = getattr(layer, name)
                rows = getattr(self._switchable[layer.name], name)
                levels = acting[id(own)][1]
                acting[id(own)] = (own, np.maximum(levels, starts[-1]))
                acting[id(rows)] = (rows, np.maximum(levels, starts[:-1, None]))
        return list(acting.values())
