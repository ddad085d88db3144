"""`python -m awn_keras.cli`: the command `awn`, with the log lines of TensorFlow."""

import sys

from awn_keras.cli import main

sys.exit(main())
