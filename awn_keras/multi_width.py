"""The base of all models with several widths: their networks and their training."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras.src.models import Functional

from awn_keras.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from awn_keras.propagation import Propagation
from awn_keras.rules import Graded
from awn_keras.schemas import SCHEMAS, anything, check_fits, of_kind, values
from awn_keras.stages import Stages, Widths
from awn_keras.training import backends
from awn_keras.training.freezing import acting_from
from awn_keras.training.trainer import WidthTrainer
from awn_keras.widths import Networks, check_width


@dataclass
class _Runtime:
    """State of a running model. A dataclass hides the state from Keras' tracking.

    The level of the width is stored in a variable, so changing the width does not
    retrace the graph. The level is not listed in `model.weights`, which holds only the
    layers' weights. `MultiWidthModel.variables` lists the level, because JAX needs all
    state.
    """

    propagation: Propagation
    networks: Networks
    level: keras.Variable
    width: float = 1.0
    predictors: threading.local = field(default_factory=threading.local)
    lock: Any = field(default_factory=threading.RLock)


def _functional_arguments() -> list[str]:
    """Argument names by which Keras recognizes a constructor as `Functional`'s."""
    return inspect.getfullargspec(Functional.__init__).args[1:]


def _hidden(constructor: Callable[..., None]) -> Callable[..., None]:
    """Wraps a constructor, so that only `inspect.signature` shows argument names."""

    @functools.wraps(constructor)
    def init(*args: Any, **kwargs: Any) -> None:
        constructor(*args, **kwargs)

    return init


def _level_variable(level: int) -> keras.Variable:
    return keras.Variable(level, dtype="int32", trainable=False, name="width_level")


