"""Architectures that cannot be any-width as they are, and why."""

#: A pattern that the error holds.
REFUSED = {
    "ConvNeXtV2": "'mean.*acts on the channels of an input",
    "MLP-Mixer": r"\(Permute\): must keep the channels last",
    "CBAM": "'mean.*acts on the channels .*For a gate take Conv2D",
    "DLRM": "joins channels that come and go with the width with a tensor",
    "N-BEATS": "joins channels that come and go with the width with a tensor",
}
