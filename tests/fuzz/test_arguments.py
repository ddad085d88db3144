"""Bad arguments end a command with one line, and no file is left incomplete."""

import hypothesis
import pytest
from hypothesis import strategies as st

from awn_keras.cli import COMMANDS
from tests.conftest import eagerly
from tests.fuzz.arguments import USUAL, bad_arguments
from tests.fuzz.commands import run
from tests.fuzz.conftest import CASES

pytestmark = eagerly


def test_each_command_is_tried():
    assert list(USUAL) == list(COMMANDS)


@pytest.mark.parametrize("command", USUAL)
def test_usual_arguments_are_taken(command, fresh):
    with fresh():
        assert run([command, *USUAL[command].split()]) == ("", False)


@pytest.mark.parametrize("command", USUAL)
@hypothesis.settings(
    max_examples=2 * CASES,
    # The fixture is safe to share, because each case enters a new folder.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(rng=st.randoms(use_true_random=False))
def test_bad_arguments(command, fresh, rng):
    words = bad_arguments(command, rng)
    with fresh():
        fault, _ = run(words)
    assert not fault, f"{words}: {fault}"
