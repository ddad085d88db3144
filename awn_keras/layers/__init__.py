"""Layers whose output channels read only channels of the same or a smaller grade."""

from awn_keras.layers.conv import TriConv2D
from awn_keras.layers.dense import TriDense

__all__ = ["TriConv2D", "TriDense"]
