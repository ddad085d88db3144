import keras
import numpy as np
import pytest

from awn_keras import (
    FixedWidths,
    TriConv2D,
    count_macs,
    count_parameters,
    efficientnet_lite0,
    lenet_3c1l,
    list_networks,
    mobilenet_v2,
    slim,
)
from awn_keras.graph import graph_nodes
from tests.conftest import at_width, classification, eagerly

pytestmark = [pytest.mark.backends, eagerly]


def test_lenet_is_the_papers():
    model = lenet_3c1l((32, 32, 3), 100)
    assert [node.operation.name for node in graph_nodes(model)] == [
        *("conv1", "bn1", "relu1"),
        *("conv2", "bn2", "relu2", "pool2"),
        *("conv3", "bn3", "relu3", "pool3"),
        *("flatten", "logits"),
    ]
    # 32 channels times sqrt(2); rows and cols 32, 30, 28, 14, 10, 5.
    shapes = {
        node.operation.name: node.outputs[0].shape[1:] for node in graph_nodes(model)
    }
    assert shapes["conv1"] == (30, 30, 45)
    assert shapes["conv2"] == (28, 28, 45)
    assert shapes["conv3"] == (10, 10, 45)
    assert shapes["flatten"] == (5 * 5 * 45,)
    assert shapes["logits"] == (100,)
    batch_norm = model.get_layer("bn1")
    assert (batch_norm.momentum, batch_norm.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize(
    ("shape", "padding"), [((28, 28, 1), "valid"), ((8, 8, 1), "same")]
)
def test_input_sizes(shape, padding):
    model = lenet_3c1l(shape, padding=padding)
    assert model(np.zeros((2, *shape))).shape == (2, 10)


def test_weights_are_drawn_as_by_the_authors():
    model = lenet_3c1l(width_multiplier=4)
    for name, size in (("conv1", 3), ("conv2", 3), ("conv3", 5)):
        kernel = model.get_layer(name).get_weights()[0]
        drawn = kernel[kernel != 0]
        # With a thousand numbers or more, the error of the deviation is about 2 %.
        expected = np.sqrt(2 / (size * size * 128))
        assert drawn.std() == pytest.approx(expected, rel=0.1)
    assert model.get_layer("logits").get_weights()[0].std() == pytest.approx(
        0.01, rel=0.05
    )


def test_weight_decay_is_an_l2_penalty_of_half_on_all_weights():
    model = lenet_3c1l(filters=4, weight_decay=0.5)
    squares = sum(
        float((keras.ops.convert_to_numpy(w) ** 2).sum())
        for w in model.trainable_weights
    )
    # float32 sums of some thousand numbers.
    penalty = keras.ops.convert_to_numpy(sum(model.losses))
    assert penalty == pytest.approx(0.25 * squares, rel=1e-5)
    assert not lenet_3c1l(filters=4).losses


def test_arguments_reach_the_model():
    model = lenet_3c1l(filters=16, width_multiplier=1.0, divisor=8, min_width=0.5)
    assert model.divisor == 8
    assert model.distinct_widths == (0.5, 0.666667, 1.0)  # blocks of four
    grid = lenet_3c1l(filters=4, widths_grid=[0.5, 1.0])
    assert grid.distinct_widths == (0.5, 1.0)
    assert count_parameters(model, 0.5) < count_parameters(model, 1.0)


@pytest.mark.parametrize("architecture", [lenet_3c1l, mobilenet_v2])
def test_images_without_channels_are_refused(architecture):
    with pytest.raises(ValueError, match=r"`input_shape` must be \(rows, cols, chan"):
        architecture((28, 28))


def test_images_too_small_for_valid_padding_are_refused():
    with pytest.raises(ValueError, match=r"use `padding='same'`\. Received"):
        lenet_3c1l((8, 8, 1))


# --------------------------------------------------------------------- MobileNetV2

# Expansion, channels, blocks, stride: Sandler et al. (2018), table 2, with the stride
# 1 of its CIFAR variant in the second stage.
STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


def mobilenet_weights(classes, widen=lambda channels: channels):
    """Number of weights by the formula of each block."""
    norm = 4  # gamma, beta and two moving statistics for each channel
    into = widen(32)
    total = 9 * 3 * into + norm * into
    for expansion, channels, blocks, _ in STAGES:
        for _ in range(blocks):
            inner, out = expansion * into, widen(channels)
            if expansion > 1:
                total += into * inner + norm * inner
            total += 9 * inner + norm * inner  # depthwise
            total += inner * out + norm * out
            into = out
    head = widen(1280)
    return total + into * head + norm * head + head * classes + classes


@pytest.fixture(scope="module")
def mobilenet():
    keras.utils.set_random_seed(0)
    return mobilenet_v2()


@pytest.fixture(scope="module")
def plain_mobilenet():
    keras.utils.set_random_seed(0)
    return mobilenet_v2(width_multiplier=1)


def test_mobilenet_has_the_weights_of_the_known_one(mobilenet, plain_mobilenet):
    # 2,257,984 are in the trunk of `keras.applications.MobileNetV2`; strides and
    # image sizes do not matter.
    assert plain_mobilenet.count_params() == 2_257_984 + 1280 * 10 + 10
    assert plain_mobilenet.count_params() == mobilenet_weights(10)
    # Times sqrt(2), in eights.
    widened = {16: 24, 24: 32, 32: 48, 64: 88, 96: 136, 160: 224, 320: 456, 1280: 1808}
    assert mobilenet.count_params() == mobilenet_weights(10, widened.get)
    assert count_parameters(mobilenet) == mobilenet.count_params()


def test_mobilenet_strides(plain_mobilenet):
    sizes = {
        layer.name: layer.output.shape[1:3]
        for layer in plain_mobilenet.layers
        if layer.name.endswith("conv")
    }
    assert sizes["stem_conv"] == (32, 32)
    index = 0
    size = 32
    for _, _, blocks, stride in STAGES:
        size //= stride
        for _ in range(blocks):
            index += 1
            assert sizes[f"block{index}_project_conv"] == (size, size)
    assert index == 17
    assert sizes["head_conv"] == (4, 4)
    assert plain_mobilenet.output_shape == (None, 10)


def test_mobilenet_is_made_of_what_the_paper_names(plain_mobilenet):
    convolutions = [
        layer for layer in plain_mobilenet.layers if layer.name.endswith("conv")
    ]
    assert not any(layer.use_bias for layer in convolutions)
    assert type(convolutions[0]) is keras.layers.Conv2D
    for layer in convolutions[1:]:
        depthwise = "depthwise" in layer.name
        wanted = keras.layers.DepthwiseConv2D if depthwise else TriConv2D
        assert type(layer) is wanted
        assert layer.kernel_size == ((3, 3) if depthwise else (1, 1))
    # An expansion of 1 adds no layer.
    assert "block1_expand_conv" not in {layer.name for layer in convolutions}
    for layer in plain_mobilenet.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
        if isinstance(layer, keras.layers.ReLU):
            assert layer.max_value == 6
            assert "project" not in layer.name
    added = [
        layer.name
        for layer in plain_mobilenet.layers
        if isinstance(layer, keras.layers.Add)
    ]
    # All but the first block of each stage.
    assert added == [f"block{i}_add" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]


def test_mobilenet_channels_are_multiples_of_four(mobilenet):
    assert mobilenet.min_width == 0.35
    assert len(mobilenet.distinct_widths) > 90
    for name, counts in list_networks(mobilenet).channels.items():
        if name != "logits":
            # Layers of 24 channels have blocks of four, all others of eight.
            assert not any(count % 4 for count in counts)
            assert counts == sorted(counts)


def test_a_slim_mobilenet_is_the_model_at_its_width(mobilenet):
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    small = slim(mobilenet, 0.5)
    for layer in small.layers:
        if layer.name.endswith("conv"):
            assert layer.output.shape[-1] % 8 == 0
    assert small.count_params() == count_parameters(mobilenet, 0.5)
    assert count_macs(small) == count_macs(mobilenet, 0.5)
    (wanted,) = at_width(mobilenet, 0.5, x, training=False)
    mobilenet.width = 1.0
    got = keras.ops.convert_to_numpy(small(x, training=False))
    # 52 convolutions with float32 sums of up to hundreds of numbers in another order.
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


def test_mobilenet_weights_are_drawn_as_by_the_authors(plain_mobilenet):
    # With thousands of numbers, the error of the deviation is a few percent.
    for name, variance in (
        ("block16_project_conv", 2 / 160),
        ("head_conv", 2 / 1280),
        ("block16_depthwise_conv", 2 / 9),
    ):
        kernel = plain_mobilenet.get_layer(name).get_weights()[0]
        drawn = kernel[kernel != 0]
        assert drawn.std() == pytest.approx(np.sqrt(variance), rel=0.05)
    readout = plain_mobilenet.get_layer("logits").get_weights()[0]
    assert readout.std() == pytest.approx(0.01, rel=0.05)


def test_a_step_lowers_the_loss_of_a_mobilenet():
    model = mobilenet_v2(
        (8, 8, 3), 3, width_multiplier=0.25, divisor=4, weight_decay=1e-4
    )
    squares = sum(
        float((keras.ops.convert_to_numpy(w) ** 2).sum())
        for w in model.trainable_weights
    )
    # Float32 sums of some ten thousand numbers; the triangle's zeros add nothing.
    penalty = float(keras.ops.convert_to_numpy(sum(model.losses)))
    assert penalty == pytest.approx(0.5e-4 * squares, rel=1e-5)
    # A short step: the gradient is long (its square is about 1000), because the last
    # normalizations see one pixel of each of 16 images. The same widths in both steps.
    # Eager, because compilation takes longer than two steps.
    classification(
        model,
        optimizer=keras.optimizers.SGD(1e-5),
        widths=FixedWidths([0.35, 1.0]),
        report_widths=(),
        run_eagerly=True,
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 3)), np.arange(16) % 3
    before = model.train_on_batch(x, y, return_dict=True)["loss"]
    model.reset_metrics()
    after = model.train_on_batch(x, y, return_dict=True)["loss"]
    assert before - after > 1e-3  # float32 losses are known to 1e-6


