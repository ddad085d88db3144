"""The ten most likely mistakes, made as a user makes them: each message must help.

Every test is the few lines that a user would write, and looks for two things in the
message: the rule (or what is wrong, by name), and what to do instead. Each function's
own tests go through its arguments one by one; these here are what people meet.
"""

import re
import sys
import warnings
from contextlib import contextmanager

import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthInterpreter,
    AnyWidthModel,
    TriConv2D,
    TriDense,
    TriLayerNormalization,
    count_macs,
    export_tflite,
    reorder_channels,
    slim,
    summarize,
    to_any_width,
    trade_off_curve,
)
from awn_keras.cli import main
from awn_keras.data import DatasetUnavailableError, load_data
from awn_keras.deploy.quantization_aware import quantize_aware
from tests.conftest import (
    classification,
    eagerly,
    labelled,
    rich,
    small_conv,
    small_dense,
)

pytestmark = eagerly

L = keras.layers
SPARSE = keras.losses.SparseCategoricalCrossentropy
ONE_HOT = keras.losses.CategoricalCrossentropy


def stem(inputs, *layers):
    """Builds a stem and a chain of layers."""
    x = L.Conv2D(8, 3, padding="same")(inputs)
    for layer in layers:
        x = layer(x)
    return x


def command(*arguments):
    """Runs `awn` and returns the exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse ends the process itself
        return stop.code


@contextmanager
def warns(match):
    with pytest.warns(UserWarning, match=match) as caught:  # noqa: PT031
        # `pytest.warns` forgets the project's filters. Keras gives NumPy cause for it.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield caught


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model from width 0.25 on, and its file of widths 0.25 and 1."""
    folder = tmp_path_factory.mktemp("saved")
    model = small_conv()
    model.save(folder / "model.keras")
    export_tflite(model, folder / "model.tflite", widths=[0.25, 1.0], layout="dense")
    return folder


# ------------------------------------------------------------- 1. forgot the readout


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        (
            (TriConv2D(8, 3), L.GlobalAveragePooling2D(name="last")),
            r"no readout before its output 'last'.*`keras\.layers\.Dense\(classes\)`",
        ),
        (
            (L.Flatten(), TriDense(3, activation="softmax", name="last")),
            r"'last'.*`softmax` needs all channels.*plain `keras\.layers\.Dense`",
        ),
        (
            (L.Flatten(), TriDense(3), L.Softmax(name="last")),
            r"'last' \(Softmax\).*sum over the channels.*after the readout.*a plain "
            "Dense or Conv, no Tri layer",
        ),
        (
            (),
            r"No output .* depends on the width.*End the model with a plain layer, "
            r"such as `keras\.layers\.Dense\(classes\)`",
        ),
    ],
)
def test_forgot_the_readout(layers, match):
    inputs = keras.Input((6, 6, 1))
    with pytest.raises(ValueError, match=match):
        AnyWidthModel(inputs, stem(inputs, *layers))


# ----------------------------------------------- 2. plain Conv2D inside of the trunk


@pytest.mark.parametrize("after", [L.BatchNormalization(), TriConv2D(4, 1)])
def test_plain_conv_inside_of_the_trunk(after):
    inputs = keras.Input((6, 6, 1))
    x = stem(inputs, TriConv2D(8, 3), L.Conv2D(8, 3, name="plain"), after)
    outputs = L.Dense(3)(L.GlobalAveragePooling2D()(x))
    match = (
        rf"'{after.name}'.*cannot stand after a readout.*'plain' is a plain layer on "
        "channels that come and go.*use its Tri layer"
    )
    with pytest.raises(ValueError, match=match):
        AnyWidthModel(inputs, outputs)


def test_no_tri_layer_at_all():
    inputs = keras.Input((6, 6, 2))
    x = stem(inputs, L.ReLU(), L.Conv2D(8, 3, name="second"), L.Flatten())
    outputs = L.Dense(3, name="last")(x)
    match = "layer 'second' is its readout, so 'last'.*by its Tri layer"
    with warns(match):
        AnyWidthModel(inputs, outputs)


