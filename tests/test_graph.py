import keras
import numpy as np
import pytest

from awn_keras.graph import graph_nodes, replay


def test_nodes_come_after_what_they_depend_on():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="a")(inputs)
    y = keras.layers.Dense(4, name="b")(x)
    model = keras.Model(inputs, keras.layers.Add(name="c")([x, y]))
    assert [node.operation.name for node in graph_nodes(model)] == ["a", "b", "c"]


def test_a_built_sequential_model_has_nodes():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])
    assert [node.operation.name for node in graph_nodes(model)] == ["d"]


@pytest.mark.parametrize(
    "make", [lambda: keras.Sequential([keras.layers.Dense(2)]), keras.Model]
)
def test_a_model_without_a_graph_is_refused(make):
    with pytest.raises(TypeError, match="`model` must be a functional model"):
        graph_nodes(make())


def test_replay_runs_the_nodes_on_other_tensors():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4)(inputs)
    model = keras.Model(inputs, keras.layers.Add()([x, keras.ops.relu(x) * 2.0]))
    value = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    tensors = {id(model.inputs[0]): value}
    replay(graph_nodes(model), tensors)
    # The same operations on the same numbers.
    np.testing.assert_array_equal(tensors[id(model.outputs[0])], model(value))
