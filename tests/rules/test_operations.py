import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    count_macs,
    grow,
    reorder_channels,
    slim,
    to_any_width,
)
from awn_keras.propagation import propagate
from awn_keras.rules import Graded
from awn_keras.stages import Widths
from awn_keras.widths import channel_grades
from tests.conftest import BACKEND, at_width, inputs_of

pytestmark = pytest.mark.backends

L, ops = keras.layers, keras.ops
LAST = "channels_last"
not_on_torch = pytest.mark.skipif(
    BACKEND == "torch", reason="PyTorch has no `linspace` along an axis"
)

#: Operations on feature maps `(batch, 4, 4, 6)` that treat each channel by itself.
EXACT = {
    "power": lambda x: x**2,
    "log": lambda x: ops.log(ops.abs(x) + 1),
    "rsqrt": lambda x: ops.rsqrt(ops.square(x) + 1),
    "erf": ops.erf,
    "round": ops.round,
    "sign": ops.sign,
    "selu": ops.selu,
    "celu": ops.celu,
    "softsign": ops.softsign,
    "where": lambda x: ops.where(x > 0, x, 0.1 * x),
    "floor division": lambda x: x // 0.3,
    "cast": lambda x: ops.cast(ops.cast(x, "int32"), "float32"),
    "stop_gradient": ops.stop_gradient,
    "positions": lambda x: ops.add(
        x, np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    ),
    "sum": lambda x: ops.sum(x, axis=(1, 2)),
    "var": lambda x: ops.var(x, axis=1, keepdims=True),
    "std": lambda x: ops.std(x, axis=2),
    "min": lambda x: ops.min(x, axis=-2),
    "logsumexp": lambda x: ops.logsumexp(x, axis=1),
    "median": lambda x: ops.median(x, axis=1),
    "quantile": lambda x: ops.quantile(x, 0.3, axis=1),
    "argmax": lambda x: ops.cast(ops.argmax(x, axis=1), "float32"),
    "softmax": lambda x: ops.softmax(x, axis=(1, 2)),
    "normalize": lambda x: ops.normalize(x, axis=1),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "sort": lambda x: ops.sort(x, axis=2),
    "flip": lambda x: ops.flip(x, axis=1),
    "roll": lambda x: ops.roll(x, 1, axis=2),
    "repeat": lambda x: ops.repeat(x, 2, axis=1),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 1)),
    "take": lambda x: ops.take(x, [2, 0], axis=1),
    "split": lambda x: ops.split(x, 2, axis=1)[1],
    "unstack": lambda x: ops.unstack(x, axis=1)[2],
    "stack": lambda x: ops.stack([x, 2 * x], axis=1),
    "cross": lambda x: ops.cross(x[:, 1:], x[:, :3], axis=1),
    "linspace": lambda x: ops.linspace(x, 2 * x, 3, axis=2),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))),
    "last": lambda x: x[:, -1],
    "strided": lambda x: x[:, ::2, 1:-1],
    "ellipsis": lambda x: x[:, 1, ..., :],
    "new axis": lambda x: x[:, None, :, 1],
    "expand_dims": lambda x: ops.expand_dims(x, 2),
    "squeeze": lambda x: ops.squeeze(ops.max(x, axis=1, keepdims=True), 1),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "rot90": lambda x: ops.rot90(x, axes=(1, 2)),
    "reshape": lambda x: ops.reshape(x, (-1, 16, 6)),
    "average_pool": lambda x: ops.average_pool(x, 2, 2, data_format="channels_last"),
    "max_pool": lambda x: ops.max_pool(x, 2, 2, data_format="channels_last"),
    "resize": lambda x: ops.image.resize(x, (3, 5), data_format="channels_last"),
    "crop": lambda x: ops.image.crop_images(
        x, 1, 1, target_height=2, target_width=2, data_format="channels_last"
    ),
}  # fmt: skip
GRADES = channel_grades(6, min_width=0.25)


@pytest.fixture(scope="module")
def kinds():
    """Kinds of what each operation gives of six graded channels."""
    inputs = keras.Input((4, 4, 1))
    x = L.Conv2D(6, 1, name="stem")(inputs)
    given = {name: operation(x) for name, operation in EXACT.items()}
    heads = [L.Dense(1)(L.Flatten()(y)) for y in given.values()]
    propagation = propagate(keras.Model(inputs, heads), Widths())
    return {name: propagation.kinds[id(y)] for name, y in given.items()}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=not_on_torch if n == "linspace" else ()) for n in EXACT],
)
def test_an_exact_operation_keeps_the_channels(name, kinds):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype("float32")
    # What names the number of channels can only run on all of them.
    some = list(range(6)) if name == "reshape" else [0, 2, 5]
    whole, part = (
        keras.ops.convert_to_numpy(EXACT[name](keras.ops.convert_to_tensor(y)))
        for y in (x, x[..., some])
    )
    np.testing.assert_allclose(part, whole[..., some], atol=1e-6)  # sums in any order
    assert kinds[name] == Graded(GRADES)


