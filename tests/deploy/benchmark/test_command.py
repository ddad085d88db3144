"""`awn benchmark` and `awn pick`, as a user calls them."""

import csv
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import keras
import pytest

from awn_keras import export_tflite, lenet_3c1l
from awn_keras.cli import main
from awn_keras.deploy.benchmark.report import Report
from tests.deploy.benchmark.fake_adb import fake_program
from tests.deploy.benchmark.test_report import row

FAST = "--runs 3 --warm-up 0 --repeats 1 --min-seconds 0"


def test_host_in_all_formats(exported, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    arguments = f"benchmark {exported} {FAST} --threads 1,2 --output {out}/r.json "
    arguments += f"--csv {out}/r.csv --html {out}/r.html --widths 0.25,1"
    assert main(arguments.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"4 rows measured, 4 in {out}/r.json"
    assert sum(line.startswith("cpu") for line in lines) == 4
    assert {entry.threads for entry in Report.load(out / "r.json").rows} == {1, 2}
    with (out / "r.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert "<svg" in (out / "r.html").read_text()


def test_the_report_lies_beside_the_file_if_not_told(exported, tmp_path, capsys):
    path = tmp_path / "net.tflite"
    path.write_bytes(exported.read_bytes())
    assert main(f"benchmark {path} {FAST} --widths 0.25".split()) == 0
    assert len(Report.load(tmp_path / "net.benchmark.json").rows) == 1


def test_a_report_that_is_there_gets_more_rows(exported, tmp_path, capsys):
    output = tmp_path / "r.json"
    for widths, count in (("0.25,0.5", 2), ("0.5,1", 3)):
        arguments = f"benchmark {exported} {FAST} --widths {widths} --output {output}"
        assert main(arguments.split()) == 0
        assert len(Report.load(output).rows) == count


def test_rows_of_an_earlier_export_go_when_the_file_is_measured_anew(
    exported, tmp_path, capsys
):
    path = tmp_path / "net.tflite"
    arguments = f"benchmark {path} {FAST} --widths 1".split()
    for more in (b"", b"\0"):
        path.write_bytes(exported.read_bytes() + more)
        assert main(arguments) == 0
        assert len(Report.load(tmp_path / "net.benchmark.json").rows) == 1
    capsys.readouterr()
    assert main([*arguments, "--threads", "2"]) == 0
    # The table is of this run.
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 rows measured, 2 in")


def test_accuracy_is_measured_on_a_data_set(tmp_path, capsys):
    keras.utils.set_random_seed(0)
    model = lenet_3c1l((8, 8, 1), 10, filters=4, padding="same")
    path = tmp_path / "digits.tflite"
    export_tflite(model, path, widths=[0.5, 1.0], layout="dense")
    assert main(f"benchmark {path} {FAST} --dataset digits".split()) == 0
    rows = Report.load(tmp_path / "digits.benchmark.json").rows
    # Not trained: about one of ten is right.
    assert all(0 < entry.accuracy < 0.4 for entry in rows)


def test_a_phone_and_this_machine_in_one_report(phones, exported, tmp_path, capsys):
    phones.add("A")
    program = fake_program(tmp_path / "benchmark_model")
    arguments = f"benchmark {exported} {FAST} --android --cpu --gpu --adb {phones.adb} "
    arguments += f"--benchmark-model {program} --output {tmp_path}/phone.json"
    assert main(arguments.split()) == 0
    rows = Report.load(tmp_path / "phone.json").rows
    assert {entry.target for entry in rows} == {"android-cpu", "android-gpu"}
    arguments = f"benchmark {exported} {FAST} --merge {tmp_path}/phone.json "
    arguments += f"--output {tmp_path}/both.json"
    assert main(arguments.split()) == 0
    assert len(Report.load(tmp_path / "both.json").rows) == 9
    capsys.readouterr()
    arguments = f"pick {tmp_path}/both.json --target android-gpu --budget-ms 2"
    assert main(arguments.split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("0.5: width_050 of net.tflite, p95 1.68 ms")


def test_what_was_measured_is_on_disk_if_the_rest_fails(
    phones, exported, tmp_path, capsys
):
    phones.add("A")
    program = fake_program(tmp_path / "p", only=["width_050"], crashes=True)
    arguments = f"benchmark {exported} {FAST} --serial A --adb {phones.adb} "
    arguments += f"--benchmark-model {program} --output {tmp_path}/r.json"
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"awn benchmark: error: android-cpu, width_050, 1 threads: .* crashed: .*\n",
        error,
    )
    report = Report.load(tmp_path / "r.json")
    assert len(report.rows) == 2
    assert len(report.failures) == 1


def test_dry_counts_without_running(exported, capsys):
    assert main(f"benchmark {exported} --dry".split()) == 0
    _, head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == [
        *("MACs", "parameters", "constants", "activations", "signature")
    ]
    macs = [int(line.split()[0].replace(",", "")) for line in lines]
    assert macs == sorted(macs)
    assert lines[-1].endswith("width_100")
    assert main(f"benchmark {exported} --dry --widths 0.5".split()) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_script_is_the_command(exported, monkeypatch, capsys):
    script = Path(__file__).parents[3] / "tflite" / "benchmark.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(exported), "--dry"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith("width_100")


def test_pick_tells_what_it_knows(tmp_path, capsys):
    rows = [
        row(0.25, 1.0, accuracy=0.8, p90_ms=1.0),
        row(0.5, 2.0, accuracy=0.9, p90_ms=2.0),
        row(0.75, 4.0, accuracy=0.89, p90_ms=4.0),
    ]
    Report(rows).save(tmp_path / "r.json")
    assert main(f"pick {tmp_path}/r.json --budget-ms 3".split()) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0.5: width_050 of net.tflite, p90 2 ms (within 0.04 ms), accuracy 90.00%",
        "A new export at width 0.625 is expected to be within the budget, too.",
        "Widths that are slower and not more accurate than others: 0.75",
    ]
    report = Report([replace(entry, file_bytes=9000) for entry in rows])
    report.save(tmp_path / "kb.json")
    assert main(f"pick {tmp_path}/kb.json --budget-kb 5".split()) == 0
    assert "p90 1 ms, 9 kB" in capsys.readouterr().out
    arguments = f"pick {tmp_path}/r.json --budget-ms 0.5 --quantile median"
    assert main(arguments.split()) == 0
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first == "No width is within the budget. The narrowest is 0.25:"
    assert "not more accurate" not in "".join(rest)
    assert second.startswith("0.25: width_025 of net.tflite, median 1 ms")


def test_pick_claims_no_uncertainty_of_one_repetition(tmp_path, capsys):
    Report([row(0.5, 2.0, p90_ms=2.5, spread=None)]).save(tmp_path / "r.json")
    assert main(f"pick {tmp_path}/r.json --budget-ms 3".split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("0.5: width_050 of net.tflite, p90 2.5 ms")
    assert "within" not in out


def test_pick_says_where_the_median_would_decide_otherwise(tmp_path, capsys):
    rows = [row(0.5, 2.0, p90_ms=2.5), row(1.0, 4.0, p90_ms=6.0)]
    Report(rows).save(tmp_path / "r.json")
    assert main(f"pick {tmp_path}/r.json --budget-ms 5".split()) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("0.5: width_050")
    assert second == (
        "The median latency of width 1, 4 ms, is also within the budget; its p90 is "
        "not. To compare medians, use `--quantile median`."
    )
    for same in ("--budget-ms 5 --quantile median", "--budget-ms 7", "--budget-ms 3"):
        assert main(f"pick {tmp_path}/r.json {same}".split()) == 0
        assert "The median latency" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("benchmark", "required: files"),
        (
            "benchmark a.tflite --budget-ms 5",
            "`--budget-ms` must be above 0, and needs",
        ),
        ("benchmark a.tflite --budget-ms 0 --html x", "`--budget-ms` must be above 0"),
        ("benchmark {tmp}/none.tflite", "There is no file"),
        ("benchmark {tmp}/text.tflite", "is not a TFLite file"),
        ("benchmark {tmp}/text.tflite --dry", "is not a TFLite file"),
        ("benchmark {net} --targets npu", "`--targets` must be of"),
        ("benchmark {net} --dry --csv x.csv", "`--dry` writes no file"),
        ("benchmark {net} --dry --widths 0.3", "`--widths` must be widths of"),
        ("benchmark {net} --threads 1,x", "integers, separated by commas"),
        ("benchmark {net} {tmp}/none.tflite", "There is no file"),
        ("benchmark {net} --output {net}", "is not a report of"),
        ("benchmark {net} --gpu", "need a device.*--targets cpu,gpu"),
        ("benchmark {net} --timeout -1", "`--timeout` must not be negative"),
        ("benchmark {net} --threads 0", "`--threads` must be at least 1"),
        ("benchmark {net} --widths 0.3", "`--widths` must be widths of"),
        ("benchmark {net} --runs 0", "`--runs` must be at least 1"),
        ("benchmark {net} --merge {tmp}/text.tflite", "is not a report of"),
        ("benchmark {net} --output {tmp}/text.tflite/r.json", "must lie in a folder"),
        ("benchmark {net} --android --adb {tmp}/none", "'.*/none' was not found"),
        ("benchmark {net} --android --adb {adb}", "No Android device is connected"),
        (
            "benchmark {net} --serial A --adb {adb}",
            "A is not connected. Connected: none",
        ),
        ("benchmark {net} --ssh -oProxyCommand=x", "expected one argument"),
        ("benchmark {net} --ssh a;b", "`--ssh` must be a host"),
        ("benchmark {net} --dataset imagenet", "must be one of .*'fashion_mnist'"),
        ("pick {tmp}/none.json --budget-ms 1", "There is no file"),
        ("pick {tmp}/text.tflite --budget-ms 1", "is not a report of"),
        (
            "pick {net} --budget-ms 1",
            "is not a report of .*FILE.benchmark.json.*it is no text",
        ),
        ("pick {tmp}/empty.json --budget-ms 1", "no row of a width"),
        (
            "pick {tmp}/empty.json --budget-ms 1 --target cpu",
            "no row of a width with `--target cpu`. It has no rows",
        ),
        ("pick {tmp}/empty.json", "One of `--budget-ms` and `--budget-kb`"),
    ],
)
def test_bad_input_gets_one_line_and_code_2(
    command, match, exported, phones, tmp_path, capsys
):
    (tmp_path / "text.tflite").write_text("text")
    Report().save(tmp_path / "empty.json")
    command = command.format(tmp=tmp_path, net=exported, adb=phones.adb)
    try:
        code = main(command.split())
    except SystemExit as stop:  # argparse ends the process itself
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert re.search(match, error), error
    assert error.startswith("awn")
    assert error.count("\n") == 1
    assert len(error) < 600
    assert not (exported.parent / "net.benchmark.json").exists()
