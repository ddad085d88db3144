"""Tests that all Tri layers share, and tests of single layers."""

import inspect
from functools import partial

import keras
import numpy as np
import pytest

from awn_keras.constraints import LowerTriangular
from awn_keras.layers import (
    TRI_CLASSES,
    TriConv1D,
    TriConv1DTranspose,
    TriConv2D,
    TriConv2DTranspose,
    TriConv3D,
    TriConv3DTranspose,
    TriDense,
    TriEinsumDense,
    TriSeparableConv1D,
    TriSeparableConv2D,
)
from awn_keras.layers.base import TriangularKernel
from awn_keras.widths import channel_grades as standard_grades
from tests.conftest import eagerly, traced

pytestmark = [pytest.mark.backends, eagerly]

#: Grades of a layer by itself.
channel_grades = partial(standard_grades, staircase="paper")
LAYERS = [
    TriConv1D,
    TriConv1DTranspose,
    TriConv2D,
    TriConv2DTranspose,
    TriConv3D,
    TriConv3DTranspose,
    TriDense,
    TriEinsumDense,
    TriSeparableConv1D,
    TriSeparableConv2D,
]
CONVOLUTIONS = [
    layer_class
    for layer_class in LAYERS
    if layer_class not in (TriDense, TriEinsumDense)
]