def test_a_stem_and_readouts_need_no_tri_layer():
    inputs = keras.Input((6, 6, 2))
    x = stem(inputs, L.ReLU(), L.Flatten())
    model = AnyWidthModel(inputs, [L.Dense(3)(x), L.Dense(2)(x)])  # warnings are errors
    assert len(model.distinct_widths) > 2


# ------------------------------------------------------------- 3. LayerNormalization


def plain_with_layer_normalization():
    inputs = keras.Input((6, 6, 1))
    x = stem(inputs, L.Conv2D(8, 3), L.LayerNormalization(name="norm"))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def any_width_with_layer_normalization():
    inputs = keras.Input((6, 6, 1))
    x = stem(inputs, TriConv2D(8, 3), L.LayerNormalization(name="norm"))
    return AnyWidthModel(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def test_layer_normalization():
    with pytest.raises(ValueError, match=r"'norm' \(Layer.*Use TriLayerNormalization"):
        any_width_with_layer_normalization()
    model = to_any_width(plain_with_layer_normalization())
    assert type(model.get_layer("norm")) is TriLayerNormalization


# ------------------------------------------------ 4. softmax outputs with from_logits


def ending_in(*layers):
    inputs = keras.Input((4,))
    x = TriDense(8)(L.Dense(8)(inputs))
    for layer in layers:
        x = layer(x)
    return AnyWidthModel(inputs, x)


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        ([L.Dense(3, activation="softmax", name="end")], SPARSE(from_logits=True)),
        ([L.Dense(3), L.Softmax(name="end")], ONE_HOT(from_logits=True)),
        ([L.Dense(3), L.Activation("softmax", name="end")], SPARSE(from_logits=True)),
        ([L.Dense(3, activation=L.Softmax(), name="end")], SPARSE(from_logits=True)),
        (
            [L.Dense(3, activation="softmax"), L.Reshape((3, 1), name="end")],
            SPARSE(from_logits=True),
        ),
        (
            [L.Dense(1, activation="sigmoid", name="end")],
            keras.losses.BinaryCrossentropy(from_logits=True),
        ),
    ],
)
def test_softmax_outputs_with_from_logits(layers, loss):
    match = (
        r"Output 'end' .* is a s(oftmax|igmoid) already.*`from_logits=True` and applies"
        r" a \w+ again.*from the model, or compile with `from_logits=False`"
    )
    with warns(match):
        ending_in(*layers).compile("sgd", loss)


def test_a_function_that_ends_in_softmax_is_seen_too():
    model = ending_in(L.Dense(3), keras.ops.softmax)
    with warns(r"is a softmax already.*`from_logits=False`"):
        model.compile("sgd", SPARSE(from_logits=True))


def test_softmax_is_found_at_the_output_whose_loss_takes_logits():
    inputs = keras.Input((4,))
    x = TriDense(8)(L.Dense(8)(inputs))
    ends = [L.Dense(3, activation="softmax", name=name)(x) for name in ("one", "two")]
    model = AnyWidthModel(inputs, ends)
    losses = {"one": SPARSE(), "two": SPARSE(from_logits=True)}
    for given in (losses, list(losses.values())):
        with warns("Output 'two'") as caught:
            model.compile("sgd", given)
        assert len(caught) == 1


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        ("softmax", SPARSE()),
        ("softmax", "sparse_categorical_crossentropy"),
        ("softmax", None),
        (None, SPARSE(from_logits=True)),
        ("relu", SPARSE(from_logits=True)),
        # Logits with `from_logits=False` may be intended.
        (None, SPARSE()),
    ],
)
def test_nothing_is_said_of_outputs_that_may_fit(activation, loss):
    # A warning is an error in tests.
    ending_in(L.Dense(3, activation=activation)).compile("sgd", loss)


