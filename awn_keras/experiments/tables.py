"""Makes the paper's tables from finished runs, beside the paper's numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from awn_keras.experiments.executed import Finished, with_executed_macs
from awn_keras.experiments.paper import (
    FIGURE_4_WIDTHS,
    FIGURE_6,
    NAMES,
    NESTED,
    TABLE_1,
    TABLE_1_WIDTHS,
    TABLE_2,
    individual_sizes,
    recommended_arm,
)
from awn_keras.runs.presets import paper_recipe
from awn_keras.runs.recipe import Recipe
from awn_keras.widths import name_at_width

#: Evenly spaced widths. The mean accuracy at these widths does not depend on the number
#: of widths that a network has.
_STAIRCASE = tuple(round(0.25 + 0.025 * i, 3) for i in range(31))
#: Widths whose MACs are budgets: the four widths of an S-Net, and the middles between
#: them.
_BUDGETS = tuple(0.25 + 0.125 * i for i in range(7))
#: Heads of the columns with the accuracy at the narrowest and at full width.
ENDS = ("accuracy at narrowest", "accuracy at full width")
#: Fields of a recipe that a user chooses for a whole table. They do not count as a
#: change of the paper's recipe.
_ANY_RUN = ("scale", "precision", "seed")


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        head: Heads of the columns.
        rows: Rows of cells, one cell for each head.
        notes: Lines below the table.
    """

    head: list[str]
    rows: list[list[str]]
    notes: list[str]

    def __str__(self) -> str:
        """The table for a terminal, the first column aligned left, others right."""
        lines = [self.head, *self.rows]
        sizes = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = []
        for line in lines:
            first, *others = (
                cell.rjust(size) if index else cell.ljust(size)
                for index, (cell, size) in enumerate(zip(line, sizes, strict=True))
            )
            text.append("  ".join([first, *others]).rstrip())
        return "\n".join([text[0], "-" * len(text[0]), *text[1:], "", *self.notes])

    def markdown(self) -> str:
        """The table in Markdown."""
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in [self.head, rule, *self.rows]]
        return "\n".join([*lines, "", *self.notes])


def percent(values: Sequence[float]) -> str:
    """Formats the mean of fractions in percent; of several, with standard deviation."""
    if not values:
        return "-"
    text = f"{100 * statistics.fmean(values):.2f}"
    if len(values) > 1:
        text += f" ± {100 * statistics.stdev(values):.2f}"
    return text


def accuracy_at(curve: dict[str, Any], width: float) -> float:
    """Returns the accuracy of the network that runs at a width.

    Args:
        curve: A curve of a result.
        width: Width in [0, 1]. Below the range of the narrowest network, the function
            takes the narrowest network.

    Returns:
        The accuracy.
    """
    return curve["accuracy"][index_at(curve, width)]


def index_at(curve: dict[str, Any], width: float) -> int:
    """Finds the network that runs at a width.

    Args:
        curve: A curve of a result. Each network runs in a range of widths. `starts`
            holds the smallest width of each range, `widths` a width within each range.
        width: Width in [0, 1].

    Returns:
        Index of the network in the curve.
    """
    return max(int(np.searchsorted(curve["starts"], width, side="right")) - 1, 0)


def curve_of(result: dict[str, Any], calibrated: int = 0) -> dict[str, Any] | None:
    """The curve of a result for a number of calibrated widths, or `None`."""
    curves = [c for c in result["curves"] if c["calibrated"] == calibrated]
    return curves[0] if curves else None


def machine(environment: dict[str, Any]) -> str:
    """Describes the machine and the software of a run.

    Args:
        environment: The field `environment` of the run's result.

    Returns:
        Processor, accelerators and versions, in a line.
    """
    versions = environment["packages"]
    backend = environment.get("backend", "tensorflow")  # absent in old results
    name = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}[backend]
    kinds = sorted(set(environment.get("accelerators", ())))
    packages = [f"{name} {versions[backend]}", f"Keras {versions['keras']}"]
    return f"{', '.join([environment['processor'], *kinds, *packages])}."


