import pytest
from hypothesis import given
from hypothesis import strategies as st

from awn_keras.deploy.signatures import (
    Refinement,
    signature_width,
    width_signature,
)
from awn_keras.widths import width_label

PERCENTS = st.integers(1, 1000)


@given(st.floats(1e-7, 1.0))
def test_a_signature_tells_its_width(width):
    known = signature_width(width_signature(width))
    assert width_label(known) == width_label(width)
    # A name has 6 decimals of a percent; half of the last one is 5e-9.
    assert known == pytest.approx(width, abs=5.1e-9)


@pytest.mark.parametrize(
    "name",
    ["width_000", "width_101", "width_50", "width_0500", "width_050_0", "050", "width"],
)
def test_other_names_are_no_widths(name):
    assert signature_width(name) is None


@given(PERCENTS, PERCENTS)
def test_a_refinement_is_known_by_each_of_its_names(first, other):
    pair = Refinement(first / 1000, other / 1000)
    for name in (pair.keep, pair.refine):
        assert signature_width(name) is None
        assert Refinement.parse(name) == (pair if first < other else None)


@pytest.mark.parametrize(
    "name", ["keep_025", "keep_025_100", "refine_000_to_100", "x_keep_025_to_100", ""]
)
def test_other_names_are_no_refinement(name):
    assert Refinement.parse(name) is None