class MultiWidthModel(WidthTrainer):
    """A functional Keras model that runs at any width from `min_width` to 1.

    The base class of `AnyWidthModel` and of the models in `awn_keras.baselines`. All of
    them are compiled, trained, evaluated, saved, slimmed and exported in one way. A
    subclass defines which channels come and go (`_propagate`) and how to run several
    widths (`_features`, `_outputs_at`).

    Args:
        inputs: `keras.Input`, or a structure of them.
        outputs: Tensors computed from `inputs`.
        name: Name of the model.
        min_width: Smallest width in (0, 1]. `None` takes the first of `widths_grid`, or
            0.25 without a grid.
        divisor: Size of the blocks in which channels come and go.
        widths_grid: The widths of a model that needs only a few: ascending, the last
            one 1.
        staircase: `"nested"`, or `"paper"`; see `channel_grades`.
        stages: Settings for layers whose channels appear at other widths; see
            `AnyWidthModel`.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, if the graph breaks the rule of the
            model, or if all widths would be one network.
        NotImplementedError: If a layer has no width rule.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        min_width: float | None = None,
        divisor: int = 1,
        widths_grid: Sequence[float] | None = None,
        staircase: str = "nested",
        stages: Stages | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        widths = Widths.of(min_width, divisor, widths_grid, staircase, stages)
        self.min_width, self.divisor = widths.min_width, widths.divisor
        self.widths_grid, self.staircase = widths.grid, widths.staircase
        self._stages = widths.stages
        propagation = self._propagate(widths)
        networks = self._networks_of(propagation, widths)
        level = _level_variable(len(networks.thresholds))
        self._runtime = _Runtime(propagation, networks, level)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lets Keras before 3.15 see that a subclass is a functional model.

        Keras saves the graph of a model if the class's constructor has the argument
        names of `Functional`'s constructor, as `inspect.getfullargspec` shows them.
        Before Keras 3.15, a decorator hides the names of `Functional`. The names of the
        subclass must be hidden in the same way to be equal.
        """
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls) and not _functional_arguments():
            cls.__init__ = _hidden(cls.__init__)  # type: ignore[method-assign]

    # ------------------------------------------------------------------- width

    @property
    def width(self) -> float:
        """The width at which the model runs, in [min_width, 1].

        A new or loaded model has width 1. To use another width for one call, use
        `predict(x, width=...)`, `evaluate(..., width=...)` or `at`.

        Raises:
            ValueError: If you set a width outside [min_width, 1].
        """
        return self._runtime.width

    @width.setter
    def width(self, value: float) -> None:
        width = check_width(value, self.min_width)
        with self.state_at_hand():
            self._runtime.level.assign(self.networks.level_of(width))
        self._runtime.width = width

    @property
    def level(self) -> keras.Variable:
        """Level of `width` (see `networks`), an int32 scalar; not in `weights`."""
        return self._runtime.level

    @property
    def networks(self) -> Networks:
        """The different networks that the model holds."""
        return self._runtime.networks

    @property
    def distinct_widths(self) -> tuple[float, ...]:
        """One width for each different network of the model, ascending.

        The first width is `min_width`. The last width is 1, if there are several. A
        width of `widths_grid` is listed as it is. Without a grid, each width is the
        smallest at which its network runs, rounded up to six digits; in the paper's
        staircase, each is the middle of the range in which its network runs.
        """
        return self.networks.distinct_widths

    def start_of(self, width: float) -> float:
        """Returns the smallest width that runs the network of a width.

        Args:
            width: Width in [min_width, 1].

        Returns:
            The smallest width with the network of `width`.

        Raises:
            ValueError: If `width` is out of range.
        """
        level = self.networks.level_of(check_width(width, self.min_width))
        return float(self.networks.starts[level])

    def at(self, width: float) -> WidthView:
        """Returns a view of the model at a width; `model.width` does not change.

        Args:
            width: Width in [min_width, 1].

        Returns:
            The view. Several threads may predict with views of one model at once.

        Raises:
            ValueError: If `width` is out of range.

        Examples:
            >>> import numpy as np
            >>> from awn_keras import lenet_3c1l
            >>> model = lenet_3c1l()
            >>> small = model.at(0.5)
            >>> small.predict(np.zeros((1, 28, 28, 1)), verbose=0).shape
            (1, 10)
        """
        return WidthView(self, check_width(width, self.min_width))

    @property
    def propagation(self) -> Propagation:
        """The kind of every tensor in the graph, and so the grade of each channel."""
        return self._runtime.propagation

    @property
    def variables(self) -> list[keras.Variable]:
        """All state as in Keras, and the level of the width."""
        # Keras reads `variables` in its constructor, before `_runtime` exists.
        runtime = getattr(self, "_runtime", None)
        return super().variables + ([] if runtime is None else [runtime.level])

    # -------------------------------------------------- what subclasses implement

    def _propagate(self, widths: Widths) -> Propagation:
        """Finds the kind of each tensor; see `propagation.propagate`."""
        raise NotImplementedError

    def _networks_of(self, propagation: Propagation, widths: Widths) -> Networks:
        """Finds the different networks of the model by the grades of its channels."""
        kinds = propagation.kinds.values()
        grades = [kind.grades for kind in kinds if isinstance(kind, Graded)]
        comes = any((each > widths.min_width).any() for each in grades)
        if widths.min_width < 1 and not comes:
            raise ArgumentError(
                "The model has only one network: no output depends on a channel that "
                f"is off at min_width={widths.min_width}. Use more channels in the "
                "layers with the fewest, because a channel that such a layer reads "
                "cannot appear later than the layer's own last channel. Received: "
                f"layers of {sorted({len(each) for each in grades})} channels"
            )
        return Networks.of_grades(
            grades, widths.min_width, widths.grid, widths.staircase
        )

    def _features(self, inputs: Any, training: bool | None) -> Any:
        """Computes once what all widths share."""
        raise NotImplementedError

    def _outputs_at(self, levels: Any, features: Any, training: bool | None) -> Any:
        """Computes the outputs at several levels `(n,)`; returns a list of n."""
        raise NotImplementedError

    def _shared_losses(self) -> list[Any]:
        """Activity losses of the layers that `_features` runs."""
        return []

    def _acting_from(self) -> list[tuple[keras.Variable, np.ndarray]]:
        """See `freezing.acting_from`."""
        return acting_from(self.propagation, self.networks)

    def weight_values(self, layer: keras.Layer, width: float) -> list[np.ndarray]:
        """Returns a layer's weights as they act at a width, in full size.

        Args:
            layer: A layer of the model.
            width: Width in [min_width, 1].

        Returns:
            A list with an array for each of `layer.weights`, of its shape.
        """
        return [keras.ops.convert_to_numpy(weight) for weight in layer.weights]

    # ----------------------------------------------------------------- running

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the model's outputs at the current width."""
        return self._outputs_of(self._runtime.level.value, inputs, training)

    def _outputs_of(self, level: Any, inputs: Any, training: bool | None) -> Any:
        features = self._features(inputs, training)
        return self._outputs_at(keras.ops.expand_dims(level, 0), features, training)[0]

    def predict(self, *args: Any, width: float | None = None, **kwargs: Any) -> Any:
        """Predicts as `keras.Model.predict` does.

        Args:
            *args: As in Keras.
            width: Width in [min_width, 1] for this call; `model.width` does not change.
                `None` takes the current width. Several threads may predict at once,
                each at its own width, but not while a thread trains or evaluates the
                model. With JAX, threads wait for each other. The first call of a thread
                traces the graph; later calls at other widths do not. So keep your
                threads, for example in a pool.
            **kwargs: As in Keras. With `width`, the `model` of callbacks is a helper
                model that runs this model.

        Returns:
            The outputs, NumPy arrays in the structure of the model's outputs.

        Raises:
            ValueError: If `width` is out of range.
            NotImplementedError: If `width` is given and a subclass defines
                `predict_step`, which would run at `model.width`.
        """
        # A width for one call must not change `model.width`, which other threads may
        # read. So a helper model of this thread, with its own width variable, predicts.
        if width is None:
            with self.state_at_hand(), backends.restored(self):
                return super().predict(*args, **kwargs)
        level = self.networks.level_of(check_width(width, self.min_width))
        with self.state_at_hand():
            predictor = self._predictor()
            predictor.level.assign(level)
            with backends.restored(predictor):
                return predictor.predict(*args, **kwargs)

    def _predictor(self) -> _Predictor:
        """The predictor of this thread. Each thread has its own width variable."""
        predictors = self._runtime.predictors
        if not hasattr(predictors, "own"):
            if type(self).predict_step is not keras.Model.predict_step:
                raise UnsupportedError(
                    f"`width` cannot be given to `predict`: {type(self).__name__} "
                    f"'{self.name}' defines `predict_step`, which runs at "
                    "`model.width`. Set `model.width` instead."
                )
            with backends.variables_of(self):
                predictors.own = _Predictor(self)
        return predictors.own

    def forget_traces(self) -> None:
        """Drops compiled functions, so that the next call traces the graph again.

        Call it after a change that a compiled function does not see.
        """
        super().forget_traces()
        self._runtime.predictors = threading.local()

    @contextmanager
    def state_at_hand(self) -> Iterator[None]:
        """A context in which the model's variables hold their current values.

        With JAX, the trainer keeps the values outside of the model during training,
        evaluation and prediction. In this context another thread waits until a running
        `predict` ends.
        """
        with backends.one_at_a_time(self._runtime.lock):
            backends.sync_state(self)
            yield

    # ------------------------------------------------------------------ saving

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes a model from a config; see `keras.Model.from_config`.

        Raises:
            ValueError: If a later version of awn_keras wrote the config, or an entry of
                it is wrong.
        """
        name, check = str(config.get("name")), of_kind("model", values(anything))
        check_fits(config, check, name, f"a config of {cls.__name__}")
        config = {key: value for key, value in config.items() if key != "schema"}
        return super().from_config(config, custom_objects)

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the functional model and the widths' arguments."""
        grid = self.widths_grid
        return {
            "schema": SCHEMAS["model"],
            **super().get_config(),
            "min_width": self.min_width,
            "divisor": self.divisor,
            "widths_grid": None if grid is None else list(grid),
            "staircase": self.staircase,
            "stages": {stage.pattern: stage.as_dict() for stage in self._stages},
        }

    def on_graph(self, inputs: Any, outputs: Any) -> MultiWidthModel:
        """Makes a model with the widths of this model from other tensors of its layers.

        Args:
            inputs: Inputs of the new model, for example from `graph.rebuild`.
            outputs: Outputs of the new model.

        Returns:
            The new model. It shares the layers and their weights with this model.
        """
        own = inspect.signature(self._graph_class.__init__).parameters
        config = {
            name: value
            for name, value in self.get_config().items()
            if name in own and name != "name"
        }
        model = self._graph_class(inputs, outputs, self.name, **config)
        # A baseline has weights outside of layers, such as the statistics of widths.
        model.set_weights(self.get_weights())
        return model

    @property
    def _graph_class(self) -> type[MultiWidthModel]:
        """The class that `on_graph` makes. A subclass with other arguments names it."""
        return type(self)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Refused: an exported graph has only one width.

        Use `export_tflite`, or `slim(model, width).export(path)`.

        Raises:
            NotImplementedError: Always.
        """
        raise UnsupportedError(
            f"{type(self).__name__} '{self.name}' cannot be exported as a whole. Use "
            '`awn_keras.export_tflite(model, "model.tflite", widths=[...])`, or '
            "`awn_keras.slim(model, width).export(path)`."
        )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refused: Keras quantizes kernels without their masks.

        Quantize `slim(model, width)`.

        Raises:
            NotImplementedError: Always.
        """
        raise UnsupportedError(
            f"{type(self).__name__} '{self.name}' cannot be quantized in place. "
            "Quantize `awn_keras.slim(model, width)`."
        )


