"""Measures layers with LiteRT on this machine, whole and cut."""

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

#: Layers in one file; a larger one is converted no faster.
_AT_ONCE = 40
#: Cuts of a layer that are measured, the most promising first.
_OPTIONS = 2


def measured(
    model: MultiWidthModel,
    widths: Sequence[float],
    cache: str | Path | None = None,
) -> Milliseconds:
    """Measures the layers of a model that can be cut, each whole and cut.

    A layer runs by itself with LiteRT, one thread, its parts joined again. What was
    measured once is kept for later, by processor and version of LiteRT.

    Args:
        model: The model.
        widths: Widths that a file is to hold.
        cache: A JSON file to keep measurements in. `None` for
            `awn_keras/layers.json` in the user's cache folder (`XDG_CACHE_HOME`).

    Returns:
        A function for `choose_cuts`: milliseconds of a layer at a width. Cuts that
        the cost model finds least promising were not measured and take forever.
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
    """What was measured before; what cannot be read is measured anew."""
    try:
        return read_json(path, values(number(0)))
    except (FileNotFoundError, ValueError):
        return {}


def _promising(candidate: Candidate, widths: Sequence[float]) -> Iterable[Cut | None]:
    def total(option: Cut) -> float:
        return sum(estimate(candidate, width, option) for width in widths)

    return [None, *sorted(candidate.options(widths), key=total)[:_OPTIONS]]


def _key(candidate: Candidate, width: float, option: Cut | None) -> str:
    """Names a measurement by all that decides it."""
    inputs, outputs = candidate.channels(width)
    ends = None if option is None else option.until(inputs, outputs).ends
    if ends is not None and len(ends) == 1:
        ends = None  # whole
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
    """What of a layer's configuration decides its speed."""
    names = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias")
    return {
        "class": getattr(layer, "stock_class", type(layer)).__name__,
        **{name: getattr(layer, name) for name in names if hasattr(layer, name)},
    }


def _network(candidate: Candidate, width: float, option: Cut | None) -> keras.Model:
    """The layer alone, with a bias as BatchNormalization leaves it, and ReLU."""
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
