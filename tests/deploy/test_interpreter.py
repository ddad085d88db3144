import hashlib
import os
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from awn_keras import (
    AnytimeInterpreter,
    AnyWidthModel,
    TriDense,
    export_tflite,
    read_photo,
    slim,
)
from awn_keras.deploy import interpreter as module
from awn_keras.deploy.attachments import flatbuffer_of
from awn_keras.deploy.benchmark.report import Report, Row
from awn_keras.deploy.export import convert
from awn_keras.deploy.interpreter import AnyWidthInterpreter
from awn_keras.deploy.signatures import width_signature
from tests.conftest import at_width, inputs_of, rich, small_conv, small_dense
from tests.deploy.classifiers import NAMES, of_pixels, pixels, softmax

WIDTHS = (0.25, 0.5, 0.625, 1.0)


def one_file(model, widths=WIDTHS):
    return convert({width_signature(w): slim(model, w) for w in widths})


@pytest.fixture(scope="module")
def conv():
    keras.utils.set_random_seed(0)
    model = small_conv()
    return model, one_file(model)


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(0)
    return one_file(small_dense())


@pytest.fixture(scope="module")
def two_inputs():
    keras.utils.set_random_seed(0)
    model = rich()
    return model, one_file(model, (0.5, 1.0))


def of_functions(folder, signatures, prepare=None):
    """A file whose signatures are functions with input specs."""
    functions = {
        name: tf.function(function, input_signature=[spec])
        for name, (function, spec) in signatures.items()
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures=functions)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=list(signatures)
    )
    if prepare:
        prepare(converter)
    return converter.convert()


# --------------------------------------------------------------------------- results


def test_each_width_computes_what_the_slimmed_network_computes(conv):
    model, content = conv
    interpreter = AnyWidthInterpreter(content)
    x = inputs_of(model)
    assert interpreter.widths == WIDTHS
    for width in (1.0, 0.25, 0.625, 0.5, 1.0, 0.25):
        got = interpreter.run(x, width=width)
        # Other kernels than TensorFlow's, and BatchNormalization folded into them.
        np.testing.assert_allclose(got, slim(model, width)(x), atol=1e-4)
        assert got.dtype == np.float32
    # Without a budget: the widest, the sums of the same kernels.
    np.testing.assert_array_equal(interpreter.run(x), interpreter.run(x, width=1.0))
    assert interpreter.width == 1.0
    assert interpreter.within_budget


def test_several_inputs_and_outputs_go_by_name(two_inputs):
    model, content = two_inputs
    interpreter = AnyWidthInterpreter(content)
    x = inputs_of(model)
    for width in interpreter.widths:
        got = interpreter.run(x, width=width)
        assert sorted(got) == ["classes", "scores"]
        wanted = dict(zip(sorted(got), at_width(model, width, x), strict=True))
        for name, array in got.items():
            # Another library's kernels.
            np.testing.assert_allclose(array, wanted[name], atol=1e-4)


def test_a_file_on_disk_of_one_width(tmp_path):
    model = small_dense()
    path = tmp_path / "net.tflite"
    path.write_bytes(one_file(model, (1 / 3,)))
    x = inputs_of(model)
    for form in (path, str(path)):
        interpreter = AnyWidthInterpreter(form, num_threads=2)
        # The name has a millionth of a percent.
        assert interpreter.widths == (0.33333333,)
        got = interpreter.run(x, width=1 / 3)
        np.testing.assert_array_equal(got, interpreter.run(x))


def test_casts_and_strides_are_no_matter(conv):
    _, content = conv
    interpreter = AnyWidthInterpreter(content)
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 4), dtype="uint8")
    x = images[..., ::2]
    wanted = interpreter.run(np.ascontiguousarray(x, "float32"))
    # Bytes are whole numbers in each of these.
    for same in (x, x.astype("float64"), x.astype(">f4"), x.astype(int), x.tolist()):
        np.testing.assert_array_equal(interpreter.run(same), wanted)
    assert interpreter.run(x[:0]).shape == (0, 3)


def test_an_input_is_left_as_it_was_and_results_are_ones_own(dense):
    interpreter = AnyWidthInterpreter(dense)
    x = np.ones((2, 4), "float32")
    first = interpreter.run(x)
    kept = first.copy()
    interpreter.run(-x)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(x, 1)


