import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

from awn_keras import (
    AnyWidthModel,
    FixedWidths,
    SandwichWidths,
    TriDense,
    register_width_rule,
    slim,
)
from awn_keras.training.step import train_step
from tests.conftest import (
    classification,
    eagerly,
    labelled,
    rich,
    small_conv,
    small_dense,
)

FILES = Path(__file__).parent / "files"
INSTALLED = [
    backend
    for backend in ("tensorflow", "jax", "torch")
    if importlib.util.find_spec(backend)
]


# ------------------------------------------------------------ backends with each other


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What agree.py wrote on each backend."""
    folder = tmp_path_factory.mktemp("agree")
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.agree", str(folder)],
            env={**os.environ, "KERAS_BACKEND": backend},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for backend in INSTALLED
    ]
    try:
        for child in children:
            errors = child.communicate()[1]
            assert child.returncode == 0, errors
    finally:
        for child in children:
            child.kill()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("backend", INSTALLED[1:])
def test_backends_train_alike(folder, backend):
    with (
        np.load(folder / "tensorflow.npz") as wanted,
        np.load(folder / f"{backend}.npz") as got,
    ):
        assert set(got.files) == set(wanted.files)
        assert len(got.files) > 200
        for name in got.files:
            # float32 sums in another order; five steps, with momentum, widen what
            # differs in the first, whose loss is compared more closely.
            rtol = 1e-6 if name.startswith("first step") else 1e-5
            largest = max(np.abs(wanted[name]).max(), 1e-3)
            np.testing.assert_allclose(
                got[name], wanted[name], rtol=rtol, atol=rtol * largest, err_msg=name
            )


@pytest.mark.slow
@pytest.mark.parametrize("backend", INSTALLED)
@eagerly
def test_models_saved_on_a_backend_go_on_on_another(folder, backend):
    model = keras.saving.load_model(folder / f"{backend}.keras")
    assert int(model.optimizer.iterations) == 5
    x, y = labelled(model)
    with np.load(folder / f"{backend}.npz") as saved:
        for width in (0.25, 0.6, 1.0):
            # float32 sums in another order.
            np.testing.assert_allclose(
                model.predict(x, width=width, verbose=0),
                saved[f"plain: output 0 at {width}"],
                rtol=1e-5,
                atol=1e-5,
            )
    model.fit(x, y, verbose=0)


# ------------------------------------------------------------ each backend by itself


@pytest.mark.backends
@eagerly
def test_files_of_version_0_1_0_load_and_go_on():
    model = keras.saving.load_model(FILES / "version_0_1_0.keras")
    x, y = labelled(model)
    with np.load(FILES / "version_0_1_0.npz") as old:
        widths = [float(key[2:]) for key in old if key.startswith("at")]
        # Those that answered alike are one network now.
        assert len(widths) >= len(model.distinct_widths) > 2
        for width in widths:
            outputs = keras.ops.convert_to_numpy(model.at(width)(x))[:4]
            # float32 sums in another order.
            np.testing.assert_allclose(outputs, old[f"at{width}"], atol=1e-5)
        history = model.fit(
            x, y, batch_size=8, shuffle=False, initial_epoch=1, epochs=2, verbose=0
        ).history
        assert sorted(history) == old["logs"].tolist()
        if keras.backend.backend() == "tensorflow":  # others draw other widths
            np.testing.assert_allclose(history["loss"], old["loss"], rtol=1e-5)


def traces_of(model, name="call"):
    """Counts how often a method of a model runs: compiled functions run it once."""
    traces = []
    method = getattr(model, name)

    def counted(*args, **kwargs):
        traces.append(1)
        return method(*args, **kwargs)

    setattr(model, name, counted)
    return traces


@pytest.mark.backends
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch compiles nothing by default"
)
def test_a_new_width_traces_nothing():
    model = classification(small_conv())
    x, y = labelled(model, 32)
    traces = traces_of(model, "_outputs_of")
    for width in (1.0, 0.5, 0.25, 0.7):
        model.width = width
        model.predict(x, verbose=0)
    assert len(traces) == 1
    for width in (0.3, 0.5, 0.8):
        model.predict(x, width=width, verbose=0)
    assert len(traces) == 2  # a function of the thread's own
    steps = traces_of(model, "compute_loss")
    model.evaluate(x, y, verbose=0)
    before = len(steps)
    for width in (0.25, 0.6):
        model.evaluate(x, y, width=width, verbose=0)
    assert len(steps) == before


@pytest.mark.backends
@pytest.mark.parametrize("make", [small_conv, rich])
@eagerly
def test_predict_at_a_width_leaves_the_models_own_alone(make):
    model = make()
    model.width = 0.7
    x = keras.tree.map_structure(
        lambda t: np.ones((3, *t.shape[1:]), "float32"), model.input
    )
    own = model.predict(x, verbose=0)
    for width in (0.25, 0.5, 1.0):
        wanted = slim(model, width).predict(x, verbose=0)
        view = model.at(width)
        for got in (
            model.predict(x, width=width, verbose=0),
            view.predict(x, verbose=0),
            keras.tree.map_structure(keras.ops.convert_to_numpy, view(x)),
        ):
            for a, b in zip(*map(keras.tree.flatten, (got, wanted)), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)  # sums in another order
    assert model.width == 0.7
    for a, b in zip(
        *map(keras.tree.flatten, (own, model.predict(x, verbose=0))), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backends
def test_evaluate_at_a_width_leaves_the_models_own_alone():
    model = classification(small_conv())
    x, y = labelled(model)
    for width in (0.25, 1.0):
        wanted = classification(slim(model, width)).evaluate(x, y, verbose=0)
        got = model.evaluate(x, y, width=width, verbose=0)
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
        np.testing.assert_allclose(
            model.at(width).evaluate(x, y, verbose=0), wanted, rtol=1e-5
        )
        assert model.width == 1.0
    with pytest.raises(ValueError, match="`width` must be at least"):
        model.evaluate(x, y, width=0.1)
    with pytest.raises(ValueError, match="`width` must be at least"):
        model.predict(x, width=0.1)
    with pytest.raises(ValueError, match="`width` must be at least"):
        model.at(0.1)
    for method in ("predict", "evaluate"):
        with pytest.raises(TypeError, match=r"view has a fixed width, here 0.5. Leave"):
            getattr(model.at(0.5), method)(x, width=0.7)
    assert model.width == 1.0


@pytest.mark.backends
def test_threads_predict_at_widths_of_their_own():
    model = small_dense()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    widths = [0.25, 0.5, 1.0]
    wanted = {width: slim(model, width).predict(x, verbose=0) for width in widths}
    wrong = []

    def run(width):
        for _ in range(5):
            got = model.predict(x, width=width, verbose=0)
            if not np.allclose(got, wanted[width], atol=1e-5):
                wrong.append(width)

    threads = [threading.Thread(target=run, args=(width,)) for width in widths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert model.width == 1.0


@pytest.mark.backends
def test_threads_may_set_look_and_slim_while_another_one_predicts():
    model = small_dense()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    wanted = slim(model, 0.5).predict(x, verbose=0)
    done = threading.Event()
    wrong = []

    def predict():
        while not done.is_set():
            got = model.predict(x, width=0.5, batch_size=4, verbose=0)
            if not np.allclose(got, wanted, atol=1e-5):
                wrong.append(got)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for width in (0.25, 1.0, 0.5, 0.75, 0.5):
            model.width = width
        for _ in range(5):
            got = keras.ops.convert_to_numpy(model.at(0.5)(x))
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        got = keras.ops.convert_to_numpy(slim(model, 0.5)(x))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    finally:
        done.set()
        thread.join()
    assert not wrong


@pytest.mark.backends
@pytest.mark.parametrize("width", [None, 0.5])
def test_a_prediction_that_fails_leaves_the_model_whole(width):
    class Failing(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 2:
                raise OSError("no such image")
            return (np.ones((4, 4), "float32"),)

    model = small_dense()
    x = np.ones((4, 4), "float32")
    before = model.predict(x, verbose=0)
    with pytest.raises(Exception, match="no such image"):
        model.predict(Failing(), width=width, verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


@pytest.mark.backends
def test_predictions_at_a_width_run_as_compiled():
    eager = []

    class Probe(keras.layers.Layer):
        def call(self, x):
            eager.append(type(x).__name__)
            return x

    register_width_rule(Probe)
    inputs = keras.Input((4,))
    x = TriDense(8)(Probe()(keras.layers.Dense(8)(inputs)))
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x))
    x = np.ones((2, 4), "float32")
    for run_eagerly in (True, False):
        classification(model, run_eagerly=run_eagerly)
        kinds = []
        for arguments in ({}, {"width": 0.5}):
            eager.clear()
            model.predict(x, verbose=0, **arguments)
            kinds.append(eager[-1])
        assert kinds[0] == kinds[1]


def test_a_predict_step_of_ones_own_has_no_width():
    class Shifted(AnyWidthModel):
        def predict_step(self, *args):
            return super().predict_step(*args)

    inputs = keras.Input((4,))
    model = Shifted(inputs, keras.layers.Dense(3)(TriDense(8)(inputs)))
    x = np.ones((2, 4), "float32")
    assert model.predict(x, verbose=0).shape == (2, 3)
    with pytest.raises(NotImplementedError, match=r"Set `model\.width` instead"):
        model.predict(x, width=0.5)


@pytest.mark.backends
@pytest.mark.parametrize("seed", [-1, 2**33])
def test_any_seed_trains(seed):
    model = classification(small_dense(), widths=SandwichWidths(0.25, seed=seed))
    assert np.isfinite(model.train_on_batch(*labelled(model))).all()


@pytest.mark.backends
def test_a_callback_may_change_the_width_while_fit_runs():
    model = classification(small_conv(), report_widths=[0.25, 1.0])
    x, y = labelled(model, 16)

    class Narrow(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.width = 0.25

        def on_epoch_end(self, epoch, logs=None):
            self.predicted = self.model.predict(x, width=1.0, verbose=0)

    callback = Narrow()
    logs = model.fit(x, y, batch_size=16, verbose=0, callbacks=[callback]).history
    assert logs["accuracy"] == logs["accuracy_w025"]
    wanted = slim(model, 1.0).predict(x, verbose=0)
    np.testing.assert_allclose(callback.predicted, wanted, atol=1e-5)


@pytest.mark.backends
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch compiles nothing"
)
def test_a_step_is_traced_once_whatever_callbacks_evaluate(monkeypatch):
    traces = []

    def step(model, data):
        traces.append(model)
        return train_step(model, data)

    monkeypatch.setattr("awn_keras.training.trainer.train_step", step)
    model = classification(small_dense())
    x, y = labelled(model)

    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before = self.model.evaluate(x, y, verbose=0)
            known = self.model.last_evaluation()
            at = self.model.evaluate_widths(x, y, widths=[0.3, 1.0], verbose=0)
            np.testing.assert_allclose(at["loss"][1], before[0], rtol=1e-6)
            assert self.model.last_evaluation() == known

    # Batches of one size: JAX compiles a step for each.
    model.fit(x, y, 20, epochs=3, verbose=0, callbacks=[Evaluate()])
    assert len(traces) == 1


@pytest.mark.backends
@eagerly
def test_state_is_tracked_and_is_no_weight():
    model = classification(small_conv())
    x, y = labelled(model)
    model.fit(x, y, validation_data=(x, y), verbose=0)
    ids = {id(variable) for variable in model.variables}
    assert id(model.level) in ids
    assert id(model.level) in {id(v) for v in model.non_trainable_variables}
    assert id(model.level) not in {id(weight) for weight in model.weights}
    metrics = {id(variable) for variable in model.metrics_variables}
    for mode in ("train", "test"):
        states = model.width_metrics(mode)
        assert states.variables
        assert metrics >= {id(variable) for variable in states.variables}
    outer = keras.Sequential([keras.Input((6, 6, 2)), model])
    model.width = 0.5
    small = slim(model, 0.5).predict(x, verbose=0)
    np.testing.assert_allclose(outer.predict(x, verbose=0), small, atol=1e-5)
    model.width = 0.25
    small = slim(model, 0.25).predict(x, verbose=0)
    np.testing.assert_allclose(outer.predict(x, verbose=0), small, atol=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.02, gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
        lambda: keras.optimizers.SGD(0.1, use_ema=True, weight_decay=1e-4, clipnorm=1),
    ],
    ids=["accumulation", "loss scale", "moving average"],
)
def test_optimizers_train_and_keep_the_triangle(optimizer):
    model = classification(
        small_conv(), optimizer=optimizer(), widths=SandwichWidths(0.25, seed=0)
    )
    x, y = labelled(model)
    history = model.fit(x, y, epochs=4, batch_size=10, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for layer in model.layers:
        if hasattr(layer, "masked"):
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            masked = keras.ops.convert_to_numpy(layer.masked(layer.kernel))
            np.testing.assert_array_equal(kernel, masked)


@pytest.mark.backends
@eagerly
def test_compiling_anew_forgets_the_state_of_old_metrics():
    model = classification(small_conv())
    x, y = labelled(model)
    model.fit(x, y, validation_data=(x, y), verbose=0)
    model.compile("sgd", "mse", metrics=["mae"], widths=FixedWidths([0.5, 1.0]))
    labels = np.eye(3, dtype="float32")[y]
    logs = model.fit(x, labels, validation_data=(x, labels), verbose=0).history
    assert {"mae_w100", "val_mae_w025"} <= set(logs)
    assert not any("accuracy" in name for name in logs)


@pytest.mark.backends
def test_an_uncompiled_model_has_no_plan():
    model = small_dense()
    with pytest.raises(ValueError, match="is not compiled: call `compile`"):
        _ = model.plan
    assert isinstance(model, AnyWidthModel)
