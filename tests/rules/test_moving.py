import keras
import numpy as np
import pytest

from awn_keras import TriDense, slim, to_any_width
from awn_keras.ordering import moves_of
from awn_keras.propagation import propagate, trace
from awn_keras.rules import Graded
from awn_keras.stages import Widths
from awn_keras.widths import channel_grades
from tests.conftest import BACKEND, at_width, inputs_of
from tests.stock import SHUFFLE, half_shuffled

pytestmark = pytest.mark.backends

L, ops = keras.layers, keras.ops
not_on_torch = pytest.mark.skipif(
    BACKEND == "torch", reason="PyTorch has no slices of negative step"
)


def parts_of(function, channels):
    """What a function gives of graded channels, and the model of all of it."""
    inputs = keras.Input((4, 4, 1))
    given = function(L.Conv2D(channels, 1)(inputs))
    given = given if isinstance(given, list) else [given]
    return given, keras.Model(inputs, [L.Dense(1)(L.Flatten()(x)) for x in given])


def grades_of(function, channels=64):
    given, model = parts_of(function, channels)
    kinds = propagate(model, Widths(divisor=8)).kinds
    return [kinds[id(x)].grades for x in given]


def staircase(channels):
    return channel_grades(channels, divisor=8, min_width=0.25)


@pytest.mark.parametrize(
    ("function", "places"),
    [
        (lambda x: ops.flip(x, axis=-1), np.arange(64)[::-1]),
        (lambda x: x[..., ::-1], np.arange(64)[::-1]),
        (lambda x: ops.space_to_depth(x, 2), np.tile(np.arange(64), 4)),
        (lambda x: ops.roll(x, 3, axis=-1), np.roll(np.arange(64), 3)),
        (lambda x: ops.roll(x, -70, axis=3), np.roll(np.arange(64), -70)),
        (lambda x: ops.repeat(x, 2, axis=-1), np.repeat(np.arange(64), 2)),
        (lambda x: ops.tile(x, 2), np.tile(np.arange(64), 2)),
        (lambda x: ops.take(x, list(range(63, -1, -1)), axis=-1), np.arange(64)[::-1]),
    ],
)
def test_all_channels_keep_their_grades(function, places):
    (grades,) = grades_of(function)
    np.testing.assert_array_equal(grades, staircase(64)[places])


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        (lambda x: ops.split(x, 2, axis=-1), [32, 32]),
        (lambda x: ops.split(x, [8, 40], axis=3), [8, 32, 24]),
        (lambda x: [x[..., :48], x[..., 48:]], [48, 16]),
        (lambda x: [x[:, 1:, :, :-16], x[:, 0, :, -16:]], [48, 16]),
        (lambda x: ops.take(x, list(range(32)), axis=-1), [32]),
        (lambda x: ops.array_split(x, 3, axis=-1), [22, 21, 21]),
        (lambda x: [x[..., 47::-1], x[..., :-17:-1]], [48, 16]),
        (lambda x: ops.unstack(x, axis=-2)[:2], [64, 64]),
    ],
)
def test_each_part_has_the_staircase_of_its_size(function, sizes):
    for grades, size in zip(grades_of(function), sizes, strict=True):
        # A part may be taken from behind.
        np.testing.assert_array_equal(np.sort(grades), staircase(size))


def test_parts_of_parts_are_never_empty():
    def halves(x):
        parts = []
        for _ in range(4):
            x, part = ops.split(x, 2, axis=-1)
            parts.append(part)
        return [*parts, x]

    sizes = [32, 16, 8, 4, 4]
    for grades, size in zip(grades_of(halves), sizes, strict=True):
        np.testing.assert_array_equal(grades, staircase(size))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.glu(x),
        lambda x: x[..., :32] * ops.sigmoid(x[..., 32:]),
        lambda x: ops.add(*ops.split(x, 2, axis=-1)),
    ],
)
def test_what_is_multiplied_or_added_comes_and_goes_together(function):
    (grades,) = grades_of(function)
    np.testing.assert_array_equal(grades, staircase(32))


def test_every_second_channel_comes_with_its_neighbour():
    even, odd, back = grades_of(lambda x: [x[..., ::2], x[..., 1::2], x[..., ::-2]])
    np.testing.assert_array_equal(even, odd)
    np.testing.assert_array_equal(odd, back[::-1])
    np.testing.assert_array_equal(even, staircase(32))


@pytest.mark.skipif(not hasattr(ops, "depth_to_space"), reason="of Keras 3.14")
def test_a_block_of_positions_comes_and_goes_together():
    (grades,) = grades_of(lambda x: ops.depth_to_space(x, 2))
    np.testing.assert_array_equal(grades, staircase(16))


def test_channels_beside_others_come_as_those_that_are_added():
    """A shortcut of a ResNet without weights (option A)."""
    _, model = parts_of(
        lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (16, 16))) + L.Conv2D(64, 1)(x),
        32,
    )
    traced = trace(model, [id(model.layers[2])])
    (added,) = (
        n for n in traced.propagation.nodes if type(n.operation).__name__ == "Add"
    )
    grades = traced.standard_grades(Widths(divisor=8))
    got = grades[traced.propagation.kinds[id(added.outputs[0])].labels]
    wanted = np.concatenate([staircase(16), staircase(32), staircase(16)])
    np.testing.assert_array_equal(got, wanted)


