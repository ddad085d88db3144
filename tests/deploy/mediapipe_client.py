"""Runs MediaPipe in another Python.

MediaPipe cannot be installed beside TensorFlow. The environment variable
AWN_MEDIAPIPE_PYTHON names the Python of an environment that has it (`pip install
mediapipe==1.2.3`).
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
    """Classifies a photo with each model file, and returns the finished process."""
    return subprocess.run(
        [PYTHON, PROGRAM, photo, *files],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )


def answers_of(photo, *files):
    """Returns `[[label, score], ...]` for each file, the most likely class first."""
    done = classified(photo, *files)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
