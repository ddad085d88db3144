"""Repeats trials of the package thousands of times and counts the failures.

    python -m benchmarks.reliability [--kills 200] [--full-disks 60] [--files 1000]
        [--arguments 200] [--graphs 10000] [--switches 100000] [--workers 2]
        [--output FILE]

Expect no failure. All parts together take some hours on two cores; random graphs take
most of the time. The counts are saved after each trial, and a new run continues from
the saved counts. Each failure is listed with its seed. The seed determines all random
choices of a trial, so this command repeats a trial:

    echo SEED | python -m benchmarks.reliability --worker PART

- kills: Each trial sends `kill -9` at a random moment of train, export, evaluate,
  benchmark, convert or demo. Afterwards, all files must be complete, files of one
  command must belong together, and no file may be lost. A rerun must write the same
  files as a run without a kill.
- full_disks: The same commands, without demo, write to a small tmpfs with too little
  space (needs root).
- files, arguments: Commands get damaged files or bad arguments, as in tests/fuzz. A
  command that refuses must print one line, end with exit code 2 without a traceback,
  and change no file.
- graphs: For random graphs of tests/graphs.py, `slim`, the model and a TFLite file must
  agree at three widths.
- switches: 8 threads change the width of one `AnyWidthInterpreter`, or of one model, at
  the same time. No answer may be wrong, and memory must not grow.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import Case

OUTPUT = Path(__file__).parents[1] / "results" / "reliability.json"
#: Seconds that a trial may take. The longest trial, a demo and its rerun, takes about a
#: minute.
_PATIENCE = 600
#: Graphs in a trial. More than one, because the first graph that hypothesis draws in a
#: trial is always the smallest graph.
_GRAPHS = 25
#: Changes of the width in a trial, and the number of threads that make them.
_SWITCHES, _THREADS = 1000, 8
#: Changes in a trial of a model (every tenth trial of switches). Fewer, because a model
#: is slower than an interpreter.
_OF_MODEL = 80
#: MB by which the memory may grow after the 20th trial. Before that, it grows because
#: data for each width and thread is allocated on first use and kept.
_GROWTH = 30


# ----------------------------------------------------------------------------- cases


def _kills(seeds: Iterator[int]) -> Iterator[Case]:
    from benchmarks.hardship import kills

    return kills(seeds)


def _full_disks(seeds: Iterator[int]) -> Iterator[Case]:
    from benchmarks.hardship import full_disks

    return full_disks(seeds)


def _files(seeds: Iterator[int]) -> Iterator[Case]:
    from tests.fuzz.places import FOREIGN, damage

    kinds = list(FOREIGN)

    def words_of(seed: int) -> tuple[str, list[str]]:
        kind = kinds[seed % len(kinds)]
        return kind, damage(kind, Path(), random.Random(seed))[0]

    return _commands(seeds, words_of)


def _arguments(seeds: Iterator[int]) -> Iterator[Case]:
    from tests.fuzz.arguments import USUAL, bad_arguments

    names = list(USUAL)

    def words_of(seed: int) -> tuple[str, list[str]]:
        name = names[seed % len(names)]
        return name, bad_arguments(name, random.Random(seed))

    return _commands(seeds, words_of)


def _commands(
    seeds: Iterator[int], words_of: Callable[[int], tuple[str, list[str]]]
) -> Iterator[Case]:
    """Runs commands in this process, each in a separate folder."""
    import tensorflow as tf

    from tests.fuzz.commands import inside, run
    from tests.fuzz.places import copy_of, make_place

    tf.config.run_functions_eagerly(True)
    with tempfile.TemporaryDirectory() as root:
        place = Path(root) / "place"
        place.mkdir()
        make_place(place)
        for seed in seeds:
            folder = Path(root) / str(seed)
            folder.mkdir()
            with inside(copy_of(place, folder)):
                kind, words = words_of(seed)
                fault, refused = run(words)
            outcome = "refused" if refused else "taken"
            yield Case(seed, kind, outcome, fault and f"{' '.join(words)}: {fault}")


def _graphs(seeds: Iterator[int]) -> Iterator[Case]:
    """Draws graphs and tries each. An exception counts as a failure of its graph."""
    import hypothesis
    import tensorflow as tf
    from hypothesis import strategies as st

    tf.config.run_functions_eagerly(True)
    cases: list[str] = []
    for seed in seeds:
        cases.clear()

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=_GRAPHS,
            deadline=None,
            derandomize=False,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(st.data())
        def try_graphs(data: Any) -> None:
            try:
                reason = _try_graph(data.draw)
            except hypothesis.errors.HypothesisException:
                raise  # hypothesis rejects this draw; the package did not fail
            except Exception as error:  # noqa: BLE001 -- any exception is a failure
                reason = f"{type(error).__name__}: {error}"[:500]
            cases.append(reason and f"graph {len(cases)}: {reason}")

        try_graphs()
        for fault in cases:
            yield Case(seed, "graphs", "differs" if fault else "exact", fault)


def _try_graph(draw: Any) -> str:
    """Compares the model of a random graph with `slim` and a file at each width.

    Returns:
        The first difference, or "" if there is none.
    """
    import hypothesis
    import keras
    import numpy as np
    from hypothesis import strategies as st

    from awn_keras import AnyWidthInterpreter, export_tflite, slim, to_any_width
    from tests.conftest import at_width, inputs_of
    from tests.graphs import random_graph, random_sequences
    from tests.test_conversion import outputs_of, train_a_little

    min_width = draw(st.sampled_from((0.1, 0.3, 0.5)))
    divisor = draw(st.sampled_from((1, 2, 4)))
    kind = draw(st.sampled_from((random_graph, random_graph, random_sequences)))
    keras.utils.set_random_seed(0)
    try:
        model = to_any_width(kind(draw), min_width=min_width, divisor=divisor)
    except ValueError as error:
        hypothesis.assume("only one network" not in str(error))
        raise
    train_a_little(model)
    x = inputs_of(model, 3)
    widths = sorted({min_width, 0.7, 1.0})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tflite"
        export_tflite(model, path, widths=widths, outputs="model", verbose=0)
        runner = AnyWidthInterpreter(path)
        for width in widths:
            wanted = at_width(model, width, x)
            file = runner.run(x, width=width)
            if isinstance(file, dict):
                file = [file[name] for name in model.output_names]
            answers = {
                "slim": outputs_of(slim(model, width), x),
                "file": file if isinstance(file, list) else [file],
            }
            for name, got in answers.items():
                for output, other in zip(got, wanted, strict=True):
                    scale = max(np.abs(other).max(), 1e-3)
                    # float32 sums in another order, through about ten layers.
                    if not np.abs(np.asarray(output) - other).max() <= 1e-4 * scale:
                        return f"{name} differs at width {width}"
    return ""


def _switches(seeds: Iterator[int]) -> Iterator[Case]:
    """Lets threads change the width of one interpreter, and of one model."""
    import numpy as np

    from awn_keras import AnyWidthInterpreter, export_tflite
    from tests.deploy.classifiers import of_pixels, pixels

    model = of_pixels()
    x = pixels(1).astype("float32")
    widths = model.distinct_widths
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tflite"
        export_tflite(model, path, widths=widths, outputs="model", verbose=0)
        runner = AnyWidthInterpreter(path)
        wanted = {width: np.asarray(runner.run(x, width=width)) for width in widths}

        def switch(seed: int, count: int) -> int:
            """Changes the width, and returns the number of wrong answers."""
            rng, wrong = random.Random(seed), 0
            for _ in range(count // _THREADS):
                width = rng.choice(widths)
                got = (
                    model.predict(x, width=width, verbose=0)
                    if count == _OF_MODEL
                    else runner.run(x, width=width)
                )
                # float32 sums in another order.
                close = np.allclose(got, wanted[width], rtol=1e-4, atol=1e-4)
                wrong += not close
            return wrong

        with ThreadPoolExecutor(_THREADS) as pool:
            memory = None
            for number, seed in enumerate(seeds):
                count = _SWITCHES if seed % 10 else _OF_MODEL
                tasks = range(_THREADS * seed, _THREADS * (seed + 1))
                wrong = sum(pool.map(switch, tasks, itertools.repeat(count)))
                fault = f"{wrong} wrong answers" if wrong else ""
                now = _megabytes()
                memory = now if number == 19 else memory
                if memory is not None and now > memory + _GROWTH:
                    fault = fault or f"memory grew from {memory:.0f} to {now:.0f} MB"
                kind = "model" if count == _OF_MODEL else "interpreter"
                yield Case(seed, kind, "right", fault, count)


def _megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


#: For each part: the function that yields cases, the default number of tries, and the
#: number of tries in a trial (a trial has one seed).
PARTS: dict[str, tuple[Callable[[Iterator[int]], Iterator[Case]], int, int]] = {
    "kills": (_kills, 200, 1),
    "full_disks": (_full_disks, 60, 1),
    "files": (_files, 1000, 1),
    "arguments": (_arguments, 200, 1),
    "graphs": (_graphs, 10_000, _GRAPHS),
    "switches": (_switches, 100_000, _SWITCHES),
}
#: Parts whose trials run one after another. Kills come at a random moment of a command
#: that runs alone, tmpfs are mounted one at a time, and switches measure memory.
_ALONE = ("kills", "full_disks", "switches")


# -------------------------------------------------------------------------- counting


def worker(part: str) -> None:
    """Runs the trial of each seed that comes from stdin, a seed in each line.

    Writes a line of JSON to stdout for each case, and an empty line after each trial.

    Args:
        part: One of `PARTS`.
    """
    # Commands and libraries must not read the seeds, nor write between the cases.
    lines, out = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def seeds() -> Iterator[int]:
        for line in lines:
            signal.alarm(_PATIENCE)
            yield int(line)
            signal.alarm(0)
            out.write("\n")
            out.flush()

    for case in PARTS[part][0](seeds()):
        out.write(json.dumps(asdict(case)) + "\n")
        out.flush()


def command(part: str) -> list[str]:
    """Returns the command that calls `worker` in a new process."""
    return [sys.executable, "-m", "benchmarks.reliability", "--worker", part]


class Worker:
    """A child process that runs trials of a part.

    If the process dies, the next trial starts a new process.

    Args:
        part: One of `PARTS`.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self._process: Any = None
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115

    def run(self, seed: int) -> list[Case]:
        """Runs a trial.

        Args:
            seed: The seed of the trial.

        Returns:
            The cases of the trial. If the process died, the last case is a failure.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                command(self._part),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
        with contextlib.suppress(BrokenPipeError):  # the process died; see below
            self._process.stdin.write(f"{seed}\n")
            self._process.stdin.flush()
        cases = []
        for line in self._process.stdout:
            if line == "\n":
                return cases
            cases.append(Case(**json.loads(line)))
        self._process.communicate()
        code, self._process = self._process.returncode, None
        self._said.seek(0)
        fault = f"the process ended with {code}: {self._said.read()[-1500:]}"
        return [*cases, Case(seed, "process", "ended", fault)]

    def close(self) -> None:
        """Lets the process remove its temporary files, and end."""
        if self._process is not None:
            try:
                self._process.communicate(timeout=10)
            except subprocess.TimeoutExpired:  # in the middle of a trial
                self._process.kill()
                self._process.wait()
        self._said.close()


def measure(
    part: str, wanted: int, result: dict[str, Any], save: Any, workers: int = 1
) -> None:
    """Runs trials in child processes until the wanted number of tries is counted.

    If a child process dies, its trial counts as a failure.

    Args:
        part: One of `PARTS`.
        wanted: The number of tries to reach.
        result: The counts of the part so far. They are updated.
        save: Called without arguments after each trial.
        workers: Number of processes that run trials at the same time.
    """
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def trial(seed: int) -> tuple[list[Case], float]:
        start, child = time.monotonic(), free.get()
        try:
            return child.run(seed), time.monotonic() - start
        finally:
            free.put(child)

    with contextlib.ExitStack() as stack:
        for _ in range(workers):
            child = Worker(part)
            stack.callback(child.close)
            free.put(child)
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        # Without this, an interrupt would wait for all trials.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        while result["count"] < wanted:
            more = -(-(wanted - result["count"]) // PARTS[part][2])
            first = result["trials"]
            # The results come in the order of the seeds, so `trials` is the next seed.
            for cases, seconds in pool.map(trial, range(first, first + more)):
                for case in cases:
                    add(result, case)
                result["seconds"] = round(result["seconds"] + seconds, 1)
                save()


def add(result: dict[str, Any], case: Case) -> None:
    """Adds a case to the counts.

    Args:
        result: The counts so far. They are updated.
        case: The case to add.
    """
    result["trials"] = case.seed + 1
    result["count"] += case.count
    outcomes = result["kinds"].setdefault(case.kind, {})
    outcome = "failed" if case.fault else case.outcome
    outcomes[outcome] = outcomes.get(outcome, 0) + case.count
    if case.fault:
        failure = {"seed": case.seed, "kind": case.kind, "fault": case.fault[:2000]}
        result["failures"].append(failure)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the trials of all parts, or of one part as a worker."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for part, (_, count, _) in PARTS.items():
        option, text = f"--{part.replace('_', '-')}", f"tries (default: {count:,})"
        parser.add_argument(option, type=int, default=count, help=text)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file of counts")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes for files, arguments and graphs (default: one for each core)",
    )
    parser.add_argument(
        "--worker",
        metavar="PART",
        choices=PARTS,
        help="run the trials of the seeds in stdin here, and print lines of JSON",
    )
    args = parser.parse_args(argv)
    if args.worker:
        worker(args.worker)
        return
    from awn_keras.environment import environment
    from awn_keras.files import write_whole

    result: dict[str, Any] = {"parts": {}}
    if args.output.exists():
        result = json.loads(args.output.read_text())

    def save() -> None:
        result["environment"] = environment_now
        write_whole(args.output, json.dumps(result, indent=1) + "\n")

    environment_now = environment()
    for part in PARTS:
        start = {"trials": 0, "count": 0, "seconds": 0.0, "kinds": {}, "failures": []}
        counts = result["parts"].setdefault(part, start)
        workers = 1 if part in _ALONE else args.workers
        measure(part, getattr(args, part), counts, save, workers)
        print(f"{part}: {counts['count']}, {len(counts['failures'])} failures")


if __name__ == "__main__":
    main()
