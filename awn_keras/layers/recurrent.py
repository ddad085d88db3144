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
    """A kernel of a cell that every reader gets masked.

    Stock layers pass `cell.kernel` to a loop over steps or to a fused operation, so
    there is no single call in which to apply the mask.
    """

    # `build` of the stock cell assigns the variable to `kernel`. The property keeps the
    # variable under another name, and gives readers the masked tensor.
    def read(cell: _TriangularCell) -> Any:
        return cell.acting(name)

    def write(cell: _TriangularCell, variable: Any) -> None:
        setattr(cell, f"_{name}", variable)

    return property(read, write)


class _Loop:
    """Masked kernels for one loop over steps.

    A plain class, because Keras would track a dict that is an attribute of the cell.
    """

    def __init__(self) -> None:
        self.kernels: dict[str, Any] = {}


class _TriangularCell(TriangularKernel):
    """Mixin for a stock cell. Put it first among the bases."""

    kernel = _masked_weight("kernel")
    recurrent_kernel = _masked_weight("recurrent_kernel")

    @classmethod
    def adopt(cls, cell: Any, title: str) -> None:
        """Makes a cell triangular by changing its class.

        The layer keeps the same object, which Keras already tracks.

        Args:
            cell: A stock cell, not built.
            title: Name of the layer for errors.
        """
        cell.__class__ = cls
        cell.layer_title = title
        cell.loop = _Loop()

    def _title(self) -> str:
        return self.layer_title

    def _variable(self, name: str) -> keras.Variable:
        return getattr(self, f"_{name}")

    def acting(self, name: str) -> Any:
        """Returns a kernel as it acts: a masked tensor."""
        if name in self.loop.kernels:
            return self.loop.kernels[name]
        return self.masked(self._variable(name), name)

    @contextmanager
    def masked_once(self) -> Iterator[None]:
        """A context for a loop over steps, in which each kernel is masked only once."""
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
    """Mixin for a recurrent layer that keeps no state between batches."""

    def _check_stateless(self) -> None:
        if self.stateful:
            raise ArgumentError(
                f"{self._title()}: `stateful` must be False, because a kept state "
                "would have another size at each width. Give whole sequences. "
                "Received: stateful=True"
            )


