"""Latency of the signatures of a TFLite file on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from awn_keras.curves import TradeOffCurve
from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut_networks
from awn_keras.deploy.litert import TFLiteFile
from awn_keras.deploy.signatures import width_signature
from awn_keras.deploy.sizes import InputShape, at_input_shape
from awn_keras.errors import ArgumentTypeError
from awn_keras.layouts import choose_cuts
from awn_keras.multi_width import MultiWidthModel, check_any_width_model
from awn_keras.summary import ModelSummary, NetworkList
from awn_keras.widths import check_positive

Costs = TypeVar("Costs", bound=NetworkList | ModelSummary | TradeOffCurve)


def time_signatures(
    content: bytes,
    names: Sequence[str],
    *,
    runs: int = 20,
    turns: int = 4,
    num_threads: int = 1,
) -> dict[str, list[float]]:
    """Times signatures in turns, so that drift of the machine affects all of them.

    Args:
        content: Content of a TFLite file.
        names: Names of signatures.
        runs: Number of timed runs of each signature.
        turns: Number of turns. In a turn, a signature runs several times in a row, as
            in an app. The first run of a turn is not timed.
        num_threads: Threads of the interpreter.

    Returns:
        A dict from each name to the latencies of its runs in ms, on random inputs.
    """
    signatures = TFLiteFile(content, num_threads=num_threads).signatures
    rng = np.random.default_rng(0)
    samples = {
        name: {
            tensor.name: rng.random(tensor.shape).astype(tensor.dtype)
            for tensor in signatures[name].inputs
        }
        for name in names
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        timed = runs * (turn + 1) // turns - runs * turn // turns
        for name, sample in samples.items():
            signatures[name].invoke(sample)
            for _ in range(timed):
                start = time.perf_counter()
                signatures[name].invoke(sample)
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def with_milliseconds(
    costs: Costs,
    model: MultiWidthModel,
    *,
    runs: int = 20,
    num_threads: int = 1,
    input_shape: InputShape | None = None,
) -> Costs:
    """Measures the latency of each width on this machine, in a file with all widths.

    The file is the float32 file that `export_tflite` would write. To measure on a
    phone, use `awn benchmark`.

    Args:
        costs: Result of `list_networks`, `summarize` or `trade_off_curve` for the
            model. Choose few widths: the conversion of each width takes some seconds.
        model: The model.
        runs: Number of timed runs of each width, at least 1.
        num_threads: Threads of LiteRT.
        input_shape: See `export_tflite`.

    Returns:
        A copy of `costs` with `milliseconds`, the median latency of each width in ms.

    Raises:
        ImportError: If TensorFlow or LiteRT is not installed.
        TypeError: If `costs` is none of these results, or if `model` has one width
            only.
        ValueError: If `runs` is below 1, or if `input_shape` is missing or does not
            fit.
        ExportError: See `export_tflite`.

    Examples:
        >>> from awn_keras import lenet_3c1l, list_networks, with_milliseconds
        >>> model = lenet_3c1l()
        >>> networks = list_networks(model, [0.25, 1.0])
        >>> len(with_milliseconds(networks, model).milliseconds)
        2
    """
    check_any_width_model(model)
    if not isinstance(costs, NetworkList | ModelSummary | TradeOffCurve):
        raise ArgumentTypeError(
            "`costs` must be a result of `list_networks`, `summarize` or "
            f"`trade_off_curve`. Received: {type(costs)}"
        )
    check_positive(runs, "runs")
    model = at_input_shape(model, input_shape)
    networks = cut_networks(model, costs.widths, choose_cuts(model, costs.widths))
    times = time_signatures(
        convert(networks), list(networks), runs=runs, num_threads=num_threads
    )
    by_name = medians(times)
    milliseconds = [by_name[width_signature(width)] for width in costs.widths]
    return replace(costs, milliseconds=milliseconds)


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """The median of the latencies of each name, in ms."""
    return {name: statistics.median(ms) for name, ms in times.items()}
