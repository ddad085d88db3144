"""Triangular recurrent layers: a unit's state is the same at every width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import unpack_grades
from awn_keras.errors import ArgumentError
from awn_keras.layers.base import TriangularKernel, gated
from awn_keras.layers.parts import NO_KERNELS, OfParts

_GRADES = ("in_grades", "out_grades")


# --------------------------------------------------------------------------- cells


def _masked_weight(name: str) -> property:
    """A weight of a cell that is read masked, whoever reads it.

    Stock layers hand `cell.kernel` to a loop over steps, or to a fused operation.
    """

    def read(cell: _TriangularCell) -> Any:
        return cell.acting(name)

    def write(cell: _TriangularCell, variable: Any) -> None:
        setattr(cell, f"_{name}", variable)

    return property(read, write)


class _Loop:
    """What a loop over steps uses; Keras would track what is in a dict of the cell."""

    def __init__(self) -> None:
        self.kernels: dict[str, Any] = {}


class _TriangularCell(TriangularKernel):
    """Mixin for a stock cell; comes before it."""

    kernel = _masked_weight("kernel")
    recurrent_kernel = _masked_weight("recurrent_kernel")

    @classmethod
    def adopt(cls, cell: Any, title: str) -> None:
        """Makes a cell triangular in its place, as Keras has tracked it.

        Args:
            cell: A stock cell, not built.
            title: How errors name the layer.
        """
        cell.__class__ = cls
        cell.layer_title = title
        cell.loop = _Loop()

    def _title(self) -> str:
        return self.layer_title

    def _variable(self, name: str) -> keras.Variable:
        return getattr(self, f"_{name}")

    def acting(self, name: str) -> Any:
        """A kernel as it acts: a tensor, masked."""
        if name in self.loop.kernels:
            return self.loop.kernels[name]
        return self.masked(self._variable(name), name)

    @contextmanager
    def masked_once(self) -> Iterator[None]:
        """A context in which kernels are masked already: a loop over steps."""
        self.loop.kernels = {name: self.acting(name) for name in self.kernels}
        try:
            yield
        finally:
            self.loop.kernels = {}


class _TriGRUCell(_TriangularCell, keras.layers.GRUCell):
    kernels = gated(3)


class _TriLSTMCell(_TriangularCell, keras.layers.LSTMCell):
    kernels = gated(4)


class _TriSimpleRNNCell(_TriangularCell, keras.layers.SimpleRNNCell):
    kernels = gated(1)


# -------------------------------------------------------------------------- layers


class _Stateless(OfParts):
    """Mixin for a recurrent layer that keeps no state from batch to batch."""

    def _check_stateless(self) -> None:
        if self.stateful:
            raise ArgumentError(
                f"{self._title()}: `stateful` must be False, as a state that stays "
                "would have another size at each width. Give whole sequences. "
                "Received: stateful=True"
            )


class _Recurrent(_Stateless):
    """Mixin for a stock recurrent layer; comes before it."""

    cell_class: type[_TriangularCell]

    def parts(self) -> dict[str, TriangularKernel]:
        """The cell, which holds the kernels."""
        return {"": self.cell}

    def _init_triangle(
        self,
        in_grades: Sequence[Any] | np.ndarray | None,
        out_grades: Sequence[Any] | np.ndarray | None,
    ) -> None:
        self._check_stateless()
        self.cell_class.adopt(self.cell, self._title())
        self.cell._init_triangle(in_grades, out_grades)

    def inner_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the loop over steps; see `keras.layers.RNN`."""
        with self.cell.masked_once():
            return super().inner_loop(*args, **kwargs)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriGRU(_Recurrent, keras.layers.GRU):
    """GRU whose units read only inputs and states of no larger grade.

    A `keras.layers.GRU` with the kernels `kernel * mask` and
    `recurrent_kernel * recurrent_mask`. In each of the three gates unit `s` reads
    input channel `t` if `in_grade[t] <= out_grade[s]`, and the state of unit `t` if
    `out_grade[t] <= out_grade[s]`. So the state of a unit is the same at every width,
    step by step. If every grade is 0 the layer is `keras.layers.GRU`.

    Args:
        units: As in `keras.layers.GRU`, and so are all arguments that are not
            listed here.
        activation: See `units`. In an `AnyWidthModel` it must act on each channel by
            itself (not softmax).
        recurrent_activation: Likewise.
        use_bias: See `units`.
        kernel_initializer: See `units`. `VarianceScaling` initializers use each unit's
            own fan-in.
        recurrent_initializer: See `units`. `Orthogonal` keeps the norm of what each
            unit reads.
        bias_initializer: See `units`.
        kernel_regularizer: See `units`.
        recurrent_regularizer: See `units`.
        bias_regularizer: See `units`.
        activity_regularizer: See `units`.
        kernel_constraint: Applied after each update, before the triangle.
        recurrent_constraint: Likewise.
        bias_constraint: See `units`.
        dropout: See `units`.
        recurrent_dropout: See `units`.
        seed: See `units`.
        return_sequences: See `units`.
        return_state: See `units`. In an `AnyWidthModel` it must be False.
        go_backwards: See `units`.
        stateful: False.
        unroll: See `units`.
        reset_after: See `units`.
        use_cudnn: See `units`.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` for `channel_grades(in_channels)`; then `out_grades` too.
        out_grades: Grades of the units, `(units,)`, likewise.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype. A mask `(batch, steps)`
        comes along, or is given as `mask`.

    Output shape:
        `(batch, units)`, with `return_sequences` `(batch, steps, units)`, of the
        layer's compute dtype.

    Raises:
        ValueError: If `stateful` is True, only one of the grades is given, or they do
            not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriGRU
        >>> TriGRU(16)(np.ones((1, 10, 8), "float32")).shape
        TensorShape([1, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, equation 7.
    """

    stock_class = keras.layers.GRU
    cell_class = _TriGRUCell
    kernels = _TriGRUCell.kernels

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        reset_after: bool = True,
        use_cudnn: str | bool = "auto",
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units=units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            reset_after=reset_after,
            use_cudnn=use_cudnn,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriLSTM(_Recurrent, keras.layers.LSTM):
    """LSTM whose units read only inputs and states of no larger grade.

    A `keras.layers.LSTM` with the kernels `kernel * mask` and
    `recurrent_kernel * recurrent_mask`, the same triangle in each of the four gates;
    see `TriGRU`. The carry of a unit is its own. If every grade is 0 the layer is
    `keras.layers.LSTM`.

    Args:
        units: As in `keras.layers.LSTM`, and so are all arguments that are not
            listed here.
        activation: See `units`. In an `AnyWidthModel` it must act on each channel by
            itself (not softmax).
        recurrent_activation: Likewise.
        use_bias: See `units`.
        kernel_initializer: See `units`. `VarianceScaling` initializers use each unit's
            own fan-in.
        recurrent_initializer: See `units`. `Orthogonal` keeps the norm of what each
            unit reads.
        bias_initializer: See `units`.
        unit_forget_bias: See `units`.
        kernel_regularizer: See `units`.
        recurrent_regularizer: See `units`.
        bias_regularizer: See `units`.
        activity_regularizer: See `units`.
        kernel_constraint: Applied after each update, before the triangle.
        recurrent_constraint: Likewise.
        bias_constraint: See `units`.
        dropout: See `units`.
        recurrent_dropout: See `units`.
        seed: See `units`.
        return_sequences: See `units`.
        return_state: See `units`. In an `AnyWidthModel` it must be False.
        go_backwards: See `units`.
        stateful: False.
        unroll: See `units`.
        use_cudnn: See `units`.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` for `channel_grades(in_channels)`; then `out_grades` too.
        out_grades: Grades of the units, `(units,)`, likewise.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype. A mask `(batch, steps)`
        comes along, or is given as `mask`.

    Output shape:
        `(batch, units)`, with `return_sequences` `(batch, steps, units)`, of the
        layer's compute dtype.

    Raises:
        ValueError: If `stateful` is True, only one of the grades is given, or they do
            not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriLSTM
        >>> TriLSTM(16)(np.ones((1, 10, 8), "float32")).shape
        TensorShape([1, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, equation 7.
    """

    stock_class = keras.layers.LSTM
    cell_class = _TriLSTMCell
    kernels = _TriLSTMCell.kernels

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: str | bool = "auto",
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units=units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            unit_forget_bias=unit_forget_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            use_cudnn=use_cudnn,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)


