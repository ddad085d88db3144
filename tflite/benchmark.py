"""Measures each width of a TFLite file, on this machine, a phone or a board.

    python tflite/benchmark.py model.tflite --targets cpu,gpu --threads 1,2
    python tflite/benchmark.py model.tflite --android --cpu --gpu --benchmark-model FILE
    python tflite/benchmark.py --help

The same as `awn benchmark`.
"""

import sys

from awn_keras.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
