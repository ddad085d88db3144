"""What each layer class does to width: one place for each class.

A layer class is known by its `WidthRule` alone, which one of the files here registers:
`mixing`, `single`, `normalization`, `merging`, `shapes`, `wrapping`, `operations`,
`moving`, `refused`. `sequences` says how classes without a rule are counted. All else
in the package asks the rule.
"""

from awn_keras.rules import (  # each registers its rules
    merging,
    mixing,
    moving,
    normalization,
    operations,
    refused,
    sequences,
    shapes,
    single,
    wrapping,
)
from awn_keras.rules.kinds import (
    CallSize,
    Channels,
    Fixed,
    Flow,
    Graded,
    Kind,
    Labelled,
    PerWidth,
    Unknown,
    comes_and_goes,
    grades_of,
    unique,
)
from awn_keras.rules.operations import resized
from awn_keras.rules.probing import check_each_sample_alone
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    check_mixes_no_samples,
    has_unknown_macs,
    is_opaque,
    keeps_channels_apart,
    merges_channels,
    mixes_channels,
    per_channel,
    per_sample,
    refusal_of,
    register_width_rule,
    rule_of,
    traits_of,
)

__all__ = [
    "CallSize",
    "Channels",
    "Fixed",
    "Flow",
    "Graded",
    "Kind",
    "Labelled",
    "LayerCall",
    "PerWidth",
    "Unknown",
    "WidthRule",
    "check_each_sample_alone",
    "check_mixes_no_samples",
    "comes_and_goes",
    "grades_of",
    "has_unknown_macs",
    "is_opaque",
    "keeps_channels_apart",
    "merges_channels",
    "merging",
    "mixes_channels",
    "mixing",
    "moving",
    "normalization",
    "operations",
    "per_channel",
    "per_sample",
    "refusal_of",
    "refused",
    "register_width_rule",
    "resized",
    "rule_of",
    "sequences",
    "shapes",
    "single",
    "traits_of",
    "unique",
    "wrapping",
]
