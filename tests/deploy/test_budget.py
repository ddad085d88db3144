import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from awn_keras.deploy.budget import LONGEST_RETRY, MARGIN, RETRY_AFTER, BudgetPolicy

WIDTHS = (0.25, 0.5, 0.625, 1.0)
COSTS = {0.25: 1.0, 0.5: 2.5, 0.625: 4.0, 1.0: 8.0}


def simulate(policy, times, cost):
    """Runs what the policy chooses; the cost may depend on the time."""
    ran = []
    for i in range(times):
        width = policy.choose()
        ran.append(width)
        policy.observe(width, cost(width, i))
    return ran


ascending = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=6, unique=True).map(
    sorted
)
latencies = st.floats(0.0, 100.0)


@given(ascending, st.data(), st.floats(0.1, 100.0), st.integers(0, 4))
def test_whatever_happens_a_width_is_chosen(widths, data, budget, warm_up):
    policy = BudgetPolicy(widths, budget, warm_up=warm_up)
    for _ in range(50):
        assert policy.choose() in widths
        width = data.draw(st.sampled_from([policy.choose(), *widths]))
        policy.observe(width, data.draw(latencies))
        if data.draw(st.booleans()):
            policy.budget_ms = data.draw(st.none() | st.floats(0.1, 100.0))


@given(ascending, st.data(), st.floats(0.1, 110.0), st.integers(0, 4))
def test_at_constant_latencies_it_settles(widths, data, budget, warm_up):
    counts = {"min_size": len(widths), "max_size": len(widths)}
    cost = dict(
        zip(widths, sorted(data.draw(st.lists(latencies, **counts))), strict=True)
    )
    policy = BudgetPolicy(widths, budget, warm_up=warm_up)
    # For each width: warm-up, 3 runs to judge, and at worst a first retry.
    simulate(policy, len(widths) * (warm_up + 3 + RETRY_AFTER), lambda w, i: cost[w])
    ran = simulate(policy, 2000, lambda w, i: cost[w])
    settled = max(set(ran), key=ran.count)
    assert cost[settled] <= budget or settled == widths[0]
    assert all(cost[w] > MARGIN * budget for w in widths if w > settled)
    # The rest are retries of one wider width, 3 runs each (and warm-up the first
    # time), after pauses that double: there is room for 5 in 2000 runs.
    others = [w for w in ran if w != settled]
    assert len(set(others)) <= 1
    assert all(w > settled for w in others)
    assert len(others) <= 5 * 3 + warm_up


@given(st.data())
def test_two_slow_runs_of_five_do_not_move_it(data):
    policy = BudgetPolicy(WIDTHS, 10.0)
    simulate(policy, 100, lambda w, i: COSTS[w])
    spikes = data.draw(st.sets(st.integers(0, 4), max_size=2))
    ran = simulate(policy, 200, lambda w, i: 1000 if i % 5 in spikes else COSTS[w])
    assert ran == [1.0] * 200


@given(st.floats(1.5, 50.0), st.integers(20, 2000))
def test_it_comes_back_soon_after_a_slow_down_alike_for_all_widths(slowness, length):
    policy = BudgetPolicy(WIDTHS, 10.0)
    simulate(policy, 100, lambda w, i: COSTS[w])
    during = simulate(policy, length, lambda w, i: slowness * COSTS[w])
    # Down by at most 3 widths, 3 runs each; then retries only.
    too_slow = [w for w in during[9:] if slowness * COSTS[w] > 10 and w > 0.25]
    assert len(too_slow) <= 3 * 6
    back = simulate(policy, 100, lambda w, i: COSTS[w])
    # A retry that is under way may have to end first.
    assert back[20:] == [1.0] * 80


@given(st.integers(10, 5000))
def test_it_comes_back_from_a_slow_down_of_the_widest_only(length):
    policy = BudgetPolicy(WIDTHS, 10.0)
    simulate(policy, 100, lambda w, i: COSTS[w])
    during = simulate(policy, length, lambda w, i: 99 if w == 1.0 else COSTS[w])
    # Pauses of 50, 100, 200 ... runs with a retry of 3 after each.
    assert during.count(1.0) <= 3 * (1 + np.log2(1 + length / RETRY_AFTER))
    # The next pause is at most twice the last one, and they sum to the length.
    back = simulate(policy, length + 3 * RETRY_AFTER, lambda w, i: COSTS[w])
    assert back[-1] == 1.0


def test_pauses_between_retries_have_an_end():
    policy = BudgetPolicy(WIDTHS, 10.0)
    ran = simulate(policy, 30_000, lambda w, i: 99 if w == 1.0 else COSTS[w])
    tried = np.flatnonzero(np.array(ran) == 1.0)
    pauses = np.diff(tried)
    assert pauses.max() == LONGEST_RETRY + 3
    assert (pauses == LONGEST_RETRY + 3).sum() >= 3


def test_a_width_that_holds_again_is_forgiven():
    policy = BudgetPolicy(WIDTHS, 10.0)
    bad = lambda w, i: 99 if w == 1.0 else COSTS[w]  # noqa: E731
    simulate(policy, 3000, bad)
    simulate(policy, 5000, lambda w, i: COSTS[w])
    assert simulate(policy, 3, bad) == [1.0] * 3
    # The pauses begin anew.
    assert 1.0 in simulate(policy, 3 + RETRY_AFTER + 3, bad)[3:]


def test_a_width_that_cannot_fit_is_not_tried_early():
    # A straight line through 1 and 3 ms is at 5 ms for 0.75: too much for a budget of
    # 5.5, less a tenth. 3 runs of warm-up and 2 to come to a judgement are not counted.
    cost = {0.25: 1.0, 0.5: 3.0, 0.75: 6.0, 1.0: 10.0}
    policy = BudgetPolicy(list(cost), 5.5)
    ran = simulate(policy, 10 + 5 + RETRY_AFTER, lambda w, i: cost[w])
    assert ran == [0.25] * 10 + [0.5] * (5 + RETRY_AFTER)
    assert simulate(policy, 1, lambda w, i: cost[w]) == [0.75]


def test_runs_of_another_width_are_noted_but_change_nothing_else():
    policy = BudgetPolicy((0.5, 1.0), 10.0, warm_up=0)
    for _ in range(20):
        policy.observe(1.0, 99.0)
    assert policy.choose() == 0.5
    assert policy.latency_ms == {0.5: None, 1.0: 99.0}
    simulate(policy, 20, lambda w, i: 5.0)
    # It is known to be too slow, without having been chosen.
    assert policy.choose() == 0.5


def test_it_begins_with_one_of_the_widths():
    assert BudgetPolicy(WIDTHS, 5.0, start=0.5).choose() == 0.5
    with pytest.raises(ValueError, match="`start` must be one of"):
        BudgetPolicy([0.5, 1.0], 5.0, start=0.75)
