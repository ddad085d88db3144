"""Choice of the next width within a latency budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf
from statistics import median

import numpy as np

from awn_keras.deploy.checks import check_integer
from awn_keras.errors import ArgumentError, ArgumentTypeError

# A median of five calls a width slow only after three slow runs. Unlike a mean, it
# ignores a single pause of the system; unlike a long average, it reacts quickly.
WINDOW = 5
ENOUGH = WINDOW // 2 + 1
MARGIN = 0.9
PATIENCE = 5
RETRY_AFTER = 50
LONGEST_RETRY = 64 * RETRY_AFTER


class BudgetPolicy:
    """Chooses the next width from the latencies of the runs so far.

    - The latency of a width is the median of its last 5 runs. The first `warm_up` runs
      of a width do not count. The policy judges a width after 3 runs, counted again
      each time the policy switches to the width.
    - The first width is `start`, or the narrowest width. If a width is slower than the
      budget, the policy switches at once to the widest narrower width that is not known
      to be too slow.
    - The policy switches to a wider width if its expected latency is at most 90 % of
      the budget for 5 runs in a row. The expected latency is the last latency of the
      wider width, scaled by the change of the current width's latency since then. For a
      width that never ran, it is the extrapolation of a line through the two widths
      below.
    - After 50 runs the policy tries the wider width with the smallest expected latency,
      even if it is expected to be too slow, because a slow-down need not affect all
      widths alike. The next tries come after 100, 200, up to 3200 runs. The interval
      returns to 50 runs once a width has run for its interval.
    - If the narrowest width is too slow, the policy keeps it, and `within_budget` is
      False.

    If latencies are constant and grow with the width, the policy settles on a width
    within the budget, if there is one, whose next wider width needs more than 90 % of
    the budget. The policy counts runs; it uses no clock and no lock.

    Args:
        widths: The widths, ascending.
        budget_ms: Longest wanted latency in ms, or `None` for no limit.
        warm_up: Number of first runs of each width that do not count.
        start: The first width. `None` takes the narrowest width.
        measured: Known latencies in ms, by width. They count as the last latencies of
            the widths until the widths run.

    Raises:
        TypeError: If `budget_ms` is not a number, or if `warm_up` is not an integer.
        ValueError: If `budget_ms` is not positive, if `warm_up` is negative, or if
            `start` is not one of the widths.
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
        # Under (i, j): latency of width i when width j last ran.
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
        """Longest wanted latency in ms, or `None`. Setting it chooses a width again."""
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
        """Whether the last latency of the chosen width is within the budget."""
        latency = self._latency[self._now]
        return self._budget is None or latency is None or latency <= self._budget

    def choose(self) -> float:
        """Returns the width to run next; without a budget, the widest width."""
        return self.widths[-1 if self._budget is None else self._now]

    def observe(self, width: float, ms: float) -> None:
        """Records a run of the chosen width or of another width.

        Args:
            width: One of the widths.
            ms: Latency of one sample in ms.
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
