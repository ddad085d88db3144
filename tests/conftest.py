"""Fixtures, marks and small networks for several test files."""

import inspect
import os
import sys
import warnings

# TensorFlow reads these when it is imported: no GPU, fewer native log lines.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compilation takes most of the time of tests with JAX. Fewer optimizations make it
# shorter.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# With several tests at once, PyTorch's threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, TriConv2D, TriDense, slim

# Building a Keras model takes tens of milliseconds, and sometimes much longer. A
# deadline would fail tests at random.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci")


def _let_tests_read_tensors():
    """Lets NumPy read PyTorch's tensors that need gradients, but only in tests.

    Tensors of TensorFlow and JAX can be read already. In awn_keras the error of PyTorch
    remains, because the package must detach a tensor before it passes it to NumPy.
    """
    import torch

    plain = torch.Tensor.__array__

    def as_array(self, *args, **kwargs):
        frame = sys._getframe(1)
        while frame.f_globals["__name__"].partition(".")[0] in ("numpy", "contextlib"):
            frame = frame.f_back
        tests = frame.f_globals["__name__"].startswith("tests.")
        return plain(self.detach() if tests else self, *args, **kwargs)

    torch.Tensor.__array__ = as_array


BACKEND = keras.backend.backend()
if BACKEND == "torch":
    _let_tests_read_tensors()


#: For a test in a file for all backends that concerns only TensorFlow, or takes too
#: long on other backends.
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="runs on TensorFlow only"
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Runs files with slow tests first.

    Then short tests run last, and no core waits long for another at the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


#: For tests that run a step only a few times. Tracing would take longer than the steps.
eagerly = pytest.mark.eager
#: For a test that needs traced functions in a file that is marked `eagerly`.
traced = pytest.mark.eager(False)


@pytest.fixture(autouse=True)
def _eager(request):
    """Runs TensorFlow's functions as Python if a test or its file has the mark."""
    mark = request.node.get_closest_marker("eager")
    if mark is None or mark.args == (False,) or BACKEND != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        # TensorFlow warns that the option does not apply to tf.data functions. Tests do
        # not need it there.
        warnings.filterwarnings("ignore", message="Even though the `tf.config")
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def _no_figures():
    """Closes the figures of a test. Matplotlib warns of more than 20 open figures."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True, scope="session")
def _no_gpu():
    # Verification on a GPU in software takes seconds for each file. Only
    # tests/deploy/test_gpu.py tests it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("awn_keras.deploy.verification.gpu_is_available", lambda: False)
        yield


def stem_and_trunk(inputs, channels=(6, 8), **conv):
    """Adds a stem and Tri convolutions, each with normalization and ReLU."""
    x = keras.layers.Conv2D(channels[0], 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    for count in channels[1:]:
        x = TriConv2D(count, 3, padding="same", use_bias=False, **conv)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return x


def small_conv(min_width=0.25, **kwargs):
    """Builds a classifier of 6x6x2 images with 3 classes.

    `Flatten` gives the readout several features for each channel.
    """
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.MaxPooling2D()(stem_and_trunk(inputs))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    return AnyWidthModel(inputs, outputs, min_width=min_width, **kwargs)


def small_dense(**kwargs):
    """Builds a classifier of 4 numbers with 3 classes."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    x = TriDense(8, activation="relu")(x)
    return AnyWidthModel(inputs, keras.layers.Dense(3)(x), **kwargs)


def rich(**kwargs):
    """Builds a model with many ways to join and reshape channels.

    It has two inputs and two outputs, depthwise and squeeze-and-excite blocks, Add,
    Concatenate (after which the grades are not sorted), PReLU, Reshape, operators, a
    branch of constant size into the tail, and a convolution as a readout.
    """
    image = keras.Input((6, 6, 2), name="image")
    vector = keras.Input((3,), name="vector")
    x = stem_and_trunk(image, (6, 6))
    y = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    y = keras.layers.PReLU(shared_axes=[1, 2])(y)
    y = TriConv2D(6, 1)(y)
    x = keras.layers.Add()([x, y])
    squeezed = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = TriConv2D(3, 1, activation="relu")(squeezed)
    squeezed = TriConv2D(6, 1, activation="sigmoid")(squeezed)
    x = keras.layers.Multiply()([x, squeezed])
    x = keras.layers.Concatenate()([x, keras.ops.relu(y * 2.0)])
    x = TriConv2D(5, 3, strides=2, padding="same")(x)
    scores = keras.layers.Conv2D(2, 1, name="scores")(x)
    flat = keras.layers.Reshape((-1,))(x)
    z = keras.layers.Dense(4, activation="tanh")(vector)
    z = TriDense(7)(keras.layers.Concatenate()([flat, z]))
    classes = keras.layers.Dense(3)(z)
    classes = keras.layers.Concatenate(name="classes")([classes, vector])
    return AnyWidthModel(
        {"image": image, "vector": vector},
        {"scores": scores, "classes": classes},
        **{"min_width": 0.25, **kwargs},
    )


#: Keras 3.13, the oldest supported version, lacks some layers and arguments of 3.14
#: and 3.15.
HAS_ADAPTIVE_POOLING = hasattr(keras.layers, "AdaptiveMaxPooling2D")


def newer(layer_class, **arguments):
    """Selects the arguments that the installed version of Keras supports."""
    known = arguments_of(layer_class)
    return {name: value for name, value in arguments.items() if name in known}


def arguments_of(layer_class):
    """Returns the names of the arguments of a layer's constructor."""
    return set(inspect.signature(layer_class).parameters)


def inputs_of(model, count=5):
    """Draws inputs in the structure of a model's inputs; integers are below 9."""
    rng = np.random.default_rng(1)

    def draw(x):
        shape = (count, *x.shape[1:])
        if "int" in x.dtype:
            return rng.integers(0, 9, shape).astype(x.dtype)
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(draw, model.input)


def at_width(model, width, x, **kwargs):
    """Returns the outputs of a model at a width as a flat list of arrays."""
    model.width = width
    return [
        keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, **kwargs))
    ]


def assert_slims(model):
    """Checks that `slim` agrees with a model with one output, at three widths."""
    x = inputs_of(model)
    for width in (0.25, 0.5, 1.0):
        np.testing.assert_allclose(
            at_width(model, width, x)[0],
            keras.ops.convert_to_numpy(slim(model, width)(x)),
            rtol=1e-4,  # float32 sums in another order
            atol=1e-5,
        )


def classification(model, **kwargs):
    """Compiles a model with one output, logits, for classification."""
    model.compile(
        **{
            "optimizer": "sgd",
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": ["accuracy"],
            **kwargs,
        }
    )
    return model


def labelled(model, count=40):
    """Draws inputs and labels for a model of `classification`."""
    rng = np.random.default_rng(2)
    return inputs_of(model, count), rng.integers(0, 3, count)