def _notes(finished: Sequence[Finished]) -> list[str]:
    """Notes on seeds, epochs, machine, precision and a reduced training."""
    if not finished:
        return ["No run is finished."]
    run, _ = finished[0]
    seeds = sorted({run.recipe.seed for run, _ in finished})
    epochs = sorted({run.recipe.epochs_run for run, _ in finished})
    machines = sorted({machine(result["environment"]) for _, result in finished})
    notes = [
        f"{run.recipe.dataset}, {run.recipe.architecture}. Percent of the test set "
        f"after the last of {', '.join(map(str, epochs))} epochs. Seeds "
        f"{', '.join(map(str, seeds))} (mean ± standard deviation where several are "
        "finished).",
        *machines,
    ]
    if run.recipe.precision != "float32":
        notes.insert(
            0,
            f"Training steps in {run.recipe.precision}: convolutions use 16 bits. "
            "Weights, batch statistics, losses and the results here use 32 bits.",
        )
    if any(result["reduced"] for _, result in finished):
        notes.insert(0, "REDUCED: fewer epochs than in the paper.")
    return notes


def _by_label(finished: Sequence[Finished]) -> dict[str, list[dict[str, Any]]]:
    by_label: dict[str, list[dict[str, Any]]] = {}
    for run, result in finished:
        by_label.setdefault(run.label, []).append(result)
    return by_label


def table_1(finished: Sequence[Finished]) -> Table:
    """Makes the table of the accuracy at four widths."""
    rows = []
    for label, results in _by_label(finished).items():
        curves = [curve_of(result) for result in results]
        ours = [
            percent([accuracy_at(c, width) for c in curves if c])
            for width in TABLE_1_WIDTHS
        ]
        rows.append([f"{NAMES[label]}, here", str(len(results)), *ours])
        if known := [result for result in results if result["best_epoch"]]:
            best = [_logs_of_best_epoch(result) for result in known]
            names = [name_at_width("val_accuracy", width) for width in TABLE_1_WIDTHS]
            ours = [
                percent([log[name] for log in best if name in log]) for name in names
            ]
            rows.append([f"{NAMES[label]}, here, best epoch", str(len(best)), *ours])
        if label in TABLE_1 and finished[0][0].recipe.dataset == "mnist":
            paper = [percent([value]) for value in TABLE_1[label]]
            rows.append([f"{NAMES[label]}, paper", "", *paper])
    head = ["system", "seeds", *(f"width {width:g}" for width in TABLE_1_WIDTHS)]
    note = (
        "Best epoch: the epoch with the highest AUC on the test set, as the code of "
        "the paper's authors chooses it. Only AWNs are evaluated after each epoch. "
        "Their logs hold the accuracy at the narrowest and at full width."
    )
    return Table(head, rows, [*_notes(finished), note])


def _logs_of_best_epoch(result: dict[str, Any]) -> dict[str, Any]:
    """The logs of the epoch with the highest AUC."""
    epoch = result["best_epoch"]["epoch"]
    return next(logs for logs in result["history"] if logs["epoch"] == epoch)