CASES = {
    "conv1d": (
        TriConv1D,
        {"filters": 6, "kernel_size": 3, "strides": 2, "activation": "relu"},
        (2, 9, 6),
    ),
    "conv1d-causal": (
        TriConv1D,
        {"filters": 9, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        (2, 8, 4),
    ),
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
    "transposed": (
        TriConv2DTranspose,
        {"filters": 9, "kernel_size": (3, 2), "activation": "relu"},
        (2, 4, 4, 6),
    ),
    "transposed-strided": (
        TriConv2DTranspose,
        {
            "filters": 5,
            "kernel_size": 3,
            "strides": 2,
            "padding": "same",
            "output_padding": (1, 0),
            "use_bias": False,
        },
        (2, 4, 4, 8),
    ),
    "conv3d": (TriConv3D, {"filters": 6, "kernel_size": 2}, (2, 3, 4, 4, 6)),
    "conv3d-strided": (
        TriConv3D,
        {
            "filters": 9,
            "kernel_size": (1, 3, 2),
            "strides": (1, 2, 2),
            "padding": "same",
            "activation": "relu",
        },
        (2, 2, 4, 5, 4),
    ),
    "transposed1d": (
        TriConv1DTranspose,
        {"filters": 9, "kernel_size": 3, "activation": "relu"},
        (2, 5, 6),
    ),
    "transposed1d-strided": (
        TriConv1DTranspose,
        {
            "filters": 5,
            "kernel_size": 3,
            "strides": 2,
            "padding": "same",
            "output_padding": 1,
            "use_bias": False,
        },
        (2, 5, 8),
    ),
    "transposed3d": (
        TriConv3DTranspose,
        {"filters": 9, "kernel_size": (1, 3, 2), "activation": "relu"},
        (2, 2, 3, 3, 6),
    ),
    "transposed3d-strided": (
        TriConv3DTranspose,
        {
            "filters": 5,
            "kernel_size": 3,
            "strides": 2,
            "padding": "same",
            "output_padding": (1, 0, 1),
            "use_bias": False,
        },
        (2, 2, 3, 3, 8),
    ),
    "separable1d": (TriSeparableConv1D, {"filters": 6, "kernel_size": 3}, (2, 7, 6)),
    "separable1d-strided": (
        TriSeparableConv1D,
        {
            "filters": 9,
            "kernel_size": 3,
            "strides": 2,
            "padding": "same",
            "depth_multiplier": 2,
            "activation": "relu",
        },
        (2, 7, 4),
    ),
    "separable": (TriSeparableConv2D, {"filters": 6, "kernel_size": 3}, (2, 6, 6, 6)),
    "separable-strided": (
        TriSeparableConv2D,
        {
            "filters": 9,
            "kernel_size": (3, 1),
            "strides": 2,
            "padding": "same",
            "depth_multiplier": 2,
            "activation": "relu",
        },
        (2, 6, 6, 4),
    ),
    "separable-dilated": (
        TriSeparableConv2D,
        {
            "filters": 6,
            "kernel_size": 2,
            "dilation_rate": 2,
            "depth_multiplier": 3,
            "use_bias": False,
        },
        (2, 6, 6, 5),
    ),
    "dense": (TriDense, {"units": 7}, (3, 5)),
    "dense-deep": (TriDense, {"units": 4, "use_bias": False}, (2, 3, 6)),
    "einsum": (
        TriEinsumDense,
        {"equation": "...c,cd->...d", "output_shape": 7, "bias_axes": "d"},
        (2, 3, 5),
    ),
    "einsum-swapped": (
        TriEinsumDense,
        {"equation": "ab,cb->ac", "output_shape": 4, "activation": "relu"},
        (2, 6),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def data(shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def argument(layer_class, suffix):
    """The constructor's name for what the masked kernel has: `kernel_regularizer`."""
    kernels = layer_class.kernels
    if isinstance(kernels, property):  # the equation of an einsum says them
        return "kernel" + suffix
    return next(iter(kernels)).removesuffix("_kernel") + suffix


def outputs_of(arguments):
    sizes = (arguments.get(name) for name in ("filters", "units", "output_shape"))
    return np.ravel(next(size for size in sizes if size is not None))[-1]


def variable_of(layer):
    (variable,) = layer.triangular_variables.values()
    return variable


def kernel_of(layer):
    return keras.ops.convert_to_numpy(variable_of(layer))


def by_output(layer, array):
    """A kernel, or what has its shape, as `(..., in, out)` whatever the layer's is."""
    (axes,) = layer.kernels.values()
    return array.swapaxes(-1, -2) if axes.inputs > axes.outputs else array


def forbidden(layer):
    """True where the stored kernel must not act; one by one, from the definition."""
    shape = variable_of(layer).shape
    multiplier = getattr(layer, "depth_multiplier", 1)
    inputs, outputs = by_output(layer, np.empty(shape)).shape[-2:]
    into, out = layer.in_grades, layer.out_grades
    if into is None:
        into, out = channel_grades(inputs // multiplier), channel_grades(outputs)
    above = [
        [into[t // multiplier] > out[s] for s in range(outputs)] for t in range(inputs)
    ]
    return np.broadcast_to(by_output(layer, np.array(above)), shape)


def violate(layer):
    """Fills the forbidden half; the allowed half stays."""
    variable_of(layer).assign(np.where(forbidden(layer), 7.0, kernel_of(layer)))


def stock_twin(layer, arguments, shape, **kwargs):
    """The parent with the layer's weights, the forbidden half at zero."""
    stock = layer.stock_class(**arguments, **kwargs)
    stock.build(shape)
    masked = np.where(forbidden(layer), 0.0, kernel_of(layer))
    stock.set_weights(
        [
            masked if variable is variable_of(layer) else value
            for variable, value in zip(layer.weights, layer.get_weights(), strict=True)
        ]
    )
    return stock


def test_the_cases_have_all_layers():
    assert {case[0] for case in CASES.values()} == set(LAYERS)
    kernels = {x for x in TRI_CLASSES.values() if issubclass(x, TriangularKernel)}
    assert set(LAYERS) == kernels  # others have a file of their own


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
    # A bias of zeros would not be missed.
    layer.set_weights([data(weight.shape) for weight in layer.weights])
    assert kernel_of(layer)[forbidden(layer)].all()
    stock = stock_twin(layer, arguments, shape)
    # The same operation on the same numbers.
    np.testing.assert_array_equal(layer(x), stock(x))
    assert tuple(layer.compute_output_shape(shape)) == stock(x).shape


@traced
def test_dilated_transposed_convolution_is_that_of_the_parent():
    arguments, shape = (
        {"filters": 5, "kernel_size": 3, "dilation_rate": 2},
        (2, 4, 4, 6),
    )
    layer = TriConv2DTranspose(**arguments)
    layer.build(shape)
    violate(layer)
    stock = stock_twin(layer, arguments, shape)
    ours, parents = layer, stock
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # TensorFlow's own CPU kernel has no dilation here; XLA's has.
        ours, parents = (tf.function(x, jit_compile=True) for x in (layer, stock))
    y = ours(data(shape))
    assert y.shape == (2, 8, 8, 5)
    # XLA may order the sums of 54 products otherwise beside a `where`.
    np.testing.assert_allclose(y, parents(data(shape)), rtol=1e-5, atol=1e-5)


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


def test_config_round_trip_with_grades(case):
    layer_class, arguments, shape = case
    grades = {
        "in_grades": channel_grades(shape[-1], min_width=0.5),
        "out_grades": channel_grades(outputs_of(arguments), min_width=0.5),
    }
    layer = layer_class(**arguments, **grades)
    copy = layer_class.from_config(layer.get_config())
    copy.build(shape)
    assert copy.get_config() == layer.get_config()
    for name, given in grades.items():
        np.testing.assert_array_equal(getattr(copy, name), given)
    np.testing.assert_array_equal(kernel_of(copy) == 0, forbidden(copy))


def test_one_fit_step_and_the_triangle_holds(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.compile("adam", "mse")
    x = data(shape)
    violate(layer)
    model.fit(x, np.ones(model.output_shape[1:])[None].repeat(len(x), 0), verbose=0)
    assert not kernel_of(layer)[forbidden(layer)].any()


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
    kernel = kernel_of(layer)
    assert kernel[forbidden(layer)].any()
    full = model.predict(x, verbose=0)
    variable_of(layer).assign(np.where(forbidden(layer), 0.0, kernel))
    np.testing.assert_array_equal(model.predict(x, verbose=0), full)


def test_saved_is_what_acts(case, tmp_path):
    layer_class, arguments, shape = case
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer_class(**arguments, name="tri")(inputs))
    old = model.get_layer("tri")
    old.set_weights([data(weight.shape) for weight in old.weights])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("tri")
    for variable, saved, value in zip(
        old.weights, old.get_weights(), layer.get_weights(), strict=True
    ):
        masked = variable is variable_of(old)
        expected = np.where(forbidden(old), 0.0, saved) if masked else saved
        np.testing.assert_array_equal(value, expected)
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
    assert kernel_of(layer)[forbidden(layer)].all()
    full = np.asarray(layer(x))
    variable_of(layer).assign(np.where(forbidden(layer), 0.0, 1.0))
    np.testing.assert_array_equal(layer(x), full)


def test_mixed_precision(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments, dtype="mixed_float16")
    layer.build(shape)
    violate(layer)
    y = layer(data(shape))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert variable_of(layer).dtype == "float32"
    stock = stock_twin(layer, arguments, shape, dtype="mixed_float16")
    # The same operation on the same numbers.
    np.testing.assert_array_equal(y, stock(data(shape)))


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
    assert not kernel_of(model.tri)[forbidden(model.tri)].any()


def test_regularizers_see_what_acts(case):
    layer_class, arguments, shape = case
    name = argument(layer_class, "_regularizer")
    layer = layer_class(**arguments, **{name: keras.regularizers.L2(0.5)})
    layer.build(shape)
    expected = 0.5 * (kernel_of(layer) ** 2).sum()
    violate(layer)
    # float32 sums of some hundred numbers.
    loss = keras.ops.convert_to_numpy(layer.losses[0])
    assert loss == pytest.approx(expected, rel=1e-5)
    assert layer.get_config()[name]["class_name"] == "L2"


def test_the_kernel_has_the_constraint(case):
    layer_class, arguments, shape = case
    name = argument(layer_class, "_constraint")
    layer = layer_class(**arguments, **{name: keras.constraints.NonNeg()})
    layer.build(shape)
    variable = variable_of(layer)
    assert [x for x in layer.weights if isinstance(x.constraint, LowerTriangular)] == [
        variable
    ]
    ones = keras.ops.ones(variable.shape)
    np.testing.assert_array_equal(variable.constraint(ones), ~forbidden(layer))
    assert not keras.ops.convert_to_numpy(variable.constraint(-ones)).any()
    # What the user gave is what she finds in the config.
    assert layer.get_config()[name]["class_name"] == "NonNeg"


def test_all_grades_zero_is_the_parent(case):
    layer_class, arguments, shape = case
    grades = {
        "in_grades": np.zeros(shape[-1]),
        "out_grades": np.zeros(outputs_of(arguments)),
    }
    keras.utils.set_random_seed(3)
    layer = layer_class(**arguments, **grades)
    layer.build(shape)
    keras.utils.set_random_seed(3)
    stock = layer_class.stock_class(**arguments)
    stock.build(shape)
    # The same draw, scaled by exactly 1, and the same operation.
    for ours, parents in zip(layer.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, parents)
    np.testing.assert_array_equal(layer(data(shape)), stock(data(shape)))


@pytest.mark.parametrize("initializer", ["he_normal", "lecun_uniform", "glorot_normal"])
@pytest.mark.parametrize(
    ("layer_class", "arguments", "shape"),
    [
        (TriConv1D, {"kernel_size": 49}, (None, 60, 64)),
        (TriConv2D, {"kernel_size": 7}, (None, 8, 8, 64)),
        (TriConv2DTranspose, {"kernel_size": 7}, (None, 8, 8, 64)),
        (TriConv3D, {"kernel_size": (1, 7, 7)}, (None, 2, 8, 8, 64)),
        (TriConv1DTranspose, {"kernel_size": 49}, (None, 8, 64)),
        (TriConv3DTranspose, {"kernel_size": (1, 7, 7)}, (None, 2, 8, 8, 64)),
    ],
)
def test_each_output_channel_has_its_own_fan_in(
    layer_class, arguments, shape, initializer
):
    layer = layer_class(64, **arguments, kernel_initializer=initializer)
    layer.build(shape)
    kernel = by_output(layer, kernel_of(layer))
    scale = {"he_normal": 2, "lecun_uniform": 1, "glorot_normal": 1}[initializer]
    for channel in (0, 20, 63):
        fan_in = 49 * (channel + 1)
        fan = (fan_in + 49 * 64) / 2 if "glorot" in initializer else fan_in
        drawn = kernel[..., : channel + 1, channel]
        # 49 numbers at least: their standard deviation is known to 10 % (1 sigma),
        # while the full fan-in would give an eighth of it for channel 0.
        assert drawn.std() == pytest.approx(np.sqrt(scale / fan), rel=0.3)


@pytest.mark.parametrize("mode", ["fan_in", "fan_avg", "fan_out"])
def test_the_parents_draw_is_scaled_by_what_a_channel_may_read(case, mode):
    layer_class, arguments, shape = case
    initializer = keras.initializers.VarianceScaling(2.0, mode, seed=5)
    name = argument(layer_class, "_initializer")
    layer = layer_class(**arguments, **{name: initializer})
    layer.build(shape)
    stock = layer.stock_class(**arguments, **{name: initializer})
    stock.build(shape)
    plain = keras.ops.convert_to_numpy(getattr(stock, next(iter(layer.kernels))))
    plain = by_output(layer, plain)
    kernel = by_output(layer, kernel_of(layer))
    allowed = ~by_output(layer, forbidden(layer))
    inputs, outputs = kernel.shape[-2:]
    # The same seed draws the same numbers, so that each entry shows its scale.
    for channel in range(outputs):
        readable = allowed[..., channel].sum() / np.prod(kernel.shape[:-2], dtype=int)
        scale = {
            "fan_in": np.sqrt(inputs / readable),
            "fan_avg": np.sqrt((inputs + outputs) / (readable + outputs)),
            "fan_out": 1.0,
        }[mode]
        expected = np.where(allowed[..., channel], scale * plain[..., channel], 0.0)
        # float32: the scale and one product are rounded.
        np.testing.assert_allclose(kernel[..., channel], expected, rtol=1e-6)


def test_a_channel_that_may_read_nothing_is_drawn_without_a_warning():
    layer = TriDense(2, in_grades=[0.5, 0.5], out_grades=[0.0, 0.5])
    layer.build((None, 2))
    np.testing.assert_array_equal(kernel_of(layer) != 0, [[False, True]] * 2)


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
    others = [v for v in layer.weights if v is not variable_of(layer)]
    before = [keras.ops.convert_to_numpy(variable) for variable in others]
    layer.set_grades(np.zeros(shape[-1]), np.zeros(outputs_of(arguments)))
    assert (kernel_of(layer) != 0).all()
    for variable, value in zip(others, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_trained_kernel_is_kept_and_masked(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    layer.build(shape)
    variable = variable_of(layer)
    ones = np.ones(variable.shape, "float32")
    variable.assign(ones)
    standard = forbidden(layer)
    grades = [
        channel_grades(n, min_width=0.5) for n in (shape[-1], outputs_of(arguments))
    ]
    layer.set_grades(*grades)
    assert forbidden(layer).sum() < standard.sum()
    np.testing.assert_array_equal(kernel_of(layer), ~forbidden(layer))
    np.testing.assert_array_equal(variable.constraint(ones), ~forbidden(layer))


def test_grades_given_before_the_layer_is_built(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    layer.set_grades(np.zeros(shape[-1]), np.zeros(outputs_of(arguments)))
    layer.build(shape)
    assert (kernel_of(layer) != 0).all()


def test_pointwise_inputs_have_the_grade_of_their_channel():
    layer = TriSeparableConv2D(4, 3, depth_multiplier=3)
    layer.build((None, 8, 8, 2))
    # channel_grades(2), three times each; channel_grades(6) would give a staircase
    # that cuts through the three inputs of a channel.
    allowed = kernel_of(layer)[0, 0] != 0
    expected = np.repeat(channel_grades(2), 3)[:, None] <= channel_grades(4)
    np.testing.assert_array_equal(allowed, expected)
    assert layer.in_grades is None
    assert variable_of(layer) is layer.pointwise_kernel


def test_grades_are_set_once():
    layer = TriDense(4)
    layer.build((None, 4))
    grades = channel_grades(4, min_width=0.5)
    layer.set_grades(grades, grades)
    layer.set_grades(grades, grades)
    with pytest.raises(ValueError, match=r"already has other grades.*part of a model"):
        layer.set_grades(channel_grades(4), channel_grades(4))


# -------------------------------------------------------------------------- errors


@pytest.fixture(params=LAYERS)
def make(request):
    """Makes a layer of each class from keyword arguments."""
    sizes = {TriDense: (4,), TriEinsumDense: ("ab,bc->ac", 4)}.get(
        request.param, (4, 3)
    )
    return lambda **kwargs: request.param(*sizes, **kwargs)


@pytest.mark.parametrize("given", ["in_grades", "out_grades"])
def test_one_of_the_grades_alone_is_refused(make, given):
    with pytest.raises(ValueError, match="both `in_grades` and `out_grades`"):
        make(**{given: [0.0]})


@pytest.mark.parametrize("layer_class", CONVOLUTIONS)
def test_channels_first_is_refused(layer_class):
    with pytest.raises(ValueError, match="`data_format` must be 'channels_last'"):
        layer_class(4, 3, data_format="channels_first")


def in_groups(layer_class, **arguments):
    """A layer of three groups of 4 and 2 channels, and what it is called on."""
    layer = layer_class(6, 2, groups=3, **arguments)
    x = data((2, *(4,) * layer.rank, 12))
    layer.build(x.shape)
    return layer, x


@pytest.mark.parametrize("layer_class", [TriConv1D, TriConv2D])
def test_each_group_has_a_triangle(layer_class):
    layer, x = in_groups(layer_class)
    # Of 4 inputs the outputs of a group read 1 and 3, by the paper's staircase.
    mask = np.tile([[1, 1], [0, 1], [0, 1], [0, 0]], 3)
    np.testing.assert_array_equal(layer.masks["kernel"], mask)
    stock = layer.stock_class(6, 2, groups=3)
    stock.build(x.shape)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    stock.set_weights([np.where(mask, kernel, 0), np.zeros(6)])
    layer.kernel.assign(kernel + np.where(mask, 0, 1))  # does not act
    np.testing.assert_array_equal(layer(x), stock(x))


def test_a_channel_of_a_group_is_drawn_for_what_it_reads():
    """Of 128 inputs of each group the first half of the outputs reads a half."""
    grades = np.repeat([0.0, 1.0], 64)
    layer = TriConv1D(
        256,
        3,
        groups=2,
        kernel_initializer="lecun_normal",
        in_grades=np.tile(grades, 2),
        out_grades=np.tile(grades, 2),
    )
    layer.build((None, 8, 256))
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    for group in range(2):
        part = kernel[..., 128 * group : 128 * (group + 1)]
        # 24576 numbers: their deviation is right to a part of 1 / sqrt(2 * 12288).
        narrow, wide = part[:, :64, :64], part[..., 64:]
        assert np.std(narrow) == pytest.approx(1 / np.sqrt(3 * 64), rel=0.03)
        assert np.std(wide) == pytest.approx(1 / np.sqrt(3 * 128), rel=0.03)


@pytest.mark.parametrize("layer_class", [TriConv1D, TriConv2D, TriConv3D])
def test_grades_must_be_the_same_in_each_group(layer_class):
    grades = {"in_grades": [0, 1, 0, 1], "out_grades": [0, 0, 0, 1]}
    layer = layer_class(4, 2, groups=2, **grades)
    with pytest.raises(ValueError, match="`out_grades` must be equal in each of"):
        layer.build((None, *(4,) * layer.rank, 4))


def test_a_layer_in_groups_is_made_again_from_its_config():
    layer, x = in_groups(TriConv2D, activation="relu")
    again = TriConv2D.from_config(layer.get_config())
    again.build(x.shape)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x), layer(x))
    constraint = LowerTriangular.from_config(layer.kernel.constraint.get_config())
    np.testing.assert_array_equal(
        constraint.mask(layer.kernel.shape), layer.masks["kernel"]
    )


def test_lora_is_refused(make):
    with pytest.raises(NotImplementedError, match="`lora_rank` is not supported"):
        make().enable_lora(2)


@pytest.mark.parametrize("layer_class", [TriConv1D, TriConv2D, TriConv3D, TriDense])
def test_lora_in_the_constructor_is_refused(layer_class):
    sizes = (4,) if layer_class is TriDense else (4, 3)
    with pytest.raises(NotImplementedError, match="`lora_rank` is not supported"):
        layer_class(*sizes, lora_rank=2)


def test_quantization_is_refused(make):
    with pytest.raises(NotImplementedError, match="quantization is not supported"):
        make(dtype="int8_from_float32")


def test_quantizing_a_built_layer_is_refused(case):
    layer_class, arguments, shape = case
    layer = layer_class(**arguments)
    layer.build(shape)
    with pytest.raises(NotImplementedError, match="quantization is not supported"):
        layer.quantize("int8")


def test_a_quantization_config_is_refused():
    with pytest.raises(NotImplementedError, match="quantization is not supported"):
        TriDense(4, quantization_config=object())


def test_a_layer_that_is_not_built_has_no_variable(make):
    with pytest.raises(AttributeError):
        make().triangular_variables  # noqa: B018


def test_grades_that_do_not_fit_the_input_are_refused():
    layer = TriDense(2, in_grades=[0.0, 0.5], out_grades=[0.0, 0.5])
    with pytest.raises(ValueError, match="one grade for each channel of the kernel"):
        layer.build((None, 3))


def test_grades_for_the_pointwise_kernel_are_refused():
    grades = {"in_grades": np.zeros(6), "out_grades": np.zeros(4)}
    layer = TriSeparableConv2D(4, 3, depth_multiplier=3, **grades)
    with pytest.raises(ValueError, match=r"\(1, 1, 6, 4\), \(\.\.\., in \* 3, out\)"):
        layer.build((None, 8, 8, 2))
