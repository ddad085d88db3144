"""`compile`, `fit` and `evaluate` of a model with several widths."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.training import backends, private
from awn_keras.training.arrays import (
    NO_BATCH,
    Ranges,
    check_arrays,
    ranges_of,
    warn_of_scale,
    warn_of_single_sample,
)
from awn_keras.training.callbacks import NumbersCheck, StatisticsCheck, WidthProgbar
from awn_keras.training.freezing import check_can_freeze
from awn_keras.training.labels import (
    check_labels,
    class_numbers_told,
    softmax_twice,
)
from awn_keras.training.losses import (
    check_can_distill,
    check_can_teach,
    is_stock_loss,
)
from awn_keras.training.metrics import (
    WidthMetrics,
    accuracy_name,
    area_under_curve,
    arrays_of,
    have_results,
    make_width_metrics,
    results_at,
)
from awn_keras.training.plan import TrainingPlan
from awn_keras.training.samplers import WidthSampler
from awn_keras.training.schedules import Schedule, at_step, is_on
from awn_keras.training.step import FADE, report, test_step, train_step
from awn_keras.widths import Networks, check_widths


@dataclass
class _Measured:
    """State of the metrics at several widths, hidden from Keras' tracking."""

    train_metrics: WidthMetrics | None = None
    test_metrics: WidthMetrics | None = None
    last_results: dict[str, np.ndarray] | None = None  # results of `evaluate`
    trained_on: Ranges | None = None  # ranges of the inputs of `fit`