def check_any_width_model(model: Any) -> None:
    """Checks that a model has several widths.

    Args:
        model: The argument of the user.

    Raises:
        TypeError: If `model` is not a `MultiWidthModel`.
    """
    if not isinstance(model, MultiWidthModel):
        raise ArgumentTypeError(
            "`model` must be an `AnyWidthModel` or a model of `awn_keras.baselines`; a "
            "plain model has only one width. Convert a plain model with "
            f"`to_any_width(model)`. Received: '{getattr(model, 'name', model)}' "
            f"({type(model).__name__})"
        )


class WidthView:
    """A model seen at one width; see `MultiWidthModel.at`.

    Args:
        model: The model. Its `width` does not change.
        width: Width in [min_width, 1].
    """

    def __init__(self, model: MultiWidthModel, width: float) -> None:
        self.model = model
        self.width = width

    def __call__(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the model's outputs at the width.

        Args:
            inputs: As for the model.
            training: As for the model.

        Returns:
            Tensors, in the structure of the model's outputs.
        """
        level = keras.ops.convert_to_tensor(self.model.networks.level_of(self.width))
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
        with self.model.state_at_hand():
            return self.model._outputs_of(level, inputs, training)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predicts at the width of the view; see `MultiWidthModel.predict`.

        Raises:
            TypeError: If `width` is given.
        """
        self._check_no_width(kwargs)
        return self.model.predict(*args, width=self.width, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates at the width of the view; see `MultiWidthModel.evaluate`.

        The view uses the model's metrics, so only one thread may evaluate at a time.

        Raises:
            TypeError: If `width` is given.
        """
        self._check_no_width(kwargs)
        return self.model.evaluate(*args, width=self.width, **kwargs)

    def _check_no_width(self, arguments: dict[str, Any]) -> None:
        if "width" in arguments:
            raise ArgumentTypeError(
                f"A view has a fixed width, here {self.width}. Leave `width` out, or "
                f"call the model itself. Received: width={arguments['width']!r}"
            )


class _Predictor(keras.Model):
    """Runs a model at a separate width, for the `predict` of one thread.

    Args:
        model: The model. The predictor shares its weights.
    """

    def __init__(self, model: MultiWidthModel) -> None:
        super().__init__(name=f"{model.name}_predictor")
        self.model = model
        self.level = _level_variable(0)
        self.built = True
        for name in ("run_eagerly", "steps_per_execution", "jit_compile"):
            setattr(self, name, getattr(model, name))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model._outputs_of(self.level.value, inputs, training)
