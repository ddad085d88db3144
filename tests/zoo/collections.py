"""Networks of KerasHub and kimm, as small as their options allow.

They need their package; `.ci/collections` installs both packages. All weights are
random, so nothing is downloaded.
"""

from importlib.util import find_spec

import keras

from tests.zoo.blocks import CLASSES, L

#: The argument of `pip install` for each package.
PACKAGES = {"keras_hub": "keras-hub==0.32.0", "kimm": "kimm==0.2.5"}
IMAGE, LARGE = (32, 32, 3), (64, 64, 3)


def missing(name):
    """Returns the package to install for an architecture, or `None`."""
    package = name.split(".")[0]
    if package in PACKAGES and find_spec(package) is None:
        return PACKAGES[package]
    return None


def classified(backbone):
    """Adds a mean over positions and a readout to a backbone."""
    x = backbone.output
    if isinstance(x, dict):
        *_, x = x.values()  # the output of the last stage
    pooling = L.GlobalAveragePooling1D if x.ndim == 3 else L.GlobalAveragePooling2D
    return keras.Model(backbone.inputs, L.Dense(CLASSES)(pooling()(x)))


# --------------------------------------------------------------------------- KerasHub


def hub():
    import keras_hub

    return keras_hub.models


def hub_resnet(kind="bottleneck_block_vd", stem=(16, 16, 32), shape=IMAGE, **kwargs):
    return hub().ResNetBackbone(
        input_conv_filters=list(stem),
        input_conv_kernel_sizes=[3] * len(stem),
        stackwise_num_filters=[64, 96],  # the first must be 64
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type=kind,
        image_shape=shape,
        **kwargs,
    )


def hub_resnet_vd():
    return classified(hub_resnet())


def hub_resnet_v2():
    return classified(hub_resnet("basic_block", (64,), use_pre_activation=True))


def hub_densenet():
    return classified(hub().DenseNetBackbone([2, 2], image_shape=IMAGE, growth_rate=16))


def hub_efficientnet():
    """EfficientNet with a block of each kind."""
    kinds = ("v1", "fused", "unfused", "cba")
    return classified(
        hub().EfficientNetBackbone(
            stackwise_width_coefficients=[1.0] * 4,
            stackwise_depth_coefficients=[1.0] * 4,
            stackwise_kernel_sizes=[3, 3, 5, 3],
            stackwise_num_repeats=[1, 1, 2, 1],
            stackwise_input_filters=[16, 24, 24, 32],
            stackwise_output_filters=[24, 24, 32, 32],
            stackwise_expansion_ratios=[1, 2, 4, 4],
            stackwise_squeeze_and_excite_ratios=[0.25] * 4,
            stackwise_strides=[2, 1, 2, 1],
            stackwise_block_types=kinds,
            stackwise_force_input_filters=[0] * 4,
            stackwise_nores_option=[False] * 4,
            dropout=0.0,
            num_features=64,
            input_shape=IMAGE,
        )
    )


