import keras
import pytest

from awn_keras.loading import load_keras_model


def test_a_model_with_classes_of_its_own_is_to_be_loaded_in_python(tmp_path):
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    Own.__module__ = "not_imported_here"
    inputs = keras.Input((4,))
    keras.Model(inputs, Own()(inputs)).save(tmp_path / "own.keras")
    with pytest.raises(ValueError, match="load it in Python, where their classes"):
        load_keras_model(tmp_path / "own.keras")
