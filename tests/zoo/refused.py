"""Architectures that cannot be converted without changes, and why."""

#: A pattern in the text of the error.
REFUSED = {
    "ConvNeXtV2": "'mean.*acts on the channels of an input",
    "MLP-Mixer": r"\(Permute\): must keep the channels last",
    "CBAM": "'mean.*acts on the channels .*For a gate use Conv2D",
    "DLRM": "combines channels that come and go with the width with a tensor",
    "N-BEATS": "combines channels that come and go with the width with a tensor",
    # These have their own layers for normalization and attention, and their own weights
    # for tokens. Such layers have no width rule.
    "keras_hub.MobileNetV5 with RMS": r"No width rule for layer .*\(RmsNorm2d\)",
    "keras_hub.ViT": "weights of its own: .*class_token",
    "keras_hub.DeiT": "weights of its own: .*class_token",
    "keras_hub.MiT": r"\(Matmul\): mixes channels",
    "keras_hub.SwinTransformer": "weights of its own: .*bias_table",
    "kimm.ViT": r"No width rule for layer .*\(PositionEmbedding\)",
    "kimm.MobileViT": r"\(Swapaxes\): acts on the channels",
    "kimm.MobileViTV2": "'stages_.*normalizes over the channels",
}
