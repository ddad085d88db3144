"""Chooses the devices of a run: one device, several, or several machines."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras.data import Batches
from awn_keras.errors import ArgumentError

#: Largest number of devices. Devices of a processor are created before they are
#: counted, so a larger number would create too many.
_MOST = 1024
#: The backend of each strategy. The first strategy of a backend is its default.
STRATEGIES = {
    "mirrored": "tensorflow",
    "multiworker": "tensorflow",
    "data_parallel": "jax",
}


@dataclass(frozen=True)
class Devices:
    """Devices that train a model together, each with a part of every batch.

    Args:
        strategy: One of `STRATEGIES`. `None` for one device.
        count: Number of parts of a batch.
        scope: Function that returns the context in which a model is built, loaded and
            trained.
        chief: Whether this process keeps the files of a run. Only one of several
            workers does.
    """

    strategy: str | None = None
    count: int = 1
    scope: Callable[[], Any] = contextlib.nullcontext
    chief: bool = True

    def check_batch_size(self, batch_size: int) -> None:
        """Checks that a batch has equal parts.

        Args:
            batch_size: Samples in a batch of all devices.

        Raises:
            ValueError: If it does not.
        """
        if batch_size % self.count:
            raise ArgumentError(
                "`batch_size` counts the samples of all devices together, and must be "
                f"a multiple of the number of devices. Received: batch_size="
                f"{batch_size} for {self.count} devices"
            )

    def training_batches(self, batches: Batches) -> keras.utils.PyDataset:
        """Makes batches that have equal parts, for training.

        Args:
            batches: The batches.

        Returns:
            The batches. A batch without equal parts, such as the last of an epoch, is
            repeated within itself. Its mean loss, its gradient and its batch statistics
            stay the same, but the batch has more weight in the logs of the epoch.
        """
        return batches if self.count == 1 else _Repeated(batches, self.count)

    def test_batches(self, batches: Batches) -> keras.utils.PyDataset:
        """Makes batches that have equal parts, without a change of any mean metric.

        Args:
            batches: The batches.

        Returns:
            The batches. If a batch cannot be divided, all batches are repeated within
            themselves equally often.
        """
        if self.strategy != "data_parallel":  # parts may differ in size on TensorFlow
            return batches
        return _Repeated(batches, self.count, alike=True)

    @contextlib.contextmanager
    def folder(self, directory: Path) -> Iterator[Path]:
        """Gives the folder in which this process writes.

        Every worker must save, because all workers must take part when a variable is
        read. The files of workers other than the chief are thrown away.

        Args:
            directory: Directory of the run.

        Yields:
            `directory` for the chief, otherwise a temporary folder.
        """
        if self.chief:
            yield directory
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def check_same_epoch(self, epoch: int, directory: Path) -> None:
        """Checks that all workers continue after the same epoch.

        Args:
            epoch: Number of finished epochs that this worker sees.
            directory: Directory of the run, for the message.

        Raises:
            ValueError: If another worker sees another number.
        """
        if self.strategy != "multiworker":
            return
        import tensorflow as tf

        @tf.function
        def total() -> Any:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(epoch))

        with self.scope():
            strategy = tf.distribute.get_strategy()
            totals = strategy.experimental_local_results(strategy.run(total))
        if int(totals[0]) != epoch * self.count:
            raise ArgumentError(
                f"Workers see different numbers of finished epochs in {directory}: "
                f"this worker sees {epoch}. Name a folder that all workers share."
            )


class _Repeated(keras.utils.PyDataset):
    """Batches that are repeated within themselves until they have equal parts.

    Args:
        batches: The batches.
        parts: Number of parts.
        alike: Whether to repeat all batches equally often.
    """

    def __init__(self, batches: Batches, parts: int, alike: bool = False) -> None:
        super().__init__()
        self.batches = batches
        self.parts = parts
        samples, size = len(batches.images), batches.batch_size
        sizes = {min(samples, size), samples % size or size}
        self.times = parts // math.gcd(parts, *sizes) if alike else None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        batch = self.batches[index]
        times = self.times or self.parts // math.gcd(self.parts, len(batch[0]))
        return tuple(np.concatenate([array] * times) for array in batch)

    def on_epoch_end(self) -> None:
        self.batches.on_epoch_end()


# ------------------------------------------------------------------------- choosing


def choose_devices(strategy: str | None = None, devices: int | None = None) -> Devices:
    """Chooses the devices for training. Call it before any other work on them.

    Args:
        strategy: One of `STRATEGIES`. `None` for the backend's default if `devices` is
            above 1.
        devices: Number of devices, at most 1024. They are GPUs (with JAX also TPUs) if
            this machine has any, otherwise devices made of its processor. `None` for
            one device or, with a strategy, for all accelerators.

    Returns:
        The devices.

    Raises:
        ValueError: If the backend has no such strategy, if the machine has fewer
            devices, or if `devices` is out of range.
    """
    if devices is not None and not 1 <= devices <= _MOST:
        raise ArgumentError(
            f"`devices` must be at least 1 and at most {_MOST}. Received: "
            f"devices={devices}"
        )
    if strategy is None and devices in (None, 1):
        return Devices()
    strategy = _check_strategy(strategy, devices)
    if strategy == "multiworker":
        return _workers(devices)
    names = _names_of_devices(devices)
    if strategy == "data_parallel":
        parallel = keras.distribution.DataParallel(devices=names)
        return Devices(strategy, len(names), parallel.scope)
    import tensorflow as tf

    mirrored = tf.distribute.MirroredStrategy(names)
    return Devices(strategy, len(names), mirrored.scope)


def _check_strategy(strategy: str | None, devices: int | None) -> str:
    """The name of the strategy: the chosen one, or the backend's default."""
    backend = keras.backend.backend()
    received = f"devices={devices}, strategy={strategy}, KERAS_BACKEND={backend}"
    if strategy is not None and strategy not in STRATEGIES:
        raise ArgumentError(
            f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: {strategy}"
        )
    own = [name for name, needed in STRATEGIES.items() if needed == backend]
    if not own:
        raise ArgumentError(
            "To train on several devices with PyTorch, write a script and start it "
            f"with torchrun: docs/distributed.md has an example. Received: {received}"
        )
    if strategy is not None and strategy not in own:
        raise ArgumentError(
            f"`strategy` must be {' or '.join(own)} with this backend; "
            f"`strategy={strategy}` needs KERAS_BACKEND={STRATEGIES[strategy]}. "
            f"Received: {received}"
        )
    return strategy or own[0]


