"""Writes a TFLite file that runs at any of its widths.

    python tflite/export.py model.keras --widths 0.25,0.5,0.75,1 --output model.tflite
    python tflite/export.py --help

The same as `awn export`. Expect some seconds for a small network, a minute or two for
a MobileNetV2 of 224x224 with 4 widths.
"""

import sys

from awn_keras.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
