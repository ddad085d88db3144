"""Trains on several devices: what test_devices.py runs in processes of their own.

    python -m tests.training.device_cases CASE FILE.npz [ARGUMENT ...]

The numbers of a case go into the file; the arguments are those of its function.
Backend and devices come by the environment.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

from awn_keras import (
    AnyWidthModel,
    FixedWidths,
    SandwichWidths,
    TriConv2D,
    TriDense,
    slim,
)

BATCH = 8
STEPS = 5
FIXED = FixedWidths([0.25, 0.5, 0.75, 1.0])


def data(count=BATCH * STEPS):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 6, 6, 2)).astype("float32")
    return x, rng.integers(0, 3, count)


def network(normalization=None, regularizer=None):
    """6x6x2 images, 3 classes: a stem, two triangular layers, a readout.

    Args:
        normalization: `None`, or a function that makes a normalization layer.
        regularizer: Of the triangular kernels, or `None`.
    """
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(8, 3)(inputs)
    if normalization is not None:
        x = normalization()(x)
    x = keras.layers.ReLU()(x)
    x = TriConv2D(8, 3, kernel_regularizer=regularizer, name="tri_conv")(x)
    if normalization is not None:
        x = normalization()(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    x = TriDense(8, activation="relu", kernel_regularizer=regularizer, name="tri")(x)
    return AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.25)


def built(scope=contextlib.nullcontext, optimizer=None, network=network, **compiled):
    """Sets initial weights that do not depend on where the model is built.

    Args:
        scope: Gives the context to build in.
        optimizer: Makes the optimizer, there too.
        network: Makes the model.
        **compiled: For `compile`.
    """
    optimizer = optimizer or (lambda: keras.optimizers.SGD(0.05, momentum=0.9))
    keras.utils.set_random_seed(0)
    with scope():
        model = network()
        model.compile(
            optimizer(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **{"widths": FIXED, **compiled},
        )
    return model


def fitted(model, count=BATCH * STEPS, validate=False, **kwargs):
    """Trains without shuffling; returns weights and history as arrays by name."""
    x, y = data(count)
    history = model.fit(
        x,
        y,
        BATCH,
        **{"epochs": 1, "shuffle": False, "verbose": 0, **kwargs},
        validation_data=data(22) if validate else None,
    )
    logs = {f"log {name}": values for name, values in history.history.items()}
    return {**weights_of(model), **logs}


def weights_of(model):
    weights = map(keras.ops.convert_to_numpy, model.weights)
    return {f"weight {index}": weight for index, weight in enumerate(weights)}


def named(prefix, values):
    return {f"{prefix}: {name}": value for name, value in values.items()}


# ------------------------------------------------------------------------ TensorFlow

#: How models are built and trained, by name: arguments of `built`.
TRAININGS = {
    "plain": {"widths": SandwichWidths(0.25, 1.0, 4, seed=3)},
    "everything": {
        "network": lambda: network(_synchronized, keras.regularizers.L2(0.01)),
        "widths": SandwichWidths(0.25, 1.0, 4, seed=3),
        "distillation": 0.5,
        "frozen_up_to": 0.5,
    },
}
EPOCHS = {"plain": {"epochs": 3}, "everything": {"epochs": 1}}


def _synchronized():
    return keras.layers.BatchNormalization(momentum=0.9, synchronized=True)


def mirrored():
    """Two logical CPUs, against one of them."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    configuration = tf.config.LogicalDeviceConfiguration
    tf.config.set_logical_device_configuration(cpu, [configuration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    values = {}
    for name, building in TRAININGS.items():
        for place, scope in (("one", contextlib.nullcontext), ("two", strategy.scope)):
            model = built(scope, **building)
            if name == "everything":
                values[f"{place}: before"] = slim(model, 0.5)(data()[0])
            trained = fitted(model, validate=True, **EPOCHS[name])
            values |= named(f"{name}, {place}", trained)
            if name == "everything":
                values[f"{place}: after"] = slim(model, 0.5)(data()[0])
            else:
                values |= named(place, at_a_width(model, 0.5))
    values |= uneven(strategy) | {"accumulation": accumulation(strategy)}
    return values | {"steps": several_steps(strategy), "alone": alone()}


def at_a_width(model, width):
    """What a model says at a width, in three ways."""
    x, y = data()
    results = model.evaluate(x, y, BATCH, width=width, return_dict=True, verbose=0)
    predicted = model.predict(x, width=width, verbose=0)
    model.width = width
    by_attribute = model.predict(x, verbose=0)
    model.width = 1.0
    return {
        **named("evaluate", results),
        "predict": predicted,
        "attribute": by_attribute,
        "slim": slim(model, width).predict(x, verbose=0),
    }


def uneven(strategy):
    """A last batch of 5: one replica has 3 of its samples and the other 2."""
    values = named("uneven, two", fitted(built(strategy.scope), count=BATCH + 5))
    x, y = data(BATCH + 5)
    # Each replica computes the mean over its samples. The step takes the mean of both.
    weight = np.ones(len(x), "float32")
    weight[-5:-2], weight[-2:] = 5 / 6, 5 / 4
    model = built()
    model.fit(x, y, BATCH, sample_weight=weight, shuffle=False, verbose=0)
    return values | named("uneven, one", weights_of(model))


def accumulation(strategy):
    """The error about gradient accumulation."""
    model = built(
        strategy.scope,
        optimizer=lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    )
    try:
        fitted(model, count=BATCH)
    except NotImplementedError as error:
        return str(error)
    return ""


def several_steps(strategy):
    """The error about several steps in one call."""
    try:
        built(strategy.scope, steps_per_execution=2)
    except NotImplementedError as error:
        return str(error)
    return ""


def alone():
    """Loss and accuracy, numbers, with a strategy of several workers that are one."""
    import tensorflow as tf

    model = built(tf.distribute.MultiWorkerMirroredStrategy().scope)
    return model.train_on_batch(*data(BATCH))


def worker(task, port, other, work, stop_after=None):
    """One of two workers; TF_CONFIG says which, so that it comes first of all.

    Args:
        task: 0, the chief, or 1.
        port: Port of worker 0 on 127.0.0.1.
        other: That of worker 1.
        work: A directory, for what a killed training resumes from.
        stop_after: Number of the epoch after which to wait to be killed.
    """
    import json

    addresses = [f"127.0.0.1:{number}" for number in (port, other)]
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": int(task)},
        }
    )
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # Each worker keeps its own: they hold the same.
    callbacks = [
        keras.callbacks.BackupAndRestore(Path(work, task), delete_checkpoint=False),
        _Wait(Path(work), task, stop_after),
    ]
    model = built(strategy.scope, **TRAININGS["plain"])
    return fitted(model, validate=True, callbacks=callbacks, **EPOCHS["plain"])


