"""The triangle: the kernel entries that may be other than zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError
from awn_keras.widths import channel_grades

#: Factor on forbidden entries during a training step; `None` means 0.
_share: ContextVar[Any] = ContextVar("share_of_forbidden_entries", default=None)


@contextmanager
def forbidden_entries_act(share: Any) -> Iterator[None]:
    """A context for a training step, in which forbidden entries act in part.

    Args:
        share: Factor on forbidden entries, a scalar in [0, 1]. Constraints keep the
            entries until the factor is 0. `None` keeps the strict triangle.

    Yields:
        Nothing.
    """
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def forbidden_part(kernel: Any, *, acting: bool) -> Any:
    """Values for the forbidden entries of a kernel.

    Args:
        kernel: The kernel, a tensor.
        acting: `True` for the values that act in a forward pass, `False` for those that
            stay in the variable after an optimizer step.

    Returns:
        A tensor of the shape of `kernel`: zeros, or the scaled kernel inside
        `forbidden_entries_act`.
    """
    share = _share.get()
    if share is None:
        return keras.ops.zeros_like(kernel)
    factor = share if acting else keras.ops.greater(share, 0)
    return kernel * keras.ops.cast(factor, kernel.dtype)


def apply_mask(mask: np.ndarray, kernel: Any, *, acting: bool) -> Any:
    """Replaces the forbidden entries of a kernel by `forbidden_part`.

    Args:
        mask: Bool array that broadcasts against the kernel, true for allowed entries.
        kernel: The kernel, a tensor.
        acting: As in `forbidden_part`.

    Returns:
        A tensor of the shape and dtype of `kernel`.
    """
    # TensorFlow copies an array of bool into a graph value by value, which takes a
    # second for two million weights. An array of int8 is copied as a whole.
    allowed = keras.ops.cast(mask.view("int8"), "bool")
    return keras.ops.where(allowed, kernel, forbidden_part(kernel, acting=acting))


def triangular_mask(
    in_grades: Sequence[float] | np.ndarray, out_grades: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Computes the mask of a kernel: the inputs that each output may read.

    An output channel may read an input channel that is active at every width at which
    the output channel is active: `in_grade <= out_grade`. For layers of equal size this
    is the lower triangle of the paper, transposed because Keras kernels are `(in,
    out)`.

    Args:
        in_grades: Grades of the input channels, `(in_channels,)`.
        out_grades: Grades of the output channels, `(out_channels,)`.

    Returns:
        bool array `(in_channels, out_channels)`, true where an entry may be other
        than zero. It broadcasts against any Keras kernel `(..., in, out)`.

    Examples:
        >>> from awn_keras import channel_grades, triangular_mask
        >>> triangular_mask(channel_grades(3), channel_grades(3)).astype(int)
        array([[1, 1, 1],
               [0, 1, 1],
               [0, 0, 1]])

    Reference:
        Vu et al., Any-Width Networks (2020), equation 7 and figure 3.
    """
    return np.asarray(in_grades)[:, None] <= np.asarray(out_grades)[None, :]


def pack_grades(grades: np.ndarray | None) -> list[list[float]] | None:
    """Run-length encodes grades for a layer's config."""
    if grades is None:
        return None
    return [[float(grade), len(list(run))] for grade, run in groupby(grades)]


def unpack_grades(
    grades: Sequence[Any] | np.ndarray | None,
) -> np.ndarray | None:
    """Reads grades, plain or run-length encoded, as a float64 array."""
    if grades is None:
        return None
    array = np.asarray(grades, dtype=np.float64)
    if array.ndim == 2:
        array = np.repeat(array[:, 0], array[:, 1].astype(int))
    return array


def check_grades(grades: np.ndarray | None, name: str) -> None:
    """Checks that all grades are in [0, 1].

    Args:
        grades: The user's grades, as an array from `unpack_grades`.
        name: Name of the argument for the message.

    Raises:
        ValueError: If a grade is outside [0, 1].
    """
    if grades is not None and not ((grades >= 0) & (grades <= 1)).all():
        raise ArgumentError(f"{name} must be in [0, 1]. Received: {grades.tolist()}")


def staircase_grades(channels: int) -> np.ndarray:
    """Grades of a layer outside of any-width models: the paper's staircase."""
    return channel_grades(channels, staircase="paper")


