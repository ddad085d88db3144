"""What all Tri layers share: the triangle on the kernel of a stock Keras layer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import LowerTriangular, forbidden_part, pack_grades
from awn_keras.errors import ArgumentError, UnsupportedError


@dataclass(frozen=True)
class KernelAxes:
    """Where a kernel that mixes channels has them: the one description of it.

    Args:
        inputs: Axis of the input channels, counted from the last one, which is -1.
        outputs: Axis of the output channels, likewise.
        depth_multiplier: Name of the layer's attribute that says how many neighbouring
            entries of the input axis each input channel has. `None` for one.
        constraint: Name of the layer's attribute that holds the user's constraint.
        gates: How many times all output channels lie side by side on their axis, as
            those of the gates of a recurrent layer do.
        recurrent: Whether the inputs are the layer's own outputs of the step before.
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

    `VarianceScaling` initializers (Glorot, He, LeCun) count the input channels that
    the output channel may read; counting all of them would starve the first output
    channels, which read few. `Orthogonal` keeps the norm of what each output channel
    reads: what is left of it is no orthogonal matrix (a triangular one is diagonal),
    but no channel is starved either. Other initializers say their own scale and keep
    it.

    Args:
        inner: The initializer that the user chose.
        triangle: The kernel's constraint.
    """

    def __init__(
        self, inner: keras.initializers.Initializer, triangle: LowerTriangular
    ) -> None:
        self.inner = inner
        self.triangle = triangle
        self.checksum: int | None = None

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Draws a kernel and remembers its checksum."""
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
        except TypeError:  # JAX traces a layer before it has weights, and draws again
            self.checksum = None
        return kernel


def _fan_scale(
    initializer: keras.initializers.Initializer,
    mask: np.ndarray,
    axes: tuple[int, int],
    shape: Sequence[int],
) -> np.ndarray:
    """Per output channel: standard deviation wanted over the one drawn.

    A channel that reads everything keeps the scale of the plain layer, whose fans
    for a transposed kernel Keras counts the other way round.

    Args:
        initializer: What draws the kernel.
        mask: What is allowed of it.
        axes: Axes of the input and the output channels, counted from the last.
        shape: The kernel's shape.
    """
    mode = getattr(initializer, "mode", None)
    if (
        not isinstance(initializer, keras.initializers.VarianceScaling)
        or mode == "fan_out"
    ):
        return np.ones([1] * mask.ndim)
    in_axis, out_axis = axes
    # The window (rows times cols) is a factor of all fans, and cancels. Each channel
    # of an einsum may have several entries, which its initializer is told of.
    of_fan_in, of_fan_out = (
        math.prod(shape[i] for i in given) / shape[axis] if given else 1.0
        for given, axis in zip(_einsum_axes(initializer), axes, strict=True)
    )
    fan_out = of_fan_out * mask.shape[out_axis] if mode == "fan_avg" else 0
    fan_in = of_fan_in * mask.sum(axis=in_axis, keepdims=True)
    whole = of_fan_in * mask.shape[in_axis]
    # What reads nothing has no entry to scale.
    return np.sqrt((whole + fan_out) / np.maximum(fan_in + fan_out, 1))


def _einsum_axes(initializer: keras.initializers.Initializer) -> tuple[Any, Any]:
    """Axes of a kernel that `EinsumDense` sums over, and those that it makes."""
    names = ("input_axes", "output_axes")
    into, out = (getattr(initializer, name, None) for name in names)
    return into, out


def _with_norms_of(whole: Any, kernel: Any, out_axis: int) -> Any:
    """Scales what each output channel reads to the norm that it had in the whole."""
    rank = len(kernel.shape)
    axes = [axis for axis in range(rank) if axis != rank + out_axis]
    squares = (
        keras.ops.sum(keras.ops.square(x), axis=axes, keepdims=True)
        for x in (whole, kernel)
    )
    wanted, norms = (keras.ops.sqrt(x) for x in squares)
    # Where nothing is read both are 0, and stay so.
    return kernel * (wanted / keras.ops.maximum(norms, keras.config.epsilon()))