def test_arguments_reach_the_mobilenet():
    grid = mobilenet_v2((8, 8, 3), width_multiplier=0.25, widths_grid=[0.5, 1.0])
    assert grid.distinct_widths == (0.5, 1.0)
    model = mobilenet_v2(
        (8, 8, 1), 7, width_multiplier=0.5, divisor=2, min_width=0.5, name="small"
    )
    assert (model.name, model.min_width, model.divisor) == ("small", 0.5, 2)
    assert model.output_shape == (None, 7)
    assert model.get_layer("stem_conv").filters == 16
    assert not model.losses
    # A layer that would round to no channels keeps one block.
    tiny = mobilenet_v2((8, 8, 3), width_multiplier=0.1)
    assert tiny.get_layer("block1_project_conv").filters == 8


@pytest.mark.parametrize(
    ("size", "macs", "end"),
    # At 32, as in the paper. From 96 on, as many as in keras.applications at that size.
    [(32, 87_976_448, 4), (64, 97_806_848, 4), (96, 55_021_952, 3)],
)
def test_strides_of_mobilenet_v2_follow_the_size(size, macs, end):
    model = mobilenet_v2((size, size, 3), width_multiplier=1.0, triangular=False)
    assert count_macs(model) == macs
    assert model.get_layer("head_conv").output.shape == (None, end, end, 1280)


def test_mobilenet_v2_of_photos_has_the_macs_of_keras_applications():
    shape = (96, 96, 3)
    ours = mobilenet_v2(shape, 1000, width_multiplier=1.0, triangular=False)
    theirs = keras.applications.MobileNetV2(shape, weights=None)
    # The network of keras.applications has padding layers, which have no MACs.
    assert count_macs(ours) == count_macs(theirs)


def test_efficientnet_lite0_takes_pixels_and_any_number_of_classes():
    model = efficientnet_lite0((64, 48, 3), 5)
    assert model(np.full((1, 64, 48, 3), 255.0)).shape == (1, 5)
    scale = model.get_layer("scale")
    np.testing.assert_allclose(
        np.asarray(scale(np.float32([0, 127, 255]))), [-127 / 128, 0, 1]
    )


def test_efficientnet_lite0_refuses_what_it_has_no_weights_for():
    with pytest.raises(ValueError, match="`weights` must be 'imagenet' or None"):
        efficientnet_lite0(weights="noisy-student")
    with pytest.raises(ValueError, match=r"3 channels \(RGB\)"):
        efficientnet_lite0((64, 64, 1))
