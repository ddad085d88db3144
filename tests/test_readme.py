"""The code of the README runs and keeps the promises of the README."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import awn_keras
from tests.data.folders import photos
from tests.test_pretrained import packaged

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_code_runs_as_it_stands(tmp_path, monkeypatch):
    blocks = python_blocks(README)
    code = "\n".join(blocks)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    assert "epochs=20" in code
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(24, 3, activation="relu")(inputs)
    x = keras.layers.Flatten()(keras.layers.Conv2D(24, 3, activation="relu")(x))
    keras.Model(inputs, keras.layers.Dense(10)(x)).save("mine.keras")
    names = {}
    exec(code.replace("epochs=20", "epochs=4, verbose=0"), names)
    model = names["model"]
    # Chance is 10 %.
    assert awn_keras.trade_off_curve(model, names["data"].test()).auc > 0.5
    assert awn_keras.slim(model, 0.5).count_params() < model.count_params()
    expected = model.predict(names["images"], width=0.5, verbose=0)
    # The exporter's own tolerance.
    atol = 1e-4 * abs(expected).max()
    np.testing.assert_allclose(names["scores"], expected, atol=atol)
    assert names["runner"].widths == (0.25, 0.5, 0.75, 1.0)


@packaged
@pytest.mark.slow
def test_the_code_on_photos_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", cat=12, dog=12)
    (code,) = python_blocks((ROOT / "docs" / "photos.md").read_text())
    lines = [line for line in code.splitlines() if line and "import" not in line]
    assert len(lines) <= 15
    names = {}
    exec(code.replace("size=96", "size=32").replace("epochs=12", "epochs=2"), names)
    runner = awn_keras.AnyWidthInterpreter("mine.tflite")
    assert runner.labels == ("cat", "dog")
    assert {name for name, _ in runner.top("photos/cat/0.png", 2)} == {"cat", "dog"}


@pytest.mark.parametrize("page", ["architectures", "training", "width_rules"])
def test_the_code_of_other_pages_runs_as_it_stands(page, tmp_path, monkeypatch):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", cat=3, dog=3)
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    if page == "training":
        assert names["history"].history["val_auc"][-1] > 0.3  # chance is 10 %
        assert {path.name for path in (tmp_path / "logs" / "first").iterdir()} >= {
            *("train_w025", "validation_w100"),
        }
        assert names["tuned"].output_shape == (None, 4)


def test_all_pages_with_code_are_run():
    run = {"architectures", "training", "width_rules", "converting", "reproducing"}
    run |= {"deploying", "benchmarking", "distributed", "photos"}
    pages = (ROOT / "docs").glob("**/*.md")
    assert {page.stem for page in pages if "```python" in page.read_text()} == run


def test_the_code_on_converting_runs_as_it_stands():
    text = (ROOT / "docs" / "converting.md").read_text()
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    assert len(names["own"].distinct_widths) > 2
    names["own"].width = 0.5
    # Sums in another order.
    np.testing.assert_allclose(
        awn_keras.slim(names["own"], 0.5)(x), names["own"](x), atol=1e-5
    )


def test_the_code_on_reproducing_runs_as_it_stands(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "reproducing.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert list(names["curves"]) == [
        *("SNet", "USNet", "NestedNet", "SharedBN", "AnyWidthModel"),
    ]
    # Chance is 10 %; calibrated and triangular networks learn at every width.
    for name in ("USNet", "AnyWidthModel"):
        assert min(names["curves"][name].accuracy) > 0.3
    assert (tmp_path / "systems.png").exists()
    points = [line for line in names["axes"].lines if line.get_marker() == "^"]
    assert [line.get_xdata()[0] for line in points[-3:]] == [0.25, 0.5, 1.0]
    assert all(line.get_ydata()[0] > 30 for line in points[-3:])


def test_the_code_on_deploying_runs_as_it_stands(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "deploying.md").read_text()
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # Running it would make tf_keras what TensorFlow calls Keras in other tests.
    plain = [code for code in blocks if "needs the extra" not in code]
    assert len(plain) == len(blocks) - 1
    names = {}
    exec("\n".join(plain), names)
    assert names["scores"].shape == (3, 10)
    assert len(names["verified"]) == 4
    assert names["answer"].shape == (1, 10)
    assert names["runner"].labels == ()  # of the file without metadata
    assert [record.width for record in names["named"]] == [0.25, 1.0]
    assert names["small"][0].bytes < 0.5 * names["exported"][0].bytes


def test_the_code_on_benchmarking_runs_as_it_stands(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "benchmarking.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert len(names["everything"].rows) == 4
    assert names["runner"].width == 1.0  # 5 ms are plenty, and the report knows
    assert (tmp_path / "lenet.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "saved"),
    [
        (0, "mirrored.keras"),
        (1, "worker_0/model.keras"),
        (2, "jax.keras"),
        (3, "torch.keras"),
    ],
)
def test_the_scripts_on_several_devices_run(index, saved, tmp_path):
    """They run; tests/training/test_devices.py compares the numbers."""
    text = (ROOT / "docs" / "distributed.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    script = tmp_path / "script.py"
    script.write_text(blocks[index].replace("epochs=5", "epochs=1"))
    program = [sys.executable]
    if saved == "torch.keras":
        torchrun = ("-m", "torch.distributed.run", "--standalone")
        program += [*torchrun, "--nproc-per-node", "2"]
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [*program, script],
        cwd=tmp_path,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / saved).exists()


def test_the_code_on_quantization_runs_as_it_stands(tmp_path):
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        pytest.skip("needs the extra `quantization`")
    text = (ROOT / "docs" / "deploying.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # Only the lines that its block needs: the page's other test runs the rest.
    first, exports, _ = blocks[0].partition("exported = ")
    assert exports
    (code,) = (block for block in blocks if "needs the extra" in block)
    code = f"{first}{code}\nassert content[4:8] == b'TFL3'\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_public_names_are_documented():
    for name in awn_keras.__all__:
        assert getattr(awn_keras, name).__doc__, name


@pytest.mark.parametrize(
    "command",
    [
        *("train", "convert", "summary", "evaluate", "export", "verify", "reproduce"),
        *("benchmark", "pick", "predict"),
    ],
)
def test_its_commands_are_parsed(command):
    from awn_keras.cli import build_parser

    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    pages.append(ROOT / "tflite" / "README.md")
    text = "\n".join(page.read_text() for page in pages)
    lines = re.findall(rf"^awn ({command} [^#\n\[]*)", text, re.MULTILINE)
    assert lines
    for line in lines:
        assert build_parser().parse_args(line.split()).command == command
