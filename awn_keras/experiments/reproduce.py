"""Runs what a table or figure of the paper needs and shows it beside the paper's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from awn_keras.data import DATASETS
from awn_keras.errors import ArgumentError
from awn_keras.experiments import figures, tables
from awn_keras.experiments.executed import Finished
from awn_keras.experiments.paper import EXPERIMENTS, PaperRun, recommended_arm, runs_of
from awn_keras.experiments.statistics import check_statistics, trace_of
from awn_keras.experiments.tables import Table
from awn_keras.files import read_json, together, try_lock, write_whole
from awn_keras.pictures import save_figure
from awn_keras.runs.networks import NETWORKS, network_of
from awn_keras.runs.recipe import PRECISIONS, Recipe
from awn_keras.runs.run import run
from awn_keras.schemas import (
    MisfitError,
    anything,
    fields,
    flag,
    items,
    number,
    of_kind,
    or_null,
    real,
    text,
    values,
)

#: How each experiment is shown: its table, and its figure if it has one.
VIEWS: dict[str, tuple[Callable[..., Table], Callable[..., Any] | None]] = {
    "table1": (tables.table_1, None),
    "table2": (tables.table_2, None),
    "figure2": (tables.table_1, figures.figure_2),
    "figure4": (tables.figure_4, figures.figure_4),
    "figure5": (tables.at_equal_macs, figures.figure_5),
    "figure6": (tables.figure_6, figures.figure_6),
    "individual": (tables.individual, None),
    "improvements": (tables.improvements, None),
}
#: Figures whose table another experiment has already.
_SAME_TABLE = ("figure2",)
#: Runs of other tables that alone make no figure or study yet.
_ALONE = {
    "figure4": {"awn_rs"},
    "improvements": {"awn_rs"},
    "individual": {"awn_rs", *map(recommended_arm, DATASETS)},
}
#: Seeds that a report looks for.
SEEDS = 10


def load_result(run_: PaperRun, results: Path) -> dict[str, Any] | None:
    """Reads a finished run.

    Args:
        run_: The run.
        results: Directory of results.

    Returns:
        Its result, or `None` if there is none.

    Raises:
        ValueError: If the file is damaged, of another recipe, or of a later schema.
    """
    path = results / f"{run_.name}.json"
    if not path.exists():
        return None
    about = "the result of a run: remove it to run again"
    result = read_json(path, of_kind("run", _result), about)
    kept = {**Recipe().as_json(), **result["recipe"]}
    if kept != run_.recipe.as_json():
        raise ArgumentError(
            f"{path} is the result of another recipe. Remove it to run again, or name "
            "another directory of results."
        )
    return result


def _curve(value: Any, where: str) -> None:
    """Takes a curve of a result: as many numbers as widths, in each column."""
    columns = {
        "widths": items(number(0, 1), 1),
        "starts": items(number(0, 1)),
        "accuracy": items(number(0)),
        "macs": items(number(0, whole=True)),
        "executed_macs": items(number(0, whole=True)),
    }
    known = {"calibrated": number(0, whole=True), "auc": number(0), **columns}
    fields(known, set(known) - {"executed_macs"})(value, where)
    count = len(value["widths"])
    for name in set(columns) & set(value):
        # Older results do not say what a file executes.
        if len(value[name]) != count and (name != "executed_macs" or value[name]):
            rule = f"a list of as many as there are widths, {count}"
            raise MisfitError(f"{where}.{name}", rule, value[name])


def _environment(value: Any, where: str) -> None:
    """Takes what `environment` says of a machine, as far as tables tell it."""
    backends = ("tensorflow", "jax", "torch")
    fields(
        {
            "processor": text(),
            "packages": values(or_null(text())),
            "backend": text(*backends),
            "accelerators": items(text()),
        },
        needed=("processor", "packages"),
    )(value, where)
    needed = dict.fromkeys((value.get("backend", backends[0]), "keras"), text())
    fields(needed)(value["packages"], f"{where}.packages")


def _result(value: Any, where: str) -> None:
    """Takes what tables and figures read of a result."""
    best = fields({"epoch": number(0, whole=True), "auc": number(0)})
    fields(
        {
            "recipe": values(anything),
            "auc": number(0),
            "reduced": flag,
            "best_epoch": or_null(best),
            "history": or_null(items(values(real))),
            "statistics": or_null(check_statistics),
            "curves": items(_curve, 1),
            "environment": _environment,
        }
    )(value, where)
    if value["best_epoch"]:
        epoch = value["best_epoch"]["epoch"]
        if epoch not in [logs.get("epoch") for logs in value["history"] or ()]:
            rule = "that of an epoch in the history"
            raise MisfitError("best_epoch.epoch", rule, epoch)


def run_missing(
    runs: Sequence[PaperRun],
    results: Path,
    work: Path,
    *,
    report: Callable[[str], None],
    **kwargs: Any,
) -> None:
    """Runs what has no result yet, resuming what was interrupted.

    Several processes may work on the same runs: each takes what no other is at.

    Args:
        runs: The runs, in order.
        results: Directory that receives a JSON file for each.
        work: Directory of checkpoints.
        report: Is told what is run.
        **kwargs: As in `run`.

    Raises:
        ValueError: See `load_result` and `run`.
        DatasetUnavailableError: If the data set is missing.
        OSError: If a directory cannot be written.
    """
    results.mkdir(parents=True, exist_ok=True)
    left = [paper_run for paper_run in runs if load_result(paper_run, results) is None]
    busy: list[PaperRun] = []
    for paper_run in left:
        with _claimed(work / paper_run.name) as claimed:
            if not claimed:
                busy.append(paper_run)
            # Another process may just have done so.
            elif load_result(paper_run, results) is None:
                _run(paper_run, results, work / paper_run.name, report, kwargs)
    for paper_run in busy:
        report(f"{paper_run.name}: another process is at it")


def _run(
    paper_run: PaperRun,
    results: Path,
    directory: Path,
    report: Callable[[str], None],
    kwargs: dict[str, Any],
) -> None:
    epochs = paper_run.recipe.epochs_run
    report(f"{paper_run.name}: {epochs} epochs, in {directory}")
    every = paper_run.trace_every
    trace = None if every is None else trace_of(paper_run.recipe, every)
    run(paper_run.recipe, directory, resume=True, trace=trace, **kwargs)
    content = (directory / "result.json").read_text()
    write_whole(results / f"{paper_run.name}.json", content)


@contextlib.contextmanager
def _claimed(directory: Path) -> Iterator[bool]:
    """Whether this process alone may work in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        yield try_lock(file.fileno())  # until the file is closed, also by a kill


