"""What all Tri layers share: the triangle on the kernel of a stock Keras layer."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.constraints import LowerTriangular, pack_grades


class TriangularInitializer(keras.initializers.Initializer):
    """Draws a triangular kernel in which each output channel has its own fan-in.

    `VarianceScaling` initializers (Glorot, He, LeCun) count the input channels that
    the output channel may read; counting all of them would starve the first output
    channels, which read few. Other initializers say their own scale and keep it.

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
        in_axis = 1 if self.triangle.transposed else 0
        kernel = self.inner(shape, dtype=dtype)
        scale = keras.ops.convert_to_tensor(
            np.where(mask, _fan_scale(self.inner, mask, in_axis), 0.0), kernel.dtype
        )
        kernel = kernel * scale
        try:
            self.checksum = checksum(kernel)
        except TypeError:  # JAX traces a layer before it has weights, and draws again
            self.checksum = None
        return kernel


def _fan_scale(
    initializer: keras.initializers.Initializer, mask: np.ndarray, in_axis: int
) -> np.ndarray:
    """Per output channel: standard deviation wanted over the one drawn.

    A channel that reads everything keeps the scale of the plain layer, whose fans
    for a transposed kernel Keras counts the other way round.
    """
    mode = getattr(initializer, "mode", None)
    if (
        not isinstance(initializer, keras.initializers.VarianceScaling)
        or mode == "fan_out"
        or getattr(initializer, "input_axes", None) is not None
    ):
        return np.ones((1, 1))
    # The window (rows times cols) is a factor of all fans, and cancels.
    fan_out = mask.shape[1 - in_axis] if mode == "fan_avg" else 0
    fan_in = mask.sum(axis=in_axis, keepdims=True)
    # What reads nothing has no entry to scale.
    return np.sqrt((mask.shape[in_axis] + fan_out) / np.maximum(fan_in + fan_out, 1))


class TriangularRegularizer(keras.regularizers.Regularizer):
    """Regularizes what acts: an assigned or averaged kernel may hold more.

    Args:
        inner: The regularizer that the user chose.
        layer: The layer whose kernel it is.
    """

    def __init__(
        self, inner: keras.regularizers.Regularizer, layer: TriangularKernel
    ) -> None:
        self.inner = inner
        self.layer = layer

    def __call__(self, x: Any) -> Any:
        """Returns the penalty of the masked kernel, a scalar."""
        return self.inner(self.layer.masked(x))


def checksum(kernel: Any) -> int:
    """Tells an untouched kernel from one that was trained or loaded."""
    array = keras.ops.convert_to_numpy(kernel)
    return zlib.crc32(array.tobytes())