@keras.saving.register_keras_serializable(package="awn_keras")
class TriSimpleRNN(_Recurrent, keras.layers.SimpleRNN):
    """Simple recurrent layer whose units read only what has no larger grade.

    A `keras.layers.SimpleRNN` with the kernels `kernel * mask` and
    `recurrent_kernel * recurrent_mask`; see `TriGRU`. If every grade is 0 the layer is
    `keras.layers.SimpleRNN`.

    Args:
        units: As in `keras.layers.SimpleRNN`, and so are all arguments that are not
            listed here.
        activation: See `units`. In an `AnyWidthModel` it must act on each channel by
            itself (not softmax).
        use_bias: See `units`.
        kernel_initializer: See `units`. `VarianceScaling` initializers use each unit's
            own fan-in.
        recurrent_initializer: See `units`. `Orthogonal` keeps the norm of what each
            unit reads.
        bias_initializer: See `units`.
        kernel_regularizer: See `units`.
        recurrent_regularizer: See `units`.
        bias_regularizer: See `units`.
        activity_regularizer: See `units`.
        kernel_constraint: Applied after each update, before the triangle.
        recurrent_constraint: Likewise.
        bias_constraint: See `units`.
        dropout: See `units`.
        recurrent_dropout: See `units`.
        return_sequences: See `units`.
        return_state: See `units`. In an `AnyWidthModel` it must be False.
        go_backwards: See `units`.
        stateful: False.
        unroll: See `units`.
        seed: See `units`.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` for `channel_grades(in_channels)`; then `out_grades` too.
        out_grades: Grades of the units, `(units,)`, likewise.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype. A mask `(batch, steps)`
        comes along, or is given as `mask`.

    Output shape:
        `(batch, units)`, with `return_sequences` `(batch, steps, units)`, of the
        layer's compute dtype.

    Raises:
        ValueError: If `stateful` is True, only one of the grades is given, or they do
            not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriSimpleRNN
        >>> TriSimpleRNN(16)(np.ones((1, 10, 8), "float32")).shape
        TensorShape([1, 16])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, equation 7.
    """

    stock_class = keras.layers.SimpleRNN
    cell_class = _TriSimpleRNNCell
    kernels = _TriSimpleRNNCell.kernels

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        seed: int | None = None,
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units=units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            seed=seed,
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)


