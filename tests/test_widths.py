import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from awn_keras.widths import (
    Networks,
    active_channels,
    block_size,
    channel_grades,
    check_width,
    check_widths,
    check_widths_grid,
    find_width,
    label_width,
    name_at_width,
    round_half_up,
    split_name_at_width,
    width_label,
)

channels = st.integers(1, 300)
staircases = st.sampled_from(["nested", "paper"])
divisors = st.sampled_from([1, 2, 3, 4, 8, 16])
widths = st.floats(0.001, 1.0)
grids = st.lists(st.integers(1, 99), max_size=6, unique=True).map(
    lambda values: [value / 100 for value in sorted(values)] + [1.0]
)


paper = partial(channel_grades, staircase="paper")
papers_channels = partial(active_channels, staircase="paper")


# ------------------------------------------------------------- the paper's staircase


def counted(count, width, divisor):
    """The rounding rule in exact arithmetic, straight from its definition."""
    if width == 1:
        return count
    rounded = (Fraction(width) * count / divisor + Fraction(1, 2)).__floor__() * divisor
    return max(min(rounded, count), min(divisor, count))


@given(channels, widths, divisors)
def test_active_channels_follow_the_rounding_rule(count, width, divisor):
    got = papers_channels(count, width, divisor, 0.0)
    exact = counted(count, width, divisor)
    # A float next to a threshold may stand for the threshold itself (1/3 typed as a
    # float): widths one ulp to either side bracket it.
    near = [counted(count, Fraction(np.nextafter(width, s)), divisor) for s in (0, 1)]
    assert got == exact or near[0] <= got <= near[1]


@given(channels, divisors, st.integers(0, 600))
def test_a_threshold_typed_as_a_float_is_met(count, divisor, numerator):
    # The widths at which a channel appears are quotients; Python's `/` gives the same
    # float as the grade, so that the channel is there.
    width = (2 * numerator + 1) * divisor / (2 * count)
    if width < 1:
        expected = max(min((numerator + 1) * divisor, count), min(divisor, count))
        assert papers_channels(count, width, divisor, 0.0) == expected


