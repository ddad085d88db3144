import keras
import numpy as np
import pytest

from awn_keras.graph import (
    assign,
    copy_layer,
    fill,
    functions_of,
    graph_nodes,
    inline,
    is_stock,
    mask_of,
    operation_of,
    rebuild,
    replay,
    set_mask,
)


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


def test_a_tensor_knows_what_gives_it():
    inputs = keras.Input((4,), name="image")
    x = keras.layers.Dense(2, name="dense")(inputs)
    assert operation_of(inputs).name == "image"
    assert operation_of(x).name == "dense"
    assert type(operation_of(x + 1.0)).__name__ == "Add"


def test_a_mask_goes_along_with_a_tensor():
    x = keras.ops.ones((2, 3, 4))
    assert mask_of(x) is None
    set_mask(x, None)
    assert mask_of(x) is None
    set_mask(x, keras.ops.ones((2, 3), "bool"))
    assert mask_of(x).shape == (2, 3)


def test_functions_of_layers_are_found_by_name():
    def shifted(x):
        return x + 1

    model = keras.Sequential(
        [keras.Input((2,)), keras.Sequential([keras.layers.Dense(2, shifted)])]
    )
    assert functions_of(model)["shifted"] is shifted


def test_what_is_keras_own():
    class Mine(keras.layers.Dense):
        pass

    for own in (keras.layers.Dense(2), keras.layers.Dense, keras.activations.relu):
        assert is_stock(own)
    assert is_stock(operation_of(keras.Input((2,)) + 1.0))
    for other in (Mine(2), Mine, lambda x: x, np.tanh):
        assert not is_stock(other)


def test_replay_runs_the_nodes_on_other_tensors():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4)(inputs)
    model = keras.Model(inputs, keras.layers.Add()([x, keras.ops.relu(x) * 2.0]))
    value = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    tensors = {id(model.inputs[0]): value}
    replay(graph_nodes(model), tensors)
    # The same operations on the same numbers.
    np.testing.assert_array_equal(tensors[id(model.outputs[0])], model(value))


def test_rebuilding_keeps_inputs_and_structure():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    outputs = {"sum": keras.layers.Add()([inputs["b"], inputs["a"]])}
    model = keras.Model(inputs, outputs)
    new_inputs, new_outputs = rebuild(model, lambda node, *args: node.operation(*args))
    assert operation_of(new_inputs["b"]).name == "b"
    assert new_inputs["b"] is not inputs["b"]
    rebuilt = keras.Model(new_inputs, new_outputs)
    value = {"b": np.ones((2, 4)), "a": np.full((2, 4), 2.0)}
    np.testing.assert_array_equal(rebuilt(value)["sum"], np.full((2, 4), 3.0))


def test_inlining_dissolves_nested_models():
    layer = keras.layers.Dense(4, name="dense")
    inner = keras.Sequential([keras.Input((4,)), layer], name="inner")
    outer = keras.Sequential([keras.Input((4,)), inner, inner], name="outer")
    inputs = keras.Input((4,))
    other = keras.layers.Dense(4, name="dense")(inputs)
    model = keras.Model(inputs, keras.layers.Add()([outer(inputs), other]))
    flat = inline(model)
    names = [node.operation.name for node in graph_nodes(flat)]
    # The outer model's own layer keeps its name; the nested one is called twice.
    assert sorted(names[:-1]) == ["dense", "outer_inner_dense", "outer_inner_dense"]
    assert len(flat.weights) == len(model.weights)
    value = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    # The same operations on the same numbers.
    np.testing.assert_array_equal(flat(value), model(value))
    assert not any(a is b for a in flat.weights for b in model.weights)


def test_a_copy_has_the_layers_weights_and_draws_as_it_does():
    inputs = keras.Input((4,))
    array = keras.initializers.Constant([1.0, 2.0, 3.0])
    layer = keras.layers.Dense(
        3, kernel_initializer="he_normal", bias_initializer=array
    )
    layer(inputs)
    copy = copy_layer(layer, name="copy")
    copy(inputs)
    assert not any(weight.numpy().any() for weight in copy.weights)  # nothing drawn
    fill(copy, layer, layer.get_weights())
    for weight, other in zip(copy.weights, layer.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert isinstance(copy.kernel_initializer, keras.initializers.HeNormal)
    assert isinstance(copy.bias_initializer, keras.initializers.Constant)
    half = copy_layer(layer, units=2)
    half(inputs)
    fill(half, layer, [value[..., :2] for value in layer.get_weights()])
    # Of a part of the channels an array has too many entries.
    assert not isinstance(half.bias_initializer, keras.initializers.Constant)
    # An array has the layer's own shape; copies of other sizes draw by default.
    wide = copy_layer(layer, drawn=True, resized=True, units=5)
    wide(inputs)
    assert np.abs(wide.kernel).max() > 0
    np.testing.assert_array_equal(wide.bias, np.zeros(5))
    same = copy_layer(layer, drawn=True)
    same(inputs)
    np.testing.assert_array_equal(same.bias, [1.0, 2.0, 3.0])


def test_an_assigned_normalization_computes_with_its_new_weights():
    layers = [keras.layers.Normalization() for _ in range(2)]
    layers[0].adapt(np.arange(12.0).reshape(4, 3))
    layers[1].build((None, 3))
    assign(layers[1], layers[0].get_weights())
    value = np.ones((1, 3), "float32")
    np.testing.assert_array_equal(layers[1](value), layers[0](value))
