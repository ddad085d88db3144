"""The devices of a run. tests/training/test_devices.py tests training on devices."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from awn_keras.cli import main
from awn_keras.data import load_data
from awn_keras.loading import load_model
from awn_keras.runs.devices import Devices, choose_devices
from awn_keras.runs.presets import paper_recipe
from awn_keras.runs.recipe import Recipe
from awn_keras.runs.run import run
from tests.training.test_devices import free_ports

ROOT = Path(__file__).parents[2]
TRAIN = "train --dataset digits --filters 2 --epochs 2 --widths-grid 0.25,0.5,1"
WORKER = '{"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"index": 9}}'


def test_one_device_is_the_default():
    assert choose_devices() == choose_devices(devices=1) == Devices()


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("tensorflow", "--devices 0", "`--devices` must be at least 1"),
        ("tensorflow", "--strategy tpu", "`--strategy` must be one of mirrored, multi"),
        ("tensorflow", "--devices 1025", "`--devices` must be at least 1 and at most"),
        ("tensorflow", f"--devices {10**20}", "at least 1 and at most 1024. Received"),
        ("tensorflow", "--devices 1000", "must be at most"),
        ("tensorflow", "--strategy mirrored", "must be a number on a machine without"),
        ("tensorflow", "--strategy data_parallel", "needs KERAS_BACKEND=jax"),
        ("jax", "--strategy mirrored --devices 2", "needs KERAS_BACKEND=tensorflow"),
        ("torch", "--devices 2", "write a script and start it with torchrun"),
        (
            "tensorflow",
            "--strategy multiworker --devices 2",
            "TF_CONFIG names the machines",
        ),
        (
            "tensorflow",
            "--strategy multiworker",
            "index of this machine, such as {",
        ),
        (
            "jax",
            "--system us_net",
            "`--system us_net` trains on one device, with Tensor",
        ),
    ],
)
def test_what_cannot_be_is_one_line(backend, options, message, monkeypatch, capsys):
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    monkeypatch.setenv("TF_CONFIG", WORKER)
    tf.config.list_logical_devices()  # A running TensorFlow keeps the devices it has.
    assert main(f"train --dataset digits {options}".split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_batch_must_have_equal_parts(tmp_path):
    recipe = replace(Recipe("digits"), batch_size=127)
    with pytest.raises(ValueError, match="batch_size=127 for 2 devices"):
        run(recipe, tmp_path, devices=Devices("mirrored", 2))


def test_systems_of_the_paper_train_on_one_device(tmp_path):
    recipe = paper_recipe("digits", system="shared_bn")
    with pytest.raises(ValueError, match="trains on one device"):
        run(recipe, tmp_path, devices=Devices("mirrored", 2))


def test_a_last_batch_without_equal_parts_is_repeated_in_itself():
    batches = load_data("digits").train(128)
    divided = Devices("mirrored", 4).training_batches(batches)
    assert len(divided) == len(batches)
    for index in (0, len(batches) - 1):
        for array, same in zip(batches[index], divided[index], strict=True):
            assert len(same) % 4 == 0
            np.testing.assert_array_equal(same[: len(array)], array)
            np.testing.assert_allclose(same.mean(0), array.mean(0), atol=1e-6)
    assert len(divided[0][0]) == 128
    before = divided[0][1]
    divided.on_epoch_end()
    assert (divided[0][1] != before).any()


@pytest.mark.parametrize("count", [2, 7])
def test_test_samples_count_alike(count):
    batches = load_data("digits").test(100)
    divided = Devices("data_parallel", count).test_batches(batches)
    labels = np.concatenate([divided[index][1] for index in range(len(divided))])
    assert all(len(divided[index][1]) % count == 0 for index in range(len(divided)))
    whole = np.concatenate([batches[index][1] for index in range(len(batches))])
    times = count // math.gcd(count, 20)
    np.testing.assert_array_equal(np.bincount(labels), times * np.bincount(whole))
    assert Devices("mirrored", count).test_batches(batches) is batches


def test_only_the_chief_keeps_what_it_writes(tmp_path):
    with Devices(chief=True).folder(tmp_path) as folder:
        assert folder == tmp_path
    with Devices("multiworker", 2, chief=False).folder(tmp_path) as folder:
        assert folder.is_dir()
        assert folder != tmp_path
    assert not folder.exists()


def start(directory, *options, log="log", **environment):
    with (directory.parent / f"{directory.name}.{log}").open("w") as file:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "awn_keras.cli", *TRAIN.split()),
                *("--output", directory, *options),
            ],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": "tensorflow", **environment},
            stdout=subprocess.DEVNULL,
            stderr=file,
        )


def finish(directory, *processes):
    for process in processes:
        code = process.wait(timeout=400)
        logs = [path.read_text() for path in directory.parent.glob("*log*")]
        assert code == 0, "\n".join(logs)[-3000:]


def results_of(directory):
    assert {path.name for path in directory.iterdir()} == {
        *("curve.csv", "curve.png", "data.json", "history.json", "model.keras"),
        *("recipe.json", "result.json"),
    }
    result = json.loads((directory / "result.json").read_text())
    # Nothing of what trained it: it loads on one device.
    assert load_model(directory / "model.keras").distinct_widths[-1] == 1
    return result


@pytest.mark.slow
def test_replicas_resume_and_do_as_workers_do(tmp_path):
    """Two workers to the end; two replicas, which are killed and go on."""
    workers, replicas = tmp_path / "workers", tmp_path / "replicas"
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = [
        start(
            workers,
            "--strategy",
            "multiworker",
            log=f"log{index}",
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index in range(2)
    ]
    finish(workers, *processes)
    killed = start(replicas, "--devices", "2")
    while not (replicas / "model.keras").exists():
        assert killed.poll() is None
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finish(replicas, start(replicas, "--devices", "2", "--resume"))
    by_workers, other = results_of(workers), results_of(replicas)
    assert by_workers["recipe"] == other["recipe"]
    assert len(by_workers["history"]) == 2
    for logs, same in zip(by_workers["history"], other["history"], strict=True):
        for name in logs.keys() - {"seconds"}:
            # Sums in another order; 360 test images.
            assert logs[name] == pytest.approx(same[name], abs=1e-3), name


@pytest.mark.slow
def test_jax_trains_on_two_devices(tmp_path):
    directory = tmp_path / "jax"
    flags = "--xla_backend_optimization_level=0"  # compiles faster
    case = start(directory, "--devices", "2", KERAS_BACKEND="jax", XLA_FLAGS=flags)
    finish(directory, case)
    result = results_of(directory)
    assert result["auc"] == pytest.approx(result["history"][-1]["val_auc"], abs=1e-5)
