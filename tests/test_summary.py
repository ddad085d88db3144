import keras
import pytest

from awn_keras import (
    AnyWidthModel,
    NetworkList,
    TriConv2D,
    TriConv2DTranspose,
    TriDense,
    TriSeparableConv2D,
    count_macs,
    count_parameters,
    lenet_3c1l,
    list_networks,
    slim,
    summarize,
    triangular_mask,
)
from awn_keras.baselines import SNet
from awn_keras.counting import count_active_parameters
from tests.baselines.networks import conv_net
from tests.conftest import (
    eagerly,
    on_tensorflow,
    rich,
    small_conv,
    small_dense,
    stem_and_trunk,
)
from tests.test_counting import partly_known

pytestmark = [pytest.mark.backends, eagerly]

MODELS = {
    "conv": small_conv,
    "conv-grid": lambda: small_conv(None, widths_grid=[0.3, 0.6, 1.0]),
    "rich": rich,
}


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return MODELS[request.param]()


def layers_of(summary):
    return {layer.name: layer for layer in summary.layers}


# ------------------------------------------------------------------------ networks


def test_networks_are_the_slimmed_ones(model):
    networks = list_networks(model)
    assert networks.widths == list(model.distinct_widths)
    assert len(networks) == len(model.distinct_widths)
    for index, width in enumerate(networks.widths):
        small = slim(model, width)
        assert networks.macs[index] == count_macs(small)
        assert networks.parameters[index] == small.count_params()
        for name, channels in networks.channels.items():
            assert channels[index] == small.get_layer(name).output.shape[-1]
    assert networks.full_macs == networks.macs[-1]
    assert networks.full_parameters == networks.parameters[-1]


def test_networks_name_every_convolution_and_dense_layer():
    assert list(list_networks(lenet_3c1l()).channels) == [
        *("conv1", "conv2", "conv3", "logits")
    ]
    model = rich()
    names = list_networks(model).channels
    classes = {type(model.get_layer(name)).__name__ for name in names}
    assert classes == {"Conv2D", "TriConv2D", "DepthwiseConv2D", "Dense", "TriDense"}


def test_networks_at_chosen_widths():
    model = small_conv()
    some = list_networks(model, [1.0, 0.5, 1.0])
    assert some.widths == [0.5, 1.0]
    assert some.macs == [count_macs(model, 0.5), count_macs(model, 1.0)]
    # Percentages are of width 1, also where that is not in the list.
    narrow = list_networks(model, [0.5])
    assert narrow.full_macs == count_macs(model)
    assert narrow.full_parameters == count_parameters(model)


def test_the_table_of_networks_is_complete():
    model = lenet_3c1l(min_width=0.01, staircase="paper")
    networks = list_networks(model)
    header, *rows = str(networks).splitlines()
    assert (
        " ".join(header.split()) == "width MACs % of full executed "
        "parameters % of full active"
    )
    assert len(rows) == len(networks) == 45
    # A width that is typed in as printed is the same network.
    printed = [float(row.split()[0]) for row in rows]
    assert list_networks(model, printed).macs == networks.macs
    assert rows[-1].split() == [
        *("1.000000", f"{count_macs(model):,}", "100.0", "%"),
        f"{count_macs(model, layout='auto'):,}",
        *(f"{count_parameters(model):,}", "100.0", "%"),
        f"{count_active_parameters(model, 1.0):,}",
    ]


def test_a_percentage_of_nothing_is_left_open():
    networks = NetworkList([1.0], [0], [5], {}, 0, 5, [0], [5])
    assert str(networks).splitlines()[1].split() == [
        *("1.000000", "0", "-", "0", "5", "100.0", "%", "5")
    ]


# -------------------------------------------------------------------------- layers


def test_layers_are_those_of_the_slimmed_networks(model):
    widths = list(model.distinct_widths)
    summary = summarize(model, widths)
    for index, width in enumerate(widths):
        small = slim(model, width)
        for layer in summary.layers:
            stock = small.get_layer(layer.name)
            assert layer.channels[index] == stock.output.shape[-1]
            assert layer.parameters[index] == stock.count_params()


def test_counts_add_up(model):
    summary = summarize(model)
    middle = (model.min_width + 1) / 2
    assert summary.widths == [model.min_width, middle, 1.0]
    for index, width in enumerate(summary.widths):
        macs = sum(layer.macs[index] for layer in summary.layers)
        assert macs == summary.macs[index] == count_macs(model, width)
        parameters = sum(layer.parameters[index] for layer in summary.layers)
        assert parameters == summary.parameters[index]
        assert parameters == count_parameters(model, width)


