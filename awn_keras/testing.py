"""Checks for the width rules of your own layers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.conversion import to_any_width
from awn_keras.counting import count_parameters, known_macs
from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.graph import copy_layer, graph_nodes, operation_of
from awn_keras.model import AnyWidthModel
from awn_keras.rules import Graded, rule_of
from awn_keras.slices import active
from awn_keras.slimming import slim
from awn_keras.training.samplers import FixedWidths

PLACES = ("trunk", "tail")
_SAMPLES, _UNITS = 3, 2
#: Error of a sum of some hundred float32 numbers in another order.
_TOLERANCE = 1e-4


def check_width_rule(
    layer: keras.Layer,
    input_shape: Sequence[int] | Sequence[Sequence[int]],
    *,
    place: str = "trunk",
    min_width: float = 0.25,
    divisor: int = 1,
) -> None:
    """Checks that a layer agrees with its width rule at every width.

    The function builds a small network with random weights. The layer is between a
    Dense layer whose channels come and go and a readout, or after the readout. At five
    widths of the network, or at all if there are fewer, the function checks that:

    - each active channel has the same value as at full width, also in the slim network;
    - the slim network has the counted number of weights and MACs;
    - an SGD step changes the model as it changes the slim network (not checked if the
      rule is `inert`, for layers that act differently in training).

    It also checks that the network is the same after saving and loading, and that the
    samples of a batch do not influence each other.

    Args:
        layer: A layer of a class with a rule (`register_width_rule`), not built. It
            does not change. Its `get_config` must be complete, and its class must be
            registered by `keras.saving.register_keras_serializable()`.
        input_shape: Shape of the input without the batch, channels last, such as `(8,
            8, 16)`. For a layer of several inputs, a list of shapes.
        place: `"trunk"`, between stem and readout, or `"tail"`, after the readout, for
            the rule `WidthRule(per_sample)`.
        min_width: Smallest width in (0, 1).
        divisor: Size of the blocks in which channels come and go.

    Raises:
        AssertionError: If the layer does not agree with its rule. The message names the
            layer, the width and the difference.
        TypeError: If `layer` is not a layer.
        ValueError: If an argument is out of range, if the layer is built, or if the
            rule does not fit the layer or refuses the place.
        NotImplementedError: If the layer has no rule.

    Examples:
        >>> import keras
        >>> from awn_keras.testing import check_width_rule
        >>> check_width_rule(keras.layers.PReLU(shared_axes=[1, 2]), (6, 6, 16))
    """
    shapes = _shapes(layer, input_shape)
    if place not in PLACES:
        raise ArgumentError(
            f"`place` must be one of {PLACES}. Received: place={place!r}"
        )
    source = copy_layer(layer)
    check = _Check(layer, _network(source, shapes, place, min_width, divisor))
    check.saving()
    check.samples()
    for width in _some(check.model.distinct_widths):
        small = slim(check.model, width)
        check.values(width, small)
        check.counts(width, small)
        check.step(width, small)


def _some(widths: Sequence[float]) -> list[float]:
    """At most five widths, the first and the last among them."""
    places = np.linspace(0, len(widths) - 1, min(len(widths), 5)).round()
    return [widths[int(place)] for place in places]


def _shapes(layer: Any, input_shape: Any) -> list[tuple[int, ...]]:
    if not isinstance(layer, keras.Layer):
        raise ArgumentTypeError(
            f"`layer` must be a Keras layer. Received: layer={layer!r}"
        )
    if layer.built and layer.weights:
        raise ArgumentError(
            f"Layer '{layer.name}' ({type(layer).__name__}): `layer` must not be "
            "built, because the check builds it for `input_shape`. Give a new layer."
        )
    several = bool(input_shape) and isinstance(input_shape[0], Sequence)
    shapes = [tuple(shape) for shape in (input_shape if several else [input_shape])]
    sizes = [size for shape in shapes for size in shape]
    if not all(shapes) or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ArgumentError(
            "`input_shape` must have sizes above 0, without the batch, channels last, "
            f"such as (8, 8, 16). Received: input_shape={input_shape!r}"
        )
    return shapes


def _network(
    layer: keras.Layer,
    shapes: list[tuple[int, ...]],
    place: str,
    min_width: float,
    divisor: int,
) -> AnyWidthModel:
    layers = keras.layers
    inputs = [keras.Input((*shape[:-1], 3)) for shape in shapes]
    if place == "trunk":
        x = [layers.Dense(s[-1])(i) for s, i in zip(shapes, inputs, strict=True)]
        y = layer(x[0] if len(x) == 1 else x)
        y = layers.Dense(_UNITS)(layers.Flatten()(y))
    else:
        x = [layers.Dense(8)(i) for i in inputs]
        x = [layers.Dense(s[-1])(y) for s, y in zip(shapes, x, strict=True)]
        y = layer(x[0] if len(x) == 1 else x)
    model = to_any_width(
        keras.Model(inputs, y),
        min_width=min_width,
        divisor=divisor,
        readouts=[operation_of(z).name for z in x] if place == "tail" else (),
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.dtype.startswith("float"):
            # Positive, because some variables are variances, and far from 0.
            variable.assign(rng.uniform(0.2, 1.0, variable.shape))
    return model


class _Check:
    """The checks of a layer in its network."""

    def __init__(self, layer: keras.Layer, model: AnyWidthModel) -> None:
        self.model = model
        self.title = f"Layer '{layer.name}' ({type(layer).__name__})"
        rng = np.random.default_rng(1)
        self.x = [
            rng.normal(size=(_SAMPLES, *x.shape[1:])).astype("float32")
            for x in model.inputs
        ]
        # Conversion keeps the names of layers.
        self.node = next(
            node
            for node in model.propagation.nodes
            if node.operation.name == layer.name
        )

    def saving(self) -> None:
        """Checks that a model computes the same after saving and loading."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            self.model.save(path)
            again = keras.saving.load_model(path)
        self._same(
            again(self.x), self.model(self.x), "after saving and loading, it computes"
        )

    def samples(self) -> None:
        """Checks that no sample of a batch influences another sample."""
        alone = [self.model([x[i : i + 1] for x in self.x]) for i in range(_SAMPLES)]
        together = self.model(self.x)
        self._same(
            keras.ops.concatenate(alone),
            together,
            "for single samples, it computes",
        )

    def values(self, width: float, small: keras.Model) -> None:
        """Checks channels and outputs at a width against those of the slim network."""
        name, kind = self.node.operation.name, self.node.outputs[0]
        tensors = {n.operation.name: n.outputs[0] for n in graph_nodes(small)}
        whole = keras.Model(self.model.inputs, kind)(self.x)
        part = keras.Model(small.inputs, tensors[name])(self.x)
        flow = self.model.propagation.flows[id(self.node)]
        if isinstance(flow.output, Graded):
            there = active(flow.output, flow.output_shape, width)
            whole = _numpy(whole)[..., there]
            self._same(part, whole, f"at width {width} the slim layer computes")
        self._same(
            small(self.x),
            self.model.at(width)(self.x),
            f"at width {width} the slim network computes",
        )

    def counts(self, width: float, small: keras.Model) -> None:
        """Checks the counted numbers of weights and MACs."""
        pairs = {
            "weights": (count_parameters(self.model, width), small.count_params()),
            "MACs": (self._macs(self.model, width), self._macs(small, 1.0)),
        }
        for what, (counted, real) in pairs.items():
            if counted != real:
                raise AssertionError(
                    f"{self.title}: at width {width} the rule counts {counted} {what}, "
                    f"but the slim network has {real}."
                )

    def _macs(self, model: keras.Model, width: float) -> int:
        return int(known_macs(model, [width]).macs[0])

    def step(self, width: float, small: keras.Model) -> None:
        """Checks that a step changes the model as it changes the slim network."""
        rule = rule_of(self.node.operation)
        if rule is not None and rule.inert:
            return
        before = self.model.get_weights()
        y = np.ones((_SAMPLES, *small.output_shape[1:]), "float32")
        self.model.compile(
            keras.optimizers.SGD(0.01),
            "mse",
            widths=FixedWidths([width]),
            report_widths=[],
            run_eagerly=True,
        )
        small.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
        self.model.train_on_batch(self.x, y)
        old = small.get_weights()
        small.train_on_batch(self.x, y)
        trained = slim(self.model, width).get_weights()
        self.model.set_weights(before)
        wanted = small.get_weights()
        # A bias before a normalization has gradient 0, computed as a sum of large
        # numbers that cancel. So compare with the largest change of all weights.
        largest = max(np.abs(a - b).max() for a, b in zip(wanted, old, strict=True))
        for weight, was, ours, theirs in zip(
            small.weights, old, trained, wanted, strict=True
        ):
            # The slim network has no mask, so it trains the zeros of the triangle.
            theirs = np.where(was == 0, ours, theirs)
            what = f"at width {width} a step changes '{weight.path}' by"
            self._same(ours - was, theirs - was, what, largest)

    def _same(self, value: Any, wanted: Any, what: str, least: float = 1e-3) -> None:
        value, wanted = _numpy(value), _numpy(wanted)
        if value.shape != wanted.shape:
            raise AssertionError(
                f"{self.title}: {what} an array of shape {value.shape}, which must be "
                f"{wanted.shape}."
            )
        largest = max(least, float(np.abs(wanted).max(initial=0)))
        difference = float(np.abs(value - wanted).max(initial=0))
        if not difference <= _TOLERANCE * largest:
            raise AssertionError(
                f"{self.title}: {what} other values than expected. Values up to "
                f"{largest:.3g} differ by {difference:.3g}. Check that the rule names "
                "all weights, and that each channel depends only on the channels that "
                "the rule allows."
            )


def _numpy(x: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(x))
