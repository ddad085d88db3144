"""Makes a chosen system call of `awn_keras.files` fail."""

import contextlib
import errno
import os
import sys
from pathlib import Path

import pytest

from awn_keras import files

#: All calls that change files. Tests make each call fail.
CALLS = {
    "write": (os, "write"),
    "fsync": (os, "fsync"),
    "replace": (Path, "replace"),
}


class Fault:
    """Whether a call was made to fail.

    Attributes:
        came: Whether the call was made, and so failed.
    """

    def __init__(self):
        self.came = False


@contextlib.contextmanager
def failing(call, number):
    """Makes a call of `awn_keras.files` fail with "no space left".

    Args:
        call: A key of `CALLS`.
        number: Which call fails; 0 is the first.
    """
    owner, name = CALLS[call]
    original = getattr(owner, name)
    fault, count = Fault(), 0

    def call_or_fail(*args):
        nonlocal count
        if sys._getframe(1).f_code.co_filename != files.__file__:
            return original(*args)
        count += 1
        if count - 1 != number:
            return original(*args)
        fault.came = True
        if call == "write":  # a full disk still takes a part
            original(args[0], args[1][:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call_or_fail)
        yield fault


def contents(folder):
    """Reads all files in a folder and its subfolders, by name. Follows links."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """Makes a folder and mounts a disk of `kilobytes` kB on it."""
    import subprocess

    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "awn", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
