"""Layers that normalize each channel by the channels that are there whenever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import (
    check_grades,
    forbidden_part,
    staircase_grades,
    triangular_mask,
    unpack_grades,
)
from awn_keras.errors import ArgumentError
from awn_keras.layers.base import TriLayer


class PrefixNormalization(TriLayer):
    """Mixin for a layer that normalizes over channels; comes before it.

    Channel s is normalized by the statistics of all channels whose grade is at most its
    own: its *prefix*. Channels of one grade, a *block*, have them in common.
    """

    place_arguments = ("grades",)

    axis: Any
    epsilon: float

    #: Whether the mean is taken away, too.
    centers: bool

    #: Names of the weights that scale and shift channels.
    affine: tuple[str, str]

    def _init_place(self, grades: Sequence[Any] | np.ndarray | None) -> None:
        self._grades = unpack_grades(grades)
        check_grades(self._grades, f"{self._title()}: `grades`")

    @property
    def grades(self) -> np.ndarray | None:
        """Grades of the channels, float64; `None` for the standard ones."""
        return self._grades

    in_grades = out_grades = grades

    def _set_place(
        self, in_grades: np.ndarray, out_grades: np.ndarray, keeps_forbidden: bool
    ) -> None:
        self._grades = in_grades

    def cuts_weights(self) -> bool:
        """Whether some channels are not normalized by all others."""
        return self._grades is not None and len(np.unique(self._grades)) > 1

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes the weights; checks that there is a grade for each channel."""
        axis, channels = self.axis, input_shape[-1]
        if (np.ravel(axis) % len(input_shape)).tolist() != [len(input_shape) - 1]:
            raise ArgumentError(
                f"{self._title()}: `axis` must be -1, the channels. Received: "
                f"axis={axis} for an input of shape {tuple(input_shape)}"
            )
        if self._grades is not None and len(self._grades) != channels:
            raise ArgumentError(
                f"{self._title()}: `grades` must be as many as there are channels. "
                f"Received: {len(self._grades)} grades for an input of shape "
                f"{tuple(input_shape)}"
            )
        super().build(input_shape)
        self.axis = -1  # Keras makes a list of it

    def call(self, inputs: Any) -> Any:
        """Returns the normalized channels, of the shape of `inputs`."""
        grades = self._grades
        if grades is None:
            grades = staircase_grades(inputs.shape[-1])
        dtype = _wide(inputs.dtype)
        x = self.normalized(keras.ops.cast(inputs, dtype), grades)
        scale, shift = (getattr(self, name, None) for name in self.affine)
        if scale is not None:
            x = x * keras.ops.cast(scale, dtype)
        if shift is not None:
            x = x + keras.ops.cast(shift, dtype)
        return keras.ops.cast(x, self.compute_dtype)

    def normalized(self, x: Any, grades: np.ndarray) -> Any:
        """Normalizes channels, without scale and shift.

        Args:
            x: Tensor `(..., channels)` of at least float32, or one of a graph.
            grades: Grades of these channels, `(channels,)`.

        Returns:
            A tensor like `x`.
        """
        ops, dtype = keras.ops, keras.backend.standardize_dtype(x.dtype)
        blocks = np.unique(grades)
        spread = (blocks[:, None] == grades).astype(dtype)
        weights = triangular_mask(grades, blocks).astype(dtype)
        if isinstance(x, keras.KerasTensor):
            weights /= weights.sum(axis=0)
        else:
            # While the triangle fades in, all other channels count in part.
            others = forbidden_part(ops.ones_like(weights), acting=True)
            weights = ops.where(weights > 0, weights, others)
            weights = weights / ops.sum(weights, axis=0)
        if self.centers:
            # From the mean of the first block, which is the same at every width: the
            # square of a mean that is far from zero would swallow the variance.
            # After this the mean's square is at most as many times the variance as
            # there are channels for each of the first block.
            first = (grades == blocks[0]).astype(dtype)[:, None]
            x = x - ops.matmul(x, first / first.sum())
        squares = ops.matmul(ops.square(x), weights)
        if self.centers:
            means = ops.matmul(x, weights)
            # Rounding may leave less than nothing of a variance of zero.
            squares = ops.relu(squares - ops.square(means))
            x = x - ops.matmul(means, spread)
        return x * ops.matmul(ops.rsqrt(squares + self.epsilon), spread)

    def stock_call(
        self, active: np.ndarray, *, alike: bool = False, **changes: Any
    ) -> Callable[[Any], Any] | None:
        """What computes some of the channels; see `TriLayer`.

        Statistics are products with constant matrices, from channels to blocks and
        back. The scale and the shift are a depthwise convolution of one position, with
        a scale of ones where the layer has none.
        """
        grades = self._grades
        if grades is None or len(np.unique(grades if alike else grades[active])) == 1:
            return None
        return _StockCall(self, active, grades[active], **changes)

    def macs(self, channels: Any) -> Any:
        """MACs of one position, as a slim network has them.

        Args:
            channels: Number of active channels, or an int array of several.

        Returns:
            MACs of the layer, of the type of `channels`.
        """
        grades = self._grades
        if grades is None:
            grades = staircase_grades(np.max(channels))
        ascending = np.sort(grades)
        blocks = np.cumsum(np.diff(ascending, prepend=-1) > 0)[channels - 1]
        each = 4 * blocks + 1 if self.centers else 2 * blocks
        affine = any(getattr(self, name, None) is not None for name in self.affine)
        return np.where(blocks > 1, channels * (each + affine), 0)


