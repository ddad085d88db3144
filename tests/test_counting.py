import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    TriConv1D,
    TriConv2D,
    TriConv2DTranspose,
    TriDense,
    TriSeparableConv2D,
    WidthRule,
    channel_grades,
    count_macs,
    count_parameters,
    lenet_3c1l,
    register_width_rule,
    slim,
)
from awn_keras.counting import (
    active_parameters_at,
    count_active_parameters,
    executed_macs,
    known_macs,
    layer_uses,
    macs_at,
    parameters_at,
)
from awn_keras.deploy.benchmark.costs import costs_of
from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut
from awn_keras.layouts import choose_cuts, default_widths
from awn_keras.rules import per_sample
from awn_keras.slices import active_slices
from tests.conftest import (
    eagerly,
    rich,
    small_conv,
    small_dense,
)

pytestmark = [pytest.mark.backends, eagerly]


def test_macs_of_lenet_by_hand():
    model = lenet_3c1l((32, 32, 3), 10)
    for width, k in ((0.25, 11), (0.5, 23), (1.0, 45)):
        by_hand = (
            30 * 30 * 9 * 3 * k
            + 28 * 28 * 9 * k * k
            + 10 * 10 * 25 * k * k
            + 25 * k * 10
        )
        assert count_macs(model, width) == by_hand


@pytest.mark.parametrize("make", [small_conv, rich])
def test_macs_at_a_width_are_those_of_the_slimmed_network(make):
    model = make()
    for width in model.distinct_widths:
        small = slim(model, width)
        assert count_macs(model, width) == count_macs(small)
        assert count_parameters(model, width) == count_parameters(small)
        assert count_parameters(small) == small.count_params()
    assert count_macs(model) == count_macs(model, 1.0)


@pytest.mark.parametrize("make", [small_conv, rich])
def test_counting_at_many_widths_is_counting_at_each(make):
    model = make()
    # More widths than there are networks. Some widths are equal to a grade.
    widths = [*np.linspace(0.25, 1.0, 61).tolist(), 0.25, *model.distinct_widths]
    assert macs_at(model, widths).tolist() == [count_macs(model, w) for w in widths]
    counts = parameters_at(model, widths)
    assert counts.tolist() == [count_parameters(model, w) for w in widths]
    assert counts.dtype == np.int64
    assert macs_at(model, []).shape == parameters_at(model, []).shape == (0,)


def separable(multiplier=3):
    """A pointwise kernel with several entries for each channel of its input."""
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(6, 1)(inputs)
    x = TriSeparableConv2D(8, 3, depth_multiplier=multiplier, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.2)


def transposed():
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(6, 1)(inputs)
    x = TriConv2DTranspose(8, 3, strides=2, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.2)


def series():
    inputs = keras.Input((9, 2))
    x = TriConv1D(8, 3, strides=2)(keras.layers.Conv1D(6, 1)(inputs))
    x = keras.layers.Reshape((-1,))(x)
    return AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.2)


def test_several_entries_for_each_channel_by_hand():
    for width, into, out in ((0.2, 1, 2), (0.5, 3, 4), (1.0, 6, 8)):
        pointwise = 3 * into * out
        macs = 16 * (2 * into + 9 * 3 * into + pointwise) + out * 3
        assert count_macs(separable(), width) == macs
        parameters = 2 * into + into + 9 * 3 * into + pointwise + out + out * 3 + 3
        assert count_parameters(separable(), width) == parameters


def test_macs_of_tri_layers_by_hand():
    for width, into, out in ((0.2, 1, 2), (0.5, 3, 4), (1.0, 6, 8)):
        # Counted at the 4x4 positions of the inputs, though the output has 8x8.
        macs = 16 * 2 * into + 16 * 9 * into * out + out * 3
        assert count_macs(transposed(), width) == macs
        macs = 9 * 2 * into + 4 * 3 * into * out + 4 * out * 3
        assert count_macs(series(), width) == macs