class WidthTrainer(keras.Model):
    """The training and evaluation part of `MultiWidthModel`.

    `keras.Model` has a trainer in the same way. The steps themselves are in
    `training.step`; this class connects them to Keras.

    Args:
        *args: As for `keras.Model`.
        **kwargs: As for `keras.Model`.
    """

    min_width: float
    width: float
    test_function: Any

    #: Whether the widths of a step share most of their work, so that metrics at further
    #: widths cost little.
    shares_features = True

    _plan: TrainingPlan | None = None
    #: Whether there were forbidden entries to fade out when training began.
    _fading = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._measured = _Measured()

    @property
    def networks(self) -> Networks:
        """The different networks of the model."""
        raise NotImplementedError

    @property
    def fade(self) -> Schedule | None:
        """Schedule of the factor on forbidden entries in training steps, or `None`."""
        return None

    def has_forbidden_entries(self) -> bool:
        """Whether a forbidden entry that fades out is still other than zero."""
        return False

    def share_of_forbidden_entries(self) -> Any:
        """Returns the factor on forbidden entries in this step, a scalar, or `None`."""
        if not self._fading:
            return None
        return at_step(self.fade, self.optimizer.iterations)

    # --------------------------------------------------------------- compiling

    @property
    def plan(self) -> TrainingPlan:
        """The arguments of `compile` about widths.

        Raises:
            ValueError: If the model is not compiled.
        """
        if self._plan is None:
            raise ArgumentError(f"Model '{self.name}' is not compiled: call `compile`.")
        return self._plan

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
        teacher: keras.Model | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile` does.

        Args:
            *args: `optimizer`, `loss` and so on, as in Keras.
            widths: A `WidthSampler`, which chooses the widths of each training step.
                `None` takes `SandwichWidths(min_width, 1.0, num_widths=4)`.
            width_reduction: `"mean"` or `"sum"` of the losses of these widths. With
                `"mean"` the learning rate does not depend on the number of widths.
                `"sum"` is the rule of the paper. A sampler with `expected` weights the
                losses. Regularization losses are added once.
            width_power: Exponent of the weights of these losses, `width **
                width_power`, scaled to an average of 1 in each step. Above 0, wide
                widths count more.
            distillation: Share in [0, 1] of the loss of narrower widths that compares
                with the outputs of the full width instead of the labels; or a schedule
                over optimizer steps, such as a `PiecewiseConstantDecay` that begins
                late. 1 from the start is the in-place distillation of US-Net. The model
                must have one output, with logits.
            frozen_up_to: Width up to which all networks keep their weights, bit for
                bit; only the weights that wider networks add are trained. 0 freezes
                nothing. May be a schedule over optimizer steps, to refine the wide end
                after joint training.
            report_widths: Widths in [min_width, 1] at which `fit` and `evaluate` report
                loss and metrics (models of `awn_keras.baselines` only in `evaluate`).
                `None` takes the smallest width, the middle and 1. An empty sequence
                reports none.
            curve_widths: Widths in [min_width, 1] over which `evaluate` computes the
                AUC. `None` takes `distinct_widths`, or 64 of them, evenly spread, if
                there are more.
            teacher: A trained model with equal inputs and outputs, such as the plain
                network before the conversion. Its outputs replace those of the full
                width in the distillation of all widths, the full width included. A
                saved model does not contain the teacher.
            **kwargs: As in Keras.

        Raises:
            TypeError: If `widths` is not a `WidthSampler`, if `width_power` is no
                number, if `distillation` or `frozen_up_to` is neither a number nor a
                schedule, or if `teacher` is not a model.
            ValueError: If a width is below the model's `min_width`, if an argument is
                out of range, if the model cannot be distilled with these arguments, or
                if `frozen_up_to` is used with an optimizer that keeps moving averages
                of weights.
            NotImplementedError: If `steps_per_execution` is above 1 with a strategy of
                `tf.distribute`.

        Warns:
            UserWarning: If an output is a softmax or sigmoid already, but its loss has
                `from_logits=True`.

        Reference:
            Vu et al., Any-Width Networks (2020), algorithm 1; Yu and Huang,
            Universally Slimmable Networks (2019), section 4.2 (distillation).
        """
        several = backends.in_several_processes(self)
        plan = TrainingPlan.make(
            self.networks,
            widths=widths,
            width_reduction=width_reduction,
            width_power=width_power,
            distillation=distillation,
            frozen_up_to=frozen_up_to,
            report_widths=report_widths,
            curve_widths=curve_widths,
            teacher=teacher,
            shared_seed=several,
        )
        self._plan = None  # if an error follows, the model is not compiled
        self._measured = _Measured()
        super().compile(*args, **kwargs)
        self.forget_traces()
        backends.check_can_run_steps(self)
        for message in softmax_twice(self, self.loss):
            warnings.warn(message, stacklevel=2)
        if is_on(plan.distillation):
            check_can_distill(
                self.loss,
                len(self.outputs),
                plan.widths.fixed if teacher is None else (1.0,),
                loss_weights=kwargs.get("loss_weights", *args[2:3]),
            )
        if teacher is not None:
            check_can_teach(teacher, self)
        if is_on(plan.frozen_up_to):
            check_can_freeze(self.optimizer)
        self._plan = plan

    def forget_traces(self) -> None:
        """Drops compiled functions, so that the next call traces the graph again."""
        self.test_function = self.predict_function = None

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile`, serialized."""
        config = super().get_compile_config()
        if config and self._plan is not None:
            config.update(self._plan.get_config())
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model with the arguments of `get_compile_config`."""
        # Files of version 0.1 may have `loop`. The option is now in benchmarks/.
        config = {key: value for key, value in config.items() if key != "loop"}
        teacher = config.pop("teacher", None)
        if teacher is not None:
            config["distillation"] = 0.0
            warnings.warn(
                f"Model '{self.name}' was trained with the teacher '{teacher}', which "
                "its file does not contain. Further training uses labels only. To "
                "train with the teacher again, call `compile` with `teacher=`.",
                stacklevel=2,
            )
        config = _of_every_backend(config)
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    # ------------------------------------------------- training and evaluation

    @property
    def has_own_loss(self) -> bool:
        """Whether a subclass computes the loss."""
        return type(self).compute_loss is not WidthTrainer.compute_loss

    @property
    def has_stock_loss(self) -> bool:
        """Whether the loss is a common loss of Keras for a single output."""
        return (
            not self.has_own_loss
            and len(self.outputs) == 1
            and is_stock_loss(self.loss)
        )

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as `keras.Model.fit` does.

        The progress bar is a `WidthProgbar`, unless `callbacks` contain a
        `keras.callbacks.ProgbarLogger`.

        Args:
            *args: As in Keras.
            **kwargs: As in Keras.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: If there is no batch, or if a label is not the number of a
                class.

        Warns:
            UserWarning: If there are too few steps for the momentum of
                BatchNormalization; if arrays have NaN or infinite numbers; if a batch
                has a single sample, for which BatchNormalization has no variance; or if
                the loss or a weight becomes NaN or infinite (training then ends, at the
                latest after the epoch).
        """
        bound = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs)
        arguments = dict(bound.arguments)
        del arguments["self"]
        callbacks = arguments.get("callbacks")
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            arguments["callbacks"] = self._with_own(
                keras.tree.flatten(callbacks), arguments.get("verbose", "auto")
            )
        self._check_arrays_of_fit(arguments)
        with class_numbers_told():
            return super().fit(**arguments)

    def _check_arrays_of_fit(self, arguments: dict[str, Any]) -> None:
        x, y = arguments.get("x"), arguments.get("y")
        self._measured.trained_on = check_arrays(self, self._loss_of_labels, x, y)
        validation = arguments.get("validation_data")
        if isinstance(validation, list | tuple):
            x_val, y_val, _ = keras.utils.unpack_x_y_sample_weight(validation)
            check_arrays(self, self._loss_of_labels, x_val, y_val, "validation_data")
        if isinstance(y, np.ndarray):
            count = len(y) - int(len(y) * arguments.get("validation_split", 0.0))
            warn_of_single_sample(self, count, arguments.get("batch_size") or 32)

    @property
    def _loss_of_labels(self) -> Any:
        """The loss of `compile`; `None` if a subclass computes its own loss."""
        return None if self.has_own_loss else self.loss

    def _with_own(self, callbacks: list[Any], verbose: Any) -> list[Any]:
        """Adds the callbacks of models with several widths to those of the user."""
        callbacks = [callback for callback in callbacks if callback is not None]
        bars = [isinstance(c, keras.callbacks.ProgbarLogger) for c in callbacks]
        own: list[Any] = [StatisticsCheck()]
        if not any(isinstance(callback, NumbersCheck) for callback in callbacks):
            own.append(NumbersCheck())
        if verbose and not any(bars):
            own.append(WidthProgbar())
        return [*own, *callbacks]

    def train_step(self, *args: Any) -> Any:
        """Runs one optimizer step over several widths; see `compile`.

        Args:
            *args: Arguments of the backend's trainer: a batch `(x, y)` or `(x, y,
                sample_weight)`. With JAX, the state comes first.

        Returns:
            The logs: the loss over the trained widths, metrics at the current width,
            and loss and metrics at the report widths. For models of
            `awn_keras.baselines`, see `SlicedModel`. With JAX, also the new state.
        """
        return backends.run_step(self, train_step, *args)

    def test_step(self, *args: Any) -> Any:
        """Evaluates a batch at the current, the report and the curve widths.

        Args:
            *args: As in `train_step`.

        Returns:
            The logs: loss and metrics at the current width and at the report widths.
            With JAX, also the new state.
        """
        return backends.run_step(self, test_step, *args)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Computes the loss as in Keras, after a check of the labels' shape.

        Raises:
            ValueError: If labels have a shape that a stock cross-entropy cannot use.
        """
        check_labels(self, self.loss, y)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def make_train_function(self, force: bool = False) -> Any:
        """As in Keras; creates the state of the metrics first, if possible."""
        self._make_width_metrics()
        if self.train_function is None or force:
            # Entries that have faded out stay zero, even if `compile` starts a new
            # fade.
            self._fading = self.has_forbidden_entries()
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        """As in Keras; creates the state of the metrics first, if possible."""
        self._make_width_metrics()
        return super().make_test_function(force)

    def _make_width_metrics(self) -> None:
        # Create the state for both modes, because JAX compiles a step for a fixed
        # number of state variables.
        for mode in ("train", "test"):
            self.width_metrics(mode)

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Creates the state of metrics and optimizer before the first step is traced.

        With a strategy, Keras does this with the mean of all replicas' parts of a
        batch. This fails if the parts differ in size, or if there are several workers
        (keras-team/keras#20585). Only the shapes matter, so this method passes a single
        part. Without a strategy, Keras creates the state in the first step, and
        TensorFlow then traces this step twice.
        """
        if not backends.has_strategy(self):
            if private.is_built(self):
                return
            spec = backends.spec_of_a_batch(iterator, data_batch)
            if spec is not None:
                private.build(self, spec)
                self._make_width_metrics()
            return
        if iterator is not None:
            data_batch = backends.part_of_a_batch(self, iterator)
        super()._maybe_symbolic_build(None, data_batch)

    # ----------------------------------------------------------------- metrics

    def width_metrics(self, mode: str) -> WidthMetrics | None:
        """Returns the state of the metrics at several widths; creates it if possible.

        Keras creates the state of the metrics at the first batch. With JAX, PyTorch and
        `tf.distribute` it does so before it compiles a step; with TensorFlow alone,
        while it compiles the first step. The state of this method can only be created
        afterwards.

        Args:
            mode: `"train"` (at the report widths) or `"test"` (at the report and curve
                widths).

        Returns:
            The state, or `None` if it cannot be created yet.
        """
        attribute = f"{mode}_metrics"
        states = getattr(self._measured, attribute)
        if states is None and self._plan is not None:
            widths = [*self._plan.report_widths]
            if mode == "test":
                widths += self._plan.curve_widths
            levels = np.unique(self.networks.level_of(np.asarray(widths, float)))
            states = make_width_metrics(self, levels, f"{mode}_width_metrics")
            setattr(self._measured, attribute, states)
        return states

    @property
    def metrics_variables(self) -> list[keras.Variable]:
        """State of the metrics as in Keras, and state of those at several widths."""
        measured = self._measured
        return super().metrics_variables + [
            variable
            for states in (measured.train_metrics, measured.test_metrics)
            if states is not None
            for variable in states.variables
        ]

    def reset_metrics(self) -> None:
        """Resets all metrics, those at several widths included."""
        super().reset_metrics()
        for states in (self._measured.train_metrics, self._measured.test_metrics):
            if states is not None:
                states.reset_state()

    def _get_metrics_result_or_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """As in Keras: returns the results over all replicas at the end of an epoch.

        The logs of a step are those of a replica, or the mean over replicas.
        """
        results = self.get_metrics_result()
        if FADE in logs:
            results[FADE] = logs[FADE]
        for states in (self._measured.train_metrics, self._measured.test_metrics):
            # All states are reset together, so only the last mode's states have
            # results.
            if states is None or not set(logs) > set(results):
                continue
            if have_results(self, states):
                results = {**results, **report(self, states, arrays_of(states))}
        return results if set(logs) == set(results) else logs

    def _flatten_metrics_in_order(self, logs: dict[str, Any]) -> Any:
        """As in Keras; a list holds the results of a plain model, at `width`."""
        plain = self.get_metrics_result()
        return super()._flatten_metrics_in_order(
            {name: value for name, value in logs.items() if name in plain}
        )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        *,
        width: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Evaluates as `keras.Model.evaluate` does.

        Args:
            x: Inputs, as in Keras.
            y: Labels, as in Keras.
            batch_size: As in Keras.
            verbose: As in Keras.
            sample_weight: As in Keras.
            steps: As in Keras.
            callbacks: As in Keras.
            return_dict: Whether to return a dict. The dict also has the results at the
                report widths, and `auc`. The list has only the results of a plain
                model.
            width: Width in [min_width, 1] of the loss and the metrics without a width
                in their names. `model.width` does not change. `None` takes the current
                width.
            **kwargs: As in Keras.

        Returns:
            Loss and metrics, a list or a dict.

        Raises:
            ValueError: If `width` is out of range, if the model is not compiled, if
                there is no batch, or if a label is not the number of a class.

        Warns:
            UserWarning: If arrays have NaN or infinite numbers, or if images are pixels
                and the images of `fit` were normalized, or the other way round.
        """
        widths = self.plan.curve_widths
        if not kwargs.get(private.WITHIN_FIT):  # `fit` has checked the arrays
            self._check_arrays_of_evaluation(x, y)
        arguments = (x, y, batch_size, verbose, sample_weight, steps, callbacks)
        with self._for_a_while(width), class_numbers_told():
            logs = super().evaluate(*arguments, return_dict=True, **kwargs)
        if not logs:
            raise ArgumentError(f"Model '{self.name}' cannot be evaluated: {NO_BATCH}")
        states = self._measured.test_metrics
        self._measured.last_results = None
        if widths and have_results(self, states):
            results = self._measured.last_results = self._results_at(widths)
            name = self.accuracy_name
            if name is not None:
                key = "width_auc" if "auc" in logs else "auc"
                logs[key] = area_under_curve(widths, results[name])
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def _check_arrays_of_evaluation(self, x: Any, y: Any) -> None:
        check_arrays(self, self._loss_of_labels, x, y)
        self.warn_of_scale(keras.tree.flatten(x))

    def warn_of_scale(self, inputs: Sequence[Any]) -> None:
        """Warns if images have another scale than the images of `fit`.

        Args:
            inputs: Values for the inputs, a flat list. Only NumPy arrays are checked.

        Warns:
            UserWarning: If the images are pixels, 0 to 255, and those of `fit` were
                normalized, or the other way round.
        """
        warn_of_scale(self._measured.trained_on or [], ranges_of(inputs))

    @contextmanager
    def _for_a_while(self, width: float | None) -> Iterator[None]:
        before = self.width
        try:
            if width is not None:
                self.width = width
            yield
        finally:
            if self.width != before:
                self.width = before

    def evaluate_widths(
        self, *args: Any, widths: Sequence[float] | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Evaluates loss and metrics at many widths, with one pass over the data.

        Args:
            *args: As in `evaluate`.
            widths: Widths in [min_width, 1]. `None` takes `distinct_widths`.
            **kwargs: As in `evaluate`.

        Returns:
            A dict: for `loss` and each metric a float64 array `(widths,)`.

        Raises:
            ValueError: If the model is not compiled, if `widths` are empty or out of
                range, or if there is no batch.
        """
        widths = self.networks.distinct_widths if widths is None else widths
        widths = check_widths(widths, self.min_width)
        if not widths:
            raise ArgumentError("`widths` must not be empty. Received: widths=[]")
        evaluate = inspect.signature(keras.Model.evaluate)
        given = dict(evaluate.bind(None, *args, **kwargs).arguments)
        self._check_arrays_of_evaluation(given.get("x"), given.get("y"))
        with self._measuring_at(widths), class_numbers_told():
            super().evaluate(*args, **kwargs)
            return self._results_at(widths)

    def last_evaluation(self) -> tuple[tuple[float, ...], dict[str, np.ndarray]]:
        """Returns the results of the last `evaluate` at the curve widths.

        For callbacks: after an epoch of `fit`, these are the results of the validation.
        Nothing is computed again.

        Returns:
            The curve widths, ascending, and a dict: for `loss` and each metric a
            float64 array `(widths,)`.

        Raises:
            ValueError: If the model was not evaluated since `compile`.
        """
        if self._measured.last_results is None:
            raise ArgumentError(
                f"Model '{self.name}' was not evaluated yet. Call `evaluate` first, or "
                "give `fit` its `validation_data`."
            )
        return self.plan.curve_widths, self._measured.last_results

    @contextmanager
    def _measuring_at(self, widths: Sequence[float]) -> Iterator[None]:
        """A context with other curve widths, for which `evaluate` is traced again.

        The old plan, state and function return afterwards, as the same objects. A
        compiled JAX step, which may continue after a callback, needs its fixed number
        of state variables.
        """
        if set(widths) <= set(self.plan.curve_widths):
            yield
            return
        measured = self._measured
        kept = self.plan, measured.test_metrics, self.test_function
        self._plan = self.plan.measuring_at(widths)
        measured.test_metrics = self.test_function = None
        try:
            yield
        finally:
            self._plan, measured.test_metrics, self.test_function = kept

    def _results_at(self, widths: Sequence[float]) -> dict[str, np.ndarray]:
        states = self._measured.test_metrics
        if states is None or not widths or not have_results(self, states):
            raise ArgumentError(
                "`evaluate_widths` needs at least one batch of data. Received: none"
            )
        values = arrays_of(states)
        results = [
            results_at(self, states, values, self.networks.level_of(width))
            for width in widths
        ]
        return {
            name: np.array([float(result[name]) for result in results])
            for name, value in results[0].items()
            if np.ndim(keras.ops.convert_to_numpy(value)) == 0
        }

    @property
    def accuracy_name(self) -> str | None:
        """Name of the first accuracy in the logs; top-k only if there is no other.

        `None` if there is no accuracy, or before the first evaluation.
        """
        return accuracy_name(self.metrics)


def _of_every_backend(config: Any) -> Any:
    """Replaces the class names of optimizers by names that every backend knows.

    With PyTorch, Keras saves the names of classes that only run on PyTorch.
    """
    if isinstance(config, list | tuple):
        return [_of_every_backend(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {key: _of_every_backend(value) for key, value in config.items()}
    module = config.get("module")
    if isinstance(module, str) and re.fullmatch(
        r"keras\.src\..*optimizers\..*", module
    ):
        config.update(module="keras.optimizers", registered_name=None)
    return config
