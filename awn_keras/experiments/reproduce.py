"""Runs what a table or figure of the paper needs and shows it beside the paper's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from awn_keras.experiments.paper import Run
from awn_keras.experiments.recipes import Recipe
from awn_keras.experiments.training import as_json, run
from awn_keras.files import write_whole


def load_result(run_: Run, results: Path) -> dict[str, Any] | None:
    """Reads a finished run.

    Args:
        run_: The run.
        results: Directory of results.

    Returns:
        Its result, or `None` if there is none.

    Raises:
        ValueError: If the file is damaged, or is of another recipe.
    """
    path = results / f"{run_.name}.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
        kept = {**as_json(Recipe()), **result["recipe"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not the result of a run. Remove it to run again."
        ) from error
    if kept != as_json(run_.recipe):
        raise ValueError(
            f"{path} is the result of another recipe. Remove it to run again, or name "
            "another directory of results."
        )
    return result


def run_missing(
    runs: Sequence[Run],
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
    left = [one for one in runs if load_result(one, results) is None]
    busy: list[Run] = []
    for one in left:
        with _claimed(work / one.name) as claimed:
            if not claimed:
                busy.append(one)
            elif load_result(one, results) is None:  # another one may just have
                _run(one, results, work / one.name, report, kwargs)
    for one in busy:
        report(f"{one.name}: another process is at it")


def _run(
    one: Run,
    results: Path,
    directory: Path,
    report: Callable[[str], None],
    kwargs: dict[str, Any],
) -> None:
    epochs = one.recipe.epochs_run
    report(f"{one.name}: {epochs} epochs, in {directory}")
    run(one.recipe, directory, resume=True, trace_every=one.trace_every, **kwargs)
    content = (directory / "result.json").read_text()
    write_whole(results / f"{one.name}.json", content)


@contextlib.contextmanager
def _claimed(directory: Path) -> Iterator[bool]:
    """Whether this process alone may work in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: nobody to share with
        yield True
        return
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True  # released when the file is closed, also by a kill
