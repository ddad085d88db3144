"""What all models of several widths share: the width, training over several, metrics.

`call`, the loss and the metrics use `keras.ops`; only `train_step` knows TensorFlow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from awn_keras.objectives import (
    Schedule,
    at_step,
    check_can_distill,
    check_can_freeze,
    check_frozen_up_to,
    check_labels,
    check_share,
    distillation_loss,
    is_on,
    is_schedule,
    softmax_twice,
    width_factors,
)
from awn_keras.propagation import Propagation, channel_axis
from awn_keras.rules import Graded, WidthRule, rule_of
from awn_keras.widths import (
    FixedWidths,
    SandwichWidths,
    UniformWidths,
    WidthSampler,
    channel_grades,
    check_width,
    check_widths,
    check_widths_grid,
    width_label,
)

for _sampler_class in (WidthSampler, SandwichWidths, UniformWidths, FixedWidths):
    keras.saving.register_keras_serializable(package="awn_keras")(_sampler_class)

_REDUCTIONS = ("mean", "sum")
_CURVE_WIDTHS = 64
_ACCURACIES = (
    keras.metrics.Accuracy,
    keras.metrics.BinaryAccuracy,
    keras.metrics.CategoricalAccuracy,
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.TopKCategoricalAccuracy,
    keras.metrics.SparseTopKCategoricalAccuracy,
)


class _WidthMetrics(keras.metrics.Metric):
    """The state of a model's metrics once for each of several widths.

    Args:
        metrics: The metrics; here each of their variables gets a first axis `width`.
        levels: Integer levels `(widths,)` that the states belong to.
    """

    def __init__(self, metrics: list[Any], levels: np.ndarray) -> None:
        super().__init__(name="width_metrics")
        self.levels = np.asarray(levels, "int32")
        # A function, not the list: Keras would take the metrics for parts of this one.
        self._starts = partial(_start_values, metrics)
        for index, start in enumerate(self._starts()):
            self.add_variable(
                (len(levels), *start.shape),
                lambda shape, dtype=None, index=index: keras.ops.broadcast_to(
                    self._starts()[index], shape
                ),
                start.dtype,
                name="state",
            )

    def reset_state(self) -> None:
        """Sets every width to the state that the metrics start from."""
        for variable, start in zip(self.variables, self._starts(), strict=True):
            variable.assign(keras.ops.broadcast_to(start, variable.shape))


def _start_values(metrics: list[Any]) -> list[Any]:
    """What `reset_state` gives the metrics' variables; these stay as they are."""
    variables = [variable for metric in metrics for variable in metric.variables]
    mapping = [(v, keras.ops.zeros(v.shape, v.dtype)) for v in variables]
    with keras.StatelessScope(mapping) as scope:
        for metric in metrics:
            metric.reset_state()
        return [scope.get_current_value(variable) for variable in variables]


@dataclass
class _Runtime:
    """What a model needs to run, out of sight of Keras' tracking of variables.

    The width is a variable, so that changing it retraces nothing; it is no weight, so
    that weights are those of the layers alone. The same holds for the metrics.
    """

    propagation: Propagation
    thresholds: np.ndarray  # grades above min_width, each once, ascending
    level: keras.Variable
    width: float = 1.0
    train_metrics: _WidthMetrics | None = None
    test_metrics: _WidthMetrics | None = None

    def level_of(self, width: float | np.ndarray) -> Any:
        """Levels number the distinct networks from 0, the narrowest, upwards."""
        return np.searchsorted(self.thresholds, width, side="right").astype("int32")


