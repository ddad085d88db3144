"""Label smoothing for integer labels; Keras has it only for one-hot labels."""

from __future__ import annotations

from typing import Any

import keras

from awn_keras.errors import ArgumentError


@keras.saving.register_keras_serializable("awn_keras")
class SmoothedCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """Cross-entropy of integer class labels with logits, with label smoothing.

    The value equals that of `keras.losses.CategoricalCrossentropy(from_logits=True,
    label_smoothing=...)` with one-hot labels.

    Args:
        label_smoothing: Share in [0, 1) of each label that is spread evenly over all
            classes.
        **kwargs: `reduction`, `name` and `dtype`, as in Keras.

    Raises:
        ValueError: If `label_smoothing` is out of range.

    Reference:
        Szegedy et al., Rethinking the Inception Architecture (2016), section 7.
    """

    def __init__(self, label_smoothing: float = 0.1, **kwargs: Any) -> None:
        if not 0 <= label_smoothing < 1:
            raise ArgumentError(
                "`label_smoothing` must be in [0, 1). Received: label_smoothing="
                f"{label_smoothing}"
            )
        super().__init__(from_logits=True, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Computes the loss of each position.

        Args:
            y_true: Class labels `(batch, ...)`, integers.
            y_pred: Logits `(batch, ..., classes)`, of a floating dtype.

        Returns:
            Tensor `(batch, ...)`.
        """
        of_label = super().call(y_true, y_pred)
        of_all = -keras.ops.mean(keras.ops.log_softmax(y_pred, axis=-1), axis=-1)
        return (1 - self.label_smoothing) * of_label + self.label_smoothing * of_all

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = keras.losses.Loss.get_config(self)
        return {**config, "label_smoothing": self.label_smoothing}
