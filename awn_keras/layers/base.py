"""The base of all Tri layers: the triangle on the kernel of a stock Keras layer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import LowerTriangular, apply_mask, pack_grades
from awn_keras.errors import ArgumentError, UnsupportedError


@dataclass(frozen=True)
class KernelAxes:
    """The channel axes of a kernel that mixes channels.

    Args:
        inputs: Axis of the input channels, counted from the last axis, which is -1.
        outputs: Axis of the output channels, counted from the last axis.
        depth_multiplier: Name of the layer's attribute that holds the number of
            neighbouring entries of the input axis for each input channel. `None` means
            a single entry.
        constraint: Name of the layer's attribute that holds the user's constraint.
        gates: How many times the output axis repeats all output channels. A recurrent
            layer repeats them for each gate.
        recurrent: Whether the inputs are the layer's own outputs of the previous step.
    """

    inputs: int = -2
    outputs: int = -1
    depth_multiplier: str | None = None
    constraint: str = "kernel_constraint"
    gates: int = 1
    recurrent: bool = False


_LAST = (-2, -1)
#: Kernels of stock layers, by the name of the weight.
PLAIN = {"kernel": KernelAxes()}
TRANSPOSED = {"kernel": KernelAxes(inputs=-1, outputs=-2)}
SEPARABLE = {
    "pointwise_kernel": KernelAxes(
        depth_multiplier="depth_multiplier", constraint="pointwise_constraint"
    )
}


def gated(gates: int) -> dict[str, KernelAxes]:
    """The kernels of a recurrent layer, `(in, gates * units)` and `(units, ...)`."""
    return {
        "kernel": KernelAxes(gates=gates),
        "recurrent_kernel": KernelAxes(
            constraint="recurrent_constraint", gates=gates, recurrent=True
        ),
    }


class TriangularInitializer(keras.initializers.Initializer):
    """Draws a triangular kernel in which each output channel has its own fan-in.

    `VarianceScaling` initializers (Glorot, He, LeCun) count only the input channels
    that the output channel may read. If they counted all input channels, the first
    output channels, which read few, would get weights that are too small. `Orthogonal`
    keeps the norm of each output channel's entries. The masked kernel is not orthogonal
    (an orthogonal triangular matrix is diagonal), but no channel gets weights that are
    too small. Other initializers keep their own scale.

    Args:
        inner: The user's initializer.
        triangle: The kernel's constraint.
    """

    def __init__(
        self, inner: keras.initializers.Initializer, triangle: LowerTriangular
    ) -> None:
        self.inner = inner
        self.triangle = triangle
        self.checksum: int | None = None

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Draws a kernel and stores its checksum."""
        mask = self.triangle.mask(shape)
        axes = self.triangle.in_axis, self.triangle.out_axis
        kernel = self.inner(shape, dtype=dtype)
        scale = keras.ops.convert_to_tensor(
            np.where(mask, _fan_scale(self.inner, mask, axes, shape), 0.0), kernel.dtype
        )
        whole, kernel = kernel, kernel * scale
        if isinstance(self.inner, keras.initializers.Orthogonal):
            kernel = _with_norms_of(whole, kernel, axes[1])
        try:
            self.checksum = checksum(kernel)
        except TypeError:  # JAX traces the build with abstract values, then draws again
            self.checksum = None
        return kernel


