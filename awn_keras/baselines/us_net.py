"""US-Net: batch statistics in training, calibrated statistics afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.baselines.sliced import Pass, SlicedModel, Statistics
from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.widths import check_widths

if keras.backend.backend() == "tensorflow":  # elsewhere `SlicedModel` refuses
    import tensorflow as tf

_STATISTICS = ("moving_mean", "moving_variance")


@keras.saving.register_keras_serializable(package="awn_keras")
class USNet(SlicedModel):
    """A universally slimmable network: runs at any width, calibrated at some widths.

    Ordinary convolutions are sliced to the width. BatchNormalization has one set of
    factors for all widths, and trains with the statistics of the batch. After training,
    `calibrate` measures statistics at some widths. A width without calibration uses the
    statistics of the next larger calibrated width. Before a calibration, the model uses
    moving statistics that all widths share, like `SharedBN`. Further training drops the
    calibration, which no longer fits.

    Training follows the sandwich rule. `compile(distillation=1.0)` adds in-place
    distillation.

    Args:
        inputs: `keras.Input`, or a structure of them.
        outputs: Tensors computed from `inputs` by stock layers.
        name: Name of the model.
        min_width: Smallest width in (0, 1]. `None` takes 0.25.
        divisor: Size of the blocks in which channels come and go.
        calibrated_widths: Widths for which the model holds statistics, the largest 1.
            `calibrate` sets the statistics.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, or if the graph cannot be sliced.
        NotImplementedError: If a layer cannot be sliced, or if Keras does not run on
            TensorFlow.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import lenet_3c1l
        >>> from awn_keras.baselines import USNet
        >>> plain = lenet_3c1l((8, 8, 1), triangular=False, padding="same", filters=8)
        >>> model = USNet(plain.input, plain.output)
        >>> model.calibrate(np.zeros((4, 8, 8, 1), "float32"), widths=2)
        >>> model.calibrated_widths
        (0.25, 1.0)

    Reference:
        Yu and Huang, Universally Slimmable Networks and Improved Training Techniques
        (2019), sections 3 and 4.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        min_width: float | None = None,
        divisor: int = 1,
        calibrated_widths: Sequence[float] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            inputs, outputs, name, min_width=min_width, divisor=divisor, **kwargs
        )
        self._hold(calibrated_widths)

    @staticmethod
    def _check_ends_at_one(widths: Sequence[float]) -> None:
        if widths and max(widths) != 1.0:
            raise ArgumentError(
                "The largest width to calibrate must be 1.0, because wider networks "
                f"would have no statistics. Received: {list(widths)}"
            )

    def _hold(self, widths: Sequence[float]) -> None:
        """Makes the variables for the statistics at some widths."""
        widths = sorted(set(check_widths(widths, self.min_width, "calibrated_widths")))
        self._check_ends_at_one(widths)
        self.calibrated_widths = tuple(widths)
        rows = len(self.calibrated_widths)
        for old in getattr(self, "_calibrated", {}).values():
            self._layers.remove(old)  # Keras keeps layers that an attribute once held
        self._calibrated = {
            layer.name: Statistics(layer, rows, _STATISTICS, f"{layer.name}_calibrated")
            for layer in (self._normalizations if rows else [])
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the functional model's config and the widths."""
        config = super().get_config()
        return {**config, "calibrated_widths": list(self.calibrated_widths)}

    def calibrate(
        self,
        data: Any,
        widths: int | Sequence[float] = 20,
        *,
        batches: int | None = None,
        batch_size: int = 128,
    ) -> None:
        """Measures the statistics of BatchNormalization at some widths.

        At each width, the data run through the network. BatchNormalization uses the
        statistics of each batch; all other layers, such as Dropout, run as in
        inference. Means and variances are averaged over the batches, weighted by batch
        size. They replace an earlier calibration.

        Args:
            data: Training inputs: an array (for several inputs, a list or dict of
                arrays), a `keras.utils.PyDataset`, or an iterable of batches, such as a
                `tf.data.Dataset`. Batches may be tuples `(x, y)`.
            widths: Widths in [min_width, 1], the largest 1; or the number of widths, at
                least 2, evenly spread over that range.
            batches: Number of batches to use. `None` for all.
            batch_size: Samples in a batch, if `data` are arrays.

        Raises:
            TypeError: If `data` is a tuple.
            ValueError: If a width is out of range, if 1 is not among the widths, or if
                there are no data.

        Reference:
            Yu and Huang, Universally Slimmable Networks (2019), section 3.3.
        """
        chosen = self._spread(widths) if isinstance(widths, int) else widths
        chosen = sorted(set(check_widths(chosen, self.min_width)))
        if not chosen:
            raise ArgumentError("`widths` must hold at least one width. Received: []")
        self._check_ends_at_one(chosen)
        several = len(self.inputs) if len(self.inputs) > 1 else None
        measured = self._measure(_batches(data, batches, batch_size, several), chosen)
        self._hold(chosen)
        for name, held in self._calibrated.items():
            for statistic, rows in zip(_STATISTICS, measured[name], strict=True):
                getattr(held, statistic).assign(rows)
        self.forget_traces()  # their graphs do not have the new statistics

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the function that a training step runs, and drops the calibration.

        Args:
            force: As in Keras.

        Returns:
            The function.
        """
        if self.calibrated_widths:
            self._hold(())
            self.forget_traces()  # their graphs have the dropped statistics
        return super().make_train_function(force)

    def _spread(self, count: int) -> list[float]:
        if count < 2:
            raise ArgumentError(
                "`widths` must be at least 2, or a list of widths. Received: "
                f"widths={count}"
            )
        return np.linspace(self.min_width, 1.0, count).tolist()

    def _measure(
        self, batches: Iterable[Any], widths: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Mean and variance `(2, widths, channels)` of each BatchNormalization."""
        levels = self.networks.level_of(np.asarray(widths))
        layers = self._normalizations
        active = [
            self._channel_levels(layer) <= levels[:, None] for layer in layers
        ]  # (widths, channels)
        totals = [np.zeros((2, *shape.shape)) for shape in active]
        samples = 0

        @tf.function(reduce_retracing=True)
        def statistics_at(level: Any, x: Any) -> list[Any]:
            seen: dict[int, Any] = {}
            self._run(Pass(level, training=False, batch_statistics=seen), x)
            return [tf.stack(seen[id(layer)]) for layer in layers]

        for x in batches:
            count = len(keras.tree.flatten(x)[0])
            samples += count
            for row, level in enumerate(levels):
                for total, chosen, new in zip(
                    totals, active, statistics_at(tf.constant(level), x), strict=True
                ):
                    total[:, row, chosen[row]] += count * np.asarray(new, float)
        if not samples:
            raise ArgumentError("`data` must hold at least one batch.")
        return {
            layer.name: total / samples
            for layer, total in zip(layers, totals, strict=True)
        }

    def _channel_levels(self, layer: Any) -> np.ndarray:
        nodes = self.propagation.nodes
        node = next(node for node in nodes if node.operation is layer)
        flow = self.propagation.flows[id(node)]
        return self.networks.level_of(flow.grades()[1])

    def _normalization(self, layer: Any, run: Pass) -> dict[str, Any]:
        own = super()._normalization(layer, run)
        held = self._calibrated.get(layer.name)
        if held is None or run.training or run.batch_statistics is not None:
            return own
        calibrated = self.networks.level_of(np.asarray(self.calibrated_widths))
        row = tf.math.count_nonzero(calibrated < run.level, dtype="int32")
        return {**own, **held.of_row(row)}


def _batches(
    data: Any, limit: int | None, batch_size: int, several: int | None
) -> Iterator[Any]:
    """Yields the inputs of batches."""
    if isinstance(data, tuple):
        raise ArgumentTypeError(
            "`data` must not be a tuple: pass the inputs alone, without labels."
        )
    arrays = hasattr(data, "shape") or (
        several is not None
        and isinstance(data, dict | list)
        and len(data) == several
        and all(hasattr(x, "shape") for x in keras.tree.flatten(data))
    )
    if isinstance(data, keras.utils.PyDataset):
        source: Iterable[Any] = (data[index] for index in range(len(data)))
    elif arrays and not hasattr(data, "element_spec"):
        starts = range(0, len(keras.tree.flatten(data)[0]), batch_size)
        source = (
            (keras.tree.map_structure(lambda x, s=s: x[s : s + batch_size], data),)
            for s in starts
        )
    else:
        source = data
    for index, batch in enumerate(source):
        if limit is not None and index >= limit:
            return
        yield keras.utils.unpack_x_y_sample_weight(batch)[0]
