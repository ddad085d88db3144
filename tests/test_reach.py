"""Nothing is computed on which no output depends.

What the grades promise is checked by gradients, which know nothing of grades.
"""

import re
from collections import defaultdict

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from awn_keras import (
    AnyWidthModel,
    TriDense,
    count_macs,
    count_parameters,
    list_networks,
    slim,
    summarize,
    to_any_width,
)
from awn_keras.graph import graph_nodes, replay
from awn_keras.layers.base import TriLayer
from awn_keras.propagation import trace
from awn_keras.rules import Labelled
from tests.conftest import at_width, eagerly, inputs_of
from tests.graphs import random_graph
from tests.test_conversion import FAMILIES, GRAPHS, PHASES, family
from tests.test_slimming import assert_close

L = keras.layers


def let_everything_count(model):
    """Gives weights with which no activation is flat and nothing cancels out."""
    rng = np.random.default_rng(4)
    for weight in model.weights:
        value = rng.uniform(0.5, 1.0, weight.shape)
        if "kernel" in weight.path:
            value /= np.prod(weight.shape[:-1])
        elif "gamma" not in weight.path and "variance" not in weight.path:
            value *= 0.01
        weight.assign(value)
    return model


def strengths(network):
    """How strongly an output depends on each channel of each call, by its name."""
    import tensorflow as tf

    rng = np.random.default_rng(5)
    values = {
        id(x): tf.constant(rng.uniform(0.1, 1.0, (4, *x.shape[1:])).astype("float32"))
        for x in network.inputs
    }
    hidden = defaultdict(list)

    def call(node, *args, **kwargs):
        outputs = node.operation(*args, **kwargs)
        hidden[node.operation.name] += keras.tree.flatten(outputs)
        return outputs

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(list(values.values()))
        replay(graph_nodes(network), values, call)
        total = 0.0
        for x in network.outputs:
            y = values[id(x)]
            total += tf.reduce_sum(y * rng.uniform(0.5, 1.5, y.shape).astype("float32"))
    # All outputs, and the calls of a shared layer, one after the other.
    return {
        name: iter([channel_sums(tape.gradient(total, y)) for y in tensors])
        for name, tensors in hidden.items()
    }


def channel_sums(gradient):
    return np.abs(gradient).sum(tuple(range(gradient.ndim - 1)))


def check_that_nothing_is_computed_in_vain(model):
    traced, acting = trace(model).propagation, model.propagation
    nodes = traced.nodes
    for width in (model.min_width, 0.6, 1.0):
        known = np.zeros(1 + max(map(highest, traced.kinds.values())))
        computed = np.zeros(len(known), bool)
        strong = strengths(slim(model, width))
        for node in nodes:
            for tensor in node.outputs:
                strength = next(strong[node.operation.name])
                kind = traced.kinds[id(tensor)]
                if isinstance(kind, Labelled):
                    there = acting.kinds[id(tensor)].grades <= width
                    labels = kind.labels[there]
                    computed[labels] = True
                    np.maximum.at(known, labels, strength)
        # Of a channel that goes several ways some may end: a layer of one channel is
        # always there, and reads what is.
        assert (known[computed] > 0).all(), width


def highest(kind):
    return kind.labels.max(initial=0) if isinstance(kind, Labelled) else 0


def check_that_networks_differ(model):
    x = inputs_of(model, 4)
    before = None
    for width in model.distinct_widths:
        outputs = at_width(model, width, keras.tree.map_structure(np.abs, x))
        if before is not None:
            # Bit by bit: what a narrow layer adds to a wide one may be little.
            assert any(
                not np.array_equal(y, z) for y, z in zip(outputs, before, strict=True)
            ), width
        before = outputs


