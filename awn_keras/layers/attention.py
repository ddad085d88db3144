"""Triangular attention: whole heads come and go."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import check_grades, staircase_grades, unpack_grades
from awn_keras.errors import ArgumentError
from awn_keras.layers.base import TriangularKernel
from awn_keras.layers.einsum import TriEinsumDense
from awn_keras.layers.parts import NO_KERNELS, OfParts


def head_grades(out_grades: np.ndarray, heads: int) -> np.ndarray:
    """Computes the grades of attention heads from those of the output channels.

    The output channels, in the order of their grades, are divided evenly among the
    heads. The grade of a head is the grade of the last channel in its share. So a head
    is active when its whole share is active. The first head is active at every width.

    Args:
        out_grades: Grades of the output channels, `(out_channels,)`.
        heads: Number of heads.

    Returns:
        float64 array `(heads,)`, ascending.

    Examples:
        >>> from awn_keras.layers.attention import head_grades
        >>> head_grades([0.25, 0.5, 0.75, 1.0], 2)
        array([0.25, 1.  ])
    """
    ascending = np.sort(np.asarray(out_grades, float))
    ends = -(-np.arange(1, heads + 1) * len(ascending) // heads)
    ends[0] = 1
    return ascending[ends - 1]


class _Heads(OfParts):
    """Mixin for a stock attention layer. Put it first among the bases.

    The projections of attention are inner layers. They become triangular when the stock
    layer creates them.
    """

    kernels = NO_KERNELS
    stock_class: type[keras.Layer]

    #: Attributes of the projections that make heads, and of the projection that reads
    #: the heads.
    _of_inputs: tuple[str, ...] = (
        "_query_dense",
        "_key_dense",
        "_value_dense",
        "_gate_dense",
    )
    _of_heads = "_output_dense"

    def _newer(self, **arguments: Any) -> dict[str, Any]:
        """Arguments that the stock layer has not had in every supported version."""
        known = inspect.signature(self.stock_class).parameters
        missing = [name for name in arguments if name not in known]
        for name in missing:
            if arguments[name]:
                raise ArgumentError(
                    f"{type(self).__name__}: `{name}` needs a newer Keras, whose "
                    f"{self.stock_class.__name__} has this argument. Received: "
                    f"{name}={arguments[name]!r}, with Keras {keras.__version__}"
                )
        return {name: arguments[name] for name in arguments if name in known}

    def _init_triangle(
        self,
        in_grades: Sequence[Any] | np.ndarray | None,
        out_grades: Sequence[Any] | np.ndarray | None,
    ) -> None:
        self._check_pair(in_grades, out_grades)
        self._in_grades = unpack_grades(in_grades)
        self._out_grades = unpack_grades(out_grades)
        check_grades(self._in_grades, f"{self._title()}: `in_grades`")
        check_grades(self._out_grades, f"{self._title()}: `out_grades`")

    @property
    def in_grades(self) -> np.ndarray | None:
        """Grades of the input channels, float64; `None` for the paper's staircase."""
        return self._in_grades

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, float64; `None` for the paper's staircase."""
        return self._out_grades

    def narrowing_heads(self) -> int:
        """Number of heads that come and go; a group that shares keys counts once."""
        raise NotImplementedError

    def heads_for(self, channels: np.ndarray) -> int:
        """Counts the heads that are active together with some output channels.

        Args:
            channels: Indices of the active output channels, `(n,)`.

        Returns:
            The number of active heads, at most `narrowing_heads()`. Active heads are
            the first ones.
        """
        if self._out_grades is None or not len(channels):
            return self.narrowing_heads()
        grades = head_grades(self._out_grades, self.narrowing_heads())
        return int((grades <= self._out_grades[channels].max()).sum())

    def parts(self) -> dict[str, TriangularKernel]:
        """The projections that exist; all of them once the layer is built."""
        names = (*self._of_inputs, self._of_heads)
        layers = [getattr(self, name, None) for name in names]
        return {f"{part.name}/": part for part in layers if part is not None}

    def build(
        self,
        query_shape: Sequence[int | None],
        value_shape: Sequence[int | None],
        key_shape: Sequence[int | None] | None = None,
    ) -> None:
        """Creates the projections, with the triangles of the grades.

        Raises:
            ValueError: If `in_grades` do not fit the channels of an input.
        """
        key_shape = key_shape or value_shape
        shapes = {"query": query_shape, "value": value_shape, "key": key_shape}
        for name, shape in shapes.items():
            if self._in_grades is not None and shape[-1] != len(self._in_grades):
                raise ArgumentError(
                    f"{self._title()}: `query`, `value` and `key` must have "
                    f"{len(self._in_grades)} channels, one for each of `in_grades`. "
                    f"Received: `{name}` of shape {tuple(shape)}"
                )
        self._channels = {
            f"_{name}_dense": int(shapes[name][-1] or 0) for name in shapes
        }
        self._channels["_gate_dense"] = self._channels["_query_dense"]
        super().build(query_shape, value_shape, key_shape)

    def __setattr__(self, name: str, value: Any) -> None:
        """Makes a projection triangular before the projection has weights."""
        # The stock layer creates its projections in a long `build`. Changing their
        # class on assignment avoids a copy of that method.
        if name in (*self._of_inputs, self._of_heads):
            value.__class__ = TriEinsumDense
            value._init_triangle(*self._grades_of(name, value))
        super().__setattr__(name, value)

    def _grades_of(self, name: str, part: Any) -> tuple[np.ndarray, np.ndarray]:
        """Grades of a projection's inputs, and of its outputs."""
        out_grades = self._out_grades
        if out_grades is None:
            out_grades = staircase_grades(self._output_channels())
        grades = head_grades(out_grades, self.narrowing_heads())
        if name == self._of_heads:
            return np.repeat(grades, self._query_heads() // len(grades)), out_grades
        in_grades = self._in_grades
        if in_grades is None:
            in_grades = staircase_grades(self._channels[name])
        heads = part.partial_output_shape[-2]
        return in_grades, np.repeat(grades, heads // len(grades))

    def _output_channels(self) -> int:
        return self._channels["_query_dense"]

    def _query_heads(self) -> int:
        raise NotImplementedError

    def set_grades(
        self,
        in_grades: np.ndarray,
        out_grades: np.ndarray,
        *,
        keeps_forbidden: bool = False,
    ) -> None:
        """Sets the layer's grades, once; see `TriangularKernel.set_grades`."""
        for part in self.parts().values():
            part.keeps_forbidden = keeps_forbidden
        TriangularKernel.set_grades(
            self, in_grades, out_grades, keeps_forbidden=keeps_forbidden
        )

    def _set_place(
        self, in_grades: np.ndarray, out_grades: np.ndarray, keeps_forbidden: bool
    ) -> None:
        self._in_grades, self._out_grades = in_grades, out_grades
        for name in (*self._of_inputs, self._of_heads):
            part = getattr(self, name, None)
            if part is not None:
                part._set_place(*self._grades_of(name, part), keeps_forbidden)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriMultiHeadAttention(_Heads, keras.layers.MultiHeadAttention):
    """Multi-head attention whose heads come and go as a whole.

    A `keras.layers.MultiHeadAttention` with masked kernels. Each head has a grade: see
    `awn_keras.layers.attention.head_grades`. With half of the channels, half of the
    heads are active, rounded down, but at least the first head. A head reads input
    channels whose grade is at most its own, and an output channel reads heads whose
    grade is at most its own. So the attention of a head and the value of a channel are
    the same at every width. If every grade is 0, the layer computes what
    `keras.layers.MultiHeadAttention` computes.

    A head does not read input channels that appear later than the head. So use at least
    two heads, better as many heads as widths.

    Args:
        num_heads: As in `keras.layers.MultiHeadAttention`.
        key_dim: As in Keras.
        value_dim: As in Keras.
        dropout: As in Keras.
        use_bias: As in Keras.
        output_shape: As in Keras. In an `AnyWidthModel` it must be a single number.
        attention_axes: As in Keras.
        sliding_window: As in Keras.
        flash_attention: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use the
            fan-in of each head, and of each output channel.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        use_gate: As in Keras.
        seed: As in Keras.
        in_grades: Grades of the channels of `query`, `value` and `key`,
            `(in_channels,)`, each in [0, 1]. `None` takes the paper's staircase. Give
            both grades or neither.
        out_grades: Grades of the output channels, `(out_channels,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `query`, `value` and `key`, each `(batch, ..., in_channels)` of a floating
        dtype; masks as in `keras.layers.MultiHeadAttention`.

    Output shape:
        `(batch, ..., out_channels)`, of the layer's compute dtype.

    Raises:
        ValueError: If only one of `in_grades` and `out_grades` is given, or if the
            grades do not fit the channels.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriMultiHeadAttention
        >>> x = np.ones((1, 10, 16), "float32")
        >>> TriMultiHeadAttention(num_heads=4, key_dim=4)(x, x).shape
        TensorShape([1, 10, 16])

    Reference:
        Vaswani et al., Attention Is All You Need (2017), section 3.2.2, with kernels as
        Vu et al., Any-Width Networks (2020), section 3.2, have them.
    """

    stock_class = keras.layers.MultiHeadAttention

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: Any = None,
        attention_axes: Any = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            dropout=dropout,
            use_bias=use_bias,
            output_shape=output_shape,
            attention_axes=attention_axes,
            flash_attention=flash_attention,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            seed=seed,
            **self._newer(sliding_window=sliding_window, use_gate=use_gate),
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)

    def narrowing_heads(self) -> int:
        """Number of heads: each head comes and goes alone."""
        return self.num_heads

    def _query_heads(self) -> int:
        return self.num_heads

    def _output_channels(self) -> int:
        return (self._output_shape or (super()._output_channels(),))[-1]


@keras.saving.register_keras_serializable(package="awn_keras")
class TriGroupQueryAttention(_Heads, keras.layers.GroupQueryAttention):
    """Grouped-query attention whose groups of heads come and go as a whole.

    A `keras.layers.GroupQueryAttention` with masked kernels. A group is all query heads
    that share a key head and a value head. Groups come and go as the heads of
    `TriMultiHeadAttention` do.

    Args:
        head_dim: As in `keras.layers.GroupQueryAttention`.
        num_query_heads: As in Keras.
        num_key_value_heads: As in Keras. The number of groups.
        dropout: As in Keras.
        use_bias: As in Keras.
        sliding_window: As in Keras.
        flash_attention: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use the
            fan-in of each head, and of each output channel.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        bias_constraint: As in Keras.
        use_gate: As in Keras.
        seed: As in Keras.
        in_grades: Grades of the channels of `query`, `value` and `key`, `(channels,)`,
            each in [0, 1]. `None` takes the paper's staircase. Give both
            grades or neither.
        out_grades: Grades of the output channels, `(channels,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `query` `(batch, target_steps, channels)`, `value` and `key` `(batch,
        source_steps, channels)`, of a floating dtype.

    Output shape:
        `(batch, target_steps, channels)`, of the layer's compute dtype.

    Raises:
        ValueError: If only one of `in_grades` and `out_grades` is given, or if the
            grades do not fit the channels.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriGroupQueryAttention
        >>> layer = TriGroupQueryAttention(
        ...     head_dim=4, num_query_heads=4, num_key_value_heads=2)
        >>> x = np.ones((1, 10, 16), "float32")
        >>> layer(x, x).shape
        TensorShape([1, 10, 16])

    Reference:
        Ainslie et al., GQA (2023), with kernels as Vu et al., Any-Width Networks
        (2020), section 3.2, have them.
    """

    stock_class = keras.layers.GroupQueryAttention

    def __init__(
        self,
        head_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        dropout: float = 0.0,
        use_bias: bool = True,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            head_dim=head_dim,
            num_query_heads=num_query_heads,
            num_key_value_heads=num_key_value_heads,
            dropout=dropout,
            use_bias=use_bias,
            flash_attention=flash_attention,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            seed=seed,
            **self._newer(sliding_window=sliding_window, use_gate=use_gate),
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)

    def narrowing_heads(self) -> int:
        """Number of groups, which is the number of key and value heads."""
        return self.num_key_value_heads

    def _query_heads(self) -> int:
        return self.num_query_heads


#: The Tri layer of each stock attention layer that has one.
TRI_ATTENTION: dict[type[keras.Layer], Any] = {
    layer_class.stock_class: layer_class
    for layer_class in (TriMultiHeadAttention, TriGroupQueryAttention)
}
