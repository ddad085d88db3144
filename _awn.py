"""The program `awn`: `awn_keras.cli` without native log lines.

TensorFlow and its converter write dozens of lines to file descriptor 2, from the
moment they are imported, and no setting turns them off. So this must come before the
package. Python's own stderr stays; `AWN_NATIVE_LOGS=1` shows everything.
"""

import os
import sys


def main() -> int:
    """Runs the command with the process's arguments; returns the exit code."""
    if not os.environ.get("AWN_NATIVE_LOGS"):
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    from awn_keras import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
