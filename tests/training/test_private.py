import inspect

import keras
import numpy as np
import pytest

from awn_keras.training import private
from tests.conftest import classification, labelled, small_dense

pytestmark = pytest.mark.backends


def test_state_is_made_from_the_shapes_of_a_batch():
    model = classification(small_dense(), optimizer=keras.optimizers.Adam())
    assert not private.is_built(model)
    assert not private.metrics_are_built(model)
    private.build(model, labelled(model))
    assert private.is_built(model)
    assert private.metrics_are_built(model)
    assert "accuracy" in model.get_metrics_result()


def test_the_mean_that_is_logged_as_loss():
    model = classification(small_dense())
    private.build(model, labelled(model))
    private.track_loss(model, keras.ops.convert_to_tensor(2.0), 3)
    private.track_loss(model, keras.ops.convert_to_tensor(4.0), 1)
    assert float(model.get_metrics_result()["loss"]) == 2.5
    assert float(private.count_of_samples(model)) == 4


def test_penalties_are_those_of_compute_loss():
    inputs = keras.Input((4,))
    regularizer = keras.regularizers.L2(0.5)
    outputs = keras.layers.Dense(2, kernel_regularizer=regularizer)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    y = np.zeros((3, 2), "float32")
    loss = keras.ops.convert_to_numpy(model.compute_loss(None, y, y, None))
    penalties = private.sum_of_penalties(model, model.losses)
    assert keras.ops.convert_to_numpy(penalties) == loss > 0
    assert private.sum_of_penalties(model, []) == 0.0


def test_a_model_made_outside_of_a_scope_has_no_strategy():
    assert private.strategy_of(small_dense()) is None


def test_keras_calls_what_the_trainer_overrides():
    # By these names, or each does nothing.
    fit = inspect.getsource(keras.Model.fit)
    if keras.backend.backend() == "tensorflow":
        assert "self._maybe_symbolic_build(iterator=" in fit
    assert "self._get_metrics_result_or_logs(logs)" in fit
    assert "self.reset_metrics()" in fit
    train_on_batch = inspect.getsource(keras.Model.train_on_batch)
    assert "self._flatten_metrics_in_order(logs)" in train_on_batch


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="of TensorFlow's trainer"
)
def test_the_first_batch_is_known_and_not_taken(monkeypatch):
    class Counted(keras.utils.PyDataset):
        seen = ()

        def __len__(self):
            return 2

        def __getitem__(self, index):
            self.seen += (index,)
            return np.zeros((3, 4), "float32"), np.zeros(3, "int64")

    specs = []

    def element_spec(iterator):
        specs.append(private.element_spec(iterator))
        return specs[-1]

    monkeypatch.setattr("awn_keras.training.backends.element_spec", element_spec)
    data = Counted()
    model = classification(small_dense())
    model.fit(data, verbose=0, shuffle=False)
    ((x, y),) = specs
    assert x.shape.as_list()[1:] == [4]
    assert y.dtype == "int64"
    plain = Counted()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    classification(model).fit(plain, verbose=0, shuffle=False)
    assert data.seen == plain.seen
