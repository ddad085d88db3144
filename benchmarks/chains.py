"""Measures expansion, depthwise convolution and projection, whole and cut as a chain.

    python benchmarks/chains.py [--runs 100] [--output FILE]

Inverted residuals of the sizes that MobileNetV2 has when it is balanced, with their
shortcuts, cut into four blocks as a file of four widths is. The projection reads the
blocks of the widest tensors: *joined* it copies them, *added* it has a kernel for each
and adds what they give; `adding_pays` chooses. LiteRT (XNNPACK), one thread, medians,
all in turns.
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
#: Rows and cols, channels of the trunk, channels between.
SIZES = ((28, 32, 192), (14, 80, 464), (14, 112, 696), (7, 192, 1160))
BLOCKS = 4


def chain(size: int, channels: int, between: int) -> keras.Model:
    """A layer that makes the trunk's blocks, and an inverted residual after it."""
    inputs = keras.Input((size, size, 8))
    x = shortcut = keras.layers.Conv2D(channels, 1, name="trunk")(inputs)
    x = keras.layers.Conv2D(between, 1, name="expand")(x)
    x = keras.layers.ReLU(6.0)(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.layers.ReLU(6.0)(x)
    x = keras.layers.Conv2D(channels, 1, name="project")(x)
    return keras.Model(inputs, keras.layers.Add()([shortcut, x]))


def cuts_of(channels: int, between: int) -> dict[str, Cut]:
    """Where a file of four widths cuts the layers."""
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
    """Measures, prints, writes."""
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
