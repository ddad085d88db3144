"""From a trained model to files that a phone runs."""

from awn_keras.deploy.export import ExportedWidth, export_tflite

__all__ = ["ExportedWidth", "export_tflite"]