def test_a_model_saved_with_the_mistake_loads(tmp_path):
    model = ending_in(L.Dense(3, activation="softmax"))
    with warns("from_logits"):
        model.compile("sgd", SPARSE(from_logits=True))
    model.save(tmp_path / "model.keras")
    with warns("from_logits"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.compiled


# ------------------------------------------------------- 5. labels of the wrong shape

NUMBERS = np.zeros(6, int)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("loss", "labels", "match"),
    [
        (
            SPARSE(from_logits=True),
            np.eye(3)[NUMBERS],
            r"class numbers of shape \(None,\) .*'dense_\d*.*\(None, 3\).*"
            r"`keras\.losses\.CategoricalCrossentropy`, or give `y\.argmax\(-1\)`.*"
            r"Received: y of shape \(\w+, 3\)",
        ),
        ("sparse_categorical_crossentropy", np.eye(3)[NUMBERS], "class numbers"),
        (
            ONE_HOT(from_logits=True),
            NUMBERS,
            r"one-hot of shape \(None, 3\) .*"
            r"`keras\.losses\.SparseCategoricalCrossentropy`, or give "
            r"`keras\.utils\.to_categorical\(y, 3\)`.*Received: y of shape \(\w+,\)",
        ),
        ("categorical_crossentropy", NUMBERS[:, None], r"to_categorical\(y, 3\)"),
        (
            ONE_HOT(from_logits=True),
            np.eye(4)[NUMBERS],
            r"one-hot of shape \(None, 3\).*as many outputs as there are classes.*"
            r"Received: y of shape \(\w+, 4\)",
        ),
    ],
)
def test_labels_of_the_wrong_shape(method, loss, labels, match):
    model = classification(small_dense(), loss=loss)
    with pytest.raises(ValueError, match=match):
        getattr(model, method)(np.zeros((6, 4)), labels, verbose=0)


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (SPARSE(from_logits=True), NUMBERS),
        (SPARSE(from_logits=True), NUMBERS[:, None]),
        (SPARSE(from_logits=True), NUMBERS[:, None, None]),
        (ONE_HOT(from_logits=True), np.eye(3)[NUMBERS]),
        (ONE_HOT(from_logits=True), np.eye(3)[NUMBERS][..., None]),
        (lambda y, y_pred: keras.ops.mean(y_pred, -1), np.zeros((6, 7))),
    ],
)
def test_labels_that_keras_takes_are_left_alone(loss, labels):
    model = small_dense()
    model.compile("sgd", loss)
    assert np.isfinite(model.train_on_batch(np.zeros((6, 4)), labels))


def test_wrong_labels_are_found_at_their_output():
    model = rich()
    losses = {"classes": SPARSE(from_logits=True), "scores": "mse"}
    model.compile("sgd", losses)
    x = {"image": np.zeros((4, 6, 6, 2)), "vector": np.zeros((4, 3))}
    scores = np.zeros((4, *model.output["scores"].shape[1:]))
    right = {"scores": scores, "classes": np.zeros(4, int)}
    assert np.isfinite(model.train_on_batch(x, right)[0])
    with pytest.raises(ValueError, match=r"because output 'classes'.*argmax"):
        model.test_on_batch(x, {**right, "classes": np.zeros((4, 6))})


# ------------------------------------------------------------- 6. width out of range