# --------------------------------------------------------------------------- showing


def finished_runs(runs: Sequence[PaperRun], results: Path) -> list[Finished]:
    """Reads the runs that are finished.

    Args:
        runs: The runs.
        results: Directory of results.

    Returns:
        Those that have a result, with it.

    Raises:
        ValueError: See `load_result`.
    """
    loaded = ((paper_run, load_result(paper_run, results)) for paper_run in runs)
    return [(paper_run, result) for paper_run, result in loaded if result is not None]


def show(experiment: str, finished: Sequence[Finished], results: Path) -> Table:
    """Makes the table of an experiment, and draws its figure.

    Args:
        experiment: One of `EXPERIMENTS`.
        finished: Its finished runs.
        results: Directory of results; the figure is written there.

    Returns:
        The table; where there is a figure, its last note names the file.

    Raises:
        OSError: If the figure cannot be written.
    """
    make, draw = VIEWS[experiment]
    table = make(finished)
    if draw is None or not finished:
        return table
    recipe = finished[0][0].recipe
    parts = [experiment, recipe.dataset, recipe.architecture, *recipe.variant]
    name = "_".join(parts)
    others: list[Finished] = []
    if experiment == "figure5" and "filters" not in _unused(recipe):
        others = _plain_networks(recipe, results)
    figure = draw(finished, others) if others else draw(finished)
    save_figure(figure, results / f"{name}.png")
    return Table(table.head, table.rows, [*table.notes, f"![{name}]({name}.png)"])


def _plain_networks(recipe: Recipe, results: Path) -> list[Finished]:
    """Plain networks of the same scale, in the precision that has run most of them.

    Of two with as many it is the recipe's own.
    """
    most: list[Finished] = []
    for precision in sorted(PRECISIONS, key=lambda name: name != recipe.precision):
        runs = runs_of(
            "individual",
            recipe.dataset,
            recipe.architecture,
            seeds=SEEDS,
            scale=recipe.scale,
            precision=precision,
        )
        plain = [run for run in runs if run.label.startswith("plain_")]
        most = max(most, finished_runs(plain, results), key=len)
    return most


