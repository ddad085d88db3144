"""Layers whose output channels read only channels of the same or a smaller grade."""

from awn_keras.layers.attention import (
    TRI_ATTENTION,
    TriGroupQueryAttention,
    TriMultiHeadAttention,
)
from awn_keras.layers.conv import TriConv1D, TriConv2D, TriConv3D
from awn_keras.layers.dense import TriDense
from awn_keras.layers.einsum import TriEinsumDense
from awn_keras.layers.normalization import TriLayerNormalization, TriRMSNormalization
from awn_keras.layers.recurrent import (
    TRI_RECURRENT,
    TriBidirectional,
    TriGRU,
    TriLSTM,
    TriSimpleRNN,
)
from awn_keras.layers.separable import TriSeparableConv1D, TriSeparableConv2D
from awn_keras.layers.transposed import (
    TriConv1DTranspose,
    TriConv2DTranspose,
    TriConv3DTranspose,
)

#: Tri layers by their stock layer, without recurrent and attention layers.
TRI_CLASSES = {
    layer_class.stock_class: layer_class
    for layer_class in (
        TriConv1D,
        TriConv1DTranspose,
        TriConv2D,
        TriConv2DTranspose,
        TriConv3D,
        TriConv3DTranspose,
        TriDense,
        TriEinsumDense,
        TriLayerNormalization,
        TriRMSNormalization,
        TriSeparableConv1D,
        TriSeparableConv2D,
    )
}

__all__ = [
    "TRI_ATTENTION",
    "TRI_CLASSES",
    "TRI_RECURRENT",
    "TriBidirectional",
    "TriConv1D",
    "TriConv1DTranspose",
    "TriConv2D",
    "TriConv2DTranspose",
    "TriConv3D",
    "TriConv3DTranspose",
    "TriDense",
    "TriEinsumDense",
    "TriGRU",
    "TriGroupQueryAttention",
    "TriLSTM",
    "TriLayerNormalization",
    "TriMultiHeadAttention",
    "TriRMSNormalization",
    "TriSeparableConv1D",
    "TriSeparableConv2D",
    "TriSimpleRNN",
]
