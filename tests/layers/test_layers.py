"""One battery for all Tri layers, and what is special to each."""

import inspect

import keras
import numpy as np
import pytest

from awn_keras.constraints import LowerTriangular
from awn_keras.layers import TriConv2D, TriDense
from awn_keras.widths import channel_grades

CASES = {
    "conv": (TriConv2D, {"filters": 6, "kernel_size": 3}, (2, 8, 8, 6)),
    "conv-strided": (
        TriConv2D,
        {"filters": 9, "kernel_size": (3, 1), "strides": 2, "padding": "same"},
        (2, 8, 8, 4),
    ),
    "conv-dilated": (
        TriConv2D,
        {"filters": 4, "kernel_size": 2, "dilation_rate": 2, "activation": "relu"},
        (2, 8, 8, 9),
    ),
    "dense": (TriDense, {"units": 7}, (3, 5)),
    "dense-deep": (TriDense, {"units": 4, "use_bias": False}, (2, 3, 6)),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def data(shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def forbidden(layer):
    """True where the stored kernel must not act."""
    return ~np.broadcast_to(layer._mask, layer._kernel.shape)


def violate(layer):
    """Fills the forbidden half; the allowed half stays."""
    kernel = keras.ops.convert_to_numpy(layer._kernel)
    layer._kernel.assign(np.where(forbidden(layer), 7.0, kernel))


def test_signature_is_the_parents_and_two_keywords(case):
    layer_class = case[0]
    parent = list(inspect.signature(layer_class.stock_class).parameters.values())
    ours = list(inspect.signature(layer_class).parameters.values())
    added = [p for p in ours if p.name in ("in_grades", "out_grades")]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for p in added)
    assert [(p.name, p.default) for p in ours if p not in added] == [
        (p.name, p.default) for p in parent
    ]


def test_output_is_that_of_the_parent_with_a_masked_kernel(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    x = data(shape)
    layer.build(shape)
    violate(layer)
    stock = layer_class.stock_class(**arguments)
    stock.build(shape)
    kernel = keras.ops.convert_to_numpy(layer._kernel)
    kernel = np.where(forbidden(layer), 0.0, kernel)
    stock.set_weights([kernel, *layer.get_weights()[1:]])
    # The same operation on the same numbers.
    np.testing.assert_array_equal(layer(x), stock(x))
    assert tuple(layer.compute_output_shape(shape)) == stock(x).shape


def test_a_channel_reads_only_channels_of_no_larger_grade(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    x = data(shape)
    before = np.asarray(layer(x))
    into, out = channel_grades(shape[-1]), channel_grades(before.shape[-1])
    for width in (0.3, 0.5, 0.7):
        changed = np.where(into <= width, x, 100.0).astype("float32")
        after = np.asarray(layer(changed))
        present = out <= width
        np.testing.assert_array_equal(after[..., present], before[..., present])
        assert not np.array_equal(after, before)


def test_config_round_trip(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    layer.build(shape)
    copy = layer_class.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


def test_one_fit_step_and_the_triangle_holds(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.compile("adam", "mse")
    x = data(shape)
    violate(layer)
    model.fit(x, np.ones(model.output_shape[1:])[None].repeat(len(x), 0), verbose=0)
    kernel = keras.ops.convert_to_numpy(layer._kernel)
    assert not kernel[forbidden(layer)].any()


@pytest.mark.filterwarnings("ignore:.*use_ema.*")
def test_the_triangle_holds_after_fit_with_averaged_weights(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer(inputs))
    # Averages are taken before the constraint acts, and overwrite the weights at the
    # end of `fit`: the stored kernel is full, which the forward pass must not see.
    model.compile(
        keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mean_absolute_error"
    )
    x = data(shape)
    violate(layer)
    y = np.ones((len(x), *model.output_shape[1:]))
    model.fit(x, y, epochs=3, verbose=0)
    kernel = keras.ops.convert_to_numpy(layer._kernel)
    assert kernel[forbidden(layer)].any()
    full = model.predict(x, verbose=0)
    layer._kernel.assign(np.where(forbidden(layer), 0.0, kernel))
    np.testing.assert_array_equal(model.predict(x, verbose=0), full)


def test_saved_is_what_acts(case, tmp_path):
    layer_class, arguments, shape = case
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer_class(**arguments, name="tri")(inputs))
    violate(model.get_layer("tri"))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("tri")
    kernel = keras.ops.convert_to_numpy(layer._kernel)
    assert not kernel[forbidden(layer)].any()
    x = data(shape)
    # The same operation on the same numbers.
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def test_the_triangle_acts_after_set_weights(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    x = data(shape)
    layer.build(shape)
    layer.set_weights([np.ones(weight.shape) for weight in layer.weights])
    assert keras.ops.convert_to_numpy(layer._kernel)[forbidden(layer)].all()
    full = np.asarray(layer(x))
    layer._kernel.assign(np.where(forbidden(layer), 0.0, 1.0))
    np.testing.assert_array_equal(layer(x), full)


def test_mixed_precision(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments, dtype="mixed_float16")
    y = layer(data(shape))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert layer._kernel.dtype == "float32"


def test_a_subclassed_model_trains_in_graph_mode(case):
    """Building inside a traced function must neither fail nor redraw the kernel."""
    layer_class, arguments, shape = case

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.tri = layer_class(**arguments)

        def call(self, x):
            return keras.ops.mean(self.tri(x), axis=-1)

    model = Model()
    model.compile("sgd", "mse")
    x = data(shape)
    y = np.ones(np.asarray(layer_class(**arguments)(x)).shape[:-1])
    losses = model.fit(x, y, epochs=5, batch_size=len(x), verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    kernel = keras.ops.convert_to_numpy(model.tri._kernel)
    assert not kernel[forbidden(model.tri)].any()


def test_regularizers_see_what_acts(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments, kernel_regularizer=keras.regularizers.L2(0.5))
    layer.build(shape)
    kernel = keras.ops.convert_to_numpy(layer._kernel)
    expected = 0.5 * (kernel**2).sum()
    violate(layer)
    # float32 sums of some hundred numbers.
    assert float(layer.losses[0]) == pytest.approx(expected, rel=1e-5)
    assert layer.get_config()["kernel_regularizer"]["class_name"] == "L2"


def test_the_kernel_has_the_constraint(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments, kernel_constraint=keras.constraints.NonNeg())
    layer.build(shape)
    assert isinstance(layer._kernel.constraint, LowerTriangular)
    projected = layer._kernel.constraint(-keras.ops.ones(layer._kernel.shape))
    assert not keras.ops.convert_to_numpy(projected).any()
    # What the user gave is what she finds in the config.
    assert layer.get_config()["kernel_constraint"]["class_name"] == "NonNeg"


def test_all_grades_zero_is_the_parent(case):
    layer_class, arguments, shape = case
    out = arguments.get("filters", arguments.get("units"))
    grades = {"in_grades": np.zeros(shape[-1]), "out_grades": np.zeros(out)}
    keras.utils.set_random_seed(3)
    layer = layer_class(**arguments, **grades)
    layer.build(shape)
    keras.utils.set_random_seed(3)
    stock = layer_class.stock_class(**arguments)
    stock.build(shape)
    # The same draw, scaled by exactly 1.
    np.testing.assert_array_equal(layer.get_weights()[0], stock.get_weights()[0])


@pytest.mark.parametrize("initializer", ["he_normal", "lecun_uniform", "glorot_normal"])
def test_each_output_channel_has_its_own_fan_in(initializer):
    layer = TriConv2D(64, 7, kernel_initializer=initializer)
    layer.build((None, 8, 8, 64))
    kernel = layer.get_weights()[0]
    scale = {"he_normal": 2, "lecun_uniform": 1, "glorot_normal": 1}[initializer]
    for channel in (0, 20, 63):
        fan_in = 49 * (channel + 1)
        fan = (fan_in + 49 * 64) / 2 if "glorot" in initializer else fan_in
        drawn = kernel[:, :, : channel + 1, channel]
        # 49 numbers at least: their standard deviation is known to 10 % (1 sigma),
        # while the full fan-in would give an eighth of it for channel 0.
        assert drawn.std() == pytest.approx(np.sqrt(scale / fan), rel=0.3)


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.RandomNormal(stddev=0.01, seed=5),
        keras.initializers.VarianceScaling(2.0, "fan_out", seed=5),
    ],
)
def test_initializers_that_do_not_look_at_the_fan_in_are_kept(initializer):
    layer = TriDense(9, kernel_initializer=initializer)
    layer.build((None, 9))
    expected = np.triu(np.asarray(initializer((9, 9))))
    np.testing.assert_array_equal(layer.get_weights()[0], expected)


# ---------------------------------------------------------------------- set_grades


def test_an_untouched_kernel_is_drawn_anew_for_its_place(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    layer.build(shape)
    out = layer._kernel.shape[-1]
    layer.set_grades(np.zeros(shape[-1]), np.zeros(out))
    kernel = keras.ops.convert_to_numpy(layer._kernel)
    assert (kernel != 0).all()


def test_a_trained_kernel_is_kept_and_masked(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    layer.build(shape)
    trained = np.ones(layer._kernel.shape, "float32")
    layer._kernel.assign(trained)
    grades = [channel_grades(n, min_width=0.5) for n in layer._kernel.shape[-2:]]
    layer.set_grades(*grades)
    kernel = keras.ops.convert_to_numpy(layer._kernel)
    np.testing.assert_array_equal(kernel, ~forbidden(layer))


def test_grades_are_set_once():
    layer = TriDense(4)
    layer.build((None, 4))
    grades = channel_grades(4, min_width=0.5)
    layer.set_grades(grades, grades)
    layer.set_grades(grades, grades)
    with pytest.raises(ValueError, match="already has its place in a model"):
        layer.set_grades(channel_grades(4), channel_grades(4))


# -------------------------------------------------------------------------- errors


def built(layer):
    layer.build((None, 4))
    return layer


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: TriConv2D(4, 3, data_format="channels_first"),
            "`data_format` must be 'channels_last'",
        ),
        (lambda: TriConv2D(4, 3, groups=2), "`groups` must be 1"),
        (lambda: TriDense(4, in_grades=[0.0]), "both `in_grades` and `out_grades`"),
    ],
)
def test_what_the_mask_cannot_honour_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TriConv2D(4, 3, lora_rank=2), "`lora_rank` is not supported"),
        (lambda: TriDense(4, lora_rank=2), "`lora_rank` is not supported"),
        (lambda: TriDense(4, dtype="int8_from_float32"), "quantization is not"),
        (
            lambda: TriDense(4, quantization_config=object()),
            "quantization is not supported",
        ),
        (lambda: TriConv2D(4, 3).enable_lora(2), "`lora_rank` is not supported"),
        (lambda: built(TriDense(4)).quantize("int8"), "quantization is not supported"),
    ],
)
def test_lora_and_quantization_are_refused(make, match):
    with pytest.raises(NotImplementedError, match=match):
        make()


def test_grades_that_do_not_fit_the_input_are_refused():
    layer = TriDense(2, in_grades=[0.0, 0.5], out_grades=[0.0, 0.5])
    with pytest.raises(ValueError, match="must be as many as the kernel has"):
        layer.build((None, 3))