class _Wait(keras.callbacks.Callback):
    """Says that an epoch's backup is written, and waits in the next one's first step.

    Args:
        directory: Where to say so, by a file `waits_TASK`.
        task: The worker's number.
        epoch: The epoch, or `None`.
    """

    def __init__(self, directory, task, epoch):
        super().__init__()
        self.path, self.epoch = directory / f"waits_{task}", epoch

    def on_train_batch_begin(self, batch, logs=None):
        done = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        if self.epoch and done == STEPS * int(self.epoch):
            self.path.touch()
            signal.pause()


# ------------------------------------------------------------------------------- JAX


class _Evaluate(keras.callbacks.Callback):
    """After each epoch at widths at which nothing else is evaluated."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.evaluate_widths(*data(BATCH), BATCH, widths=[0.3, 0.4], verbose=0)


def on_jax():
    """Two CPUs, which XLA_FLAGS makes of one, against one of them."""
    devices = ["cpu:0", "cpu:1"]
    data_parallel = keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), devices)
    layout = keras.distribution.LayoutMap(mesh)
    # Each device has half of the outputs.
    layout["tri_conv/kernel"] = (None, None, None, "model")
    layout["tri/kernel"] = (None, "model")
    model_parallel = keras.distribution.ModelParallel(layout_map=layout)
    values = {}
    for place, scope in (
        ("one", contextlib.nullcontext()),
        ("data", data_parallel.scope()),
        ("model", model_parallel.scope()),
    ):
        with scope:
            model = built(
                network=lambda: network(keras.layers.BatchNormalization),
                widths=SandwichWidths(0.25, 1.0, 4, seed=3),
            )
            # The second epoch runs what was compiled before there was a validation,
            # and before there was state for other widths for a while.
            trained = fitted(model, validate=True, epochs=2, callbacks=[_Evaluate()])
            values |= named(f"trained, {place}", trained)
            values |= named(place, at_a_width(model, 0.5))
        kernel = model.get_layer("tri").kernel.value
        parts = {part.data.shape for part in kernel.addressable_shards}
        values[f"parts, {place}"] = sorted(parts)
    return values


# --------------------------------------------------------------------------- PyTorch


def process(rank, port):
    """One of two processes, each with half of every batch."""
    import torch

    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=int(rank), world_size=2
    )
    model = built(widths=SandwichWidths(0.25, 1.0, 4, seed=3), frozen_up_to=0.25)
    x, y = data()
    half = BATCH // 2
    own = np.arange(len(x)) % BATCH // half == int(rank)
    model.fit(x[own], y[own], half, shuffle=False, verbose=0)
    torch.distributed.destroy_process_group()
    return weights_of(model)


def one_process():
    """The reference for the case of two processes."""
    model = built(widths=SandwichWidths(0.25, 1.0, 4, seed=3), frozen_up_to=0.25)
    return fitted(model)


CASES = {
    case.__name__: case for case in (mirrored, worker, on_jax, process, one_process)
}


def main(case, path, *arguments):
    np.savez(path, **CASES[case](*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
