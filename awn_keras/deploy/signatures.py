"""The names of a file's signatures, and what they take and give."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from awn_keras.widths import label_width, width_label

_LABEL = r"(\d{3}(?:_\d{1,6})?)"


def width_signature(width: float) -> str:
    """The name of the signature for a width, such as `width_050`."""
    return f"width_{width_label(width)}"


def signature_width(name: str) -> float | None:
    """The width that a signature's name tells, such as `width_050`, or `None`."""
    match = re.fullmatch(f"width_{_LABEL}", name)
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
        match = re.fullmatch(f"(?:keep|refine)_{_LABEL}_to_{_LABEL}", name)
        if not match:
            return None
        narrow, wide = label_width(match[1]), label_width(match[2])
        return cls(narrow, wide) if narrow and wide and narrow < wide else None


def subgraph_of(content: bytes, signature: str) -> int:
    """Index of the subgraph that a signature of a TFLite file runs.

    Raises:
        KeyError: If there is no such signature.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    defs = [model.SignatureDefs(i) for i in range(model.SignatureDefsLength())]
    indices = {one.SignatureKey().decode(): one.SubgraphIndex() for one in defs}
    return int(indices[signature])


def signatures(content: bytes, file: str) -> dict[str, Any]:
    """Inputs and outputs of each signature of a TFLite file.

    Args:
        content: The file's content.
        file: What to call it in an error.

    Returns:
        For each signature `(inputs, outputs)`: tuples `(name, shape, dtype)` in the
        order of names.

    Raises:
        ValueError: If it is not a TFLite file, or has no signature.
    """
    from ai_edge_litert.interpreter import Interpreter

    if content[4:8] != b"TFL3":
        raise ValueError(f"'{file}' is not a TFLite file.")
    try:
        interpreter = Interpreter(model_content=content)
        found = {}
        for name in interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(name)
            found[name] = tuple(
                tuple(
                    (key, tuple(int(n) for n in one["shape"]), np.dtype(one["dtype"]))
                    for key, one in sorted(details.items())
                )
                for details in (
                    runner.get_input_details(),
                    runner.get_output_details(),
                )
            )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"'{file}' is not a TFLite file: {error}") from error
    if not found:
        raise ValueError(f"'{file}' has no signatures; `export_tflite` writes them.")
    return found