def _fan_scale(
    initializer: keras.initializers.Initializer,
    mask: np.ndarray,
    axes: tuple[int, int],
    shape: Sequence[int],
) -> np.ndarray:
    """For each output channel: the wanted standard deviation over the drawn one.

    A channel that reads all inputs keeps the scale of the plain layer. (For a
    transposed kernel, Keras swaps fan-in and fan-out.)

    Args:
        initializer: The initializer that draws the kernel.
        mask: The allowed entries of the kernel.
        axes: Axes of the input and the output channels, counted from the last axis.
        shape: The kernel's shape.
    """
    mode = getattr(initializer, "mode", None)
    if (
        not isinstance(initializer, keras.initializers.VarianceScaling)
        or mode == "fan_out"
    ):
        return np.ones([1] * mask.ndim)
    in_axis, out_axis = axes
    # The window (rows times cols) is a factor of all fans, and cancels. A channel of an
    # einsum may have several entries; `EinsumDense` tells its initializer their axes.
    of_fan_in, of_fan_out = (
        math.prod(shape[i] for i in given) / shape[axis] if given else 1.0
        for given, axis in zip(_einsum_axes(initializer), axes, strict=True)
    )
    fan_out = of_fan_out * mask.shape[out_axis] if mode == "fan_avg" else 0
    fan_in = of_fan_in * mask.sum(axis=in_axis, keepdims=True)
    whole = of_fan_in * mask.shape[in_axis]
    # An output channel that reads nothing has no entry, so its scale does not matter.
    return np.sqrt((whole + fan_out) / np.maximum(fan_in + fan_out, 1))


def _einsum_axes(initializer: keras.initializers.Initializer) -> tuple[Any, Any]:
    """Axes of a kernel that `EinsumDense` sums over, and those that it makes."""
    names = ("input_axes", "output_axes")
    into, out = (getattr(initializer, name, None) for name in names)
    return into, out


def _with_norms_of(whole: Any, kernel: Any, out_axis: int) -> Any:
    """Scales the entries of each output channel to their norm in the whole kernel."""
    rank = len(kernel.shape)
    axes = [axis for axis in range(rank) if axis != rank + out_axis]
    squares = (
        keras.ops.sum(keras.ops.square(x), axis=axes, keepdims=True)
        for x in (whole, kernel)
    )
    wanted, norms = (keras.ops.sqrt(x) for x in squares)
    # For a channel that reads nothing, both norms are 0 and the entries stay 0.
    return kernel * (wanted / keras.ops.maximum(norms, keras.config.epsilon()))


class TriangularRegularizer(keras.regularizers.Regularizer):
    """Regularizes the masked kernel only.

    A kernel that was assigned or averaged may hold values in forbidden entries. These
    values do not act, so they must not count in the penalty.

    Args:
        inner: The user's regularizer.
        layer: The layer whose kernel it is.
        name: Name of the kernel.
    """

    def __init__(
        self,
        inner: keras.regularizers.Regularizer,
        layer: TriangularKernel,
        name: str,
    ) -> None:
        self.inner = inner
        self.layer = layer
        self.name = name

    def __call__(self, x: Any) -> Any:
        """Returns the penalty of the masked kernel, a scalar."""
        return self.inner(self.layer.masked(x, self.name))


def checksum(kernel: Any) -> int:
    """Checksum of a kernel; it changes if the kernel is trained or loaded."""
    array = keras.ops.convert_to_numpy(kernel)
    return zlib.crc32(array.tobytes())


