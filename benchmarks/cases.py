"""One trial of something that must hold however often it is tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """What came of a trial.

    Args:
        seed: All that was drawn follows from it.
        kind: Of what it was.
        outcome: How it ended, in a word or two.
        fault: What is wrong with that; empty if nothing.
        count: How many of what is counted it was.
    """

    seed: int
    kind: str
    outcome: str
    fault: str = ""
    count: int = 1
