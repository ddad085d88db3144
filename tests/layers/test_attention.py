"""Tri layers of attention, whose width changes by whole heads, and of einsums."""

import inspect
from functools import partial

import keras
import numpy as np
import pytest

from awn_keras.layers import (
    TRI_ATTENTION,
    TriEinsumDense,
    TriGroupQueryAttention,
    TriMultiHeadAttention,
)
from awn_keras.layers.attention import head_grades
from awn_keras.layers.einsum import einsum_axes
from awn_keras.widths import channel_grades as standard_grades
from tests.conftest import BACKEND, arguments_of, eagerly

pytestmark = [pytest.mark.backends, eagerly]

L = keras.layers
channel_grades = partial(standard_grades, staircase="paper")
SHAPE = (3, 5, 8)
CASES = {
    "heads": (TriMultiHeadAttention, {"num_heads": 4, "key_dim": 3}),
    "values": (
        TriMultiHeadAttention,
        {"num_heads": 3, "key_dim": 2, "value_dim": 5, "output_shape": 6},
    ),
    "outputs": (
        TriMultiHeadAttention,
        {"num_heads": 3, "key_dim": 2, "output_shape": 6},
    ),
    "gate": (
        TriMultiHeadAttention,
        {"num_heads": 2, "key_dim": 3, "use_gate": True, "use_bias": False},
    ),
    "groups": (
        TriGroupQueryAttention,
        {"head_dim": 3, "num_query_heads": 6, "num_key_value_heads": 3},
    ),
    "groups-gate": (
        TriGroupQueryAttention,
        {
            "head_dim": 2,
            "num_query_heads": 4,
            "num_key_value_heads": 4,
            "use_gate": True,
        },
    ),
}


#: JAX's own attention takes values of the size of keys alone. Gates are of Keras 3.14.
TRIED = [
    name
    for name, (layer_class, arguments) in CASES.items()
    if (BACKEND != "jax" or name != "values")
    and arguments.keys() <= arguments_of(layer_class.stock_class)
]


@pytest.fixture(params=TRIED)
def case(request):
    return CASES[request.param]


