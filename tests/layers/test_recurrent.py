"""Recurrent Tri layers: the triangle in each gate, on inputs and on the state."""

import inspect
from functools import partial

import keras
import numpy as np
import pytest

from awn_keras.constraints import LowerTriangular
from awn_keras.layers import (
    TRI_RECURRENT,
    TriBidirectional,
    TriGRU,
    TriLSTM,
    TriSimpleRNN,
)
from awn_keras.widths import channel_grades as standard_grades
from tests.conftest import BACKEND, eagerly

pytestmark = [pytest.mark.backends, eagerly]

L = keras.layers
channel_grades = partial(standard_grades, staircase="paper")
UNITS, INPUTS, STEPS = 6, 5, 4
SHAPE = (3, STEPS, INPUTS)
GATES = {L.GRU: 3, L.LSTM: 4, L.SimpleRNN: 1}

CASES = {
    "gru": (TriGRU, {"units": UNITS}),
    "gru-before": (TriGRU, {"units": UNITS, "reset_after": False, "unroll": True}),
    "gru-steps": (TriGRU, {"units": UNITS, "return_sequences": True}),
    "lstm": (TriLSTM, {"units": UNITS}),
    "lstm-backwards": (
        TriLSTM,
        {
            "units": UNITS,
            "return_sequences": True,
            "go_backwards": True,
            "unroll": True,
            "use_bias": False,
        },
    ),
    "simple": (TriSimpleRNN, {"units": UNITS, "activation": "relu"}),
}


#: JAX compiles each loop over steps anew, for seconds.
TRIED = ["gru-before", "lstm"] if BACKEND == "jax" else list(CASES)


@pytest.fixture(params=TRIED)
def case(request):
    return CASES[request.param]


def data(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def array(x):
    return keras.ops.convert_to_numpy(x)


def built(case, **changes):
    """A layer of the case with random weights, also where the triangle forbids."""
    layer_class, arguments = case
    layer = layer_class(**{**arguments, **changes})
    layer.build(SHAPE)
    layer.set_weights([data(w.shape, i) for i, w in enumerate(layer.weights)])
    return layer


def forbidden(layer):
    """What must not act, entry by entry and gate by gate, from the definition."""
    into, out = layer.in_grades, layer.out_grades
    if into is None:
        into, out = channel_grades(INPUTS), channel_grades(UNITS)
    gates = GATES[layer.stock_class]
    reads = {"kernel": into, "recurrent_kernel": out}
    return {
        name: np.array(
            [
                [grades[t] > out[s] for _ in range(gates) for s in range(UNITS)]
                for t in range(len(grades))
            ]
        )
        for name, grades in reads.items()
    }


def assert_same(x, y):
    """The same operations on the same numbers; PyTorch may fuse them otherwise."""
    np.testing.assert_allclose(array(x), array(y), rtol=1e-5, atol=1e-6)


def skip_if_keras_cannot(options):
    if BACKEND == "torch" and options.get("unroll") and options.get("go_backwards"):
        pytest.skip("Keras' own unrolled loop fails on backwards steps with a mask")


def masked_weights(layer):
    """The weights as they act, from the definition."""
    above = forbidden(layer)
    return [
        np.where(above[w.name], 0.0, array(w)) if w.name in above else array(w)
        for w in layer.weights
    ]


def stock_twin(layer, arguments, **kwargs):
    stock = layer.stock_class(**arguments, **kwargs)
    stock.build(SHAPE)
    stock.set_weights(masked_weights(layer))
    return stock


# ------------------------------------------------------------------------ the layer


def test_the_cases_have_all_recurrent_layers():
    assert {case[0] for case in CASES.values()} == set(TRI_RECURRENT.values())
    assert set(TRI_RECURRENT) == set(GATES)


@pytest.mark.parametrize(
    "layer_class", [*TRI_RECURRENT.values(), TriBidirectional], ids=lambda x: x.__name__
)
def test_signature_is_the_parents_and_two_keywords(layer_class):
    parent = list(inspect.signature(layer_class.stock_class).parameters.values())
    ours = list(inspect.signature(layer_class).parameters.values())
    added = [p for p in ours if p.name in ("in_grades", "out_grades")]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for p in added)
    assert [(p.name, p.default) for p in ours if p not in added] == [
        (p.name, p.default) for p in parent
    ]


def test_output_is_that_of_the_parent_with_masked_kernels(case):
    layer, x = built(case), data()
    assert layer.has_forbidden_entries()
    stock = stock_twin(layer, case[1])
    assert_same(layer(x), stock(x))
    assert tuple(layer.compute_output_shape(SHAPE)) == tuple(stock(x).shape)


