"""Stock layers that cannot stand before the readout, each with its reason."""

from __future__ import annotations

import keras

from awn_keras.rules.registry import refuse

NORMALIZES = (
    "it normalizes over the channels, and these come and go with the width. Use "
    "BatchNormalization, which an any-width network keeps exact"
)
SUMS = (
    "it divides by a sum over the channels, and these come and go with the width. Put "
    "it after the readout, the last layer that mixes channels: a plain Dense or Conv, "
    "no Tri layer"
)
_ATTENDS = (
    "each score is a sum over all channels of two positions. It can only stand after "
    "the readout, the last Dense or Conv. MultiHeadAttention can stand before it, as "
    "whole heads come and go"
)
_RECURS = (
    "its state mixes all channels of a step, and no Tri layer is built for it. It can "
    "only stand after the readout, the last layer that mixes channels, or on the "
    "inputs. GRU, LSTM and SimpleRNN can stand before the readout, too, and so can "
    "Bidirectional of one of them with `merge_mode` 'concat', 'sum', 'mul' or 'ave' "
    "and as many units in both directions"
)
_REASONS = {
    "Masking": "it looks at all channels of a step at once",
    "Lambda": "what its function does to the channels cannot be seen. Use a layer of "
    "your own with `register_width_rule`",
    "SpectralNormalization": "it divides the kernel by a norm of all of it. Use the "
    "inner layer itself with the constraint `UnitSpectralNorm()`, as `to_any_width` "
    "does",
    "TimeDistributed": "its inner layer has no width rule. Use the inner layer itself "
    "where it treats each step alone, as Dense does, or register a rule for its class",
    "AdditiveAttention Attention": _ATTENDS,
    "Bidirectional ConvLSTM1D ConvLSTM2D ConvLSTM3D RNN": _RECURS,
}
for _names, _reason in _REASONS.items():
    for _name in _names.split():
        refuse(getattr(keras.layers, _name), _reason)