@pytest.mark.slow
@settings(max_examples=GRAPHS, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(
    st.data(),
    st.sampled_from(["nested", "paper"]),
    st.sampled_from([0.1, 0.25, 0.6]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([None, [0.5, 0.9, 1.0]]),
)
@eagerly
def test_random_graphs(data, staircase, min_width, divisor, grid):
    keras.utils.set_random_seed(0)  # pytest-randomly has set one of its own
    plain = random_graph(data.draw)
    try:
        model = to_any_width(
            plain,
            min_width=None if grid else min_width,
            divisor=divisor,
            widths_grid=grid,
            staircase=staircase,
        )
    except ValueError as error:
        # What a layer of one channel and late ones can give.
        assume(not re.search("only one network|no channel at the smallest", str(error)))
        raise
    let_everything_count(model)
    # A gate has the channels of what it gates. If some of them end there, and go on
    # elsewhere, what only their gates read is in vain.
    has_gates = any(isinstance(layer, L.Multiply) for layer in model.layers)
    ends_some = any(
        layer.out_grades.max() < layer.in_grades.max()
        for layer in model.layers
        if isinstance(layer, TriLayer)
    )
    if not (has_gates and ends_some):
        check_that_nothing_is_computed_in_vain(model)
    check_that_networks_differ(model)
    x = inputs_of(model, 3)
    for width in (model.min_width, 0.7, 1.0):
        y = slim(model, width)(x)
        assert_close(
            [np.asarray(each) for each in keras.tree.flatten(y)],
            at_width(model, width, x),
        )


@pytest.mark.parametrize(("name", "size"), FAMILIES.items(), ids=FAMILIES)
def test_at_full_width_a_family_computes_as_much_as_the_plain_network(name, size):
    plain = family(name, size)
    model = to_any_width(plain)
    assert count_macs(model) == count_macs(plain)
    assert count_parameters(model) == plain.count_params()
    traced = trace(model)
    grades = np.zeros(len(traced.channels.resolve()))
    for node in traced.propagation.nodes:
        kind = traced.propagation.flows[id(node)].output
        if isinstance(kind, Labelled):
            grades[kind.labels] = model.propagation.flows[id(node)].output.grades
    used = np.unique(
        np.concatenate(
            [
                kind.labels
                for kind in traced.propagation.kinds.values()
                if isinstance(kind, Labelled)
            ]
        )
    )
    reached = traced.readings().reached(grades)
    np.testing.assert_array_equal(reached[used], grades[used])


@pytest.fixture
def bottleneck():
    """An autoencoder whose code has fewer channels than the layers around it."""
    x = inputs = keras.Input((64,))
    for units in (32, 32, 8, 32, 32):
        x = L.Dense(units, activation="relu")(x)
    return keras.Model(inputs, L.Dense(64)(x))


def test_the_papers_staircase_is_there_and_what_it_wastes_is_told(bottleneck):
    model = to_any_width(bottleneck, staircase="paper")
    code = next(layer for layer in summarize(model).layers if layer.read < 1)
    # In blocks of 8 the code has one: it is always there, and reads what always is.
    assert code.read == 8 / 32
    assert "25.0 %" in str(summarize(model))
    # slim and counts leave out what nothing reads.
    assert slim(model, 1.0).count_params() == count_parameters(model)
    assert count_parameters(model) < bottleneck.count_params()
    x = inputs_of(model)
    # Sums in another order.
    np.testing.assert_allclose(
        slim(model, 1.0)(x), at_width(model, 1.0, x)[0], atol=1e-6
    )
    nested = to_any_width(bottleneck)
    assert count_parameters(nested) == bottleneck.count_params()
    assert all(layer.read in (1, None) for layer in summarize(nested).layers)


@pytest.mark.parametrize("divisor", [1, 8])
def test_networks_that_answer_alike_are_one(bottleneck, divisor):
    model = to_any_width(bottleneck, divisor=divisor, staircase="paper")
    let_everything_count(model)
    check_that_networks_differ(model)
    assert len(list_networks(model)) == len(model.distinct_widths)


def test_a_saved_model_keeps_its_staircase(bottleneck, tmp_path):
    x = inputs_of(bottleneck)
    for staircase in ("nested", "paper"):
        model = to_any_width(bottleneck, staircase=staircase)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.staircase == staircase
        assert loaded.distinct_widths == model.distinct_widths
        np.testing.assert_array_equal(
            at_width(loaded, 0.5, x)[0], at_width(model, 0.5, x)[0]
        )


def test_a_file_from_before_there_was_a_choice_has_the_papers_staircase(bottleneck):
    model = to_any_width(bottleneck, staircase="paper")
    config = model.get_config()
    del config["staircase"]
    again = AnyWidthModel.from_config(config)
    assert again.staircase == "paper"
    assert again.distinct_widths == model.distinct_widths


def test_a_trunk_keeps_its_place_under_another_readout(bottleneck):
    # The code is narrower than what comes before it, which had to wait for the code.
    model = to_any_width(bottleneck, divisor=1)
    layer = model.get_layer(model.layers[2].name)
    before = layer.out_grades
    again = AnyWidthModel(model.input, L.Dense(3)(layer.output))
    np.testing.assert_array_equal(layer.out_grades, before)
    let_everything_count(again)
    check_that_networks_differ(again)
    x = inputs_of(again)
    for width in (0.25, 0.6):
        # Sums in another order.
        np.testing.assert_allclose(
            slim(again, width)(x), at_width(again, width, x)[0], atol=1e-6
        )
    fresh = to_any_width(
        keras.Model(bottleneck.input, L.Dense(3)(bottleneck.layers[2].output)),
        divisor=1,
    )
    assert len(fresh.distinct_widths) > len(again.distinct_widths)


def test_a_trunk_goes_on_where_later_layers_have_fewer_channels(bottleneck):
    start = keras.Model(bottleneck.input, L.Dense(3)(bottleneck.layers[2].output))
    model = to_any_width(start, divisor=1)
    features = model.layers[-1].input
    code = TriDense(2, name="code")(features)
    longer = AnyWidthModel(model.input, L.Dense(3)(code))
    let_everything_count(longer)
    check_that_nothing_is_computed_in_vain(longer)
    check_that_networks_differ(longer)
