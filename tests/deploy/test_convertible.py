import keras
import numpy as np
import pytest

from awn_keras.deploy.converter import convert
from awn_keras.deploy.convertible import check_convertible
from awn_keras.deploy.litert import run_tflite
from awn_keras.errors import ExportError

L = keras.layers


def model_of(layer, shape=(6, 4), dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype, name="x")
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda: L.IntegerLookup(vocabulary=[1, 5], name="table"), "int32"),
        (lambda: L.Hashing(8, name="table"), "int32"),
    ],
)
def test_tables_are_refused(make, dtype):
    model = model_of(make(), (3,), dtype)
    # Also within another model.
    outer = model_of(model, (3,), dtype)
    for each in (model, outer):
        with pytest.raises(ExportError, match=r"Layer 'table'.*Leave the layer out"):
            check_convertible([each], "float32")


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.StringLookup(vocabulary=["a"]),
        lambda: L.TextVectorization(vocabulary=["a"], output_sequence_length=3),
    ],
)
def test_text_is_refused(make):
    model = model_of(make(), (1,), "string")
    with pytest.raises(ExportError, match=r"takes text.*before the model"):
        convert({"a": model})


ROLLED = {
    "lstm": lambda **options: L.LSTM(5, name="steps", **options),
    "gru": lambda **options: L.GRU(5, name="steps", **options),
    "simple": lambda **options: L.SimpleRNN(5, name="steps", **options),
    "cells": lambda **options: L.RNN(L.LSTMCell(5), name="steps", **options),
    "both": lambda **options: L.Bidirectional(L.LSTM(5, name="steps", **options)),
}


@pytest.mark.parametrize("kind", ROLLED)
def test_loops_over_steps_are_refused_in_int8_alone(kind):
    """The converter would end the process with a segmentation fault."""
    model = model_of(ROLLED[kind]())
    with pytest.raises(ExportError, match=r"'\w*steps'.*`unroll=True`"):
        convert({"a": model}, "int8", [np.zeros((4, 6, 4), "float32")])
    check_convertible([model], "dynamic_range")
    check_convertible([model_of(ROLLED[kind](unroll=True))], "int8")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "both"])
def test_what_is_unrolled_computes_the_same_in_int8(kind):
    x = np.random.default_rng(0).normal(size=(32, 6, 4)).astype("float32")
    rolled, model = model_of(ROLLED[kind]()), model_of(ROLLED[kind](unroll=True))
    model.set_weights(rolled.get_weights())
    (got,) = run_tflite(convert({"a": model}, "int8", [x]), [x])
    # Values are in [-1, 1], where a step of int8 is 1/128; six steps add up.
    np.testing.assert_allclose(got, rolled.predict(x, verbose=0), atol=6 / 128)
