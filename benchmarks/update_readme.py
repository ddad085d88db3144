"""Writes the tables of README.md, docs/ and results/paper from results/.

    python -m benchmarks.update_readme [--check]

The command replaces each block between `<!-- NAME -->` and `<!-- /NAME -->` by the
table NAME of `BLOCKS`. It also writes README.md and the figures of results/paper. With
`--check`, the command writes nothing. It then ends with exit code 1 if a page differs
from what the command would write. Pictures are not checked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras import lenet_3c1l
from awn_keras.counting import count_active_parameters
from awn_keras.data import DATASETS
from awn_keras.experiments import tables
from awn_keras.experiments.paper import (
    TABLE_2,
    individual_sizes,
    recommended_arm,
    runs_of,
)
from awn_keras.experiments.reproduce import finished_runs, write_report

ROOT = Path(__file__).parents[1]


def load(name: str) -> dict[str, Any]:
    """Reads a file of results."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def where(environment: dict[str, Any]) -> str:
    """Returns the line below a table that names machine, versions and date."""
    packages = environment["packages"]
    return (
        f"{environment['processor']}, {environment['cores']} cores, TensorFlow "
        f"{packages['tensorflow']}, Keras {packages['keras']}, Python "
        f"{environment['python']}, {environment['date']}."
    )


