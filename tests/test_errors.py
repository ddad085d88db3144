import importlib
import inspect
import pkgutil

import pytest

import awn_keras
from awn_keras.errors import (
    ArgumentError,
    ArgumentTypeError,
    AwnError,
    StateError,
    UnsupportedError,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ArgumentError, ValueError),
        (ArgumentTypeError, TypeError),
        (UnsupportedError, NotImplementedError),
        (StateError, RuntimeError),
    ],
)
def test_errors_are_pythons_own_too(error, builtin):
    assert issubclass(error, AwnError)
    with pytest.raises(builtin, match="what to do"):
        raise error("what to do")


def test_every_error_of_the_package_is_of_the_family():
    names = [
        module.name
        for module in pkgutil.walk_packages(awn_keras.__path__, "awn_keras.")
        if not module.name.endswith(("__main__", "_program"))
    ]
    errors = {
        value
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and value.__module__.startswith("awn_keras")
    }
    assert len(errors) > 10
    assert [error for error in errors if not issubclass(error, AwnError)] == []


def test_a_command_puts_its_names_in_the_place_of_arguments():
    error = ArgumentError(
        "`precision='int8'` needs `representative`; see `keras.Model`. Received: x=`1`"
    )

    def typed(name, value):
        if name not in ("precision", "representative"):
            return None
        return f"--{name}" + ("" if value is None else f"={value}")

    assert error.message(typed) == (
        "`--precision='int8'` needs `--representative`; see `keras.Model`. Received: "
        "x=`1`"
    )
    # In Python, the message has the name that the user typed.
    assert str(error).startswith("`precision='int8'` needs `representative`; see")


def test_tensorflow_makes_another_one_when_it_leaves_a_traced_function():
    tf = pytest.importorskip("tensorflow")

    @tf.function
    def traced(x):
        if x > 0:  # so that TensorFlow rewrites the function
            x = x + 1
        raise ArgumentError("what to do")

    with pytest.raises(ArgumentError, match="what to do"):
        traced(tf.constant(1))