def test_flattening_by_reshape_tiles_grades():
    inputs = keras.Input((4, 4, 1))
    x = ops.reshape(L.Conv2D(6, 1)(inputs), (-1, 96))
    propagation = propagate(keras.Model(inputs, L.Dense(1)(x)), Widths())
    assert propagation.kinds[id(x)] == Graded(np.tile(GRADES, 16))


def test_models_with_operations_slim_and_widen():
    inputs = keras.Input((4, 4, 1))
    x = L.Conv2D(8, 3, padding="same")(inputs)
    x = ops.selu(x) ** 2
    x = ops.reshape(x[:, 1:], (-1, 12, 8))
    x = L.Dense(8, activation=ops.relu)(x)
    x = ops.pad(ops.sum(x, axis=1, keepdims=True), ((0, 0), (0, 1), (0, 0)))
    x = ops.reshape(x, (-1, 16))
    plain = keras.Model(inputs, L.Dense(3)(L.Dense(8)(x)))
    for multiplier in (1.0, 2.0):
        model = to_any_width(plain, divisor=1, width_multiplier=multiplier)
        x = inputs_of(model)
        for width in (0.25, 0.5, 1.0):
            # The same sums in another order.
            np.testing.assert_allclose(
                at_width(model, width, x)[0],
                keras.ops.convert_to_numpy(slim(model, width)(x)),
                rtol=1e-5,
                atol=1e-5,
            )


@pytest.mark.parametrize(
    ("operation", "match"),
    [
        (lambda x: ops.softmax(x), r"acts on the channels.*\(None, 4, 4, 6\)"),
        (
            lambda x: x * ops.sigmoid(ops.max(x, axis=-1, keepdims=True)),
            "acts on the channels.*For a gate use Conv2D",
        ),
        (lambda x: ops.sum(x, axis=(0, 1)), "acts on the samples of an input"),
        (lambda x: ops.mean(x), "acts on the samples and the channels"),
        (lambda x: ops.flip(x), "acts on the samples and the channels"),
        (lambda x: x[..., 0], "acts on the channels"),
        (lambda x: ops.repeat(x, [1, 2, 1, 1, 1, 1], axis=-1), "acts on the channels"),
        (lambda x: ops.roll(x, (1, 1), axis=(1, 3)), "acts on the channels"),
        (lambda x: ops.take(x, [1, 1, 2], axis=-1), "acts on the channels"),
        (lambda x: ops.take(x, 2, axis=-1), "acts on the channels"),
        (lambda x: ops.unstack(x, axis=-1)[0], "acts on the channels"),
        (lambda x: x[..., None], "acts on the channels"),
        (lambda x: ops.transpose(x, (0, 3, 1, 2)), "acts on the channels"),
        (lambda x: ops.expand_dims(x, -1), "acts on the channels"),
        (lambda x: ops.stack([x, x], axis=-1), "acts on the channels"),
        (lambda x: ops.pad(x, 1), "acts on the samples and the channels"),
        (
            lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (2, 2)), mode="reflect"),
            "acts on the channels",
        ),
        (
            lambda x: ops.space_to_depth(x, 2, data_format="channels_first"),
            "`data_format` must be 'channels_last'",
        ),
        (lambda x: ops.depth_to_space(x[..., :4], 2), "would make one channel of all"),
        (lambda x: ops.quantile(x, [0.1, 0.9], axis=1), "acts on the samples"),
        (lambda x: ops.repeat(x, 2), "acts on the samples and the channels"),
        (
            lambda x: ops.average_pool(x, 2, data_format="channels_first"),
            "`data_format` must be 'channels_last'",
        ),
        (
            lambda x: ops.reshape(x, (1, -1, 6)),
            "must keep the samples separate.*newshape",
        ),
        (lambda x: ops.reshape(x, (-1, 6)), "must keep the samples separate.*newshape"),
        (lambda x: ops.reshape(x, (-1, 24, 4)), "must keep the channels as the last"),
        (
            lambda x: ops.max(x, -1, keepdims=True) * np.ones(6, "float32"),
            "acts on the channels",
        ),
        (lambda x: x[..., :1] * np.ones(6, "float32"), "an entry for each channel"),
        (
            lambda x: ops.select([x > 0, x > 1], [x, np.ones(6, "float32")], 0.0),
            "be an argument by itself",
        ),
        (lambda x: x + np.ones((2, 1, 1, 1), "float32"), "one entry for all samples"),
        (
            lambda x: ops.clip(x, -np.ones(6, "float32"), np.ones(6, "float32")),
            "be an argument by itself",
        ),
        (lambda x: ops.cross(x[..., :3], x[..., 3:]), "acts on the channels"),
        (
            lambda x: ops.batch_normalization(x, *ops.moments(x, [0, 1, 2]), -1),
            "acts on the samples",
        ),
        (
            lambda x: ops.batch_normalization(x, FACTORS[:4], FACTORS[:4], 1),
            "`axis` must be the axis of the channels",
        ),
        (
            lambda x: ops.depthwise_conv(x, np.ones((2, 2, 6, 2)), data_format=LAST),
            "`kernel` must be an array",
        ),
        (lambda x: ops.top_k(x, 2)[0], "mixes channels"),
        (lambda x: ops.einsum("bhwc,bhwd->bcd", x, x), "mixes channels"),
    ],
)
def test_an_operation_on_samples_or_channels_is_refused(operation, match):
    inputs = keras.Input((4, 4, 1))
    y = operation(L.Conv2D(6, 1, name="stem")(inputs))
    if len(y.shape) < 2:
        y = ops.reshape(y, (-1, 1))
    with pytest.raises(ValueError, match=match):
        AnyWidthModel(inputs, L.Dense(2)(y))


