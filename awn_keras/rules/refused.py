"""Stock layers that cannot be before the readout, each with its reason."""

from __future__ import annotations

import keras

from awn_keras.rules.registry import refuse

NORMALIZES = (
    "it normalizes over the channels, which come and go with the width. Use "
    "BatchNormalization, which stays exact at every width"
)
SUMS = (
    "it divides by a sum over the channels, which come and go with the width. Put it "
    "after the readout, which is the last layer that mixes channels and must be a "
    "plain Dense or Conv, no Tri layer"
)
_ATTENDS = (
    "each score is a sum over all channels of two positions. Put it after the readout, "
    "the last Dense or Conv. Before the readout, use MultiHeadAttention, whose heads "
    "come and go as a whole"
)
_RECURS = (
    "its state mixes all channels of a step, and there is no Tri layer for it. Put it "
    "after the readout, the last layer that mixes channels, or on the inputs. Before "
    "the readout, use GRU, LSTM or SimpleRNN, or Bidirectional of one of them with "
    "`merge_mode` 'concat', 'sum', 'mul' or 'ave' and as many units in both directions"
)
_REASONS = {
    "Masking": "its mask depends on all channels of a step",
    "Lambda": "awn_keras cannot see what its function does to the channels. Use your "
    "own layer with `register_width_rule`",
    "SpectralNormalization": "it divides the kernel by the norm of the whole kernel. "
    "Use the inner layer itself with the constraint `UnitSpectralNorm()`, as "
    "`to_any_width` does",
    "TimeDistributed": "its inner layer has no width rule. If the inner layer treats "
    "each step separately, as Dense does, use the inner layer itself. Otherwise "
    "register a rule for its class",
    "AdditiveAttention Attention": _ATTENDS,
    "Bidirectional ConvLSTM1D ConvLSTM2D ConvLSTM3D RNN": _RECURS,
}
for _names, _reason in _REASONS.items():
    for _name in _names.split():
        refuse(getattr(keras.layers, _name), _reason)