def table(head: list[str], rows: list[list[str]], column: str = "---:") -> str:
    """Formats a table in Markdown.

    Args:
        head: Titles of the columns.
        rows: Cells.
        column: Alignment of all columns but the first. The default aligns numbers to
            the right; "---" aligns words to the left.
    """
    lines = [head, ["---", *[column] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


PAPER = ROOT / "results" / "paper"
#: Titles of the columns with the accuracy at the narrowest and at the full width.
ENDS = tables.ENDS


def table2(dataset: str = "fashion_mnist", **kind: Any) -> str:
    """Makes table 2 of a data set: all systems beside the paper's numbers."""
    runs = runs_of("table2", dataset, seeds=10, **kind)
    return tables.table_2(finished_runs(runs, PAPER)).markdown()


def fashion_mnist() -> str:
    """Makes the table of four widths of AWN+RS and of a plain network.

    Accuracies are means over the finished seeds.
    """
    results = _table2_results("awn_rs")
    curve = results[0]["curves"][0]
    plain = _table2_results("us_net")[0]["curves"][0]
    model = lenet_3c1l(DATASETS["fashion_mnist"], 10, staircase="paper")
    rows = []
    for wanted in (0.25, 0.5, 0.75, 1.0):
        index, other = (tables.index_at(each, wanted) for each in (curve, plain))
        accuracies = [result["curves"][0]["accuracy"][index] for result in results]
        rows.append(
            [
                f"{wanted:g}",
                f"{tables.percent(accuracies)} %",
                f"{curve['macs'][index] / 1e6:.2f} M",
                f"{curve['parameters'][index] / 1e3:.1f} k",
                f"{count_active_parameters(model, wanted) / 1e3:.1f} k",
                f"{plain['macs'][other] / 1e6:.2f} M",
                f"{plain['parameters'][other] / 1e3:.1f} k",
            ]
        )
    head = [
        *("width", "accuracy", "MACs", "weights", "weights that are not zero"),
        *("plain network: MACs", "plain network: weights"),
    ]
    return table(head, rows)


def _table2_results(system: str) -> list[dict[str, Any]]:
    runs = runs_of("table2", "fashion_mnist", seeds=10, systems=[system])
    return [result for _, result in finished_runs(runs, PAPER)]


def _improved(dataset: str, systems: list[str] | None = None) -> list[tables.Finished]:
    kind = {"seeds": 10, "precision": "mixed_bfloat16"}
    runs = runs_of("improvements", dataset, systems=systems, **kind)
    return finished_runs(runs, PAPER)


def improvements(dataset: str) -> str:
    """Makes the table of changes to the paper's recipe, with all epochs."""
    return tables.improvements(_improved(dataset)).markdown()


def changes_in_five_epochs() -> str:
    """Makes the table of changes to the paper's recipe, with five epochs."""
    by_label = {}
    for dataset, scale in (("fashion_mnist", 0.25), ("cifar10", 0.05)):
        kind = {"seeds": 10, "scale": scale, "precision": "mixed_bfloat16"}
        finished = finished_runs(runs_of("improvements", dataset, **kind), PAPER)
        for run, result in finished:
            by_label.setdefault(run.label, {}).setdefault(dataset, []).append(result)
    rows = []
    for label, by_dataset in by_label.items():
        row = [label]
        for dataset in _COMPARED:
            results = by_dataset.get(dataset, [])
            row += [str(len(results)), *tables.auc_and_ends(results)]
        rows.append(row)
    results = [
        result
        for by_dataset in by_label.values()
        for of_dataset in by_dataset.values()
        for result in of_dataset
    ]
    head = ["change"]
    for name in _COMPARED.values():
        head += [f"{name}: seeds", "AUC", *ENDS]
    machines = sorted({tables.machine(result["environment"]) for result in results})
    return (
        f"{table(head, rows)}\n\n"
        "Training steps in mixed_bfloat16. Percent of the test set after the last of 5 "
        "epochs (`longer`: 10), mean ± standard deviation over the seeds. AUC favors "
        "networks with few widths (grid4, blocks8).\n" + "\n".join(machines)
    )


def widths_in_a_step() -> str:
    """Makes the table of figure 4: AUC by the number of widths in a step."""
    runs = runs_of("figure4", seeds=10, precision="mixed_bfloat16")
    return tables.figure_4(finished_runs(runs, PAPER)).markdown()


def full_width_only() -> str:
    """Makes the table of figure 6: networks that are cut but trained at full width."""
    runs = runs_of("figure6", seeds=10, precision="mixed_bfloat16")
    return tables.figure_6(finished_runs(runs, PAPER)).markdown()


#: Data sets with several recipes, and their names in tables.
_COMPARED = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


def recommended() -> str:
    """Makes the table of the recipes of `awn train` beside the paper's recipe."""
    rows = []
    for dataset, name in _COMPARED.items():
        reported = tables.percent([TABLE_2["lenet_3c1l", dataset]["awn_rs", 0]])
        paper = f"{name}: AWN+RS in the paper"
        rows.append([paper, "-", "-", reported, "-", "-"])
        for label, recipe in (
            ("awn_rs", "AWN+RS here, with the paper's recipe"),
            (recommended_arm(dataset), "the recipe of `awn train`"),
        ):
            results = [result for _, result in _improved(dataset, [label])]
            auc, *ends = tables.auc_and_ends(results)
            best = tables.best_epoch(results)
            rows.append([f"{name}: {recipe}", str(len(results)), auc, best, *ends])
    head = ["recipe", "seeds", "AUC", "AUC of the best epoch", *ENDS]
    return (
        f"{table(head, rows)}\n\n"
        "In our rows, training steps run in mixed_bfloat16 (in the table above: "
        "float32). AUC and accuracy are those after the last epoch (20 on "
        "Fashion-MNIST, 100 on CIFAR-10). The recipes were chosen on these test sets. "
        f"{tables.BEST_EPOCH}"
    )


def individual(dataset: str, scale: float = 1.0) -> str:
    """Makes the table of plain networks that are trained one by one.

    Args:
        dataset: Name of the data set.
        scale: The part of the paper's epochs that they train for.
    """
    kind = {"seeds": 10, "scale": scale, "precision": "mixed_bfloat16"}
    runs = runs_of("individual", dataset, **kind)
    return tables.individual(finished_runs(runs, PAPER)).markdown()


def wide_end() -> str:
    """Makes the table of full-width accuracy after training one or all widths."""
    kind = {"seeds": 10, "precision": "mixed_bfloat16"}
    alone = {
        "fashion_mnist": [("figure4", "awn_rs_1", "AWN")],
        "cifar10": [
            ("figure6", "awn_full", "AWN"),
            ("figure6", "shared_bn_full", "ordinary convolutions"),
        ],
    }
    rows, seen = [], []
    for dataset, name in _COMPARED.items():
        arm = recommended_arm(dataset)
        for experiment, label, network in (
            *alone[dataset],
            ("improvements", "awn_rs", "AWN+RS"),
            ("improvements", arm, "the recipe of `awn train`"),
        ):
            runs = runs_of(experiment, dataset, systems=[label], **kind)
            results = [result for _, result in finished_runs(runs, PAPER)]
            curves = [result["curves"][0] for result in results]
            seen += results
            alone_or_all = experiment == "improvements"
            trains = "all widths" if alone_or_all else "full width alone"
            rows.append(
                [
                    f"{name}: {network}",
                    trains,
                    str(len(curves)),
                    tables.percent([curve["accuracy"][-1] for curve in curves]),
                    f"{curves[0]['macs'][-1] / 1e6:.2f} M",
                ]
            )
    head = ["network", "trained for", "seeds", "accuracy at full width", "MACs"]
    machines = sorted({tables.machine(result["environment"]) for result in seen})
    return (
        f"{table(head, rows)}\n\n"
        "Training steps in mixed_bfloat16. Percent of the test set after the last "
        "epoch (20 on Fashion-MNIST, 100 on CIFAR-10). The paper's recipe, except in "
        "the last row of each data set. Full width alone: each step has one loss, at "
        "the learning rate at which AWN+RS trains the sum of four losses.\n"
        + "\n".join(machines)
    )


def conflict() -> str:
    """Makes the table of cosines between the gradients of widths, by layer."""
    result = load("conflict")
    rows, epochs = result["rows"], max(row["epoch"] for row in result["rows"])
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    pairs = [(0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 1.0)]
    cells = []
    for epoch, (narrow, wide) in itertools.product((0, epochs), pairs):
        chosen = {
            layer: [
                row["cosine"]
                for row in rows
                if (row["epoch"], row["narrow"], row["wide"], row["layer"])
                == (epoch, narrow, wide, layer)
            ]
            for layer in layers
        }
        names = f"{narrow:g} and {wide:g}"
        if narrow == wide:
            names = f"{wide:g}, and {wide:g} with other images"
        when = f"after {epoch} epochs" if epoch else "before training"
        means = [f"{np.mean(chosen[layer]):.2f}" for layer in layers]
        cells.append([names, when, *means])
    seeds = len({row["seed"] for row in rows})
    return (
        f"{table(['widths', '', *layers], cells)}\n\n"
        f"LeNet-3C1L on CIFAR-10, {seeds} seed{'s' if seeds > 1 else ''}. Each "
        f"gradient is the mean over {result['samples']:,} training images. "
        f"{where(result['environment'])}"
    )


def equal_macs(dataset: str, **kind: Any) -> str:
    """Makes the table of all systems at equal budgets of MACs."""
    runs = runs_of("table2", dataset, seeds=10, **kind)
    return tables.at_equal_macs(finished_runs(runs, PAPER)).markdown()


def train_step(name: str = "train_step") -> str:
    """Makes the table of step times, relative to the plain network."""
    result = load(name)
    rows = [
        [row["arm"], f"{row['median_ms']:.0f} ms", f"{row['ratio_to_plain']:.2f}x"]
        for row in result["rows"]
    ]
    return (
        f"{table(['what runs', 'median time', 'time / plain'], rows)}\n\n"
        f"{result['what']}, {result['precision']}, batch {result['batch_size']}, "
        f"{result['distinct_widths']} "
        f"distinct widths, medians of {result['steps']} steps in one process. "
        f"{where(result['environment'])}"
    )


def blocks() -> str:
    """Makes the table of step times of normalization and attention blocks."""
    result = load("blocks")
    head = ["network", "training step", "median time", "time / plain"]
    rows = [
        [
            row["network"],
            row["arm"],
            f"{row['median_ms']:.0f} ms",
            f"{row['ratio_to_plain']:.2f}x",
        ]
        for row in result["rows"]
    ]
    return (
        f"{table(head, rows)}\n\n"
        f"4 widths in each step, batch {result['batch_size']}, medians of "
        f"{result['steps']} steps in one process. {where(result['environment'])}"
    )


def backends() -> str:
    """Makes the table of step times on each backend.

    The first row is TensorFlow before the step for all backends existed.
    """
    files = {
        "TensorFlow, before": "train_step_before",
        "TensorFlow": "train_step",
        "JAX": "train_step_jax",
        "PyTorch": "train_step_torch",
    }
    arms = {
        "plain step": "plain",
        "4 widths / plain": "one pass, 4 widths",
        "all widths / plain": "one pass, all widths",
        "masked loop / plain": "masked loop, 4 widths",
    }
    rows = []
    for name, file in files.items():
        by_arm = {row["arm"]: row for row in load(file)["rows"]}
        ratios = [f"{by_arm[arm]['ratio_to_plain']:.2f}x" for arm in arms.values()]
        plain = f"{by_arm['plain']['median_ms']:.0f} ms"
        ratios[0] = plain
        evaluated = by_arm["evaluation, all widths"]["ratio_to_plain"]
        rows.append([name, *ratios, f"{evaluated:.2f}x"])
    head = ["backend", *arms, "evaluation at all widths / plain evaluation"]
    result = load("train_step")
    return (
        f"{table(head, rows)}\n\n"
        f"{result['what']}, float32, batch {result['batch_size']}. Each row was "
        "measured in one process. Ratios are relative to the plain step on the same "
        "backend. "
        f"{where(result['environment'])}"
    )


def export() -> str:
    """Makes the table of exported files: weights, bytes, MACs and milliseconds."""
    result = load("export")
    rows = []
    for network in result["networks"]:
        name = network["network"]
        widths = [row["width"] for row in network["files"][BALANCED]["widths"]]
        for label, file in network["files"].items():
            by_width = {row["width"]: row for row in file["widths"]}
            known = [by_width.get(width) for width in widths]
            rows.append(
                [
                    name,
                    label,
                    f"{file['bytes'] / 1e6:.2f} MB",
                    _counted(file["stored_weights"]),
                    *(_cost(row, "executed_macs") for row in known),
                    *_to_plain(network, label, [widths[0], widths[-1]]),
                ]
            )
        for equal, title in (("weights", "as many weights"), ("macs", "as many MACs")):
            chosen = [
                row
                for row in network["alternatives"]
                if (row["arm"], row["equal"]) == (BALANCED, equal)
            ]
            rows.append(
                [
                    *(name, f"plain, {title}"),
                    f"{sum(row['bytes'] for row in chosen) / 1e6:.2f} MB",
                    _counted(sum(row["weights"] for row in chosen)),
                    *(_cost(row, "macs") for row in chosen),
                    *("", ""),
                ]
            )
    places = ["narrowest width", "second width", "third width", "full width"]
    head = [
        *("network", "file", "size", "weights stored"),
        *(f"{place}: MACs, time" for place in places),
        *(f"{place}: time / plain" for place in (places[0], places[-1])),
    ]
    runs = ", ".join(sorted({str(row["runs"]) for row in result["networks"]}))
    return (
        f"{table(head, rows)}\n\n"
        "Widths: 0.25, 0.5, 0.75 and 1. For MobileNetV2 and EfficientNetB0: 0.35, "
        "0.5667, 0.7834 and 1. MACs: multiply-accumulates that the file executes. Time "
        "/ plain: the time of the file, divided by the time of a plain network with as "
        "many weights as are active at this width. A row of plain networks has one "
        "file for each width, with about as many weights or MACs as the row "
        f"`{BALANCED}` has. Its size is the sum of these files. "
        f"{result['what']}, medians of {runs} runs, one process. "
        f"{where(result['environment'])}"
    )


BALANCED = "nested, balanced"


def _cost(row: dict[str, Any] | None, macs: str) -> str:
    return "" if row is None else f"{_counted(row[macs])}, {row['ms']:.3g} ms"


def _counted(count: float) -> str:
    millions = count / 1e6
    return f"{millions:,.0f} M" if millions >= 100 else f"{millions:.3g} M"


def _to_plain(network: dict[str, Any], arm: str, widths: list[float]) -> list[str]:
    """Returns the time at each width, relative to a plain network of equal weights."""
    plain = {
        (row["arm"], row["width"]): row["ms"]
        for row in network["alternatives"]
        if row["equal"] == "weights"
    }
    times = {row["width"]: row["ms"] for row in network["files"][arm]["widths"]}
    return [
        f"{times[width] / plain[arm, width]:.2f}x" if (arm, width) in plain else ""
        for width in widths
    ]


def export_seconds() -> str:
    """Makes the table of how long an export takes."""
    result = load("export")["seconds"]
    (stock,) = (row for row in result["rows"] if row["what"] == "stock")
    rows = []
    for row in result["rows"]:
        label = "one stock conversion" if row is stock else f"export, {row['what']}"
        rows.append(
            [
                label,
                f"{row['widths']}",
                f"{row['seconds']:.1f} s",
                f"{row['seconds'] / stock['seconds']:.1f}x",
                f"{row['verification'] / row['seconds']:.0%}",
                f"{row['bytes'] / 1e6:.2f} MB",
            ]
        )
    head = [
        *("what runs", "widths", "time", "time / one stock conversion"),
        *("part of the time for verification", "size of the file"),
    ]
    return (
        f"{table(head, rows)}\n\n"
        f"{result['what']}. Each runs in a separate process. "
        f"{where(result['environment'])}"
    )


def chains() -> str:
    """Makes the table of inverted residuals, whole and cut."""
    result = load("chains")
    rows = [
        [
            row["chain"],
            f"{row['whole']:.0f} us",
            *(f"{row[form] / row['whole']:.2f}x" for form in ("joined", "as chosen")),
            f"{row['added']} of {row['blocks']}",
        ]
        for row in result["rows"]
    ]
    head = [
        *("inverted residual", "whole kernels"),
        *("cut, blocks joined / whole", "cut, as the exporter chooses / whole"),
        "blocks of the projection that are added",
    ]
    return (
        f"{table(head, rows)}\n\n"
        "Whole kernels: one kernel for each layer. Joined: the blocks that the "
        "projection reads are copied into one tensor. "
        f"{result['what']}, medians of {result['runs']} runs that take turns. "
        f"{where(result['environment'])}"
    )


def _speed(network: dict[str, Any], arm: str) -> list[str]:
    """Returns the row of a file in the table `speed`."""
    file = network["files"][arm]
    narrow, *_, wide = file["widths"]
    plain = [
        row["bytes"]
        for row in network["alternatives"]
        if (row["arm"], row["equal"]) == (arm, "weights")
    ]
    divisor = 1 if network["network"].startswith("LeNet") else 8
    return [
        network["network"],
        f"{32 if '32' in arm else divisor}",
        f"{file['bytes'] / sum(plain):.2f}x",
        f"{file['bytes'] / plain[-1]:.2f}x",
        f"{wide['executed_macs'] / network['plain']['macs']:.2f}x",
        *_to_plain(network, arm, [wide["width"], narrow["width"]]),
        f"{wide['ms'] / narrow['ms']:.1f}x at {narrow['width']:g}",
    ]


def speed() -> str:
    """Makes the table of what a file with 4 widths costs and saves."""
    result = load("export")
    rows = []
    for network in result["networks"]:
        for arm in (BALANCED, f"{BALANCED}, blocks of 32"):
            if arm in network["files"]:
                rows.append(_speed(network, arm))
    head = [
        *("network", "channels in a block", "size of a 4-width file / 4 plain files"),
        *("size of a 4-width file / largest plain file", "MACs at full width / before"),
        *("time at full width / plain", "time at the narrowest width / plain"),
        "time at full width / narrowest width",
    ]
    timed = load("train_step")
    step = {row["arm"]: row for row in timed["rows"]}
    many = step["one pass, 4 widths"]
    small = step["plain, 32 channels"]
    more = many["median_ms"] / small["median_ms"]
    less = many["median_ms"] / step["S-Net, 32 channels, 4 widths"]["median_ms"]
    return (
        f"{table(head, rows)}\n\n"
        'Files with `width_multiplier="balanced"`. Plain: plain networks of one width, '
        "with as many weights as are active at each width. Before: the network before "
        "conversion. MACs are those that the file executes. LiteRT on one thread. "
        f"{where(result['environment'])}\n\n"
        "The time of a training step with four widths, of an any-width network of 45 "
        "channels:\n\n"
        f"- {many['ratio_to_plain']:.2f}x that of a plain network of 45 channels\n"
        f"- {more:.2f}x that of a plain network of 32 channels, which has about as "
        "many "
        "weights that are not zero\n"
        f"- {less:.2f}x that of an S-Net of 32 channels\n\n"
        f"{where(timed['environment'])}"
    )


def in_short() -> str:
    """Compares one any-width network with plain networks for each width."""
    result = load("export")
    (network,) = (n for n in result["networks"] if n["network"].startswith("MobileNet"))
    arm = f"{BALANCED}, blocks of 32"
    file = network["files"][arm]
    plain = [
        row
        for row in network["alternatives"]
        if (row["arm"], row["equal"]) == (arm, "weights")
    ]
    narrow, *_, wide = file["widths"]
    step = {row["arm"]: row["median_ms"] for row in load("train_step")["rows"]}
    longer = step["one pass, 4 widths"] / step["plain, 32 channels"]
    ours = _reached(recommended_arm("fashion_mnist"))
    sizes = individual_sizes("fashion_mnist")
    ends = [(sizes["params", width], width) for width in (0.25, 1.0)]
    alone = [_reached(f"plain_{filters}_recommended")(1.0) for filters, _ in ends]
    rows = [
        [
            f"size of the files for {len(plain)} widths (MobileNetV2)",
            f"{sum(row['bytes'] for row in plain) / 1e6:.1f} MB",
            f"{file['bytes'] / 1e6:.1f} MB",
        ],
        [
            "time of an answer, narrowest to full width (MobileNetV2)",
            *(
                f"{rows[0]['ms']:.2g} to {rows[-1]['ms']:.2g} ms"
                for rows in (plain, [narrow, wide])
            ),
        ],
        [
            "accuracy, narrowest to full width (LeNet on Fashion-MNIST)",
            f"{alone[0]:.1%} to {alone[1]:.1%}",
            f"{ours(0.25):.1%} to {ours(1.0):.1%}",
        ],
        [
            "training",
            "one run for each network",
            f"one run; each step takes {longer:.1f}x as long as a step of the largest "
            "plain network",
        ],
    ]
    head = ["", "one plain network for each width", "one any-width network"]
    return (
        f"{table(head, rows)}\n\n"
        "Each plain network has as many weights as are active at its width. Time: "
        f"LiteRT on one thread, 224x224. {where(result['environment'])} How each was "
        "measured: [size and time](docs/measured_files.md#exported-files), "
        "[accuracy](docs/measured_accuracy.md#networks-trained-one-by-one), "
        "[training](docs/measured_training.md#training-many-widths-at-once)."
    )


def _reached(label: str) -> Callable[[float], float]:
    """Returns a function that gives the mean accuracy at a width on Fashion-MNIST.

    Args:
        label: Label of the finished runs. The mean is over their seeds.
    """
    kind = {"seeds": 10, "precision": "mixed_bfloat16"}
    runs = [
        *runs_of("improvements", "fashion_mnist", **kind),
        *runs_of("individual", "fashion_mnist", **kind),
    ]
    curves = [
        result["curves"][0]
        for run, result in finished_runs([r for r in runs if r.label == label], PAPER)
    ]

    def at(width: float) -> float:
        accuracies = [tables.accuracy_at(curve, width) for curve in curves]
        return sum(accuracies) / len(accuracies)

    return at


def benchmark() -> str:
    """Makes the table of two runs of `awn benchmark`."""
    result = load("benchmark")
    first, second = (run["rows"] for run in result["runs"])
    again = {row["width"]: row for row in second}
    gpu = {row["width"]: row for row in first if row["target"] == "gpu"}
    rows = [
        [
            f"{row['width']:g}",
            f"{row['accuracy']:.2%}",
            f"{row['median_ms']:.3g} ms",
            f"{row['p90_ms']:.3g} ms",
            f"{again[row['width']]['median_ms']:.3g} ms",
            f"{gpu[row['width']]['median_ms']:.3g} ms",
        ]
        for row in first
        if row["target"] == "cpu"
    ]
    head = [
        *("width", "accuracy", "CPU, median", "CPU, 90th percentile"),
        *("CPU, median of a second run", "GPU in software, median"),
    ]
    return (
        f"{table(head, rows)}\n\n{result['what']}. Rank correlation of width and "
        "median in the two runs: "
        f"{', '.join(f'{value:.3g}' for value in result['spearman'])}. After division "
        "by the full width's median of its run, the medians of the two runs differ by "
        f"at most {result['largest_difference']:.0%}. The outputs of the GPU differ "
        "from those of the CPU by at most "
        f"{result['gpu_error']:.0e}. One thread. "
        f"{where(result['environment'])}"
    )


def refinement() -> str:
    """Makes the table of an early answer and its refinement."""
    result = load("refinement")
    counts = sorted({network["runs"] for network in result["networks"]})
    runs = " or ".join(map(str, counts))
    rows = []
    for network in result["networks"]:
        narrow, wide = network["widths"]
        ms = network["ms"]
        rows.append(
            [
                network["network"],
                f"{narrow:g}, then {wide:g}",
                f"{ms['first']:.3g} ms",
                f"{ms['both']:.3g} ms",
                f"{ms['wide']:.3g} ms",
                f"{network['ratio']:.2f}x",
                f"{network['bytes'] / network['bytes_without']:.2f}x",
                f"{network['activation_bytes'] / 1e6:.2g} MB",
            ]
        )
    head = [
        *("network", "widths", "early answer after", "refined answer after"),
        *("wide width alone", "refined / wide alone"),
        *("file with / without refinement", "activations kept in memory"),
    ]
    return (
        f"{table(head, rows)}\n\n"
        "With refinement: the file has two more signatures. "
        f"{result['what']}, medians of {runs} runs "
        f"that take turns, one process. {where(result['environment'])}"
    )


def precision() -> str:
    """Makes the table of the accuracy of files at each precision."""
    result = load("precision")
    widths = sorted({row["width"] for row in result["rows"]})
    known = {(row["precision"], row["width"]): row for row in result["rows"]}
    rows = []
    for name in dict.fromkeys(row["precision"] for row in result["rows"]):
        first = known[name, widths[0]]
        rows.append(
            [
                name,
                f"{first['file_bytes'] / 1e3:.0f} kB",
                *(f"{known[name, width]['accuracy']:.2%}" for width in widths),
            ]
        )
    head = [
        *("precision", "size"),
        *(f"accuracy at width {width:g}" for width in widths),
    ]
    return (
        f"{table(head, rows)}\n\n{result['what']}. One file for all widths. With "
        f"quantization-aware training ({result['steps']} steps for each width): one "
        "file for each width, and the sum of their sizes. "
        f"{where(result['environment'])}"
    )


def families() -> str:
    """Makes the table of networks of `keras.applications` that convert."""
    result = load("families")
    narrow, *_ = result["widths"]
    rows, refused = [], []
    for row in result["rows"]:
        if not row["converts"]:
            refused.append(row["family"])
            continue
        small, full = (f"{macs / 1e6:,.0f} M" for macs in row["macs"])
        rows.append(
            [
                row["family"],
                f"{row['tri_layers']}",
                f"{row['networks']}",
                *(small, full),
                f"{max(row['differences']):.0e}",
                f"{row['convert_seconds']:.1f} s",
            ]
        )
    head = [
        *("family", "Tri layers", "networks", f"MACs at {narrow}"),
        *("MACs at full width", "difference of `slim`", "time to convert"),
    ]
    return (
        f"{table(head, rows)}\n\n"
        f"{''.join(f'{name} is refused. ' for name in refused)}"
        "224x224 images, 299x299 for InceptionV3 and Xception, `divisor=8`. Difference "
        "of `slim`: the largest difference of a logit between `slim(model, width)` and "
        "the model with random weights, relative to the largest logit, at widths "
        f"{', '.join(map(str, result['widths']))}. {where(result['environment'])}"
    )


def zoo() -> str:
    """Makes the table of all architectures of the zoo."""
    result = load("zoo")
    rows, refused = [], []
    for row in result["rows"]:
        if not row["converts"]:
            refused.append(row["name"])
            continue
        small, full = (f"{macs / 1e6:.3g} M" for macs in row["macs"])
        rows.append(
            [
                row["name"],
                f"{row['tri_layers']}",
                f"{row['networks']}",
                *(small, full),
                *(f"{row[key]:.0e}" for key in ("slim", "gradients")),
                *(
                    "-" if row[key] is None else shown.format(row[key])
                    for key, shown in (("tflite", "{:.0e}"), ("int8", "{:.1%}"))
                ),
            ]
        )
    head = [
        *("architecture", "Tri layers", "networks"),
        *(f"MACs at {result['min_width']}", "MACs at full width"),
        *("difference of `slim`", "difference of gradients"),
        *("difference of the TFLite file", "error of the int8 file"),
    ]
    return (
        f"{table(head, rows)}\n\n"
        f"Refused: {', '.join(refused)}.\n\n"
        "Networks: the number of different networks, one for each distinct width. The "
        "networks have random weights, biases and statistics. Differences are the "
        "largest ones, relative to the largest number of the output or gradient:\n\n"
        "- `slim`: between `slim(model, width)` and the model, at five widths that "
        "include the first and the last, or at all widths if there are fewer.\n"
        "- Gradients: between one pass over three or more widths, and one pass for "
        "each "
        "width.\n"
        "- TFLite file: between the file and `slim`, at the narrowest and the full "
        "width.\n"
        "- int8 file: root mean square of the error at these two widths, relative to "
        "the standard deviation of the output, with ranges from 32 samples. '-': a "
        "file "
        "cannot hold the network, because a layer is 0 for all samples.\n\n"
        f"{where(result['environment'])}"
    )


#: Architectures in the short table of the zoo.
KNOWN = (
    *("ResNeXt", "MobileNetV4-conv", "EfficientNet", "ConvNeXt", "ViT-Tiny"),
    *("MobileViT-XXS", "U-Net", "SSD-Lite", "MLPerf Tiny: DS-CNN", "CRNN"),
)


def zoo_in_short() -> str:
    """Makes the short table of the zoo, with the number of all architectures."""
    result = load("zoo")
    rows = {row["name"]: row for row in result["rows"]}
    shown = [
        [
            name,
            f"{rows[name]['tri_layers']}",
            f"{rows[name]['networks']}",
            *(f"{macs / 1e6:.2g} M" for macs in rows[name]["macs"]),
            f"{rows[name]['slim']:.0e}",
            f"{rows[name]['tflite']:.0e}",
            f"{rows[name]['int8']:.1%}",
        ]
        for name in KNOWN
    ]
    head = [
        *("small model of", "Tri layers", "networks"),
        *(f"MACs at {result['min_width']}", "MACs at full width"),
        *("difference of `slim`", "difference of the TFLite file"),
        "error of the int8 file",
    ]
    converted = sum(row["converts"] for row in result["rows"])
    return (
        f"{table(head, shown)}\n\n"
        f"{converted} of {len(rows)} architectures convert. "
        f"{where(result['environment'])}"
    )


def operations() -> str:
    """Makes the lists of layers and functions that convert or are refused."""
    result = load("operations")
    parts = []
    for kind, title in (("layer", "Layers"), ("operation", "Functions")):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        called = [row for row in rows if row["before"]["verdict"] != "not called"]
        counts = (
            sum(row[place]["verdict"] == "passes" for row in rows)
            for place in ("before", "after")
        )
        parts.append(
            "### {}\n\n{} pass before the readout, and {} after the readout.\n".format(
                title, *counts
            )
        )
        becoming = [
            [f"`{row['name']}`", f"`{', '.join(row['before']['becomes'])}`"]
            for row in called
            if row["before"].get("becomes")
        ]
        if becoming:
            parts.append(f"{table(['layer', 'becomes'], becoming, '---')}\n")
        staying = _names(
            row
            for row in called
            if row["before"]["verdict"] == "passes" and not row["before"]["becomes"]
        )
        parts.append(f"These stay as they are: {staying}.\n")
        refused = [
            [f"`{row['name']}`", _reason(row["before"]["reason"])]
            for row in called
            if row["before"]["verdict"] == "refused"
        ]
        head = ["refused before the readout", "why"]
        parts.append(f"{table(head, refused, '---')}\n")
        refused = [
            [f"`{row['name']}`", _reason(row["after"]["reason"])]
            for row in rows
            if row["after"]["verdict"] == "refused"
        ]
        head = ["refused after the readout", "why"]
        parts.append(f"{table(head, refused, '---')}\n")
        others = _names(row for row in rows if row not in called)
        parts.append(
            "These were not tried, because they do not give one output for each "
            "sample, "
            f"or because Keras cannot call them while a model is built: {others}.\n"
        )
    parts.append(where(result["environment"]))
    return "\n".join(parts)


def _names(rows: Iterable[dict[str, Any]]) -> str:
    return ", ".join(f"`{row['name']}`" for row in rows)


def _reason(message: str) -> str:
    """Returns the first sentence of a refusal, without names of model and layer."""
    finding = message.split(" cannot become any-width: - ", 1)[-1]
    if finding.startswith("No width rule"):
        return "has no width rule"
    reason = finding.split("): ", 1)[-1].split(". ", 1)[0].rstrip(".")
    return re.sub(r" of an input of shape \(.*?\)", "", reason)


def accuracy() -> str:
    """Makes the table of accuracy with attention, normalization or recurrence."""
    runs = load("accuracy")["runs"]
    cases: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        arms = cases.setdefault((run["network"], run["data"]), {})
        arms.setdefault(run["arm"], []).append(run)
    widths = cases[next(iter(cases))]["any_width"][0]["widths"]
    rows = []
    for (network, data), arms in sorted(cases.items()):
        plain, ours = arms["plain"], arms["any_width"]
        samples = "{:,} / {:,}".format(*plain[0]["samples"])
        accuracies = [run["accuracy"] for run in ours]
        rows.append(
            [
                f"{network}, {data}",
                samples,
                f"{plain[0]['epochs']}",
                f"{len(plain)}",
                f"{tables.percent([run['accuracy'][0] for run in plain])} %",
                *(
                    f"{tables.percent(list(each))} %"
                    for each in zip(*accuracies, strict=True)
                ),
                f"{ours[0]['macs'][0] / ours[0]['macs'][-1]:.0%}",
            ]
        )
    head = [
        *("network, data", "samples to train / test", "epochs", "seeds"),
        "accuracy of the plain network",
        *(f"accuracy of any-width at {width:g}" for width in widths),
        f"MACs at {widths[0]:g} / MACs at full width",
    ]
    return (
        f"{table(head, rows)}\n\n"
        "Accuracy after the last epoch (mean ± standard deviation where there are "
        "several seeds). Plain and any-width networks have the same optimizer and "
        "number of epochs (`python -m benchmarks.accuracy`). "
        f"{where(runs[-1]['environment'])}"
    )


def waste() -> str:
    """Makes the table of MACs and weights that no output depends on."""
    result = load("waste")
    by_case: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        case = by_case.setdefault((row["network"], row["divisor"]), {})
        case[row["staircase"]] = row
    rows = []
    for (network, divisor), case in by_case.items():
        cells = [network, f"{divisor}"]
        for staircase in ("paper", "nested"):
            row = case[staircase]
            answers = "" if row["answers"] is None else f", {row['answers']:,}"
            cells += [
                f"{row['unread_macs']:.1%} ({row['unread_parameters']:.1%})",
                f"{row['networks']:,}{answers}",
                " ".join(f"{part:.2f}" for part in row["relative_macs"]),
            ]
        rows.append(cells)
    widths = ", ".join(f"{width:g}" for width in result["widths"])
    head = ["network", "divisor"]
    for name in ("paper", "nested"):
        head += [
            f"`{name}`: MACs (weights) that nothing reads",
            f"`{name}`: networks, different answers",
            f"`{name}`: MACs / plain",
        ]
    return (
        f"{table(head, rows)}\n\n"
        "`paper` and `nested` are values of `staircase`. Nothing reads: no output "
        "depends on them at full width. Networks: the number of widths at which a "
        "channel appears. Different answers: the number of these networks whose "
        "outputs "
        f"differ. MACs / plain: slim networks at widths {widths}, relative to the "
        "plain "
        f"network. {result['what']}. "
        f"{where(result['environment'])}"
    )


def staircases() -> str:
    """Makes the table of accuracy with the paper's staircase and a nested one."""
    result = load("grades")
    by_arm: dict[tuple[str, str], list[list[float]]] = {}
    macs = {
        (row["network"], row["arm"]): row["relative_macs"] for row in result["rows"]
    }
    for row in result["rows"]:
        by_arm.setdefault((row["network"], row["arm"]), []).append(row["result"])
    titles = {
        "autoencoder": "autoencoder, squared error",
        "u_net": "U-Net, intersection over union",
        "lenet": "LeNet-3C1L, accuracy",
        "mobilenet": "MobileNetV2, alpha 0.35, accuracy",
    }
    arms = {
        "plain": "plain",
        "paper": "`paper`",
        "nested": "`nested`",
        "stages": "`nested`, code of at least 4 channels",
    }
    rows = []
    for (network, arm), results in by_arm.items():
        means = [sum(values) / len(values) for values in zip(*results, strict=True)]
        cells = [
            f"{mean:.3f} ({part:.2f})"
            for mean, part in zip(means, macs[network, arm], strict=True)
        ]
        blank = [""] * (len(result["widths"]) - len(cells))
        rows.append([titles[network], arms[arm], f"{len(results)}", *blank, *cells])
    head = ["network, measure", "`staircase`", "seeds"]
    head += [f"at width {width:g}" for width in result["widths"]]
    return (
        f"{table(head, rows)}\n\n"
        f"{result['what']}. Means over the seeds. In brackets: multiply-accumulates of "
        "the slim network / those of the plain network. "
        f"{where(result['environment'])}"
    )


def warm_start() -> str:
    """Makes the table of epochs to an AUC, with and without trained weights."""
    result = load("warm_start")
    names = {
        "scratch": "from scratch",
        "keep": 'trained weights, `order="keep"`',
        "importance": 'trained weights, `order="importance"`',
    }
    targets = list(result["rows"][0]["epochs_to"])
    rows = []
    for row in result["rows"]:
        counts = [
            ", ".join("-" if n is None else str(n) for n in row["epochs_to"][target])
            for target in targets
        ]
        auc = row["auc"]
        ends = [f"{100 * auc[epoch]:.2f} %" for epoch in (1, len(auc) - 1)]
        rows.append([names[row["arm"]], *counts, *ends])
    head = [
        "start",
        *(f"epochs to an AUC of {100 * float(target):.0f} %" for target in targets),
        *("AUC after 1 epoch", f"AUC after {len(result['rows'][0]['auc']) - 1} epochs"),
    ]
    accuracies = sorted({run["plain_accuracy"] for run in result["runs"]})
    plain = ", ".join(f"{100 * accuracy:.2f} %" for accuracy in accuracies)
    return (
        f"{table(head, rows)}\n\n"
        f"{result['what']}. Epochs: one number for each of {len(result['seeds'])} "
        "seeds, '-' if the AUC is not reached. AUC: the mean over the seeds. The plain "
        f"network was trained for {result['plain_epochs']} epochs before (accuracy "
        f"{plain}). "
        f"{where(result['environment'])}"
    )


def scaling() -> str:
    """Makes the table of estimated step times on many devices."""
    if not (ROOT / "results" / "scaling.json").exists():
        return "No result yet. Run `python -m benchmarks.scaling --measure`."
    result = load("scaling")
    measured, links = result["measured"], result["links"]
    rows = []
    for here, fast in zip(result["here"], result["accelerated"], strict=True):
        slowest = here["links"]["10 GbE"]["efficiency"]
        cells = [
            f"{link['step_ms']:.3g} ms ({link['efficiency']:.0%})"
            for link in fast["links"].values()
        ]
        rows.append(
            [str(here["devices"]), f"{here['bytes_sent'] / 1e6:.1f} MB", *cells]
        )
        rows[-1].append(f"{slowest:.1%}")
    head = [
        *("devices", "data that each device sends", *links),
        "efficiency of the measured machine, 10 GbE",
    ]
    speeds = ", ".join(
        f"{name} {link['gigabytes_per_second']:g} GB/s ({link['source']})"
        for name, link in links.items()
    )
    return (
        f"{table(head, rows)}\n\n"
        "A projection, not a measurement. The cells of a link have the time of a step, "
        "and in brackets the part of this time in which the device computes. "
        f"{result['what']}, {measured['batch_size']} images on each device, "
        f"{result['gradient_bytes'] / 1e6:.1f} MB of gradients. The gradients are "
        "summed in a ring after the step, without overlap and latency. One step took "
        f"{measured['step_ms']:,.0f} ms on one device (for the last column; "
        f"{where(measured['environment'])[:-1]}). The other columns assume an "
        f"accelerator that is {result['accelerator']:g} times faster. Data that a "
        f"device sends in a second, in one direction: {speeds}."
    )


#: Titles of the arms of benchmarks/photos.py in tables.
_STARTS = {
    "plain": "plain",
    "plain_scratch": "plain, from scratch",
    "s_net": "S-Net",
    "us_net": "US-Net, 4 widths calibrated",
    "hard": 'all widths from 0.25, triangle at once, `order="importance"`',
    "scratch": "all widths from 0.25, from scratch",
    "rotated_wide_hard": "rotated, from 0.5, triangle at once",
    "rotated_wide_fade_0.5": "rotated, from 0.5, fade over 0.5 of the steps",
    "rotated_wide_fade_0.9": "rotated, from 0.5, fade over 0.9 of the steps",
    "rotated_wide_distilled": "rotated, from 0.5, distilled from the full width",
    "wide_keep": 'from 0.5, `order="keep"`',
    "wide_importance": 'from 0.5, `order="importance"`',
    "wide_reading": 'from 0.5, `order="reading"`',
    "rotated_wide": "rotated, from 0.5",
    "rotated_grid": "rotated, from 0.25",
    "rotated_wide_early": "rotated, from 0.5, first stages whole",
    "rotated_two": "rotated, two widths, 0.5 and 1",
    "rotated_three": "rotated, three widths from 0.71",
    "default": "rotated, from 0.7: `awn train`",
    "rotated_wide_all": "rotated, from 0.5, all widths in each step",
    "rotated_wide_power": "rotated, from 0.5, losses weighed by width",
    "grown": "grown by sqrt(2)",
    "rotated_wide_0.04": "rotated, from 0.5, rate 0.04",
    "rotated_wide_0.01": "rotated, from 0.5, rate 0.01",
    "rotated_wide_16": "rotated, from 0.5, batches of 16",
    "plain_12": "plain, 12 epochs",
    "rotated_wide_12": "rotated, from 0.5, 12 epochs",
    "rotated_wide_0.04_12": "rotated, from 0.5, rate 0.04, 12 epochs",
    "rotated_two_12": "rotated, two widths, 0.5 and 1, 12 epochs",
    "default_12": "rotated, from 0.7, 12 epochs",
    "grown_12": "grown by sqrt(2), 12 epochs",
    "plain_shift_0": "plain, not shifted",
    "plain_shift_4": "plain, shifted by 4 pixels at most",
    "rotated_wide_shift_0": "rotated, from 0.5, not shifted",
    "rotated_wide_shift_4": "rotated, from 0.5, shifted by 4 pixels at most",
    "plain_shift_4_12": "plain, shifted by 4 pixels at most, 12 epochs",
    "rotated_wide_shift_4_12": "rotated, from 0.5, shifted by 4 pixels, 12 epochs",
    "plain_smoothed": "plain, labels smoothed by 0.1",
    "rotated_wide_smoothed": "rotated, from 0.5, labels smoothed by 0.1",
}


_PHOTOS = {
    "cifar10": "10 classes of 500 photos (from CIFAR-10), 2,000 test photos",
    "elpv": "2,624 photos of solar cells, defective or not, a fifth for the test",
}


def photos(name: str) -> str:
    """Makes the table of accuracy on photos, with a row for each arm."""
    records = json.loads((ROOT / "results" / "photos.json").read_text())
    records = [record for record in records if record["photos"] == name]
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_arm.setdefault(record["arm"], []).append(record)
    (whole, *_) = by_arm["plain"]
    rows = []
    for arm, runs in by_arm.items():
        cells = []
        for place in (0, -1):
            right = sum(run["accuracy"][place] for run in runs) / len(runs)
            part = runs[0]["macs"][place] / whole["macs"][-1]
            cells.append(f"{100 * right:.1f} % ({part:.2f})")
        if len(runs[0]["widths"]) == 1:
            cells[0] = ""
        rows.append([_STARTS[arm], str(len(runs)), *cells])
    head = ["start", "seeds", *(f"{end} (MACs)" for end in ENDS)]
    machines = sorted({tables.machine(record["environment"]) for record in records})
    return (
        f"{table(head, rows)}\n\n"
        f"EfficientNet-Lite0 from ImageNet weights, 96x96, {_PHOTOS[name]}. Means over "
        "the seeds. Unless the row says otherwise, 4 epochs, and the weights that the "
        "triangle removes fade out over 0.7 of the steps. In brackets: "
        "multiply-accumulates of the slim network / those of the plain network. "
        "`python -m benchmarks.photos`. "
        f"{' '.join(machines)}"
    )


_NORMALIZATIONS = {
    "batch": "`BatchNormalization`",
    "layer": "`LayerNormalization`",
    "rms": "`RMSNormalization`",
}


def normalization() -> str:
    """Makes the table of accuracy with each normalization."""
    result = load("normalization")
    means: dict[tuple[str, str, str], float] = {}
    for name, arm, number in itertools.product(
        _NORMALIZATIONS,
        ("plain", "narrow", "any_width", "any_width_long"),
        ("accuracy", "narrowest", "auc"),
    ):
        values = [
            run[number]
            for run in result["runs"]
            if (run["normalization"], run["arm"]) == (name, arm) and number in run
        ]
        if values:
            means[name, arm, number] = sum(values) / len(values)
    shown = (
        ("plain", "accuracy"),
        ("narrow", "accuracy"),
        *itertools.product(
            ("any_width", "any_width_long"), ("narrowest", "accuracy", "auc")
        ),
    )
    rows = [
        [title, *(f"{100 * means[name, arm, number]:.1f} %" for arm, number in shown)]
        for name, title in _NORMALIZATIONS.items()
    ]
    head = [
        "normalization",
        *("plain network", "plain network, 8 channels"),
        *("any-width: narrowest width", "any-width: full width", "any-width: AUC"),
        "any-width, 60 epochs: narrowest width",
        *("any-width, 60 epochs: full width", "any-width, 60 epochs: AUC"),
    ]
    seeds = len({run["seed"] for run in result["runs"]})
    return (
        f"{table(head, rows)}\n\n"
        "Accuracy on 360 test images. Three blocks, 20 epochs unless the column says "
        f"otherwise, means over {seeds} seeds (`python -m benchmarks.normalization`). "
        f"{where(result['environment'])}"
    )


#: Parts of `benchmarks.reliability`, and what each part counts.
_TRIED = {
    "kills": "commands killed at a random moment",
    "full_disks": "commands on a full or nearly full disk",
    "files": "damaged files",
    "arguments": "bad arguments",
    "graphs": "random graphs: `slim` = model = file",
    "switches": "changes of the width, from 8 threads",
}


def reliability() -> str:
    """Makes the table of tries and failures."""
    result = load("reliability")
    rows = [
        [title, f"{part['count']:,}", str(len(part["failures"]))]
        for name, title in _TRIED.items()
        if (part := result["parts"][name])["count"]
    ]
    return (
        f"{table(['what was tried', 'tries', 'failures'], rows)}\n\n"
        f"`python -m benchmarks.reliability`. {where(result['environment'])}"
    )


def walk() -> str:
    """Makes the table of how long the commands of docs/photos.md take."""
    result = load("walk")
    rows = [[row["step"], _duration(row["seconds"])] for row in result["steps"]]
    rows.append(["total", _duration(sum(row["seconds"] for row in result["steps"]))])
    return (
        f"{table(['step', 'time'], rows)}\n\n"
        "In a fresh virtual environment. Packages came from pip's cache or a near "
        f"mirror (`python -m benchmarks.walk`). {where(result['environment'])}"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds + 0.5) // 60} min {int(seconds + 0.5) % 60} s"


#: The blocks of each page, and the functions that make them.
BLOCKS = {
    ROOT / "README.md": {"in_short": in_short},
    ROOT / "docs" / "paper.md": {"table2": table2, "recommended": recommended},
    ROOT / "docs" / "distributed.md": {"scaling": scaling},
    ROOT / "docs" / "converting.md": {
        "accuracy": accuracy,
        "families": families,
        "normalization": normalization,
        "zoo": zoo,
        "zoo_in_short": zoo_in_short,
    },
    ROOT / "docs" / "operations.md": {"operations": operations},
    ROOT / "docs" / "photos.md": {"walk": walk},
    ROOT / "docs" / "measured_training.md": {
        "train_step": train_step,
        "blocks": blocks,
        "train_step_mixed_bfloat16": lambda: train_step("train_step_mixed_bfloat16"),
        "backends": backends,
    },
    ROOT / "docs" / "measured_accuracy.md": {
        "fashion_mnist": fashion_mnist,
        "equal_macs": lambda: equal_macs("fashion_mnist"),
        "table2_cifar10": lambda: table2("cifar10", precision="mixed_bfloat16"),
        "equal_macs_cifar10": lambda: equal_macs("cifar10", precision="mixed_bfloat16"),
        "table2_cifar100": lambda: table2(
            "cifar100", scale=0.1, precision="mixed_bfloat16"
        ),
        "wide_end": wide_end,
        "conflict": conflict,
        "individual": lambda: individual("fashion_mnist"),
        "individual_in_five_epochs": lambda: individual("fashion_mnist", 0.25),
        "individual_cifar10": lambda: individual("cifar10", 0.05),
        "waste": waste,
        "staircases": staircases,
    },
    ROOT / "docs" / "measured_recipes.md": {
        "improvements": lambda: improvements("fashion_mnist"),
        "improvements_cifar10": lambda: improvements("cifar10"),
        "changes_in_five_epochs": changes_in_five_epochs,
        "widths_in_a_step": widths_in_a_step,
        "full_width_only": full_width_only,
        "warm_start": warm_start,
        "photos": lambda: photos("cifar10"),
        "photos_elpv": lambda: photos("elpv"),
    },
    ROOT / "docs" / "measured_files.md": {
        "speed": speed,
        "export": export,
        "export_seconds": export_seconds,
        "chains": chains,
        "refinement": refinement,
        "precision": precision,
        "benchmark": benchmark,
    },
    ROOT / "docs" / "measured_reliability.md": {
        "reliability": reliability,
    },
}


def main() -> None:
    """Writes or checks the pages."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for page, blocks in BLOCKS.items():
        old = new = page.read_text()
        for name, make in blocks.items():
            begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
            if begin not in new or end not in new:
                sys.exit(f"{page.name} has no block {name}")
            before, _, rest = new.partition(begin)
            after = rest.partition(end)[2]
            new = f"{before}{begin}{make()}\n{end}{after}"
        if not args.check:
            page.write_text(new)
        elif new != old:
            stale(page)
    if not args.check:
        write_report(PAPER)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "paper"
        shutil.copytree(PAPER, copy, ignore=shutil.ignore_patterns("*.png", "*.md"))
        write_report(copy)
        if (copy / "README.md").read_text() != (PAPER / "README.md").read_text():
            stale(PAPER / "README.md")


def stale(page: Path) -> None:
    """Ends the program because a page is not up to date."""
    sys.exit(
        f"{page.relative_to(ROOT)} is not what `python -m benchmarks.update_readme` "
        "writes."
    )


if __name__ == "__main__":
    main()