# The converter calibrates with the interpreter that it deprecates.
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_quantized_inputs_and_outputs_are_floats_outside(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4)).astype("float32")
    first, last = rng.normal(size=(4, 8)), rng.normal(size=(8, 3))

    def network(channels):
        before, two = first[:, :channels], last[:channels]
        before, two = tf.constant(before, tf.float32), tf.constant(two, tf.float32)
        return lambda x: {"y": tf.nn.relu(x @ before) @ two}

    networks = {0.5: network(4), 1.0: network(8)}
    names = {width: width_signature(width) for width in networks}

    def prepare(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            (name, {"x": row[None]}) for name in names.values() for row in x
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8

    spec = tf.TensorSpec((1, 4), name="x")
    functions = {names[width]: (networks[width], spec) for width in networks}
    content = of_functions(tmp_path, functions, prepare)
    interpreter = AnyWidthInterpreter(content)
    for width in interpreter.widths:
        reference = Interpreter(model_content=content)
        runner = reference.get_signature_runner(names[width])
        scale, zero_point = runner.get_input_details()["x"]["quantization"]
        step, offset = runner.get_output_details()["y"]["quantization"]
        assert runner.get_input_details()["x"]["dtype"] is np.int8
        steps = np.clip(np.rint(x / scale) + zero_point, -128, 127).astype("int8")
        wanted = [runner(x=row[None])["y"][0].astype(int) - offset for row in steps]
        got = interpreter.run(x, width=width)
        assert got.dtype == np.float32
        # One rounding of the product.
        np.testing.assert_allclose(got, np.multiply(wanted, step), rtol=1e-6)
        # The signature's own integers are taken as they are.
        np.testing.assert_array_equal(interpreter.run(steps, width=width), got)
        # 8 bits: a step or two of the output, and the hidden layers' own.
        exact = networks[width](x)["y"].numpy()
        assert np.abs(got - exact).max() < 0.05 * np.abs(exact).max()
    far = np.array([[1e9, -1e9, np.inf, 0]], "float32")
    assert np.isfinite(interpreter.run(far)).all()
    with pytest.raises(ValueError, match="not have NaN for the quantized input 'x'"):
        interpreter.run(np.full((1, 4), np.nan, "float32"))
    with pytest.raises(TypeError, match=r"`x` must be int8 or floats .* of uint8"):
        interpreter.run(np.zeros((1, 4), "uint8"))


def test_integers_that_fit_are_cast(tmp_path):
    spec = tf.TensorSpec((1, 2), tf.int32, name="tokens")
    content = of_functions(tmp_path, {"width_100": (lambda tokens: tokens + 1, spec)})
    interpreter = AnyWidthInterpreter(content)
    got = interpreter.run(np.array([[1, 2], [3, 4]]))
    np.testing.assert_array_equal(got, [[2, 3], [4, 5]])
    assert got.dtype == np.int32
    for bad in ([[2**40, 0]], [[0.5, 1.0]], [["a", "b"]]):
        with pytest.raises(TypeError, match="`x` must be int32 for input 'tokens'"):
            interpreter.run(np.array(bad))


# -------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "'content' is not a TFLite file, or not a whole one. LiteRT says: "),
        (b"not a network at all", "is not a TFLite file, or not a whole one"),
        (b"\x1c\0\0\0TFL3" + bytes(100), "is not a TFLite file"),
    ],
)
def test_what_is_not_tflite_is_refused(tmp_path, content, match):
    with pytest.raises(ValueError, match=match):
        AnyWidthInterpreter(content)
    path = tmp_path / "file.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.tflite' is not a TFLite file"):
        AnyWidthInterpreter(path)


def test_half_a_file_is_refused(dense):
    with pytest.raises(ValueError, match="not a whole one"):
        AnyWidthInterpreter(dense[:-100])


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tflite"):
        AnyWidthInterpreter(tmp_path / "nowhere.tflite")


def test_signatures_of_other_names_are_ignored_or_refused():
    small = slim(small_dense(), 0.5)
    interpreter = AnyWidthInterpreter(convert({"other": small, "width_050": small}))
    assert interpreter.widths == (0.5,)
    with pytest.raises(ValueError, match=r"signature for each width.*\['other'\]"):
        AnyWidthInterpreter(convert({"other": small}))


@pytest.mark.parametrize("shape", [(2, 3), (1, None), ()])
def test_other_batch_sizes_and_open_shapes_are_refused(tmp_path, shape):
    spec = tf.TensorSpec(shape, name="x")
    content = of_functions(tmp_path, {"width_100": (lambda x: x + 1.0, spec)})
    with pytest.raises(ValueError, match=r"batch size 1 and fixed.*'x' of shape \("):
        AnyWidthInterpreter(content)


