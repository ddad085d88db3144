"""Several devices train the same as one device. device_cases.py has the cases."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def start(path, case, *arguments, **environment):
    """Starts a case in a separate process, which writes to `path`."""
    with path.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.training.device_cases", case, path),
                *map(str, arguments),
            ],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": "tensorflow", **environment},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def finish(processes):
    """Waits for cases; returns their numbers by name, as `start` was given paths."""
    values = []
    try:
        for path, process in processes.items():
            code = process.wait(timeout=300)
            assert code == 0, path.with_suffix(".log").read_text()[-3000:]
            with np.load(path) as file:
                values.append(dict(file))
    finally:
        for process in processes.values():
            process.kill()
    return values


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def assert_same(values, name, expected, *, weights=1e-6, logs=1e-5, of=None):
    """Compares all of a training's weights and logs with another's.

    Sums over a batch are taken in another order on several devices: float32 leaves
    some 1e-8 a step.
    """
    other = values if of is None else of
    keys = [key for key in values if key.startswith(f"{name}: ")]
    assert any("weight" in key for key in keys)
    for key in keys:
        wanted = other[expected + key.removeprefix(name)]
        atol = weights if ": weight" in key else logs
        np.testing.assert_allclose(values[key], wanted, rtol=0, atol=atol, err_msg=key)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    path = tmp_path_factory.mktemp("mirrored") / "mirrored.npz"
    (values,) = finish({path: start(path, "mirrored")})
    return values


@pytest.mark.parametrize("training", ["plain", "everything"])
def test_two_replicas_train_as_one_device_does(mirrored, training):
    assert_same(mirrored, f"{training}, two", f"{training}, one")
    logs = {
        key.partition("log ")[2] for key in mirrored if f"{training}, two: l" in key
    }
    assert logs >= {
        *("loss", "accuracy", "loss_w025", "accuracy_w100"),
        *("val_loss", "val_accuracy_w025", "val_auc"),
    }


def test_replicas_leave_frozen_networks_bit_for_bit(mirrored):
    np.testing.assert_array_equal(mirrored["two: after"], mirrored["two: before"])


def test_a_model_of_two_replicas_runs_at_any_width(mirrored):
    names = [key for key in mirrored if key.startswith("two: evaluate: ")]
    assert {"two: evaluate: accuracy", "two: evaluate: auc"} <= set(names)
    for key in names:
        single = mirrored[key.replace("two", "one", 1)]
        np.testing.assert_allclose(mirrored[key], single, atol=1e-5, err_msg=key)
    assert_runs_as_slimmed(mirrored, "two")


def assert_runs_as_slimmed(values, place):
    slim = values[f"{place}: slim"]
    np.testing.assert_allclose(values[f"{place}: predict"], slim, atol=1e-5)
    np.testing.assert_allclose(values[f"{place}: attribute"], slim, atol=1e-5)


def test_parts_of_a_batch_count_alike_however_large(mirrored):
    keys = [key for key in mirrored if key.startswith("uneven, one: ")]
    assert keys
    for key in keys:
        two = mirrored[key.replace("one", "two")]
        np.testing.assert_allclose(two, mirrored[key], rtol=0, atol=1e-6, err_msg=key)


def test_replicas_accumulate_no_gradients(mirrored):
    assert "without `gradient_accumulation_steps`" in str(mirrored["accumulation"])


def test_several_steps_by_one_call_are_refused(mirrored):
    assert "Leave `steps_per_execution` out" in str(mirrored["steps"])


def test_a_worker_alone_is_no_worker_among_others(mirrored):
    assert mirrored["alone"].shape == (2,)


def test_workers_go_on_after_one_was_killed(mirrored, tmp_path):
    """Two epochs after a kill, and both end where one device does without one."""

    def workers(*arguments):
        ports = free_ports(2)
        paths = [tmp_path / f"worker_{task}.npz" for task in range(2)]
        return {
            path: start(path, "worker", task, *ports, tmp_path, *arguments)
            for task, path in enumerate(paths)
        }

    first = workers(1)
    try:
        wait_for([tmp_path / f"waits_{task}" for task in range(2)], first)
        *_, killed = first.values()
        killed.send_signal(signal.SIGKILL)
        assert killed.wait(timeout=60) == -signal.SIGKILL
    finally:  # The other one would wait for it.
        for process in first.values():
            process.kill()
            process.wait()
    first_worker, other = finish(workers())
    for key, value in first_worker.items():
        if key.startswith("weight"):
            np.testing.assert_array_equal(value, other[key], err_msg=key)
        else:
            assert len(value) == 2, key  # the epochs after the kill
        whole = mirrored[f"plain, one: {key}"]
        whole, atol = (whole[1:], 1e-5) if key.startswith("log") else (whole, 1e-6)
        np.testing.assert_allclose(value, whole, rtol=0, atol=atol, err_msg=key)


def wait_for(paths, processes, seconds=240):
    end = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        for path, process in processes.items():
            assert process.poll() is None, path.with_suffix(".log").read_text()[-3000:]
        assert time.monotonic() < end, f"none of {paths}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory):
    path = tmp_path_factory.mktemp("jax") / "jax.npz"
    # Compiles faster, and runs slower.
    flags = "--xla_force_host_platform_device_count=2 "
    flags += "--xla_backend_optimization_level=0"
    case = start(path, "on_jax", KERAS_BACKEND="jax", XLA_FLAGS=flags)
    (values,) = finish({path: case})
    return values


@pytest.mark.parametrize("place", ["data", "model"])
def test_jax_trains_on_two_devices_as_on_one(on_jax, place):
    """Statistics of BatchNormalization are those of the whole batch."""
    assert_same(on_jax, f"trained, {place}", "trained, one")
    assert_runs_as_slimmed(on_jax, place)
    for key in on_jax:
        if key.startswith(f"{place}: evaluate: "):
            single = on_jax[key.replace(place, "one", 1)]
            np.testing.assert_allclose(on_jax[key], single, atol=1e-5, err_msg=key)


def test_a_kernel_can_be_spread_over_devices(on_jax):
    assert on_jax["parts, one"].tolist() == on_jax["parts, data"].tolist()
    ((rows, half),) = on_jax["parts, model"].tolist()
    assert on_jax["parts, one"].tolist() == [[rows, 2 * half]]


def test_two_processes_of_pytorch_train_as_one_does(tmp_path):
    (port,) = free_ports(1)
    paths = [tmp_path / f"process_{rank}.npz" for rank in range(2)]
    processes = {
        path: start(path, "process", rank, port, KERAS_BACKEND="torch")
        for rank, path in enumerate(paths)
    }
    alone = tmp_path / "one.npz"
    processes[alone] = start(alone, "one_process", KERAS_BACKEND="torch")
    first, other, whole = finish(processes)
    for key, value in first.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)
        np.testing.assert_allclose(value, whole[key], rtol=0, atol=1e-6, err_msg=key)