class TriangularRegularizer(keras.regularizers.Regularizer):
    """Regularizes what acts: an assigned or averaged kernel may hold more.

    Args:
        inner: The regularizer that the user chose.
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
    """Tells an untouched kernel from one that was trained or loaded."""
    array = keras.ops.convert_to_numpy(kernel)
    return zlib.crc32(array.tobytes())


class TriLayer(keras.Layer):
    """Mixin for a layer that has its place in an any-width model; comes first.

    Subclasses take their grades as last, keyword-only arguments.
    """

    #: Names of the arguments, and attributes, that hold grades.
    place_arguments: tuple[str, ...] = ("in_grades", "out_grades")

    #: The stock layer that a slimmed model has in place of this one.
    stock_class: type[keras.layers.Layer]

    @property
    def in_grades(self) -> np.ndarray | None:
        """Grades of the input channels, float64; `None` if the layer has no place."""
        raise NotImplementedError

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, likewise."""
        raise NotImplementedError

    def set_grades(
        self,
        in_grades: np.ndarray,
        out_grades: np.ndarray,
        *,
        keeps_forbidden: bool = False,
    ) -> None:
        """Gives the layer its place in an any-width model, once.

        `AnyWidthModel` calls this.

        Args:
            in_grades: Grades of the input channels, `(in_channels,)`.
            out_grades: Grades of the output channels, `(out_channels,)`.
            keeps_forbidden: Whether to keep what the triangle forbids, which then
                acts only in `forbidden_entries_act`.

        Raises:
            ValueError: If the layer has other grades already.
        """
        grades = (np.asarray(in_grades, float), np.asarray(out_grades, float))
        if self.in_grades is None or self.out_grades is None:
            self._set_place(*grades, keeps_forbidden)
        elif not (
            np.array_equal(grades[0], self.in_grades)
            and np.array_equal(grades[1], self.out_grades)
        ):
            raise ArgumentError(
                f"{self._title()} already has its place in a model with other widths "
                "(min_width, divisor, widths_grid, staircase or stages), or is called "
                "at two places with different grades. Build a fresh layer; to copy a "
                "model, `AnyWidthModel.from_config(model.get_config())`."
            )

    def _set_place(
        self, in_grades: np.ndarray, out_grades: np.ndarray, keeps_forbidden: bool
    ) -> None:
        """Takes the grades of a layer that has none yet."""
        raise NotImplementedError

    def cuts_weights(self) -> bool:
        """Whether the place of the layer changes what it computes at full width."""
        raise NotImplementedError

    def stock_call(
        self, active: np.ndarray, *, alike: bool = False, **changes: Any
    ) -> Callable[[Any], Any] | None:
        """What computes some of the channels, where no layer of `stock_class` does.

        Args:
            active: bool array `(out_channels,)`: which channels are there.
            alike: Whether operations are to be the same for all channels that a width
                may have.
            **changes: Arguments of the stock layers' constructors: `name`, `dtype`.

        Returns:
            A function from a tensor of the active channels to another, made of stock
            layers and `keras.ops`, weights included. `None` if a layer of
            `stock_class` computes the same.
        """
        return None

    def _check_pair(self, in_grades: Any, out_grades: Any) -> None:
        """Checks that both grades are given, or none."""
        if (in_grades is None) != (out_grades is None):
            raise ArgumentError(
                f"{self._title()}: give both `in_grades` and `out_grades`, or "
                f"neither. Received: in_grades={in_grades}, out_grades={out_grades}"
            )

    def _title(self) -> str:
        return f"{type(self).__name__} '{self.name}'"

    def get_config(self) -> dict[str, Any]:
        """Returns the parent's config and the grades, run-length encoded."""
        return {
            **super().get_config(),
            **{name: pack_grades(getattr(self, name)) for name in self.place_arguments},
        }


