"""Access to private parts of Keras' trainer, each behind a named function.

If a new Keras changes these parts, tests/training/test_private.py fails first. Private
methods of Keras that the library overrides are in `trainer`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

#: Argument that `fit` passes to `evaluate` for a validation.
WITHIN_FIT = "_use_cached_eval_dataset"


def is_built(model: Any) -> bool:
    """Whether loss, metrics and optimizer of a compiled model have their state."""
    optimizer = model.optimizer
    return metrics_are_built(model) and (optimizer is None or optimizer.built)


def metrics_are_built(model: Any) -> bool:
    """Whether loss and metrics of a compiled model have their state.

    If a subclass computes its own loss, Keras never builds the loss of `compile`.
    """
    parts = [model._compile_metrics]
    if not model.has_own_loss:
        parts.append(model._compile_loss)
    return all(part is None or part.built for part in parts)


def build(model: Any, batch: Any) -> None:
    """Creates the state of a compiled model that depends on the shapes of a batch.

    Args:
        model: A compiled model.
        batch: `(x, y)` or `(x, y, sample_weight)`: tensors, or specs with shape and
            dtype.
    """
    model._symbolic_build(data_batch=batch)


def loss_of(model: Any, batch: Any, y_pred: Any, *, training: bool) -> Any:
    """Calls `compute_loss`; a subclass may define it without `training`.

    Args:
        model: A compiled model.
        batch: `(x, y, sample_weight)`.
        y_pred: Outputs.
        training: Whether the model is trained.

    Returns:
        Scalar tensor, regularization losses included.
    """
    x, y, sample_weight = batch
    return model._compute_loss(x, y, y_pred, sample_weight, training=training)


def element_spec(iterator: Any) -> Any:
    """Shapes and dtypes of the batches of TensorFlow's trainer.

    Args:
        iterator: Iterator of the trainer over an epoch. This function takes no batch
            from it, and makes no second data set, which would draw other random
            numbers.

    Returns:
        `tf.TypeSpec`s in the structure of a batch.
    """
    return iterator._distributed_dataset.element_spec


def sum_of_penalties(model: Any, losses: Iterable[Any]) -> Any:
    """Sums regularization losses as `compute_loss` does.

    Args:
        model: A model.
        losses: Scalars, of `model.losses`.

    Returns:
        Scalar tensor, or 0.0. In a replica of `tf.distribute`, its share of the sum.
    """
    return sum(map(model._aggregate_additional_loss, losses), 0.0)


def track_loss(model: Any, loss: Any, count: Any) -> None:
    """Adds a batch to the mean that is logged as `loss`.

    Args:
        model: A compiled model.
        loss: The batch's loss, a scalar.
        count: Number of its samples.
    """
    model._loss_tracker.update_state(loss, sample_weight=count)


def count_of_samples(model: Any) -> keras.Variable:
    """The variable with the number of samples that `track_loss` has counted."""
    return model._loss_tracker.count


def strategy_of(model: Any) -> Any:
    """The `tf.distribute` strategy in whose scope a model was made, or `None`."""
    return getattr(model, "_distribute_strategy", None)
