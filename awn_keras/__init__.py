"""Any-width networks for Keras: train every width at once, run any of them."""

from importlib.metadata import PackageNotFoundError, version

from awn_keras.architectures import lenet_3c1l
from awn_keras.constraints import LowerTriangular, triangular_mask
from awn_keras.deploy import export_tflite
from awn_keras.evaluation import (
    TradeOffCurve,
    count_macs,
    count_parameters,
    trade_off_curve,
)
from awn_keras.layers import TriConv2D, TriDense
from awn_keras.model import AnyWidthModel
from awn_keras.propagation import (
    WidthRule,
    per_channel,
    per_sample,
    register_width_rule,
)
from awn_keras.slimming import slim
from awn_keras.widths import (
    FixedWidths,
    SandwichWidths,
    UniformWidths,
    WidthSampler,
    active_channels,
    channel_grades,
)

try:
    __version__ = version("awn_keras")
except PackageNotFoundError:  # running from a source tree
    __version__ = "0+unknown"

__all__ = [
    "AnyWidthModel",
    "FixedWidths",
    "LowerTriangular",
    "SandwichWidths",
    "TradeOffCurve",
    "TriConv2D",
    "TriDense",
    "UniformWidths",
    "WidthRule",
    "WidthSampler",
    "active_channels",
    "channel_grades",
    "count_macs",
    "count_parameters",
    "export_tflite",
    "lenet_3c1l",
    "per_channel",
    "per_sample",
    "register_width_rule",
    "slim",
    "trade_off_curve",
    "triangular_mask",
]
