"""Training reports numbers that it cannot use, once and in words."""

import json
import re
import shutil
import warnings
from dataclasses import replace

import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, TriDense, export_tflite
from awn_keras.errors import AwnError, DivergedError
from awn_keras.loading import load_model
from awn_keras.runs.run import run
from awn_keras.training.callbacks import NumbersCheck
from tests.conftest import (
    classification,
    eagerly,
    labelled,
    on_tensorflow,
    rich,
    small_conv,
    small_dense,
)
from tests.runs.conftest import QUICK

pytestmark = [eagerly, pytest.mark.backends]

#: A second, but for the first step.
TINY = replace(QUICK, filters=2, num_widths=2, widths_grid=(0.25, 1.0))
SPARSE = keras.losses.SparseCategoricalCrossentropy


class Stream(keras.utils.PyDataset):
    """Batches in a stream, which the check of arrays cannot read."""

    def __init__(self, x, y, batch_size=8):
        super().__init__()
        self.x, self.y, self.size = x, y, batch_size

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, index):
        chosen = slice(index * self.size, (index + 1) * self.size)
        return self.x[chosen], self.y[chosen]


def told(call):
    """Returns the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        call()
    return [str(each.message) for each in caught if each.category is UserWarning]


# ------------------------------------------------------------------- NaN in training


def test_training_ends_once_the_loss_is_not_finite():
    model = classification(small_dense(), optimizer=keras.optimizers.SGD(1e30))
    x, y = labelled(model)
    histories = []
    said = told(
        lambda: histories.append(model.fit(Stream(x, y), epochs=3, verbose=0).history)
    )
    (message,) = [each for each in said if "so training ends" in each]
    assert message.startswith(("The loss of model", "Weight '"))
    assert "in epoch 1" in message
    assert "Try a tenth of the learning rate" in message
    assert len(histories[0]["loss"]) == 1


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_a_long_epoch_ends_soon_after_the_loss_is_not_finite(
    steps_per_execution, monkeypatch
):
    if steps_per_execution > 1 and keras.backend.backend() == "torch":
        pytest.skip("PyTorch executes single steps")
    monkeypatch.setattr("awn_keras.training.callbacks._STEPS_OF_CHECK", 10)
    model = small_dense()
    x, y = np.ones((24, 4), "float32"), np.zeros((24, 1), "float32")
    model.compile(loss="mse", steps_per_execution=steps_per_execution)
    y[11] = np.nan
    ends = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(batch + 1)
    )
    fit = {"epochs": 3, "verbose": 0, "callbacks": [count], "shuffle": False}
    said = told(lambda: model.fit(Stream(x, y, 1), **fit))
    (message,) = [each for each in said if "so training ends" in each]
    assert message.startswith("The loss of model")
    assert "in epoch 1" in message
    # The loss is read after 10 steps or more. Executions of 4 steps end at 12.
    assert ends[-1] == {1: 20, 4: 12}[steps_per_execution]
    # The next training begins anew.
    assert [each for each in told(lambda: model.fit(x, y, **fit)) if "ends" in each]


def test_a_weight_that_is_not_finite_ends_training_though_the_loss_is():
    # With TensorFlow, ReLU turns NaN into 0, so the loss looks correct.
    model = classification(small_dense())
    x, y = labelled(model)

    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                model.layers[1].kernel.assign(np.full((4, 8), np.inf))

    if keras.backend.backend() == "jax":
        pytest.skip("a callback cannot set weights while JAX trains")
    check = NumbersCheck()
    histories = []
    said = told(
        lambda: histories.append(
            model.fit(x, y, epochs=4, verbose=0, callbacks=[Breaks(), check]).history
        )
    )
    (message,) = [each for each in said if "so training ends" in each]
    assert message.startswith(f"Weight '{model.layers[1].kernel.path}'")
    assert "in epoch 2" in message
    assert len(histories[0]["loss"]) == 2


@on_tensorflow
@pytest.mark.slow
def test_a_run_that_diverges_keeps_the_last_good_epoch(tmp_path):
    class Breaks(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kernel = self.model.trainable_weights[0]
                kernel.assign(np.full(kernel.shape, np.nan))

    recipe = replace(TINY, epochs=2)
    match = (
        r"in epoch 2, so training ends.*model\.keras holds epoch 1\. .*"
        "`learning_rate`"
    )
    with pytest.raises(DivergedError, match=match):
        run(recipe, tmp_path, verbose=0, callbacks=[Breaks()])
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1
    kept = load_model(tmp_path / "model.keras")
    assert all(np.isfinite(value).all() for value in kept.get_weights())
    broken = shutil.copytree(tmp_path, tmp_path / "broken")
    kernel = kept.trainable_weights[0]
    kernel.assign(np.full(kernel.shape, np.nan))
    kept.save(broken / "model.keras")
    match = (
        r"model\.keras has NaN or infinite numbers in weight '.*kernel', so training"
    )
    with pytest.raises(AwnError, match=match):
        run(recipe, broken, resume=True, verbose=0)
    assert len(run(recipe, tmp_path, resume=True, verbose=0).history) == 2


@on_tensorflow
@pytest.mark.slow
def test_a_run_of_too_high_a_rate_keeps_nothing(tmp_path):
    recipe = replace(TINY, epochs=1, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"in epoch 1.*nothing was kept"):
        run(recipe, tmp_path, verbose=0)
    assert not (tmp_path / "model.keras").exists()


# ------------------------------------------------------------------------- NaN in data


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["evaluate", "evaluate_widths"])
def test_samples_that_are_not_finite_are_told(method, value):
    model = classification(small_dense())
    x, y = labelled(model)
    x[[3, 7], 1] = value
    said = told(lambda: getattr(model, method)(x, y, verbose=0))
    (message,) = [each for each in said if "`x`" in each]
    assert "in 2 of 40 samples, first in sample 3." in message


def test_validation_data_and_targets_that_are_not_finite_are_told():
    model = small_dense()
    model.compile("sgd", "mse")
    x, y = np.ones((8, 4)), np.ones((8, 3))
    bad = np.where(np.arange(8)[:, None] == 5, np.nan, y)
    said = told(lambda: model.fit(x, y, validation_data=(x, bad), verbose=0))
    assert any(
        "`validation_data` has NaN or infinite numbers in 1 of 8" in each
        for each in said
    )
    said = told(lambda: model.evaluate(x, bad, verbose=0))
    assert any(each.startswith("`y` has NaN") for each in said)


# ------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("method", ["fit", "evaluate", "evaluate_widths"])
@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (
            [0, 1, 5, 2],
            r"0 to 2, because output 'dense_?\d*' has 3 classes\. Give the readout .* "
            r"Received: 5 as the label of sample 2; 1 of 4 labels",
        ),
        ([0, -1, 1, 2], "Received: -1 as the label of sample 1"),
        ([1, 2, 3, 3], r"begin with 1: give `y - 1`\. Received: 3"),
        ([0.5, 1.0, 2.0, 0.0], r"compile with `loss='mse'`\. Received: 0\.5"),
    ],
)
def test_labels_of_no_class(method, labels, match):
    model = classification(small_dense())
    with pytest.raises(ValueError, match=match):
        getattr(model, method)(np.zeros((4, 4)), np.array(labels), verbose=0)


def test_labels_of_validation_data_are_looked_at_before_training():
    model = classification(small_dense())
    x, y = np.zeros((4, 4)), np.zeros(4, int)
    with pytest.raises(ValueError, match="Received: 7 as the label"):
        model.fit(x, y, validation_data=(x, y + 7), verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_labels_are_looked_at_where_there_are_several_outputs():
    model = rich()
    model.compile("sgd", {"classes": SPARSE(from_logits=True), "scores": "mse"})
    x = {"image": np.zeros((4, 6, 6, 2)), "vector": np.zeros((4, 3))}
    y = {"scores": np.zeros((4, *model.output["scores"].shape[1:]))}
    with pytest.raises(ValueError, match=r"0 to 5, because output 'classes'.*: 6 as"):
        model.fit(x, {**y, "classes": np.array([0, 1, 5, 6])}, verbose=0)


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (SPARSE(from_logits=True), [0.0, 1.0, 2.0, 0.0]),
        (SPARSE(from_logits=True, ignore_class=255), [0, 1, 255, 2]),
        (SPARSE(from_logits=True, ignore_class=-1), [0, 1, -1, 2]),
        (lambda y, y_pred: keras.ops.mean(y_pred, -1), [0, 9, -1, 0.5]),
    ],
)
def test_labels_that_a_loss_takes_are_left_alone(loss, labels):
    model = small_dense()
    model.compile("sgd", loss)
    history = model.fit(np.zeros((4, 4)), np.array(labels), verbose=0).history
    assert np.isfinite(history["loss"][0])


@on_tensorflow
@pytest.mark.eager(False)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_labels_of_no_class_in_a_stream(method):
    model = classification(small_dense())
    stream = Stream(np.zeros((8, 4)), np.array([0, 1, 2, 0, 1, 2, 0, 4]))
    match = r"0 to 2, because the output has 3 classes.*Received: a label 4"
    with pytest.raises(ValueError, match=match):
        getattr(model, method)(stream, verbose=0)


# --------------------------------------------------------------------------- too little


@pytest.mark.parametrize("method", ["fit", "evaluate", "evaluate_widths"])
def test_no_sample(method):
    model = classification(small_dense())
    match = r"`x` must have at least one sample.*an array of shape \(0, 4\)"
    with pytest.raises(ValueError, match=match):
        getattr(model, method)(np.zeros((0, 4)), np.zeros(0, int), verbose=0)


@on_tensorflow  # Elsewhere Keras has an error of its own, or asks an empty list.
@pytest.mark.parametrize(
    ("method", "match"),
    [
        ("fit", "cannot be trained: there is no"),
        ("evaluate", "cannot be evaluated: th"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:Your input ran out of data", "ignore:`shuffle=True` was passed"
)
def test_no_batch(method, match):
    import tensorflow as tf

    model = classification(small_dense())
    arrays = np.zeros((5, 4), "float32"), np.zeros(5, int)
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(8, drop_remainder=True)
    with pytest.raises(ValueError, match=rf"{match}.*drop_remainder=True"):
        getattr(model, method)(batches, verbose=0)


def normalized(spatial=False):
    inputs = keras.Input((3, 3, 2) if spatial else (4,))
    x = keras.layers.Conv2D(4, 1)(inputs) if spatial else keras.layers.Dense(4)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.5, name="norm")(x)
    if spatial:
        x = keras.layers.GlobalAveragePooling2D()(x)
    return AnyWidthModel(inputs, keras.layers.Dense(3)(TriDense(4)(x)))


@pytest.mark.parametrize(
    ("count", "options", "match"),
    [
        (9, {"batch_size": 8}, r"The last batch has one sample \(9 samples, batch_s"),
        (33, {}, r"The last batch .*batch_size=32\)"),
        (10, {"batch_size": 8, "validation_split": 0.1}, r"\(9 samples"),
        (3, {"batch_size": 1}, "Each batch has one sample"),
    ],
)
def test_a_batch_of_one_sample(count, options, match):
    model = classification(normalized())
    x, y = np.zeros((count, 4)), np.zeros(count, int)
    said = told(lambda: model.fit(x, y, verbose=0, **options))
    (message,) = [each for each in said if "has one sample" in each]
    assert re.search(rf"{match}.*BatchNormalization 'norm' of", message)


@pytest.mark.parametrize(
    ("spatial", "count", "frozen"),
    [(True, 9, False), (False, 10, False), (False, 9, True)],
)
def test_batches_that_have_a_variance(spatial, count, frozen):
    model = normalized(spatial)
    model.get_layer("norm").trainable = not frozen
    x = np.zeros((count, *model.input.shape[1:]))
    # A warning is an error in tests.
    classification(model).fit(x, np.zeros(count, int), batch_size=8, verbose=0)


# ------------------------------------------------------------------------------- scale


PIXELS = np.random.default_rng(0).integers(0, 256, (32, 6, 6, 2)).astype("uint8")


@pytest.mark.parametrize(
    ("trained", "given", "match"),
    [
        (PIXELS / 255, PIXELS, "values from 0 to 255 instead of 0 to 1.*`x / 255.0`"),
        (PIXELS / 127.5 - 1, PIXELS, "If the images are pixels"),
        (
            PIXELS,
            PIXELS / 255,
            "to 1 instead of .* to 255. If the images are divided by 255",
        ),
    ],
)
def test_images_in_another_scale_than_those_of_training(trained, given, match):
    model = classification(small_conv())
    labels = np.zeros(len(trained), int)
    model.fit(trained, labels, verbose=0)
    for method in (model.evaluate, model.evaluate_widths):
        said = told(lambda method=method: method(given, labels, verbose=0))
        (message,) = [each for each in said if "another scale than in training" in each]
        assert re.search(match, message)
        method(trained[::-1], labels, verbose=0)  # A warning is an error in tests.


@on_tensorflow
@pytest.mark.slow
def test_representative_images_in_another_scale(tmp_path):
    model = classification(small_conv())
    model.fit(PIXELS / 255, np.zeros(len(PIXELS), int), verbose=0)
    options = {"widths": [1.0], "precision": "int8", "verbose": 0}
    path = tmp_path / "model.tflite"
    said = told(lambda: export_tflite(model, path, representative=PIXELS, **options))
    assert any(
        re.search("values from 0 to 255 instead.* images are pixels", each)
        for each in said
    )


@on_tensorflow
@pytest.mark.parametrize("argument", ["representative", "samples"])
def test_samples_of_an_export_are_finite(argument, tmp_path):
    model = small_dense()
    samples = np.zeros((5, 4))
    samples[2] = np.nan
    match = rf"`{argument}` must have no NaN .*Received: .* in 1 of 5 samples, .* 2"
    with pytest.raises(ValueError, match=match):
        export_tflite(model, tmp_path / "m.tflite", **{argument: samples})
