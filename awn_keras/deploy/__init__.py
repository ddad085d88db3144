"""From a trained model to files that a phone runs."""

from awn_keras.deploy.export import ExportedWidth, export_tflite
from awn_keras.deploy.interpreter import AnyWidthInterpreter
from awn_keras.deploy.verification import Verified, verify_tflite

__all__ = [
    "AnyWidthInterpreter",
    "ExportedWidth",
    "Verified",
    "export_tflite",
    "verify_tflite",
]
