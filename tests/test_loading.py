import json
import threading
import zipfile

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
    with pytest.raises(
        ValueError, match=r"custom layers or functions\. Load the file in Python"
    ):
        load_keras_model(tmp_path / "own.keras")


@keras.saving.register_keras_serializable(package="tests.loading")
class Meanwhile(keras.layers.Layer):
    """Runs `does` while it is built. So a test can act in the middle of loading."""

    does = staticmethod(lambda: None)

    def build(self, input_shape):
        self.does()

    def call(self, x):
        return x


@pytest.fixture
def small_file(tmp_path):
    path = tmp_path / "small.keras"
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(2)(Meanwhile()(inputs))).save(path)
    return path


def test_layers_that_other_threads_build_meanwhile_may_be_larger(
    small_file, monkeypatch
):
    large = keras.layers.Dense(1000)
    builds = threading.Thread(target=large.build, args=((None, 1000),))

    def build_and_wait():
        builds.start()
        builds.join()

    monkeypatch.setattr(Meanwhile, "does", staticmethod(build_and_wait))
    load_keras_model(small_file)
    assert large.kernel.shape == (1000, 1000)


@keras.saving.register_keras_serializable(package="tests.loading")
class Scale(keras.layers.Layer):
    """Makes a weight of the shape of another weight, whatever the backend calls it."""

    def build(self, input_shape):
        first = self.add_weight(shape=input_shape[-1:], name="first")
        self.second = self.add_weight(shape=first.value.shape, name="second")

    def call(self, x):
        return x * self.second


def test_a_layer_may_give_a_shape_of_the_backends_own_class(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Scale()(inputs))
    model.save(tmp_path / "scale.keras")
    loaded = load_keras_model(tmp_path / "scale.keras")
    assert tuple(loaded.layers[-1].second.shape) == (4,)


def test_threads_that_load_at_the_same_time_leave_keras_as_it_was(
    small_file, monkeypatch
):
    add_weight = keras.layers.Layer.add_weight
    second = threading.Thread(target=load_keras_model, args=(small_file,))
    is_in, may_end = threading.Event(), threading.Event()

    def in_second():
        is_in.set()
        may_end.wait()

    def in_first():
        monkeypatch.setattr(Meanwhile, "does", staticmethod(in_second))
        second.start()
        # The second thread must wait. Half a second is much more than it would need.
        is_in.wait(timeout=0.5)

    monkeypatch.setattr(Meanwhile, "does", staticmethod(in_first))
    load_keras_model(small_file)
    may_end.set()
    second.join()
    assert keras.layers.Layer.add_weight is add_weight


# ------------------------------------------------------------------ versions of Keras


@pytest.mark.parametrize(
    ("version", "match"),
    [
        ("99.1.0", r"was saved by Keras 99\.1\.0, and cannot be read by Keras \d"),
        (keras.__version__, "is not a saved Keras model .*, or is damaged: TypeError"),
        ("3.0.0", "or is damaged: TypeError"),
        (None, "or is damaged: TypeError"),
        (["99"], "or is damaged: TypeError"),
    ],
    ids=str,
)
def test_a_model_of_a_later_keras_is_told_apart(tmp_path, version, match):
    """As Keras 3.15 writes arguments of initializers that Keras 3.13 does not know."""
    inputs = keras.Input((4,))
    saved, later = tmp_path / "saved.keras", tmp_path / "later.keras"
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(saved)
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(later, "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "config.json":
                assert b'"units"' in content
                content = content.replace(b'"units"', b'"unknown": 1, "units"')
            if name == "metadata.json":
                content = json.dumps({"keras_version": version}).encode()
            changed.writestr(name, content)
    with pytest.raises(ValueError, match=match):
        load_keras_model(later)
