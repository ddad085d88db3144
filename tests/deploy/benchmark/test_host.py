import re

import numpy as np
import pytest

from awn_keras import lenet_3c1l, slim
from awn_keras.deploy.attachments import flatbuffer_of
from awn_keras.deploy.benchmark import host
from awn_keras.deploy.benchmark.host import accuracies, benchmark_tflite
from awn_keras.deploy.converter import convert
from awn_keras.deploy.engine import EngineResult, EngineTimeoutError
from awn_keras.deploy.gpu import gpu_is_available
from awn_keras.deploy.interpreter import AnyWidthInterpreter

FAST = {"runs": 5, "warm_up": 1, "repeats": 2, "min_seconds": 0}


def test_every_width_is_measured_in_a_process_of_its_own(exported):
    seen = []
    report = benchmark_tflite(
        exported, threads=[1, 2], on_progress=lambda r: seen.append(len(r.rows)), **FAST
    )
    assert report.failures == []
    assert sorted((entry.threads, entry.width) for entry in report.rows) == [
        (threads, width) for threads in (1, 2) for width in (0.25, 0.5, 1.0)
    ]
    assert len(seen) == 12
    for row in report.rows:
        assert row.target == "cpu"
        assert (row.runs, row.warm_up) == (10, 1)
        assert 0 < row.min_ms <= row.median_ms <= row.p90_ms <= row.max_ms
        assert row.init_ms > row.min_ms
        assert row.memory_mb > 0
        assert row.file_bytes == exported.stat().st_size
        assert row.precision == "float32"
        assert row.macs > 0
        assert row.litert


def test_each_repetition_is_told(exported, capsys):
    benchmark_tflite(exported, widths=[0.25], verbose=1, **FAST)
    lines = capsys.readouterr().out.splitlines()
    for number, line in enumerate(lines, start=1):
        told = rf"\[{number}/2\] repetition of {exported.name} here in [\d.]+ s"
        assert re.fullmatch(told, line)
    assert len(lines) == 2


def test_short_runs_are_repeated_until_the_time_is_over(exported):
    (row,) = benchmark_tflite(
        exported, widths=[0.25], runs=5, min_seconds=0.2, repeats=1
    ).rows
    assert row.runs > 5
    # What is timed is nearly all that the time goes into.
    assert row.runs * row.mean_ms == pytest.approx(200, rel=0.5)


