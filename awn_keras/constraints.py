"""The triangle: which kernel entries may be other than zero."""

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

#: What forbidden entries are multiplied by while a step trains; `None` for 0.
_share: ContextVar[Any] = ContextVar("share_of_forbidden_entries", default=None)


@contextmanager
def forbidden_entries_act(share: Any) -> Iterator[None]:
    """A context in which forbidden entries of kernels act in part: a training step.

    Args:
        share: What they are multiplied by, a scalar in [0, 1]; constraints let them be
            until it is 0. `None` for the triangle as it is everywhere else.

    Yields:
        Nothing.
    """
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def forbidden_part(kernel: Any, *, acting: bool) -> Any:
    """What stands in the place of a kernel's forbidden entries.

    Args:
        kernel: The kernel, a tensor.
        acting: Whether to give what acts in a forward pass, or what an optimizer's
            step leaves in the variable.

    Returns:
        Zeros; in a step in which forbidden entries act a tensor like the kernel.
    """
    share = _share.get()
    if share is None:
        return keras.ops.zeros_like(kernel)
    factor = share if acting else keras.ops.greater(share, 0)
    return kernel * keras.ops.cast(factor, kernel.dtype)


def triangular_mask(
    in_grades: Sequence[float] | np.ndarray, out_grades: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Says which input channels each output channel may read.

    An output channel may read an input channel if that is active at every width at
    which it is itself active: `in_grade <= out_grade`. For equal layers this is the
    lower triangle of the paper, transposed since Keras kernels are `(in, out)`.

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
    """Raises a ValueError if a grade is outside [0, 1].

    Args:
        grades: What the user gave, as `unpack_grades` reads it.
        name: What to call it in the message.
    """
    if grades is not None and not ((grades >= 0) & (grades <= 1)).all():
        raise ArgumentError(f"{name} must be in [0, 1]. Received: {grades.tolist()}")


def staircase_grades(channels: int) -> np.ndarray:
    """Grades of a layer that is in no any-width model, as the paper has them."""
    return channel_grades(channels, staircase="paper")


@keras.saving.register_keras_serializable(package="awn_keras")
class LowerTriangular(keras.constraints.Constraint):
    """Kernel constraint that sets forbidden entries to zero after each update.

    A Keras constraint acts only after an optimizer step, so that initial, loaded and
    averaged weights escape it: the Tri layers also mask their kernel in the forward
    pass.

    Args:
        in_grades: Grades of the input channels, `(in_channels,)`. `None` for the
            paper's staircase, `channel_grades(in_channels, staircase="paper")`.
        out_grades: Grades of the output channels, likewise.
        inner: Constraint that is applied first, such as `keras.constraints.MaxNorm`.
        in_axis: Axis of the kernel that has the input channels, counted from the last
            one, which is -1. Those of `keras.layers.Conv2DTranspose` are `(..., out,
            in)`, and those of attention `(in, heads, key_dim)`.
        out_axis: Axis of the output channels, likewise.
        depth_multiplier: How many neighbouring inputs of the kernel come from each
            input channel and so have its grade, as those of a pointwise kernel behind
            a depthwise one; an integer of at least 1.
        groups: In how many groups a convolution has its channels, each with a triangle
            of its own and the same grades; an integer of at least 1.
        gates: How many times all output channels lie side by side on their axis, as in
            the kernel `(in, gates * units)` of a recurrent layer; an integer of at
            least 1.

    Raises:
        ValueError: If a grade is outside [0, 1], `in_axis` and `out_axis` are not two
            negative numbers, or `depth_multiplier`, `groups` or `gates` is below 1.

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
            bool array of the kernel's sizes on these two axes, and 1 on those between
            and after them. It broadcasts against the kernel.

        Raises:
            ValueError: If the grades do not belong to a kernel of this shape.
        """
        inputs, outputs = shape[self.in_axis], shape[self.out_axis]
        in_grades, out_grades = self._of_a_group("in_grades"), self.out_grades
        if in_grades is None:
            in_grades = staircase_grades(inputs // self.depth_multiplier)
        if out_grades is None:
            staircase = staircase_grades(outputs // (self.groups * self.gates))
            out_grades = np.tile(staircase, self.groups)
        self._of_a_group("out_grades")  # must be the same in each
        mask = triangular_mask(
            np.repeat(in_grades, self.depth_multiplier),
            np.tile(out_grades, self.gates),
        )
        if mask.shape != (inputs, outputs):
            raise ArgumentError(
                f"`in_grades` and `out_grades` are for {len(in_grades)} and "
                f"{len(out_grades)} channels, and must be as many as the kernel has. "
                f"Received: a kernel of shape {tuple(shape)}, {self._layout()}"
            )
        sizes = [1] * -min(self.in_axis, self.out_axis)
        sizes[self.in_axis], sizes[self.out_axis] = inputs, outputs
        return (mask.T if self.in_axis > self.out_axis else mask).reshape(sizes)

    def _of_a_group(self, name: str) -> np.ndarray | None:
        """Grades of the channels of one group, which has those of each other."""
        grades = getattr(self, name)
        if grades is None or self.groups == 1:
            return grades
        size = len(grades) // self.groups
        if not np.array_equal(grades, np.tile(grades[:size], self.groups)):
            raise ArgumentError(
                f"`{name}` must be the same in each of the {self.groups} groups, as "
                f"groups narrow together. Received: {name}={grades.tolist()}"
            )
        return grades[:size]

    def _layout(self) -> str:
        inputs = "in" if self.depth_multiplier == 1 else f"in * {self.depth_multiplier}"
        outputs = "out" if self.gates == 1 else f"{self.gates} * out"
        sizes = ["..."] * -min(self.in_axis, self.out_axis)
        sizes[self.in_axis], sizes[self.out_axis] = inputs, outputs
        return f"(..., {', '.join(sizes)})"

    def __call__(self, w: Any) -> Any:
        """Returns the kernel with its forbidden entries at zero."""
        if self.inner is not None:
            w = self.inner(w)
        w = keras.ops.convert_to_tensor(w)
        kept = forbidden_part(w, acting=False)
        return keras.ops.where(self.mask(w.shape), w, kept)

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


#: Squarings of a Gram matrix; as 64 steps of power iteration.
_SQUARINGS = 6


@keras.saving.register_keras_serializable(package="awn_keras")
class UnitSpectralNorm(keras.constraints.Constraint):
    """Kernel constraint that divides a kernel by its largest singular value.

    What `keras.layers.SpectralNormalization` does to the kernel before each step of
    training, this does after it. `to_any_width` puts the layer inside of the wrapper,
    with this constraint, in its place. A Tri layer's kernel is divided by the norm of
    all of it, once for all widths; the part that a width has is not longer than the
    whole, so that the norm is at most 1 at every width. `slim` leaves the constraint
    out, as a part would have another norm.

    The kernel is seen as a matrix of `shape[-1]` columns, as Keras sees it.

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
        """Returns the kernel divided by its norm; one of zeros stays."""
        ops, epsilon = keras.ops, keras.config.epsilon()
        w = ops.convert_to_tensor(w)
        dtype = keras.backend.result_type(w.dtype, "float32")
        matrix = ops.reshape(ops.cast(w, dtype), (-1, w.shape[-1]))
        power = ops.matmul(ops.transpose(matrix), matrix)
        for _ in range(_SQUARINGS):
            # Squares of large numbers overflow; the direction is all that counts.
            power = power / ops.maximum(ops.max(ops.abs(power)), epsilon)
            power = ops.matmul(power, power)
        start = np.random.default_rng(0).normal(size=(w.shape[-1], 1))
        vector = ops.matmul(power, ops.cast(start, dtype))
        vector = vector / ops.maximum(ops.norm(vector), epsilon)
        norm = ops.norm(ops.matmul(matrix, vector))
        return w / ops.cast(ops.maximum(norm, epsilon), w.dtype)