@given(channels, divisors, st.floats(0, 1))
def test_grades_are_exact(count, divisor, min_width):
    # Compared as floats, grades have the order of the fractions they stand for.
    grades = paper(count, divisor)
    blocks = [s // divisor + 1 for s in range(count)]
    exact = [
        Fraction(0)
        if b == 1
        else min(Fraction((2 * b - 1) * divisor, 2 * count), Fraction(1))
        for b in blocks
    ]
    assert [float(f) for f in exact] == grades.tolist()


@given(channels, channels, divisors)
def test_grades_of_two_layers_compare_as_fractions(size, other, divisor):
    first, second = paper(size, divisor), paper(other, divisor)
    for s, t in ((size // 2, other // 2), (size - 1, other - 1)):
        exact = [
            Fraction(0)
            if i // divisor == 0
            else min(Fraction((2 * (i // divisor) + 1) * divisor, 2 * n), Fraction(1))
            for i, n in ((s, size), (t, other))
        ]
        assert (first[s] <= second[t]) == (exact[0] <= exact[1])


@given(channels, divisors, st.floats(0.01, 1), widths)
def test_min_width_makes_its_channels_permanent(count, divisor, min_width, width):
    grades = paper(count, divisor, min_width)
    assert np.count_nonzero(grades == 0) == papers_channels(
        count, min_width, divisor, 0.0
    )
    if width >= min_width:
        assert np.count_nonzero(grades <= width) == papers_channels(
            count, width, divisor, 0.0
        )


@given(channels, divisors, grids, widths)
def test_a_grid_rounds_the_width_down(count, divisor, grid, width):
    grades = paper(count, divisor, grid[0], grid)
    assert set(grades) <= {0.0, *grid[1:]}
    below = max((w for w in grid if w <= width), default=grid[0])
    # A width below the grid's first runs as the first: those channels are permanent.
    assert np.count_nonzero(grades <= width) == papers_channels(
        count, below, divisor, 0.0
    )


def test_the_papers_45_channels():
    counts = [papers_channels(45, w) for w in (0.25, 0.5, 0.75, 1)]
    assert counts == [11, 23, 34, 45]


# ------------------------------------------------------------------ nested staircases


def steps_of(count, divisor, min_width):
    """How many steps a layer may have: 3, or as many as it has blocks that come."""
    size = block_size(count, divisor)
    blocks = -(-count // size)
    on = min(
        max(math.floor(Fraction(str(min_width)) * count / size + Fraction(1, 2)), 1),
        blocks - 1,
    )
    steps = 3
    while 2 * steps <= blocks - on:
        steps *= 2
    return steps


@given(channels, divisors)
def test_a_layer_has_four_blocks_where_it_can(count, divisor):
    size = block_size(count, divisor)
    assert 1 <= size <= divisor
    assert count >= 4 * size or size == 1
    # The width is not smaller than necessary.
    assert size == divisor or count < 4 * (2 * size)


@given(st.integers(2, 300), divisors, st.integers(1, 99))
def test_at_its_steps_a_layer_has_its_share(count, divisor, percent):
    min_width = percent / 100
    grades = channel_grades(count, divisor, min_width)
    steps = steps_of(count, divisor, min_width)
    start = Fraction(percent, 100)
    ends = [start + (1 - start) * Fraction(j, steps) for j in range(steps + 1)]
    # 0.7 at 0.1 and two thirds more, and not 0.7000000000000001.
    assert set(grades) <= {0.0, *map(float, ends[1:])}
    size = block_size(count, divisor)
    for width in ends[:-1]:
        blocks = (width * count / size + Fraction(1, 2)).__floor__()
        # The last block waits for width 1.
        expected = min(max(blocks, 1), -(-count // size) - 1) * size
        assert np.count_nonzero(grades <= float(width)) == expected
    assert grades[-1] == 1.0


@given(st.integers(2, 300), st.integers(2, 300), divisors, st.floats(0.01, 0.99))
def test_of_two_layers_one_changes_only_where_the_other_does(
    channels, other, divisor, min_width
):
    every = [set(channel_grades(n, divisor, min_width)) for n in (channels, other)]
    few, many = sorted(every, key=len)
    if len(few) > 3:  # or it may lack a step in between
        assert few <= many


@given(channels, divisors, st.none() | grids, st.floats(0, 1))
def test_the_last_block_comes_last(count, divisor, grid, min_width):
    grades = channel_grades(
        count, divisor, min_width if grid is None else grid[0], grid
    )
    last = grades[-1]
    assert last == 1.0 or count == 1 or min_width == 1 or grid == [1.0]


def test_layers_by_hand():
    assert channel_grades(24, 8, 0.25).tolist() == (
        [0.0] * 8 + [0.5] * 4 + [0.75] * 8 + [1.0] * 4
    )
    assert channel_grades(45, 1, 0.25)[-1] == 1.0
    counts = [active_channels(45, w) for w in (0.25, 0.5, 0.75, 1)]
    assert counts == [11, 23, 34, 45]
    assert len(set(channel_grades(45, 1, 0.25))) == 25
    assert channel_grades(1).tolist() == [0.0]
    assert channel_grades(2).tolist() == [0.0, 1.0]


# ------------------------------------------------------------------------------ both


@given(channels, divisors, widths, widths, staircases)
def test_active_channels_grow_with_width(count, divisor, first, other, staircase):
    narrow, wide = (
        active_channels(count, width, divisor, 0.1, staircase)
        for width in sorted((first, other))
    )
    assert narrow <= wide


@given(channels, divisors, staircases)
def test_all_channels_are_active_at_full_width(count, divisor, staircase):
    # Also where less than half a block is left over: 10 channels in blocks of 8.
    assert active_channels(count, 1.0, divisor, staircase=staircase) == count


@given(channels, divisors, widths, staircases)
def test_active_channels_are_whole_blocks(count, divisor, width, staircase):
    got = active_channels(count, width, divisor, staircase=staircase)
    size = divisor if staircase == "paper" else block_size(count, divisor)
    assert got % size == 0 or got == count


@given(channels, divisors, staircases, st.floats(0.25, 1))
def test_what_is_always_on_leaves_the_steps_as_they_are(
    count, divisor, staircase, always_on
):
    usual = channel_grades(count, divisor, 0.25, staircase=staircase)
    more = channel_grades(
        count, divisor, 0.25, staircase=staircase, always_on=always_on
    )
    assert np.all(more[usual != more] == 0)
    assert np.all(np.diff(more) >= 0)
    # As many as in a layer whose smallest width is this width.
    wanted = active_channels(count, always_on, divisor, always_on, staircase)
    assert np.count_nonzero(more == 0) == wanted


@given(channels, divisors, st.floats(0, 1), staircases)
def test_grades_ascend_from_zero(count, divisor, min_width, staircase):
    grades = channel_grades(count, divisor, min_width, staircase=staircase)
    assert grades[0] == 0
    assert np.all(np.diff(grades) >= 0)
    assert grades[-1] <= 1
    assert not ((grades > 0) & (grades <= min_width)).any()


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, float("nan")])
def test_a_width_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\].*Received: width="):
        check_width(value)


@pytest.mark.parametrize("value", ["0.5", None, True])
def test_a_width_that_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="`width` must be a number"):
        check_width(value)


def test_a_width_below_min_width_is_refused():
    with pytest.raises(ValueError, match=r"at least the model's min_width=0.25"):
        check_width(0.2, 0.25)


@pytest.mark.parametrize("grid", [[], [0.5], [0.5, 0.25, 1.0], [0.5, 0.5, 1.0]])
def test_a_bad_grid_is_refused(grid):
    with pytest.raises(ValueError, match=r"`widths_grid` must ascend and end at 1.0"):
        check_widths_grid(grid)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"channels": 0}, "`channels` must be a positive integer"),
        ({"channels": 4.0}, "`channels` must be a positive integer"),
        ({"channels": 4, "divisor": 0}, "`divisor` must be a positive integer"),
        ({"channels": 4, "min_width": 2}, r"`min_width` must be in \[0, 1\]"),
        ({"channels": 4, "staircase": "steep"}, "`staircase` must be one of"),
        ({"channels": 4, "always_on": 1.5}, "`always_on` must be in"),
    ],
)
def test_bad_arguments_of_grades_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        channel_grades(**arguments)


def test_halves_are_rounded_up():
    assert [round_half_up(x) for x in (0.4, 0.5, 1.5, 2.5)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: check_widths("0.5"), "`widths` must be a sequence"),
        (lambda: check_widths_grid(0.5), "`widths_grid` must be a sequence"),
    ],
)
def test_bad_types_are_refused(make, match):
    with pytest.raises(TypeError, match=match):
        make()