@keras.saving.register_keras_serializable(package="awn_keras")
class LowerTriangular(keras.constraints.Constraint):
    """Kernel constraint that sets forbidden entries to zero after each update.

    Keras applies a constraint only after an optimizer step, not to initial, loaded or
    averaged weights. So the Tri layers also mask their kernels in the forward pass.

    Args:
        in_grades: Grades of the input channels, `(in_channels,)`. `None` for the
            paper's staircase, `channel_grades(in_channels, staircase="paper")`.
        out_grades: Grades of the output channels, `(out_channels,)`. `None` takes the
            paper's staircase.
        inner: Constraint that is applied first, such as `keras.constraints.MaxNorm`.
        in_axis: Axis of the input channels in the kernel, counted from the last axis,
            which is -1. A kernel of `keras.layers.Conv2DTranspose` is `(..., out, in)`,
            and one of attention `(in, heads, key_dim)`.
        out_axis: Axis of the output channels in the kernel, counted from the last axis.
        depth_multiplier: Number of neighbouring entries of the input axis for each
            input channel, at least 1. A pointwise kernel after a depthwise convolution
            has several.
        groups: Number of groups of a convolution, at least 1. Each group has its own
            triangle; all groups have equal grades.
        gates: How many times the output axis repeats all output channels, at least 1,
            as in the kernel `(in, gates * units)` of a recurrent layer.

    Raises:
        ValueError: If a grade is outside [0, 1], if `in_axis` and `out_axis` are not
            two different negative numbers, or if `depth_multiplier`, `groups` or
            `gates` is below 1.

    Examples:
        >>> from awn_keras import LowerTriangular
        >>> float(LowerTriangular()(keras.ops.ones((3, 3, 8, 8))).numpy().sum())
        324.0

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.2.
    """

    def __init__(
        self,
        in_grades: Sequence[float] | np.ndarray | None = None,
        out_grades: Sequence[float] | np.ndarray | None = None,
        inner: keras.constraints.Constraint | None = None,
        *,
        in_axis: int = -2,
        out_axis: int = -1,
        depth_multiplier: int = 1,
        groups: int = 1,
        gates: int = 1,
    ) -> None:
        self.in_grades = unpack_grades(in_grades)
        self.out_grades = unpack_grades(out_grades)
        for grades in (self.in_grades, self.out_grades):
            check_grades(grades, "`in_grades` and `out_grades`")
        counts = {
            "depth_multiplier": depth_multiplier,
            "groups": groups,
            "gates": gates,
        }
        for name, value in counts.items():
            if value < 1:
                raise ArgumentError(
                    f"`{name}` must be at least 1. Received: {name}={value}"
                )
        if max(in_axis, out_axis) >= 0 or in_axis == out_axis:
            raise ArgumentError(
                "`in_axis` and `out_axis` must be two different numbers below 0. "
                f"Received: in_axis={in_axis}, out_axis={out_axis}"
            )
        self.inner = keras.constraints.get(inner)
        self.in_axis = in_axis
        self.out_axis = out_axis
        self.depth_multiplier = depth_multiplier
        self.groups = groups
        self.gates = gates

    def mask(self, shape: Sequence[int]) -> np.ndarray:
        """Returns the mask of a kernel.

        Args:
            shape: The kernel's shape, with `in_channels * depth_multiplier / groups`
                entries on `in_axis`, and `gates * out_channels` on `out_axis`.

        Returns:
            bool array that broadcasts against the kernel. It has the kernel's sizes on
            `in_axis` and `out_axis`, and size 1 on axes between and after these two.

        Raises:
            ValueError: If the grades do not fit the shape.
        """
        inputs, outputs = shape[self.in_axis], shape[self.out_axis]
        in_grades, out_grades = self._of_a_group("in_grades"), self.out_grades
        if in_grades is None:
            in_grades = staircase_grades(inputs // self.depth_multiplier)
        if out_grades is None:
            staircase = staircase_grades(outputs // (self.groups * self.gates))
            out_grades = np.tile(staircase, self.groups)
        self._of_a_group("out_grades")  # raises if groups differ
        mask = triangular_mask(
            np.repeat(in_grades, self.depth_multiplier),
            np.tile(out_grades, self.gates),
        )
        if mask.shape != (inputs, outputs):
            raise ArgumentError(
                "`in_grades` and `out_grades` must have one grade for each channel of "
                f"the kernel. Received: {len(in_grades)} and {len(out_grades)} grades "
                f"for a kernel of shape {tuple(shape)}, {self._layout()}"
            )
        sizes = [1] * -min(self.in_axis, self.out_axis)
        sizes[self.in_axis], sizes[self.out_axis] = inputs, outputs
        return (mask.T if self.in_axis > self.out_axis else mask).reshape(sizes)

    def _of_a_group(self, name: str) -> np.ndarray | None:
        """Grades of one group of channels; all groups have equal grades."""
        grades = getattr(self, name)
        if grades is None or self.groups == 1:
            return grades
        size = len(grades) // self.groups
        if not np.array_equal(grades, np.tile(grades[:size], self.groups)):
            raise ArgumentError(
                f"`{name}` must be equal in each of the {self.groups} groups, because "
                f"all groups narrow together. Received: {name}={grades.tolist()}"
            )
        return grades[:size]

    def _layout(self) -> str:
        inputs = "in" if self.depth_multiplier == 1 else f"in * {self.depth_multiplier}"
        outputs = "out" if self.gates == 1 else f"{self.gates} * out"
        sizes = ["..."] * -min(self.in_axis, self.out_axis)
        sizes[self.in_axis], sizes[self.out_axis] = inputs, outputs
        return f"(..., {', '.join(sizes)})"

    def __call__(self, w: Any) -> Any:
        """Applies `inner`, then sets the forbidden entries to zero."""
        if self.inner is not None:
            w = self.inner(w)
        w = keras.ops.convert_to_tensor(w)
        return apply_mask(self.mask(w.shape), w, acting=False)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, grades run-length encoded."""
        return {
            "in_grades": pack_grades(self.in_grades),
            "out_grades": pack_grades(self.out_grades),
            "inner": keras.constraints.serialize(self.inner),
            "in_axis": self.in_axis,
            "out_axis": self.out_axis,
            "depth_multiplier": self.depth_multiplier,
            "groups": self.groups,
            "gates": self.gates,
        }


#: Squarings of the Gram matrix. Six squarings are as good as 64 power iterations.
_SQUARINGS = 6


@keras.saving.register_keras_serializable(package="awn_keras")
class UnitSpectralNorm(keras.constraints.Constraint):
    """Kernel constraint that divides a kernel by its largest singular value.

    `keras.layers.SpectralNormalization` divides the kernel before each training step;
    this constraint divides it after each step. `to_any_width` replaces that wrapper by
    its inner layer with this constraint. The whole kernel of a Tri layer is divided by
    one norm. The norm of the active part is at most the norm of the whole, so the norm
    is at most 1 at every width. `slim` drops the constraint, because a part of the
    kernel has another norm.

    The kernel is reshaped to a matrix with `shape[-1]` columns, as in Keras.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import UnitSpectralNorm
        >>> kernel = UnitSpectralNorm()(np.diag([4.0, 2.0]))
        >>> keras.ops.convert_to_numpy(kernel).round(3)
        array([[1. , 0. ],
               [0. , 0.5]])

    Reference:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks
        (2018), section 2.1.
    """

    def __call__(self, w: Any) -> Any:
        """Returns the kernel divided by its norm; a kernel of zeros does not change."""
        ops, epsilon = keras.ops, keras.config.epsilon()
        w = ops.convert_to_tensor(w)
        dtype = keras.backend.result_type(w.dtype, "float32")
        matrix = ops.reshape(ops.cast(w, dtype), (-1, w.shape[-1]))
        power = ops.matmul(ops.transpose(matrix), matrix)
        for _ in range(_SQUARINGS):
            # Only the direction matters. Without this division, squares would overflow.
            power = power / ops.maximum(ops.max(ops.abs(power)), epsilon)
            power = ops.matmul(power, power)
        start = np.random.default_rng(0).normal(size=(w.shape[-1], 1))
        vector = ops.matmul(power, ops.cast(start, dtype))
        vector = vector / ops.maximum(ops.norm(vector), epsilon)
        norm = ops.norm(ops.matmul(matrix, vector))
        return w / ops.cast(ops.maximum(norm, epsilon), w.dtype)