def hub_mobilenet():
    """MobileNetV3 with its classifier."""
    backbone = hub().MobileNetBackbone(
        stackwise_expansion=[[32, 48], [64, 64]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu"] * 2, ["hard_swish"] * 2],
        stackwise_padding=[[1, 1], [2, 2]],
        input_num_filters=16,
        input_activation="hard_swish",
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=64,
        output_num_filters=64,
        output_activation="hard_swish",
        image_shape=IMAGE,
    )
    return hub().MobileNetImageClassifier(
        backbone, num_classes=CLASSES, num_features=32, preprocessor=None
    )


def hub_mobilenet_v5(norm="batch_norm"):
    none = [[0], [0, 0]]
    return classified(
        hub().MobileNetV5Backbone(
            stackwise_block_types=[["er"], ["uir", "uir"]],
            stackwise_num_blocks=[1, 2],
            stackwise_num_filters=[[24], [48, 48]],
            stackwise_strides=[[2], [2, 1]],
            stackwise_act_layers=[["relu"], ["gelu", "gelu"]],
            stackwise_exp_ratios=[[2.0], [2.0, 4.0]],
            stackwise_se_ratios=none,
            stackwise_dw_kernel_sizes=[[0], [5, 5]],
            stackwise_dw_start_kernel_sizes=[[0], [3, 0]],
            stackwise_dw_end_kernel_sizes=none,
            stackwise_exp_kernel_sizes=[[3], [0, 0]],
            stackwise_pw_kernel_sizes=[[1], [0, 0]],
            stackwise_num_heads=none,
            stackwise_key_dims=none,
            stackwise_value_dims=none,
            stackwise_kv_strides=none,
            stackwise_use_cpe=[[False], [False, False]],
            use_msfa=False,
            norm_layer=norm,
            layer_scale_init_value=0.1,
            image_shape=IMAGE,
        )
    )


def hub_mobilenet_v5_rms():
    return hub_mobilenet_v5("rms_norm")


def hub_csp(block="bottleneck_block", stage="csp", **ratios):
    ratios = {"bottle_ratio": [1.0], "block_ratio": [0.5], **ratios}
    return classified(
        hub().CSPNetBackbone(
            stem_filters=32,
            stem_kernel_size=3,
            stem_strides=2,
            stackwise_depth=[1, 2],
            stackwise_strides=[1, 2],
            stackwise_num_filters=[32, 48],
            block_type=block,
            stage_type=stage,
            image_shape=IMAGE,
            **ratios,
        )
    )


def hub_csp_darknet():
    return hub_csp("dark_block", "csp", expand_ratio=[1.0], cross_linear=True)


def hub_csp_cs3():
    return hub_csp("edge_block", "cs3")


def hub_hgnet_v2():
    """HGNetV2 with light convolutions, and a scale and bias after each activation."""
    return classified(
        hub().HGNetV2Backbone(
            depths=[1, 1],
            embedding_size=32,
            hidden_sizes=[64, 96],
            stem_channels=[3, 16, 32],
            hidden_act="relu",
            use_learnable_affine_block=True,
            stackwise_stage_filters=[(32, 16, 64, 1, 2, 3), (64, 32, 96, 1, 2, 3)],
            apply_downsample=[False, True],
            use_lightweight_conv_block=[False, True],
            image_shape=IMAGE,
        )
    )


def hub_xception():
    return classified(
        hub().XceptionBackbone(
            [[32, 64], [64, 64], [96, 96]], [True, False, False], image_shape=LARGE
        )
    )


def hub_vgg():
    backbone = hub().VGGBackbone([1, 2], [16, 32], image_shape=IMAGE)
    return hub().VGGImageClassifier(
        backbone, num_classes=CLASSES, pooling_hidden_dim=64, preprocessor=None
    )


def hub_encoder():
    """A backbone for other networks, for images of any size."""
    return hub().ResNetBackbone(
        [64], [3], [64, 64, 96, 96], [1] * 4, [1, 2, 2, 2], "basic_block"
    )


def hub_deeplab():
    backbone = hub().DeepLabV3Backbone(
        hub_encoder(),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=(4, 4),
        dilation_rates=[2, 4],
        projection_filters=16,
        image_shape=LARGE,
    )
    return hub().DeepLabV3ImageSegmenter(backbone, num_classes=CLASSES)


def hub_retinanet():
    """The pyramid of features of RetinaNet, with a map of scores on each level."""
    backbone = hub().RetinaNetBackbone(
        hub_encoder(), min_level=3, max_level=5, use_p5=False, image_shape=LARGE
    )
    maps = [L.Conv2D(8, 1)(x) for x in backbone.output.values()]
    return keras.Model(backbone.inputs, maps)


def hub_vit():
    return classified(hub().ViTBackbone(IMAGE, (8, 8), 2, 4, 32, 64))


def hub_deit():
    return classified(hub().DeiTBackbone(IMAGE, (8, 8), 2, 4, 32, 64))


def hub_mit():
    return classified(
        hub().MiTBackbone(
            layerwise_depths=[1, 1],
            num_layers=2,
            layerwise_num_heads=[2, 4],
            layerwise_sr_ratios=[2, 1],
            max_drop_path_rate=0.1,
            layerwise_patch_sizes=[7, 3],
            layerwise_strides=[4, 2],
            hidden_dims=[32, 64],
            image_shape=IMAGE,
        )
    )


def hub_swin():
    return classified(hub().SwinTransformerBackbone(IMAGE, 32, (2, 1), (2, 4), 4))


# ------------------------------------------------------------------------------- kimm


def kimm_network(module, name, shape=IMAGE, **options):
    """Builds a network of a private class, smaller than the public presets."""
    from importlib import import_module

    network = getattr(import_module(f"kimm._src.models.{module}"), name)
    return network(
        input_shape=shape,
        weights=None,
        classes=CLASSES,
        classifier_activation=None,
        include_top=True,
        include_preprocessing=True,
        pooling=None,
        dropout_rate=0.0,
        **options,
    )


def kimm_preset(name):
    import kimm

    return getattr(kimm.models, name)(
        input_shape=IMAGE, weights=None, classes=CLASSES, classifier_activation=None
    )


def kimm_regnet():
    """RegNetY: convolutions in groups, squeeze-and-excite."""
    options = {"w0": 24, "wa": 24.5, "wm": 2.5, "group_size": 8, "depth": 4}
    return kimm_network("regnet", "RegNet", se_ratio=0.25, **options)


def kimm_lcnet():
    return kimm_preset("LCNet035")


def kimm_hgnet_v2():
    return kimm_preset("HGNetV2B0")


def kimm_mobileone():
    depths, channels = [1, 1, 2, 1], [16, 24, 32, 48]
    return kimm_network(
        "mobileone",
        "MobileOne",
        num_blocks=depths,
        num_channels=channels,
        stem_channels=16,
        branch_size=2,
    )


def kimm_repvgg():
    depths, channels = [1, 1, 2, 1], [16, 24, 32, 48]
    return kimm_network(
        "repvgg",
        "RepVGG",
        num_blocks=depths,
        num_channels=channels,
        stem_channels=16,
    )


def kimm_inception_next():
    return kimm_network(
        "inception_next",
        "InceptionNeXt",
        shape=LARGE,  # or the last normalization has only one pixel of each sample
        depths=[1] * 4,
        hidden_channels=[24, 48, 64, 64],
    )


def kimm_convnext():
    return kimm_network(
        "convnext", "ConvNeXt", depths=[1] * 4, hidden_channels=[16, 24, 32, 32]
    )


def kimm_convmixer():
    options = {"depth": 2, "hidden_dim": 32, "patch_size": 7, "kernel_size": 7}
    return kimm_network("convmixer", "ConvMixer", **options)


def kimm_mobilenet_v3():
    return kimm_preset("MobileNetV3W050Small")


def kimm_vit():
    options = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    return kimm_network("vision_transformer", "VisionTransformer", **options)


def kimm_mobilevit():
    return kimm_network("mobilevit", "MobileViT", shape=LARGE, config="v1_xs")


def kimm_mobilevit_v2():
    return kimm_network("mobilevit", "MobileViTV2", shape=LARGE, multiplier=0.5)


COLLECTIONS = {
    "keras_hub.ResNetVD": hub_resnet_vd,
    "keras_hub.ResNetV2": hub_resnet_v2,
    "keras_hub.DenseNet": hub_densenet,
    "keras_hub.EfficientNet": hub_efficientnet,
    "keras_hub.MobileNetV3": hub_mobilenet,
    "keras_hub.MobileNetV5": hub_mobilenet_v5,
    "keras_hub.MobileNetV5 with RMS": hub_mobilenet_v5_rms,
    "keras_hub.CSPDarkNet": hub_csp_darknet,
    "keras_hub.CSPNet with cs3": hub_csp_cs3,
    "keras_hub.HGNetV2": hub_hgnet_v2,
    "keras_hub.Xception": hub_xception,
    "keras_hub.VGG": hub_vgg,
    "keras_hub.DeepLabV3": hub_deeplab,
    "keras_hub.RetinaNet": hub_retinanet,
    "keras_hub.ViT": hub_vit,
    "keras_hub.DeiT": hub_deit,
    "keras_hub.MiT": hub_mit,
    "keras_hub.SwinTransformer": hub_swin,
    "kimm.RegNetY": kimm_regnet,
    "kimm.LCNet": kimm_lcnet,
    "kimm.HGNetV2": kimm_hgnet_v2,
    "kimm.MobileOne": kimm_mobileone,
    "kimm.RepVGG": kimm_repvgg,
    "kimm.InceptionNeXt": kimm_inception_next,
    "kimm.ConvNeXt": kimm_convnext,
    "kimm.ConvMixer": kimm_convmixer,
    "kimm.MobileNetV3": kimm_mobilenet_v3,
    "kimm.ViT": kimm_vit,
    "kimm.MobileViT": kimm_mobilevit,
    "kimm.MobileViTV2": kimm_mobilevit_v2,
}