def test_channels_that_no_layer_makes_are_always_there():
    (grades,) = grades_of(lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 0), (2, 1))), 16)
    np.testing.assert_array_equal(grades, [0, 0, *staircase(16), 0])


def test_no_channel_reads_another_that_is_only_beside_it():
    """Else the first half would wait for what the second one is read by."""
    inputs = keras.Input((4,))
    x = L.Dense(16)(inputs)
    first, second = TriDense(16)(x[:, :8]), L.Dense(2)(x[:, 8:])
    traced = trace(keras.Model(inputs, [L.Dense(1)(first), second]))
    ((read, readers),) = traced.readings().pairs
    assert (read.tolist(), readers.tolist()) == ([*range(8)], [*range(16, 32)])


def test_channels_stay_in_their_part_when_they_are_ordered():
    def function(x):
        return ops.split(x, [2], axis=-1)

    _, model = parts_of(function, 6)
    kernel = np.array([1.0, 2, 3, 4, 5, 6]).reshape(1, 1, 1, 6)
    model.layers[1].set_weights([kernel, np.zeros(6)])
    assert moves_of(trace(model)).tolist() == [1, 0, 5, 4, 3, 2]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.roll(x, 3, axis=-1),
        lambda x: ops.take(x, SHUFFLE, axis=-1),
        lambda x: ops.take(x, np.array([-1, 3, 2, 9]), axis=-1),
        lambda x: x[:, 1:, :, 3:15:2],
        lambda x: x[..., 4:12],
        pytest.param(lambda x: x[..., 12:3:-1], marks=not_on_torch),
        pytest.param(lambda x: x[..., -2::-3], marks=not_on_torch),
        pytest.param(lambda x: x[..., 3:0:-2], marks=not_on_torch),
        lambda x: ops.array_split(x, 3, axis=-1)[1],
        lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 1), (3, 2))),
        lambda x: (
            ops.pad(x, ((0, 0), (0, 0), (0, 0), (8, 0)), constant_values=2.0)
            + L.Conv2D(24, 1)(x)
        ),
        lambda x: ops.depth_to_space(ops.space_to_depth(ops.tanh(x), 2), 4),
        lambda x: ops.split(x, 4, axis=-1)[1],
        lambda x: half_shuffled(half_shuffled(half_shuffled(x))),
        lambda x: L.Dense(4)(ops.split(L.Flatten()(x), 2, axis=-1)[0]),
    ],
)
def test_slim_and_saved_models_take_the_channels_that_are_there(function, tmp_path):
    inputs = keras.Input((4, 4, 1))
    x = function(L.Conv2D(16, 1)(inputs))
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Dense(6)(x))))
    model = to_any_width(plain, divisor=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = inputs_of(model)
    for width in (0.25, 0.6, 1.0):
        wanted = at_width(model, width, x)[0]
        for each in (model, loaded):
            # The same sums in another order.
            got = keras.ops.convert_to_numpy(slim(each, width)(x))
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("multiplier", [0.75, 2**0.5, 2])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: L.Conv2D(32, 1)(x) + ops.pad(x, [(0, 0), (0, 0), (0, 0), (4, 12)]),
        lambda x: ops.depth_to_space(x, 2) + L.Conv2D(4, 1)(L.UpSampling2D()(x)),
        lambda x: ops.space_to_depth(x, 2) + L.Conv2D(64, 2, strides=2)(x),
        lambda x: ops.array_split(x, 4, axis=-1)[1],
        pytest.param(lambda x: x[..., ::-2], marks=not_on_torch),
    ],
)
def test_what_is_beside_and_apart_is_widened(function, multiplier):
    inputs = keras.Input((4, 4, 1))
    x = function(L.Conv2D(16, 1)(inputs))
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Conv2D(6, 1)(x))))
    model = to_any_width(plain, divisor=2, width_multiplier=multiplier)
    assert (model.layers[1].filters > 16) == (multiplier > 1)
    x = inputs_of(model)
    for width in (0.25, 0.6, 1.0):
        # The same sums in another order.
        got = keras.ops.convert_to_numpy(slim(model, width)(x))
        wanted = at_width(model, width, x)[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_shuffle_of_groups_is_widened():
    inputs = keras.Input((4, 4, 1))
    x = ops.take(L.Conv2D(16, 1)(inputs), SHUFFLE, axis=-1)
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Dense(6)(x))))
    model = to_any_width(plain, divisor=2, width_multiplier=1.5)
    x = inputs_of(model)
    # The same sums in another order.
    got = keras.ops.convert_to_numpy(slim(model, 0.5)(x))
    np.testing.assert_allclose(got, at_width(model, 0.5, x)[0], rtol=1e-5, atol=1e-5)
    (shuffled,) = (
        node
        for node in model.propagation.nodes
        if type(node.operation).__name__ == "Take"
    )
    places = [place for first in range(12) for place in (first, first + 12)]
    flow = model.propagation.flows[id(shuffled)]
    assert flow.output == Graded(flow.inputs[0].grades[places])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.take(x, [3, 1, 2, 5], axis=-1),
        lambda x: ops.roll(x, 3, axis=-1),
    ],
)
def test_what_cannot_be_widened_is_named(function):
    inputs = keras.Input((4, 4, 1))
    x = function(L.Conv2D(16, 1)(inputs))
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Dense(6)(x))))
    with pytest.raises(ValueError, match=r"instead of 16.*Use another .width_"):
        to_any_width(plain, divisor=2, width_multiplier=2**0.5)
