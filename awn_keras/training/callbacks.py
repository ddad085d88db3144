"""Callbacks that `fit` adds by itself for models of several widths."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.training import backends
from awn_keras.training.arrays import NO_BATCH
from awn_keras.widths import split_name_at_width

#: What may be left of initial statistics at the end, without a warning.
_LEFT = 0.1


class WidthProgbar(keras.callbacks.ProgbarLogger):
    """The progress bar of `fit` without a number for each width, but with the AUC.

    `fit` of a model of several widths takes it in the place of Keras' own, which shows
    loss and metrics at all report widths; `callbacks=[keras.callbacks.ProgbarLogger()]`
    brings that back. They stay in the logs, for the history and for other callbacks.
    While an epoch runs it
    shows what a plain model's bar does; with `validation_data` the epoch's line ends
    with `val_auc`, the accuracy averaged over all widths.

    Examples:
        >>> model.fit(data, validation_data=test_data, callbacks=[WidthProgbar()])
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Shows the step."""
        super().on_train_batch_end(batch, without_widths(logs))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Shows the step."""
        super().on_test_batch_end(batch, without_widths(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Shows the epoch, the AUC last."""
        super().on_epoch_end(epoch, without_widths(logs))

    def on_test_end(self, logs: Any = None) -> None:
        """Shows the evaluation."""
        super().on_test_end(without_widths(logs))


def without_widths(logs: Any) -> dict[str, Any]:
    """Logs without those of the report widths, the AUC last."""
    kept = {k: v for k, v in (logs or {}).items() if not split_name_at_width(k)}
    return dict(sorted(kept.items(), key=lambda item: item[0].endswith("auc")))


class StatisticsCheck(keras.callbacks.Callback):
    """Warns before a training too short for the momentum of BatchNormalization.

    Its moving statistics, with which a model evaluates, are then still near those that
    training started from, and every width answers at chance.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Looks at the steps to come, and at those that were."""
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs:
            return
        momenta = {
            layer.name: float(layer.momentum)
            for layer in self.model.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        }
        if not momenta:
            return
        # Epochs are counted from the first, those before a resumed training, too.
        count = steps * epochs
        name, momentum = max(momenta.items(), key=lambda item: item[1])
        left = momentum**count
        if left > _LEFT:
            warnings.warn(
                f"Model '{self.model.name}' trains {count:,} steps, after which the "
                f"moving statistics of BatchNormalization '{name}' (momentum="
                f"{momentum:g}) are still to {100 * left:.0f} % those that it started "
                "from: evaluation will be poor. Convert with `to_any_width(model, "
                f"bn_momentum={fitting_momentum(count):.2g})`, or set `momentum` of "
                "these layers.",
                stacklevel=2,
            )


class NumbersCheck(keras.callbacks.Callback):
    """Ends training with a warning once the loss or a weight is NaN or infinite.

    It looks after each epoch, whose loss is NaN if that of a step was, so that no step
    waits for it. `fit` of a model of several widths takes it by itself.
    """

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Looks at the epoch's loss, and at the weights.

        Raises:
            ValueError: If there was no batch.
        """
        if not logs:
            raise ArgumentError(
                f"Model '{self.model.name}' cannot be trained: {NO_BATCH}"
            )
        message = not_finite(self.model, epoch, logs)
        if message is not None:
            self.tell(message)

    def tell(self, message: str) -> None:
        """Warns, and ends training."""
        warnings.warn(message, stacklevel=2)
        self.model.stop_training = True


def not_finite(model: keras.Model, epoch: int, logs: Any) -> str | None:
    """Says what of a model is not finite after an epoch, and what to try.

    Args:
        model: The model.
        epoch: Number of the epoch, from 0.
        logs: What the epoch gave.

    Returns:
        A sentence or two; `None` if all is finite.
    """
    loss = float(logs.get("loss", 0.0))
    what = f"The loss of model '{model.name}' was {loss:g}"
    if np.isfinite(loss):
        backends.sync_state(model)
        weight = weight_not_finite(model)
        if weight is None:
            return None
        what = f"Weight '{weight}' of model '{model.name}' had NaN or infinite numbers"
    return (
        f"{what} in epoch {epoch + 1}: training cannot go on from there. Try a tenth "
        "of the learning rate, or `clipnorm=1.0` in the optimizer; look for NaN in the "
        "data, and for labels that are no class."
    )


def weight_not_finite(model: keras.Model) -> str | None:
    """Finds a weight that has NaN or infinite numbers.

    Args:
        model: The model.

    Returns:
        The path of the first one, or `None`.
    """
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.dtype.kind not in "fV":  # bfloat16 is of kind V; integers are finite
            continue
        if not np.isfinite(values.astype("float32")).all():
            return weight.path
    return None


def fitting_momentum(steps: int) -> float:
    """Chooses a momentum of BatchNormalization for a training of so many steps.

    Args:
        steps: Number of steps.

    Returns:
        In [0.5, 0.99]: statistics follow within a twentieth of the steps, or within a
        hundred.
    """
    return min(max(1 - 20 / max(steps, 1), 0.5), 0.99)
