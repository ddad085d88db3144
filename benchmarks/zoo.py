"""Checks on many architectures that an any-width network keeps its promises.

    python -m benchmarks.zoo [--names RegNetY U-Net ...] [--output FILE]

`tests/zoo` builds a small network of each architecture. The script converts the network
with `to_any_width(min_width=0.25)` and draws random biases and statistics. The checks
are:

- `slim` at five widths;
- gradients of one pass over three widths;
- some steps of training;
- float32 and int8 files at the narrowest and the full width.

The result is saved after each architecture. An architecture that is in the result is
not measured again, unless `--names` names it. Architectures of KerasHub or kimm are
left out if these packages are not installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import (
    AnyWidthInterpreter,
    AnyWidthModel,
    ConversionError,
    FixedWidths,
    count_macs,
    count_parameters,
    export_tflite,
    slim,
    to_any_width,
)
from awn_keras.environment import environment
from awn_keras.errors import ExportError
from awn_keras.files import write_whole
from awn_keras.layers.base import TriLayer
from benchmarks.families import randomize
from benchmarks.loop import train_by_the_loop
from tests.zoo.architectures import ARCHITECTURES
from tests.zoo.collections import missing

OUTPUT = Path(__file__).parents[1] / "results" / "zoo.json"
MIN_WIDTH = 0.25
#: Each vocabulary of the zoo has at least this many words.
WORDS = 50
#: A gradient below this part of the largest gradient is only a rounding error. For
#: example, the gradient of a bias before a normalization is 0 in theory.
NEGLIGIBLE = 1e-2
STEPS = 4


def converted(name: str) -> AnyWidthModel:
    """Builds and converts an architecture.

    Args:
        name: Name of an architecture of the zoo.

    Returns:
        The model, with random biases, factors and statistics. Dropout is off, because
        each pass of a loop over widths would drop other values.

    Raises:
        ConversionError: If the architecture cannot be converted.
    """
    keras.utils.set_random_seed(0)
    model = to_any_width(ARCHITECTURES[name](), min_width=MIN_WIDTH)
    randomize(model)
    for layer in model.layers:
        for rate in ("rate", "drop_path_rate", "stddev"):
            if hasattr(layer, rate):
                setattr(layer, rate, 0.0)
    return model


def samples_of(model: AnyWidthModel, count: int = 4) -> Any:
    """Draws random samples: words for inputs of integers, else normal numbers.

    Args:
        model: The model.
        count: Number of samples.

    Returns:
        An array `(count, ...)`, or a list of arrays if the model has several inputs.
    """
    rng = np.random.default_rng(1)
    x = [
        rng.integers(0, WORDS, (count, *x.shape[1:])).astype("int32")
        if "int" in x.dtype
        else rng.normal(size=(count, *x.shape[1:])).astype("float32")
        for x in model.inputs
    ]
    return x if len(x) > 1 else x[0]


def some_widths(model: AnyWidthModel, count: int = 5) -> list[float]:
    """Returns at most `count` distinct widths, with the first and the last."""
    widths = model.distinct_widths
    places = np.linspace(0, len(widths) - 1, min(count, len(widths))).round()
    return [widths[int(place)] for place in places]


def slim_difference(model: AnyWidthModel, width: float, x: Any) -> float:
    """Compares a slim network with the model, and its size with the counts.

    Args:
        model: The model.
        width: A width of the model.
        x: Samples.

    Returns:
        The largest difference of an output, relative to its largest number.

    Raises:
        AssertionError: If the slim network has another number of weights or operations
            than `count_parameters` and `count_macs` of the model return.
    """
    small = slim(model, width)
    counted = count_macs(model, width), count_parameters(model, width)
    real = count_macs(small), small.count_params()
    if counted != real:
        raise AssertionError(
            f"At width {width}, the counts of the model are {counted}, but the slim "
            f"network has {real}."
        )
    return difference(small(x, training=False), model.at(width)(x, training=False))


def difference(got: Any, wanted: Any) -> float:
    """Returns the largest difference, relative to the largest number of an array."""
    return max(
        float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-9))
        for a, b in _pairs(got, wanted)
    )


def noise(got: Any, wanted: Any) -> float:
    """Returns the root mean square of the differences, relative to the deviation.

    The deviation is that of the numbers in the wanted array. With several arrays, the
    largest result counts.
    """
    return max(
        float(np.sqrt(np.mean((a - b) ** 2)) / max(b.std(), 1e-9))
        for a, b in _pairs(got, wanted)
    )


def _pairs(got: Any, wanted: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    got, wanted = (
        [np.asarray(x, "float64") for x in keras.tree.flatten(each)]
        for each in (got, wanted)
    )
    return list(zip(got, wanted, strict=True))


def _answers(model: AnyWidthModel, count: int = 4) -> list[np.ndarray]:
    """Draws random targets in the shapes of the model's outputs."""
    rng = np.random.default_rng(2)
    return [rng.normal(size=(count, *y.shape[1:])) for y in model.outputs]


def _compile(model: AnyWidthModel, optimizer: Any, widths: list[float]) -> None:
    losses = ["mse"] * len(model.outputs)
    model.compile(
        optimizer,
        losses if len(losses) > 1 else losses[0],
        widths=FixedWidths(widths),
        report_widths=[],
        run_eagerly=True,  # tracing takes more time than the few steps do
    )