def test_an_open_batch_size_is_one(tmp_path):
    spec = tf.TensorSpec((None, 3), name="x")
    content = of_functions(tmp_path, {"width_100": (lambda x: x + 1.0, spec)})
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(AnyWidthInterpreter(content).run(x), x + 1)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"num_threads": 0}, ValueError, "`num_threads` must be at least 1.*=0"),
        ({"num_threads": 1.5}, TypeError, "`num_threads` must be an integer"),
        ({"num_threads": True}, TypeError, "`num_threads` must be an integer"),
        ({"warm_up": -1}, ValueError, "`warm_up` must be at least 0"),
        ({"warm_up": None}, TypeError, "`warm_up` must be an integer"),
        ({"budget_ms": 0}, ValueError, "`budget_ms` must be positive.*=0"),
        ({"budget_ms": float("nan")}, ValueError, "`budget_ms` must be positive"),
        ({"budget_ms": "5"}, TypeError, "`budget_ms` must be a number.*'5'"),
        ({"budget_ms": True}, TypeError, "`budget_ms` must be a number.*True"),
        ({"path": 5}, TypeError, "`path` must be the path.*=5"),
    ],
)
def test_bad_arguments_are_refused(dense, arguments, error, match):
    with pytest.raises(error, match=match):
        AnyWidthInterpreter(**{"path": dense, **arguments})


@pytest.mark.parametrize(
    ("x", "width", "error", "match"),
    [
        (np.zeros((1, 4)), 0.3, ValueError, r"file's widths, \[0.25, .*=0\.3"),
        (np.zeros((1, 4)), 1.5, ValueError, r"`width` must be in \(0, 1\]"),
        (np.zeros((1, 4)), "1", TypeError, "`width` must be a number"),
        (np.zeros(4), None, ValueError, r"shape \(n, 4\).*\(4,\)\. Add the batch axis"),
        (np.zeros((1, 5)), None, ValueError, r"shape \(n, 4\) .*\(1, 5\)\.$"),
        (0.0, None, ValueError, r"Received: an array of shape \(\)\.$"),
        ({"x": 0}, None, ValueError, r"for each of the inputs .* Received: \['x'\]"),
        (np.zeros((1, 4), complex), None, TypeError, "must be float32 for .*complex"),
    ],
)
def test_what_does_not_fit_is_refused(dense, x, width, error, match):
    interpreter = AnyWidthInterpreter(dense, warm_up=0)
    with pytest.raises(error, match=match):
        interpreter.run(x, width)
    # Nothing was run.
    assert set(interpreter.latency_ms.values()) == {None}


def test_inputs_that_do_not_go_together_are_refused(two_inputs):
    model, content = two_inputs
    interpreter = AnyWidthInterpreter(content)
    x = inputs_of(model)
    with pytest.raises(ValueError, match=r"inputs \['image', 'vector'\].*: a list"):
        interpreter.run([x["image"], x["vector"]])
    with pytest.raises(ValueError, match=r"'vector'\].* Received: \['image'\]"):
        interpreter.run({"image": x["image"]})
    with pytest.raises(ValueError, match=r"same number .*'image': 5, 'vector': 2"):
        interpreter.run({"image": x["image"], "vector": x["vector"][:2]})


# ------------------------------------------------------------------ threads and memory


def test_threads_take_turns_and_get_their_own_answers(dense):
    inside = []

    class Watched(AnyWidthInterpreter):
        def _invoke(self, width, sample):
            inside.append(width)
            # Long enough for another thread to come in, if it could.
            time.sleep(1e-4)
            assert inside == [width]
            try:
                return super()._invoke(width, sample)
            finally:
                inside.clear()

    interpreter = Watched(dense, budget_ms=1.0)
    rng = np.random.default_rng(0)
    work = [
        (width, rng.normal(size=(20, 4)), AnyWidthInterpreter(dense))
        for width in WIDTHS
    ]
    wanted = [alone.run(x, width=width) for width, x, alone in work]
    failed = []

    def repeat(k):
        width, x, _ = work[k]
        for i in range(5):
            interpreter.budget_ms = 1.0 + i
            if not np.array_equal(interpreter.run(x, width=width), wanted[k]):
                failed.append(width)
            interpreter.run(x[:2])

    def guarded(k):
        try:
            repeat(k)
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_switching(dense):
    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    interpreter = AnyWidthInterpreter(dense, budget_ms=10.0)
    x = np.ones((1, 4), "float32")

    def switch(times):
        for i in range(times):
            interpreter.run(x, width=WIDTHS[i % len(WIDTHS)])

    # As many before, so that a leak has filled the free places of the heap. One small
    # array kept at each switch was then 0.9 to 2.3 MB; nothing kept, 0 to 4 kB.
    switch(10_000)
    before = resident()
    switch(10_000)
    assert resident() - before < 0.5e6


