"""From a trained model to files that a phone runs."""

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
]