@pytest.mark.parametrize("make", [separable, transposed, series])
def test_counts_of_every_tri_layer_are_those_of_the_slimmed_network(make):
    model = make()
    for width in model.distinct_widths:
        small = slim(model, width)
        assert count_macs(model, width) == count_macs(small)
        assert count_parameters(model, width) == small.count_params()


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (keras.layers.Conv1D(5, 3), (9, 2), 7 * 3 * 2 * 5),
        (keras.layers.Conv1D(4, 3, groups=2), (9, 2), 7 * 3 * 1 * 4),
        (keras.layers.Conv3D(5, 2), (4, 4, 4, 3), 27 * 8 * 3 * 5),
        (keras.layers.Conv1DTranspose(5, 3, strides=2), (9, 2), 9 * 3 * 2 * 5),
        (keras.layers.Conv3DTranspose(5, 2), (3, 3, 3, 2), 27 * 8 * 2 * 5),
        (keras.layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 2), 7 * 3 * 4),
        (keras.layers.SeparableConv1D(5, 3), (9, 2), 7 * (3 * 2 + 2 * 5)),
        (keras.layers.Dense(5), (9, 2), 9 * 2 * 5),
    ],
)
def test_macs_of_stock_layers_by_hand(layer, shape, macs):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    assert count_macs(model) == macs
    assert count_parameters(model) == model.count_params()


def test_parameters_that_follow_another_axis_than_the_channels():
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, keras.layers.BatchNormalization(axis=1)(inputs))
    assert count_parameters(model) == model.count_params() == 16


def test_weightless_models_nested_before_the_stem_count_nothing():
    augment = keras.Sequential([keras.Input((4,)), keras.layers.GaussianNoise(0.1)])
    inputs = keras.Input((4,))
    x = TriDense(8)(keras.layers.Dense(8)(augment(inputs)))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x))
    assert count_macs(model, 0.5) == 4 * 4 + 4 * 4 + 4 * 3
    assert count_parameters(model, 0.5) == slim(model, 0.5).count_params()


def test_a_shared_layer_is_one_use_with_two_calls():
    inputs = keras.Input((4,))
    shared = TriDense(8, name="shared")
    x = shared(shared(keras.layers.Dense(8)(inputs)))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x))
    uses = {use.layer.name: use for use in layer_uses(model)}
    assert len(uses) == 3
    assert uses["shared"].macs([0.5, 1.0]).macs.tolist() == [2 * 16, 2 * 64]
    assert uses["shared"].parameters([0.5, 1.0]).tolist() == [16 + 4, 64 + 8]
    assert uses["shared"].channels([0.5, 1.0]).tolist() == [4, 8]
    assert count_macs(model, 0.5) == 4 * 4 + 2 * 16 + 4 * 3


def test_macs_of_grouped_and_depthwise_convolutions():
    inputs = keras.Input((4, 4, 6))
    x = keras.layers.Conv2D(8, 3, padding="same", groups=2)(inputs)
    x = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    model = keras.Model(inputs, x)
    assert count_macs(model) == 16 * 9 * 3 * 8 + 16 * 9 * 16


def test_macs_of_transposed_and_separable_convolutions():
    inputs = keras.Input((4, 4, 6))
    x = keras.layers.Conv2DTranspose(8, 3, strides=2, padding="same")(inputs)
    x = keras.layers.SeparableConv2D(5, 3, padding="same", depth_multiplier=2)(x)
    model = keras.Model(inputs, x)
    assert count_macs(model) == 16 * 9 * 6 * 8 + 64 * (9 * 16 + 16 * 5)


def test_nested_models_count():
    nested = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    inputs = keras.Input((4,))
    assert count_macs(keras.Model(inputs, keras.layers.Dense(2)(nested(inputs)))) == 36


def test_a_shared_layer_counts_its_weights_once_and_its_macs_twice():
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(4, use_bias=False)
    model = keras.Model(inputs, layer(layer(inputs)))
    assert (count_macs(model), count_parameters(model)) == (32, 16)


def test_macs_need_a_known_shape():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="conv")(inputs))
    with pytest.raises(ValueError, match=r"layer 'conv'.*full shape"):
        count_macs(model)


def test_a_plain_model_has_one_width():
    with pytest.raises(ValueError, match="has only one width"):
        count_macs(slim(small_dense(), 1.0), 0.5)


def test_a_width_below_min_width_is_refused():
    with pytest.raises(ValueError, match=r"min_width=0.25"):
        count_macs(small_dense(), 0.1)


