import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from awn_keras import active_channels, lenet_3c1l
from awn_keras.cli import main
from awn_keras.data import load_data
from awn_keras.experiments import reproduce, tables
from awn_keras.experiments.paper import PaperRun, runs_of
from awn_keras.experiments.reproduce import (
    finished_runs,
    load_result,
    run_missing,
    show,
    write_report,
)
from awn_keras.experiments.tables import (
    accuracy_at,
    at_equal_macs,
    figure_4,
    figure_6,
    percent,
    table_1,
    table_2,
)
from awn_keras.runs.presets import paper_recipe
from awn_keras.runs.recipe import Recipe

QUICK = Recipe("digits", filters=2, epochs=1)
RUNS = [PaperRun("awn_rs", QUICK), PaperRun("plain", replace(QUICK, system="plain"))]


def invented(
    run, results, auc=0.9, calibrated=(0,), best=None, macs=(1, 2, 3, 4), **changes
):
    """Writes a result as a run would have."""
    widths = [0.25, 0.5, 0.75, 1.0]
    curves = [
        {
            "calibrated": count,
            "auc": auc + count / 1000,
            "widths": widths,
            "starts": widths,
            "accuracy": [auc - 0.03, auc - 0.01, auc + 0.01, auc + 0.03],
            "macs": list(macs),
            "executed_macs": list(macs),
            "parameters": [1, 2, 3, 4],
        }
        for count in calibrated
    ]
    content = {
        "recipe": run.recipe.as_json(),
        "reduced": run.recipe.scale < 1,
        "auc": curves[-1]["auc"],
        "best_epoch": best and {"epoch": 0, "auc": best},
        "history": best
        and [
            {"epoch": 0, "val_accuracy_w025": auc, "val_accuracy_w100": best},
            {"epoch": 1, "val_accuracy_w025": 0.5, "val_accuracy_w100": 0.5},
        ],
        "curves": curves,
        "statistics": None,
        "environment": {
            "processor": "a CPU",
            "packages": {"tensorflow": "2", "keras": "3"},
        },
        **changes,
    }
    (results / f"{run.name}.json").write_text(json.dumps(content))


def table_2_runs(results, dataset="fashion_mnist", **kwargs):
    runs = runs_of("table2", dataset, **kwargs)
    aucs = {"s_net": 0.8, "awn": 0.9, "awn_rs": 0.91, "us_net": 0.88}
    runs = [run for run in runs if run.label in aucs]
    for run in runs:
        auc = aucs[run.label] + 0.01 * run.recipe.seed
        calibrated = (4, 10, 20) if run.label == "us_net" else (0,)
        better = 0.002 if run.label == "awn_rs" else -0.001  # in 16 bits
        best = auc + better if run.label.startswith("awn") else None
        invented(run, results, auc, calibrated, best)
    return runs


# ------------------------------------------------------------------------ running


def test_what_is_missing_is_run_and_kept(tmp_path):
    said = []
    results, work = tmp_path / "results", tmp_path / "work"
    run_missing(RUNS, results, work, report=said.append, verbose=0)
    assert len(said) == 2
    assert "digits_lenet_3c1l_awn_rs_seed0: 1 epochs" in said[0]
    finished = finished_runs(RUNS, results)
    assert [run.label for run, _ in finished] == ["awn_rs", "plain"]
    content = (work / RUNS[0].name / "result.json").read_text()
    assert (results / f"{RUNS[0].name}.json").read_text() == content
    # Nothing is missing any more.
    run_missing(RUNS, results, work, report=pytest.fail, verbose=0)


def test_an_interrupted_run_is_resumed(tmp_path, monkeypatch):
    asked = {}

    def stand_in(recipe, directory, **kwargs):
        asked.update(kwargs, recipe=recipe)
        (directory / "result.json").write_text("{}")

    monkeypatch.setattr(reproduce, "run", stand_in)
    run = PaperRun("awn", QUICK, trace_every=7)
    run_missing([run], tmp_path / "r", tmp_path / "w", report=str, verbose=0)
    trace = asked.pop("trace")(load_data("digits"), tmp_path)
    assert trace.every == 7
    assert len(trace.images) == QUICK.batch_size
    assert asked == {"recipe": QUICK, "resume": True, "verbose": 0}


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path):
    """A real second process holds the lock."""
    directory = tmp_path / "work" / RUNS[0].name
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from awn_keras.experiments.reproduce import _claimed\n"
        f"with _claimed(Path({str(directory)!r})) as claimed:\n"
        "    print(claimed, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as other:
        assert other.stdout.readline() == "True\n"
        said = []
        arguments = (RUNS[:1], tmp_path / "results", tmp_path / "work")
        run_missing(*arguments, report=said.append, verbose=0)
        assert said == [f"{RUNS[0].name}: another process trains this run"]
        other.kill()
    # A kill releases it.
    run_missing(*arguments, report=said.append, verbose=0)
    assert load_result(RUNS[0], tmp_path / "results") is not None