def _unused(recipe: Recipe) -> tuple[str, ...]:
    return network_of(recipe.architecture).unused


@together()
def write_report(results: Path) -> None:
    """Writes `README.md` of a directory of results, and its figures, together.

    Args:
        results: The directory.

    Raises:
        ValueError: See `load_result`.
        OSError: If a file cannot be written.
    """
    names = _names(results)
    kinds = _kinds(names)
    sections = []
    for experiment, about in EXPERIMENTS.items():
        for dataset in (*about.datasets, "digits"):
            for architecture in NETWORKS:
                prefix = f"{dataset}_{architecture}_"
                here = {name for name in names if name.startswith(prefix)}
                for scale, precision in kinds if here else []:
                    runs = _runs_of(experiment, dataset, architecture, scale, precision)
                    section = _section(experiment, runs, here, results)
                    sections += [section] if section else []
    text = "\n\n".join([_INTRODUCTION, *sections])
    write_whole(results / "README.md", text + "\n")


def _names(results: Path) -> set[str]:
    """Names of the runs that a directory has results of."""
    return {path.stem for path in results.glob("*_seed*.json")}


def _kinds(names: set[str]) -> list[tuple[float, str]]:
    """Scales and precisions that runs may have, by their names."""
    scales = {1.0}
    for name in names:
        with contextlib.suppress(ValueError):
            scales.add(float(name.rpartition("_scale")[2].partition("_")[0]))
    return [(s, p) for s in sorted(scales, reverse=True) for p in PRECISIONS]


def finished_kinds(
    experiment: str, dataset: str | None, architecture: str, results: Path
) -> dict[str, int]:
    """Looks for results of an experiment of any scale and precision.

    Args:
        experiment: One of `EXPERIMENTS`.
        dataset: Data set. `None` for the paper's first one.
        architecture: Architecture.
        results: Directory of results.

    Returns:
        The options of `awn reproduce` that show some, with the number of results.
    """
    dataset = EXPERIMENTS[experiment].datasets[0] if dataset is None else dataset
    names = _names(results)
    counts = {}
    for scale, precision in _kinds(names):
        runs = _runs_of(experiment, dataset, architecture, scale, precision)
        count = len(names & {run.name for run in runs})
        if count:
            counts[f"--scale {scale:g} --precision {precision}"] = count
    return counts


_INTRODUCTION = """# The paper's tables and figures, run here

`awn reproduce` makes this page from the JSON files beside it. Each file is one run:
recipe, seed, versions, machine, seconds, and the accuracy at each width. The paper is
Vu, Eder, Price, Frahm, Any-Width Networks, CVPR Workshops 2020. `awn reproduce table2
--dataset fashion_mnist` runs the missing runs of a table, resumes interrupted runs, and
writes this page. Titles name the options: `mixed_bfloat16` is
`--precision mixed_bfloat16`, and `scale0.1` is `--scale 0.1`. AUC is the mean accuracy
over all widths."""


def _runs_of(
    experiment: str, dataset: str, architecture: str, scale: float, precision: str
) -> list[PaperRun]:
    """All runs that a section of the report may have; none if it cannot be."""
    try:
        return runs_of(
            experiment,
            dataset,
            architecture,
            seeds=SEEDS,
            scale=scale,
            precision=precision,
        )
    except ValueError:  # not for this architecture
        return []


def _section(
    experiment: str, runs: Sequence[PaperRun], names: set[str], results: Path
) -> str | None:
    """A section of the report, if any of its runs is finished."""
    finished = finished_runs([run for run in runs if run.name in names], results)
    # Reduced runs serve to compare; the one that others are compared with says nothing.
    recipe = runs[0].recipe if runs else Recipe()
    alone = _ALONE.get(experiment, {"awn_rs"} if recipe.scale < 1 else set())
    if {run.label for run, _ in finished} <= alone:
        return None
    wanted = dict.fromkeys(run.label for run in runs)
    missing = [label for label in wanted if label not in {r.label for r, _ in finished}]
    about = ", ".join([recipe.dataset, recipe.architecture, *recipe.variant])
    title = f"## {experiment}: {EXPERIMENTS[experiment].title} ({about})"
    table = show(experiment, finished, results)
    parts = [title, table.markdown()]
    if experiment in _SAME_TABLE:
        parts[1] = table.notes[-1]
    if missing:
        parts.append(f"Not finished yet: {', '.join(missing)}.")
    return "\n\n".join(parts)