class TriangularKernel(TriLayer):
    """Mixin for a Keras layer with kernels that mix channels; comes before it.

    Subclasses hand `in_grades` and `out_grades` to `_init_triangle` after the parent's
    constructor, and apply `masked` to each kernel in their forward pass. One whose
    kernel is not `kernel`, `(..., in, out)`, or that has several, also says its
    `kernels`.
    """

    #: The weights under a mask, by name; each is an attribute of the layer, too.
    kernels: Mapping[str, KernelAxes] = PLAIN

    #: Whether forbidden entries are kept, and saved, although they do not act: for a
    #: training in which they fade out.
    keeps_forbidden = False

    def _init_triangle(
        self,
        in_grades: Sequence[Any] | np.ndarray | None,
        out_grades: Sequence[Any] | np.ndarray | None,
    ) -> None:
        self._check_pair(in_grades, out_grades)
        if getattr(self, "data_format", None) == "channels_first":
            raise ArgumentError(
                f"{self._title()}: `data_format` must be 'channels_last', as TFLite "
                "needs it. Received: data_format='channels_first'"
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
        """Makes the constraint of each kernel, the user's own inside it."""
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
        """What holds the kernels: the layer itself, or layers inside of it.

        Returns:
            By what comes before the names of their kernels. (A property would be
            saved as a part of the layer.)
        """
        return {"": self}

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The mask of each kernel that is there, bool, which broadcasts against it."""
        return self._masks

    @property
    def in_grades(self) -> np.ndarray | None:
        """Grades of the input channels, float64; `None` for the standard ones."""
        return next(iter(self._triangles.values())).in_grades

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, float64; `None` for the standard ones."""
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
        """As in Keras; a kernel gets the triangle in initializer and constraint."""
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

        (In a training step of a model with `fade`, at a share of what they are.) The
        optimizer applies a constraint only after an update: an initial, an
        assigned or an averaged kernel has not been through it.

        Args:
            kernel: The kernel, or a tensor of its shape.
            name: Its name in `kernels`. `None` for the first.
        """
        mask = self.masks.get(name or next(iter(self.kernels)))
        if mask is None or mask.all():  # `None` until the kernel is there
            return kernel
        kernel = keras.ops.convert_to_tensor(kernel)
        return keras.ops.where(mask, kernel, forbidden_part(kernel, acting=True))

    def apply_masks(self) -> None:
        """Sets the forbidden entries of the kernels to zero, for good."""
        for part in self.parts().values():
            for name, kernel in part.triangular_variables.items():
                kernel.assign(part.masked(kernel, name))

    def masked_weights(self) -> list[Any]:
        """The layer's `weights`, kernels without what was left in forbidden entries.

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
        """Returns the first kernel, masked, and which of its entries are allowed.

        Returns:
            An array `(..., in, out)` of any class of layer, and a boolean one,
            `(in, out)`.

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
        """Gives the layer its place in an any-width model; see `TriLayer`.

        A kernel that was neither trained nor loaded is drawn anew for its new fan-in;
        any other is kept and masked.
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
        """Whether a kernel has something in its forbidden entries."""
        return any(
            bool(np.any(np.where(part.masks[name], 0, keras.ops.convert_to_numpy(k))))
            for part in self.parts().values()
            for name, k in part.triangular_variables.items()
        )

    def save_own_variables(self, store: Any) -> None:
        """Saves what acts, the kernels under their masks, and what is to fade out."""
        if self.keeps_forbidden:
            super().save_own_variables(store)
            return
        values: dict[str, Any] = {}
        super().save_own_variables(values)
        masked = dict(zip(map(id, self.weights), self.masked_weights(), strict=True))
        for key, value in values.items():
            store[key] = masked.get(id(value), value)

    def _with_bias_and_activation(self, outputs: Any) -> Any:
        """Ends a forward pass as the parent does."""
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused: a product of two thin matrices has no triangle.

        Raises:
            NotImplementedError: Always.
        """
        raise self._no_lora()

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refused: Keras would quantize the kernel past its mask.

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
            "forward pass does not know the mask. Quantize `slim(model, width)`."
        )
