"""All public names on a machine with Keras, imported at once.

Keras loads a saved model only if the classes in it are registered, and importing a
class registers it.
"""

from awn_keras.architectures import (
    efficientnet_lite0,
    lenet_3c1l,
    mobilenet_v2,
)
from awn_keras.callbacks import WidthProgbar, WidthTensorBoard
from awn_keras.constraints import (
    LowerTriangular,
    UnitSpectralNorm,
    triangular_mask,
)
from awn_keras.conversion import ConversionError, reorder_channels, to_any_width
from awn_keras.counting import count_macs, count_parameters
from awn_keras.curves import TradeOffCurve, trade_off_curve
from awn_keras.deploy import (
    explore_widths,
    export_tflite,
    verify_tflite,
    with_milliseconds,
)
from awn_keras.growing import grow
from awn_keras.layers import (
    TriBidirectional,
    TriConv1D,
    TriConv1DTranspose,
    TriConv2D,
    TriConv2DTranspose,
    TriConv3D,
    TriConv3DTranspose,
    TriDense,
    TriEinsumDense,
    TriGroupQueryAttention,
    TriGRU,
    TriLayerNormalization,
    TriLSTM,
    TriMultiHeadAttention,
    TriRMSNormalization,
    TriSeparableConv1D,
    TriSeparableConv2D,
    TriSimpleRNN,
)
from awn_keras.model import AnyWidthModel
from awn_keras.pictures import plot_curves, plot_history, plot_kernel
from awn_keras.rotating import rotate_channels
from awn_keras.rules import WidthRule, per_channel, per_sample, register_width_rule
from awn_keras.runtime import AnytimeInterpreter, AnyWidthInterpreter, read_photo
from awn_keras.slimming import slim
from awn_keras.summary import ModelSummary, NetworkList, list_networks, summarize
from awn_keras.training.samplers import (
    FixedWidths,
    SandwichWidths,
    UniformWidths,
    WidthSampler,
)
from awn_keras.widths import active_channels, channel_grades

__all__ = [
    "AnyWidthInterpreter",
    "AnyWidthModel",
    "AnytimeInterpreter",
    "ConversionError",
    "FixedWidths",
    "LowerTriangular",
    "ModelSummary",
    "NetworkList",
    "SandwichWidths",
    "TradeOffCurve",
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
    "UniformWidths",
    "UnitSpectralNorm",
    "WidthProgbar",
    "WidthRule",
    "WidthSampler",
    "WidthTensorBoard",
    "active_channels",
    "channel_grades",
    "count_macs",
    "count_parameters",
    "efficientnet_lite0",
    "explore_widths",
    "export_tflite",
    "grow",
    "lenet_3c1l",
    "list_networks",
    "mobilenet_v2",
    "per_channel",
    "per_sample",
    "plot_curves",
    "plot_history",
    "plot_kernel",
    "read_photo",
    "register_width_rule",
    "reorder_channels",
    "rotate_channels",
    "slim",
    "summarize",
    "to_any_width",
    "trade_off_curve",
    "triangular_mask",
    "verify_tflite",
    "with_milliseconds",
]
