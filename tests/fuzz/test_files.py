"""A damaged file ends a command with one line, or does not matter."""

import random
from pathlib import Path

import pytest

from tests.conftest import eagerly
from tests.fuzz.commands import run
from tests.fuzz.conftest import CASES
from tests.fuzz.places import FOREIGN, damage

pytestmark = eagerly


@pytest.mark.parametrize("kind", FOREIGN)
def test_damaged_files(kind, fresh):
    refused = 0
    for seed in range(CASES):
        with fresh():
            words, how = damage(kind, Path(), random.Random(seed))
            fault, ended = run(words)
        assert not fault, f"seed {seed}, {' '.join(words)}, {how}: {fault}"
        refused += ended
    assert refused or FOREIGN[kind].may_not_matter
