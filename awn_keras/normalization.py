"""BatchNormalization's training pass for processors, in few passes over its input.

Keras computes batch statistics and their gradients by some twenty operations, each of
which reads and writes whole feature maps. On a processor these take nearly as long as
the convolutions of LeNet-3C1L. Here sums over pixels are matrix products, and what is
left are two fused passes. The numbers are Keras' up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

_L = keras.layers


@contextlib.contextmanager
def fast_batch_normalization() -> Iterator[None]:
    """Trains Keras' BatchNormalization by few passes while the context lasts.

    Whatever `applies_to` refuses is left to Keras. A function that was traced inside
    keeps what it traced.

    Yields:
        Nothing.
    """
    keras_call = _L.BatchNormalization.call

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

    _L.BatchNormalization.call = call
    try:
        yield
    finally:
        _L.BatchNormalization.call = keras_call


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
    weights = [keras.ops.cast(weight, "float32") for weight in (gamma, beta)]
    return _normalize(keras.ops.convert_to_tensor(x), *weights, epsilon)


@tf.custom_gradient
def _normalize(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    n = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
    sums, squares = _sums(x, x)
    mean = sums / n
    variance = tf.maximum(squares / n - tf.square(mean), 0.0)
    inverse = tf.math.rsqrt(variance + epsilon)
    scale = gamma * inverse
    y = _affine(x, scale, beta - mean * scale)

    def gradient(dy: Any, _mean: Any, _variance: Any) -> Any:
        dbeta, products = _sums(dy, x)
        dgamma = inverse * (products - mean * dbeta)
        # Ioffe and Szegedy (2015), section 3, sorted by what each term is of.
        of_x = -scale * inverse * dgamma / n
        dx = _affine_of_two(dy, x, scale, of_x, -scale * dbeta / n - of_x * mean)
        return dx, dgamma, dbeta, None

    return (y, mean, variance), gradient


def _sums(x: Any, y: Any) -> tuple[Any, Any]:
    """Sums of `x` and of `x * y` over all but the last axis, as matrix products."""
    rows = [
        tf.cast(tf.reshape(one, [-1, tf.shape(one)[-1]]), tf.float32) for one in (x, y)
    ]
    ones = tf.ones([1, tf.shape(rows[0])[0]])
    products = tf.matmul(rows[0], rows[1], transpose_a=True)
    return tf.matmul(ones, rows[0])[0], tf.linalg.diag_part(products)


@tf.function(jit_compile=True, autograph=False)
def _affine(x: Any, scale: Any, offset: Any) -> Any:
    return tf.cast(tf.cast(x, tf.float32) * scale + offset, x.dtype)


@tf.function(jit_compile=True, autograph=False)
def _affine_of_two(x: Any, y: Any, of_x: Any, of_y: Any, offset: Any) -> Any:
    parts = tf.cast(x, tf.float32) * of_x + tf.cast(y, tf.float32) * of_y
    return tf.cast(parts + offset, x.dtype)
