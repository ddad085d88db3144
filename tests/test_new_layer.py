"""A layer class that is new to awn_keras touches one file: here, this one."""

import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    FixedWidths,
    WidthRule,
    count_macs,
    count_parameters,
    export_tflite,
    plot_kernel,
    register_width_rule,
    reorder_channels,
    slim,
    summarize,
    to_any_width,
)
from awn_keras.counting import count_active_parameters
from awn_keras.layers.base import KernelAxes, TriangularKernel
from awn_keras.rules.mixing import convolution_macs, mixing
from benchmarks.loop import train_by_the_loop
from tests.conftest import at_width, classification, eagerly, labelled, on_tensorflow

pytestmark = [pytest.mark.backends, eagerly]

L = keras.layers
WIDTHS = (0.25, 0.5, 1.0)


# ------------------------------------------------------------------ the layer class


@keras.saving.register_keras_serializable(package="tests")
class DoubleDense(keras.Layer):
    """Two dense layers in one: the second one reads the squares of the inputs."""

    def __init__(self, units, activation=None, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.units, self.use_bias = units, use_bias
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        for name in ("kernel", "square_kernel"):
            kernel = self.add_weight(
                name=name,
                shape=(input_shape[-1], self.units),
                initializer=keras.initializers.HeNormal(),
            )
            setattr(self, name, kernel)
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.units,), initializer="zeros"
            )

    def call(self, inputs):
        outputs = self.product(inputs, "kernel")
        outputs += self.product(keras.ops.square(inputs), "square_kernel")
        return self.activation(outputs + self.bias if self.use_bias else outputs)

    def product(self, inputs, name):
        return keras.ops.matmul(inputs, getattr(self, name))

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activation,
            "use_bias": self.use_bias,
        }


@keras.saving.register_keras_serializable(package="tests")
class TriDoubleDense(TriangularKernel, DoubleDense):
    stock_class = DoubleDense
    kernels = {  # noqa: RUF012
        "kernel": KernelAxes(),
        "square_kernel": KernelAxes(),
    }

    def __init__(self, *args, in_grades=None, out_grades=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._init_triangle(in_grades, out_grades)

    def product(self, inputs, name):
        return keras.ops.matmul(inputs, self.masked(getattr(self, name), name))


def double_macs(layer, size):
    return 2 * convolution_macs(layer, size)


register_width_rule(
    DoubleDense,
    WidthRule(
        mixing,
        in_axes={"kernel": 0, "square_kernel": 0},
        out_axes={"kernel": 1, "square_kernel": 1, "bias": 0},
        channels="units",
        stem=True,
        triangular=TriDoubleDense,
        macs=double_macs,
        cuts=True,
    ),
)

# ------------------------------------------------------------------------ what it can


def plain(trained=False):
    inputs = keras.Input((4,))
    x = DoubleDense(8, activation="relu", name="stem")(inputs)
    x = DoubleDense(8, activation="relu", name="middle")(x)
    model = keras.Model(inputs, DoubleDense(3, name="readout")(x))
    if trained:
        rng = np.random.default_rng(0)
        model.set_weights([rng.normal(0, 0.3, x.shape) for x in model.get_weights()])
    return model


def converted(**kwargs):
    return to_any_width(plain(**kwargs), min_width=0.25, divisor=1)


def test_it_is_converted_and_a_narrow_network_is_part_of_a_wide_one():
    model = converted(trained=True)
    assert type(model.get_layer("middle")) is TriDoubleDense
    assert type(model.get_layer("readout")) is DoubleDense
    features = keras.Model(model.input, model.get_layer("middle").output)
    x, _ = labelled(model)
    wide = keras.ops.convert_to_numpy(features(x))
    for width in WIDTHS:
        small = slim(model, width)
        # Float32 sums in another order.
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(small(x)),
            at_width(model, width, x)[0],
            rtol=1e-5,
            atol=1e-5,
        )
        narrow = keras.Model(small.input, small.get_layer("middle").output)(x)
        narrow = keras.ops.convert_to_numpy(narrow)
        np.testing.assert_allclose(
            narrow, wide[:, : narrow.shape[1]], rtol=1e-5, atol=1e-5
        )


def test_one_pass_trains_it_as_the_loop_does():
    model, looped = (classification(converted(trained=True)) for _ in range(2))
    x, y = labelled(model)
    for each in (model, looped):
        each.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            widths=FixedWidths(WIDTHS),
        )
    model.train_on_batch(x, y)
    train_by_the_loop(looped)
    looped.train_on_batch(x, y)
    for got, wanted in zip(model.get_weights(), looped.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)  # float32 sums


def test_it_is_counted_as_its_slim_network_is():
    model = converted()
    for width in WIDTHS:
        small = slim(model, width)
        assert count_macs(model, width) == count_macs(small)
        assert count_parameters(model, width) == small.count_params()
    # 28 entries above the diagonal, of which one joins the two channels always on.
    mask = model.get_layer("middle").masks["square_kernel"]
    assert (~mask).sum() == 27
    assert count_active_parameters(model, 1.0) == model.count_params() - 2 * 27


def test_both_of_its_kernels_are_masked_when_saved_and_summarized(tmp_path):
    model = converted(trained=True)
    layer = model.get_layer("middle")
    for kernel in layer.triangular_variables.values():
        kernel.assign(np.ones((8, 8)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").get_layer("middle")
    for name, kernel in loaded.triangular_variables.items():
        np.testing.assert_array_equal(kernel, loaded.masks[name].astype("float32"))
    (row,) = (row for row in summarize(model).layers if row.name == "middle")
    assert row.kind == "Tri"
    assert row.masked == pytest.approx(1 - layer.masks["kernel"].mean())


def test_its_channels_are_ordered_by_both_kernels():
    model = plain(trained=True)
    reordered = reorder_channels(model)
    x, _ = labelled(model)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(reordered(x)),
        keras.ops.convert_to_numpy(model(x)),
        rtol=1e-4,  # float32 sums in another order
        atol=1e-5,
    )
    kernels = [
        np.abs(keras.ops.convert_to_numpy(kernel)).sum(axis=0)
        for kernel in reordered.get_layer("middle").weights
        if "kernel" in kernel.name
    ]
    assert (np.diff(sum(kernels)) <= 0).all()


@on_tensorflow
def test_it_is_cut_exported_and_drawn(tmp_path):
    model = converted(trained=True)
    exported = export_tflite(
        model, tmp_path / "model.tflite", widths=WIDTHS, layout="triangular"
    )
    assert [each.width for each in exported] == list(WIDTHS)
    assert max(each.largest_error for each in exported) < 1e-5
    plot_kernel(model.get_layer("middle"))


def test_narrow_networks_of_it_stay_as_they_are():
    model = converted(trained=True)
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        widths=FixedWidths(WIDTHS),
        frozen_up_to=0.5,
    )
    x, y = labelled(model)
    before = {width: at_width(model, width, x)[0] for width in WIDTHS}
    model.train_on_batch(x, y)
    for width in (0.25, 0.5):
        np.testing.assert_array_equal(at_width(model, width, x)[0], before[width])
    assert not np.array_equal(at_width(model, 1.0, x)[0], before[1.0])


def test_it_can_be_built_by_hand():
    inputs = keras.Input((4,))
    x = TriDoubleDense(8, activation="relu")(DoubleDense(8)(inputs))
    model = AnyWidthModel(inputs, DoubleDense(3)(x), min_width=0.25)
    x, _ = labelled(model)
    assert at_width(model, 0.5, x)[0].shape == (40, 3)
