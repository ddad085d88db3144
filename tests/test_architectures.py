import keras
import numpy as np
import pytest

from awn_keras import count_parameters, lenet_3c1l
from awn_keras.graph import graph_nodes


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
        # Thousands of numbers: their standard deviation is known to 2 %.
        expected = np.sqrt(2 / (size * size * 128))
        assert drawn.std() == pytest.approx(expected, rel=0.05)
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
    assert float(sum(model.losses)) == pytest.approx(0.25 * squares, rel=1e-5)
    assert not lenet_3c1l(filters=4).losses


def test_arguments_reach_the_model():
    model = lenet_3c1l(filters=16, width_multiplier=1.0, divisor=8, min_width=0.5)
    assert model.divisor == 8
    assert model.distinct_widths == (0.5, 1.0)
    grid = lenet_3c1l(filters=4, widths_grid=[0.5, 1.0])
    assert grid.distinct_widths == (0.5, 1.0)
    assert count_parameters(model, 0.5) < count_parameters(model, 1.0)


def test_images_without_channels_are_refused():
    with pytest.raises(ValueError, match=r"`input_shape` must be \(rows, cols, chan"):
        lenet_3c1l((28, 28))


def test_images_too_small_for_valid_padding_are_refused():
    with pytest.raises(ValueError, match=r"use `padding='same'`\. Received"):
        lenet_3c1l((8, 8, 1))
