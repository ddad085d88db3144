"""Times inverted residuals whole and cut into blocks.

    python -m benchmarks.chains [--runs 100] [--output FILE]

An inverted residual is a chain of expansion, depthwise convolution and projection, with
a shortcut. The sizes are those of a MobileNetV2 with `width_multiplier="balanced"`. The
layers are cut into four blocks, as in a file of four widths. The projection reads the
blocks of the widest tensor in one of two ways. *Joined*: the blocks are copied into one
tensor. *Added*: each block has its own kernel, and the results are added. The exporter
chooses with `adding_pays`. Times are medians with LiteRT (XNNPACK) on one thread; all
variants take turns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import keras

from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut
from awn_keras.deploy.timing import medians, time_signatures
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.layouts import Cut

OUTPUT = Path(__file__).parents[1] / "results" / "chains.json"
#: Number of rows (and of cols), channels of the trunk, channels after the expansion.
SIZES = ((28, 32, 192), (14, 80, 464), (14, 112, 696), (7, 192, 1160))
BLOCKS = 4


def chain(size: int, channels: int, between: int) -> keras.Model:
    """Builds a layer that makes the blocks of the trunk, then an inverted residual."""
    inputs = keras.Input((size, size, 8))
    x = shortcut = keras.layers.Conv2D(channels, 1, name="trunk")(inputs)
    x = keras.layers.Conv2D(between, 1, name="expand")(x)
    x = keras.layers.ReLU(6.0)(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.layers.ReLU(6.0)(x)
    x = keras.layers.Conv2D(channels, 1, name="project")(x)
    return keras.Model(inputs, keras.layers.Add()([shortcut, x]))


def cuts_of(channels: int, between: int) -> dict[str, Cut]:
    """Returns where a file of four widths cuts the layers."""
    trunk, wide = (
        [8 * round(count * k / BLOCKS / 8) for k in range(1, BLOCKS + 1)]
        for count in (channels, between)
    )
    return {
        "trunk": Cut(tuple((8, end) for end in trunk)),
        "expand": Cut(tuple(zip(trunk, wide, strict=True))),
        "project": Cut(tuple(zip(wide, trunk, strict=True))),
    }


def main() -> None:
    """Measures all sizes, then prints and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    networks, rows = {}, []
    for size, channels, between in SIZES:
        whole, cuts = chain(size, channels, between), cuts_of(channels, between)
        name = f"{size}x{size}, {channels} and {between} channels"
        networks[f"{name}: whole"] = whole
        networks[f"{name}: joined"] = cut(whole, cuts, adds=False)
        networks[f"{name}: as chosen"] = cut(whole, cuts)
        names = [layer.name for layer in networks[f"{name}: as chosen"].layers]
        added = sum(f"project_sum{index}" in names for index in range(BLOCKS))
        rows.append({"chain": name, "blocks": BLOCKS, "added": added})
    signatures = {f"s{index}": name for index, name in enumerate(networks)}
    content = convert({key: networks[name] for key, name in signatures.items()})
    times: dict[str, Any] = {
        signatures[key]: ms
        for key, ms in medians(
            time_signatures(content, list(signatures), runs=args.runs)
        ).items()
    }
    for row in rows:
        for form in ("whole", "joined", "as chosen"):
            row[form] = 1e3 * times[f"{row['chain']}: {form}"]
        print(row, flush=True)
    result = {
        "what": "LiteRT, XNNPACK, one thread, float32, microseconds",
        "runs": args.runs,
        "rows": rows,
        "environment": environment(),
    }
    write_whole(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
