"""Times whole and cut convolutions, and fits the constants of the cost model.

    python -m benchmarks.layouts [--runs 30] [--output FILE]

Each signature holds one convolution with ReLU. Each convolution is measured whole and
cut into 2, 3, 4 and 8 blocks of outputs. The cuts form a triangle: the block that ends
after a part of the outputs reads an equal part of the inputs. Times are medians with
LiteRT (XNNPACK) on one thread; all signatures take turns.

The constants are fitted by non-negative least squares of relative errors. They become
`awn_keras.layouts.COSTS`. The printed table shows how many times faster each cut is
than the whole convolution, and in brackets the prediction of the fitted model. Takes
four minutes on two cores, mostly for conversion.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import keras
import numpy as np
from scipy.optimize import nnls

from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut
from awn_keras.deploy.timing import medians, time_signatures
from awn_keras.environment import environment
from awn_keras.layouts import Candidate, Cut, Work, work_of

OUTPUT = Path(__file__).parents[1] / "results" / "layouts.json"
#: Side of the kernel, number of rows (and of cols), input channels, output channels.
SHAPES = (
    *((1, 112, 24, 136), (1, 56, 136, 32), (1, 56, 32, 200), (1, 56, 64, 128)),
    *((1, 28, 48, 272), (1, 28, 272, 48), (1, 28, 128, 128), (1, 14, 88, 544)),
    *((1, 14, 544, 88), (1, 14, 256, 256), (1, 7, 224, 1360), (1, 7, 1360, 456)),
    *((1, 7, 512, 512), (1, 1, 512, 512), (3, 56, 32, 32), (3, 28, 64, 64)),
    *((3, 26, 128, 128), (3, 14, 128, 128), (3, 7, 256, 256), (3, 4, 64, 64)),
    *((5, 12, 128, 128), (3, 24, 48, 48)),
)
BLOCKS = (1, 2, 3, 4, 8)


def ends(channels: int, blocks: int) -> list[int]:
    """Returns the ends of blocks, in multiples of 8 as is usual in mobile networks."""
    return [max(8, 8 * round(channels * k / blocks / 8)) for k in range(1, blocks + 1)]


def main() -> None:
    """Measures the convolutions, fits the constants, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    networks, rows = {}, []
    for side, size, inputs, outputs in SHAPES:
        image = keras.Input((size, size, inputs))
        layer = keras.layers.Conv2D(
            outputs, side, padding="same", activation="relu", name="layer"
        )
        whole = keras.Model(image, layer(image))
        candidate = Candidate(
            layer,
            np.zeros(inputs),
            np.zeros(outputs),
            (size, size),
            (size, size),
            False,
        )
        for blocks in BLOCKS:
            pairs = zip(ends(inputs, blocks), ends(outputs, blocks), strict=True)
            triangle = Cut(tuple(dict.fromkeys(pairs)))
            if len({out for _, out in triangle.ends}) < blocks:
                continue  # too few channels for so many blocks
            option = None if blocks == 1 else triangle
            name = f"s{len(networks)}"
            networks[name] = whole if option is None else cut(whole, {"layer": option})
            rows.append(
                {
                    "kernel": side,
                    "rows": size,
                    "inputs": inputs,
                    "outputs": outputs,
                    "blocks": blocks,
                    "signature": name,
                    "work": work_of(candidate, 1.0, option),
                }
            )
    content = convert(networks)
    print("timing", flush=True)
    times = medians(time_signatures(content, list(networks), runs=args.runs))
    for row in rows:
        row["microseconds"] = 1e3 * times[row.pop("signature")]
    matrix = np.array([row["work"] for row in rows])
    measured = np.array([row["microseconds"] for row in rows])
    # The column of ones fits the constant time of a call from Python.
    with_call = np.column_stack([matrix, np.ones(len(rows))])
    fit, _ = nnls(with_call / measured[:, None], np.ones(len(rows)))
    *costs, call = fit.tolist()
    for row, fitted in zip(rows, with_call @ fit, strict=True):
        row["fitted"] = float(fitted)
        if row["blocks"] == 1:
            base = row
            title = f"{row['kernel']}x{row['kernel']} {row['inputs']}->{row['outputs']}"
            print(f"\n{title} at {row['rows']}: {row['microseconds']:.0f} us", end="")
        else:
            real = base["microseconds"] / row["microseconds"]
            model = base["fitted"] / row["fitted"]
            row["speed"], row["fitted_speed"] = real, model
            print(f"  {row['blocks']}: {real:.2f} ({model:.2f})", end="")
    errors = [
        abs(row["speed"] - row["fitted_speed"]) for row in rows if row["blocks"] > 1
    ]
    result = {
        "what": "Convolutions whole and cut; LiteRT, XNNPACK, one thread, float32",
        "runs": args.runs,
        "microseconds_of": dict(zip(Work._fields, costs, strict=True)),
        "microseconds_of_a_call": call,
        "median_error_of_speed": statistics.median(errors),
        "rows": [{**row, "work": list(row["work"])} for row in rows],
        "environment": environment(),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{Work(*costs)}\nmedian error of the speed-up: {np.median(errors):.3f}")


if __name__ == "__main__":
    main()