@pytest.mark.slow
def test_a_process_that_is_killed_loses_an_epoch_at_most(tmp_path):
    """By SIGKILL, as if its machine were gone; the next call ends with its result."""
    run = replace(RUNS[0], recipe=replace(paper_recipe("digits"), scale=0.2))
    results = {}
    for killed in (True, False):
        work, folder = (tmp_path / f"{killed}_{name}" for name in ("work", "results"))
        command = [
            *("reproduce", "table2", "--dataset", "digits", "--systems", "awn_rs"),
            *("--scale", "0.2", "--results", str(folder), "--work", str(work)),
        ]
        if killed:
            directory = work / run.name
            with subprocess.Popen(
                [sys.executable, "-m", "awn_keras.cli", *command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                while not (directory / "model.keras").exists():
                    assert process.poll() is None
                    time.sleep(0.02)
                process.kill()
            assert load_result(run, folder) is None
            before = (directory / "history.json").read_text()
        assert main(command) == 0
        results[killed] = load_result(run, folder)
    resumed, whole = results[True], results[False]
    assert [logs["epoch"] for logs in resumed["history"]] == [0, 1, 2, 3]
    kept = json.loads(before)
    assert 1 <= len(kept) < 4
    # The last one may have lacked its model, which is written second.
    sure = max(len(kept) - 1, 1)
    assert resumed["history"][:sure] == kept[:sure]
    assert resumed["curves"][0]["widths"] == whole["curves"][0]["widths"]
    # Sums in another order where processes differ in their threads.
    np.testing.assert_allclose(
        resumed["curves"][0]["loss"], whole["curves"][0]["loss"], rtol=1e-4
    )


def test_results_of_another_recipe_are_refused(tmp_path):
    invented(PaperRun("awn_rs", replace(QUICK, epochs=2)), tmp_path)
    with pytest.raises(ValueError, match=r"result of another recipe. Remove the file"):
        load_result(RUNS[0], tmp_path)


def test_results_that_were_made_before_a_field_are_read(tmp_path):
    run = RUNS[0]
    recipe = run.recipe.as_json()
    del recipe["schedule"]
    invented(run, tmp_path, recipe=recipe)
    assert load_result(run, tmp_path)["auc"] == 0.9


@pytest.mark.parametrize("missing", ["curves", "environment", "reduced"])
def test_results_without_what_tables_need_are_named(tmp_path, missing):
    invented(RUNS[0], tmp_path)
    path = tmp_path / f"{RUNS[0].name}.json"
    content = json.loads(path.read_text())
    del content[missing]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not the result of a run"):
        load_result(RUNS[0], tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"recipe": 3}'])
def test_damaged_results_are_named(tmp_path, text):
    (tmp_path / f"{RUNS[0].name}.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not the result of a run: remove it"):
        load_result(RUNS[0], tmp_path)


# ------------------------------------------------------------------------ showing


def test_percent():
    assert percent([0.9]) == "90.00"
    # The standard deviation of a sample: sqrt(((-1)**2 + 1**2) / 1) = 1.41.
    assert percent([0.89, 0.91]) == "90.00 ± 1.41"


def test_the_network_that_runs_at_a_width_is_found():
    """45 channels: 0.5 has 23 of them, which begin at 0.5 exactly."""
    channels = 45
    model = lenet_3c1l((8, 8, 1), filters=channels, width_multiplier=1, padding="same")
    widths = list(model.distinct_widths)
    counts = [active_channels(channels, width) for width in widths]
    curve = {
        "starts": [model.start_of(width) for width in widths],
        "accuracy": [count / channels for count in counts],
    }
    for width in (0.25, 0.3, 0.5, 0.75, 0.999, 1.0):
        expected = active_channels(channels, width) / channels
        assert accuracy_at(curve, width) == expected
    assert accuracy_at(curve, 0.0) == counts[0] / channels
    assert active_channels(channels, 0.5) == 23


def test_table_2_sets_ours_beside_the_papers(tmp_path):
    finished = finished_runs(table_2_runs(tmp_path, seeds=2), tmp_path)
    table = table_2(finished)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["AWN+RS"][:4] == ["2", "91.50 ± 0.71", "91.70 ± 0.71", "91.06"]
    assert rows["AWN"][:3] == ["2", "90.50 ± 0.71", "90.50 ± 0.71"]
    assert rows["S-Net"][:4] == ["2", "80.50 ± 0.71", "-", "83.78"]
    assert rows["US-Net (20w)"][1] == "90.50 ± 0.71"
    # The invented networks have four MACs.
    assert rows["AWN+RS"][4:] == ["88.50 ± 0.71", "94.50 ± 0.71", "0.00 M"]
    assert list(rows)[-3:] == ["US-Net (4w)", "US-Net (10w)", "US-Net (20w)"]
    assert "Seeds 0, 1" in "\n".join(table.notes)


def test_what_is_not_finished_is_a_dash(tmp_path):
    runs = table_2_runs(tmp_path)
    finished = [f for f in finished_runs(runs, tmp_path) if f[0].label == "awn"]
    rows = {row[0]: row[1:] for row in table_2(finished).rows}
    assert rows["S-Net"] == ["-", "-", "-", "83.78", "-", "-", "-"]
    assert rows["AWN"][0] == "1"
    assert "No run is finished." in str(table_2([]))


def test_reduced_runs_say_so(tmp_path):
    runs = table_2_runs(tmp_path, scale=0.5)
    table = table_2(finished_runs(runs, tmp_path))
    assert table.notes[0].startswith("REDUCED")
    assert "10" in table.notes[1]


def test_table_1_has_the_papers_numbers_for_mnist_only(tmp_path):
    for dataset, count in (("mnist", 6), ("digits", 4)):
        runs = runs_of("table1", dataset)
        for run in runs:
            invented(run, tmp_path, best=0.95 if run.label == "awn" else None)
        rows = table_1(finished_runs(runs, tmp_path)).rows
        assert len(rows) == count
        best = {row[0]: row[1:] for row in rows}["AWN, here, best epoch"]
        assert best == ["1", "95.00", "-", "-", "90.00"]
    assert table_1(finished_runs(runs, tmp_path)).rows[0][2:] == [
        *("93.00", "91.00", "89.00", "87.00"),
    ]


def test_a_table_reads_well(tmp_path):
    text = str(table_2(finished_runs(table_2_runs(tmp_path), tmp_path)))
    lines = text.splitlines()
    assert set(lines[1]) == {"-"}
    assert len({len(line) for line in lines[:2]}) == 1
    assert all(len(line) <= len(lines[0]) for line in lines[2:8])


def test_at_equal_macs_the_widest_network_that_fits_is_told(tmp_path):
    runs = table_2_runs(tmp_path, seeds=2)
    for run in runs:
        result = load_result(run, tmp_path)
        for curve in result["curves"]:
            # A file of an AWN executes half of its MACs; they are twice the others'.
            awn = run.label.startswith("awn")
            macs = [m * 10**6 for m in ([2, 4, 6, 8] if awn else [1, 2, 3, 4])]
            curve["executed_macs"] = macs
            curve["macs"] = [2 * m for m in macs] if awn else macs
        (tmp_path / f"{run.name}.json").write_text(json.dumps(result))
    table = at_equal_macs(finished_runs(runs, tmp_path))
    # Between the four widths the network of the next smaller one is what runs.
    millions = ("1.00", "2.00", "3.00", "4.00", "8.00")
    assert table.head[2:] == [f"at most {limit} M MACs" for limit in millions]
    rows = {row[0]: row[1:] for row in table.rows}
    deviation = " ± 0.71"  # of seeds that differ by a point
    assert rows["S-Net"] == [
        "2",
        *(f"{a:.2f}{deviation}" for a in (77.5, 79.5, 81.5, 83.5, 83.5)),
    ]
    assert rows["AWN"] == [
        *("2", "-"),
        *(f"{a:.2f}{deviation}" for a in (87.5, 87.5, 89.5, 93.5)),
    ]


def test_at_equal_macs_without_a_run_there_is_no_number():
    table = at_equal_macs([])
    assert {cell for row in table.rows for cell in row[1:]} == {"-"}
    assert len(table.head) == 2


def test_figure_4_has_a_row_for_each_number_of_widths(tmp_path):
    runs = runs_of("figure4")
    for index, run in enumerate(runs):
        invented(run, tmp_path, 0.8 + index / 100)
    rows = figure_4(finished_runs(runs, tmp_path)).rows
    assert [row[:3] for row in rows] == [
        [count, "1", f"{80 + index}.00"]
        for index, count in enumerate(("1", "2", "4", "8", "all"))
    ]


def test_figure_6_sets_ours_beside_the_papers(tmp_path):
    for run, best in zip(runs_of("figure6"), (0.45, None), strict=True):
        invented(run, tmp_path, 0.4 if best else 0.2, best=best)
    rows = figure_6(finished_runs(runs_of("figure6"), tmp_path)).rows
    assert rows == [
        ["triangular convolutions", "1", "40.00", "45.00", "35.85", "37.00", "43.00"],
        ["ordinary convolutions", "1", "20.00", "-", "20.51", "17.00", "23.00"],
    ]


def test_figure_5_is_drawn_over_width_and_over_macs(tmp_path):
    finished = finished_runs(table_2_runs(tmp_path), tmp_path)
    figure = reproduce.figures.figure_5(finished)
    for ax, over in zip(figure.axes, ("widths", "executed_macs"), strict=True):
        curves = [curve for _, result in finished for curve in result["curves"]]
        assert [list(line.get_xdata()) for line in ax.lines] == [
            curve[over] for curve in curves
        ]
        assert [list(line.get_ydata()) for line in ax.lines] == [
            pytest.approx([100 * right for right in curve["accuracy"]])
            for curve in curves
        ]


@pytest.mark.parametrize("experiment", ["figure4", "figure5", "figure6"])
def test_figures_are_drawn(experiment, tmp_path):
    runs = runs_of(experiment)
    for run in runs:
        invented(run, tmp_path, calibrated=(4, 20) if run.label == "us_net" else (0,))
    table = show(experiment, finished_runs(runs, tmp_path), tmp_path)
    (picture,) = tmp_path.glob("*.png")
    assert picture.name.startswith(f"{experiment}_")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert table.notes[-1] == f"![{picture.stem}]({picture.name})"
    before = picture.read_bytes()
    show(experiment, finished_runs(runs, tmp_path), tmp_path)
    assert picture.read_bytes() == before  # or every report would be a change


def test_individual_networks_are_points_of_figure_5(tmp_path, monkeypatch):
    finished = finished_runs(table_2_runs(tmp_path, "digits"), tmp_path)
    runs = runs_of("individual", "digits", seeds=2)
    aucs = {"awn_rs": 0.7, "cosine_fast_decay": 0.6}
    for run in runs:
        filters = run.recipe.filters
        better = 0.05 * run.label.endswith("_recommended")
        auc = aucs.get(run.label, 0.5 + filters / 100 + better)
        invented(run, tmp_path, auc + 0.02 * run.recipe.seed, macs=[filters] * 4)
    points = finished_runs(runs, tmp_path)
    names = [run.name for run in runs if run.recipe.system == "plain"]
    drawn = []
    monkeypatch.setattr(
        reproduce.figures, "figure_5", lambda *args: drawn.append(args) or Figure()
    )
    views = (table_2, reproduce.figures.figure_5)
    monkeypatch.setitem(reproduce.VIEWS, "figure5", views)
    show("figure5", finished, tmp_path)
    assert [run.name for run, _ in drawn[0][1]] == names
    monkeypatch.undo()
    rows = tables.individual(points).rows
    assert len(rows) == 8
    assert rows[0][:7] == [
        "as many active weights as AWN at 1",
        "33",
        *("87.00 ± 1.41", "74.00 ± 1.41", "92.00 ± 1.41", "64.00 ± 1.41"),
        "2, 2, 2, 2",
    ]
    over_width, over_macs = reproduce.figures.figure_5(finished, points).axes
    sizes = tables.individual_sizes("digits")
    for ax in (over_width, over_macs):
        assert len(ax.collections) == 4
        for number, marks in enumerate(ax.collections):
            kind = ("params", "macs")[number % 2]
            better = 5.0 * (number >= 2)
            assert marks.get_offsets().tolist() == [
                [width if ax is over_width else filters, pytest.approx(48 + y)]
                for (of, width), filters in sizes.items()
                if of == kind
                for y in [filters + better]
            ]
            assert marks.get_facecolor().tolist() == [[0, 0, 0, 1]] * (number >= 2)
    legend = over_macs.get_legend()
    assert legend.get_title().get_text() == "plain, one by one"
    assert [text.get_text() for text in legend.get_texts()] == [
        *("as many weights, the paper's recipe", "as many MACs, the paper's recipe"),
        *("as many weights, awn train's recipe", "as many MACs, awn train's recipe"),
    ]
    assert len(over_width.get_legend().get_texts()) == len(over_width.lines)


def test_individual_networks_are_of_the_precision_that_has_run_most(
    tmp_path, monkeypatch
):
    finished = finished_runs(table_2_runs(tmp_path, "digits"), tmp_path)
    titles = []
    draw = reproduce.figures.figure_5

    def drawn(*args):
        figure = draw(*args)
        titles.append(figure.axes[1].get_legend().get_title().get_text())
        return figure

    monkeypatch.setitem(reproduce.VIEWS, "figure5", (table_2, drawn))
    for run in runs_of("individual", "digits", precision="mixed_bfloat16"):
        invented(run, tmp_path)
    own = runs_of("individual", "digits")
    own.sort(key=lambda run: run.recipe.system == "plain")  # the AWNs are no points
    for runs in (own[:3], own[3:]):
        for run in runs:
            invented(run, tmp_path)
        show("figure5", finished, tmp_path)
    assert titles == ["plain, one by one, mixed_bfloat16", "plain, one by one"]


def test_figure_2_has_a_column_for_each_system(tmp_path):
    runs = runs_of("figure2")
    rows = [
        {
            "step": step,
            **{
                key: [step, 2 * step]
                for key in ("mean", "variance", "moving_mean", "moving_variance")
            },
        }
        for step in (1, 2, 3)
    ]
    for run in runs:
        seen = {"widths": [0.5, 1.0], "rows": rows}
        invented(run, tmp_path, statistics=seen)
    figure = reproduce.figures.figure_2(finished_runs(runs, tmp_path))
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["standard BN", "S-Net", "AWN"]
    # Two widths, each with batch statistics and moving statistics.
    assert all(len(ax.lines) == 4 for ax in figure.axes)
    assert list(figure.axes[0].lines[0].get_ydata()) == [1, 2, 3]


def test_a_run_of_another_table_alone_is_no_figure(tmp_path):
    invented(runs_of("table2", systems=["awn_rs"])[0], tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "## table2" in text
    assert "## figure4" not in text
    assert "## improvements" not in text


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_any_width_networks_alone_are_no_table_of_individual_ones(scale, tmp_path):
    arms = ["awn_rs", "cosine_fast_decay"]
    runs = runs_of("individual", scale=scale)
    for run in runs:
        if run.label in arms:
            invented(run, tmp_path)
    write_report(tmp_path)
    assert "## individual" not in (tmp_path / "README.md").read_text()
    invented(runs[0], tmp_path)
    write_report(tmp_path)
    assert "## individual" in (tmp_path / "README.md").read_text()


def test_a_reduced_run_that_others_are_compared_with_is_no_table_alone(tmp_path):
    runs = runs_of("improvements", systems=["awn_rs", "cosine"], scale=0.25)
    for run in runs:
        invented(run, tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert re.findall("^## (.*?):", text, re.MULTILINE) == ["improvements"]


def test_the_table_of_improvements_says_what_each_changes(tmp_path):
    systems = ["awn_rs", "late_distillation", "all_cosine", "grid4"]
    runs = runs_of("improvements", "cifar10", systems=systems)
    for run in runs:
        invented(run, tmp_path)
    notes = str(tables.improvements(finished_runs(runs, tmp_path))).splitlines()
    assert notes[notes.index("Changed from the paper's AWN+RS:") + 2 :] == [
        "- late_distillation: distillation=0.5, late=0.5",
        "- all_cosine: learning_rate=0.04, schedule=cosine, weight_decay=0.000125, "
        "sampler=all, width_reduction=mean",
        f"- grid4: filters={runs[-1].recipe.filters}, width_multiplier=1, "
        "widths_grid=(0.25, 0.5, 0.75, 1.0)",
    ]


def test_precisions_are_told_apart(tmp_path):
    for precision, auc in (("float32", 0.9), ("mixed_bfloat16", 0.8)):
        for run in runs_of("table2", precision=precision, systems=["awn_rs"]):
            invented(run, tmp_path, auc)
    for scale in (1.0, 0.25):
        for run in runs_of(
            "improvements",
            scale=scale,
            precision="mixed_bfloat16",
            systems=["awn_rs", "cosine"],
        ):
            invented(run, tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    about = "fashion_mnist, lenet_3c1l"
    assert re.findall(r"^## (\w+):.*\((.*)\)$", text, re.MULTILINE) == [
        ("table2", about),
        ("table2", f"{about}, mixed_bfloat16"),
        ("figure5", about),
        ("figure5", f"{about}, mixed_bfloat16"),
        ("improvements", f"{about}, mixed_bfloat16"),
        ("improvements", f"{about}, scale0.25, mixed_bfloat16"),
    ]
    assert text.count("Training steps in mixed_bfloat16") == 4  # once a table
    assert (tmp_path / "figure5_fashion_mnist_lenet_3c1l_mixed_bfloat16.png").exists()


def test_machines_are_all_named(tmp_path):
    runs = table_2_runs(tmp_path)
    where = {"processor": "another", "packages": {"tensorflow": "2", "keras": "3"}}
    invented(runs[0], tmp_path, environment=where)
    notes = table_2(finished_runs(runs, tmp_path)).notes
    assert "a CPU, TensorFlow 2, Keras 3." in notes
    assert "another, TensorFlow 2, Keras 3." in notes


def test_the_report_has_what_is_finished_and_names_what_is_not(tmp_path):
    runs = table_2_runs(tmp_path)
    invented(runs_of("figure6")[0], tmp_path)
    (tmp_path / f"{runs[0].name}.json").unlink()
    write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "## table2: AUC of all systems (fashion_mnist, lenet_3c1l)" in text
    assert "Not finished yet: s_net, nested_net, nested_net_weights." in text
    assert "## figure5" in text
    assert "![figure5_fashion_mnist_lenet_3c1l]" in text
    assert text.count("| system | seeds | AUC |") == 1
    assert text.count("| system | seeds | at most ") == 1
    assert "Not finished yet: shared_bn_full." in text
    assert "table1" not in text
    write_report(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


# --------------------------------------------------------------------- the command


def test_the_command_shows_a_table(tmp_path, capsys):
    table_2_runs(tmp_path)
    folder = ["--results", str(tmp_path)]
    assert main(["reproduce", "table2", "--show", *folder]) == 0
    out = capsys.readouterr().out
    assert "AWN+RS" in out
    assert "91.06" in out
    assert (tmp_path / "README.md").exists()


def test_the_command_names_results_of_other_kinds(tmp_path, capsys):
    table_2_runs(tmp_path, "cifar10", precision="mixed_bfloat16")
    table_2_runs(tmp_path, "cifar10", precision="mixed_bfloat16", scale=0.1)
    command = ["reproduce", "table2", "--show", "--dataset", "cifar10"]
    command += ["--results", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "No run is finished." in out
    for scale in ("1", "0.1"):
        options = f"--scale {scale} --precision mixed_bfloat16"
        told = f"4 finished runs have other options. To see them, add {options}."
        assert told in out
        assert main([*command, *options.split()]) == 0
        assert "finished runs have" not in capsys.readouterr().out


def test_the_command_runs_what_is_missing(tmp_path, capsys):
    folders = ["--results", str(tmp_path / "r"), "--work", str(tmp_path / "w")]
    arguments = ["--dataset", "digits", "--scale", "0.05", "--systems", "awn_rs"]
    assert main(["reproduce", "table2", *arguments, *folders]) == 0
    out = capsys.readouterr().out
    assert "digits_lenet_3c1l_awn_rs_seed0_scale0.05: 1 epochs" in out
    assert "REDUCED" in out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["table9"], "experiment must be one of"),
        (["table2", "--dataset", "imagenet"], "`--dataset` must be one of"),
        (["table2", "--scale", "0"], "`--scale` must be in"),
        (["table2", "--systems", "ofa"], "`--systems` must be of"),
        (["table2", "--systems", ""], "`--systems` must be of"),
        (["table1", "--model", "mobilenet_v2"], "for LeNet-3C1L only"),
        (["table2", "--model", "vgg"], "`--model` must be one of"),
        (["table2", "--data-dir", "/nowhere"], "not prepared at"),
    ],
)
def test_bad_commands_end_in_one_line(arguments, match, tmp_path, capsys):
    folders = ["--results", str(tmp_path / "r"), "--work", str(tmp_path / "w")]
    assert main(["reproduce", *arguments, *folders]) == 2
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1