def _wide(dtype: Any) -> str:
    """The dtype of statistics: at least float32, as in Keras' own normalization."""
    return keras.backend.result_type(dtype, "float32")


class _StockCall:
    """Prefix normalization by stock layers and operations.

    Args:
        layer: The layer whose weights are taken.
        active: Which of its channels are there.
        grades: The grades of these.
        name: Name of the stock layer that gives the outputs.
        dtype: Dtype policy, or `None` for the layer's.
    """

    def __init__(
        self,
        layer: PrefixNormalization,
        active: np.ndarray,
        grades: np.ndarray,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        self.layer, self.active, self.grades = layer, active, grades
        self.name = name or layer.name
        policy = keras.dtype_policies.get(dtype or layer.dtype_policy)
        self.dtype = policy.compute_dtype
        self._affine: Any = None
        self._last: Any = None
        self._first: Any = None  # the layer with weights, inside of a wrapper

    def __call__(self, x: Any) -> Any:
        """Normalizes a Keras tensor of the active channels."""
        wide = _wide(x.dtype)
        narrow = wide != keras.backend.standardize_dtype(x.dtype)
        y = keras.ops.cast(x, wide) if narrow else x
        y = self.layer.normalized(y, self.grades)
        y = self._scaled(y)
        if self._last is None:
            # Gives the outputs the layer's name, and its dtype.
            self._last = keras.layers.Identity(name=self.name, dtype=self.dtype)
        return self._last(y)

    def _scaled(self, x: Any) -> Any:
        scale, shift = self._weights()
        if scale is None and shift is None:
            return x
        channels, positions = x.shape[-1], len(x.shape) - 2
        if self._affine is None:
            self._affine, self._first = self._convolution(
                positions, x.dtype, use_bias=shift is not None
            )
        if positions:
            y = self._affine(x)
        else:
            y = self._affine(keras.ops.reshape(x, (-1, 1, channels)))
            y = keras.ops.reshape(y, (-1, channels))
        kernel = np.ones(channels) if scale is None else scale
        kernel = kernel.reshape(self._first.kernel.shape)
        self._first.set_weights([kernel] if shift is None else [kernel, shift])
        return y

    def _convolution(
        self, positions: int, dtype: str, *, use_bias: bool
    ) -> tuple[Any, Any]:
        layers, name = keras.layers, f"{self.name}_affine"
        arguments: dict[str, Any] = {
            "kernel_size": 1,
            "use_bias": use_bias,
            "depthwise_initializer": "ones",
            "dtype": dtype,
        }
        if positions < 3:
            flat = layers.DepthwiseConv2D if positions == 2 else layers.DepthwiseConv1D
            layer = flat(**arguments, name=name)
            return layer, layer
        layer = layers.DepthwiseConv2D(**arguments)
        return layers.TimeDistributed(layer, name=name), layer

    def _weights(self) -> list[np.ndarray | None]:
        """Scale and shift of the active channels; `None` for what there is not."""
        weights = (getattr(self.layer, name, None) for name in self.layer.affine)
        return [
            None
            if weight is None
            else keras.ops.convert_to_numpy(weight).astype("float32")[self.active]
            for weight in weights
        ]


@keras.saving.register_keras_serializable(package="awn_keras")
class TriLayerNormalization(PrefixNormalization, keras.layers.LayerNormalization):
    """Layer normalization of each channel over the channels of no larger grade.

    `outputs[s] = (inputs[s] - mean) / sqrt(variance + epsilon) * gamma[s] + beta[s]`,
    where `mean` and `variance` are those of the channels whose grade is at most that of
    channel s, at the same position of the same sample. A channel's value is then the
    same at every width. If every grade is 0 the layer is
    `keras.layers.LayerNormalization`.

    Statistics have at least float32. They need a product with as many columns as there
    are different grades: in a model of many widths, blocks (`divisor=8`) save most of
    that. At the narrowest width statistics are those of few channels; if the first
    block had only one, that would be zero for every input.

    Args:
        axis: -1, the channels.
        epsilon: As in `keras.layers.LayerNormalization`, and so are all arguments that
            are not listed here.
        center: See `epsilon`.
        scale: See `epsilon`.
        beta_initializer: See `epsilon`.
        gamma_initializer: See `epsilon`.
        beta_regularizer: See `epsilon`.
        gamma_regularizer: See `epsilon`.
        beta_constraint: See `epsilon`.
        gamma_constraint: See `epsilon`.
        grades: Grades of the channels, `(channels,)`, each in [0, 1]. `None` for the
            paper's staircase; an `AnyWidthModel` gives the layer those of its inputs.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, ..., channels)`, of a floating dtype.

    Output shape:
        As the inputs, of the layer's compute dtype.

    Raises:
        ValueError: If `axis` is another one, or `grades` do not fit the channels.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriLayerNormalization
        >>> layer = TriLayerNormalization(grades=[0, 0, 1, 1])
        >>> x = np.array([[1.0, 3.0, 2.0, 10.0]], "float32")
        >>> layer(x).numpy().round(2)
        array([[-1.  ,  1.  , -0.57,  1.7 ]], dtype=float32)

    Reference:
        Ba et al., Layer Normalization (2016), over prefixes of the channels as Vu et
        al., Any-Width Networks (2020), section 3.2, have them for kernels.
    """

    stock_class = keras.layers.LayerNormalization
    centers = True
    affine = ("gamma", "beta")

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            axis=axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        self._init_place(grades)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriRMSNormalization(PrefixNormalization, keras.layers.RMSNormalization):
    """Root mean square normalization over the channels of no larger grade.

    `outputs[s] = inputs[s] / sqrt(mean + epsilon) * scale[s]`, where `mean` is that of
    the squares of the channels whose grade is at most that of channel s, at the same
    position of the same sample; see `TriLayerNormalization`. If every grade is 0 the
    layer is `keras.layers.RMSNormalization`.

    Args:
        axis: -1, the channels.
        epsilon: As in `keras.layers.RMSNormalization`.
        grades: Grades of the channels, `(channels,)`, each in [0, 1]. `None` for the
            paper's staircase; an `AnyWidthModel` gives the layer those of its inputs.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, ..., channels)`, of a floating dtype.

    Output shape:
        As the inputs, of the layer's compute dtype.

    Raises:
        ValueError: If `axis` is another one, or `grades` do not fit the channels.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriRMSNormalization
        >>> layer = TriRMSNormalization(grades=[0, 0, 1, 1])
        >>> layer(np.array([[1.0, 1.0, 7.0, 7.0]], "float32")).numpy().round(2)
        array([[1. , 1. , 1.4, 1.4]], dtype=float32)

    Reference:
        Zhang and Sennrich, Root Mean Square Layer Normalization (2019), over prefixes
        of the channels.
    """

    stock_class = keras.layers.RMSNormalization
    centers = False
    affine = ("scale", "")

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-6,
        *,
        grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis=axis, epsilon=epsilon, **kwargs)
        self._init_place(grades)