# ------------------------------------------------------------------------- deadlines


class Machine:
    """Runs an interpreter on a clock that only its invocations advance."""

    def __init__(self, content, monkeypatch, costs, **kwargs):
        self.now = 0.0
        self.slowness = 1.0
        self.ran = []
        machine = self

        class Slowed(AnyWidthInterpreter):
            def _invoke(self, width, sample):
                machine.ran.append(width)
                machine.now += costs[width] * machine.slowness / 1000
                return super()._invoke(width, sample)

        monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        self.interpreter = Slowed(content, **kwargs)

    def run(self, times):
        """The widths of some runs without a width."""
        self.ran.clear()
        for _ in range(times):
            self.interpreter.run(np.ones((1, 4)))
        return list(self.ran)


COSTS = {0.25: 1.0, 0.5: 2.5, 0.625: 4.0, 1.0: 8.0}


def test_a_slowed_down_machine_makes_it_step_down_and_come_back(dense, monkeypatch):
    machine = Machine(dense, monkeypatch, COSTS, budget_ms=10.0)
    interpreter = machine.interpreter
    assert interpreter.width == 0.25
    assert machine.run(60)[-1] == 1.0
    # All were measured on the way up.
    assert interpreter.latency_ms == pytest.approx(COSTS)

    machine.slowness = 3.0
    during = machine.run(50)
    # 3 slow runs outweigh the last fast ones; 0.625 takes 12 ms, and is left too.
    assert during[:4] == [1.0, 1.0, 1.0, 0.625]
    assert during[6:] == [0.5] * 44
    assert interpreter.within_budget
    assert interpreter.latency_ms[0.5] == pytest.approx(7.5)

    machine.slowness = 1.0
    after = machine.run(60)
    # 3 runs until the median falls, and 5 in a row.
    assert after[8:] == [1.0] * 52
    assert interpreter.latency_ms[1.0] == pytest.approx(8.0)


def test_a_report_says_where_to_begin(dense, monkeypatch, tmp_path):
    rows = [
        Row(
            "cpu",
            width,
            "",
            "net.tflite",
            hashlib.sha256(dense).hexdigest(),
            1,
            ms,
            p90_ms=1.1 * ms,
        )
        for width, ms in COSTS.items()
    ]
    Report(rows).save(tmp_path / "report.json")
    for report in (Report(rows), tmp_path / "report.json"):
        machine = Machine(dense, monkeypatch, COSTS, budget_ms=5.0, report=report)
        assert machine.interpreter.width == 0.625
        assert machine.run(20) == [0.625] * 20
    # Measured on a fast day: the first three runs of 0.625 tell.
    machine = Machine(
        dense, monkeypatch, COSTS, budget_ms=5.0, report=report, warm_up=0
    )
    machine.slowness = 1.5
    assert machine.run(5)[2:] == [0.625, 0.5, 0.5]
    # It goes by width alone, and by this kind of machine if it is in the report.
    other = [replace(row, accuracy=0.9 - row.width / 2) for row in rows]
    other += [replace(row, target="android-cpu", p90_ms=9e9) for row in rows]
    machine = Machine(dense, monkeypatch, COSTS, budget_ms=5.0, report=Report(other))
    assert machine.interpreter.width == 0.625
    # Without a budget there is nothing to pick.
    assert Machine(dense, monkeypatch, COSTS, report=report).interpreter.width == 1.0
    with pytest.raises(ValueError, match=r"rows of this file on a CPU with 2 threads"):
        AnyWidthInterpreter(dense, budget_ms=5.0, report=Report(rows), num_threads=2)
    with pytest.raises(ValueError, match=r"Received: 0 rows"):
        AnyWidthInterpreter(dense, budget_ms=5.0, report=Report())


def test_if_nothing_fits_the_narrowest_runs_and_it_shows(dense, monkeypatch):
    machine = Machine(dense, monkeypatch, COSTS, budget_ms=10.0)
    machine.run(60)
    machine.slowness = 20.0
    assert machine.run(60)[-40:] == [0.25] * 40
    assert not machine.interpreter.within_budget
    machine.slowness = 1.0
    assert machine.run(60)[-1] == 1.0
    assert machine.interpreter.within_budget


