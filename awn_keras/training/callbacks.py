"""Callbacks that `fit` adds by itself for models of several widths."""

from __future__ import annotations

import warnings
from typing import Any

import keras

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


def fitting_momentum(steps: int) -> float:
    """Chooses a momentum of BatchNormalization for a training of so many steps.

    Args:
        steps: Number of steps.

    Returns:
        In [0.5, 0.99]: statistics follow within a twentieth of the steps, or within a
        hundred.
    """
    return min(max(1 - 20 / max(steps, 1), 0.5), 0.99)
