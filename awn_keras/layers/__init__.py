"""Layers whose output channels read only channels of the same or a smaller grade."""

from awn_keras.layers.conv import TriConv1D, TriConv2D
from awn_keras.layers.dense import TriDense
from awn_keras.layers.separable import TriSeparableConv2D
from awn_keras.layers.transposed import TriConv2DTranspose

#: The Tri layer of each stock layer that has one.
TRI_CLASSES = {
    layer_class.stock_class: layer_class
    for layer_class in (
        TriConv1D,
        TriConv2D,
        TriConv2DTranspose,
        TriDense,
        TriSeparableConv2D,
    )
}

__all__ = [
    "TRI_CLASSES",
    "TriConv1D",
    "TriConv2D",
    "TriConv2DTranspose",
    "TriDense",
    "TriSeparableConv2D",
]