def test_a_mask_of_steps_is_that_of_the_parent(case):
    skip_if_keras_cannot(case[1])
    layer, x = built(case), data()
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]], bool)
    assert_same(layer(x, mask=mask), stock_twin(layer, case[1])(x, mask=mask))


def test_whoever_reads_a_kernel_of_the_cell_reads_it_masked(case):
    """A fused operation of the backend gets `cell.kernel` past all loops."""
    layer = built(case)
    for name, above in forbidden(layer).items():
        kernel = array(getattr(layer.cell, name))
        assert not kernel[above].any()
        assert kernel[~above].all()


def test_the_state_of_a_unit_is_that_of_a_narrow_layer(case):
    """A stock layer of the first units, on the first inputs, from their own weights."""
    layer_class, arguments = case
    grades = {
        "in_grades": channel_grades(INPUTS, min_width=0.3),
        "out_grades": channel_grades(UNITS, min_width=0.3),
    }
    layer, x = built(case, **grades), data()
    whole = array(layer(x))
    gates = GATES[layer_class.stock_class]
    for width in (0.3, 0.5, 0.8):
        inputs, units = (int((g <= width).sum()) for g in grades.values())
        narrow = layer_class.stock_class(**{**arguments, "units": units})
        narrow.build((*SHAPE[:2], inputs))
        columns = [gate * UNITS + s for gate in range(gates) for s in range(units)]
        rows = {"kernel": inputs, "recurrent_kernel": units}
        narrow.set_weights(
            [
                value[: rows.get(w.name, len(value)), columns]
                if value.ndim == 2
                else value[columns]
                for w, value in zip(layer.weights, masked_weights(layer), strict=True)
            ]
        )
        # The same sums, in another order where the kernels are of another size.
        np.testing.assert_allclose(
            array(narrow(x[..., :inputs])), whole[..., :units], rtol=1e-5, atol=1e-6
        )


