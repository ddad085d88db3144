"""The program `awn`: `awn_keras.cli` with native log lines in a file.

TensorFlow and its converter write dozens of lines to file descriptor 2, from the
moment they are imported, and no setting turns them off. So this must come before the
package. Python's own stderr stays. The file is in the folder `AWN_LOG`, or with other
temporary files, and is kept if awn_keras is at fault. `AWN_NATIVE_LOGS=1` and
`AWN_DEBUG=1` show the lines instead.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

#: Whether the program has yet to read its arguments; see `awn_keras/__init__.py`.
reads_arguments = False


def main() -> int:
    """Runs the command with the process's arguments.

    Returns:
        The exit code; see `awn_keras.cli.main`.
    """
    global reads_arguments
    reads_arguments = True
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if os.environ.get("AWN_NATIVE_LOGS") or os.environ.get("AWN_DEBUG"):
        from awn_keras import cli

        return cli.main()
    try:
        log = new_log()
    except OSError as error:
        sys.stderr.write(
            "awn: error: a log file is needed: set the environment variable AWN_LOG to "
            f"a folder that can be written to. Received: {error}\n"
        )
        return 2
    # Names of files that are no text of the terminal's encoding are told, too.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    at_fault = True
    try:
        from awn_keras import cli

        code = cli.main(log=log)
        at_fault = code == 1
        return code
    except SystemExit:  # of --help, or of bad arguments
        at_fault = False
        raise
    finally:
        if not at_fault:
            with contextlib.suppress(OSError):  # Windows: it is still open
                log.unlink()


def new_log() -> Path:
    """Makes a file for log lines.

    Returns:
        Its path, in the folder that the environment variable `AWN_LOG` names, if it
        does.

    Raises:
        OSError: If the folder cannot be written to.
    """
    folder = os.environ.get("AWN_LOG") or None
    descriptor, name = tempfile.mkstemp(prefix="awn_", suffix=".log", dir=folder)
    os.close(descriptor)
    return Path(name)


if __name__ == "__main__":
    sys.modules["_awn"] = sys.modules["__main__"]
    sys.exit(main())
