import json
from pathlib import Path

import keras
import pytest

from awn_keras import (
    AnyWidthModel,
    TriConv2D,
    TriDense,
    count_macs,
    lenet_3c1l,
    mobilenet_v2,
    slim,
)
from awn_keras.baselines import SharedBN
from awn_keras.deploy.cutting import cut
from awn_keras.layouts import (
    COSTS,
    Cut,
    adding_pays,
    candidates,
    choose_cuts,
    default_widths,
    estimate,
    work_of,
)
from tests.conftest import small_dense
from tests.deploy.test_cutting import (
    WIDTHS,
    blocks_of,
    triangular,
)
from tests.test_slimming import randomize

# ------------------------------------------------------------------------ candidates


def test_unsorted_and_separable_layers_and_stems_stay_whole():
    inputs = keras.Input((6, 6, 2))
    stem = keras.layers.Conv2D(6, 3, name="stem")(inputs)
    x = keras.layers.Concatenate()([stem, stem])
    x = TriConv2D(8, 1, name="after_concatenate")(x)
    x = TriConv2D(8, 1, name="usual")(x)
    outputs = keras.layers.Dense(2, name="readout")(keras.layers.Flatten()(x))
    layers = candidates(AnyWidthModel(inputs, outputs))
    assert set(layers) == {"usual", "readout"}
    assert layers["readout"].readout
    assert layers["readout"].area == 16


def test_layers_of_the_papers_staircase_are_cut_past_what_nothing_reads():
    x = inputs = keras.Input((6,))
    x = keras.layers.Dense(64)(x)
    for units in (32, 64, 16):
        x = TriDense(units, name=f"tri{units}")(x)
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x), staircase="paper")
    assert {"tri32", "tri64", "tri16"} <= set(candidates(model))
    assert count_macs(model, layout="triangular") < count_macs(model)


@pytest.mark.parametrize(
    ("grid", "widths"),
    [
        ([0.1, 0.2, 1.0], [0.1, 0.2, 1.0]),
        ([0.1, 0.2, 0.3, 0.4, 0.7, 1.0], [0.1, 0.4, 0.7, 1.0]),
        (None, [0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_the_widths_of_a_file(grid, widths):
    x = inputs = keras.Input((6,))
    x = TriDense(60)(keras.layers.Dense(60)(x))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x), widths_grid=grid)
    assert default_widths(model) == widths


def test_ordinary_convolutions_are_never_cut():
    plain = lenet_3c1l((16, 16, 1), triangular=False)
    model = SharedBN(plain.input, plain.output)
    for layout in ("auto", "triangular"):
        assert choose_cuts(model, [0.5, 1.0], layout) == {}


def test_a_part_that_is_always_on_is_one_block():
    model = lenet_3c1l((16, 16, 1), filters=64, width_multiplier=1.0, min_width=0.5)
    layer = candidates(model)["conv2"]
    assert layer.cut_at([0.5, 1.0], [8, 16, 24, 48]).ends == (
        (32, 32),
        (48, 48),
        (64, 64),
    )


def test_a_flattened_input_is_cut_by_channels():
    model = lenet_3c1l((16, 16, 1))
    layer = candidates(model)["logits"]
    classes = model.outputs[0].shape[-1]
    assert layer.cut_at(WIDTHS).ends == ((11, classes), (23, classes), (45, classes))


# ---------------------------------------------------------------------- the decision


def test_work_counts_by_hand():
    # 64 channels at 12x12, 3x3 kernels, cut at half.
    model = lenet_3c1l((16, 16, 1), filters=64, width_multiplier=1.0)
    layer = candidates(model)["conv2"]
    rows_in, rows_out = (model.get_layer(n).output.shape[1] for n in ("conv1", "conv2"))
    whole = work_of(layer, 1.0, None)
    assert whole == (1, rows_out**2 * 9 * 64 * 64, rows_out**2 * 64, 9 * 64 * 64, 0, 0)
    halves = work_of(layer, 1.0, Cut(((32, 32), (64, 64))))
    assert halves.macs == 0.75 * whole.macs
    assert halves.weights == 0.75 * whole.weights
    assert halves.outputs == whole.outputs
    assert halves.operators == 4  # a slice, two convolutions, a concatenation
    assert halves.pieces == rows_in**2 + 2 * rows_out**2
    assert halves.copied == rows_in**2 * 32 + rows_out**2 * 64


def test_adding_pays_where_inputs_are_many_and_outputs_few():
    # MobileNetV2's projections and expansions at 14x14, in four blocks.
    reads = [240, 392, 544, 696]
    assert adding_pays(14 * 14, 14 * 14, reads, 24)
    assert not adding_pays(14 * 14, 14 * 14, [40, 64, 88, 112], 152)
    assert not adding_pays(1, 1, reads, 24)  # a dense layer
    assert not adding_pays(14 * 14, 14 * 14, [696], 24)
    # Sums are over outputs, and a transposed convolution has more outputs than inputs.
    assert not adding_pays(14 * 14, 28 * 28, reads, 24)
    assert adding_pays(14 * 14, 7 * 7, [120, 240], 24)
    assert not adding_pays(14 * 14, 14 * 14, [120, 240], 96)


def test_auto_cuts_large_layers_and_leaves_small_ones():
    large = lenet_3c1l((28, 28, 1), filters=128, width_multiplier=1.0)
    assert {"conv2", "conv3"} <= set(choose_cuts(large, WIDTHS))
    small = lenet_3c1l((28, 28, 1), filters=8, width_multiplier=1.0)
    assert choose_cuts(small, WIDTHS) == {}
    # Early layers of MobileNetV2 have many pixels and few weights.
    cuts = choose_cuts(mobilenet_v2((96, 96, 3), classes=1000), [0.35, 0.7, 1.0])
    assert "block2_expand_conv" not in cuts
    assert {"block16_expand_conv", "head_conv", "logits"} <= set(cuts)


def test_the_costs_are_those_that_were_measured():
    path = Path(__file__).parents[1] / "results" / "layouts.json"
    fitted = json.loads(path.read_text())["microseconds_of"]
    for name, value in COSTS._asdict().items():
        assert value == pytest.approx(fitted[name], rel=0.01)  # two digits or three


def test_auto_follows_what_was_measured():
    model = lenet_3c1l((28, 28, 1), filters=128, width_multiplier=1.0)

    def slow_when_cut(candidate, width, option):
        return estimate(candidate, width, None) * (1 if option is None else factor)

    factor = 3
    # The readout takes almost no time, but copies for all widths take much space.
    assert set(choose_cuts(model, WIDTHS, "auto", slow_when_cut)) == {"logits"}
    factor = 100
    assert choose_cuts(model, WIDTHS, "auto", slow_when_cut) == {}


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match=r"`layout` must be one of.*'sparse'"):
        choose_cuts(small_dense(), WIDTHS, "sparse")


def test_a_dense_triangle_is_cut_too():
    inputs = keras.Input((4,))
    x = TriDense(64, name="tri")(keras.layers.Dense(64)(inputs))
    model = randomize(AnyWidthModel(inputs, keras.layers.Dense(3)(x)))
    network = cut(slim(model, 1.0), triangular(model))
    assert [layer.units for layer in blocks_of(network, "tri")] == [16, 16, 32]