def _names_of_devices(count: int | None) -> list[str]:
    """The first devices of this machine: accelerators, or parts of its processor."""
    names = _LIST_DEVICES[keras.backend.backend()](count or 1)
    kind = names[0].partition(":")[0]
    if kind.lower() == "cpu" and count is None:
        raise ArgumentError(
            "`devices` must be a number on a machine without accelerators: so many "
            "devices are made of its processor. Received: devices=None"
        )
    if count is not None and len(names) < count:
        raise ArgumentError(
            f"`devices` must be at most {len(names)} on this machine, which has "
            f"{', '.join(names)}. Received: devices={count}"
        )
    return names[:count]


def _list_tensorflow(count: int) -> list[str]:
    import tensorflow as tf

    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU":
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        with contextlib.suppress(RuntimeError):  # too late, TensorFlow runs already
            tf.config.set_logical_device_configuration(cpu, parts)
    devices = range(len(tf.config.list_logical_devices(kind)))
    return [f"{kind}:{index}" for index in devices]


def _list_jax(count: int) -> list[str]:
    import jax

    # The same as `--xla_force_host_platform_device_count` in XLA_FLAGS. Accelerators
    # are not changed.
    with contextlib.suppress(RuntimeError):  # too late, JAX runs already
        jax.config.update("jax_num_cpu_devices", count)
    return keras.distribution.list_devices()


_LIST_DEVICES = {"tensorflow": _list_tensorflow, "jax": _list_jax}


def _workers(devices: int | None) -> Devices:
    """The machines in TF_CONFIG, which include this machine."""
    if devices is not None:
        raise ArgumentError(
            "`devices` must be left out with `strategy=multiworker`: TF_CONFIG names "
            "the machines, and each machine trains on its GPUs, or on its processor as "
            f"one device. Received: devices={devices}"
        )
    example = (
        '{"cluster": {"worker": ["10.0.0.1:12345", "10.0.0.2:12345"]}, "task": '
        '{"type": "worker", "index": 0}}'
    )
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        task = (config["task"]["type"], int(config["task"]["index"]))
        if not 0 <= task[1] < len(config["cluster"][task[0]]):
            raise IndexError(task)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ArgumentError(
            "`strategy=multiworker` needs the environment variable TF_CONFIG with all "
            f"machines and the index of this machine, such as {example}. Received: "
            f"{text!r}"
        ) from error
    import tensorflow as tf

    workers = tf.distribute.MultiWorkerMirroredStrategy()
    first = "chief" if "chief" in config["cluster"] else "worker"
    chief = task == (first, 0)
    return Devices("multiworker", workers.num_replicas_in_sync, workers.scope, chief)
