"""Width rules of attention over positions, in which whole heads come and go."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from awn_keras.graph import data_tensors, named_arguments
from awn_keras.layers import TRI_ATTENTION
from awn_keras.layers.base import TriLayer
from awn_keras.rules.kinds import Fixed, Kind, Labelled, PerWidth
from awn_keras.rules.registry import (
    Inner,
    LayerCall,
    WidthRule,
    check_mixes_no_samples,
    register_width_rule,
)
from awn_keras.rules.sequences import grouped_heads_macs, heads_macs
from awn_keras.widths import round_half_up

_READ = ("query", "value", "key")


def attention(call: LayerCall) -> Kind:
    """Rule of an attention layer over positions, or of its Tri layer.

    On channels that come and go, a plain layer is a readout, or becomes a Tri layer.

    Args:
        call: A call with `query`, `value`, and `key` or masks.

    Returns:
        The kind of the output's channels, `PerWidth` of a readout, or `Fixed`.

    Raises:
        ValueError: If query, value and key do not all have the same channels, if a mask
            comes and goes with the width, if scores are returned, or if the output has
            several axes of channels.
    """
    if all(isinstance(kind, Fixed) for kind in call.kinds):
        return Fixed()
    labels = _labels(call)
    if call.constants.get("return_attention_scores"):
        raise call.error(
            "`return_attention_scores` must be False before the readout, where a layer "
            "has one output. Received: return_attention_scores=True"
        )
    shape = call.layer.get_config().get("output_shape")
    if shape is not None and len(shape) != 1:
        raise call.error(
            "`output_shape` must be one number of channels before the readout. "
            f"Received: output_shape={shape}"
        )
    if not (call.as_tri or isinstance(call.layer, TriLayer)):
        check_mixes_no_samples(call)
        if shape is None:
            raise call.error(
                "a plain layer on channels that come and go is a readout, but its "
                "outputs would have as many channels as `query` has at each width. Put "
                "a Dense after the layer, which is then the readout. Or use "
                f"{TRI_ATTENTION[type(call.layer)].__name__}, or give "
                "MultiHeadAttention an `output_shape`."
            )
        return PerWidth(call.layer.name)
    made = call.new_channels(call.output_shape[-1])
    if shape is None and len(made.labels) == len(labels):
        # Without `output_shape`, a slim network's output has as many channels as its
        # `query`. So the output must have the channels of `query`.
        call.channels.join(labels, made.labels)
    return made


def _labels(call: LayerCall) -> np.ndarray:
    """Labels of the channels of query, value and key, which must be equal."""
    arguments = named_arguments(call.node)
    kinds = dict(zip(map(id, data_tensors(call.node)), call.kinds, strict=True))
    read = [arguments[name] for name in _READ if arguments.get(name) is not None]
    first, *others = (kinds[id(x)] for x in read)
    shapes = [tuple(x.shape) for x in read]
    for kind, shape in zip(others, shapes[1:], strict=True):
        same = isinstance(kind, Labelled) == isinstance(first, Labelled)
        if not same or shape[-1] != shapes[0][-1]:
            raise call.error(
                "`query`, `value` and `key` must have the same channels before the "
                "readout, and all must come and go with the width; other attention is "
                "not built. Put a Dense with equal `units` on each of them. Received: "
                f"shapes {shapes}"
            )
        if isinstance(first, Labelled) and isinstance(kind, Labelled):
            call.channels.join(first.labels, kind.labels)
    masks = [kind for key, kind in kinds.items() if key not in set(map(id, read))]
    # If `first` is not Labelled, then no input but a mask can be Labelled.
    if not isinstance(first, Labelled) or any(isinstance(m, Labelled) for m in masks):
        raise call.error(
            "a mask must be the same at every width, but the channels of this mask "
            "come and go."
        )
    return first.labels


def _heads(layer: Any) -> int:
    """Number of heads, or of groups of heads with shared keys, that come and go."""
    return getattr(layer, "num_key_value_heads", None) or layer.num_heads


def _count(layer: Any, out: np.ndarray) -> int:
    if isinstance(layer, TriLayer):
        return layer.heads_for(out)
    return _heads(layer)


def _with_heads(layer: Any, count: int) -> dict[str, Any]:
    """The arguments of a layer with `count` heads, or groups of heads."""
    if not hasattr(layer, "num_key_value_heads"):
        return {"num_heads": count}
    return {
        "num_key_value_heads": count,
        "num_query_heads": count * layer.num_query_heads // layer.num_key_value_heads,
    }


def _sized(layer: Any, channels: int) -> dict[str, Any]:
    """The arguments of a layer with `channels` channels and heads in proportion."""
    kernel = f"{_OF_HEADS}/kernel"
    (old,) = (w.shape[-1] for w in layer.weights if w.path.endswith(kernel))
    heads = max(round_half_up(_heads(layer) * channels / old), 1)
    has_shape = "output_shape" in layer.get_config()
    shape = {"output_shape": (channels,)} if has_shape else {}
    return {**shape, **_with_heads(layer, heads)}


_PROJECTIONS = ("query", "key", "value", "gate")
_OF_HEADS = "attention_output"
_INNER = Inner(
    axes={
        **{f"{name}/{w}": -2 for name in _PROJECTIONS for w in ("kernel", "bias")},
        f"{_OF_HEADS}/kernel": -3,
    },
    count=_count,
    sized=_with_heads,
)
for _layer_class, _macs in (
    (keras.layers.MultiHeadAttention, heads_macs),
    (keras.layers.GroupQueryAttention, grouped_heads_macs),
):
    register_width_rule(
        _layer_class,
        WidthRule(
            attention,
            in_axes={f"{name}/kernel": -3 for name in _PROJECTIONS},
            out_axes={f"{_OF_HEADS}/kernel": -1, f"{_OF_HEADS}/bias": -1},
            inner=_INNER,
            channels=_sized,
            stem=True,
            triangular=TRI_ATTENTION[_layer_class],
            makes=attention,
            macs=_macs,
        ),
    )
