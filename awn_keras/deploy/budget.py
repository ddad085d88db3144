"""Which width to run next, to keep to a budget: counted in runs, without a clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf
from statistics import median

import numpy as np

from awn_keras.deploy.checks import check_integer
from awn_keras.errors import ArgumentError, ArgumentTypeError

# A median needs three slow runs of five to call a width slow: a pause of the system
# does not move it, as it would a mean, and it does not lag as a long average does.
WINDOW = 5
ENOUGH = WINDOW // 2 + 1
MARGIN = 0.9
PATIENCE = 5
RETRY_AFTER = 50
LONGEST_RETRY = 64 * RETRY_AFTER


class BudgetPolicy:
    """Which width to run next, from the latencies of the runs so far.

    - The latency of a width is the median of its last 5 runs; its first `warm_up`
      runs do not count. A width is judged from 3 runs on, counted anew whenever it
      is taken up.
    - It begins with `start`, or the narrowest width. A width slower than the budget is
      left at once for the widest narrower one that is not known to be too slow.
    - A wider width is taken up once it has been expected to need at most 90 % of the
      budget for 5 runs in a row. Expected is what it last took, times what the
      width in use takes now over what that took then; if it was never run, what a
      straight line through the two widths below it gives.
    - The wider width that is expected to be fastest is tried whatever is expected
      after 50 runs, then 100, 200, up to 3200, until it has held for as long as that:
      a slow-down need not be alike at all widths.
    - If the narrowest width is too slow, it stays, and `within_budget` tells.

    So at constant latencies, longer for wider widths, it settles on a width that
    meets the budget, if there is one, and the next wider one needs more than 90 % of
    it. It has no clock and no lock, and counts in runs.

    Args:
        widths: The widths, ascending.
        budget_ms: Longest latency wanted, in ms, or `None` for no limit.
        warm_up: Number of first runs of each width that do not count.
        start: The width to begin with; `None` for the narrowest.
        measured: Latencies known before, in ms by width. They count as what the widths
            took last, until they run.

    Raises:
        TypeError: If `budget_ms` is not a number, or `warm_up` not an integer.
        ValueError: If `budget_ms` is not positive, `warm_up` negative, or `start` not
            one of the widths.
    """

    def __init__(
        self,
        widths: Sequence[float],
        budget_ms: float | None = None,
        *,
        warm_up: int = 3,
        start: float | None = None,
        measured: Mapping[float, float] | None = None,
    ) -> None:
        check_integer(warm_up, "warm_up", 0)
        self.widths = tuple(widths)
        count = len(self.widths)
        self._cold = [warm_up] * count
        self._recent = [deque[float](maxlen=WINDOW) for _ in self.widths]
        self._latency: list[float | None] = [None] * count
        # What width i took when width j was last run, under (i, j).
        self._then: dict[tuple[int, int], float] = {}
        self._wait = [RETRY_AFTER] * count
        self._budget: float | None = None
        if start is not None and start not in self.widths:
            raise ArgumentError(
                f"`start` must be one of {list(self.widths)}. Received: start={start}"
            )
        known = measured or {}
        for i, width in enumerate(self.widths):
            self._latency[i] = known.get(width)
            for other in set(known) - {width}:
                if width in known:
                    self._then[i, self.widths.index(other)] = known[width]
        self._enter(0 if start is None else self.widths.index(start))
        if start is None:
            self.budget_ms = budget_ms
        else:
            self._budget = _check_budget(budget_ms)

    @property
    def budget_ms(self) -> float | None:
        """Longest latency wanted, in ms, or `None`; what is known decides anew."""
        return self._budget

    @budget_ms.setter
    def budget_ms(self, budget_ms: float | None) -> None:
        self._budget = budget = _check_budget(budget_ms)
        if budget is None:
            return
        fitting = [] if self._is_judged(self._now) else [self._now]
        for i, latency in enumerate(self._latency):
            limit = budget if i == self._now else MARGIN * budget
            if latency is not None and latency <= limit:
                fitting.append(i)
        best = max(fitting, default=0)
        if best != self._now:
            self._enter(best)

    @property
    def latency_ms(self) -> dict[float, float | None]:
        """Median of the last runs of each width, in ms; `None` if not measured."""
        return dict(zip(self.widths, self._latency, strict=True))

    @property
    def within_budget(self) -> bool:
        """Whether the chosen width meets the budget, by what it took last."""
        latency = self._latency[self._now]
        return self._budget is None or latency is None or latency <= self._budget

    def choose(self) -> float:
        """Returns the width to run next: the widest, if there is no budget."""
        return self.widths[-1 if self._budget is None else self._now]

    def observe(self, width: float, ms: float) -> None:
        """Takes note of a run, of the chosen width or of another one.

        Args:
            width: One of the widths.
            ms: How long one sample took, in ms.
        """
        i = self.widths.index(width)
        if self._cold[i]:
            self._cold[i] -= 1
            return
        self._recent[i].append(ms)
        self._latency[i] = latency = median(self._recent[i])
        others = range(len(self.widths))
        for j in others:
            self._then.pop((j, i), None)
        if not self._is_judged(i):
            return
        for j in others:
            self._then.setdefault((i, j), latency)
        if self._budget is None or i != self._now:
            return
        self._runs += 1
        if latency > self._budget and i > 0:
            self._step_down(self._budget)
        else:
            self._step_up(latency, self._budget)

    def _is_judged(self, i: int) -> bool:
        return len(self._recent[i]) >= ENOUGH

    def _enter(self, i: int) -> None:
        self._now = i
        self._runs = self._calm = 0
        self._recent[i].clear()

    def _step_down(self, budget: float) -> None:
        narrower = reversed(list(enumerate(self._latency[: self._now])))
        fitting = (i for i, latency in narrower if latency is None or latency <= budget)
        self._enter(next(fitting, 0))

    def _step_up(self, latency: float, budget: float) -> None:
        if self._runs >= self._wait[self._now]:
            self._wait[self._now] = RETRY_AFTER
        expected = {
            j: self._expected(j, latency)
            for j in range(self._now + 1, len(self.widths))
        }
        fitting = [j for j, ms in expected.items() if ms <= MARGIN * budget]
        self._calm = self._calm + 1 if fitting else 0
        if self._calm >= PATIENCE:
            self._enter(fitting[-1])
        elif expected and not fitting and latency <= budget:
            fastest = min(expected, key=expected.__getitem__)
            if self._runs >= self._wait[fastest]:
                self._wait[fastest] = min(2 * self._wait[fastest], LONGEST_RETRY)
                self._enter(fastest)

    def _expected(self, j: int, latency_now: float) -> float:
        latency = self._latency[j]
        if latency is not None:
            then = self._then[self._now, j]
            return latency * latency_now / then if then else latency
        below = self._latency[j - 1]
        if below is None:
            return inf
        before = self._latency[j - 2] if j > 1 else None
        if before is None:
            return below
        run = (self.widths[j] - self.widths[j - 1]) / (
            self.widths[j - 1] - self.widths[j - 2]
        )
        return below + max(0.0, below - before) * run


def _check_budget(budget_ms: float | None) -> float | None:
    if budget_ms is None:
        return None
    if isinstance(budget_ms, bool) or not isinstance(
        budget_ms, int | float | np.integer | np.floating
    ):
        raise ArgumentTypeError(
            "`budget_ms` must be a number of milliseconds, or None for no limit. "
            f"Received: budget_ms={budget_ms!r}"
        )
    if not budget_ms > 0:
        raise ArgumentError(
            "`budget_ms` must be positive, or None for no limit. Received: "
            f"budget_ms={budget_ms}"
        )
    return float(budget_ms)