class _Recurrent(_Stateless):
    """Mixin for a stock recurrent layer. Put it first among the bases."""

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
    """GRU: a unit reads only inputs and states of at most its own grade.

    A `keras.layers.GRU` with the kernels `kernel * mask` and
    `recurrent_kernel * recurrent_mask`. In each of the three gates unit `s` reads
    input channel `t` if `in_grade[t] <= out_grade[s]`, and the state of unit `t` if
    `out_grade[t] <= out_grade[s]`. So the state of a unit at each step is the same at
    every width. If every grade is 0, the layer computes what `keras.layers.GRU`
    computes.

    Args:
        units: As in `keras.layers.GRU`.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        recurrent_activation: As for `activation`.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use each unit's
            own fan-in.
        recurrent_initializer: As in Keras. `Orthogonal` keeps the norm of what each
            unit reads.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        recurrent_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        recurrent_constraint: As for `kernel_constraint`.
        bias_constraint: As in Keras.
        dropout: As in Keras.
        recurrent_dropout: As in Keras.
        seed: As in Keras.
        return_sequences: As in Keras.
        return_state: As in Keras. In an `AnyWidthModel` it must be False.
        go_backwards: As in Keras.
        stateful: False.
        unroll: As in Keras.
        reset_after: As in Keras.
        use_cudnn: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase. Give both grades or neither.
        out_grades: Grades of the units, `(units,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype. A mask `(batch, steps)`
        comes with the inputs, or as the argument `mask`.

    Output shape:
        `(batch, units)`, with `return_sequences` `(batch, steps, units)`, of the
        layer's compute dtype.

    Raises:
        ValueError: If `stateful` is True, if only one of `in_grades` and `out_grades`
            is given, or if the grades do not fit the channels.
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
    """LSTM: a unit reads only inputs and states of at most its own grade.

    A `keras.layers.LSTM` with the kernels `kernel * mask` and
    `recurrent_kernel * recurrent_mask`, with one triangle for all four gates;
    see `TriGRU`. A unit reads only its own carry. If every grade is 0, the layer
    computes what `keras.layers.LSTM` computes.

    Args:
        units: As in `keras.layers.LSTM`.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        recurrent_activation: As for `activation`.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use each unit's
            own fan-in.
        recurrent_initializer: As in Keras. `Orthogonal` keeps the norm of what each
            unit reads.
        bias_initializer: As in Keras.
        unit_forget_bias: As in Keras.
        kernel_regularizer: As in Keras.
        recurrent_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        recurrent_constraint: As for `kernel_constraint`.
        bias_constraint: As in Keras.
        dropout: As in Keras.
        recurrent_dropout: As in Keras.
        seed: As in Keras.
        return_sequences: As in Keras.
        return_state: As in Keras. In an `AnyWidthModel` it must be False.
        go_backwards: As in Keras.
        stateful: False.
        unroll: As in Keras.
        use_cudnn: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase. Give both grades or neither.
        out_grades: Grades of the units, `(units,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype. A mask `(batch, steps)`
        comes with the inputs, or as the argument `mask`.

    Output shape:
        `(batch, units)`, with `return_sequences` `(batch, steps, units)`, of the
        layer's compute dtype.

    Raises:
        ValueError: If `stateful` is True, if only one of `in_grades` and `out_grades`
            is given, or if the grades do not fit the channels.
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
    """Simple RNN: a unit reads only inputs and states of at most its own grade.

    A `keras.layers.SimpleRNN` with the kernels `kernel * mask` and
    `recurrent_kernel * recurrent_mask`; see `TriGRU`. If every grade is 0, the layer
    computes what `keras.layers.SimpleRNN` computes.

    Args:
        units: As in `keras.layers.SimpleRNN`.
        activation: As in Keras. In an `AnyWidthModel` it must act on each
            channel alone: softmax is refused.
        use_bias: As in Keras.
        kernel_initializer: As in Keras. `VarianceScaling` initializers use each unit's
            own fan-in.
        recurrent_initializer: As in Keras. `Orthogonal` keeps the norm of what each
            unit reads.
        bias_initializer: As in Keras.
        kernel_regularizer: As in Keras.
        recurrent_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        activity_regularizer: As in Keras.
        kernel_constraint: Applied after each update, before the triangle.
        recurrent_constraint: As for `kernel_constraint`.
        bias_constraint: As in Keras.
        dropout: As in Keras.
        recurrent_dropout: As in Keras.
        return_sequences: As in Keras.
        return_state: As in Keras. In an `AnyWidthModel` it must be False.
        go_backwards: As in Keras.
        stateful: False.
        unroll: As in Keras.
        seed: As in Keras.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase. Give both grades or neither.
        out_grades: Grades of the units, `(units,)`, each in [0, 1].
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype. A mask `(batch, steps)`
        comes with the inputs, or as the argument `mask`.

    Output shape:
        `(batch, units)`, with `return_sequences` `(batch, steps, units)`, of the
        layer's compute dtype.

    Raises:
        ValueError: If `stateful` is True, if only one of `in_grades` and `out_grades`
            is given, or if the grades do not fit the channels.
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
    """Makes the Tri layer of a stock recurrent layer; returns a Tri layer as it is."""
    if layer is None or isinstance(layer, _Recurrent):
        return layer
    tri_class = TRI_RECURRENT.get(type(layer))
    if tri_class is None:
        names = ", ".join(stock.__name__ for stock in TRI_RECURRENT)
        raise ArgumentError(
            f"{title}: `layer` and `backward_layer` must be of {names}, or of their "
            f"Tri layers. Received: {layer.name!r} ({type(layer).__name__})"
        )
    return tri_class.from_config(layer.get_config())


def _plain(layer: Any) -> Any:
    """Makes the stock layer of a Tri layer, not built."""
    config = layer.get_config()
    return layer.stock_class.from_config(
        {name: value for name, value in config.items() if name not in _GRADES}
    )


@keras.saving.register_keras_serializable(package="awn_keras")
class TriBidirectional(_Stateless, keras.layers.Bidirectional):
    """A triangular recurrent layer that runs in both directions.

    Unit `s` of the backward layer and unit `s` of the forward layer have equal grades
    and come and go together. So with `"concat"` the output channels have the grades of
    the units, twice. If every grade is 0, the layer computes what
    `keras.layers.Bidirectional` computes.

    Args:
        layer: A `keras.layers.GRU`, `LSTM` or `SimpleRNN`, or its Tri layer. The
            layer's arguments are copied, its weights are not.
        merge_mode: `"concat"`, `"sum"`, `"mul"` or `"ave"`.
        weights: As in `keras.layers.Bidirectional`.
        backward_layer: As in Keras. It must have the class of `layer` and as many
            units.
        in_grades: Grades of the input channels, `(in_channels,)`, each in [0, 1].
            `None` takes the paper's staircase. Give both grades or neither.
        out_grades: Grades of the output channels, each in [0, 1]: `(units,)`, or `(2 *
            units,)` with two equal halves for `"concat"`.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        `(batch, steps, in_channels)`, of a floating dtype. A mask `(batch, steps)`
        comes with the inputs, or as the argument `mask`.

    Output shape:
        `(batch, units)`, or `(batch, 2 * units)` for `"concat"`, of the layer's compute
        dtype. If `layer` has `return_sequences`, the shape is `(batch, steps, ...)`.

    Raises:
        ValueError: If `merge_mode` is not one of these modes, if a layer has another
            class, if the two layers differ in class or units, if `stateful` is True, if
            only one of `in_grades` and `out_grades` is given, or if the grades do not
            fit the channels.
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
                f"{title}: `merge_mode` must be 'concat', 'sum', 'mul' or 'ave', "
                "because an any-width network needs one output tensor from each layer. "
                "Received: merge_mode=None"
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
        """Number of output channels for each unit."""
        return 2 if self.merge_mode == "concat" else 1

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, float64; `None` for the paper's staircase."""
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
                f"{self._title()}: `layer` and `backward_layer` must have the same "
                "class and the same number of units. Received: "
                f"{forward.stock_class.__name__}({forward.units}) and "
                f"{backward.stock_class.__name__}({backward.units})"
            )
        for cell in self.parts().values():
            cell.layer_title = self._title()
            cell._init_triangle(in_grades, self._of_units(out_grades))

    def _of_units(self, out_grades: Any) -> Any:
        """Grades of the units; the output channels hold them `copies` times."""
        grades = unpack_grades(out_grades)
        if grades is None:
            return None
        units = grades[: len(grades) // self.copies]
        if not np.array_equal(np.tile(units, self.copies), grades):
            raise ArgumentError(
                f"{self._title()}: the two halves of `out_grades` must be equal, "
                "because each holds the grades of the units. Received: "
                f"{grades.tolist()}"
            )
        return units

    def set_grades(
        self,
        in_grades: np.ndarray,
        out_grades: np.ndarray,
        *,
        keeps_forbidden: bool = False,
    ) -> None:
        """Sets the layer's grades, once; see `TriangularKernel.set_grades`."""
        units = self._of_units(np.asarray(out_grades, float))
        super().set_grades(in_grades, units, keeps_forbidden=keeps_forbidden)

    def get_config(self) -> dict[str, Any]:
        """Returns the parent's config, with stock layers inside, and the grades."""
        config = super().get_config()
        for name in ("forward_layer", "backward_layer"):
            inner = keras.saving.serialize_keras_object(_plain(getattr(self, name)))
            config[name.removeprefix("forward_")] = inner
        return config