FACTORS = np.linspace(0.5, 2, 8).astype("float32")
#: Which row each channel takes, for all samples.
ROWS = np.tile(np.arange(8, dtype="int32") % 4, (1, 4, 4, 1))
POSITIONS = np.sin(np.arange(128)).reshape(1, 4, 4, 8).astype("float32")


def with_arrays(trained=False):
    """Feature maps with numbers of channels and positions of their own."""
    inputs = keras.Input((4, 4, 1))
    stem = L.Conv2D(8, 1)
    x = stem(inputs)
    x = ops.multiply(FACTORS, x) + ops.convert_to_tensor(POSITIONS)
    x = ops.batch_normalization(x, mean=FACTORS, variance=FACTORS, axis=-1)
    blur = np.ones((2, 2, 1, 1), "float32") * FACTORS[:, None]
    x = ops.depthwise_conv(x, blur, padding="same", data_format=LAST)
    x = ops.take_along_axis(x, ROWS, axis=1)
    x = L.ReLU()(L.Conv2D(8, 3, padding="same")(ops.where(x > 0, x, FACTORS * 0.1)))
    if trained:
        stem.bias.assign(FACTORS)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Subtract()([x, x * FACTORS]))))


def test_arrays_follow_the_channels(tmp_path):
    model = to_any_width(with_arrays(), divisor=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = inputs_of(model)
    for width in model.distinct_widths:
        wanted = at_width(model, width, x)[0]
        for each in (model, loaded):
            small = slim(each, width)
            assert count_macs(each, width) == count_macs(small)
            # The same sums in another order.
            got = keras.ops.convert_to_numpy(small(x))
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["keep", "importance", "reading"])
def test_arrays_move_along_with_the_channels(order):
    plain = with_arrays(trained=True)
    x = inputs_of(plain)
    wanted = keras.ops.convert_to_numpy(plain(x))
    models = [reorder_channels(plain), to_any_width(plain, min_width=1.0, order=order)]
    # Some channels do move: each layer's first one is another one than before.
    kernel = plain.layers[1].get_weights()[0]
    assert not np.array_equal(kernel, models[0].layers[1].get_weights()[0])
    for model in models:
        # The same sums in another order.
        got = keras.ops.convert_to_numpy(model(x))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    model = to_any_width(plain, divisor=1, order=order)
    got = keras.ops.convert_to_numpy(slim(model, 0.5)(x))
    np.testing.assert_allclose(got, at_width(model, 0.5, x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "resize",
    [
        lambda: to_any_width(with_arrays(), width_multiplier=2.0),
        lambda: to_any_width(with_arrays(), divisor=1, width_multiplier=0.5),
        lambda: grow(with_arrays(trained=True), 2.0),
    ],
)
def test_arrays_have_no_entries_for_new_channels(resize):
    with pytest.raises(ValueError, match=r"`x1`, an .* shape \(8,\).*no entries for"):
        resize()


def test_a_scalar_of_the_inputs_stays():
    inputs = keras.Input((4, 4, 1))
    x = inputs / ops.sqrt(ops.max(inputs) + 9.0)
    x = L.Conv2D(8, 3)(L.Conv2D(8, 3, padding="same")(x))
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    model = to_any_width(plain, divisor=1)
    x = inputs_of(model)
    np.testing.assert_allclose(
        at_width(model, 0.5, x)[0],
        keras.ops.convert_to_numpy(slim(model, 0.5)(x)),
        rtol=1e-5,  # the same sums in another order
        atol=1e-5,
    )


def test_features_become_feature_maps():
    inputs = keras.Input((5,))
    x = L.Dense(16, activation="relu")(inputs)
    x = ops.reshape(L.Dense(4 * 4 * 6)(x), (-1, 4, 4, 6))
    x = L.Conv2D(6, 3)(x)
    model = to_any_width(keras.Model(inputs, L.Dense(2)(ops.mean(x, axis=(1, 2)))))
    x = inputs_of(model)
    for width in (0.25, 0.5, 1.0):
        # The same sums in another order.
        np.testing.assert_allclose(
            at_width(model, width, x)[0],
            keras.ops.convert_to_numpy(slim(model, width)(x)),
            rtol=1e-5,
            atol=1e-5,
        )
