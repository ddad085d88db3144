"""A crash of TFLite's converter gives an error and does not end the session."""

import keras
import numpy as np
import pytest

from awn_keras.deploy import converter
from awn_keras.deploy.converter import convert
from awn_keras.deploy.litert import run_tflite
from awn_keras.errors import ExportError
from tests.deploy.functions import Each, Thrice

pytestmark = pytest.mark.slow  # Each child starts TensorFlow.

SAMPLES = np.random.default_rng(0).normal(size=(20, 5, 3)).astype("float32")


def around(layer):
    inputs = keras.Input((5, 3))
    x = keras.layers.Dense(4, activation="relu")(inputs)
    x = layer(keras.layers.Dense(3, name="inner")(x))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs, name="around")


def test_a_crash_costs_an_error():
    # Without another process this ends the tests by a segmentation fault.
    match = r"ended with signal 11\. TFLite's converter crashes this way when it.*`prec"
    with pytest.raises(ExportError, match=match):
        convert({"a": around(Each())}, "int8", [SAMPLES])


def test_a_loop_that_does_not_crash_is_converted():
    model = around(Thrice())
    done = []
    content = convert({"a": model, "b": model}, "int8", [SAMPLES], done.append)
    assert done == ["a", "b"]
    (y,) = run_tflite(content, [SAMPLES], "a")
    wanted = model.predict(SAMPLES, verbose=0)
    # Loops stay in float32; each of two dense layers before it is off by a step of
    # 1/255 of its range at most, of which the loop makes up to 1.5 ** 3 times as much.
    np.testing.assert_allclose(y, wanted, rtol=0, atol=8 * np.ptp(wanted) / 255)


@pytest.mark.parametrize("precision", ["float32", "dynamic_range"])
def test_loops_of_other_precisions_are_converted_here(precision, monkeypatch):
    monkeypatch.delattr(converter, "convert_in_child")
    assert convert({"a": around(Each())}, precision)


def test_a_class_that_another_process_cannot_import_is_told():
    class Local(Each):
        """In no module."""

    match = r"'Local' is not at the top level .* a loop, on which the converter may"
    with pytest.raises(ExportError, match=match):
        convert({"a": around(Local())}, "int8", [SAMPLES])
