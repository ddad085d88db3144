"""MediaPipe, in a Python of its own.

It cannot be installed beside TensorFlow: AWN_MEDIAPIPE_PYTHON names a Python of an
environment of its own (`pip install mediapipe==1.2.3`).
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("AWN_MEDIAPIPE_PYTHON")
PROGRAM = Path(__file__).with_name("mediapipe_program.py")

needs_mediapipe = pytest.mark.skipif(
    not PYTHON, reason="AWN_MEDIAPIPE_PYTHON names no Python that has MediaPipe"
)


def classified(photo, *files):
    """The finished process that classifies a photo with model files."""
    return subprocess.run(
        [PYTHON, PROGRAM, photo, *files],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )


def answers_of(photo, *files):
    """For each file its `[[label, score], ...]`, the most likely first."""
    done = classified(photo, *files)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