#: The Tri layer of each stock recurrent layer that has one.
TRI_RECURRENT: dict[type[keras.Layer], Any] = {
    layer_class.stock_class: layer_class
    for layer_class in (TriGRU, TriLSTM, TriSimpleRNN)
}


def _tri(layer: Any, title: str) -> Any:
    """The Tri layer of a stock recurrent layer, or the layer if it is one."""
    if layer is None or isinstance(layer, _Recurrent):
        return layer
    tri_class = TRI_RECURRENT.get(type(layer))
    if tri_class is None:
        names = ", ".join(stock.__name__ for stock in TRI_RECURRENT)
        raise ArgumentError(
            f"{title}: `layer` and `backward_layer` must be of {names}, or their Tri "
            f"layers. Received: {layer.name!r} ({type(layer).__name__})"
        )
    return tri_class.from_config(layer.get_config())


def _plain(layer: Any) -> Any:
    """The stock layer of a Tri layer, not built."""
    config = layer.get_config()
    return layer.stock_class.from_config(
        {name: value for name, value in config.items() if name not in _GRADES}
    )


@keras.saving.register_keras_serializable(package="awn_keras")
class TriBidirectional(_Stateless, keras.layers.Bidirectional):
    """A recurrent layer in both directions, each triangular.

    Unit `s` of the backward layer comes and goes with unit `s` of the forward layer,
    so that `"concat"` gives channels of the grades of the units, twice. If every grade
    is 0 the layer is `keras.layers.Bidirectional`.

    Args:
        layer: A `keras.layers.GRU`, `LSTM` or `SimpleRNN`, or its Tri layer; its
            arguments count, its weights do not.
        merge_mode: `"concat"`, `"sum"`, `"mul"` or `"ave"`.
        weights: As in `keras.layers.Bidirectional`.
        backward_layer: See `weights`; of the class of `layer`, with as many units.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` for `channel_grades(in_channels)`; then `out_grades` too.
        out_grades: Grades of the output channels, likewise: `(units,)`, with
            `"concat"` `(2 * units,)`, of which both halves are equal.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype. A mask `(batch, steps)`
        comes along, or is given as `mask`.

    Output shape:
        `(batch, units)`, with `"concat"` `(batch, 2 * units)`; with
        `return_sequences` of `layer` there are steps between. Of the layer's compute
        dtype.

    Raises:
        ValueError: If `merge_mode` is none of these, the layers are of other classes or
            differ in class or units, `stateful` is True, only one of the grades is
            given, or they do not fit the channels.
        NotImplementedError: If LoRA or Keras quantization is asked for.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import TriBidirectional
        >>> layer = TriBidirectional(keras.layers.GRU(16))
        >>> layer(np.ones((1, 10, 8), "float32")).shape
        TensorShape([1, 32])

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2, equation 7.
    """

    stock_class = keras.layers.Bidirectional
    kernels = NO_KERNELS

    def __init__(
        self,
        layer: keras.Layer,
        merge_mode: str = "concat",
        weights: Any = None,
        backward_layer: keras.Layer | None = None,
        *,
        in_grades: Sequence[Any] | np.ndarray | None = None,
        out_grades: Sequence[Any] | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        title = f"{type(self).__name__} '{kwargs.get('name', 'tri_bidirectional')}'"
        if merge_mode is None:
            raise ArgumentError(
                f"{title}: `merge_mode` must be 'concat', 'sum', 'mul' or 'ave', as an "
                "any-width network takes one tensor of each layer. Received: "
                "merge_mode=None"
            )
        super().__init__(
            layer=_tri(layer, title),
            merge_mode=merge_mode,
            weights=weights,
            backward_layer=_tri(backward_layer, title),
            **kwargs,
        )
        self._init_triangle(in_grades, out_grades)

    def parts(self) -> dict[str, TriangularKernel]:
        """The cells of both directions."""
        return {
            "forward_": self.forward_layer.cell,
            "backward_": self.backward_layer.cell,
        }

    @property
    def copies(self) -> int:
        """How often each unit is among the output channels."""
        return 2 if self.merge_mode == "concat" else 1

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, float64; `None` for the standard ones."""
        grades = super().out_grades
        return None if grades is None else np.tile(grades, self.copies)

    def _init_triangle(
        self,
        in_grades: Sequence[Any] | np.ndarray | None,
        out_grades: Sequence[Any] | np.ndarray | None,
    ) -> None:
        forward, backward = self.forward_layer, self.backward_layer
        if type(forward) is not type(backward) or forward.units != backward.units:
            raise ArgumentError(
                f"{self._title()}: `layer` and `backward_layer` must be of one class, "
                "with as many units. Received: "
                f"{forward.stock_class.__name__}({forward.units}) and "
                f"{backward.stock_class.__name__}({backward.units})"
            )
        for cell in self.parts().values():
            cell.layer_title = self._title()
            cell._init_triangle(in_grades, self._of_units(out_grades))

    def _of_units(self, out_grades: Any) -> Any:
        """Grades of the units, of which the output channels are copies."""
        grades = unpack_grades(out_grades)
        if grades is None:
            return None
        units = grades[: len(grades) // self.copies]
        if not np.array_equal(np.tile(units, self.copies), grades):
            raise ArgumentError(
                f"{self._title()}: both halves of `out_grades` must be equal, those of "
                f"the units, twice. Received: {grades.tolist()}"
            )
        return units

    def set_grades(
        self,
        in_grades: np.ndarray,
        out_grades: np.ndarray,
        *,
        keeps_forbidden: bool = False,
    ) -> None:
        """Gives the layer its place in an any-width model, once; see the base."""
        units = self._of_units(np.asarray(out_grades, float))
        super().set_grades(in_grades, units, keeps_forbidden=keeps_forbidden)

    def get_config(self) -> dict[str, Any]:
        """Returns the parent's config, with stock layers inside, and the grades."""
        config = super().get_config()
        for name in ("forward_layer", "backward_layer"):
            inner = keras.saving.serialize_keras_object(_plain(getattr(self, name)))
            config[name.removeprefix("forward_")] = inner
        return config
