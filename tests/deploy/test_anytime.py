import functools

import keras
import numpy as np
import pytest
from PIL import Image

from awn_keras import (
    AnytimeInterpreter,
    AnyWidthInterpreter,
    export_tflite,
    lenet_3c1l,
    slim,
)
from awn_keras.deploy.converter import convert
from tests.conftest import at_width, inputs_of, rich, small_dense
from tests.deploy.classifiers import NAMES, of_pixels, pixels
from tests.test_slimming import randomize

PAIR = (0.25, 1.0)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return lenet_3c1l((16, 16, 1), filters=16, width_multiplier=1.0)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    """The path of the model's file of a precision."""

    @functools.cache
    def path(precision="float32"):
        path = tmp_path_factory.mktemp("anytime") / "net.tflite"
        export_tflite(model, path, widths=PAIR, refine=PAIR, precision=precision)
        return path

    return path


@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic_range"])
def test_it_answers_twice_as_the_two_widths_do(model, file, precision):
    path = file(precision)
    anytime, switching = AnytimeInterpreter(path), AnyWidthInterpreter(path)
    assert anytime.widths == PAIR
    for x in inputs_of(model, 5):
        sample = x[None]
        first = anytime.run(sample)
        refined = anytime.refine()
        assert not np.array_equal(first, refined)
        for width, got in zip(PAIR, (first, refined), strict=True):
            wanted = switching.run(sample, width=width)
            # The same operators on the same numbers; but where constants are int8,
            # LiteRT rounds the activations of each block by itself.
            atol = 0.02 if precision == "dynamic_range" else 1e-5
            np.testing.assert_allclose(got, wanted, atol=atol)


def test_a_refined_answer_belongs_to_the_last_sample(model, file):
    first, other = inputs_of(model, 2)
    interpreter = AnytimeInterpreter(file().read_bytes(), num_threads=2)
    interpreter.run(first[None])
    wanted = interpreter.refine()
    interpreter.run(other[None])
    assert not np.array_equal(interpreter.refine(), wanted)
    interpreter.run(first[None])
    np.testing.assert_array_equal(interpreter.refine(), wanted)
    np.testing.assert_array_equal(interpreter.refine(), wanted)


def test_several_inputs_and_outputs(tmp_path):
    keras.utils.set_random_seed(0)
    model = randomize(rich())
    path = tmp_path / "rich.tflite"
    pair = (model.min_width, 1.0)
    export_tflite(model, path, widths=pair, refine=pair, layout="dense")
    interpreter = AnytimeInterpreter(path)
    arrays = inputs_of(model, 1)
    names = [x._keras_history.operation.name for x in model.inputs]
    x = dict(zip(names, keras.tree.flatten(arrays), strict=True))
    for width, got in zip(
        pair, (interpreter.run(x), interpreter.refine()), strict=True
    ):
        assert sorted(got) == sorted(model.output_names)
        wanted = at_width(model, width, arrays)
        for name, value in zip(model.output_names, wanted, strict=True):
            scale = max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(got[name], value, atol=1e-4 * scale)


def test_misuse_says_what_to_do(model, file, tmp_path):
    path = file()
    interpreter = AnytimeInterpreter(path)
    with pytest.raises(RuntimeError, match=r"`refine\(\)` continues `run\(x\)`"):
        interpreter.refine()
    x = inputs_of(model, 2)
    with pytest.raises(ValueError, match=r"one sample.*Received: 2 samples"):
        interpreter.run(x)
    with pytest.raises(ValueError, match="Add the batch axis"):
        interpreter.run(x[0])
    with pytest.raises(ValueError, match="`num_threads` must be at least 1"):
        AnytimeInterpreter(path, num_threads=0)
    usual = tmp_path / "usual.tflite"
    usual.write_bytes(convert({"width_050": slim(small_dense(), 0.5)}))
    with pytest.raises(ValueError, match=r"refine=\(0.25, 1.0\)\)` writes such a file"):
        AnytimeInterpreter(usual)
    usual.write_bytes(b"not a network")
    with pytest.raises(ValueError, match="not a whole one"):
        AnytimeInterpreter(usual)


def test_a_run_that_fails_leaves_nothing_to_refine(model, file):
    interpreter = AnytimeInterpreter(file())
    x = inputs_of(model, 1)
    interpreter.run(x)

    def fail(*_):
        raise RuntimeError("LiteRT")

    interpreter._model.run_by_name = fail
    with pytest.raises(RuntimeError, match="LiteRT"):
        interpreter.run(x)
    with pytest.raises(RuntimeError, match=r"continues `run\(x\)`"):
        interpreter.refine()


def test_a_photo_is_run_as_the_file_says(tmp_path):
    model, path = of_pixels(), tmp_path / "a.tflite"
    said = {"class_names": NAMES}
    export_tflite(
        model, path, widths=PAIR, refine=PAIR, layout="triangular", metadata=said
    )
    anytime = AnytimeInterpreter(path)
    assert anytime.labels == tuple(NAMES)
    assert anytime.metadata["metadata"] == said
    x = pixels(1)
    (sample,) = x
    photo = Image.fromarray(sample)
    for source in (photo, [photo]):
        first, refined = anytime.run(source), anytime.refine()
        np.testing.assert_array_equal(first, anytime.run(x.astype("float32")))
        np.testing.assert_array_equal(refined, anytime.refine())
    with pytest.raises(ValueError, match="must be one sample"):
        anytime.run([photo, photo])
