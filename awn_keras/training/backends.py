"""The differences between Keras' backends in a training step.

A step is written once, for TensorFlow and PyTorch: it reads and assigns variables. JAX
passes the state to a step and takes the new state back. So in JAX the step runs in a
`keras.StatelessScope`, in which variables are read and assigned without changing those
of the model. Each backend has its own code for carrying state, for differentiation, for
the update of weights, and for the part of a batch that a replica gets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.errors import UnsupportedError
from awn_keras.training.private import element_spec, strategy_of


def name() -> str:
    """The active backend: `"jax"`, `"tensorflow"` or `"torch"`."""
    return keras.backend.backend()


# ------------------------------------------------------------------- carrying state


def run_step(model: keras.Model, step: Callable[[Any, Any], Any], *args: Any) -> Any:
    """Runs a step of training or evaluation for the backend's trainer.

    Args:
        model: The model.
        step: Function `step(model, data)` that takes a batch, assigns variables and
            returns logs.
        *args: Arguments of the trainer: a batch; with JAX, the state and a batch.

    Returns:
        The logs; with JAX, the logs and the new state.
    """
    if name() != "jax":
        logs = step(model, *args)
        if has_many_workers(model):
            # Keras takes the mean over workers along the first axis: scalars need one.
            logs = {key: keras.ops.expand_dims(value, 0) for key, value in logs.items()}
        return logs
    state, data = args
    groups = [model.trainable_variables, model.non_trainable_variables]
    if len(state) == 4:  # a step of training
        groups.append(model.optimizer.variables)
    groups.append(model.metrics_variables)
    mapping = [
        pair
        for variables, values in zip(groups, state, strict=True)
        for pair in zip(variables, values, strict=True)
    ]
    with keras.StatelessScope(mapping, collect_losses=True) as scope:
        logs = step(model, data)
        logs = keras.tree.map_structure(keras.ops.convert_to_tensor, logs)
    return logs, tuple(
        [scope.get_current_value(variable) for variable in variables]
        for variables in groups
    )


def sync_state(model: keras.Model) -> None:
    """Writes the values that JAX's trainer holds back to the model's variables."""
    if name() == "jax":
        model.jax_state_sync()


def one_at_a_time(lock: Any) -> contextlib.AbstractContextManager[Any]:
    """A context for code that reads or sets weights: the lock with JAX, else nothing.

    JAX's trainer takes the weights out of the model while it predicts.

    Args:
        lock: The model's lock.
    """
    return lock if name() == "jax" else contextlib.nullcontext()


@contextlib.contextmanager
def restored(model: keras.Model) -> Iterator[None]:
    """A context for `predict` that restores the weights if it fails.

    Without this context, JAX's trainer would keep the weights that it took out of the
    model.

    Args:
        model: The model that predicts.

    Yields:
        Nothing.
    """
    try:
        yield
    except BaseException:
        sync_state(model)
        raise


# ---------------------------------------------------------------------- derivatives


def differentiate(
    model: keras.Model, function: Callable[[], tuple[Any, Any]]
) -> tuple[list[Any], Any]:
    """Differentiates a loss by the trainable variables.

    Args:
        model: A compiled model.
        function: Function that returns the loss, a scalar, and any structure of
            tensors. It may assign variables.

    Returns:
        A gradient for each of `model.trainable_variables` (some may be `None`), and the
        structure that the function returned. With PyTorch, gradients are the mean over
        all processes of the default process group, if there is one.
    """
    return _DIFFERENTIATE[name()](model, function)


def _differentiate_tensorflow(model: Any, function: Callable[[], Any]) -> Any:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss, others = function()
    return tape.gradient(loss, model.trainable_weights), others


def _differentiate_torch(model: Any, function: Callable[[], Any]) -> Any:
    import torch

    weights = [variable.value for variable in model.trainable_variables]
    with torch.enable_grad():
        loss, others = function()
    if not weights:
        return [], others
    gradients = list(torch.autograd.grad(loss, weights, allow_unused=True))
    _take_mean_over_processes(gradients)
    return gradients, others


def _take_mean_over_processes(gradients: list[Any]) -> None:
    """Averages gradients like DistributedDataParallel, with one message per dtype."""
    import torch
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return
    present = [gradient for gradient in gradients if gradient is not None]
    for dtype in sorted({gradient.dtype for gradient in present}, key=str):
        group = [gradient for gradient in present if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in group])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        sizes = [gradient.numel() for gradient in group]
        for gradient, mean in zip(group, flat.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _differentiate_jax(model: Any, function: Callable[[], Any]) -> Any:
    import jax

    weights = model.trainable_variables
    rest = [*model.non_trainable_variables, *model.metrics_variables]
    fixed = [(v, v.value) for v in (*rest, *model.optimizer.variables)]

    def loss_of(values: list[Any]) -> Any:
        mapping = [*zip(weights, values, strict=True), *fixed]
        # Values that the function assigns must leave `jax.grad` as outputs, so the
        # function needs a separate scope.
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            loss, others = function()
            return loss, (others, [scope.get_current_value(v) for v in rest])

    gradients, (others, values) = jax.grad(loss_of, has_aux=True)(
        [variable.value for variable in weights]
    )
    for variable, value in zip(rest, values, strict=True):
        variable.assign(value)
    return gradients, others


_DIFFERENTIATE = {
    "tensorflow": _differentiate_tensorflow,
    "torch": _differentiate_torch,
    "jax": _differentiate_jax,
}


def for_each(
    function: Callable[[Any], Any], values: Sequence[Any], together: bool
) -> list[Any]:
    """Applies a function to each of several values.

    Args:
        function: Function from a value to a tensor.
        values: n values.
        together: Whether PyTorch may run the function once for all values, which is
            faster because PyTorch compiles nothing. Then the values must be tensors of
            equal shape, and the function must neither assign variables nor branch on
            values.

    Returns:
        n tensors.
    """
    if not (together and name() == "torch"):
        return [function(value) for value in values]
    import torch

    return list(torch.vmap(function)(torch.stack(list(values))).unbind())


def without_gradients() -> contextlib.AbstractContextManager[Any]:
    """A context in which the backend records nothing for gradients."""
    if name() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


# -------------------------------------------------------------------------- updates


def update(model: keras.Model, gradients: Sequence[Any]) -> None:
    """Applies gradients to the trainable variables with the optimizer.

    Args:
        model: A compiled model.
        gradients: Gradients from `differentiate`.

    Raises:
        NotImplementedError: If the optimizer accumulates gradients and there are
            several replicas.
    """
    weights, optimizer = model.trainable_variables, model.optimizer
    if _replicas() > 1 and optimizer.gradient_accumulation_steps:
        raise UnsupportedError(
            "`gradient_accumulation_steps` cannot be used with replicas of "
            "`tf.distribute`: Keras' optimizers do not support both. Use an optimizer "
            "without `gradient_accumulation_steps`. Received: "
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps} and "
            f"{_replicas()} replicas"
        )
    if name() != "jax":
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return
    # Not `apply`: loss scaling branches, and JAX branches must have no side effects.
    updated = optimizer.stateless_apply(
        [variable.value for variable in optimizer.variables],
        gradients,
        [variable.value for variable in weights],
    )
    for variables, values in zip((weights, optimizer.variables), updated, strict=True):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def assign_where(
    variables: Sequence[keras.Variable], masks: Sequence[Any], values: Sequence[Any]
) -> None:
    """Assigns the masked entries of variables.

    Args:
        variables: The variables.
        masks: For each variable, a bool tensor that broadcasts against it.
        values: For each variable, new values for the entries whose mask is true.
    """
    if variables and _replicas() > 1:
        import tensorflow as tf

        # A single replica may not assign a weight: all replicas must do it together.
        tf.distribute.get_replica_context().merge_call(
            _assign_where_on_replicas, (list(variables), list(masks), list(values))
        )
        return
    for variable, mask, value in zip(variables, masks, values, strict=True):
        variable.assign(keras.ops.where(mask, value, variable.value))


def _assign_where_on_replicas(
    strategy: Any, variables: list[Any], masks: list[Any], values: list[Any]
) -> None:
    import tensorflow as tf

    def assign(variable: Any, mask: Any, value: Any) -> Any:
        return variable.assign(tf.where(mask, value, variable))

    for variable, mask, value in zip(variables, masks, values, strict=True):
        strategy.extended.update(variable.value, assign, args=(mask, value))


# ------------------------------------------------------------------------- replicas


def _replicas() -> int:
    """Number of `tf.distribute` replicas that run the step together."""
    if name() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def whole_of_replica(loss: Any) -> Any:
    """Multiplies a loss by the number of replicas, because Keras divides it by that."""
    replicas = _replicas()
    return loss * replicas if replicas > 1 else loss


def has_strategy(model: keras.Model) -> bool:
    """Whether a model was made in the scope of a `tf.distribute` strategy."""
    return strategy_of(model) is not None


def has_many_workers(model: keras.Model) -> bool:
    """Whether a model's strategy is a `MultiWorkerMirroredStrategy` of several workers.

    With a single worker, that strategy acts like a `MirroredStrategy`.
    """
    if not has_strategy(model):
        return False
    import tensorflow as tf

    strategy, kind = strategy_of(model), tf.distribute.MultiWorkerMirroredStrategy
    # Keras checks the same private method.
    return isinstance(strategy, kind) and strategy.extended._in_multi_worker_mode()


def in_several_processes(model: keras.Model) -> bool:
    """Whether a model is trained by several processes together."""
    if name() == "jax":
        import jax

        return jax.process_count() > 1
    if name() == "torch":
        from torch import distributed

        return distributed.is_available() and distributed.is_initialized()
    return has_many_workers(model)


def check_can_run_steps(model: keras.Model) -> None:
    """Checks a compiled model's `steps_per_execution`.

    Raises:
        NotImplementedError: If `steps_per_execution` is above 1 with a strategy.
    """
    if has_strategy(model) and model.steps_per_execution > 1:
        raise UnsupportedError(
            "`steps_per_execution` must be 1 with a strategy of `tf.distribute`. Leave "
            "`steps_per_execution` out. Received: "
            f"steps_per_execution={model.steps_per_execution}"
        )


def variables_of(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """The context in which new variables of a model must be created."""
    strategy = strategy_of(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def spec_of_a_batch(iterator: Any, batch: Any) -> Any:
    """Shapes and dtypes of the next batch of TensorFlow's trainer.

    Args:
        iterator: Keras' iterator over an epoch, or `None`. No batch is taken from it.
        batch: The batch, if there is no iterator.

    Returns:
        The batch, or specs in its structure. `None` if a rank is unknown, or if a part
        of the batch is not dense.
    """
    import tensorflow as tf

    if iterator is not None:
        batch = element_spec(iterator)
    parts = [part for part in tf.nest.flatten(batch) if part is not None]
    dense = (np.ndarray, tf.Tensor, tf.TensorSpec)
    known = all(
        isinstance(part, dense) and tf.TensorShape(part.shape).rank is not None
        for part in parts
    )
    return batch if known else None


def part_of_a_batch(model: keras.Model, iterator: Any) -> Any:
    """The part of the next batch that the first replica of this worker gets.

    Args:
        model: A model with a strategy.
        iterator: Keras' iterator over an epoch.

    Returns:
        The batch, or `None` if there is none.
    """
    parts_of = strategy_of(model).experimental_local_results
    for _, _, batches in iterator:
        return keras.tree.map_structure(lambda x: parts_of(x)[0], next(batches))
    return None
