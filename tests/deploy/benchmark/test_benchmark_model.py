from pathlib import Path

import pytest

from awn_keras.deploy.benchmark.benchmark_model import (
    BenchmarkModelError,
    command,
    fields_of,
    parse,
)

OUTPUTS = Path(__file__).parent / "outputs"


def read(name):
    return (OUTPUTS / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "gpu", "expected"),
    [
        # Real outputs; the numbers are copied from them by eye.
        (
            "ok_tf1.12_am57xx_cpu",
            False,
            {"runs": 50, "mean_ms": 137.722, "max_ms": 143.416, "init_ms": 4.452},
        ),
        (
            "ok_2020_android_gpu_profiling",
            True,
            {"runs": 110, "mean_ms": 8.68033, "memory_mb": 63.4883},
        ),
        ("ok_2020_android_gpu_truncated", True, {"fully_accelerated": True}),
        ("ok_2023_linux_cpu", False, {"runs": 2, "median_ms": None}),
        (
            "ok_tf2.18_xnnpack_partial",
            False,
            {"mean_ms": 602.943, "p95_ms": None, "fully_accelerated": False},
        ),
        (
            "ok_tf2.20_builtin_cpu_percentiles_sci",
            False,
            {"mean_ms": 1240.27, "median_ms": 1239.807, "p95_ms": 1247.415},
        ),
        (
            "ok_linux_gpu_opencl_full_percentiles",
            True,
            {"median_ms": 115.35, "init_ms": 1361.236, "fully_accelerated": True},
        ),
        (
            "ok_2026_logcat_oppo_cpu_xnnpack_partial",
            False,
            {"runs": 10, "nodes_delegated": 1036, "memory_mb": 337.0},
        ),
        (
            "ok_litert_2025_linux_cpu",
            False,
            {"runs": 1054, "warm_up": 526, "median_ms": 0.942, "memory_mb": 7.07},
        ),
        (
            "ok_litert_android_cpu_use_profiler",
            False,
            {"mean_ms": 0.464545, "nodes_delegated": 1, "init_ms": 4.48},
        ),
        # Without the lines of counts: two decimals.
        (
            "ok_litert_2026_android_gpu_signature_results_block",
            False,
            {"runs": 10, "mean_ms": 7430.20, "std_ms": 9.92, "init_ms": 23744.73},
        ),
    ],
)
def test_real_outputs_are_read(name, gpu, expected):
    printed = parse(read(name), gpu=gpu, signature=None)
    values = {key: getattr(printed, key) for key in expected}
    assert values == pytest.approx(expected)
    assert printed.min_ms <= printed.mean_ms <= printed.max_ms


def test_every_output_is_in_a_test_and_has_an_origin():
    told = (OUTPUTS / "README.md").read_text()
    tests = Path(__file__).read_text()
    for path in OUTPUTS.glob("*.txt"):
        assert f"| {path.stem} |" in told
        assert f'"{path.stem}"' in tests


@pytest.mark.parametrize(
    ("name", "gpu", "match"),
    [
        (
            "fail_2026_android_gpu_failed_to_apply_subgraph1",
            True,
            "Failed to apply GPU delegate",
        ),
        ("fail_termux_int8_failed_to_allocate", False, "BATCH_MATMUL.*to allocate"),
        ("fail_2020_not_executable_elf", False, "not executable: 64-bit ELF file"),
        ("fail_2020_segfault", False, "Segmentation fault"),
        ("fail_2022_tf2.8_xnnpack_failed_to_apply", False, "Failed to apply XNNPACK"),
        ("fail_2021_hexagon_failed", False, "Failed to apply Hexagon delegate"),
        # Ran on the CPU, with status 0 and timings.
        ("ok_2021_gpu_unsupported_fell_back_xnnpack", True, "unsupported on this plat"),
    ],
)
def test_real_failures_are_told(name, gpu, match):
    with pytest.raises(BenchmarkModelError, match=match) as caught:
        parse(read(name), gpu=gpu, signature=None)
    assert "\n" not in str(caught.value)


def test_a_program_that_knows_no_signatures_is_not_believed():
    text = read("ok_2021_gpu_unsupported_fell_back_xnnpack")
    text = text.replace("--allow_fp16", "--allow_fp16 --signature_to_run_for=width_050")
    parse(text, gpu=False, signature=None)
    with pytest.raises(BenchmarkModelError, match="too old to run a signature"):
        parse(text, gpu=False, signature="width_050")


