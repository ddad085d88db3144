"""Loss and metrics of a model at several widths at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.training import backends, private

_ACCURACIES = (
    keras.metrics.Accuracy,
    keras.metrics.BinaryAccuracy,
    keras.metrics.CategoricalAccuracy,
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.TopKCategoricalAccuracy,
    keras.metrics.SparseTopKCategoricalAccuracy,
)


class WidthMetrics(keras.metrics.Metric):
    """The state of a model's metrics for each of several networks.

    Args:
        metrics: The model's metrics. The state has a copy of each of their variables,
            with an additional first axis of networks.
        levels: Levels of the networks, int array `(n,)`.
        name: Name of this metric.
    """

    def __init__(self, metrics: list[Any], levels: np.ndarray, name: str) -> None:
        super().__init__(name=name)
        self.levels = np.asarray(levels, "int32")
        # A function, not the list: Keras would track the metrics as parts of this
        # metric.
        self._starts = partial(_start_values, metrics)
        for index, start in enumerate(self._starts()):
            self.add_variable(
                (len(levels), *start.shape),
                partial(self._filled, index),
                start.dtype,
                name=f"state_{index}",
            )

    def _filled(self, index: int, shape: Any, dtype: Any = None) -> Any:
        # Copy, because in PyTorch all networks would share the memory of one state.
        return keras.ops.copy(keras.ops.broadcast_to(self._starts()[index], shape))

    def reset_state(self) -> None:
        """Sets the state of every network to the initial state of the metrics."""
        for variable, start in zip(self.variables, self._starts(), strict=True):
            variable.assign(keras.ops.broadcast_to(start, variable.shape))


def _start_values(metrics: list[Any]) -> list[Any]:
    """Values of the metrics' variables after `reset_state`, without changing them."""
    variables = variables_of(metrics)
    mapping = [(v, keras.ops.zeros(v.shape, v.dtype)) for v in variables]
    with keras.StatelessScope(mapping) as scope:
        for metric in metrics:
            metric.reset_state()
        return [scope.get_current_value(variable) for variable in variables]


def variables_of(metrics: list[Any]) -> list[keras.Variable]:
    """The variables of some metrics, in order."""
    return [variable for metric in metrics for variable in metric.variables]


def make_width_metrics(
    model: keras.Model, levels: np.ndarray, name: str
) -> WidthMetrics | None:
    """Makes the state of a model's metrics at several networks.

    Args:
        model: A compiled model.
        levels: The networks, int array `(n,)`.
        name: Name of the state.

    Returns:
        The state; `None` while Keras has not built the metrics, which depend on the
        shape of labels.
    """
    if not private.metrics_are_built(model):
        return None
    with backends.variables_of(model):
        return WidthMetrics(model.metrics, levels, name)


def update_each(
    model: keras.Model, states: WidthMetrics, update: Callable[[Any], None]
) -> list[Any]:
    """Updates the metrics of each network with the code for a single network.

    Args:
        model: The model.
        states: State of each network.
        update: Function `update(level)` that updates the model's own metrics with the
            outputs of the network of this level, an int32 scalar.

    Returns:
        The new values of `states.variables`.
    """
    variables = variables_of(model.metrics)
    # In a stateless scope, Keras collects only losses that are computed inside it, and
    # regularizes only mapped weights. In JAX, variables have values only through the
    # map.
    held = [(v, keras.ops.convert_to_tensor(v.value)) for v in model.variables]

    def update_network(arguments: Any) -> list[Any]:
        level, *values = arguments
        mapping = [*zip(variables, values, strict=True), *held]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            update(level)
            return [scope.get_current_value(variable) for variable in variables]

    stacked = [keras.ops.convert_to_tensor(v.value) for v in states.variables]
    levels = keras.ops.convert_to_tensor(states.levels)
    updated = keras.ops.map(update_network, [levels, *stacked])
    for variable, value in zip(states.variables, updated, strict=True):
        variable.assign(value)
    return updated


def results_at(
    model: keras.Model, states: WidthMetrics, values: Sequence[Any], level: Any
) -> dict[str, Any]:
    """Reads loss and metrics of one network.

    Args:
        model: The model.
        states: State of each network.
        values: Values of `states.variables`, tensors or arrays.
        level: The network, an integer; one of `states.levels`.

    Returns:
        The result of `model.get_metrics_result` for the network.
    """
    row = int(np.flatnonzero(states.levels == level)[0])
    rows = [keras.ops.convert_to_tensor(value[row]) for value in values]
    mapping = list(zip(variables_of(model.metrics), rows, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        # A metric may return its variable, which has another value outside the scope.
        return keras.tree.map_structure(
            lambda x: x.value if isinstance(x, keras.Variable) else x,
            model.get_metrics_result(),
        )


def arrays_of(states: WidthMetrics) -> list[np.ndarray]:
    """Values of the states over all replicas."""
    return [keras.ops.convert_to_numpy(variable) for variable in states.variables]


def have_results(model: keras.Model, states: WidthMetrics | None) -> bool:
    """Whether a batch was counted since the states were reset."""
    if states is None or not len(states.levels):
        return False
    ids = [id(variable) for variable in variables_of(model.metrics)]
    index = ids.index(id(private.count_of_samples(model)))
    return bool(keras.ops.convert_to_numpy(states.variables[index])[0] > 0)


def accuracy_name(metrics: list[Any]) -> str | None:
    """Finds the accuracy that the AUC averages.

    Args:
        metrics: The model's metrics.

    Returns:
        Name of the first accuracy in the logs; a top-k accuracy only if there is no
        other. `None` if there is no accuracy, or before the first evaluation.
    """
    by_name: dict[str, Any] = {}
    for metric in metrics:
        parts = getattr(metric, "metrics", [metric])  # of `compile`, in order
        if any(isinstance(part, _ACCURACIES) for part in parts) and parts:
            results = metric.result()
            names = results if isinstance(results, dict) else [metric.name]
            by_name.update(zip(names, parts, strict=True))
    for kinds in (_ACCURACIES[:4], _ACCURACIES):
        for name, metric in by_name.items():
            if isinstance(metric, kinds):
                return name
    return None


def area_under_curve(
    widths: Sequence[float], values: Sequence[float] | np.ndarray
) -> float:
    """Average of a value over widths, by the trapezoidal rule.

    Args:
        widths: Widths `(n,)`, ascending.
        values: Values at the widths `(n,)`.

    Returns:
        The area divided by the range of widths, in the unit of `values`. For a single
        width, its value.

    Raises:
        ValueError: If `widths` and `values` differ in length or are empty, or if the
            widths do not ascend.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1 (AUC).
    """
    x, y = np.asarray(widths, float), np.asarray(values, float)
    if x.shape != y.shape or x.ndim != 1 or not len(x) or np.any(np.diff(x) <= 0):
        raise ArgumentError(
            "`widths` must ascend, and `values` must have one value for each width. "
            f"Received: widths={list(x)}, values={list(y)}"
        )
    if len(x) == 1:
        return float(y[0])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))
