"""Tri layers whose kernels belong to inner layers, such as a cell or projections."""

from __future__ import annotations

import keras
import numpy as np

from awn_keras.layers.base import KernelAxes, TriangularKernel

#: For a layer whose kernels all belong to inner layers.
NO_KERNELS: dict[str, KernelAxes] = {}


class OfParts(TriangularKernel):
    """Mixin for a layer whose kernels belong to the layers inside it."""

    @property
    def in_grades(self) -> np.ndarray | None:
        """Grades of the input channels, float64; `None` for the paper's staircase."""
        return next(iter(self.parts().values())).in_grades

    @property
    def out_grades(self) -> np.ndarray | None:
        """Grades of the output channels, float64; `None` for the paper's staircase."""
        return next(iter(self.parts().values())).out_grades

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The mask of each built kernel: bool, broadcasts against the kernel."""
        return {
            prefix + name: mask
            for prefix, part in self.parts().items()
            for name, mask in part.masks.items()
        }

    @property
    def triangular_variables(self) -> dict[str, keras.Variable]:
        """The variables under a mask, by name.

        Raises:
            AttributeError: If the layer is not built.
        """
        return {
            prefix + name: kernel
            for prefix, part in self.parts().items()
            for name, kernel in part.triangular_variables.items()
        }

    def masked_kernel(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first kernel, masked, and the mask of its channels.

        Returns:
            Two arrays; see `TriangularKernel.masked_kernel`.

        Raises:
            AttributeError: If the layer is not built.
        """
        return next(iter(self.parts().values())).masked_kernel()

    def set_grades(
        self,
        in_grades: np.ndarray,
        out_grades: np.ndarray,
        *,
        keeps_forbidden: bool = False,
    ) -> None:
        """Sets the layer's grades, once; see `TriangularKernel.set_grades`."""
        self.keeps_forbidden = keeps_forbidden
        for part in self.parts().values():
            part.set_grades(in_grades, out_grades, keeps_forbidden=keeps_forbidden)
