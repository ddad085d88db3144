"""Names of a file's signatures, which contain a width or a refinement."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from awn_keras.widths import LABEL, label_width, width_label


def width_signature(width: float) -> str:
    """The name of the signature for a width, such as `width_050`."""
    return f"width_{width_label(width)}"


def signature_width(name: str) -> float | None:
    """The width in a signature's name such as `width_050`, or `None`."""
    match = re.fullmatch(f"width_({LABEL})", name)
    return label_width(match[1]) if match else None


@dataclass(frozen=True)
class Refinement:
    """A pair of signatures; the second continues the computation of the first.

    Args:
        narrow: Width of the first outputs.
        wide: Width of the refined outputs, above `narrow`.
    """

    narrow: float
    wide: float

    @property
    def keep(self) -> str:
        """The signature that computes the narrow outputs, and returns activations."""
        return f"keep_{width_label(self.narrow)}_to_{width_label(self.wide)}"

    @property
    def refine(self) -> str:
        """The signature that takes the activations, and computes the wide outputs."""
        return f"refine_{width_label(self.narrow)}_to_{width_label(self.wide)}"

    def is_in(self, names: Collection[str]) -> bool:
        """Whether `names` contains both signatures."""
        return self.keep in names and self.refine in names

    @classmethod
    def parse(cls, name: str) -> Refinement | None:
        """The refinement of a signature with this name, or `None`."""
        match = re.fullmatch(f"(?:keep|refine)_({LABEL})_to_({LABEL})", name)
        if not match:
            return None
        narrow, wide = label_width(match[1]), label_width(match[2])
        return cls(narrow, wide) if narrow and wide and narrow < wide else None