def test_another_signature_is_not_believed():
    block = read("ok_litert_2026_android_gpu_signature_results_block")
    assert parse(block, gpu=False, signature="prefill_1024").runs == 10
    with pytest.raises(BenchmarkModelError, match="ran signature 'prefill_1024', not"):
        parse(block, gpu=False, signature="width_050")
    text = read("ok_tf2.18_xnnpack_partial")
    assert "Signature to run: []" in text
    text = text.replace("Signature to run: []", "Signature to run: [width_050]")
    assert parse(text, gpu=False, signature="width_050").runs == 50
    with pytest.raises(BenchmarkModelError, match="ran signature 'width_050'"):
        parse(text, gpu=False, signature="width_100")


def replacing(delegate, *parts):
    line = (
        "VERBOSE: Replacing {} out of {} node(s) with delegate ({}) node, yielding 1 "
    )
    line += "partitions for subgraph {}.\n"
    return "".join(line.format(n, m, delegate, k) for k, (n, m) in enumerate(parts))


def test_operators_are_those_of_the_signatures_own_subgraph():
    text = read("ok_litert_2025_linux_cpu")
    text = replacing("TfLiteXNNPackDelegate", (5, 7), (9, 9), (3, 4)) + text
    for subgraph, delegated, fully in ((0, 5, False), (1, 9, True), (2, 3, False)):
        printed = parse(text, gpu=False, signature=None, subgraph=subgraph)
        assert (printed.nodes_delegated, printed.fully_accelerated) == (
            delegated,
            fully,
        )


def test_a_gpu_that_runs_other_parts_only_is_no_gpu():
    gpu = "INFO: Initialized OpenCL-based API.\n"
    text = read("ok_litert_2025_linux_cpu")
    assert parse(gpu + text, gpu=True, signature=None).runs == 1054
    elsewhere = gpu + replacing("TfLiteGpuDelegateV2", (0, 7), (9, 9)) + text
    assert parse(elsewhere, gpu=True, signature=None, subgraph=1).nodes_delegated == 9
    refused = (
        "INFO: Though GPU delegate is explicitly applied, the model graph will not be "
        "executed by the delegate.\n"
    )
    for bad, subgraph in ((elsewhere, 0), (gpu + refused + text, 0)):
        with pytest.raises(BenchmarkModelError, match="the GPU ran any operator"):
            parse(bad, gpu=True, signature=None, subgraph=subgraph)


def test_timings_of_runs_that_failed_later_do_not_count():
    text = read("ok_tf2.18_xnnpack_partial") + "\nERROR: Benchmarking failed.\n"
    with pytest.raises(BenchmarkModelError):
        parse(text, gpu=False, signature=None)


def test_silence_is_told_too():
    with pytest.raises(BenchmarkModelError, match="ends with: nothing"):
        parse("", gpu=False, signature=None)


def test_the_command_has_a_word_for_each_argument():
    words = command(
        "/tmp/a b/program",
        "/tmp/a b/x; rm -rf $HOME.tflite",
        "width_050",
        gpu=True,
        threads=4,
        runs=50,
        warm_up=0,
        min_seconds=0.3,
    )
    assert words[0] == "/tmp/a b/program"
    assert "--graph=/tmp/a b/x; rm -rf $HOME.tflite" in words
    assert {"--use_gpu=true", "--num_threads=4", "--num_runs=50"} <= set(words)
    assert "--min_secs=0.3" in words
    assert "--signature_to_run_for=width_050" in words
    assert "--warmup_runs=1" in words


def test_repetitions_become_one_row():
    repetition = parse(read("ok_litert_2025_linux_cpu"), gpu=False, signature=None)
    old = parse(read("ok_tf2.18_xnnpack_partial"), gpu=False, signature=None)
    fields = fields_of([repetition, repetition])
    assert fields["runs"] == 2108
    assert fields["median_ms"] == pytest.approx(0.942)
    assert fields["spread"] == 0
    assert fields_of([repetition])["spread"] is None
    # A version that prints no median gives none, rather than a mean under its name.
    fields = fields_of([old, old])
    assert fields["median_ms"] is None
    assert fields["p95_ms"] is None
    assert fields["mean_ms"] == pytest.approx(602.943)
