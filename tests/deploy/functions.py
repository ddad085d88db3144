"""Functions of a user's own, in a module of their own."""

import keras


@keras.saving.register_keras_serializable(package="tests", name="other")
def shifted(x):
    return x + 1


def doubled(x):
    return 2 * x