class TriLayer(keras.Layer):
    """Mixin for a layer that an any-width model gives grades. Put it first.

    Subclasses take their grades as last, keyword-only arguments.
    """

    #: Names of the arguments and attributes that hold grades.
    place_arguments: tuple[str, ...] = ("in_grades", "out_grades")

    #: The stock class that replaces this class in a slimmed model.
    stock_class: type[keras.layers.Layer]

    @property
    def in_grades(self) -> np.ndarray | None:
        """Grades of the input channels, float64; `None` before they are set."""
        raise NotImplementedError

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, float64; `None` before they are set."""
        raise NotImplementedError

    def set_grades(
        self,
        in_grades: np.ndarray,
        out_grades: np.ndarray,
        *,
        keeps_forbidden: bool = False,
    ) -> None:
        """Sets the layer's grades, once. `AnyWidthModel` calls this method.

        Args:
            in_grades: Grades of the input channels, `(in_channels,)`.
            out_grades: Grades of the output channels, `(out_channels,)`.
            keeps_forbidden: Whether to keep the values of forbidden entries, which then
                act only inside `forbidden_entries_act`.

        Raises:
            ValueError: If the layer already has other grades.
        """
        grades = (np.asarray(in_grades, float), np.asarray(out_grades, float))
        if self.in_grades is None or self.out_grades is None:
            self._set_place(*grades, keeps_forbidden)
        elif not (
            np.array_equal(grades[0], self.in_grades)
            and np.array_equal(grades[1], self.out_grades)
        ):
            raise ArgumentError(
                f"{self._title()} already has other grades: it is part of a model with "
                "other widths (min_width, divisor, widths_grid, staircase or stages), "
                "or is called at two places with different grades. Build a new layer. "
                "To copy a model, use `AnyWidthModel.from_config(model.get_config())`."
            )

    def _set_place(
        self, in_grades: np.ndarray, out_grades: np.ndarray, keeps_forbidden: bool
    ) -> None:
        """Stores the grades; `set_grades` calls this once."""
        raise NotImplementedError

    def cuts_weights(self) -> bool:
        """Whether the grades change what the layer computes at full width."""
        raise NotImplementedError

    def stock_call(
        self, active: np.ndarray, *, alike: bool = False, **changes: Any
    ) -> Callable[[Any], Any] | None:
        """Returns a function that computes some of the channels, if one is needed.

        Args:
            active: bool array `(out_channels,)`: the active channels.
            alike: Whether to use the same operations for every width.
            **changes: Arguments of the stock layers' constructors: `name`, `dtype`.

        Returns:
            `None` if a layer of `stock_class` computes the channels. Otherwise a
            function from a tensor of the active channels to their outputs. It consists
            of stock layers, with their weights, and of `keras.ops`.
        """
        return None

    def _check_pair(self, in_grades: Any, out_grades: Any) -> None:
        """Checks that the caller gave both grades, or neither."""
        if (in_grades is None) != (out_grades is None):
            raise ArgumentError(
                f"{self._title()}: give both `in_grades` and `out_grades`, or "
                f"neither. Received: in_grades={in_grades}, out_grades={out_grades}"
            )

    def _title(self) -> str:
        return f"{type(self).__name__} '{self.name}'"

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the stock layer, and the grades, run-length encoded."""
        return {
            **super().get_config(),
            **{name: pack_grades(getattr(self, name)) for name in self.place_arguments},
        }


