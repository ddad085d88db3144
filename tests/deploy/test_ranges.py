import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from awn_keras import export_tflite, to_any_width
from awn_keras.deploy.converter import convert
from awn_keras.deploy.litert import run_tflite

SAMPLES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
#: The bias of a layer whose ReLU gives 0 for all samples.
DEAD = keras.initializers.Constant(-50.0)


def model_of(call):
    x = keras.Input((8, 8, 3))
    y = layers.GlobalAveragePooling2D()(call(layers.Conv2D(6, 3, padding="same")(x)))
    return keras.Model(x, layers.Dense(3)(y))


def excited(x):
    """Squeeze-and-excite with a dead layer, then a swish."""
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(2, 1, activation="relu", bias_initializer=DEAD)(s)
    s = layers.Conv2D(6, 1, activation="sigmoid")(s)
    return layers.Activation("swish")(layers.Multiply()([x, s]))


def joined(x):
    """Dead channels beside channels with a range of their own."""
    y = layers.Conv2D(6, 3, padding="same", activation="relu", bias_initializer=DEAD)(x)
    tiny = keras.initializers.RandomNormal(stddev=1e-6)
    z = layers.Conv2D(6, 3, padding="same", kernel_initializer=tiny)(x)
    return layers.Conv2D(6, 3, activation="relu")(layers.Concatenate()([y, z]))


def dead_after_dead(x):
    for _ in range(3):
        x = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
        x = layers.DepthwiseConv2D(3, activation="relu", bias_initializer=DEAD)(
            layers.MaxPooling2D(1)(x)
        )
    return x


def hard_swish(x):
    x = layers.Conv2D(6, 1, bias_initializer=DEAD)(x)
    return layers.Activation("hard_swish")(x)


@pytest.mark.parametrize("call", [excited, joined, dead_after_dead, hard_swish])
def test_layers_that_give_0_for_all_samples_run_in_int8(call):
    model = model_of(call)
    content = convert({"a": model}, "int8", [SAMPLES])
    (outputs,) = run_tflite(content, [SAMPLES], "a")
    expected = model.predict(SAMPLES, verbose=0)
    # Integers of 8 bits have 255 steps in a range; a few layers round one after the
    # other. An output that is always 0 has a range of 2e-6 in the file.
    largest = np.abs(expected).max()
    np.testing.assert_allclose(outputs, expected, atol=0.1 * largest + 2e-6)


def test_a_dead_layer_computes_what_representative_samples_did_not_show():
    x = keras.Input((4, 4, 2))
    negative = layers.Conv2D(1, 1, activation="relu", name="negative")
    y = layers.GlobalAveragePooling2D()(negative(x))
    model = keras.Model(x, layers.Dense(1, kernel_initializer="ones")(y))
    negative.set_weights([np.array([-1.0, 0.0]).reshape(1, 1, 2, 1), np.zeros(1)])
    rng = np.random.default_rng(0)
    samples = rng.uniform(-1, 1, (64, 4, 4, 2)).astype("float32")
    positive = np.abs(samples)
    positive[..., 1] = samples[..., 1]
    (outputs,) = run_tflite(convert({"a": model}, "int8", [positive]), [samples], "a")
    # A point as range would give 0. The output of `Dense` was 0, too, so its range is a
    # guess; the steps of three layers are 1/127 at most.
    np.testing.assert_allclose(outputs, model.predict(samples, verbose=0), atol=0.03)


PARTS = {
    "conv": lambda f, **k: layers.Conv2D(f, 3, padding="same", **k),
    "transposed": lambda f, **k: layers.Conv2DTranspose(f, 3, padding="same", **k),
    "separable": lambda f, **k: layers.SeparableConv2D(f, 3, padding="same", **k),
    "pointwise": lambda f, **k: layers.Conv2D(f, 1, **k),
}
MERGES = {"add": layers.Add, "multiply": layers.Multiply, "join": layers.Concatenate}


@settings(max_examples=12)
@given(data=st.data())
def test_litert_runs_networks_with_any_dead_layers(data):
    def part(x, filters):
        kind = data.draw(st.sampled_from([*PARTS]), label="part")
        deviation = data.draw(st.sampled_from([1e-6, 1e-3, 0.3, 20.0]), label="std")
        layer = PARTS[kind](
            filters,
            activation=data.draw(
                st.sampled_from(["relu", "hard_swish", "swish", "linear"]), label="act"
            ),
            bias_initializer=data.draw(st.sampled_from(["zeros", DEAD]), label="bias"),
        )
        y = layer(x)
        normal = np.random.default_rng(0).normal
        layer.set_weights(
            [
                w if w.ndim == 1 else normal(0, deviation, w.shape)
                for w in layer.get_weights()
            ]
        )
        return y

    x = y = keras.Input((8, 8, 3))
    for _ in range(data.draw(st.integers(1, 3), label="parts")):
        y = part(y, data.draw(st.integers(1, 6), label="filters"))
        merge = data.draw(st.sampled_from([None, *MERGES]), label="merge")
        if merge is not None:
            y = MERGES[merge]()([y, part(y, y.shape[-1])])
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(y)))
    # `run_tflite` raises if LiteRT cannot prepare the file. How exact such networks are
    # in int8 says nothing: their values differ by factors of millions.
    (outputs,) = run_tflite(convert({"a": model}, "int8", [SAMPLES]), [SAMPLES], "a")
    assert np.isfinite(outputs).all()


@pytest.mark.filterwarnings("ignore:At precision:UserWarning")
def test_every_width_runs_in_int8_if_narrow_ones_are_dead(tmp_path):
    model = to_any_width(model_of(excited), min_width=0.35)
    exported = export_tflite(
        model, tmp_path / "a.tflite", precision="int8", representative=SAMPLES
    )
    assert [each.width for each in exported] == pytest.approx(
        [0.35, 0.5667, 0.7834, 1.0]
    )