class _Recorder(keras.optimizers.SGD):
    """An optimizer that records the gradients and changes no weight."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        # TensorFlow's gradient of an embedding has only some rows. The sum with zeros
        # has all rows.
        self.grads = [
            np.asarray(keras.ops.add(keras.ops.zeros(weight.shape), grad))
            for grad, weight in zip(grads, trainable_variables, strict=True)
        ]


def gradient_difference(model: AnyWidthModel, x: Any) -> float:
    """Compares the gradients of one pass with those of a pass for each width.

    Args:
        model: The model. It is compiled anew; its weights are as before at the end.
        x: Samples.

    Returns:
        The largest difference in the gradient of a weight. It is relative to the
        largest number in the gradient of this weight, or to `NEGLIGIBLE` times the
        largest number in all gradients, if that is more.
    """
    y = _answers(model)
    before = model.get_weights()
    both = []
    for loops in (False, True):
        model.set_weights(before)
        _compile(model, _Recorder(), some_widths(model, 3))
        if loops:
            train_by_the_loop(model)
        model.train_on_batch(x, y)
        both.append(model.optimizer.grads)
    del model.train_step  # removes the loop, so that the method of the class is back
    model.set_weights(before)
    largest = max(np.abs(grad).max(initial=0) for grad in both[1])
    return max(
        float(np.abs(a - b).max() / max(np.abs(b).max(), NEGLIGIBLE * largest))
        for a, b in zip(*both, strict=True)
        if a.size
    )


def losses_of_training(model: AnyWidthModel, x: Any) -> list[float]:
    """Trains some steps on one batch with random targets.

    Args:
        model: The model; its weights change.
        x: Samples.

    Returns:
        The first and the last loss.
    """
    y = _answers(model)
    _compile(model, keras.optimizers.Adam(1e-3), some_widths(model, 2))
    losses = [
        float(model.train_on_batch(x, y, return_dict=True)["loss"])
        for _ in range(STEPS)
    ]
    return [losses[0], losses[-1]]


def file_differences(
    model: AnyWidthModel,
    widths: list[float],
    x: Any,
    precision: str = "float32",
) -> list[float]:
    """Exports a file, runs it with LiteRT, and compares it with `slim`.

    Args:
        model: The model.
        widths: Widths of the file.
        x: Samples.
        precision: `"float32"` or `"int8"`.

    Returns:
        For each width, the result of `difference`, or of `noise` for int8.

    Raises:
        ExportError: If the model cannot be exported, for example because TFLite has no
            builtin operator for a layer.
    """
    given: dict[str, Any] = {"samples": x, "verbose": 0}
    measure = difference
    if precision == "int8":
        # The error is measured here, so the export must not refuse a large error.
        given |= {"representative": samples_of(model, 32), "tolerance": 1e9}
        measure = noise
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # A random network has no clear classes. So the rounding of int8 often changes
        # the class, and the warning about it says nothing.
        warnings.filterwarnings("ignore", message=".*give equal classes for only")
        path = Path(folder) / "model.tflite"
        export_tflite(model, path, widths=widths, precision=precision, **given)
        file = AnyWidthInterpreter(path)
        results = []
        for width in widths:
            got = file.run(x, width)
            if isinstance(got, dict):
                got = [got[name] for name in model.output_names]
            wanted = keras.tree.flatten(slim(model, width)(x, training=False))
            results.append(measure(got, wanted))
    return results


def measure(name: str) -> dict[str, Any]:
    """Runs all checks on an architecture.

    Args:
        name: Name of an architecture of the zoo.

    Returns:
        The results, as values for JSON.
    """
    row: dict[str, Any] = {"name": name, "converts": True}
    try:
        model = converted(name)
    except ConversionError as error:
        return {**row, "converts": False, "findings": error.findings}
    x, widths = samples_of(model), some_widths(model)
    ends = [widths[0], widths[-1]]
    row |= {
        "tri_layers": sum(isinstance(layer, TriLayer) for layer in model.layers),
        "networks": len(model.distinct_widths),
        "widths": widths,
        "macs": [count_macs(model, width) for width in ends],
        "parameters": [count_parameters(model, width) for width in ends],
        "slim": max(slim_difference(model, width, x) for width in widths),
        "gradients": gradient_difference(model, x),
    }
    for precision, key in (("float32", "tflite"), ("int8", "int8")):
        try:
            row[key] = max(file_differences(model, ends, x, precision))
        except ExportError as error:
            row[key], row[f"{key}_refusal"] = None, str(error)
    row["losses"] = losses_of_training(model, x)
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the architectures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--names", nargs="+", choices=ARCHITECTURES, metavar="NAME")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    lacking = {name: missing(name) for name in ARCHITECTURES if missing(name)}
    for name in args.names or ():
        if name in lacking:
            parser.error(f"{name} needs a package: pip install {lacking[name]}")
    rows = {}
    if args.output.exists():
        rows = {row["name"]: row for row in json.loads(args.output.read_text())["rows"]}
    known = {*rows, *lacking}
    for name in args.names or [name for name in ARCHITECTURES if name not in known]:
        rows[name] = measure(name)
        print(json.dumps(rows[name]), flush=True)
        result = {
            "min_width": MIN_WIDTH,
            "rows": [rows[each] for each in ARCHITECTURES if each in rows],
            "environment": environment(),
        }
        write_whole(args.output, json.dumps(result, indent=1) + "\n")
        keras.backend.clear_session()
        gc.collect()


if __name__ == "__main__":
    main()
