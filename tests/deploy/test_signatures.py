import pytest
from hypothesis import given
from hypothesis import strategies as st

from awn_keras.deploy.converter import convert
from awn_keras.deploy.signatures import (
    Refinement,
    signature_width,
    signatures,
    width_signature,
)
from awn_keras.widths import width_label
from tests.conftest import small_dense

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
def test_a_refinement_is_known_by_each_of_its_names(one, other):
    pair = Refinement(one / 1000, other / 1000)
    for name in (pair.keep, pair.refine):
        assert signature_width(name) is None
        assert Refinement.parse(name) == (pair if one < other else None)


@pytest.mark.parametrize(
    "name", ["keep_025", "keep_025_100", "refine_000_to_100", "x_keep_025_to_100", ""]
)
def test_other_names_are_no_refinement(name):
    assert Refinement.parse(name) is None


def test_signatures_of_a_file_in_the_order_of_names():
    model = small_dense()
    content = convert({"width_050": model, "keep": model})
    found = signatures(content, "file")
    assert set(found) == {"width_050", "keep"}
    given, gives = found["keep"]
    assert [one[0] for one in given] == sorted(one[0] for one in given)
    assert [one[1] for one in gives] == [(1, *x.shape[1:]) for x in model.outputs]


def test_what_is_no_file_is_refused():
    with pytest.raises(ValueError, match="'file' is not a TFLite file"):
        signatures(b"not a network", "file")
