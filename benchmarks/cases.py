"""The result of one trial of `benchmarks.reliability`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """The result of a trial.

    Args:
        seed: The seed of all random choices in the trial.
        kind: What was tried, such as the name of a command.
        outcome: How the trial ended, in a word or two.
        fault: What is wrong; empty if nothing is.
        count: The number of tries in the trial.
    """

    seed: int
    kind: str
    outcome: str
    fault: str = ""
    count: int = 1