def test_the_manifest_of_another_file_is_not_believed(exported, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(flatbuffer_of(exported.read_bytes()) + b"\0")
    path.with_suffix(".json").write_bytes(exported.with_suffix(".json").read_bytes())
    report = benchmark_tflite(path, widths=[0.5], **FAST)
    assert report.rows[0].precision is None


def test_files_of_others_are_measured_by_signature(tmp_path):
    network = slim(lenet_3c1l((16, 16, 1), filters=8), 1.0)
    path = tmp_path / "other.tflite"
    path.write_bytes(convert({"serving_default": network}))
    (row,) = benchmark_tflite(path, **FAST).rows
    assert (row.signature, row.width) == ("serving_default", None)


def test_a_width_that_fails_costs_a_row(exported, monkeypatch):
    def run(content, inputs, signature, **options):
        if signature == "width_025":
            return EngineResult(0, "left nothing")
        if signature == "width_050":
            return EngineResult(-11, "INFO: loading\nWARNING: last words\n")
        if signature == "width_100":
            raise EngineTimeoutError("LiteRT was not done with signature 'width_100'.")
        raise AssertionError(signature)

    monkeypatch.setattr(host, "run_apart", run)
    report = benchmark_tflite(exported, **FAST)
    assert report.rows == []
    assert sorted(map(str, report.failures)) == [
        "cpu, width_025, 1 threads: LiteRT ended with status 0: left nothing",
        "cpu, width_050, 1 threads: LiteRT ended with status -11: WARNING: last words",
        "cpu, width_100, 1 threads: LiteRT was not done with signature 'width_100'.",
    ]


def test_without_a_gpu_the_other_targets_go_on(exported, monkeypatch):
    monkeypatch.setattr(host, "why_no_gpu", lambda: "LiteRT's GPU engine found no GPU")
    report = benchmark_tflite(exported, targets=["gpu", "cpu"], **FAST)
    assert [row.target for row in report.rows] == ["cpu"] * 3
    (failure,) = report.failures
    assert str(failure).startswith("gpu: LiteRT's GPU engine found no GPU")


def test_the_gpu_is_measured_and_compared_with_the_cpu(exported):
    if not gpu_is_available():
        pytest.skip("LiteRT's GPU engine finds no Vulkan driver, real or in software")
    report = benchmark_tflite(exported, targets=["gpu"], **FAST)
    assert report.failures == []
    assert len(report.rows) == 3
    for row in report.rows:
        assert row.fully_accelerated
        # The same sums in float32, in another order.
        assert row.largest_error < 1e-4


def test_a_gpu_that_refuses_a_file_is_a_failure(exported, monkeypatch):
    monkeypatch.setattr(host, "why_no_gpu", lambda: None)
    refused = "Selected adapter: A\nE0000 1 a.cc:1] Validation error: vec4\n"
    monkeypatch.setattr(
        host, "run_apart", lambda *args, **kwargs: EngineResult(0, refused)
    )
    report = benchmark_tflite(exported, targets=["gpu"], **FAST)
    assert report.rows == []
    assert len(report.failures) == 3
    assert "Validation error" in str(report.failures[0])


def test_a_cpu_that_cannot_run_the_file_is_no_reference(exported, monkeypatch):
    def run(content, inputs, signature, gpu=False, **options):
        if not gpu:
            raise EngineTimeoutError("too slow")
        log = "Selected adapter: A\n"
        return EngineResult(0, log, (np.zeros((1, 10)),), True, 3.0, (1.0, 2.0), 5.0)

    monkeypatch.setattr(host, "why_no_gpu", lambda: None)
    monkeypatch.setattr(host, "run_apart", run)
    report = benchmark_tflite(exported, targets=["gpu"], **FAST)
    assert len(report.rows) == 3
    assert all(row.largest_error is None for row in report.rows)


def test_accuracies_are_those_of_running_the_file(exported):
    rng = np.random.default_rng(0)
    images = rng.random((50, 16, 16, 1)).astype("float32")
    answers = AnyWidthInterpreter(exported).run(images, width=0.5).argmax(1)
    measured = accuracies(exported, images, answers)
    assert set(measured) == {"width_025", "width_050", "width_100"}
    assert measured["width_050"] == 1.0
    assert set(accuracies(exported, images, answers, [0.5])) == {"width_050"}
    with pytest.raises(
        ValueError, match=r"labels up to 10. Received: outputs \(1, 10\)"
    ):
        accuracies(exported, images[:2], np.array([3, 10]))
    report = benchmark_tflite(exported, widths=[0.5], accuracy=measured, **FAST)
    assert report.rows[0].accuracy == 1.0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"targets": []}, "`targets` must be of"),
        ({"targets": ["npu"]}, r"`targets` must be of .*\['npu'\]"),
        ({"repeats": 0}, "`repeats` must be at least 1"),
        ({"warm_up": -1}, "`warm_up` must be at least 0"),
        ({"min_seconds": float("nan")}, "`min_seconds` must not be negative"),
        ({"widths": [0.3]}, r"`widths` must be widths of .*Received: \[0\.3\]"),
    ],
)
def test_bad_arguments_are_refused(exported, change, match):
    with pytest.raises(ValueError, match=match):
        benchmark_tflite(exported, **{**FAST, **change})


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "text.tflite").write_text("text")
    with pytest.raises(ValueError, match="is not a TFLite file"):
        benchmark_tflite(tmp_path / "text.tflite")
    with pytest.raises(FileNotFoundError):
        benchmark_tflite(tmp_path / "none.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["text.tflite"]
