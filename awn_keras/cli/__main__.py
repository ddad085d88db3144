"""`python -m awn_keras.cli`: the command with its native log lines."""

import sys

from awn_keras.cli import main

sys.exit(main())
