"""Measures the latency of layers with LiteRT on this machine, whole and cut."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from awn_keras.deploy.converter import convert
from awn_keras.deploy.cutting import cut
from awn_keras.deploy.timing import medians, time_signatures
from awn_keras.environment import environment
from awn_keras.files import read_json, write_whole
from awn_keras.layouts import Candidate, Cut, Milliseconds, candidates, estimate
from awn_keras.multi_width import MultiWidthModel
from awn_keras.rules import rule_of
from awn_keras.schemas import number, values

#: Layers per converted file. Larger files do not save time.
_AT_ONCE = 40
#: Cuts per layer that are measured, starting with the most promising cut.
_OPTIONS = 2


def measured(
    model: MultiWidthModel,
    widths: Sequence[float],
    cache: str | Path | None = None,
) -> Milliseconds:
    """Measures the layers of a model that can be cut, each whole and cut.

    Each layer runs alone with LiteRT on one thread, and the parts of a cut layer are
    joined again. Measurements are cached for each processor and version of LiteRT.

    Args:
        model: The model.
        widths: Widths of the file.
        cache: JSON file for measurements. `None` for
            `awn_keras/layers.json` in the user's cache folder (`XDG_CACHE_HOME`).

    Returns:
        A function for `choose_cuts`, which gives the milliseconds of a layer at a
        width. Cuts that the cost model rates low are not measured; the function gives
        infinity for them.
    """
    path = _default_cache() if cache is None else Path(cache)
    known = _read(path)
    wanted: dict[str, tuple[Candidate, float, Cut | None]] = {}
    for candidate in candidates(model).values():
        for option in _promising(candidate, widths):
            for width in widths:
                wanted[_key(candidate, width, option)] = (candidate, width, option)
    missing = [key for key in wanted if key not in known]
    for start in range(0, len(missing), _AT_ONCE):
        keys = missing[start : start + _AT_ONCE]
        networks = {f"layer_{i}": _network(*wanted[key]) for i, key in enumerate(keys)}
        times = medians(time_signatures(convert(networks), list(networks)))
        known.update(zip(keys, times.values(), strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(known, indent=1) + "\n")

    def milliseconds(candidate: Candidate, width: float, option: Cut | None) -> float:
        return known.get(_key(candidate, width, option), float("inf"))

    return milliseconds


def _read(path: Path) -> dict[str, float]:
    """Earlier measurements; empty if the file cannot be read."""
    try:
        return read_json(path, values(number(0)))
    except (FileNotFoundError, ValueError):
        return {}


def _promising(candidate: Candidate, widths: Sequence[float]) -> Iterable[Cut | None]:
    def total(option: Cut) -> float:
        return sum(estimate(candidate, width, option) for width in widths)

    return [None, *sorted(candidate.options(widths), key=total)[:_OPTIONS]]


def _key(candidate: Candidate, width: float, option: Cut | None) -> str:
    """A key that depends on all that influences a measurement."""
    inputs, outputs = candidate.channels(width)
    ends = None if option is None else option.until(inputs, outputs).ends
    if ends is not None and len(ends) == 1:
        ends = None  # a single block is the whole layer
    layer = (
        _stock_config(candidate.layer),
        candidate.in_shape,
        candidate.out_shape,
        candidate.readout,
    )
    text = json.dumps([_machine(), layer, inputs, outputs, ends], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def _machine() -> tuple[str, str]:
    facts = environment()
    return facts["processor"], facts["packages"]["ai-edge-litert"]


def _stock_config(layer: Any) -> dict[str, Any]:
    """The part of a layer's configuration that decides its speed."""
    names = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias")
    return {
        "class": getattr(layer, "stock_class", type(layer)).__name__,
        **{name: getattr(layer, name) for name in names if hasattr(layer, name)},
    }


def _network(candidate: Candidate, width: float, option: Cut | None) -> keras.Model:
    """A network of the layer and ReLU. A folded BatchNormalization leaves a bias."""
    inputs, outputs = candidate.channels(width)
    layer_class = getattr(candidate.layer, "stock_class", type(candidate.layer))
    config = _stock_config(candidate.layer)
    del config["class"]
    rule = rule_of(candidate.layer)
    size = {} if rule is None else rule.sized(candidate.layer, outputs)
    layer = layer_class(**{**config, **size, "use_bias": True}, name="layer")
    start = x = keras.Input((*candidate.in_shape, inputs))
    if candidate.flattened:
        x = keras.layers.Flatten()(x)
    x = layer(x)
    network = keras.Model(start, x if candidate.readout else keras.layers.ReLU()(x))
    return network if option is None else cut(network, {"layer": option})


def _default_cache() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "awn_keras" / "layers.json"
