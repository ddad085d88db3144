"""The names of a file's signatures: which width, or which refinement, they tell."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from awn_keras.widths import LABEL, label_width, width_label


def width_signature(width: float) -> str:
    """The name of the signature for a width, such as `width_050`."""
    return f"width_{width_label(width)}"


def signature_width(name: str) -> float | None:
    """The width that a signature's name tells, such as `width_050`, or `None`."""
    match = re.fullmatch(f"width_({LABEL})", name)
    return label_width(match[1]) if match else None


@dataclass(frozen=True)
class Refinement:
    """Two signatures, of which the second one goes on where the first one ended.

    Args:
        narrow: The width of the first answer.
        wide: The width of the refined one, larger.
    """

    narrow: float
    wide: float

    @property
    def keep(self) -> str:
        """The signature that answers at the narrow width, and gives activations."""
        return f"keep_{width_label(self.narrow)}_to_{width_label(self.wide)}"

    @property
    def refine(self) -> str:
        """The signature that takes these, and answers at the wide width."""
        return f"refine_{width_label(self.narrow)}_to_{width_label(self.wide)}"

    def is_in(self, names: Collection[str]) -> bool:
        """Whether both signatures are among these."""
        return self.keep in names and self.refine in names

    @classmethod
    def parse(cls, name: str) -> Refinement | None:
        """The refinement that a signature is part of, by its name, or `None`."""
        match = re.fullmatch(f"(?:keep|refine)_({LABEL})_to_({LABEL})", name)
        if not match:
            return None
        narrow, wide = label_width(match[1]), label_width(match[2])
        return cls(narrow, wide) if narrow and wide and narrow < wide else None