def test_dropout_is_that_of_the_parent(case):
    options = {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 7}
    layer, x = built(case, **options), data()
    stock = stock_twin(layer, case[1], **options)
    wanted = array(stock(x, training=True))
    assert_same(layer(x, training=True), wanted)
    assert not np.allclose(wanted, array(stock(x, training=False)), atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision(case, dtype):
    layer, x = built(case, dtype=f"mixed_{dtype}"), data()
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    assert {w.dtype for w in layer.weights} == {"float32"}
    stock = stock_twin(layer, case[1], dtype=f"mixed_{dtype}")
    np.testing.assert_array_equal(
        array(keras.ops.cast(y, "float32")), array(keras.ops.cast(stock(x), "float32"))
    )


# ------------------------------------------------------------- training, saving, config


def trained(layer):
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    y = np.ones((SHAPE[0], *model.output_shape[1:]), "float32")
    model.fit(data(), y, verbose=0)
    return model


def test_one_fit_step_and_the_triangle_holds(case):
    layer = built(case)
    trained(layer)
    assert not layer.has_forbidden_entries()
    for name, above in forbidden(layer).items():
        assert not array(layer.triangular_variables[name])[above].any()
        assert array(layer.triangular_variables[name])[~above].all()


def test_a_step_of_training_is_the_parents(case):
    """Gradients go to allowed entries alone, and are those of the stock layer."""
    layer = built(case)
    stock = stock_twin(layer, case[1])
    above = forbidden(layer)
    trained(layer)
    trained(stock)
    for w, ours, theirs in zip(
        layer.weights, layer.get_weights(), stock.get_weights(), strict=True
    ):
        wanted = np.where(above[w.name], 0.0, theirs) if w.name in above else theirs
        # The same sums; a `where` more may be fused with them.
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


def test_saved_is_what_acts(case, tmp_path):
    layer, x = built(case), data()
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for got, wanted in zip(loaded.get_weights(), masked_weights(layer), strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def test_config_round_trip(case):
    layer_class, arguments = case
    grades = {
        "in_grades": channel_grades(INPUTS, min_width=0.5),
        "out_grades": channel_grades(UNITS, min_width=0.5),
    }
    layer = layer_class(**arguments, **grades)
    copy = layer_class.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    for name, given in grades.items():
        np.testing.assert_array_equal(getattr(copy, name), given)


def test_constraints_and_regularizers_see_what_acts(case):
    layer = built(
        case,
        kernel_constraint="non_neg",
        recurrent_constraint="non_neg",
        recurrent_regularizer=keras.regularizers.L2(0.5),
    )
    assert layer.get_config()["recurrent_constraint"]["class_name"] == "NonNeg"
    above = forbidden(layer)
    for name, variable in layer.triangular_variables.items():
        assert isinstance(variable.constraint, LowerTriangular)
        ones = keras.ops.ones(variable.shape)
        np.testing.assert_array_equal(array(variable.constraint(ones)), ~above[name])
        assert not array(variable.constraint(-ones)).any()
    kernel = dict(
        zip([w.name for w in layer.weights], masked_weights(layer), strict=True)
    )["recurrent_kernel"]
    # float32 sums of some dozen numbers.
    assert array(layer.losses[0]) == pytest.approx(0.5 * (kernel**2).sum(), rel=1e-5)


def test_a_constraint_of_gates_is_saved():
    old = LowerTriangular(gates=3)
    new = keras.constraints.deserialize(keras.constraints.serialize(old))
    np.testing.assert_array_equal(new.mask((4, 15)), old.mask((4, 15)))
    one_gate = LowerTriangular().mask((4, 5))
    np.testing.assert_array_equal(old.mask((4, 15)), np.tile(one_gate, (1, 3)))


# ----------------------------------------------------------------------- first weights


def test_all_grades_zero_is_the_parent(case):
    layer_class, arguments = case
    keras.utils.set_random_seed(3)
    zeros = {"in_grades": np.zeros(INPUTS), "out_grades": np.zeros(UNITS)}
    layer = layer_class(**arguments, **zeros)
    layer.build(SHAPE)
    keras.utils.set_random_seed(3)
    stock = layer_class.stock_class(**arguments)
    stock.build(SHAPE)
    # The same draw, scaled by exactly 1.
    for ours, parents in zip(layer.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, parents)


def test_what_a_unit_reads_of_the_state_has_the_norm_of_an_orthogonal_kernel(case):
    layer_class, arguments = case
    initializer = keras.initializers.Orthogonal(seed=5)
    layer = layer_class(**arguments, recurrent_initializer=initializer)
    layer.build(SHAPE)
    plain = array(initializer((UNITS, GATES[layer_class.stock_class] * UNITS)))
    kernel = array(layer.triangular_variables["recurrent_kernel"])
    np.testing.assert_array_equal(kernel == 0, forbidden(layer)["recurrent_kernel"])
    # The first unit reads itself alone, and would be starved without a scale.
    np.testing.assert_allclose(
        np.linalg.norm(kernel, axis=0), np.linalg.norm(plain, axis=0), rtol=1e-5
    )


def test_each_unit_has_its_own_fan_in():
    initializer = keras.initializers.VarianceScaling(2.0, "fan_in", seed=5)
    layer = TriGRU(UNITS, kernel_initializer=initializer)
    layer.build(SHAPE)
    plain = array(initializer((INPUTS, 3 * UNITS)))
    allowed = ~forbidden(layer)["kernel"]
    scale = np.sqrt(INPUTS / np.maximum(allowed.sum(axis=0), 1))
    # float32: the scale and one product are rounded.
    np.testing.assert_allclose(
        array(layer.triangular_variables["kernel"]),
        np.where(allowed, scale * plain, 0),
        rtol=1e-6,
    )


def test_an_untouched_layer_is_drawn_anew_for_its_place_and_a_trained_one_is_kept(case):
    layer_class, arguments = case
    fresh, old = layer_class(**arguments), built(case)
    fresh.build(SHAPE)
    values = {w.name: array(w) for w in old.weights}
    for layer in (fresh, old):
        layer.set_grades(np.zeros(INPUTS), channel_grades(UNITS, min_width=0.5))
    assert array(fresh.triangular_variables["kernel"]).all()
    above = forbidden(old)
    assert above["recurrent_kernel"].any()
    for name, variable in old.triangular_variables.items():
        np.testing.assert_array_equal(
            array(variable), np.where(above[name], 0, values[name])
        )
    with pytest.raises(
        ValueError, match=f"{layer_class.__name__} '{old.name}' already has"
    ):
        old.set_grades(np.zeros(INPUTS), np.zeros(UNITS))


# ------------------------------------------------------------------- both directions


BOTH = {
    "concat": {"layer": (L.GRU, {"return_sequences": True})},
    "sum": {"layer": (L.LSTM, {}), "merge_mode": "sum"},
    "mul": {"layer": (L.SimpleRNN, {}), "merge_mode": "mul"},
    "ave": {"layer": (L.GRU, {"unroll": True}), "merge_mode": "ave"},
    "backward": {
        "layer": (L.LSTM, {}),
        "backward_layer": (L.LSTM, {"go_backwards": True, "activation": "relu"}),
    },
}


@pytest.fixture(params=["ave"] if BACKEND == "jax" else BOTH)
def both(request):
    """Arguments of a Bidirectional, made anew."""
    return {
        name: value[0](UNITS, **value[1]) if isinstance(value, tuple) else value
        for name, value in BOTH[request.param].items()
    }


def test_both_directions_have_the_triangle(both, tmp_path):
    layer, x = TriBidirectional(**both), data()
    layer.build(SHAPE)
    layer.set_weights([data(w.shape, i) for i, w in enumerate(layer.weights)])
    assert layer.has_forbidden_entries()
    above = forbidden(layer.forward_layer)
    stock = L.Bidirectional(**both)
    stock.build(SHAPE)
    stock.set_weights(
        masked_weights(layer.forward_layer) + masked_weights(layer.backward_layer)
    )
    assert_same(layer(x), stock(x))
    if BACKEND != "torch" or not layer.forward_layer.unroll:  # see above
        mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]], bool)
        assert_same(layer(x, mask=mask), stock(x, mask=mask))
    model = trained(layer)
    assert not layer.has_forbidden_entries()
    for name, variable in layer.triangular_variables.items():
        _, kernel = name.split("_", 1)
        np.testing.assert_array_equal(array(variable) == 0, above[kernel])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def test_a_bidirectional_has_stock_layers_in_its_config():
    grades = channel_grades(UNITS, min_width=0.5)
    layer = TriBidirectional(
        TriGRU(UNITS), in_grades=np.zeros(INPUTS), out_grades=np.tile(grades, 2)
    )
    config = layer.get_config()
    for name in ("layer", "backward_layer"):
        assert config[name]["class_name"] == "GRU"
    copy = TriBidirectional.from_config(config)
    assert copy.get_config() == config
    np.testing.assert_array_equal(copy.out_grades, np.tile(grades, 2))
    np.testing.assert_array_equal(copy.backward_layer.out_grades, grades)
    kernel, allowed = (copy.build(SHAPE), copy.masked_kernel())[1]
    np.testing.assert_array_equal(kernel != 0, allowed)


