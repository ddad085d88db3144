"""Width rules of GRU, LSTM and SimpleRNN, in one direction or in both."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras

from awn_keras.layers import TRI_RECURRENT, TriBidirectional
from awn_keras.rules.kinds import Axes, CallSize, ChannelAxis, Fixed, Kind
from awn_keras.rules.mixing import mixing
from awn_keras.rules.registry import (
    LayerCall,
    WidthRule,
    check_activation,
    register_derived_rule,
    register_width_rule,
)


def recurrent(call: LayerCall) -> Kind:
    """Rule of a plain recurrent layer.

    On channels that come and go, the layer is a readout, or becomes a Tri layer. On a
    tensor that is the same at every width it may become a Tri layer, too, because its
    units read each other.

    Args:
        call: A call with one sequence.

    Returns:
        The kind of the units, `PerWidth` of a readout, or `Fixed`.

    Raises:
        ValueError: See `units_of`.
    """
    if call.as_tri:
        return units_of(call)
    return Fixed() if isinstance(call.kinds[0], Fixed) else mixing(call)


def units_of(call: LayerCall) -> Kind:
    """Rule of a recurrent Tri layer. Its units are new channels.

    In a Bidirectional, the units of the two directions come and go together.

    Args:
        call: A call with one sequence.

    Returns:
        The kind of the units.

    Raises:
        ValueError: If the layer has other inputs or outputs than a sequence, if it is
            stateful, or if an activation mixes channels.
    """
    layer = call.layer
    if len(call.kinds) > 1:
        raise call.error(
            "`initial_state` cannot be given before the readout, where a layer has one "
            "input. Leave it out, or put the layer after the readout."
        )
    if layer.stateful:
        raise call.error(
            "`stateful` must be False before the readout, because the kept state would "
            "have another size at each width. Received: stateful=True"
        )
    if layer.return_state:
        raise call.error(
            "`return_state` must be False before the readout, where a layer has one "
            "output. The state of a GRU or SimpleRNN is its last output. Received: "
            "return_state=True"
        )
    directions = _directions(layer)
    for inner in directions:
        check_activation(call, inner)
    made = call.new_channels(call.output_shape[-1])
    units = directions[0].units
    # With "concat", a unit has a channel in both halves of the output. Otherwise both
    # slices hold all channels, and joining them changes nothing.
    call.channels.join(made.labels[:units], made.labels[-units:])
    return made


def _directions(layer: Any) -> list[Any]:
    """The layers of the two directions, or the layer itself if it has only one."""
    both = isinstance(layer, keras.layers.Bidirectional)
    return [layer.forward_layer, layer.backward_layer] if both else [layer]


def _macs(gates: int, directions: int, copies: int, _: Any, size: CallSize) -> Any:
    """Each step multiplies its features and the state by the kernels of all gates."""
    units = size.outputs // copies
    each = gates * (size.inputs + units) * units
    return size.input_positions * directions * each


def _rule(stock: type[keras.Layer], copies: int = 1, **changes: Any) -> WidthRule:
    triangular = TRI_RECURRENT[stock]
    gates = triangular.kernels["kernel"].gates
    units = ChannelAxis(-1, gates, copies)
    out_axes: dict[str, Axes] = {
        "kernel": units,
        "recurrent_kernel": (ChannelAxis(-2, copies=copies), units),
        "bias": units,
    }
    options: dict[str, Any] = {
        "channels": "units",
        "triangular": triangular,
        "macs": partial(_macs, gates, 1, copies),
        **changes,
    }
    return WidthRule(
        recurrent,
        in_axes={"kernel": -2},
        out_axes=out_axes,
        stem=True,
        makes=units_of,
        recurs=True,
        **options,
    )


for _stock in TRI_RECURRENT:
    register_width_rule(_stock, _rule(_stock))


# ------------------------------------------------------------------ both directions


def _copies(layer: Any) -> int:
    """Number of output channels for each unit."""
    return 2 if layer.merge_mode == "concat" else 1


def _of_both(layer: Any) -> WidthRule | None:
    """The rule of a Bidirectional; `None` if there is no Tri layer for it."""
    forward, backward = (getattr(x, "stock_class", type(x)) for x in _directions(layer))
    if forward is not backward or forward not in TRI_RECURRENT:
        return None
    same_units = layer.forward_layer.units == layer.backward_layer.units
    if layer.merge_mode is None or not same_units:
        return None
    copies = _copies(layer)
    gates = TRI_RECURRENT[forward].kernels["kernel"].gates
    return _rule(
        forward,
        copies,
        channels=_with_units,
        triangular=TriBidirectional,
        macs=partial(_macs, gates, 2, copies),
    )


def _with_units(layer: Any, channels: int) -> dict[str, Any]:
    """The arguments of a Bidirectional with `channels` output channels."""
    # The number of units is in the configs of the inner layers, not in an argument.
    config, units = layer.get_config(), channels // _copies(layer)
    return {
        name: {**config[name], "config": {**config[name]["config"], "units": units}}
        for name in ("layer", "backward_layer")
    }


def _of_the_tri_layer(layer: Any) -> WidthRule | None:
    rule = _of_both(layer)
    return None if rule is None else rule.of_the_tri_layer()


register_derived_rule(keras.layers.Bidirectional, _of_both)
register_derived_rule(TriBidirectional, _of_the_tri_layer)
