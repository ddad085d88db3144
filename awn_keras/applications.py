"""Networks of `keras.applications` by name, from pixels to logits."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, WeightsUnavailableError


def application_names() -> dict[str, str]:
    """Lists the networks of `keras.applications`.

    Returns:
        A dict from the name in lower-case letters and digits, such as "mobilenetv2", to
        Keras' own name.
    """
    functions = vars(keras.applications).items()
    return {plain(name): name for name, f in functions if inspect.isfunction(f)}


def plain(name: str) -> str:
    """Reduces a name to lower-case letters and digits.

    "mobilenet_v2" and "MobileNetV2" both become "mobilenetv2".
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())


def application(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    weights: str | None = None,
    dropout: float = 0.2,
) -> keras.Model:
    """Builds a network of `keras.applications` for a number of classes.

    The network contains the preprocessing that Keras leaves to `preprocess_input`. A
    new readout follows global average pooling.

    Args:
        name: Name in `keras.applications`, such as "MobileNetV2", or a spelling like
            "mobilenet_v2".
        input_shape: `(rows, cols, channels)`. Pretrained weights need 3 channels.
        classes: Number of outputs (logits).
        weights: `"imagenet"`, or `None` for random weights. Keras takes the ImageNet
            weights from its folder `~/.keras/models`, or downloads them.
        dropout: Share in [0, 1) of the features that training drops before the readout.

    Returns:
        A functional `keras.Model`, not compiled. Its input is float32 pixels `(batch,
        rows, cols, channels)`, 0 to 255; its output is logits `(batch, classes)`.

    Raises:
        ValueError: If there is no network of this name, if the network does not accept
            `input_shape`, or if `weights` is another word.
        WeightsUnavailableError: If the weights are not on this machine and cannot be
            downloaded.
    """
    function = _function_of(name)
    _check_weights(weights, input_shape)
    scale = _Scale.of(function)
    trunk = _built(function, input_shape, weights)
    if scale.swaps_colours and weights is not None:
        _swap_colours(trunk)
    inputs = keras.Input(input_shape, name="image")
    x = scale.layer(input_shape[2])(inputs) if scale.changes else inputs
    x = keras.layers.GlobalAveragePooling2D(name="pool")(trunk(x))
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    # The loss is computed from the logits. In half precision they would be too coarse.
    outputs = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, outputs, name=trunk.name)


def _function_of(name: str) -> Callable[..., keras.Model]:
    names = application_names()
    if plain(name) not in names:
        raise ArgumentError(
            "`name` must be a network of keras.applications: "
            f"{sorted(names.values())}. Received: name={name!r}"
        )
    return getattr(keras.applications, names[plain(name)])


def _check_weights(weights: str | None, input_shape: tuple[int, int, int]) -> None:
    if weights not in (None, "imagenet"):
        raise ArgumentError(
            f"`weights` must be 'imagenet' or None. Received: weights={weights!r}"
        )
    if weights is not None and input_shape[2] != 3:
        raise ArgumentError(
            "`input_shape` must have 3 channels (RGB) for `weights='imagenet'`. "
            f"Received: input_shape={input_shape}"
        )


def _built(
    function: Callable[..., keras.Model],
    input_shape: tuple[int, int, int],
    weights: str | None,
) -> keras.Model:
    try:
        return function(include_top=False, input_shape=input_shape, weights=weights)
    except ValueError as error:
        raise ArgumentError(
            f"{function.__name__} does not take images of shape {input_shape}: {error}"
        ) from error
    except Exception as error:
        # `keras.utils.get_file` raises a plain `Exception` if a download fails.
        if "URL fetch failure" not in str(error):
            raise
        raise WeightsUnavailableError(
            f"The ImageNet weights of {function.__name__} are not in Keras' folder "
            f"~/.keras/models, and could not be downloaded: {error}. Copy the weights "
            "to this folder, or use `efficientnet_lite0`, whose weights are in a "
            "Python package."
        ) from error


class _Scale:
    """Preprocessing of a family of networks: `(pixels - mean) / std` per channel."""

    def __init__(self, mean: np.ndarray, std: np.ndarray, swaps_colours: bool) -> None:
        self.mean = mean
        self.std = std
        #: Whether the family's first kernel expects the order blue, green, red.
        self.swaps_colours = swaps_colours

    @classmethod
    def of(cls, function: Callable[..., keras.Model]) -> _Scale:
        """Derives mean and std from the family's `preprocess_input` of a few pixels."""
        module = function.__module__.replace("keras.src.", "keras.")
        preprocess = importlib.import_module(module).preprocess_input
        black = _done_to(preprocess, (0, 0, 0))
        red = _done_to(preprocess, (255, 0, 0)) - black
        swaps = bool(red[2] != 0)
        slope = _done_to(preprocess, (255, 255, 255)) - black
        if swaps:
            black, slope = black[::-1], slope[::-1]
        std = 255 / slope
        return cls(-black * std, std, swaps)

    @property
    def changes(self) -> bool:
        """Whether the preprocessing changes pixels."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def layer(self, channels: int) -> keras.layers.Layer:
        """Makes the layer. For other than 3 channels it uses the mean over RGB."""
        rgb = channels == 3
        mean, variance = (
            (x if rgb else np.full(channels, x.mean())).tolist()
            for x in (self.mean, self.std**2)
        )
        return keras.layers.Normalization(
            mean=mean, variance=variance, dtype="float32", name="preprocessing"
        )


def _done_to(preprocess: Any, pixel: tuple[int, int, int]) -> np.ndarray:
    """The preprocessed values of a pixel, float `(3,)`."""
    image = np.array(pixel, "float32").reshape(1, 1, 1, 3)
    return np.asarray(preprocess(image, data_format="channels_last"), float).ravel()


def _swap_colours(trunk: keras.Model) -> None:
    """Reorders the first kernel from blue, green, red to red, green, blue."""
    first = next(layer for layer in trunk.layers if hasattr(layer, "kernel"))
    kernel = keras.ops.convert_to_numpy(first.kernel)
    first.kernel.assign(kernel[:, :, ::-1])