# -------------------------------------------------------------------------- errors


@pytest.mark.parametrize("layer_class", TRI_RECURRENT.values())
def test_what_a_recurrent_layer_cannot_be_is_refused(layer_class):
    with pytest.raises(ValueError, match=r"'mine': `stateful` must be False.*state"):
        layer_class(4, stateful=True, name="mine")
    with pytest.raises(ValueError, match="'mine': give both `in_grades` and `out_gra"):
        layer_class(4, in_grades=[0.0], name="mine")
    with pytest.raises(NotImplementedError, match="quantization is not supported"):
        layer_class(4, dtype="int8_from_float32")
    with pytest.raises(NotImplementedError, match="quantization is not supported"):
        built((layer_class, {"units": UNITS})).quantize("int8")
    layer = layer_class(4, in_grades=[0.0, 0.5], out_grades=[0.0, 0.3, 0.5, 1.0])
    with pytest.raises(ValueError, match="one grade for each channel of the kernel"):
        layer.build((None, 5, 3))
    with pytest.raises(AttributeError):  # PyTorch has a message of its own
        layer_class(4).triangular_variables  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"merge_mode": None}, "`merge_mode` must be 'concat', 'sum', 'mul' or 'ave'"),
        ({"layer": L.RNN(L.GRUCell(4))}, r"must be of GRU, LSTM.*Received: 'rnn"),
        (
            {"backward_layer": L.GRU(3, go_backwards=True)},
            r"the same number of units. Received: GRU\(4\) and GRU\(3\)",
        ),
        (
            {"backward_layer": L.LSTM(4, go_backwards=True)},
            r"Received: GRU\(4\) and LSTM\(4\)",
        ),
        (
            {"in_grades": np.zeros(2), "out_grades": np.linspace(0, 1, 8)},
            "two halves of `out_grades` must be equal",
        ),
    ],
)
def test_what_a_bidirectional_cannot_be_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        TriBidirectional(**{"layer": L.GRU(4), **arguments})


def test_gates_are_at_least_one():
    with pytest.raises(ValueError, match="`gates` must be at least 1"):
        LowerTriangular(gates=0)
    with pytest.raises(ValueError, match=r"shape \(4, 9\), \(\.\.\., in, 3 \* out\)"):
        LowerTriangular(np.zeros(4), np.zeros(2), gates=3).mask((4, 9))
