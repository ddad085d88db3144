"""Callbacks that `fit` adds for models of several widths."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.training import backends
from awn_keras.training.arrays import NO_BATCH
from awn_keras.widths import split_name_at_width

#: Share of the initial statistics that may be left at the end without a warning.
_LEFT = 0.1
#: Steps between two looks at the loss. To read the loss waits for the device to finish
#: its step, which is too slow for each step.
_STEPS_OF_CHECK = 100


class WidthProgbar(keras.callbacks.ProgbarLogger):
    """Progress bar of `fit` that shows the AUC, but no metrics of single widths.

    `fit` of a model of several widths uses this bar. It shows what the bar of a plain
    model shows. With `validation_data`, the line of an epoch ends with `val_auc`, the
    accuracy averaged over all widths. The metrics at the report widths stay in the
    logs, for the history and for other callbacks. To show them in the bar, use
    `callbacks=[keras.callbacks.ProgbarLogger()]`.

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
        """Shows the logs of the epoch, with the AUC at the end."""
        super().on_epoch_end(epoch, without_widths(logs))

    def on_test_end(self, logs: Any = None) -> None:
        """Shows the evaluation."""
        super().on_test_end(without_widths(logs))


def without_widths(logs: Any) -> dict[str, Any]:
    """Removes the logs of the report widths, and moves the AUC to the end."""
    kept = {k: v for k, v in (logs or {}).items() if not split_name_at_width(k)}
    return dict(sorted(kept.items(), key=lambda item: item[0].endswith("auc")))


class StatisticsCheck(keras.callbacks.Callback):
    """Warns if a training is too short for the momentum of BatchNormalization.

    Evaluation uses moving statistics. In a short training they stay near their initial
    values, so the outputs at every width are as bad as chance.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Compares the number of steps with the largest momentum."""
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
        # `epochs` counts from the first epoch, also in a resumed training.
        count = steps * epochs
        name, momentum = max(momenta.items(), key=lambda item: item[1])
        left = momentum**count
        if left > _LEFT:
            warnings.warn(
                f"Model '{self.model.name}' trains {count:,} steps, too few for "
                f"BatchNormalization '{name}' (momentum={momentum:g}): after them, its "
                f"moving statistics are still {100 * left:.0f} % initial values, and "
                "evaluation will be poor. Convert with `to_any_width(model, "
                f"bn_momentum={fitting_momentum(count):.2g})`, or set `momentum` of "
                "these layers.",
                stacklevel=2,
            )


class NumbersCheck(keras.callbacks.Callback):
    """Ends training with a warning if the loss or a weight is NaN or infinite.

    The check reads the loss every `_STEPS_OF_CHECK` steps, and the weights after each
    epoch, so steps do not get slower. If the loss of a step is NaN, so is the loss of
    all later steps of the epoch, because Keras averages them. `fit` of a model of
    several widths adds this callback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._next_check = _STEPS_OF_CHECK
        self._ended = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Prepares the check."""
        self._ended = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the number of the epoch."""
        self._epoch = epoch
        self._next_check = _STEPS_OF_CHECK

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Checks the loss, if the last check is long enough ago."""
        # A call may stand for several steps (`steps_per_execution` of `compile`).
        if batch + 1 < self._next_check or self._ended or not logs:
            return
        self._next_check = batch + 1 + _STEPS_OF_CHECK
        if not np.isfinite(float(logs.get("loss", 0.0))):
            self._tell(self._epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Checks the loss of the epoch and the weights.

        Raises:
            ValueError: If the epoch had no batch.
        """
        if not logs:
            raise ArgumentError(
                f"Model '{self.model.name}' cannot be trained: {NO_BATCH}"
            )
        if not self._ended:
            self._tell(epoch, logs)

    def _tell(self, epoch: int, logs: Any) -> None:
        message = not_finite(self.model, epoch, logs)
        if message is not None:
            self._ended = True
            self.tell(message)

    def tell(self, message: str) -> None:
        """Warns with a message, and ends the training."""
        warnings.warn(message, stacklevel=2)
        self.model.stop_training = True


def not_finite(model: keras.Model, epoch: int, logs: Any) -> str | None:
    """Makes the warning for a loss or weight that is not finite after an epoch.

    Args:
        model: The model.
        epoch: Number of the epoch, from 0.
        logs: Logs of the epoch.

    Returns:
        The text of the warning; `None` if all is finite.
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
        f"{what} in epoch {epoch + 1}, so training ends. Try a tenth of the learning "
        "rate, or `clipnorm=1.0` in the optimizer. Check the data for NaN, and for "
        "labels that are no class."
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
    """Chooses a momentum of BatchNormalization for a number of training steps.

    Args:
        steps: Number of steps.

    Returns:
        A momentum in [0.5, 0.99], `1 - 20 / steps` inside this range. With it the
        statistics follow the network within a twentieth of the steps.
    """
    return min(max(1 - 20 / max(steps, 1), 0.5), 0.99)