class TriangularKernel(TriLayer):
    """Mixin for a Keras layer with kernels that mix channels. Put it first.

    A subclass passes `in_grades` and `out_grades` to `_init_triangle` after the
    constructor of the stock layer, and applies `masked` to each kernel in its forward
    pass. A subclass with several kernels, or whose kernel is not a `kernel` of shape
    `(..., in, out)`, also sets `kernels`.
    """

    #: The masked weights, by name. Each name is also an attribute of the layer.
    kernels: Mapping[str, KernelAxes] = PLAIN

    #: Whether to keep and save the values of forbidden entries, for a training in which
    #: they fade out.
    keeps_forbidden = False

    def _init_triangle(
        self,
        in_grades: Sequence[Any] | np.ndarray | None,
        out_grades: Sequence[Any] | np.ndarray | None,
    ) -> None:
        self._check_pair(in_grades, out_grades)
        if getattr(self, "data_format", None) == "channels_first":
            raise ArgumentError(
                f"{self._title()}: `data_format` must be 'channels_last', because "
                "TFLite needs this order. Received: data_format='channels_first'"
            )
        if getattr(self, "lora_rank", None):
            raise self._no_lora()
        quantized = isinstance(
            self.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy
        )
        if quantized or getattr(self, "quantization_config", None) is not None:
            raise self._no_quantization()
        self._triangles = self._make_triangles(in_grades, out_grades)
        self._masks: dict[str, np.ndarray] = {}
        self._drawn: dict[str, TriangularInitializer] = {}

    def _make_triangles(
        self,
        in_grades: Sequence[Any] | np.ndarray | None,
        out_grades: Sequence[Any] | np.ndarray | None,
    ) -> dict[str, LowerTriangular]:
        """Makes the constraint of each kernel; it contains the user's constraint."""
        return {
            name: LowerTriangular(
                out_grades if axes.recurrent else in_grades,
                out_grades,
                getattr(self, axes.constraint, None),
                in_axis=axes.inputs,
                out_axis=axes.outputs,
                depth_multiplier=getattr(self, axes.depth_multiplier or "", 1),
                groups=getattr(self, "groups", 1),
                gates=axes.gates,
            )
            for name, axes in self.kernels.items()
        }

    def parts(self) -> dict[str, TriangularKernel]:
        """Returns the objects that hold the kernels: this layer, or its inner layers.

        This is a method because Keras would save the value of a property as a part of
        the layer.

        Returns:
            A dict from the prefix of the kernels' names to the object.
        """
        return {"": self}

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The mask of each built kernel: bool, broadcasts against the kernel."""
        return self._masks

    @property
    def in_grades(self) -> np.ndarray | None:
        """Grades of the input channels, float64; `None` for the paper's staircase."""
        return next(iter(self._triangles.values())).in_grades

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, float64; `None` for the paper's staircase."""
        return next(iter(self._triangles.values())).out_grades

    @property
    def triangular_variables(self) -> dict[str, keras.Variable]:
        """The variables under a mask, by name.

        Raises:
            AttributeError: If the layer is not built.
        """
        if not self.built:
            names = " and ".join(f"`{name}`" for name in self.kernels)
            raise AttributeError(
                f"{self._title()} is not built: it has no {names} yet. Call it on a "
                "tensor, or `layer.build(input_shape)`, first."
            )
        return {name: self._variable(name) for name in self.kernels}

    def _variable(self, name: str) -> keras.Variable:
        return getattr(self, name)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Adds a weight as in Keras.

        A kernel gets an initializer, a constraint and a regularizer that know its
        triangle.
        """
        name = kwargs.get("name")
        if name is None or name not in self.kernels:
            return super().add_weight(*args, **kwargs)
        triangle = self._triangles[name]
        self.masks[name] = triangle.mask(kwargs["shape"])
        self._drawn[name] = TriangularInitializer(kwargs["initializer"], triangle)
        kwargs.update(initializer=self._drawn[name], constraint=triangle)
        if kwargs.get("regularizer") is not None:
            kwargs["regularizer"] = TriangularRegularizer(
                kwargs["regularizer"], self, name
            )
        return super().add_weight(*args, **kwargs)

    def masked(self, kernel: Any, name: str | None = None) -> Any:
        """Returns a kernel with its forbidden entries at zero.

        In a training step of a model with `fade`, forbidden entries keep a share of
        their value. The constraint alone is not enough, because the optimizer applies
        it only after an update. A kernel that was just created, assigned or averaged
        may have values in forbidden entries.

        Args:
            kernel: The kernel, or a tensor of its shape.
            name: Name of the kernel in `kernels`. `None` takes the first.

        Returns:
            A tensor of the shape and dtype of `kernel`; `kernel` itself if nothing is
            forbidden.
        """
        mask = self.masks.get(name or next(iter(self.kernels)))
        if mask is None or mask.all():  # `None` before the layer is built
            return kernel
        kernel = keras.ops.convert_to_tensor(kernel)
        return apply_mask(mask, kernel, acting=True)

    def apply_masks(self) -> None:
        """Sets the forbidden entries of the kernel variables to zero."""
        for part in self.parts().values():
            for name, kernel in part.triangular_variables.items():
                kernel.assign(part.masked(kernel, name))

    def masked_weights(self) -> list[Any]:
        """Returns the layer's `weights`, with forbidden entries at zero.

        Returns:
            A variable or tensor for each of `weights`.
        """
        if not self.built:
            return self.weights
        masked = {
            id(kernel): part.masked(kernel, name)
            for part in self.parts().values()
            for name, kernel in part.triangular_variables.items()
        }
        return [masked.get(id(weight), weight) for weight in self.weights]

    def masked_kernel(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first kernel, masked, and the mask of its channels.

        Returns:
            The kernel, an array `(..., in, out)` whatever the layer's own order of
            axes, and the mask, a bool array `(in, out)`.

        Raises:
            AttributeError: If the layer is not built.
        """
        name, variable = next(iter(self.triangular_variables.items()))
        kernel = keras.ops.convert_to_numpy(self.masked(variable, name))
        axes = self.kernels[name].inputs, self.kernels[name].outputs
        mask = np.moveaxis(np.broadcast_to(self.masks[name], kernel.shape), axes, _LAST)
        return np.moveaxis(kernel, axes, _LAST), mask[(0,) * (mask.ndim - 2)]

    def set_grades(
        self,
        in_grades: np.ndarray,
        out_grades: np.ndarray,
        *,
        keeps_forbidden: bool = False,
    ) -> None:
        """Sets the layer's grades, once; see `TriLayer.set_grades`.

        A kernel that was neither trained nor loaded is drawn again, for its new fan-in.
        Any other kernel is kept and masked.
        """
        self.keeps_forbidden = keeps_forbidden
        super().set_grades(in_grades, out_grades, keeps_forbidden=keeps_forbidden)

    def _set_place(
        self, in_grades: np.ndarray, out_grades: np.ndarray, keeps_forbidden: bool
    ) -> None:
        self._triangles = self._make_triangles(in_grades, out_grades)
        if not self.built:
            return
        for name, kernel in self.triangular_variables.items():
            drawn, triangle = self._drawn[name], self._triangles[name]
            untouched = checksum(kernel) == drawn.checksum
            self.masks[name] = triangle.mask(kernel.shape)
            kernel.constraint = triangle
            self._drawn[name] = TriangularInitializer(drawn.inner, triangle)
            if untouched:
                kernel.assign(self._drawn[name](kernel.shape, self.dtype))
            elif not keeps_forbidden:
                kernel.assign(self.masked(kernel, name))

    def cuts_weights(self) -> bool:
        """Whether the triangle forbids anything."""
        return not all(mask.all() for mask in self.masks.values())

    def has_forbidden_entries(self) -> bool:
        """Whether a forbidden entry of a kernel is other than zero."""
        return any(
            bool(np.any(np.where(part.masks[name], 0, keras.ops.convert_to_numpy(k))))
            for part in self.parts().values()
            for name, k in part.triangular_variables.items()
        )

    def save_own_variables(self, store: Any) -> None:
        """Saves the masked kernels; with `keeps_forbidden`, the whole kernels."""
        if self.keeps_forbidden:
            super().save_own_variables(store)
            return
        values: dict[str, Any] = {}
        super().save_own_variables(values)
        masked = dict(zip(map(id, self.weights), self.masked_weights(), strict=True))
        for key, value in values.items():
            store[key] = masked.get(id(value), value)

    def _with_bias_and_activation(self, outputs: Any) -> Any:
        """Adds bias and activation, as the stock layer does."""
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused: a product of two low-rank matrices has no triangle.

        Train the kernel itself, or use LoRA on `slim(model, width)`.

        Raises:
            NotImplementedError: Always.
        """
        raise self._no_lora()

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refused: Keras quantizes the kernel without its mask.

        Quantize `slim(model, width)`.

        Raises:
            NotImplementedError: Always.
        """
        raise self._no_quantization()

    def _no_lora(self) -> UnsupportedError:
        return UnsupportedError(
            f"{self._title()}: `lora_rank` is not supported, because a low-rank "
            "update fills the forbidden half of the kernel. Train the kernel itself, "
            "or use LoRA on `slim(model, width)`."
        )

    def _no_quantization(self) -> UnsupportedError:
        return UnsupportedError(
            f"{self._title()}: Keras quantization is not supported, because its "
            "forward pass does not apply the mask. Quantize `slim(model, width)`."
        )