class TriangularKernel(keras.Layer):
    """Mixin for a Keras layer with a kernel that mixes channels; comes before it.

    Subclasses take `in_grades` and `out_grades` as last, keyword-only arguments, hand
    them to `_init_triangle` after the parent's constructor, and apply `masked` to the
    kernel in their forward pass. One whose kernel is not `kernel`, `(..., in, out)`,
    also says its `triangular_name` and how `_make_triangle` reads the grades.
    """

    #: The stock layer that a slimmed model has in place of this one.
    stock_class: type[keras.layers.Layer]

    #: The weight under the mask: its name, and the attribute that holds it.
    triangular_name = "kernel"

    def _init_triangle(
        self,
        in_grades: Sequence[Any] | np.ndarray | None,
        out_grades: Sequence[Any] | np.ndarray | None,
    ) -> None:
        if (in_grades is None) != (out_grades is None):
            raise ValueError(
                f"{self._title()}: give both `in_grades` and `out_grades`, or "
                f"neither. Received: in_grades={in_grades}, out_grades={out_grades}"
            )
        if getattr(self, "data_format", None) == "channels_first":
            raise ValueError(
                f"{self._title()}: `data_format` must be 'channels_last', as TFLite "
                "needs it. Received: data_format='channels_first'"
            )
        if getattr(self, "groups", 1) != 1:
            raise ValueError(
                f"{self._title()}: `groups` must be 1, since groups of channels have "
                "no common order to cut at; use DepthwiseConv2D for one group a "
                f"channel. Received: groups={self.groups}"
            )
        if getattr(self, "lora_rank", None):
            raise self._no_lora()
        quantized = isinstance(
            self.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy
        )
        if quantized or getattr(self, "quantization_config", None) is not None:
            raise self._no_quantization()
        self._triangle = self._make_triangle(in_grades, out_grades)
        self._mask = np.ones((1, 1), bool)  # until the kernel is there

    def _make_triangle(
        self,
        in_grades: Sequence[Any] | np.ndarray | None,
        out_grades: Sequence[Any] | np.ndarray | None,
    ) -> LowerTriangular:
        """Makes the constraint of the kernel, the user's own inside it."""
        return LowerTriangular(in_grades, out_grades, self.kernel_constraint)

    def _title(self) -> str:
        return f"{type(self).__name__} '{self.name}'"

    @property
    def in_grades(self) -> np.ndarray | None:
        """Grades of the input channels, float64; `None` for the standard ones."""
        return self._triangle.in_grades

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, float64; `None` for the standard ones."""
        return self._triangle.out_grades

    @property
    def triangular_variable(self) -> keras.Variable:
        """The variable under the mask.

        Raises:
            AttributeError: If the layer is not built.
        """
        if not self.built:
            raise AttributeError(
                f"{self._title()} is not built: it has no `{self.triangular_name}` "
                "yet. Call it on a tensor, or `layer.build(input_shape)`, first."
            )
        return getattr(self, self.triangular_name)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; the kernel gets the triangle in initializer and constraint."""
        if kwargs.get("name") != self.triangular_name:
            return super().add_weight(*args, **kwargs)
        self._mask = self._triangle.mask(kwargs["shape"])
        self._initializer = TriangularInitializer(kwargs["initializer"], self._triangle)
        kwargs.update(initializer=self._initializer, constraint=self._triangle)
        if kwargs.get("regularizer") is not None:
            kwargs["regularizer"] = TriangularRegularizer(kwargs["regularizer"], self)
        return super().add_weight(*args, **kwargs)

    def masked(self, kernel: Any) -> Any:
        """Returns the kernel with its forbidden entries at zero.

        The optimizer applies a constraint only after an update: an initial, an
        assigned or an averaged kernel has not been through it.
        """
        if self._mask.all():
            return kernel
        kernel = keras.ops.convert_to_tensor(kernel)
        return keras.ops.where(self._mask, kernel, keras.ops.zeros_like(kernel))

    def masked_kernel(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the kernel with forbidden entries at zero, and which are allowed.

        Returns:
            An array `(..., in, out)` of any class of layer, and a boolean one,
            `(in, out)`.

        Raises:
            AttributeError: If the layer is not built.
        """
        variable = self.triangular_variable
        kernel = keras.ops.convert_to_numpy(self.masked(variable))
        mask = np.broadcast_to(self._triangle.mask(variable.shape), kernel.shape[-2:])
        if self._triangle.transposed:
            return np.swapaxes(kernel, -1, -2), mask.T
        return kernel, mask

    def set_grades(self, in_grades: np.ndarray, out_grades: np.ndarray) -> None:
        """Gives the layer its place in an any-width model, once.

        `AnyWidthModel` calls this. A kernel that was neither trained nor loaded is
        drawn anew for its new fan-in; any other is kept and masked.

        Args:
            in_grades: Grades of the input channels, `(in_channels,)`.
            out_grades: Grades of the output channels, `(out_channels,)`.

        Raises:
            ValueError: If the layer has other grades already.
        """
        grades = (np.asarray(in_grades, float), np.asarray(out_grades, float))
        if self.in_grades is not None and self.out_grades is not None:
            same = np.array_equal(grades[0], self.in_grades)
            if same and np.array_equal(grades[1], self.out_grades):
                return
            raise ValueError(
                f"{self._title()} already has its place in a model with other widths "
                "(min_width, divisor or widths_grid), or is called at two places with "
                "different grades. Build a fresh layer; to copy a model, "
                "`AnyWidthModel.from_config(model.get_config())`."
            )
        self._triangle = self._make_triangle(*grades)
        if not self.built:
            return
        kernel = self.triangular_variable
        untouched = checksum(kernel) == self._initializer.checksum
        self._mask = self._triangle.mask(kernel.shape)
        kernel.constraint = self._triangle
        self._initializer = TriangularInitializer(
            self._initializer.inner, self._triangle
        )
        if untouched:
            kernel.assign(self._initializer(kernel.shape, self.dtype))
        else:
            kernel.assign(self.masked(kernel))

    def save_own_variables(self, store: Any) -> None:
        """Saves what acts: the kernel under its mask."""
        values: dict[str, Any] = {}
        super().save_own_variables(values)
        kernel = self.triangular_variable if self.built else None
        for key, value in values.items():
            store[key] = self.masked(kernel) if value is kernel else value

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

    def _no_lora(self) -> NotImplementedError:
        return NotImplementedError(
            f"{self._title()}: `lora_rank` is not supported, because a low-rank "
            "update fills the forbidden half of the kernel. Train the kernel itself, "
            "or use LoRA on `slim(model, width)`."
        )

    def _no_quantization(self) -> NotImplementedError:
        return NotImplementedError(
            f"{self._title()}: Keras quantization is not supported, because its "
            "forward pass does not know the mask. Quantize `slim(model, width)`."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the parent's config and the grades, run-length encoded."""
        return {
            **super().get_config(),
            "in_grades": pack_grades(self.in_grades),
            "out_grades": pack_grades(self.out_grades),
        }