def test_macs_of_layers_by_hand():
    layers = layers_of(summarize(lenet_3c1l((32, 32, 3)), [0.5, 1.0]))
    assert layers["conv1"].macs == [30 * 30 * 9 * 3 * k for k in (23, 45)]
    assert layers["conv3"].macs == [10 * 10 * 25 * k * k for k in (23, 45)]
    assert layers["bn1"].macs == [0, 0]
    assert layers["logits"].macs == [25 * k * 10 for k in (23, 45)]


def test_kinds():
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Rescaling(2.0, name="scale")(inputs)
    x = keras.layers.Conv2D(6, 3, name="stem")(x)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = TriConv2D(8, 1, name="tri")(x)
    x = keras.layers.Flatten(name="flat")(x)
    x = keras.layers.Dense(3, name="readout")(x)
    x = keras.layers.Dense(3, name="more")(x)
    model = AnyWidthModel(inputs, keras.layers.Softmax(name="softmax")(x))
    summary = summarize(model)
    assert [(layer.name, layer.kind) for layer in summary.layers] == [
        ("scale", "fixed"),
        ("stem", "stem"),
        *(("bn", "per-channel"), ("depthwise", "per-channel")),
        ("tri", "Tri"),
        ("flat", "per-channel"),
        ("readout", "readout"),
        *(("more", "tail"), ("softmax", "tail")),
    ]
    assert [layer.class_name for layer in summary.layers][:2] == ["Rescaling", "Conv2D"]
    assert layers_of(summary)["scale"].channels == [2, 2, 2]
    assert layers_of(summary)["more"].channels == [3, 3, 3]


def test_the_masked_share_is_that_of_the_mask():
    inputs = keras.Input((6, 6, 2))
    x = stem_and_trunk(inputs)
    x = TriConv2DTranspose(5, 3, name="transposed")(x)
    x = TriSeparableConv2D(7, 3, depth_multiplier=2, name="separable")(x)
    x = TriDense(9, name="dense")(keras.layers.Flatten()(x))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.2)
    layers = layers_of(summarize(model))
    names = [layer.name for layer in model.layers if "Tri" in type(layer).__name__]
    assert names[1:] == ["transposed", "separable", "dense"]
    for name in names:
        tri = model.get_layer(name)
        # `depth_multiplier` repeats rows of the mask, which leaves its mean.
        mask = triangular_mask(tri.in_grades, tri.out_grades)
        # Means of some hundred 0 and 1.
        assert layers[name].masked == pytest.approx(1 - mask.mean(), abs=1e-12)
        assert 0 < layers[name].masked < 1
    assert [n for n, layer in layers.items() if layer.masked is not None] == names


def test_the_masked_share_of_a_triangle_by_hand():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8)(inputs)
    x = TriDense(8, name="tri")(x)
    outputs = keras.layers.Dense(3)(x)
    model = AnyWidthModel(inputs, outputs, min_width=0.01, staircase="paper")
    # Above the diagonal of an 8x8 matrix.
    assert layers_of(summarize(model))["tri"].masked == 28 / 64


def test_a_tri_layer_on_the_input_is_a_stem_without_a_mask():
    inputs = keras.Input((4,))
    x = TriDense(8, name="tri")(inputs)
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x))
    layer = layers_of(summarize(model))["tri"]
    assert (layer.kind, layer.masked) == ("stem", 0.0)


def test_a_shared_layer_is_listed_once_with_the_macs_of_its_calls():
    inputs = keras.Input((4,))
    shared = TriDense(8, use_bias=False, name="shared")
    x = shared(shared(keras.layers.Dense(8)(inputs)))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x))
    summary = summarize(model, [0.5, 1.0])
    assert [layer.name for layer in summary.layers].count("shared") == 1
    layer = layers_of(summary)["shared"]
    assert layer.macs == [2 * 16, 2 * 64]
    assert layer.parameters == [16, 64]
    assert summary.macs == [count_macs(model, 0.5), count_macs(model, 1.0)]


def test_operations_are_left_out():
    model = rich()  # has a product and a ReLU of `keras.ops`
    names = {layer.name for layer in model.layers if isinstance(layer, keras.Layer)}
    inputs = {"image", "vector"}
    assert {layer.name for layer in summarize(model).layers} == names - inputs


