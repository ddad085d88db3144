"""BatchNormalization's training pass for processors, in few passes over its input.

Keras computes batch statistics and their gradients by some twenty operations, each of
which reads and writes whole feature maps. On a processor these take nearly as long as
the convolutions of LeNet-3C1L. Here four compiled passes remain, which take along the
ReLU that follows. The numbers are Keras' up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

_L = keras.layers
#: Attribute of an output: what `_apply` made it of, for a ReLU to do both at once.
_SOURCE = "_awn_normalization"


@contextlib.contextmanager
def fast_batch_normalization() -> Iterator[None]:
    """Trains Keras' BatchNormalization, and ReLU after it, by few passes.

    Holds while the context lasts. Whatever `applies_to` refuses is left to Keras. A
    function that was traced inside keeps what it traced.

    Yields:
        Nothing.
    """
    keras_call, keras_relu = _L.BatchNormalization.call, _L.ReLU.call

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        trains = training is True and self.trainable and mask is None
        if not (trains and applies_to(self, inputs)):
            return keras_call(self, inputs, training=training, mask=mask)
        y, mean, variance = normalize(inputs, self.gamma, self.beta, self.epsilon)
        for moving, new in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return y

    def relu(self: Any, inputs: Any) -> Any:
        source = getattr(inputs, _SOURCE, None)
        differs = self.max_value is not None or self.negative_slope or self.threshold
        if source is None or differs:
            return keras_relu(self, inputs)
        return _apply(*source, relu=True)

    _L.BatchNormalization.call, _L.ReLU.call = call, relu
    try:
        yield
    finally:
        _L.BatchNormalization.call, _L.ReLU.call = keras_call, keras_relu


def applies_to(layer: Any, x: Any) -> bool:
    """Says whether `normalize` does what a BatchNormalization does, and faster.

    Args:
        layer: The BatchNormalization.
        x: What it is to normalize in training mode.

    Returns:
        Whether `x` are feature maps `(batch, rows, cols, channels)` of at most 32 bits,
        the layer has both weights, there is no GPU, and TensorFlow was built with XLA.
    """
    return bool(
        len(x.shape) == 4
        and layer.axis in (-1, 3)
        and keras.backend.standardize_dtype(x.dtype) != "float64"
        and layer.center
        and layer.scale
        and not layer.synchronized
        and tf.test.is_built_with_xla()
        and not tf.config.list_logical_devices("GPU")
    )


def normalize(x: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Normalizes by the statistics of the batch, with gradients.

    The variance is the mean square less the squared mean: it loses digits where a
    channel's mean is some hundred times its standard deviation or more.

    Args:
        x: Float tensor `(batch, rows, cols, channels)`; `channels` may be unknown.
        gamma: Tensor or variable `(channels,)`.
        beta: Tensor or variable `(channels,)`.
        epsilon: Added to the variance.

    Returns:
        The output, in the dtype of `x`; mean and variance `(channels,)` in float32,
        through which no gradient flows.
    """
    x = keras.ops.convert_to_tensor(x)
    weights = [keras.ops.cast(weight, "float32") for weight in (gamma, beta)]
    fixed = tf.stop_gradient(x)
    sums, squares = _sums(fixed, fixed)
    mean = sums / _pixels(x)
    variance = tf.maximum(squares / _pixels(x) - tf.square(mean), 0.0)
    source = (x, *weights, mean, variance, epsilon)
    y = _apply(*source, relu=False)
    setattr(y, _SOURCE, source)
    return y, mean, variance


def _pixels(x: Any) -> Any:
    return tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)


def _apply(
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    *,
    relu: bool,
) -> Any:
    """Normalizes `x` by its own mean and variance, which its gradient allows for."""

    @tf.custom_gradient
    def apply(x: Any, gamma: Any, beta: Any) -> Any:
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = gamma * inverse
        y = _affine(x, scale, beta - mean * scale, relu)
        active = y if relu else None

        def gradient(dy: Any) -> Any:
            n = _pixels(x)
            dbeta, products = _sums(dy, x, active)
            dgamma = inverse * (products - mean * dbeta)
            # Ioffe and Szegedy (2015), section 3, sorted by what each term is of.
            of_x = -scale * inverse * dgamma / n
            offset = -scale * dbeta / n - of_x * mean
            dx = _affine_of_two(dy, x, scale, of_x, offset, active)
            return dx, dgamma, dbeta

        return y, gradient

    return apply(x, gamma, beta)


@tf.function(jit_compile=True, autograph=False)
def _sums(x: Any, y: Any, active: Any = None) -> tuple[Any, Any]:
    """Sums of `x`, where `active` is positive, and of `x * y`, for each channel."""
    x, y = _where_positive(tf.cast(x, tf.float32), active), tf.cast(y, tf.float32)
    # XLA's loops over 45 channels take twice as long as those over two pixels' 90.
    rows, columns = x.shape[1:3]
    pixels = 2 if rows and columns and rows * columns % 2 == 0 else 1
    shapes = [-1, pixels * tf.shape(x)[-1]], [pixels, -1]
    sums = [tf.reduce_sum(tf.reshape(one, shapes[0]), 0) for one in (x, x * y)]
    x_sum, product_sum = (tf.reduce_sum(tf.reshape(one, shapes[1]), 0) for one in sums)
    return x_sum, product_sum


@tf.function(jit_compile=True, autograph=False)
def _affine(x: Any, scale: Any, offset: Any, relu: bool) -> Any:
    y = tf.cast(tf.cast(x, tf.float32) * scale + offset, x.dtype)
    return tf.nn.relu(y) if relu else y


@tf.function(jit_compile=True, autograph=False)
def _affine_of_two(
    x: Any, y: Any, of_x: Any, of_y: Any, offset: Any, active: Any = None
) -> Any:
    parts = _where_positive(tf.cast(x, tf.float32), active) * of_x
    parts += tf.cast(y, tf.float32) * of_y
    return tf.cast(parts + offset, y.dtype)


def _where_positive(x: Any, active: Any) -> Any:
    return x if active is None else tf.where(active > 0, x, 0.0)
