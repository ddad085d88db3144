"""The networks that a recipe can name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from awn_keras.applications import application, application_names, plain
from awn_keras.architectures import efficientnet_lite0, lenet_3c1l, mobilenet_v2
from awn_keras.conversion import dissolved, set_momentum, to_any_width
from awn_keras.data import ImageData
from awn_keras.data.inputs import scales_inputs
from awn_keras.errors import ArgumentError
from awn_keras.growing import grow
from awn_keras.loading import load_keras_model
from awn_keras.multi_width import MultiWidthModel
from awn_keras.rotating import rotate_channels
from awn_keras.training.callbacks import fitting_momentum

if TYPE_CHECKING:
    from awn_keras.runs.recipe import Recipe


@dataclass(frozen=True)
class Network:
    """A network that a recipe can name.

    Args:
        build: Function that builds the network of a recipe for a data set: an
            `AnyWidthModel`, or a plain model if the recipe's system is not `awn`.
        unused: Fields of a recipe that have no effect on this network.
    """

    build: Callable[[Recipe, ImageData], keras.Model]
    unused: tuple[str, ...] = ()


def _shared_arguments(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    names = (
        *("width_multiplier", "weight_decay", "bn_momentum"),
        *("min_width", "divisor", "widths_grid", "staircase", "stages"),
    )
    arguments = {name: getattr(recipe, name) for name in names}
    if recipe.bn_momentum is None:
        arguments["bn_momentum"] = 0.9
    return {
        **arguments,
        "triangular": recipe.system == "awn",
        "preprocessing": data.preprocessing(),
    }


def _lenet_3c1l(recipe: Recipe, data: ImageData) -> keras.Model:
    small = min(data.input_shape[:2]) < 16
    return lenet_3c1l(
        data.input_shape,
        data.classes,
        filters=recipe.filters,
        padding="same" if small else "valid",
        **_shared_arguments(recipe, data),
    )


def _mobilenet_v2(recipe: Recipe, data: ImageData) -> keras.Model:
    if recipe.weights is not None:
        return _application(recipe, data)
    arguments = _shared_arguments(recipe, data)
    return mobilenet_v2(data.input_shape, data.classes, **arguments)


def _efficientnet_lite0(recipe: Recipe, data: ImageData) -> keras.Model:
    network = efficientnet_lite0(data.input_shape, data.classes, weights=recipe.weights)
    return _converted(recipe, data, network)


def _application(recipe: Recipe, data: ImageData) -> keras.Model:
    network = application(
        recipe.architecture, data.input_shape, data.classes, weights=recipe.weights
    )
    return _converted(recipe, data, network)


def _file(recipe: Recipe, data: ImageData) -> keras.Model:
    """A user's model. If its outputs are features, it gets a new readout."""
    path = recipe.architecture
    network = load_keras_model(path, compiled=False)
    if isinstance(network, MultiWidthModel):
        raise ArgumentError(
            f"{path} holds a model of several widths already. To train it longer, load "
            "it in Python and call `fit`. `--model` takes a plain model."
        )
    shapes = [tuple(x.shape[1:]) for x in network.inputs]
    if shapes != [data.input_shape]:
        raise ArgumentError(
            f"{path} must take images of shape {data.input_shape}. Received: a model "
            f"with inputs of shape {shapes}"
        )
    x = inputs = keras.Input(data.input_shape, name="image")
    if not scales_inputs(network):
        x = data.preprocessing()(x)
    outputs = [tuple(y.shape[1:]) for y in network.outputs]
    x = network(x)
    if len(outputs) != 1 or len(outputs[0]) not in (1, 3):
        raise ArgumentError(
            f"{path} must have one output: scores of {data.classes} classes, or "
            f"features (rows, cols, channels). Received: outputs of shape {outputs}"
        )
    if len(outputs[0]) == 3:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(data.classes, dtype="float32", name="logits")(x)
    elif outputs != [(data.classes,)]:
        raise ArgumentError(
            f"{path} must have scores of {data.classes} classes, as {data.name} has. "
            f"Received: outputs of shape {outputs}. Save the model without its last "
            "layers, up to features (rows, cols, channels), to get a new readout."
        )
    return _converted(recipe, data, keras.Model(inputs, x, name=network.name))


def _converted(recipe: Recipe, data: ImageData, network: keras.Model) -> keras.Model:
    steps = recipe.epochs_run * len(data.train(recipe.batch_size))
    momentum = recipe.bn_momentum
    if momentum is None:
        momentum = fitting_momentum(steps)
    if recipe.system != "awn":
        network = dissolved(network)
        set_momentum(network, momentum)
        return network
    if recipe.grow is not None:
        grown = grow(network, recipe.grow, divisor=recipe.divisor)
        set_momentum(grown, momentum)
        return grown
    if recipe.rotate:
        with warnings.catch_warnings():
            # Rotation is the default for all networks, but many have nothing to rotate.
            warnings.filterwarnings("ignore", ".*has no linear bottleneck")
            network = rotate_channels(network, data.train(recipe.batch_size))
    return to_any_width(
        network,
        min_width=recipe.min_width,
        divisor=recipe.divisor,
        widths_grid=recipe.widths_grid,
        staircase=recipe.staircase,
        stages=recipe.stages,
        width_multiplier=recipe.width_multiplier,
        order=recipe.order,
        fade=round(recipe.fade * steps) or None,
        bn_momentum=momentum,
    )


#: Fields of a recipe without effect on networks that are converted.
_CONVERTED = ("filters", "weight_decay")
#: Fields of a recipe without effect on networks that are built of Tri layers.
_BUILT = ("rotate", "order", "fade", "grow")

#: Networks that are not in keras.applications, by the name of their architecture.
NETWORKS = {
    "lenet_3c1l": Network(_lenet_3c1l, unused=("weights", *_BUILT)),
    "mobilenet_v2": Network(_mobilenet_v2, unused=("filters",)),
    "efficientnet_lite0": Network(_efficientnet_lite0, unused=_CONVERTED),
}


def network_of(architecture: str) -> Network:
    """Returns the network of an architecture.

    Args:
        architecture: One of `NETWORKS`, a name of `keras.applications`, or the path of
            a `.keras` file.

    Returns:
        The network.

    Raises:
        ValueError: If there is no network of this name.
    """
    if architecture in NETWORKS:
        return NETWORKS[architecture]
    if architecture.endswith(".keras"):
        return Network(_file, unused=(*_CONVERTED, "weights"))
    names = application_names()
    if plain(architecture) in names:
        return Network(_application, unused=_CONVERTED)
    raise ArgumentError(
        f"`architecture` must be one of {sorted(NETWORKS)}, the path of a .keras file, "
        f"or one of keras.applications: {sorted(names.values())}. Received: "
        f"architecture={architecture!r}"
    )