def _systems(
    finished: Sequence[Finished],
) -> list[tuple[str, int, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Systems of table 2: label, number of calibrated widths, results and curves."""
    by_label = _by_label(finished)
    rows = []
    # All entries of `TABLE_2` have the same systems in the same order.
    systems = list(TABLE_2["lenet_3c1l", "fashion_mnist"])
    # The paper has no NestedNet.
    systems += [(label, 0) for label in NESTED if label in by_label]
    for label, calibrated in systems:
        results = by_label.get(label, [])
        curves = [curve_of(result, calibrated) for result in results]
        rows.append((label, calibrated, results, [c for c in curves if c]))
    return rows


def _name(label: str, calibrated: int) -> str:
    return f"US-Net ({calibrated}w)" if calibrated else NAMES[label]


def table_2(finished: Sequence[Finished]) -> Table:
    """Makes the table of the AUC of all systems."""
    rows = []
    recipe = finished[0][0].recipe if finished else None
    key = (recipe.architecture, recipe.dataset) if recipe else ("", "")
    paper = TABLE_2.get(key, {})
    for label, calibrated, results, curves in _systems(finished):
        reported = paper.get((label, calibrated))
        ends = ([accuracy_at(curve, width) for curve in curves] for width in (0.0, 1.0))
        rows.append(
            [
                _name(label, calibrated),
                str(len(curves)) if curves else "-",
                percent([curve["auc"] for curve in curves]),
                best_epoch(results),
                percent([reported] if reported else []),
                *map(percent, ends),
                _millions(curves[0]["macs"][-1]) if curves else "-",
            ]
        )
    head = [
        *("system", "seeds", "AUC", "AUC of the best epoch", "AUC in the paper"),
        *(*ENDS, "MACs at full width"),
    ]
    return Table(head, rows, [*_notes(finished), BEST_EPOCH])


def best_epoch(results: Sequence[dict[str, Any]]) -> str:
    """Formats the highest AUC on the test set after any epoch.

    Runs that were not evaluated after each epoch do not count.
    """
    known = [result for result in results if result["best_epoch"]]
    # Epochs are evaluated in the precision of the training. With 16 bits, the last
    # epoch may be best in 32 bits, which is its reported AUC.
    return percent([max(r["best_epoch"]["auc"], r["auc"]) for r in known])


#: Note below a table with the column "AUC of the best epoch".
BEST_EPOCH = (
    "Best epoch: the highest AUC on the test set after any epoch, as the code of the "
    "paper's authors reports it. It is evaluated in the precision of the training, and "
    "after the last epoch also in 32 bits. Only systems that need one pass for all "
    "widths are evaluated after each epoch."
)


def _millions(macs: int) -> str:
    return f"{macs / 1e6:.2f} M"


def _within(curve: dict[str, Any], budget: int) -> float | None:
    """Accuracy of the widest network with at most `budget` executed MACs, or `None`."""
    fit = np.flatnonzero(np.asarray(curve["executed_macs"]) <= budget)
    return curve["accuracy"][fit[-1]] if len(fit) else None


def at_equal_macs(finished: Sequence[Finished]) -> Table:
    """Makes the table of the accuracy within budgets of executed MACs.

    For each system and budget, it shows the accuracy of the widest network within the
    budget. The note of the table names the budgets.
    """
    systems = _systems(with_executed_macs(finished))
    curves = {label: measured[0] for label, _, _, measured in systems if measured}
    budgets = {curve["executed_macs"][-1] for curve in curves.values()}
    budgets = {max(budgets)} if budgets else set()
    if plain := curves.get("s_net") or curves.get("us_net"):
        budgets |= {plain["macs"][index_at(plain, width)] for width in _BUDGETS}
    rows = []
    for label, calibrated, _, measured in systems:
        cells = []
        for budget in sorted(budgets):
            right = [_within(curve, budget) for curve in measured]
            cells.append(
                percent([accuracy for accuracy in right if accuracy is not None])
            )
        count = str(len(measured)) if measured else "-"
        rows.append([_name(label, calibrated), count, *cells])
    head = ["system", "seeds"]
    head += [f"at most {_millions(budget)} MACs" for budget in sorted(budgets)]
    note = (
        "Accuracy of the widest network within each budget. The budgets are the MACs "
        "of the network that S-Net and US-Net train, at widths 0.25, 0.375, 0.5 and so "
        "on to 1, and the MACs of the largest network of all. An AWN has sqrt(2) times "
        "the channels. Its MACs are those that an exported file executes. The file "
        "skips zeros of the triangle."
    )
    return Table(head, rows, [*_notes(finished), note])


def figure_4(finished: Sequence[Finished]) -> Table:
    """Makes the table of the AUC for each number of widths in a training step."""
    by_label = _by_label(finished)
    rows = []
    for count in FIGURE_4_WIDTHS:
        name = "all" if count is None else str(count)
        results = by_label.get(f"awn_rs_{name}") or (
            by_label.get("awn_rs", []) if count == 4 else []
        )
        if results:
            rows.append([name, str(len(results)), *auc_and_ends(results)])
    head = ["widths in a step", "seeds", "AUC", *ENDS]
    note = (
        "Losses are summed, as in the paper. The row of all widths takes the mean of "
        "the losses at four times the learning rate, which equals a sum of four."
    )
    return Table(head, rows, [*_notes(finished), note])


def auc_and_ends(results: Sequence[dict[str, Any]]) -> list[str]:
    """Cells after the last epoch: AUC, accuracy at the narrowest and at full width."""
    curves = [curve for result in results if (curve := curve_of(result))]
    return [
        percent([curve["auc"] for curve in curves]),
        *(percent([accuracy_at(curve, w) for curve in curves]) for w in (0.0, 1.0)),
    ]


def figure_6(finished: Sequence[Finished]) -> Table:
    """Makes the table of networks trained at full width only."""
    names = {"awn_full": "triangular", "shared_bn_full": "ordinary"}
    paper_applies = finished and finished[0][0].recipe.dataset == "cifar10"
    rows = []
    for label, results in _by_label(finished).items():
        auc, *ends = auc_and_ends(results)
        rows.append(
            [
                f"{names[label]} convolutions",
                *(str(len(results)), auc, best_epoch(results)),
                percent([FIGURE_6[label]] if paper_applies else []),
                *ends,
            ]
        )
    head = [
        *("trained at full width only", "seeds", "AUC", "AUC of the best epoch"),
        *("AUC in the paper", *ENDS),
    ]
    return Table(head, rows, [*_notes(finished), BEST_EPOCH])


def improvements(finished: Sequence[Finished]) -> Table:
    """Makes the table of changes of the paper's recipe."""
    rows = []
    for label, results in _by_label(finished).items():
        curves = [curve for result in results if (curve := curve_of(result))]
        means = [
            percent(
                [
                    statistics.fmean(accuracy_at(curve, width) for width in widths)
                    for curve in curves
                ]
            )
            for widths in (_STAIRCASE, TABLE_1_WIDTHS)
        ]
        auc, *ends = auc_and_ends(results)
        rows.append([label, str(len(results)), auc, *means, *ends])
    head = [
        *("change", "seeds", "AUC", f"mean of {len(_STAIRCASE)} widths"),
        *("mean of 4 widths", *ENDS),
    ]
    note = (
        "AUC joins the accuracies at a network's distinct widths by straight lines, "
        "which favors networks with few widths (grid4, blocks8). The mean of "
        f"{len(_STAIRCASE)} widths is the mean accuracy of the networks that really "
        "run at evenly spaced widths. The mean of 4 widths is the mean accuracy at 1, "
        "0.75, 0.5 and 0.25."
    )
    changes = {run.label: _changes(run.recipe) for run, _ in finished}
    told = [f"- {label}: {text}" for label, text in changes.items() if text]
    changed = ["", "Changed from the paper's AWN+RS:", "", *told] if told else []
    return Table(head, rows, [*_notes(finished), note, *changed])


def _changes(recipe: Recipe) -> str:
    """Lists the fields in which a recipe differs from the paper's AWN+RS."""
    paper = paper_recipe(recipe.dataset, recipe.architecture)
    paper = replace(paper, **{name: getattr(recipe, name) for name in _ANY_RUN})
    values = asdict(recipe)
    changed = {name for name in values if values[name] != getattr(paper, name)}
    if changed & {"distillation", "frozen_up_to"}:
        changed.add("late")  # the part of the training at which they begin
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
        if name in changed
    )


def individual(finished: Sequence[Finished]) -> Table:
    """Makes the table that compares plain networks, trained one by one, with an AWN."""
    kinds = {"params": "as many active weights", "macs": "as many MACs"}
    by_label = _by_label(finished)
    dataset = finished[0][0].recipe.dataset if finished else Recipe.dataset
    sizes = individual_sizes(dataset) if finished else {}
    rows = []
    for (kind, width), filters in sizes.items():
        curves = {
            label: [result["curves"][0] for result in by_label.get(label, [])]
            for label in (
                *(f"plain_{filters}", "awn_rs"),
                *(f"plain_{filters}_recommended", recommended_arm(dataset)),
            )
        }
        plain, _, better, _ = curves.values()
        if first := [*plain, *better][:1]:
            right = [[accuracy_at(c, width) for c in each] for each in curves.values()]
            rows.append(
                [
                    f"{kinds[kind]} as AWN at {width:g}",
                    str(filters),
                    *map(percent, right),
                    ", ".join(str(len(each)) for each in right),
                    f"{first[0]['macs'][0]:,}",
                    f"{first[0]['parameters'][0]:,}",
                ]
            )
    head = [
        *("plain network with", "filters", "paper's recipe: plain"),
        *("paper's recipe: AWN+RS", "`awn train`: plain", "`awn train`: AWN"),
        *("seeds of these four", "MACs of the plain network"),
        "weights of the plain network",
    ]
    note = (
        "AWN: accuracy at that width, after one training for all widths. Paper's "
        "recipe: a plain network has one loss, at the rate at which AWN+RS sums four. "
        "`awn train`: the recipe that `awn train` starts from. The plain network takes "
        "its rate, schedule and decay. This recipe was chosen for AWNs on this test "
        "set, and was not tuned for plain networks."
    )
    return Table(head, rows, [*_notes(finished), note])
