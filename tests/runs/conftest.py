import pytest

from awn_keras.runs.recipe import Recipe
from awn_keras.runs.run import run

#: A few seconds.
QUICK = Recipe("digits", filters=4, epochs=3, num_widths=3)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run: its result and its directory."""
    directory = tmp_path_factory.mktemp("run")
    return run(QUICK, directory, verbose=0), directory
