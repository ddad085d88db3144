"""Where a run trains: on one device, on several, or on several machines."""

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

#: Devices that may be asked for: processor devices are made before they are counted.
_MOST = 1024
#: The backend of each strategy; the first of a backend is its default.
STRATEGIES = {
    "mirrored": "tensorflow",
    "multiworker": "tensorflow",
    "data_parallel": "jax",
}


@dataclass(frozen=True)
class Devices:
    """Devices that train a model together, each with a part of every batch.

    Args:
        strategy: One of `STRATEGIES`; `None` for one device.
        count: Number of parts of a batch.
        scope: Gives the context in which a model is built, loaded and trained.
        chief: Whether this process keeps what a run writes. Of several workers one
            does.
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
            ValueError: If it has not.
        """
        if batch_size % self.count:
            raise ArgumentError(
                "`batch_size` is that of all devices together, and must be a multiple "
                f"of their number. Received: batch_size={batch_size} for {self.count} "
                "devices"
            )

    def training_batches(self, batches: Batches) -> keras.utils.PyDataset:
        """Makes batches that have equal parts, and train as they are.

        Args:
            batches: The batches.

        Returns:
            The batches. One that has no equal parts, as an epoch's last may be, is
            repeated in itself: its mean loss, its gradient and its batch statistics
            stay the same. It counts more in the epoch's logs.
        """
        return batches if self.count == 1 else _Repeated(batches, self.count)

    def test_batches(self, batches: Batches) -> keras.utils.PyDataset:
        """Makes batches that can be divided, and have the same mean of any metric.

        Args:
            batches: The batches.

        Returns:
            The batches; all are repeated in themselves if one cannot be divided.
        """
        if self.strategy != "data_parallel":  # TensorFlow's parts may differ in size.
            return batches
        return _Repeated(batches, self.count, alike=True)

    @contextlib.contextmanager
    def folder(self, directory: Path) -> Iterator[Path]:
        """Gives the folder in which this process writes.

        Every worker must save: reading a variable of several workers is an exchange
        between them. What others than the chief save is thrown away.

        Args:
            directory: The run's.

        Yields:
            It, or a temporary one.
        """
        if self.chief:
            yield directory
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def check_same_epoch(self, epoch: int, directory: Path) -> None:
        """Checks that all workers go on from the same epoch.

        Args:
            epoch: The number of finished epochs that this one sees.
            directory: Where it sees them, for the message.

        Raises:
            ValueError: If another sees more, or fewer.
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
                f"this one sees {epoch}. Name a folder that all of them share."
            )


class _Repeated(keras.utils.PyDataset):
    """Batches repeated in themselves, so often that they have equal parts.

    Args:
        batches: The batches.
        parts: Number of parts.
        alike: Whether to repeat all of them as often as the worst one needs.
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
    """Finds the devices that are to train, before any other work is given to them.

    Args:
        strategy: One of `STRATEGIES`. `None` for the backend's own if there are
            several devices.
        devices: How many: GPUs (with JAX TPUs, too) if this machine has any, else
            devices made of its processor. `None` for one or, with a strategy, all.

    Returns:
        The devices.

    Raises:
        ValueError: If the backend has no such strategy, or the machine not so many
            devices, or there are more than 1024.
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
    """The strategy, by name; the backend's own if none was chosen."""
    backend = keras.backend.backend()
    received = f"devices={devices}, strategy={strategy}, KERAS_BACKEND={backend}"
    if strategy is not None and strategy not in STRATEGIES:
        raise ArgumentError(
            f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: {strategy}"
        )
    own = [name for name, needed in STRATEGIES.items() if needed == backend]
    if not own:
        raise ArgumentError(
            "Several devices with PyTorch take a script of your own, started by "
            f"torchrun: docs/distributed.md has one. Received: {received}"
        )
    if strategy is not None and strategy not in own:
        raise ArgumentError(
            f"`strategy` must be {' or '.join(own)} with this backend; "
            f"`strategy={strategy}` needs KERAS_BACKEND={STRATEGIES[strategy]}. "
            f"Received: {received}"
        )
    return strategy or own[0]


def _names_of_devices(count: int | None) -> list[str]:
    """The first devices of this machine; without accelerators made of its processor."""
    names = _LIST_DEVICES[keras.backend.backend()](count or 1)
    kind = names[0].partition(":")[0]
    if kind.lower() == "cpu" and count is None:
        raise ArgumentError(
            "There are no accelerators here that could be counted: say how many "
            "devices are to be made of the processor. Received: devices=None"
        )
    if count is not None and len(names) < count:
        raise ArgumentError(
            f"There are not so many devices here. Received: devices={count} for "
            f"{', '.join(names)}"
        )
    return names[:count]


def _list_tensorflow(count: int) -> list[str]:
    import tensorflow as tf

    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU":
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        with contextlib.suppress(RuntimeError):  # It runs: it has what it has.
            tf.config.set_logical_device_configuration(cpu, parts)
    devices = range(len(tf.config.list_logical_devices(kind)))
    return [f"{kind}:{index}" for index in devices]


def _list_jax(count: int) -> list[str]:
    import jax

    # As `--xla_force_host_platform_device_count` in XLA_FLAGS; accelerators stay.
    with contextlib.suppress(RuntimeError):  # It runs: it has what it has.
        jax.config.update("jax_num_cpu_devices", count)
    return keras.distribution.list_devices()


_LIST_DEVICES = {"tensorflow": _list_tensorflow, "jax": _list_jax}


def _workers(devices: int | None) -> Devices:
    """The machines of TF_CONFIG, of which this is one."""
    if devices is not None:
        raise ArgumentError(
            "`devices` is not for `strategy=multiworker`: TF_CONFIG says which "
            "machines train, and each takes its GPUs, or its processor as one device. "
            f"Received: devices={devices}"
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
            "`strategy=multiworker` needs the machines, and which of them this is, in "
            f"the environment's TF_CONFIG, such as {example}. Received: {text!r}"
        ) from error
    import tensorflow as tf

    workers = tf.distribute.MultiWorkerMirroredStrategy()
    first = "chief" if "chief" in config["cluster"] else "worker"
    chief = task == (first, 0)
    return Devices("multiworker", workers.num_replicas_in_sync, workers.scope, chief)