def test_the_table_of_layers():
    model = lenet_3c1l((32, 32, 3), name="net")
    lines = str(summarize(model, [0.5, 1.0])).splitlines()
    assert "'net'" in lines[0]
    assert "one sample" in lines[0]
    assert " ".join(lines[1].split()) == "channels at width MACs at width"
    assert lines[2].split() == [
        *("layer", "class", "kind", "0.5", "1", "0.5", "1", "masked", "read")
    ]
    rows = {line.split()[0]: line.split() for line in lines[3:]}
    tri = model.get_layer("conv2")
    mask = triangular_mask(tri.in_grades, tri.out_grades)
    assert rows["conv2"] == [
        *("conv2", "TriConv2D", "Tri", "23", "45"),
        *(f"{28 * 28 * 9 * k * k:,}" for k in (23, 45)),
        *(f"{100 * (1 - mask.mean()):.1f}", "%", "100.0", "%"),
    ]
    assert len(rows["bn2"]) == 9  # nothing is masked
    assert rows["total"][2:] == [f"{count_macs(model, w):,}" for w in (0.5, 1.0)]
    assert rows["parameters"][1:] == [
        f"{count_parameters(model, w):,}" for w in (0.5, 1.0)
    ]
    # Three lines of heads, two rules, two totals, and no row for the input.
    executed = [f"{count_macs(model, w, layout='auto'):,}" for w in (0.5, 1.0)]
    assert rows["executed"][2:] == executed
    assert len(lines) == 8 + len(model.layers) - 1
    # Columns end where their heads do.
    ends = [line.rstrip().rindex("45") + 2 for line in lines if "BatchNorm" in line]
    assert len(set(ends)) == 1


def test_a_narrow_table_keeps_its_titles_apart():
    lines = str(summarize(small_dense(), [1.0])).splitlines()
    assert " ".join(lines[1].split()) == "channels at width MACs at width"
    assert len(lines[1].rstrip()) == lines[2].rindex("1") + 1


@on_tensorflow
def test_systems_of_ordinary_convolutions_are_summarized():
    plain = conv_net()
    model = SNet(plain.input, plain.output)
    kinds = {layer.name: layer.kind for layer in summarize(model).layers}
    names = ("conv1", "bn1", "conv2", "logits")
    assert [kinds[name] for name in names] == [
        *("stem", "per-channel", "sliced", "readout"),
    ]
    networks = list_networks(model, [0.5, 1.0])
    assert networks.macs == [count_macs(model, 0.5), count_macs(plain)]


# -------------------------------------------------------------------------- errors


@pytest.mark.parametrize("function", [list_networks, summarize])
def test_bad_arguments_are_refused(function):
    with pytest.raises(TypeError, match=r"must be an `AnyWidthModel`.*\(Functional\)"):
        function(slim(small_dense(), 1.0))
    with pytest.raises(ValueError, match=r"min_width=0\.25"):
        function(small_dense(), [0.1])
    with pytest.raises(TypeError, match="`widths` must be a sequence"):
        function(small_dense(), 0.5)
    with pytest.raises(ValueError, match="at least one width"):
        function(small_dense(), [])


@pytest.mark.parametrize("function", [list_networks, summarize])
def test_layers_of_open_sizes_are_not_counted(function):
    inputs = keras.Input((None, None, 2))
    x = keras.layers.GlobalAveragePooling2D()(stem_and_trunk(inputs))
    model = AnyWidthModel(inputs, keras.layers.Dense(3, name="last")(x))
    with pytest.warns(UserWarning, match="Give the `Input` a full shape"):
        costs = function(model, [1.0])
    assert "last" not in costs.uncounted
    assert costs.macs == [3 * model.get_layer("last").kernel.shape[0]]


def test_counts_are_plain_numbers():
    # JSON and pandas take them as they are.
    networks = list_networks(small_conv())
    numbers = [*networks.widths, *networks.macs, *networks.parameters]
    assert {type(number) for number in numbers} == {int, float}


@pytest.mark.parametrize("make", [summarize, list_networks])
def test_layers_that_cannot_be_counted_are_told_once(make):
    model = partly_known()
    with pytest.warns(UserWarning, match="'own', 'other'") as caught:
        costs = make(model, widths=[0.5, 1.0])
    assert len(caught) == 1
    assert (costs.macs, costs.uncounted) == ([44, 120], ["own", "other"])
    *rows, note = str(costs).splitlines()
    assert note == ("+: plus the MACs of layers that cannot be counted: 'own', 'other'")
    numbers = [row.split() for row in rows]
    assert sum("120+" in row for row in numbers) in (1, 2)
    if make is summarize:
        by_name = {layer.name: layer.macs for layer in costs.layers}
        assert by_name["own"] is by_name["other"] is None
        assert sum(row.count("?") for row in numbers) == 4
    else:
        assert all("%" not in row[2] for row in numbers[1:])


def test_recurrent_layers_and_attention_count():
    inputs = keras.Input((20, 8))
    x = keras.layers.Dense(32)(keras.layers.LSTM(16)(inputs))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(TriDense(32)(x)))
    # No warning: it would be an error here.
    networks = list_networks(model, [1.0])
    assert networks.macs == [20 * 4 * (8 + 16) * 16 + 16 * 32 + 32 * 32 + 32 * 3]
    assert networks.uncounted == []
