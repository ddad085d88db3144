"""Lets what `awn_keras.files` asks of the system fail, one call after the other."""

import contextlib
import errno
import os
import sys
from pathlib import Path

import pytest

from awn_keras import files

#: All by which files change; each is made to fail.
CALLS = {
    "write": (os, "write"),
    "fsync": (os, "fsync"),
    "replace": (Path, "replace"),
}


class Fault:
    """A call that fails, or would have.

    Attributes:
        came: Whether it was made.
    """

    def __init__(self):
        self.came = False


@contextlib.contextmanager
def failing(call, number):
    """Lets a call find no space left when it is made for the `number`-th time."""
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
        if call == "write":  # a part gets there
            original(args[0], args[1][:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call_or_fail)
        yield fault


def contents(folder):
    """All files in and below a folder, by name; links are followed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """Mounts a disk of so many kB on a folder, which is made."""
    import subprocess

    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "awn", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