def data(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def array(x):
    return keras.ops.convert_to_numpy(x)


def out_channels(arguments):
    return arguments.get("output_shape", SHAPE[-1])


def built(case, **changes):
    """A layer of the case with random weights, also where the triangle forbids."""
    layer_class, arguments = case
    layer = layer_class(**{**arguments, **changes})
    layer.build(SHAPE, SHAPE)
    layer.set_weights([data(w.shape, i) for i, w in enumerate(layer.weights)])
    return layer


def graded(arguments, min_width=0.3):
    return {
        "in_grades": channel_grades(SHAPE[-1], min_width=min_width),
        "out_grades": channel_grades(out_channels(arguments), min_width=min_width),
    }


def heads_of(arguments):
    return arguments.get("num_heads") or arguments["num_key_value_heads"]


def forbidden(layer, arguments):
    """What must not act, kernel by kernel, from the definition."""
    into, out = layer.in_grades, layer.out_grades
    if into is None:
        into, out = channel_grades(SHAPE[-1]), channel_grades(out_channels(arguments))
    groups = head_grades(out, heads_of(arguments))
    result = {}
    for weight in layer.weights:
        part, name = weight.path.split("/")[-2:]
        if name != "kernel":
            continue
        inputs, outputs = into, out
        if part == "attention_output":
            inputs = np.repeat(groups, weight.shape[0] // len(groups))
            above = inputs[:, None, None] > outputs[None, None, :]
        else:
            outputs = np.repeat(groups, weight.shape[1] // len(groups))
            above = inputs[:, None, None] > outputs[None, :, None]
        result[weight.path] = np.broadcast_to(above, weight.shape)
    return result


def masked_weights(layer, arguments):
    above = forbidden(layer, arguments)
    return [
        np.where(above[w.path], 0.0, array(w)) if w.path in above else array(w)
        for w in layer.weights
    ]


def stock_twin(layer, arguments, **kwargs):
    stock = layer.stock_class(**arguments, **kwargs)
    stock.build(SHAPE, SHAPE)
    stock.set_weights(masked_weights(layer, arguments))
    return stock


def assert_same(x, y):
    """The same operations on the same numbers; a backend may fuse them otherwise."""
    np.testing.assert_allclose(array(x), array(y), rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------- grades


def test_heads_come_when_their_share_of_the_channels_is_there():
    grades = channel_grades(8, min_width=0.25)
    for heads in (1, 2, 3, 4, 8, 11):
        of_heads = head_grades(grades, heads)
        assert of_heads[0] == grades.min()
        assert (np.diff(of_heads) >= 0).all()
        for width in np.unique(grades):
            there = (grades <= width).sum() * heads // 8
            assert (of_heads <= width).sum() == max(there, 1)
    # Channels in another order have the same heads.
    np.testing.assert_array_equal(head_grades(grades[::-1], 4), head_grades(grades, 4))


@pytest.mark.parametrize(
    ("equation", "axes"),
    [
        ("ab,bc->ac", ([-2], [-1])),
        ("abc,dc->abd", ([-1], [-2])),
        ("...x,xy->...y", ([-2], [-1])),
        ("abc,cde->abde", ([-3], [-2, -1])),
        ("abcd, cde -> abe", ([-3, -2], [-1])),
    ],
)
def test_axes_of_an_equation(equation, axes):
    assert einsum_axes(equation) == axes


# -------------------------------------------------------------------------- attention


@pytest.mark.parametrize(
    "layer_class", [*TRI_ATTENTION.values(), TriEinsumDense], ids=lambda x: x.__name__
)
def test_signature_is_the_parents_and_two_keywords(layer_class):
    parent = list(inspect.signature(layer_class.stock_class).parameters.values())
    ours = list(inspect.signature(layer_class).parameters.values())
    added = [p for p in ours if p.name in ("in_grades", "out_grades")]
    assert len(added) == 2
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for p in added)
    newer = {"sliding_window", "use_gate"} - arguments_of(layer_class.stock_class)
    added += [p for p in ours if p.name in newer]
    assert [(p.name, p.default) for p in ours if p not in added] == [
        (p.name, p.default) for p in parent
    ]


@pytest.mark.parametrize("has_place", [False, True])
def test_output_is_that_of_the_parent_with_masked_kernels(case, has_place):
    arguments = case[1]
    layer, x, y = (
        built(case, **(graded(arguments) if has_place else {})),
        data(),
        data(SHAPE, 1),
    )
    assert layer.has_forbidden_entries()
    stock = stock_twin(layer, arguments)
    assert_same(layer(x, y), stock(x, y))
    assert_same(layer(x, y, data(SHAPE, 2)), stock(x, y, data(SHAPE, 2)))


def test_masks_are_those_of_the_parent(case):
    layer, x = built(case), data()
    stock = stock_twin(layer, case[1])
    seen = np.tril(np.ones((3, 5, 5), bool))
    seen[0, :, 1] = False
    seen[0, 1, 1] = True
    assert_same(layer(x, x, attention_mask=seen), stock(x, x, attention_mask=seen))
    assert_same(layer(x, x, use_causal_mask=True), stock(x, x, use_causal_mask=True))


def test_channels_are_those_of_a_narrow_layer(case):
    """A stock layer of the first heads, on the first inputs, from their own weights."""
    layer_class, arguments = case
    layer, x = built(case, **graded(arguments)), data()
    whole = array(layer(x, x))
    groups = heads_of(arguments)
    weights = masked_weights(layer, arguments)
    numbers = set()
    for width in (0.3, 0.5, 0.8, 1.0):
        inputs, outputs = (
            int((grades <= width).sum())
            for grades in (layer.in_grades, layer.out_grades)
        )
        there = layer.heads_for(np.arange(outputs))
        numbers.add(there)
        fewer = {
            name: arguments[name] * there // groups
            for name in ("num_heads", "num_query_heads", "num_key_value_heads")
            if name in arguments
        }
        if layer_class is TriMultiHeadAttention:
            fewer["output_shape"] = outputs
        narrow = layer_class.stock_class(**{**arguments, **fewer})
        narrow_shape = (*SHAPE[:-1], inputs)
        narrow.build(narrow_shape, narrow_shape)
        narrow.set_weights(
            [
                value[tuple(slice(size) for size in small.shape)]
                for value, small in zip(weights, narrow.weights, strict=True)
            ]
        )
        # The same sums, in another order where the kernels are of another size.
        np.testing.assert_allclose(
            array(narrow(x[..., :inputs], x[..., :inputs])),
            whole[..., :outputs],
            rtol=1e-5,
            atol=1e-5,
        )
    assert len(numbers) > 1


def test_all_grades_zero_is_the_parent(case):
    zeros = {name: np.zeros(len(g)) for name, g in graded(case[1]).items()}
    layer, x = built(case, **zeros), data()
    assert not layer.cuts_weights()
    stock = layer.stock_class(**case[1])
    stock.build(SHAPE, SHAPE)
    stock.set_weights(layer.get_weights())
    assert_same(layer(x, x), stock(x, x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision(case, dtype):
    layer, x = built(case, dtype=f"mixed_{dtype}"), data()
    y = layer(x, x)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    assert {w.dtype for w in layer.weights} == {"float32"}
    wanted = stock_twin(layer, case[1], dtype=f"mixed_{dtype}")(x, x)
    # A step of the narrow dtype at numbers up to 30, where a backend fuses otherwise.
    np.testing.assert_allclose(
        array(keras.ops.cast(y, "float32")),
        array(keras.ops.cast(wanted, "float32")),
        atol=0.3,
        rtol=0.02,
    )


def test_dropout_is_that_of_the_parent(case):
    options = {"dropout": 0.4, "seed": 7}
    layer, x = built(case, **options), data()
    stock = stock_twin(layer, case[1], **options)
    wanted = array(stock(x, x, training=True))
    assert_same(layer(x, x, training=True), wanted)
    assert not np.allclose(wanted, array(stock(x, x)), atol=1e-3)


# ------------------------------------------------------------- training, saving, config


def network(layer):
    inputs = keras.Input(SHAPE[1:])
    return keras.Model(inputs, layer(inputs, inputs))


def trained(layer):
    model = network(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(data(), np.ones((3, *model.output_shape[1:]), "float32"), verbose=0)


def test_a_step_of_training_is_the_parents(case):
    """Gradients go to allowed entries alone, and are those of the stock layer."""
    layer = built(case)
    stock = stock_twin(layer, case[1])
    above = forbidden(layer, case[1])
    before = [array(w) for w in layer.weights]
    trained(layer)
    trained(stock)
    assert not layer.has_forbidden_entries()
    moved = 0.0
    for w, old, ours, theirs in zip(
        layer.weights, before, layer.get_weights(), stock.get_weights(), strict=True
    ):
        wanted = np.where(above[w.path], 0.0, theirs) if w.path in above else theirs
        # The same sums; a `where` more may be fused with them.
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)
        moved += np.abs(ours - old).sum()
    assert moved > 0.1


def test_saved_is_what_acts(case, tmp_path):
    layer, x = built(case), data()
    model = network(layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    wanted = masked_weights(layer, case[1])
    for got, value in zip(loaded.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(got, value)
    assert_same(loaded(x), model(x))


def test_config_round_trip(case):
    layer = built(case, **graded(case[1]))
    copy = type(layer).from_config(layer.get_config())
    for name in ("in_grades", "out_grades"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(layer, name))
    copy.build(SHAPE, SHAPE)
    copy.set_weights(layer.get_weights())
    assert_same(copy(data(), data()), layer(data(), data()))


def test_constraints_and_regularizers_see_what_acts(case):
    layer = built(
        case,
        kernel_regularizer=keras.regularizers.L1(1.0),
        kernel_constraint=keras.constraints.NonNeg(),
    )
    above = forbidden(layer, case[1])
    kernels = [
        (above[w.path], value)
        for w, value in zip(layer.weights, masked_weights(layer, case[1]), strict=True)
        if w.path in above
    ]
    penalty = sum(float(array(loss)) for loss in layer.losses)
    assert penalty == pytest.approx(
        sum(np.abs(kernel).sum() for _, kernel in kernels), rel=1e-5
    )
    trained(layer)
    for w in layer.weights:
        if w.path in above:
            assert not array(w)[above[w.path]].any()
            assert array(w).min() >= 0


def test_an_untouched_layer_is_drawn_anew_for_its_place_and_a_trained_one_is_kept(case):
    layer_class, arguments = case
    grades = tuple(graded(arguments).values())
    layer = layer_class(**arguments)
    layer.build(SHAPE, SHAPE)
    layer.set_grades(*grades)
    for w in layer.weights:
        above = forbidden(layer, arguments).get(w.path)
        if above is not None:
            assert not array(w)[above].any()
            assert array(w)[~above].all()
    other = built(case)
    values = [array(w) for w in other.weights]
    other.set_grades(*grades)
    above = forbidden(other, arguments)
    for w, old in zip(other.weights, values, strict=True):
        kept = np.where(above[w.path], 0.0, old) if w.path in above else old
        np.testing.assert_array_equal(array(w), kept)
    with pytest.raises(ValueError, match="already has other grades"):
        other.set_grades(np.zeros(8), np.zeros(out_channels(arguments)))


@pytest.mark.skipif(
    keras.__version__.startswith("3.13."),
    reason="Keras 3.13 takes the axis of heads for positions of a convolution",
)
def test_each_head_has_its_own_fan_in():
    """Of what is drawn for a head the variance is that of its own inputs."""
    keras.utils.set_random_seed(0)
    into, out = (channel_grades(64, min_width=0.25) for _ in range(2))
    layer = TriMultiHeadAttention(4, 32, in_grades=into, out_grades=out)
    layer.build((None, 5, 64), (None, 5, 64))
    kernel = array(layer.query_dense.kernel)
    for head, reads in enumerate((16, 32, 48, 64)):
        drawn = kernel[:reads, head]
        # Glorot: 2 / (inputs that it reads + outputs of all heads); of at least 512
        # numbers the deviation is within a tenth.
        assert drawn.std() == pytest.approx((2 / (reads + 128)) ** 0.5, rel=0.1)
    kernel = array(layer.output_dense.kernel)
    for channel, heads in ((0, 1), (40, 2), (63, 4)):
        drawn = kernel[:heads, :, channel]
        # 32 to 128 numbers: within a third.
        assert drawn.std() == pytest.approx((2 / (heads * 32 + 64)) ** 0.5, rel=0.33)


# ---------------------------------------------------------------------------- refused


def test_what_attention_cannot_be_is_refused():
    with pytest.raises(ValueError, match="give both `in_grades` and `out_grades`"):
        TriMultiHeadAttention(2, 3, in_grades=np.zeros(8))
    with pytest.raises(ValueError, match=r"`in_grades` must be in \[0, 1\]"):
        TriMultiHeadAttention(2, 3, in_grades=[2.0], out_grades=[0.0])
    layer = built(CASES["heads"])
    with pytest.raises(NotImplementedError, match="LoRA"):
        layer.enable_lora(4)
    with pytest.raises(NotImplementedError, match="Keras quantization"):
        layer.quantize("int8")
    layer = TriMultiHeadAttention(2, 3, in_grades=np.zeros(8), out_grades=np.zeros(8))
    with pytest.raises(ValueError, match=r"must have 8 channels.*`value` of shape"):
        layer.build((None, 5, 8), (None, 5, 6))


# ----------------------------------------------------------------------------- einsum


@pytest.mark.parametrize("equation", ["abc,cd->abd", "abc,dc->abd", "...c,cd->...d"])
def test_an_einsum_is_a_dense_layer(equation):
    into, out = (channel_grades(n, min_width=0.3) for n in (8, 6))
    shape = (None, 6) if equation.startswith("a") else 6
    layer = TriEinsumDense(
        equation,
        shape,
        activation="relu",
        bias_axes="d",
        in_grades=into,
        out_grades=out,
    )
    layer.build(SHAPE)
    layer.set_weights([data(w.shape, i) for i, w in enumerate(layer.weights)])
    kernel, bias = layer.get_weights()
    kernel = kernel.T if "dc" in equation else kernel
    allowed = into[:, None] <= out
    wanted = np.maximum(data() @ np.where(allowed, kernel, 0) + bias, 0)
    assert_same(layer(data()), wanted)
    masked, mask = layer.masked_kernel()
    np.testing.assert_array_equal(mask, allowed)
    np.testing.assert_array_equal(masked, np.where(allowed, kernel, 0))
    copy = TriEinsumDense.from_config(layer.get_config())
    np.testing.assert_array_equal(copy.out_grades, out)


def test_a_kernel_that_makes_heads_can_be_looked_at():
    layer = built(CASES["heads"])
    kernel, mask = layer.masked_kernel()
    assert kernel.shape == (3, 8, 4)
    assert mask.shape == (8, 4)
    assert not kernel[:, ~mask].any()
