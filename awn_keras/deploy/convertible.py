"""Finds layers that TFLite's converter cannot convert, before the conversion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from awn_keras.errors import ExportError
from awn_keras.rules import traits_of

_L = keras.layers
_LOOKUPS = (
    _L.HashedCrossing,
    _L.Hashing,
    _L.IntegerLookup,
    _L.StringLookup,
    _L.TextVectorization,
)


def check_convertible(models: Iterable[keras.Model], precision: str) -> None:
    """Checks that TFLite's converter can convert all layers of some models.

    Args:
        models: The models.
        precision: One of `PRECISIONS`.

    Raises:
        ExportError: If a model has a lookup table, an input of text, or a layer that no
            builtin operator computes. With `"int8"` also if a model has a recurrent
            layer that is not unrolled, on which the converter crashes.
    """
    for model in models:
        for x in model.inputs:
            if keras.backend.standardize_dtype(x.dtype) == "string":
                raise ExportError(
                    f"Model '{model.name}' takes text in its input '{x.name}', but "
                    "builtin operators of TFLite compute with numbers only. Turn text "
                    "into numbers before the model, in the app and in training."
                )
        for layer in _leaves(model):
            _check_layer(layer, precision)


def _check_layer(layer: Any, precision: str) -> None:
    named = f"Layer '{layer.name}' ({type(layer).__name__})"
    no_operator = traits_of(layer).no_operator
    missing = None if no_operator is None else no_operator(layer)
    if missing is not None:
        raise ExportError(
            f"{named} cannot be in a file: TFLite has no builtin operator for "
            f"{missing}."
        )
    if isinstance(layer, _LOOKUPS):
        raise ExportError(
            f"{named} needs a table or a hash that builtin operators of TFLite do not "
            "have. Leave the layer out of the model, and give the model the integers "
            "that the layer computes."
        )
    rolled = isinstance(layer, _L.RNN) and not getattr(layer, "unroll", False)
    if precision != "int8" or not rolled:
        return
    raise ExportError(
        f"{named} runs in a loop over steps, on which TFLite's converter crashes with "
        f"`precision='int8'`. Build the model with `unroll=True` in this layer; its "
        "weights stay the same. `precision='dynamic_range'` takes it as it is."
    )


def _leaves(model: keras.Model) -> Iterator[Any]:
    """The layers of a model, and the layers inside them."""
    return (layer for layer in model._flatten_layers() if layer is not model)
