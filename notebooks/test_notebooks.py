"""Runs the notebooks on small data, each by itself: a part of CI.

`pytest notebooks`; with `AWN_TUTORIALS=DIR` what their cells gave is kept there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    output = os.environ.get("AWN_TUTORIALS", tmp_path)
    command = [sys.executable, HERE / "run.py", "--quick", "--output", output, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