@pytest.mark.parametrize(
    ("width", "match"),
    [
        (
            50,
            r"`widths?` must be in \(0, 1\]: 0\.5 is half.*Received: width.*50",
        ),
        (0, r"`widths?` must be in \(0, 1\]: 0\.5 is half.*Received: width.*0"),
        (
            0.1,
            r"`widths?` must be at least the model's min_width=0\.25.*Use a width in "
            r"\[0\.25, 1\], or build the model with a smaller `min_width`.*=0\.1",
        ),
    ],
)
def test_width_out_of_range(width, match, tmp_path):
    model = classification(small_conv())
    calls = [
        lambda: setattr(model, "width", width),
        lambda: slim(model, width),
        lambda: trade_off_curve(model, *labelled(model), widths=[width, 1.0]),
        lambda: export_tflite(model, tmp_path / "m.tflite", widths=[width, 1.0]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=match):
            call()


def test_width_that_is_no_number():
    with pytest.raises(TypeError, match=r"`width` must be a number .*, such as 0\.5"):
        small_dense().width = "0.5"


@pytest.mark.parametrize(
    ("widths", "match"),
    [
        ("0.1,1", r"`--widths` must be at least .*0\.25.*Use a width in \[0\.25, 1\]"),
        ("50", r"--widths: widths in \(0, 1\], .* as in 0\.25,0\.5,1\. Received: '50'"),
    ],
)
def test_width_out_of_range_on_the_command_line(widths, match, saved, capsys):
    assert command("export", saved / "model.keras", "--widths", widths) == 2
    assert_one_line(capsys, match)


def assert_one_line(capsys, match):
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(match, error)


# ------------------------------------------------------------ 7. widths not in the file


def test_width_not_in_the_file(saved):
    runner = AnyWidthInterpreter(saved / "model.tflite")
    match = (
        r"`width` must be one of the file's widths, \[0\.25, 1\.0\].*Run one of these "
        r"widths, or export .*`export_tflite\(model, path, widths=\[\.\.\., 0\.5\]\)`"
        r".*=0\.5"
    )
    with pytest.raises(ValueError, match=match):
        runner.run(np.zeros((1, 6, 6, 2)), width=0.5)


def test_width_not_in_the_file_on_the_command_line(saved, capsys):
    arguments = ("benchmark", saved / "model.tflite", "--dry", "--widths", "0.5")
    assert command(*arguments) == 2
    match = r"`--widths` must be widths of '.*': \[0\.25, 1\.0\]\. .*or export the "
    assert_one_line(capsys, match)


# --------------------------------------------------------------- 8. TFDS set missing


def test_data_set_is_missing(tmp_path):
    match = (
        r"'mnist' is not prepared at .*download=True.*copy a folder of prepared TFDS"
    )
    with pytest.raises(DatasetUnavailableError, match=match):
        load_data("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "mnist",
            r"'mnist' is not prepared at .*`--download`.*`--data-dir` or TFDS_DATA",
        ),
        ("imagenet", r"`--dataset` must be one of .*'digits'.*'imagenet'"),
    ],
)
def test_data_set_is_missing_on_the_command_line(name, match, saved, tmp_path, capsys):
    data = ("--dataset", name, "--data-dir", tmp_path)
    assert command("evaluate", saved / "model.keras", *data) == 2
    assert_one_line(capsys, match)


# ------------------------------------------------------------------ 9. tfmot missing


def test_tfmot_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", keras)  # as if it were there
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    match = (
        r"needs the package tensorflow-model-optimization, which is not installed.*"
        r'pip install "awn_keras\[quantization\]"'
    )
    with pytest.raises(ImportError, match=match):
        quantize_aware(small_dense(), 0.5)


# ---------------------------------------------------------------- 10. model not built


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


UNBUILT = keras.Sequential([L.Dense(8), L.Dense(8), L.Dense(3)], name="unbuilt")


@pytest.mark.parametrize("function", [to_any_width, reorder_channels, count_macs])
@pytest.mark.parametrize(
    ("model", "match"),
    [
        (
            UNBUILT,
            r"Sequential one that is built.*Begin the model with "
            r"`keras\.Input\(shape\)`.*"
            "Received: 'unbuilt'",
        ),
        (
            Subclassed(),
            r"must be a functional model.*`keras\.Model\(inputs, model\.call\(inputs"
            r"\)\)`.*Received: 'mine' \(Subclassed\)",
        ),
    ],
)
def test_model_is_not_built(function, model, match):
    with pytest.raises(TypeError, match=match):
        function(model)


@pytest.mark.parametrize(
    "call",
    [
        summarize,
        trade_off_curve,
        lambda model: slim(model, 0.5),
        lambda model: export_tflite(model, "m.tflite"),
    ],
)
def test_model_has_one_width_and_is_not_built(call):
    match = (
        r"must be an `AnyWidthModel`.*Convert a plain model with "
        r"`to_any_width\(model\)`.*"
        "'unbuilt'"
    )
    with pytest.raises(TypeError, match=match):
        call(UNBUILT)


def test_tri_layer_is_not_built():
    match = r"TriConv2D 'mine' is not built.*Call it on a tensor, or `layer\.build"
    with pytest.raises(AttributeError, match=match):
        _ = TriConv2D(8, 3, name="mine").triangular_variables