class MultiWidthModel(keras.Model):
    """A functional Keras model that runs at any width from `min_width` to 1.

    The base of `AnyWidthModel` and of the systems in `awn_keras.baselines`: they are
    compiled, trained, evaluated, saved, slimmed and exported in the same way. A
    subclass says which channels come and go (`_propagate`) and how to run at several
    widths (`_features`, `_outputs_at`).

    Args:
        inputs: `keras.Input`, or a structure of them.
        outputs: Tensors computed from `inputs`.
        name: Name of the model.
        min_width: Smallest width in (0, 1]. `None` for the first of `widths_grid`,
            else 0.25.
        divisor: Channels come and go in blocks of this size.
        widths_grid: If only a few widths are needed: these, ascending, ending at 1.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, or the model's graph does not fit.
        NotImplementedError: If there is no width rule for a layer.
    """

    _width_config: dict[str, Any]

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        min_width: float | None = None,
        divisor: int = 1,
        widths_grid: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        if widths_grid is not None:
            widths_grid = check_widths_grid(widths_grid)
            if min_width is None:
                min_width = widths_grid[0]
            if min_width != widths_grid[0]:
                raise ValueError(
                    "`min_width` must be the first of `widths_grid`. Received: "
                    f"min_width={min_width}, widths_grid={list(widths_grid)}"
                )
        min_width = 0.25 if min_width is None else min_width
        self.min_width = check_width(min_width, name="min_width")
        self.divisor = divisor
        self.widths_grid = widths_grid
        new_grades = partial(
            channel_grades,
            divisor=divisor,
            min_width=self.min_width,
            widths_grid=widths_grid,
        )
        self._runtime = _make_runtime(self, self._propagate(new_grades))
        if self.min_width < 1 and not len(self._runtime.thresholds):
            raise ValueError(
                "There is one network only: no layer has channels that are off at "
                f"min_width={self.min_width}. Use more channels, or a smaller "
                f"`divisor`. Received: divisor={divisor}"
            )

    # ------------------------------------------------------------------- width

    @property
    def width(self) -> float:
        """The width at which the model runs, in [min_width, 1].

        1 at first, and again after saving and loading.
        """
        return self._runtime.width

    @width.setter
    def width(self, value: float) -> None:
        self._runtime.width = check_width(value, self.min_width)
        self._runtime.level.assign(self._runtime.level_of(self._runtime.width))

    @property
    def distinct_widths(self) -> tuple[float, ...]:
        """One width for each different network there is, ascending.

        The first is `min_width`; the last, if there are several, is 1. Between two of
        them some channel appears: a width is in the middle of the range in which the
        network stays the same, or is the grid's own.
        """
        starts = np.append(self.min_width, self._runtime.thresholds)
        if self.widths_grid is not None:
            return tuple(starts.tolist())
        inner = []
        for start, end in pairwise(starts[1:].tolist()):
            middle = (start + end) / 2
            rounded = round(middle, 6)  # for the eye
            inner.append(rounded if start <= rounded < end else middle)
        return (self.min_width, *inner, 1.0)[: len(starts)]

    def start_of(self, width: float) -> float:
        """Finds where the network that runs at a width begins.

        Args:
            width: Width in [min_width, 1].

        Returns:
            The smallest width at which the model runs as it does at this one.
        """
        level = int(self._runtime.level_of(check_width(width, self.min_width)))
        return float(np.append(self.min_width, self._runtime.thresholds)[level])

    @property
    def propagation(self) -> Propagation:
        """The kind of every tensor in the graph, and so the grade of each channel."""
        return self._runtime.propagation

    # ---------------------------------------------------- what subclasses decide

    def _propagate(self, new_grades: Callable[[int], np.ndarray]) -> Propagation:
        """Finds the kinds of all tensors; see `propagation.propagate`."""
        raise NotImplementedError

    def _features(self, inputs: Any, training: bool | None) -> Any:
        """Computes, once for all widths, what they share."""
        raise NotImplementedError

    def _outputs_at(self, levels: Any, features: Any, training: bool | None) -> Any:
        """Computes the outputs at several levels `(n,)`, a list of n."""
        raise NotImplementedError

    def _training_logs(
        self, features: Any, outputs: list[Any], x: Any, y: Any, sample_weight: Any
    ) -> dict[str, Any]:
        """Updates metrics after a step that gave these outputs at its widths."""
        raise NotImplementedError

    def weight_values(self, layer: keras.Layer, width: float) -> list[np.ndarray]:
        """Gives a layer's weights as they act at a width, not cut to it yet.

        Args:
            layer: A layer of the model.
            width: Width in [min_width, 1].

        Returns:
            An array for each of `layer.weights`.
        """
        return [keras.ops.convert_to_numpy(weight) for weight in layer.weights]

    # ----------------------------------------------------------------- running

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the model's outputs at the current width."""
        features = self._features(inputs, training)
        level = keras.ops.expand_dims(self._runtime.level.value, 0)
        return self._outputs_at(level, features, training)[0]

    # --------------------------------------------------------------- compiling

    def compile(
        self,
        *args: Any,
        widths: WidthSampler | None = None,
        width_reduction: str = "mean",
        width_power: float = 0.0,
        distillation: Schedule = 0.0,
        frozen_up_to: Schedule = 0.0,
        report_widths: Sequence[float] | None = None,
        curve_widths: Sequence[float] | None = None,
        loop: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile` does.

        Args:
            *args: `optimizer`, `loss` and so on, as in Keras.
            widths: Which widths a training step runs: a `WidthSampler`. `None` for
                `SandwichWidths(min_width, 1.0, num_widths=4)`.
            width_reduction: `"mean"` of the losses of these widths (as a sampler with
                `expected` weighs them), so that the learning rate does not depend on
                their number, or `"sum"`, as in the paper. Regularization losses are
                added once.
            width_power: Weighs these losses by `width ** width_power` (over the
                average of it in the step): above 0 favours wide widths.
            distillation: Share in [0, 1] of the loss of narrower widths that comes
                from the full width's answers instead of the labels; or a schedule of
                it over optimizer steps, such as a `PiecewiseConstantDecay` that
                begins late. 1 from the start is US-Net's in-place distillation. Needs
                one output of logits.
            frozen_up_to: A width: the networks up to it stay as they are, bit for bit,
                and only what wider ones add is trained. 0 for none; or a schedule of it
                over optimizer steps, to refine the wide end after joint training.
            report_widths: Widths in [min_width, 1] at which `fit` and `evaluate`
                report loss and metrics (systems of `awn_keras.baselines` do so in
                `evaluate` only). `None` for the smallest, the middle and 1; an
                empty sequence for none.
            curve_widths: Widths in [min_width, 1] over which `evaluate` takes the AUC.
                `None` for `distinct_widths`, or 64 of them, evenly spread, if there
                are more.
            loop: Runs the paper's algorithm 1 literally, one forward and backward
                pass for each width: the reference for tests. The gradients are the
                same, it takes much longer, and BatchNormalization updates its moving
                statistics once for each pass.
            **kwargs: As in Keras.

        Raises:
            TypeError: If `widths` is not a `WidthSampler`, or `distillation` or
                `frozen_up_to` neither a number nor a schedule.
            ValueError: If a width is below the model's `min_width`, an argument is
                out of its range, or the model cannot be distilled as asked.

        Warns:
            UserWarning: If an output is a softmax (or sigmoid) already and its loss
                has `from_logits=True`.

        Reference:
            Vu et al., Any-Width Networks (2020), algorithm 1; Yu and Huang,
            Universally Slimmable Networks (2019), section 4.2 (distillation).
        """
        if widths is None:
            widths = SandwichWidths(self.min_width, 1.0, num_widths=4)
        if not isinstance(widths, WidthSampler):
            raise TypeError(
                "`widths` must be a `WidthSampler`, such as `SandwichWidths(0.25, "
                f"1.0)` or `FixedWidths([0.25, 1.0])`. Received: widths={widths!r}"
            )
        check_width(widths.smallest, self.min_width, "widths")
        if width_reduction not in _REDUCTIONS:
            raise ValueError(
                f"`width_reduction` must be one of {_REDUCTIONS}. Received: "
                f"width_reduction={width_reduction!r}"
            )
        if not np.isfinite(width_power):
            raise ValueError(
                "`width_power` must be a finite number. Received: "
                f"width_power={width_power}"
            )
        distillation = check_share(distillation, "distillation")
        frozen_up_to = check_frozen_up_to(frozen_up_to, self.min_width)
        if report_widths is None:
            report_widths = (self.min_width, (self.min_width + 1) / 2, 1.0)
        report_widths = check_widths(report_widths, self.min_width, "report_widths")
        if curve_widths is None:
            every = self.distinct_widths
            chosen = np.linspace(0, len(every) - 1, min(len(every), _CURVE_WIDTHS))
            curve_widths = [every[i] for i in chosen.round().astype(int)]
        curve_widths = check_widths(curve_widths, self.min_width, "curve_widths")
        super().compile(*args, **kwargs)
        for message in softmax_twice(self, self.loss):
            warnings.warn(message, stacklevel=2)
        if is_on(distillation):
            check_can_distill(
                *(self.loss, len(self.outputs), widths.fixed),
                loop=loop,
                loss_weights=kwargs.get("loss_weights"),
            )
        if is_on(frozen_up_to):
            check_can_freeze(self.optimizer)
        self._width_seed = keras.random.SeedGenerator(widths.seed)
        # Known from here on, so that a saved model goes on with the same widths.
        seed = int(keras.ops.convert_to_numpy(self._width_seed.state)[0])
        widths = widths.with_seed(seed)
        self._width_config = {
            "widths": widths,
            "width_reduction": width_reduction,
            "width_power": float(width_power),
            "distillation": distillation,
            "frozen_up_to": frozen_up_to,
            "report_widths": tuple(sorted(set(report_widths))),
            "curve_widths": tuple(sorted(set(curve_widths))),
            "loop": loop,
        }
        self._runtime.train_metrics = self._runtime.test_metrics = None

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile`, serialized."""
        config = super().get_compile_config()
        if config:
            config.update(self._width_config)
            for name, value in self._width_config.items():
                if isinstance(value, WidthSampler) or is_schedule(value):
                    config[name] = keras.saving.serialize_keras_object(value)
            for name in ("report_widths", "curve_widths"):
                config[name] = list(config[name])
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as `get_compile_config` says."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    # ---------------------------------------------------------------- training

    def train_step(self, data: Any) -> dict[str, Any]:
        """One optimizer step over several widths; see `compile`.

        Args:
            data: `(x, y)` or `(x, y, sample_weight)`, a batch.

        Returns:
            The logs: loss (over the widths trained), metrics at the current width,
            and loss and metrics at the report widths; for systems of
            `awn_keras.baselines` see `SlicedModel`.
        """
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        kept = self._keep_frozen()
        levels = self._sample_levels()
        factors = self._width_factors(levels)
        passes = [(levels, factors)]
        if self._width_config["loop"]:
            passes = [
                (levels[i : i + 1], factors[i : i + 1]) for i in range(len(factors))
            ]
        loss = 0.0
        outputs: list[Any] = []
        gradients: list[Any] = [None] * len(self.trainable_weights)
        for index, (some_levels, some_factors) in enumerate(passes):
            with tf.GradientTape() as tape:
                features = self._features(x, training=True)
                some_outputs = self._outputs_at(some_levels, features, training=True)
                part = self._loss_over_widths(
                    *(x, y, some_outputs, sample_weight, some_factors),
                    regularize=index == 0,
                )
                scaled = self.optimizer.scale_loss(part)
            loss += part
            outputs += some_outputs
            gradients = [
                new if old is None else old if new is None else old + new
                for old, new in zip(
                    gradients,
                    tape.gradient(scaled, self.trainable_weights),
                    strict=True,
                )
            ]
        self._track_loss(loss, x)
        # Before the update: the metrics are those of the weights that gave the loss.
        logs = self._training_logs(features, outputs, x, y, sample_weight)
        if gradients:
            self.optimizer.apply_gradients(
                zip(gradients, self.trainable_weights, strict=True)
            )
        else:
            warnings.warn(
                "The model does not have any trainable weights.", stacklevel=2
            )
        for variable, old, frozen in kept:
            variable.assign(keras.ops.where(frozen, old, variable.value))
        return logs

    def _keep_frozen(self) -> list[tuple[Any, Any, Any]]:
        """Copies what a step must not change: to be put back afterwards.

        No momentum, weight decay or moving average gets round that.

        Returns:
            Variables, their values, and which entries are frozen.
        """
        width = self._width_config["frozen_up_to"]
        if not is_on(width):
            return []
        width = at_step(width, self.optimizer.iterations)
        width = keras.ops.convert_to_tensor(width, "float32")
        thresholds = self._runtime.thresholds.astype("float32")
        level = keras.ops.sum(keras.ops.cast(width >= thresholds, "int32"))
        level = keras.ops.where(width >= np.float32(self.min_width), level, -1)
        return [
            (variable, keras.ops.copy(variable.value), levels <= level)
            for variable, levels in self._acting_from()
        ]

    def _acting_from(self) -> list[tuple[Any, np.ndarray]]:
        """For each weight the level from which on each of its entries acts."""
        found: dict[int, tuple[Any, np.ndarray]] = {}
        for node in self.propagation.nodes:
            layer, flow = node.operation, self.propagation.flows[id(node)]
            rule = rule_of(layer) or WidthRule()
            for weight in getattr(layer, "weights", []):
                levels = np.zeros([1] * len(weight.shape), "int32")
                for axes, grades in zip(
                    (rule.in_axes, rule.out_axes), flow.grades(), strict=True
                ):
                    axis, each = channel_axis(weight, axes, len(grades))
                    if axis is not None:
                        shape = [1] * len(weight.shape)
                        shape[axis] = -1
                        along = np.repeat(self._runtime.level_of(grades), each)
                        levels = np.maximum(levels, along.reshape(shape))
                if keras.backend.is_float_dtype(weight.dtype):
                    found[id(weight)] = (weight, levels)
        return list(found.values())

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluates a batch at the current, the report and the curve widths.

        Args:
            data: `(x, y)` or `(x, y, sample_weight)`, a batch.

        Returns:
            The logs: loss and metrics at the current and at the report widths.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        features = self._features(x, training=False)
        return self._update_metrics("test", features, x, y, sample_weight)

    def _sample_levels(self) -> Any:
        """Gives the levels of a training step, int32 `(n,)`: first the fixed ones."""
        sampler = self._width_config["widths"]
        if sampler.expected:
            return keras.ops.convert_to_tensor(self._expected_levels()[0], "int32")
        fixed = self._runtime.level_of(np.asarray(sampler.fixed, float))
        levels = keras.ops.convert_to_tensor(fixed, "int32")
        if not sampler.num_random:
            return levels
        # The state is the step's number, not what was drawn before: training resumed
        # from a checkpoint, and every replica, draws the same widths.
        state = self._width_seed.state
        step = keras.ops.cast(self.optimizer.iterations, state.dtype)
        seed = keras.ops.convert_to_tensor(sampler.seed, state.dtype)
        state.assign(keras.ops.stack([seed, step]))
        drawn = keras.random.uniform(
            (sampler.num_random,),
            sampler.min_width,
            sampler.max_width,
            seed=self._width_seed,
        )
        thresholds = self._runtime.thresholds.astype("float32")
        below = keras.ops.expand_dims(drawn, -1) >= thresholds
        counts = keras.ops.sum(keras.ops.cast(below, "int32"), axis=-1)
        return keras.ops.concatenate([levels, counts])

    def _expected_levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Lists all levels that a step can run, the fixed ones first, and how often.

        Returns:
            Levels, int32 `(n,)`, and how often a step runs each on average, float64
            `(n,)`: they sum to the sampler's `num_widths`.
        """
        sampler = self._width_config["widths"]
        fixed = self._runtime.level_of(np.asarray(sampler.fixed, float))
        low, high = sampler.min_width, sampler.max_width
        # Part of the range in which each level is drawn.
        edges = np.concatenate([[0.0], self._runtime.thresholds, [np.inf]])
        shares = np.diff(np.clip(edges, low, high))
        if low == high:
            shares[self._runtime.level_of(low)] = 1.0
        often = sampler.num_random * shares / shares.sum()
        others = np.setdiff1d(np.flatnonzero(often), fixed)
        fixed_often = np.ones(len(fixed))
        levels, first = np.unique(fixed, return_index=True)
        fixed_often[first] += often[levels]
        return (
            np.concatenate([fixed, others]).astype("int32"),
            np.concatenate([fixed_often, often[others]]),
        )

    def _width_factors(self, levels: Any) -> list[Any]:
        """Weights of the losses of a step's widths; they sum to `num_widths`."""
        factors = np.ones(levels.shape[0])
        if self._width_config["widths"].expected:
            factors = self._expected_levels()[1]
        power = self._width_config["width_power"]
        if not power:
            return factors.tolist()
        widths = keras.ops.convert_to_tensor(self.distinct_widths, "float32")
        weighed = width_factors(keras.ops.take(widths, levels), power, factors)
        return [weighed[index] for index in range(len(factors))]

    def _loss_over_widths(
        self,
        x: Any,
        y: Any,
        outputs: list[Any],
        sample_weight: Any,
        factors: list[Any],
        *,
        regularize: bool,
    ) -> Any:
        """Reduces the losses at several widths; adds regularization losses once."""
        total = 0.0
        regularization = 0.0
        share = self._width_config["distillation"]
        teacher = None
        if is_on(share):
            share = at_step(share, self.optimizer.iterations)
            teacher = self._width_config["widths"].fixed.index(1.0)
        for index, (y_pred, factor) in enumerate(zip(outputs, factors, strict=True)):
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
            if self.losses:
                # `compute_loss` has added them to each width's loss.
                regularization = sum(map(self._aggregate_additional_loss, self.losses))
                loss -= regularization
            if teacher is not None and index != teacher:
                learned = distillation_loss(outputs[teacher], y_pred, sample_weight)
                loss = (1 - share) * loss + share * learned
            total += factor * loss
        if self._width_config["width_reduction"] == "mean":
            total /= self._width_config["widths"].num_widths
        return total + regularization if regularize else total

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """As in Keras; says which labels the stock cross-entropies need.

        Raises:
            ValueError: If labels have another shape.
        """
        check_labels(self, self.loss, y)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    # ----------------------------------------------------------------- metrics

    def _track_loss(self, loss: Any, x: Any) -> None:
        batch = keras.ops.shape(keras.tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(loss, sample_weight=batch)

    def _update_metrics(
        self, mode: str, features: list[Any], x: Any, y: Any, sample_weight: Any
    ) -> dict[str, Any]:
        """Updates the metrics at the current width, and those at several widths."""
        training = mode == "train"
        runtime = self._runtime

        def update(level: Any, loss_offset: Any = 0.0, track_loss: bool = True) -> Any:
            levels = keras.ops.expand_dims(level, 0)
            y_pred = self._outputs_at(levels, features, training)[0]
            if track_loss:
                loss = self.compute_loss(x, y, y_pred, sample_weight, training=False)
                self._track_loss(loss + loss_offset, x)
            return self.compute_metrics(x, y, y_pred, sample_weight)

        logs = update(runtime.level.value, track_loss=not training)
        variables = self._plain_metric_variables()
        states = getattr(runtime, f"{mode}_metrics")
        if states is None:
            widths = list(self._width_config["report_widths"])
            if not training:
                widths += self._width_config["curve_widths"]
            levels = np.unique(runtime.level_of(np.asarray(widths, float)))
            states = _WidthMetrics(self.metrics, levels)
            setattr(runtime, f"{mode}_metrics", states)
        if len(states.levels) == 0:
            return logs

        # In a stateless scope Keras sees the losses of what runs inside it only, and
        # regularizes the weights that are mapped.
        offset = sum(map(self._aggregate_additional_loss, self._shared_losses()))
        weights = [(variable, variable.value) for variable in self.trainable_variables]

        def update_one(arguments: Any) -> list[Any]:
            level, *values = arguments
            mapping = [*zip(variables, values, strict=True), *weights]
            with keras.StatelessScope(mapping, collect_losses=True) as scope:
                update(level, offset)
                return [scope.get_current_value(variable) for variable in variables]

        stacked = [variable.value for variable in states.variables]
        updated = keras.ops.map(update_one, [states.levels, *stacked])
        for variable, value in zip(states.variables, updated, strict=True):
            variable.assign(value)
        return {**logs, **self._report(states)}

    def _shared_losses(self) -> list[Any]:
        """Activity losses of what `_features` ran."""
        return []

    def _plain_metric_variables(self) -> list[Any]:
        return [variable for metric in self.metrics for variable in metric.variables]

    def _report(self, states: _WidthMetrics) -> dict[str, Any]:
        """Loss and metrics at the report widths."""
        logs = {}
        for width in self._width_config["report_widths"]:
            for name, value in self._result_at(states, width).items():
                logs[f"{name}_w{width_label(width)}"] = value
        return logs

    def _result_at(self, states: _WidthMetrics, width: float) -> dict[str, Any]:
        level = self._runtime.level_of(width)
        index = int(np.flatnonzero(states.levels == level)[0])
        values = [variable[index] for variable in states.variables]
        mapping = list(zip(self._plain_metric_variables(), values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            # A metric may return its variable, which outside has another value.
            return keras.tree.map_structure(
                lambda x: x.value if isinstance(x, keras.Variable) else x,
                self.get_metrics_result(),
            )

    def reset_metrics(self) -> None:
        """Resets all metrics, those at several widths included."""
        super().reset_metrics()
        for states in (self._runtime.train_metrics, self._runtime.test_metrics):
            if states is not None:
                states.reset_state()

    def _flatten_metrics_in_order(self, logs: dict[str, Any]) -> Any:
        """As a list, results are those of a plain model: at the current width."""
        plain = self.get_metrics_result()
        return super()._flatten_metrics_in_order(
            {name: value for name, value in logs.items() if name in plain}
        )

    def evaluate(self, *args: Any, return_dict: bool = False, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does, at the current width.

        Args:
            *args: As in Keras.
            return_dict: Whether to return a dict. It holds the report widths and
                `auc` too; the list holds what a plain model's holds.
            **kwargs: As in Keras.

        Returns:
            Loss and metrics.
        """
        logs = super().evaluate(*args, return_dict=True, **kwargs)
        name = self.accuracy_name
        if name is not None and self._runtime.test_metrics is not None:
            widths = self._width_config["curve_widths"]
            key = "width_auc" if "auc" in logs else "auc"
            logs[key] = area_under_curve(widths, self._results_at(widths)[name])
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def evaluate_widths(
        self, *args: Any, widths: Sequence[float] | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Evaluates loss and metrics at many widths, by one pass over the data.

        Args:
            *args: As in `evaluate`.
            widths: Widths in [min_width, 1]. `None` for `distinct_widths`.
            **kwargs: As in `evaluate`.

        Returns:
            For `loss` and each metric a float64 array `(widths,)`.

        Raises:
            ValueError: If the model is not compiled, or a width is out of range.
        """
        self._assert_compile_called("evaluate_widths")
        widths = self.distinct_widths if widths is None else widths
        widths = check_widths(widths, self.min_width)
        before = self._width_config["curve_widths"]
        new = not set(widths) <= set(before)
        try:
            if new:
                self._measure_at(widths)
            self.evaluate(*args, **kwargs)
            return self._results_at(widths)
        finally:
            if new:
                self._measure_at(before)

    def last_evaluation(self) -> tuple[tuple[float, ...], dict[str, np.ndarray]]:
        """Gives what the last `evaluate` found at the curve widths, for callbacks.

        After an epoch of `fit` that is its validation. Nothing is computed anew.

        Returns:
            The curve widths, ascending, and for `loss` and each metric a float64
            array `(widths,)`.

        Raises:
            ValueError: If nothing was evaluated since the model was compiled.
        """
        if self._runtime.test_metrics is None:
            raise ValueError(
                f"Model '{self.name}' was not evaluated yet. Call `evaluate` first, or "
                "give `fit` its `validation_data`."
            )
        widths = self._width_config["curve_widths"]
        return widths, self._results_at(widths)

    def _measure_at(self, widths: Sequence[float]) -> None:
        """Chooses the widths of `evaluate`, which is traced anew."""
        self._width_config["curve_widths"] = tuple(sorted(set(widths)))
        self._runtime.test_metrics = None
        self.test_function = None

    def _results_at(self, widths: Sequence[float]) -> dict[str, np.ndarray]:
        states = self._runtime.test_metrics
        if states is None or not widths:
            raise ValueError(
                "`evaluate_widths` needs at least one batch of data and one width. "
                f"Received: widths={list(widths)}"
            )
        results = [self._result_at(states, width) for width in widths]
        return {
            name: np.array([float(result[name]) for result in results])
            for name, value in results[0].items()
            if np.ndim(value) == 0
        }

    @property
    def accuracy_name(self) -> str | None:
        """Name of the first accuracy in the logs; top-k only if there is no other.

        `None` if there is none, or nothing was evaluated yet.
        """
        found: dict[str, Any] = {}
        for metric in self.metrics:
            parts = getattr(metric, "metrics", [metric])  # of `compile`, in order
            if any(isinstance(part, _ACCURACIES) for part in parts) and parts:
                results = metric.result()
                names = results if isinstance(results, dict) else [metric.name]
                found.update(zip(names, parts, strict=True))
        for kinds in (_ACCURACIES[:4], _ACCURACIES):
            for name, metric in found.items():
                if isinstance(metric, kinds):
                    return name
        return None

    # ------------------------------------------------------------------ saving

    def get_config(self) -> dict[str, Any]:
        """Returns the functional model's config and the widths' arguments."""
        grid = self.widths_grid
        return {
            **super().get_config(),
            "min_width": self.min_width,
            "divisor": self.divisor,
            "widths_grid": None if grid is None else list(grid),
        }

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Refused: an exported graph has one width and no zeros to carry.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} '{self.name}' cannot be exported as a whole. Use "
            '`awn_keras.export_tflite(model, "model.tflite", widths=[...])`, or '
            "`awn_keras.slim(model, width).export(path)`."
        )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refused: Keras would quantize the kernels past their masks.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} '{self.name}' cannot be quantized in place. "
            "Quantize `awn_keras.slim(model, width)`."
        )


def check_any_width_model(model: Any) -> None:
    """Checks that a model has widths to look at.

    Args:
        model: What the user gave.

    Raises:
        TypeError: If it has one width only, or is no model.
    """
    if not isinstance(model, MultiWidthModel):
        raise TypeError(
            "`model` must be an `AnyWidthModel`, or one of `awn_keras.baselines`; a "
            "plain model has one width only. Make one of it with "
            f"`to_any_width(model)`. Received: '{getattr(model, 'name', model)}' "
            f"({type(model).__name__})"
        )


def area_under_curve(
    widths: Sequence[float], values: Sequence[float] | np.ndarray
) -> float:
    """Average of a value over widths: the trapezoid's area over the range's length.

    Args:
        widths: Widths `(n,)`, ascending.
        values: Values at them `(n,)`.

    Returns:
        The average, in the unit of `values`; with one width its value.

    Raises:
        ValueError: If the two differ in length, are empty, or the widths do not
            ascend.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.1 (AUC).
    """
    x, y = np.asarray(widths, float), np.asarray(values, float)
    if x.shape != y.shape or x.ndim != 1 or not len(x) or np.any(np.diff(x) <= 0):
        raise ValueError(
            "`widths` must ascend, with one of `values` for each. Received: "
            f"widths={list(x)}, values={list(y)}"
        )
    if len(x) == 1:
        return float(y[0])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def _make_runtime(model: MultiWidthModel, propagation: Propagation) -> _Runtime:
    graded = [k.grades for k in propagation.kinds.values() if isinstance(k, Graded)]
    grades = np.unique(np.concatenate([np.zeros(1), *graded]))
    thresholds = grades[grades > model.min_width]
    level = keras.Variable(len(thresholds), dtype="int32", trainable=False)
    return _Runtime(propagation, thresholds, level)