def test_the_budget_can_be_changed_and_lifted(dense, monkeypatch):
    machine = Machine(dense, monkeypatch, COSTS, budget_ms=10.0)
    interpreter = machine.interpreter
    machine.run(60)
    interpreter.budget_ms = 3.0
    assert interpreter.budget_ms == 3.0
    assert machine.run(3) == [0.5] * 3
    # 0.9 times 4.3 ms is less than 0.625 takes.
    interpreter.budget_ms = 4.3
    assert machine.run(1) == [0.5]
    interpreter.budget_ms = 5.0
    assert machine.run(1) == [0.625]
    interpreter.budget_ms = None
    assert machine.run(1) == [1.0]
    with pytest.raises(ValueError, match="`budget_ms` must be positive"):
        interpreter.budget_ms = -1.0
    assert interpreter.budget_ms is None


def test_a_call_keeps_its_width(dense, monkeypatch):
    machine = Machine(dense, monkeypatch, COSTS, budget_ms=10.0)
    machine.run(60)
    machine.slowness = 3.0
    machine.ran.clear()
    machine.interpreter.run(np.ones((12, 4)))
    assert machine.ran == [1.0] * 12
    assert machine.interpreter.width == 0.625


def test_latencies_are_measured_without_a_budget_too(dense, monkeypatch):
    machine = Machine(dense, monkeypatch, COSTS, warm_up=2)
    interpreter = machine.interpreter
    interpreter.run(np.ones((2, 4)), width=0.5)
    assert interpreter.latency_ms == dict.fromkeys(WIDTHS)
    interpreter.run(np.ones((1, 4)), width=0.5)
    assert interpreter.latency_ms[0.5] == pytest.approx(2.5)
    # What is known decides at once.
    interpreter.run(np.ones((3, 4)), width=0.625)
    interpreter.budget_ms = 6.0
    assert interpreter.width == 0.625


