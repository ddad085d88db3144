"""Names that need LiteRT, NumPy and Pillow alone: they run exported files."""

from awn_keras.deploy.anytime import AnytimeInterpreter
from awn_keras.deploy.interpreter import AnyWidthInterpreter
from awn_keras.photos import read_photo

__all__ = ["AnyWidthInterpreter", "AnytimeInterpreter", "read_photo"]