@given(st.floats(1e-4, 1.0))
def test_labels_tell_widths_apart(width):
    label = width_label(width)
    assert float(label.replace("_", ".")) / 100 == pytest.approx(width, abs=1e-8)
    assert "." not in label


@pytest.mark.parametrize(
    ("width", "label"),
    [(0.25, "025"), (1.0, "100"), (0.625, "062_5"), (0.07, "007")],
)
def test_labels(width, label):
    assert width_label(width) == label
    assert label_width(label) == width


@pytest.mark.parametrize("label", ["25", "0250", "000", "101", "025_0", "w025", ""])
def test_what_is_no_label_has_no_width(label):
    assert label_width(label) is None


@given(st.floats(1e-7, 1.0))
def test_a_label_is_read_as_what_it_was_written_for(width):
    label = width_label(width)
    known = label_width(label)
    # A label has 6 decimals of a percent; half of the last one is 5e-9.
    assert known == pytest.approx(width, abs=5.1e-9)
    assert width_label(known) == label


@given(st.from_regex(r"[0-9]{3}(_[0-9]{1,6})?", fullmatch=True))
def test_a_width_is_written_as_the_label_it_was_read_from(label):
    width = label_width(label)
    assert width is None or width_label(width) == label


@given(st.floats(1e-7, 1.0), st.lists(st.floats(1e-7, 1.0), max_size=3))
def test_a_width_is_found_by_its_label(width, others):
    rounded = label_width(width_label(width))
    nearest = find_width(rounded, [*others, width])
    assert width_label(nearest) == width_label(width)
    assert find_width(0.5, [1 / 3, 0.50001]) is None


@given(
    st.from_regex(r"(val_)?[a-z][a-z0-9_]{0,9}", fullmatch=True), st.floats(1e-7, 1.0)
)
def test_what_is_logged_at_a_width_tells_both(name, width):
    named, known = split_name_at_width(name_at_width(name, width))
    assert named == name
    assert width_label(known) == width_label(width)


@pytest.mark.parametrize("name", ["loss", "loss_w25", "loss_w000", "_w025", "w025"])
def test_what_is_logged_without_a_width_tells_none(name):
    assert split_name_at_width(name) is None


@given(channels, divisors, st.floats(0.05, 1.0), st.none() | grids, staircases)
def test_levels_number_the_networks(count, divisor, min_width, grid, staircase):
    if grid is not None:
        min_width = grid[0]
    grades = channel_grades(count, divisor, min_width, grid, staircase)
    networks = Networks.of_grades([grades, np.zeros(3)], min_width, grid, staircase)
    every = networks.distinct_widths
    # As many names as networks, each running the one that it names.
    assert [int(networks.level_of(width)) for width in every] == list(range(len(every)))
    active = [np.count_nonzero(grades <= width) for width in every]
    assert len(set(active)) == len(every)
    for level, start in enumerate(networks.starts):
        assert networks.level_of(start) == level