def test_active_parameters_are_those_that_no_triangle_forbids():
    """Counts again: the weights of the slim model without its forbidden entries."""
    model = small_conv(divisor=2)
    grades = [channel_grades(n, divisor=2, min_width=0.25) for n in (6, 8)]
    for width in (0.25, 0.5, 1.0):
        # The one Tri layer: 3x3, from 6 to 8 channels.
        into, out = (g[g <= width] for g in grades)
        zeros = 9 * sum(t > s for s in out for t in into)
        expected = slim(model, width).count_params() - zeros
        assert count_active_parameters(model, width) == expected
    assert zeros > 0


def test_plain_models_have_no_active_parameters_to_count():
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(TypeError, match="must be an `AnyWidthModel`"):
        count_active_parameters(plain, 1.0)


# -------------------------------------------------------------------------- executed


def shared_layer():
    """A layer that is called twice."""
    inputs = keras.Input((6, 6, 3))
    layer = TriConv2D(48, 3, padding="same", use_bias=False)
    x = layer(layer(keras.layers.Conv2D(48, 1)(inputs)))
    return AnyWidthModel(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def test_macs_of_a_cut_layer_by_hand():
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(64, 1)(inputs)
    x = TriConv2D(64, 3, padding="same")(x)
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    model = AnyWidthModel(inputs, outputs, widths_grid=[0.5, 1.0])
    whole = 16 * 9 * 64 * 64
    halves = count_macs(model, layout="triangular", widths=[0.5, 1.0])
    # The first 32 channels read 32, the others all 64.
    assert count_macs(model) - halves == whole // 4
    assert count_macs(model, layout="triangular", widths=[1.0]) == count_macs(model)
    # Width 0.5 is not in the file, but is counted as if the file were cut there, too.
    narrow = count_macs(model, 0.5, layout="triangular", widths=[1.0])
    assert narrow == count_macs(model, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["dense", "auto", "triangular"])
@pytest.mark.parametrize("make", [lenet_3c1l, shared_layer])
def test_executed_macs_are_those_of_the_file(make, layout):
    model = make()
    widths = default_widths(model)
    cuts = choose_cuts(model, widths, layout)
    names = {f"w{index}": cut(slim(model, w), cuts) for index, w in enumerate(widths)}
    counted = [costs.macs for _, costs in sorted(costs_of(convert(names)).items())]
    assert counted == [count_macs(model, width, layout=layout) for width in widths]
    assert counted == executed_macs(model, widths, cuts).tolist()


def test_networks_without_triangles_are_dense_at_any_layout():
    plain = slim(small_dense(), 1.0)
    assert count_macs(plain, layout="auto") == count_macs(plain)
    with pytest.raises(ValueError, match="`layout` must be one of"):
        count_macs(plain, layout="sparse")
    with pytest.raises(ValueError, match="at least one width"):
        count_macs(small_dense(), layout="auto", widths=[])


@pytest.mark.parametrize("make", [small_conv, rich, shared_layer])
def test_active_parameters_at_many_widths_are_those_at_each(make):
    model = make()
    widths = list(model.distinct_widths)
    expected = []
    for width in widths:
        zeros = 0
        for use in layer_uses(model):
            for name, mask in getattr(use.layer, "masks", {}).items():
                slices = active_slices(use.layer, use.flows[0], width)
                (index,) = (
                    index
                    for weight, index in zip(use.layer.weights, slices, strict=True)
                    if weight.name == name
                )
                kernel = use.layer.triangular_variables[name]
                allowed = np.broadcast_to(mask, kernel.shape)[np.ix_(*index)]
                zeros += np.count_nonzero(~allowed)
        expected.append(slim(model, width).count_params() - zeros)
    assert active_parameters_at(model, widths).tolist() == expected


# ------------------------------------------------- sequences, and what is not known


def counted(layer, *shapes):
    """MACs of a layer that is called on inputs of these shapes."""
    inputs = [keras.Input(shape) for shape in shapes]
    return count_macs(keras.Model(inputs, layer(*inputs)))


L = keras.layers
# 7 steps of 3 features, 5 units: each gate reads features and state.
LSTM = 7 * 4 * (3 * 5 + 5 * 5)


@pytest.mark.parametrize(
    ("make", "macs"),
    [
        (lambda: L.LSTM(5), LSTM),
        (lambda: L.LSTM(5, return_sequences=True, unroll=True), LSTM),
        (lambda: L.GRU(5), 7 * 3 * (3 * 5 + 5 * 5)),
        (lambda: L.SimpleRNN(5), 7 * (3 * 5 + 5 * 5)),
        (lambda: L.Bidirectional(L.LSTM(5)), 2 * LSTM),
        (
            lambda: L.Bidirectional(
                L.LSTM(5), backward_layer=L.GRU(5, go_backwards=True)
            ),
            LSTM + 7 * 3 * (3 * 5 + 5 * 5),
        ),
        # The second cell reads the 5 outputs of the first cell.
        (
            lambda: L.RNN([L.LSTMCell(5), L.GRUCell(2)]),
            LSTM + 7 * 3 * (5 * 2 + 2 * 2),
        ),
        (lambda: L.TimeDistributed(L.Dense(4)), 7 * 3 * 4),
        (lambda: L.TimeDistributed(L.Dropout(0.5)), 0),
        (lambda: L.SpectralNormalization(L.Dense(4)), 7 * 3 * 4),
        (lambda: L.EinsumDense("btc,cd->btd", (None, 4)), 7 * 3 * 4),
        (lambda: L.EinsumDense("...c,cd->...d", 4), 7 * 3 * 4),
        (lambda: L.EinsumDense("abc,bcd->ad", 4), 7 * 3 * 4),
        # Steps are summed first, because neither kernel nor result has this axis.
        (lambda: L.EinsumDense("abc,cd->ad", 4), 3 * 4),
    ],
)
def test_macs_of_layers_over_steps_by_hand(make, macs):
    assert counted(make(), (7, 3)) == macs


@pytest.mark.parametrize("mode", ["log", "real", "stft"])
def test_macs_of_a_spectrogram_are_those_of_convolutions_of_its_channels(mode):
    inputs = keras.Input((1000, 2))
    layer = L.STFTSpectrogram(mode, frame_length=64, frame_step=32)
    outputs = layer(inputs)
    waves = (1 if mode == "real" else 2) * 33
    convolution = L.Conv1D(waves, 64, strides=32, use_bias=False)
    same = keras.Model(inputs, convolution(inputs[..., :1]))
    assert count_macs(keras.Model(inputs, outputs)) == 2 * count_macs(same)


def test_macs_of_a_spectrogram_of_channels_first_are_not_guessed():
    inputs = keras.Input((2, 1000))
    outputs = L.STFTSpectrogram(
        "log", frame_length=64, frame_step=32, data_format="channels_first"
    )(inputs)
    with pytest.raises(NotImplementedError, match="`data_format` is 'channels_first'"):
        count_macs(keras.Model(inputs, outputs))


@pytest.mark.parametrize("sequences", [False, True])
def test_macs_of_a_recurrent_convolution_by_hand(sequences):
    layer = L.ConvLSTM2D(4, 3, return_sequences=sequences)
    # 5 images of 8x8, of which 6x6 positions stay; four gates of 4 channels.
    assert counted(layer, (5, 8, 8, 2)) == 5 * 36 * 9 * (2 + 4) * 4 * 4


def test_macs_of_attention_by_hand():
    # 6 positions of 8 channels attend to 10 positions of 4 channels, with 2 heads, keys
    # of 3 and values of 5.
    layer = L.MultiHeadAttention(2, 3, value_dim=5)
    kernels = 6 * 8 * 2 * 3 + 10 * 4 * 2 * 3 + 10 * 4 * 2 * 5 + 6 * 2 * 5 * 8
    products = 6 * 10 * 2 * (3 + 5)
    assert counted(layer, (6, 8), (10, 4)) == kernels + products
    query, value = keras.Input((6, 8)), keras.Input((10, 4))
    named = L.MultiHeadAttention(2, 3, value_dim=5)(value=value, query=query)
    assert count_macs(keras.Model([query, value], named)) == kernels + products
    # Of 4x5 positions, the 4 positions of a column attend to each other.
    layer = L.MultiHeadAttention(2, 3, attention_axes=(1,))
    kernels = 4 * 5 * 4 * (8 * 2 * 3)
    products = 4 * 5 * 4 * 2 * (3 + 3)
    assert counted(layer, (4, 5, 8), (4, 5, 8)) == kernels + products


def test_macs_of_attention_of_grouped_heads_by_hand():
    layer = L.GroupQueryAttention(3, num_query_heads=4, num_key_value_heads=2)
    kernels = 2 * (6 * 8 * 4 * 3) + 2 * (10 * 8 * 2 * 3)
    products = 6 * 10 * 4 * (3 + 3)
    assert counted(layer, (6, 8), (10, 8)) == kernels + products


def test_macs_of_products_of_activations_by_hand():
    query, value = keras.Input((6, 8)), keras.Input((10, 8))
    for layer in (L.Attention(), L.AdditiveAttention()):
        model = keras.Model([query, value], layer([query, value]))
        assert count_macs(model) == 6 * 10 * (8 + 8)
    model = keras.Model([query, value], L.Dot(axes=2)([query, value]))
    assert count_macs(model) == 6 * 10 * 8
    turned = keras.ops.transpose(value, (0, 2, 1))
    model = keras.Model([query, value], keras.ops.matmul(query, turned))
    assert count_macs(model) == 6 * 10 * 8


@keras.saving.register_keras_serializable(package="tests")
class Mixed(L.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 2)


class OwnCell(L.SimpleRNNCell):
    pass


class Cell(L.Layer):
    state_size = output_size = 2

    def call(self, x, states):
        return x, states


register_width_rule(Mixed, WidthRule(per_sample))  # without `macs`


def partly_known():
    """An any-width model with two layers that cannot be counted."""
    inputs = keras.Input((4,))
    x = L.Dense(3)(TriDense(8)(L.Dense(8)(inputs)))
    outputs = Mixed(name="other")(Mixed(name="own")(x))
    return AnyWidthModel(inputs, outputs, min_width=0.5)


def test_layers_that_cannot_be_counted_are_named_and_the_others_counted():
    model = partly_known()
    count = known_macs(model, [0.5, 1.0])
    assert count.names == ["own", "other"]
    assert count.macs.tolist() == [4 * 4 + 4 * 4 + 4 * 3, 4 * 8 + 8 * 8 + 8 * 3]
    with pytest.raises(NotImplementedError, match=r"2 layers: 'own', 'other'"):
        count_macs(model)
    with pytest.raises(NotImplementedError, match=r"'own' \(Mixed\).*`WidthRule`"):
        count_macs(model, layout="auto")


def test_layers_of_nested_models_are_named_after_both():
    parts = [keras.Input((3,)), L.Dense(2), Mixed(name="part")]
    nested = keras.Sequential(parts, name="nested")
    inputs = keras.Input((3,))
    count = known_macs(keras.Model(inputs, nested(inputs)), [1.0])
    assert (count.names, count.macs.tolist()) == (["nested/part"], [6])


def test_inner_layers_that_cannot_be_counted_make_the_outer_one_unknown():
    inputs = keras.Input((7, 3))
    cell = keras.Model(inputs, L.RNN(Cell(), name="steps")(L.Dense(2)(inputs)))
    with pytest.raises(NotImplementedError, match=r"'steps'.*its cell is a Cell"):
        count_macs(cell)
    wrapped = keras.Model(inputs, L.TimeDistributed(Mixed(), name="each")(inputs))
    with pytest.raises(NotImplementedError, match=r"'each'.*it wraps a Mixed"):
        count_macs(wrapped)
    product = keras.ops.einsum("abc,abd->acd", inputs, inputs)
    with pytest.raises(NotImplementedError, match="Use a layer in its place"):
        count_macs(keras.Model(inputs, product))
    # A subclass of a stock cell has the gates of the stock cell.
    assert counted(L.RNN(OwnCell(5)), (7, 3)) == 7 * (3 * 5 + 5 * 5)


def test_unknown_steps_are_not_counted():
    inputs = keras.Input((None, 3))
    x = L.MultiHeadAttention(2, 3, name="looks")(inputs, inputs)
    model = keras.Model(inputs, L.Dense(4, name="last")(L.LSTM(5, name="steps")(x)))
    count = known_macs(model, [1.0])
    assert (count.names, count.macs.tolist()) == (["looks", "steps"], [20])
    with pytest.raises(ValueError, match=r"2 layers: 'looks', 'steps'.*full shape"):
        count_macs(model)


def test_unknown_rows_and_cols_leave_kernels_whole():
    inputs = keras.Input((None, None, 1))
    x = TriConv2D(64, 3)(L.Conv2D(64, 3)(inputs))
    model = AnyWidthModel(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    for layout in ("dense", "auto", "triangular"):
        assert known_macs(model, [1.0], layout).macs.tolist() == [64 * 3]
