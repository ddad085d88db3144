import builtins
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from awn_keras import WidthProgbar, WidthTensorBoard
from awn_keras.training.callbacks import fitting_momentum
from tests.conftest import classification, eagerly, labelled, small_conv, small_dense

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard"),
    eagerly,
]


def fit(callback, *, validate=True, epochs=2, verbose=0, **kwargs):
    model = classification(small_dense(), **kwargs)
    x, y = labelled(model)
    history = model.fit(
        x,
        y,
        epochs=epochs,
        validation_data=(x, y) if validate else None,
        callbacks=[callback],
        verbose=verbose,
    )
    return model, history.history


def scalars(directory, tag):
    events = EventAccumulator(str(directory)).Reload()
    tensors = events.Tensors(tag)
    return [float(tf.make_ndarray(event.tensor_proto)) for event in tensors]


def test_tensorboard_has_a_run_for_each_width(tmp_path):
    _, history = fit(WidthTensorBoard(tmp_path))
    for run, prefix in (("train", ""), ("validation", "val_")):
        for label in ("w025", "w062_5", "w100"):
            for metric in ("accuracy", "loss"):
                written = scalars(tmp_path / f"{run}_{label}", f"epoch_{metric}")
                expected = history[f"{prefix}{metric}_{label}"]
                # Written as float32.
                np.testing.assert_allclose(written, expected, rtol=1e-6)
    assert scalars(tmp_path / "validation", "epoch_auc") == pytest.approx(
        history["val_auc"], rel=1e-6
    )
    # Each value is logged in one place only.
    tags = EventAccumulator(str(tmp_path / "validation")).Reload().Tags()["tensors"]
    assert not [tag for tag in tags if "_w" in tag]


def test_tensorboard_shows_the_curve_of_each_epoch(tmp_path):
    fit(WidthTensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path / "validation")).Reload()
    pictures = events.Tensors("trade_off_curve")
    assert [event.step for event in pictures] == [0, 1]
    columns, rows, png = pictures[0].tensor_proto.string_val[:3]
    assert (columns, rows) == (b"500", b"350")
    assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("validate", "kwargs"), [(False, {}), (True, {"metrics": None})]
)
def test_tensorboard_without_validation_or_accuracy_has_no_curve(
    tmp_path, validate, kwargs
):
    fit(WidthTensorBoard(tmp_path), validate=validate, **kwargs)
    assert scalars(tmp_path / "train_w025", "epoch_loss")
    if validate:
        events = EventAccumulator(str(tmp_path / "validation")).Reload()
        assert "trade_off_curve" not in events.Tags()["tensors"]


def test_tensorboard_refuses_a_model_of_one_width(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"use `keras\.callbacks\.TensorBoard`"):
        model.fit(
            np.zeros((4, 2)),
            np.zeros(4),
            callbacks=[WidthTensorBoard(tmp_path)],
            verbose=0,
        )


def test_tensorboard_says_how_to_get_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "awn_keras\[tensorboard\]"'):
        WidthTensorBoard("logs")


def test_the_package_can_be_imported_without_tensorboard(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "tensorboard":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "awn_keras.callbacks")
    from awn_keras.callbacks import WidthProgbar as Imported

    assert Imported.__name__ == "WidthProgbar"


def test_the_progress_bar_ends_with_the_auc_and_has_no_widths(capsys):
    _, history = fit(WidthProgbar(), epochs=1, verbose=1)
    shown = capsys.readouterr().out
    assert "_w" not in shown
    last = shown.rstrip().splitlines()[-1]
    assert last.rstrip("\x08 ").endswith(f"val_auc: {history['val_auc'][0]:.4f}")
    assert "val_accuracy_w025" in history


def test_the_progress_bar_of_evaluate_has_no_widths(capsys):
    model, _ = fit(WidthProgbar(), epochs=1)
    x, y = labelled(model)
    capsys.readouterr()
    model.evaluate(x, y, callbacks=[WidthProgbar()])
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert "_w" not in shown


# ---------------------------------------------------- callbacks that fit adds itself


def quiet(model, x, y, **kwargs):
    """Calls `fit` and returns its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model.fit(x, y, verbose=0, **kwargs)
    return [str(w.message) for w in caught if "moving statistics" in str(w.message)]


@pytest.mark.parametrize(
    ("momentum", "epochs", "warns"),
    [(0.999, 10, True), (0.9, 10, False), (0.9, 1, True)],
)
def test_fit_warns_of_statistics_that_cannot_follow(momentum, epochs, warns):
    model = classification(small_conv())
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    x, y = labelled(model)
    # 40 samples in batches of 8: 5 steps an epoch.
    said = quiet(model, x, y, batch_size=8, epochs=epochs)
    assert len(said) == warns
    if momentum == 0.999:
        assert "trains 50 steps" in said[0]
        assert "still 95 % initial values" in said[0]
        assert "to_any_width(model, bn_momentum=0.6)" in said[0]


def test_frozen_statistics_need_no_steps():
    model = classification(small_conv())
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    assert quiet(model, *labelled(model)) == []


def test_the_fitting_momentum_follows_within_a_twentieth_of_the_steps():
    for steps, wanted in (
        (10, 0.5),
        (40, 0.5),
        (200, 0.9),
        (2000, 0.99),
        (10**6, 0.99),
    ):
        assert fitting_momentum(steps) == pytest.approx(wanted)
        assert steps < 200 or fitting_momentum(steps) ** steps < 1e-8


def test_fit_shows_the_bar_without_widths_unless_another_is_given(capsys):
    model = classification(small_dense())
    x, y = labelled(model)
    model.fit(x, y, verbose=2)
    assert "accuracy_w" not in capsys.readouterr().out
    model.fit(x, y, verbose=2, callbacks=keras.callbacks.ProgbarLogger())
    assert "accuracy_w" in capsys.readouterr().out
    model.fit(x, y, verbose=0)
    assert capsys.readouterr().out == ""
    # Positional, as Keras' own `fit` takes them: x, y, batch_size, epochs, verbose.
    history = model.fit(x, y, 8, 2, 0, [keras.callbacks.History()])
    assert len(history.history["loss"]) == 2