# ---------------------------------------------------------------------- photos, labels


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A model, and where files of it are: one, a folder of them, one of pixels."""
    keras.utils.set_random_seed(0)
    model = of_pixels()
    folder = tmp_path_factory.mktemp("animals")
    said = {"widths": [0.25, 1.0], "metadata": {"class_names": NAMES}}
    export_tflite(model, folder / "one.tflite", **said)
    export_tflite(model, folder / "each", single_file=False, **said)
    export_tflite(
        model,
        folder / "pixels.tflite",
        inputs="uint8",
        outputs="probabilities",
        **said,
    )
    return model, folder


@pytest.mark.parametrize("name", ["one.tflite", "each", "pixels.tflite"])
def test_a_photo_and_the_file_are_enough(animals, name, tmp_path):
    model, folder = animals
    interpreter = AnyWidthInterpreter(folder / name)
    assert interpreter.widths == (0.25, 1.0)
    assert interpreter.labels == tuple(NAMES)
    assert interpreter.metadata["metadata"]["class_names"] == NAMES
    photo = Image.fromarray(pixels(1, (24, 64, 3))[0])
    photo.save(tmp_path / "photo.png")
    x = read_photo(photo, (12, 16, 3))[None].astype("float32")
    for width in (0.25, 1.0):
        model.width = width
        wanted = np.asarray(model(x))
        if name == "pixels.tflite":
            wanted = softmax(wanted)
        for photos in (photo, [photo]):
            got = interpreter.run(photos, width)
            # Another library's kernels.
            np.testing.assert_allclose(got, wanted, atol=1e-4)
        likely = softmax(np.asarray(model(x)))[0]
        order = np.argsort(-likely)[:3]
        for source in (photo, tmp_path / "photo.png", str(tmp_path / "photo.png")):
            answers = interpreter.top(source, 3, width)
            assert [label for label, _ in answers] == [NAMES[i] for i in order]
            np.testing.assert_allclose(
                [p for _, p in answers], likely[order], atol=1e-4
            )
    assert len(interpreter.run([photo] * 3)) == 3
    assert interpreter.last_ms > 0


def test_what_a_folder_is_made_of(animals, tmp_path):
    _, folder = animals
    each = AnyWidthInterpreter(folder / "each")
    single = AnyWidthInterpreter(folder / "one.tflite")
    x = pixels(2).astype("float32")
    for width in each.widths:
        np.testing.assert_array_equal(each.run(x, width), single.run(x, width))
    with pytest.raises(ValueError, match=r"must be one of the file's widths, \[0.25, "):
        each.run(x, 0.5)
    # The manifest says which files belong together.
    shutil.copytree(folder / "each", tmp_path / "a")
    shutil.copy(folder / "one.tflite", tmp_path / "a" / "another.tflite")
    assert AnyWidthInterpreter(tmp_path / "a").widths == (0.25, 1.0)
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="several files of one width"):
        AnyWidthInterpreter(tmp_path / "a")
    (tmp_path / "a" / "another.tflite").unlink()
    assert AnyWidthInterpreter(tmp_path / "a").widths == (0.25, 1.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"must have \.tflite files"):
        AnyWidthInterpreter(tmp_path / "empty")
    with pytest.raises(TypeError, match="`num_threads` must be an integer"):
        AnyWidthInterpreter(tmp_path / "a", num_threads=1.5)


def test_a_report_of_a_folder_is_of_its_files(animals):
    _, folder = animals
    files = sorted((folder / "each").glob("*.tflite"))
    rows = [
        Row(
            *("cpu", width, f"width_{path.stem[-3:]}", path.name),
            hashlib.sha256(path.read_bytes()).hexdigest(),
            *(1, ms, ms, ms, ms),
        )
        for path, width, ms in zip(files, (0.25, 1.0), (1.0, 4.0), strict=True)
    ]
    for budget, width in ((5.0, 1.0), (2.0, 0.25)):
        interpreter = AnyWidthInterpreter(
            folder / "each", budget_ms=budget, report=Report(rows)
        )
        assert interpreter.width == width


def test_files_that_say_nothing_take_arrays(conv, two_inputs, animals):
    photo = Image.fromarray(pixels(1)[0])
    interpreter = AnyWidthInterpreter(conv[1])
    assert (interpreter.labels, interpreter.metadata) == ((), {})
    with pytest.raises(ValueError, match="Photos need an input of shape"):
        interpreter.run(photo)
    with pytest.raises(ValueError, match="Photos need a file with one input"):
        AnyWidthInterpreter(two_inputs[1]).run(photo)
    content = convert({"width_100": slim(animals[0], 1.0)})
    with pytest.raises(ValueError, match="does not say how pixels become input 'photo"):
        AnyWidthInterpreter(content).top(photo)
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        AnyWidthInterpreter(animals[1] / "one.tflite").top(photo, k=0)


# ---------------------------------------------------------------------- several inputs


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """A model whose inputs are not in the order of their names, and its file."""
    first, second = keras.Input((4,), name="zebra"), keras.Input((5,), name="apple")
    dense = [keras.layers.Dense(8)(x) for x in (first, second)]
    x = TriDense(16)(keras.layers.Concatenate()(dense))
    x = TriDense(16)(x)  # after a Concatenate no kernel is cut
    model = AnyWidthModel([first, second], keras.layers.Dense(3)(x))
    path = tmp_path_factory.mktemp("two") / "two.tflite"
    export_tflite(model, path, widths=[0.25, 1.0], refine=(0.25, 1.0))
    return model, path


def test_several_inputs_are_given_in_the_models_order_or_by_name(of_two):
    model, path = of_two
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(2, n)).astype("float32") for n in (4, 5)]
    wanted = model.predict(x, verbose=0)
    interpreter = AnyWidthInterpreter(path)
    by_name = dict(zip(("zebra", "apple"), x, strict=True))
    for given in (x, tuple(x), by_name):
        # Another library's kernels.
        np.testing.assert_allclose(interpreter.run(given), wanted, atol=1e-5)
    anytime = AnytimeInterpreter(path)
    anytime.run([array[:1] for array in x])
    np.testing.assert_allclose(anytime.refine(), wanted[:1], atol=1e-5)


def test_arrays_in_another_order_are_told_by_their_shapes(of_two):
    interpreter = AnyWidthInterpreter(of_two[1])
    x = [np.zeros((2, 5)), np.zeros((2, 4))]
    order = r"'zebra' \(n, 4\), 'apple' \(n, 5\).*\[\(2, 5\), \(2, 4\)\]"
    with pytest.raises(ValueError, match=order):
        interpreter.run(x)
    with pytest.raises(ValueError, match="an array for each input in this order"):
        interpreter.run(x[:1])
    bare = AnyWidthInterpreter(flatbuffer_of(of_two[1].read_bytes()))
    with pytest.raises(ValueError, match="does not say their order"):
        bare.run(x[::-1])
