import keras
import numpy as np
import pytest

from awn_keras import TradeOffCurve, TriDense, plot_curves, plot_history, plot_kernel
from awn_keras.pictures import COLORS
from tests.conftest import classification, eagerly, labelled, small_conv, small_dense

pytestmark = eagerly


def curve(*accuracy):
    widths = np.linspace(0.25, 1.0, len(accuracy)).tolist() if accuracy else [1.0]
    count = len(widths)
    return TradeOffCurve(
        widths=widths,
        accuracy=list(accuracy),
        loss=[1.0] * count,
        macs=[int(4e6 * width) for width in widths],
        parameters=[int(8e3 * width) for width in widths],
        metrics={},
    )


@pytest.mark.parametrize(
    ("x", "first", "label"),
    [
        ("width", 0.25, "width"),
        ("macs", 1.0, "MACs (millions)"),
        ("parameters", 2.0, "parameters (k)"),
    ],
)
def test_curves_are_drawn_over_what_is_asked_for(x, first, label):
    ax = plot_curves({"mine": curve(0.8, 0.9), "other": curve(0.7, 0.8, 0.9)}, x)
    mine, other = ax.get_lines()
    assert mine.get_xdata()[0] == first
    np.testing.assert_allclose(other.get_ydata(), [70, 80, 90])
    assert mine.get_label() == "mine, AUC 85.00 %"
    assert (ax.get_xlabel(), ax.get_ylabel()) == (label, "accuracy (%)")
    # Curves differ in color, and in marks for readers who see no color.
    assert mine.get_color() != other.get_color()
    assert mine.get_marker() != other.get_marker()


def test_one_network_is_a_point():
    ax = plot_curves({"plain": curve(0.9)}, "macs")
    assert ax.get_lines()[0].get_linestyle() == "None"
    assert ax.get_lines()[0].get_label() == "plain"


def test_many_curves_go_round_the_colours():
    ax = plot_curves({str(i): curve(0.5, 0.6) for i in range(8)})
    assert ax.get_lines()[6].get_color() == COLORS[0]


@pytest.mark.parametrize(
    ("curves", "x", "error", "match"),
    [
        ({"a": curve(0.8, 0.9)}, "flops", ValueError, "`x` must be one of"),
        ({}, "width", ValueError, "at least one curve"),
        (curve(0.8, 0.9), "width", TypeError, "a dict from names to curves"),
        ({"a": curve()}, "width", ValueError, r"metrics=\['accuracy'\]"),
    ],
)
def test_curves_refuse(curves, x, error, match):
    with pytest.raises(error, match=match):
        plot_curves(curves, x)


def test_axes_must_be_axes():
    with pytest.raises(TypeError, match=r"`ax` must be Matplotlib axes.*savefig"):
        plot_curves({"a": curve(0.8, 0.9)}, ax="curve.png")


@pytest.mark.parametrize("validate", [True, False])
def test_history_has_a_line_for_each_width(validate):
    model = classification(small_dense())
    data = labelled(model)
    history = model.fit(
        *data, epochs=3, validation_data=data if validate else None, verbose=0
    )
    ax = plot_history(history)
    lines = {line.get_label(): line for line in ax.get_lines()}
    auc = ["AUC"] * validate
    assert list(lines) == ["width 0.25", "width 0.625", "width 1", *auc]
    name = "val_accuracy_w062_5" if validate else "accuracy_w062_5"
    np.testing.assert_allclose(
        lines["width 0.625"].get_ydata(), 100 * np.asarray(history.history[name])
    )
    assert ax.get_ylabel() == f"{'validation' if validate else 'training'} accuracy (%)"
    loss = plot_history(history.history, "loss")
    assert loss.get_ylabel() == f"{'validation' if validate else 'training'} loss"
    assert "AUC" not in [line.get_label() for line in loss.get_lines()]


@pytest.mark.parametrize(
    ("history", "error", "match"),
    [
        ({"loss": [1.0]}, ValueError, r"Received: \['loss'\]"),
        ([1.0], TypeError, "the result of `fit`"),
    ],
)
def test_history_refuses(history, error, match):
    with pytest.raises(error, match=match):
        plot_history(history)


def test_a_kernel_shows_what_the_triangle_forbids():
    model = small_conv()
    layer = next(layer for layer in model.layers if type(layer).__name__ == "TriConv2D")
    ax = plot_kernel(layer)
    image = ax.get_images()[0].get_array()  # (out, in)
    mask = layer.kernel.constraint.mask(layer.kernel.shape)
    np.testing.assert_array_equal(image.mask, ~mask.T)
    expected = np.sqrt(np.mean(np.square(layer.kernel.numpy()), axis=(0, 1))).T
    np.testing.assert_allclose(image.data[mask.T], expected[mask.T], rtol=1e-6)
    assert ax.get_ylabel() == "output channel"
    assert len(ax.figure.axes) == 2  # with its colour bar


def test_a_transposed_kernel_is_drawn_the_same_way():
    from awn_keras import TriConv2DTranspose

    grades = [0.25, 0.5, 1.0]
    layer = TriConv2DTranspose(3, 2, in_grades=grades, out_grades=grades)
    layer.build((None, 4, 4, 3))
    image = plot_kernel(layer).get_images()[0].get_array()
    np.testing.assert_array_equal(image.mask, np.triu(np.ones((3, 3), bool), 1))


def test_a_stock_kernel_has_nothing_forbidden():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    image = plot_kernel(layer).get_images()[0].get_array()
    assert image.shape == (3, 2)
    assert not image.mask.any()


@pytest.mark.parametrize(
    ("layer", "error", "match"),
    [
        (keras.layers.ReLU(), TypeError, "a layer with a kernel"),
        (TriDense(3, name="late"), ValueError, "layer 'late' has no kernel yet"),
    ],
)
def test_kernel_refuses(layer, error, match):
    with pytest.raises(error, match=match):
        plot_kernel(layer)
