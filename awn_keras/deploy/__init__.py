"""Export of trained models to files that a phone runs, and tools for these files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from awn_keras.deploy.anytime import AnytimeInterpreter
    from awn_keras.deploy.explorer import explore_widths
    from awn_keras.deploy.export import ExportedWidth, export_tflite
    from awn_keras.deploy.interpreter import AnyWidthInterpreter
    from awn_keras.deploy.quantization_aware import (
        convert_int8,
        quantize_aware,
        tf_keras_at,
    )
    from awn_keras.deploy.timing import with_milliseconds
    from awn_keras.deploy.verification import Verified, verify_tflite
    from awn_keras.deploy.web import write_page

__all__ = [
    "AnyWidthInterpreter",
    "AnytimeInterpreter",
    "ExportedWidth",
    "Verified",
    "convert_int8",
    "explore_widths",
    "export_tflite",
    "quantize_aware",
    "tf_keras_at",
    "verify_tflite",
    "with_milliseconds",
    "write_page",
]

_MODULES = {
    "AnyWidthInterpreter": "interpreter",
    "AnytimeInterpreter": "anytime",
    "ExportedWidth": "export",
    "Verified": "verification",
    "convert_int8": "quantization_aware",
    "explore_widths": "explorer",
    "export_tflite": "export",
    "quantize_aware": "quantization_aware",
    "tf_keras_at": "quantization_aware",
    "verify_tflite": "verification",
    "with_milliseconds": "timing",
    "write_page": "web",
}


def __getattr__(name: str) -> Any:
    # Names are imported on first use, because the modules that run files must work on a
    # machine without Keras.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
