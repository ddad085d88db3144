"""Trains the runs of the paper's tables and figures, and writes a report on them."""

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

#: For each experiment, the function that makes the table, and the function that draws
#: the figure if there is a figure.
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
#: Experiments whose table is the table of another experiment. A report shows only their
#: figure.
_SAME_TABLE = ("figure2",)
#: Runs that an experiment shares with others. A section of a report needs a finished
#: run that is not shared, because shared runs alone show nothing new.
_ALONE = {
    "figure4": {"awn_rs"},
    "improvements": {"awn_rs"},
    "individual": {"awn_rs", *map(recommended_arm, DATASETS)},
}
#: A report looks for so many seeds, from 0 on.
SEEDS = 10


def load_result(run_: PaperRun, results: Path) -> dict[str, Any] | None:
    """Reads a finished run.

    Args:
        run_: The run.
        results: Directory of results.

    Returns:
        The result of the run, or `None` if the run is not finished.

    Raises:
        ValueError: If the file of the result is damaged, has another recipe, or has a
            later schema.
    """
    path = results / f"{run_.name}.json"
    if not path.exists():
        return None
    about = "the result of a run: remove it to run again"
    result = read_json(path, of_kind("run", _result), about)
    # A result of an earlier version lacks fields that its recipe did not have. Their
    # defaults stand for the behavior of that version.
    kept = {**Recipe().as_json(), **result["recipe"]}
    if kept != run_.recipe.as_json():
        raise ArgumentError(
            f"{path} is the result of another recipe. Remove the file to run again, or "
            "name another directory of results."
        )
    return result


def _curve(value: Any, where: str) -> None:
    """Checks a curve of a result: each list must have one number for each width."""
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
        # Results of earlier versions have no executed MACs.
        if len(value[name]) != count and (name != "executed_macs" or value[name]):
            rule = f"a list of as many as there are widths, {count}"
            raise MisfitError(f"{where}.{name}", rule, value[name])


def _environment(value: Any, where: str) -> None:
    """Checks the fields of a result's environment that tables show."""
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
    """Checks the fields of a result that tables and figures read."""
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
    """Trains the runs that have no result yet, and resumes interrupted runs.

    Several processes may call this function for the same runs. Each process takes runs
    that no other process is training.

    Args:
        runs: The runs, in the order of training.
        results: Directory that gets a JSON file for each run.
        work: Directory of checkpoints.
        report: Function that is called with a line of text about each run.
        **kwargs: Further arguments of `run`.

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
            # Another process may have finished the run since the list was made.
            elif load_result(paper_run, results) is None:
                _run(paper_run, results, work / paper_run.name, report, kwargs)
    for paper_run in busy:
        report(f"{paper_run.name}: another process trains this run")


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
    """A context that tells whether this process alone may work in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        # The system frees the lock when the file is closed, also if the process is
        # killed.
        yield try_lock(file.fileno())


# --------------------------------------------------------------------------- showing


def finished_runs(runs: Sequence[PaperRun], results: Path) -> list[Finished]:
    """Reads the results of the runs that are finished.

    Args:
        runs: The runs.
        results: Directory of results.

    Returns:
        The finished runs, each with its result.

    Raises:
        ValueError: See `load_result`.
    """
    loaded = ((paper_run, load_result(paper_run, results)) for paper_run in runs)
    return [(paper_run, result) for paper_run, result in loaded if result is not None]


def show(experiment: str, finished: Sequence[Finished], results: Path) -> Table:
    """Makes the table of an experiment, and draws its figure.

    Args:
        experiment: One of `EXPERIMENTS`.
        finished: The finished runs of the experiment.
        results: Directory of results. The figure is written there.

    Returns:
        The table. If there is a figure, the last note of the table links the file.

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
    """Finished plain networks of the recipe's scale, all in one precision.

    The precision is the one with the most finished runs. If two precisions have equally
    many, the recipe's precision wins.
    """
    most: list[Finished] = []
    # `max` keeps the first of equal maxima, so the recipe's precision comes first.
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
    """Writes `README.md` and the figures of a directory of results.

    If writing one file fails, the others stay as they were.

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
    """Names of the finished runs, from the files of a directory."""
    return {path.stem for path in results.glob("*_seed*.json")}


def _kinds(names: set[str]) -> list[tuple[float, str]]:
    """All pairs of a precision and a scale that occurs in the names of the runs.

    Scale 1 is not part of a name, so it is always in the list.
    """
    scales = {1.0}
    for name in names:
        with contextlib.suppress(ValueError):
            scales.add(float(name.rpartition("_scale")[2].partition("_")[0]))
    return [(s, p) for s in sorted(scales, reverse=True) for p in PRECISIONS]


def finished_kinds(
    experiment: str, dataset: str | None, architecture: str, results: Path
) -> dict[str, int]:
    """Counts the results of an experiment for each scale and precision.

    Args:
        experiment: One of `EXPERIMENTS`.
        dataset: Data set. `None` takes the experiment's default.
        architecture: Architecture.
        results: Directory of results.

    Returns:
        Number of results by the options of `awn reproduce` that show them.
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
    """All runs of a section of the report; none if the architecture does not fit."""
    try:
        return runs_of(
            experiment,
            dataset,
            architecture,
            seeds=SEEDS,
            scale=scale,
            precision=precision,
        )
    except ValueError:  # the experiment is not for this architecture
        return []


def _section(
    experiment: str, runs: Sequence[PaperRun], names: set[str], results: Path
) -> str | None:
    """A section of the report; `None` without a finished run that is not shared."""
    finished = finished_runs([run for run in runs if run.name in names], results)
    # Reduced runs are only compared with each other. So AWN+RS alone, with which the
    # others are compared, makes no section.
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
