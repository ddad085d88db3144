import os

import pytest

from tests.fuzz.commands import inside
from tests.fuzz.places import copy_of, make_place

#: Number of cases for each kind of file, and for each command. For more cases, run
#: `AWN_FUZZ=1000 pytest tests/fuzz`.
CASES = int(os.environ.get("AWN_FUZZ", "12"))


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def fresh(place, tmp_path):
    """Returns a function that enters a new copy of the place."""
    count = 0

    def enter():
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        return inside(copy_of(place, folder))

    return enter
