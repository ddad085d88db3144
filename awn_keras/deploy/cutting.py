"""Cuts the kernels of a network into blocks that end where widths end.

A triangular kernel has many zeros. Cut into *row blocks*, a kernel stores and computes
few of these zeros: each row block holds the output channels between two ends, and reads
only the input channels that its last output may read. If each exported width ends where
a block ends, a narrow network consists of the first blocks of a wide network, byte for
byte. A *readout* reads all active channels, so it is cut on its input side: its output
is the sum over blocks of input channels.

Between two cut layers, channels stay in blocks. A row block that reads several blocks
of channels either joins the blocks first, or has a kernel for each block and adds the
results. Adding lets an expansion, its depthwise convolution and the projection after
them run without any copy of channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.deploy.signatures import width_signature
from awn_keras.errors import ArgumentError
from awn_keras.graph import copy_layer, fill, graph_nodes, operation_of, rebuild
from awn_keras.layouts import Cut, adding_pays
from awn_keras.multi_width import MultiWidthModel
from awn_keras.rules import (
    WidthRule,
    keeps_channels_apart,
    merges_channels,
    rule_of,
)
from awn_keras.slices import chosen_slices, weights_of
from awn_keras.slimming import slim


def cut(
    model: keras.Model, cuts: Mapping[str, Cut], *, adds: bool = True
) -> keras.Model:
    """Cuts kernels of a slim model into blocks. Each block becomes a layer.

    Args:
        model: A plain functional model, as `slim` returns it. `model` does not change.
            The result shares the layers that are not cut.
        cuts: Cuts of some layers, by layer name. Cuts made for a wider network are
            accepted if one of the blocks ends where the model's layer ends.
        adds: Whether a row block may have a kernel for each block of its inputs, where
            adding is faster than joining. Use `False` for int8, because integers are
            rounded before they are added. Use `False` also for a file with a
            `continuation`, which joins blocks.

    Returns:
        A functional model that computes the same outputs. Layers that treat each
        channel separately are applied to each block, so that a converter can still fold
        such a layer into the convolution before it.

    Raises:
        ValueError: If a layer does not end where one of its blocks ends.
    """
    return _Cutter(cuts, model, adds=adds).apply()


def cut_networks(
    model: MultiWidthModel,
    widths: Sequence[float],
    cuts: Mapping[str, Cut],
    *,
    adds: bool = True,
) -> dict[str, keras.Model]:
    """Makes the float32 network of each width in a file, with its kernels cut.

    Args:
        model: The model.
        widths: Widths of the file.
        cuts: See `cut`.
        adds: See `cut`.

    Returns:
        The networks, by the names of their signatures.
    """
    networks = {}
    for width in widths:
        network = slim(model, width, dtype="float32")
        networks[width_signature(width)] = cut(network, cuts, adds=adds)
    return networks


def continuation(
    narrow: keras.Model, wide: keras.Model, cuts: Mapping[str, Cut]
) -> tuple[keras.Model, keras.Model]:
    """Splits a wide network into a narrow network and the rest of the computation.

    The outputs of a cut layer at the narrow width are the first of its outputs at the
    wide width, so the rest does not compute them again. It does compute again the
    layers that are not cut, and the readouts, whose channels are few.

    Args:
        narrow: A plain functional model, as `slim` returns it. `narrow` does not
            change.
        wide: The network of the same any-width model at a larger width.
        cuts: Cuts of the layers, by layer name. In each cut layer a block must end
            where the narrow network's layer ends.

    Returns:
        `(first, rest)`. `first` has the outputs of `narrow`, then the activations that
        `rest` needs. Each activation is the output of a separate layer, and has the
        name of this layer. `rest` takes the inputs of `wide` and inputs with the names
        of these activations. `rest` has the outputs of `wide`.

    Raises:
        ValueError: If no layer is cut, if a layer does not end where one of its blocks
            ends, or if `narrow` and `wide` are not networks of one model.
    """
    cutter = _Cutter(cuts, wide, narrow, adds=False)
    rest = cutter.apply()
    if not cutter.kept:
        raise ArgumentError(
            f"No activation of '{wide.name}' is the same at both widths: none of its "
            f"layers is cut. Received: cuts of {sorted(cuts)}"
        )
    tensors = [kept.narrow for kept in cutter.kept]
    outputs = keras.tree.flatten(narrow.output)
    both = keras.Model(narrow.input, [*outputs, *tensors], name=wide.name)
    first = cut(both, cuts, adds=False)
    named = [
        # The Identity gives the tensor its name back. A tensor that is joined from
        # blocks has the name of the Concatenate layer.
        keras.layers.Identity(name=kept.name, dtype=tensor.dtype)(tensor)
        for kept, tensor in zip(cutter.kept, first.outputs[len(outputs) :], strict=True)
    ]
    outputs = [*first.outputs[: len(outputs)], *named]
    return keras.Model(first.input, outputs, name=wide.name), rest


class _Kept:
    """Channels that the narrow network has computed.

    They become an input of the rest when a layer first reads them.

    Args:
        narrow: The tensor of the narrow network.
        name: Name of the input.
        kept: List of the kept channels that are read. A `_Kept` adds itself to the list
            when it becomes an input.
    """

    def __init__(self, narrow: Any, name: str, kept: list[_Kept]) -> None:
        self.narrow, self.name = narrow, name
        self.shape, self.dtype = narrow.shape, narrow.dtype
        self._kept = kept

    @functools.cached_property
    def tensor(self) -> Any:
        self._kept.append(self)
        return keras.Input(batch_shape=self.shape, dtype=self.dtype, name=self.name)


class _Sum:
    """A block of channels as a list of terms, added when a layer needs the sum.

    Args:
        terms: Tensors of one shape.
        name: Name of the layer that adds the terms.
    """

    def __init__(self, terms: Sequence[Any], name: str) -> None:
        self.terms, self.name = list(terms), name
        self.shape, self.dtype = terms[0].shape, terms[0].dtype

    @functools.cached_property
    def tensor(self) -> Any:
        return keras.layers.Add(name=self.name, dtype=self.dtype)(self.terms)


def _tensor(part: Any) -> Any:
    return part.tensor if isinstance(part, _Kept | _Sum) else part


class _Blocks:
    """A tensor in pieces along its channels.

    Each piece is a tensor or a `_Sum`. The first piece may be a `_Kept`.
    """

    def __init__(self, parts: Sequence[Any], name: Callable[[str], str]) -> None:
        self.parts = list(parts)
        self._name = name
        self.ends = np.cumsum([part.shape[-1] for part in parts]).tolist()
        self._joined: dict[tuple[int, int], Any] = {}

    def between(self, start: int, end: int) -> Any:
        """Channels `start` to `end` as one tensor."""
        starts = [0, *self.ends[:-1]]
        if start not in starts or end not in self.ends:
            whole = self.between(0, self.ends[-1])
            return _Channels(start, end, name=self._name("channels"))(whole)
        first, last = starts.index(start), self.ends.index(end)
        if (first, last) not in self._joined:
            parts = [_tensor(part) for part in self.parts[first : last + 1]]
            self._joined[first, last] = (
                parts[0]
                if len(parts) == 1
                else keras.layers.Concatenate(
                    name=self._name("joined"), dtype=parts[0].dtype
                )(parts)
            )
        return self._joined[first, last]


def _channels(x: Any) -> int:
    return x.ends[-1] if isinstance(x, _Blocks) else x.shape[-1]


@keras.saving.register_keras_serializable(package="awn_keras")
class _Channels(keras.Layer):
    """Takes some of the channels. It is a layer so that it gets a chosen name."""

    def __init__(self, start: int, end: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.start, self.end = start, end

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "start": self.start, "end": self.end}

    def compute_output_spec(self, x: Any) -> Any:
        # By itself, Keras would take the output for sparse after some operations.
        return keras.KerasTensor((*x.shape[:-1], self.end - self.start), x.dtype)

    def call(self, x: Any) -> Any:
        return x[..., self.start : self.end]


def _whole(x: Any) -> Any:
    return x.between(0, x.ends[-1]) if isinstance(x, _Blocks) else x


class _Cutter:
    """Rebuilds the graph of a model with its layers cut.

    Args:
        cuts: Cuts of layers, by layer name.
        model: The model.
        narrow: The network at a smaller width, whose activations are not computed
            again. `None` if there is no such network.
        adds: See `cut`.
    """

    def __init__(
        self,
        cuts: Mapping[str, Cut],
        model: keras.Model,
        narrow: keras.Model | None = None,
        *,
        adds: bool = True,
    ) -> None:
        self._cuts, self._model, self._adds = cuts, model, adds
        nodes = graph_nodes(model)
        # Keras counts names per process, so it may give a new layer a name that a
        # loaded model already has.
        self._names = {node.operation.name for node in nodes}
        self._names.update(operation_of(x).name for x in model.inputs)
        self._blocks: dict[tuple[int, ...], keras.Layer] = {}
        self._sums: dict[int, keras.Layer] = {}
        # Flatten layers and their inputs, by `id` of their outputs.
        self._flattened: dict[int, tuple[keras.Layer, Any]] = {}
        # The output of each node in the narrow network, by `id` of the node.
        self._narrow: dict[int, Any] = {}
        self.kept: list[_Kept] = []
        if narrow is not None:
            others = graph_nodes(narrow)
            # Names cannot pair the nodes: copies of a shared layer have other names
            # in each network.
            kinds, other_kinds = (
                [type(node.operation) for node in graph] for graph in (nodes, others)
            )
            if kinds != other_kinds:
                raise ArgumentError(
                    f"'{narrow.name}' and '{model.name}' must be networks of one "
                    "model. Their layers differ."
                )
            self._narrow = {
                id(node): other.outputs[0]
                for node, other in zip(nodes, others, strict=True)
            }

    def apply(self) -> keras.Model:
        inputs, outputs = rebuild(self._model, self._call)
        outputs = keras.tree.map_structure(_whole, outputs)
        if self.kept:
            inputs = keras.tree.flatten(inputs) + [kept.tensor for kept in self.kept]
        return keras.Model(inputs, outputs, name=self._model.name)

    def _call(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        layer = node.operation
        layer_cut = self._cuts.get(layer.name)
        if len(args) == 1 and not any(x is not None for x in kwargs.values()):
            (x,) = args
            if layer_cut is not None and layer_cut.readout:
                return self._readout(layer, x, layer_cut)
            if layer_cut is not None:
                return self._rows(node, x, layer_cut, self._kept_of(node))
            if isinstance(x, _Blocks) and keeps_channels_apart(layer):
                return self._apart(node, x, self._kept_of(node))
            if isinstance(x, list) and merges_channels(layer) and _in_blocks(x):
                return self._merged(layer, x, self._kept_of(node))
        whole = keras.tree.map_structure(_whole, (args, kwargs))
        outputs = layer(*whole[0], **whole[1])
        rule = rule_of(layer) or WidthRule()
        if rule.flattens and args:
            self._flattened[id(outputs)] = (layer, args[0])
        elif rule.inert and args:
            before = self._flattened.get(id(args[0]))
            if before is not None:
                self._flattened[id(outputs)] = before
        return outputs

    def _kept_of(self, node: Any) -> _Kept | None:
        """The part of a node's output that the narrow network computes."""
        narrow = self._narrow.get(id(node))
        if narrow is None:
            return None
        return _Kept(narrow, self._name(f"{node.operation.name}_kept"), self.kept)

    def _name(self, wanted: str) -> str:
        """A name that no other layer has."""
        name, index = wanted, 0
        while name in self._names:
            index += 1
            name = f"{wanted}_{index}"
        self._names.add(name)
        return name

    def _between(self, x: Any, start: int, end: int) -> Any:
        """Channels `start` to `end` of a tensor, whole or in blocks."""
        if isinstance(x, _Blocks):
            return x.between(start, end)
        if end - start == x.shape[-1]:
            return x
        return _Channels(start, end, name=self._name("channels"), dtype=x.dtype)(x)

    def _merged(self, layer: Any, values: list[_Blocks], kept: _Kept | None) -> _Blocks:
        """Applies a layer such as Add to each block.

        A block ends where a block of every input ends. So the ends below a width are
        equal in all networks that have this width.
        """
        ends = set.intersection(*(set(x.ends) for x in values))
        parts: list[Any] = []
        start = 0
        for end in sorted(ends):
            if not parts and isinstance(values[0].parts[0], _Kept):
                parts.append(kept)
            else:
                parts.append(layer([x.between(start, end) for x in values]))
            start = end
        return _Blocks(parts, self._name)

    def _rows(self, node: Any, x: Any, row_cut: Cut, kept: _Kept | None) -> _Blocks:
        """Makes a layer for each block of outputs that are not kept."""
        layer = node.operation
        size = (_channels(x), _outputs(layer))
        parts: list[Any] = []
        start = 0
        ends = row_cut.until(*size).ends
        if kept is not None:
            start = kept.shape[-1]
            parts.append(kept)
            ends = ends[len(row_cut.until(size[0], start).ends) :]
        for inputs, end in ends:
            outputs = np.arange(start, end)
            pieces = self._pieces(node, x, inputs, len(outputs))
            no_bias: dict[str, Any] = {"use_bias": False}  # the first term has it
            terms = [
                self._block(
                    layer,
                    f"part{len(parts)}" + (f"_term{index}" if index else ""),
                    piece,
                    size,
                    (columns, outputs),
                    **(no_bias if index else {}),
                )
                for index, (piece, columns) in enumerate(pieces)
            ]
            parts.append(self._sum(layer, len(parts), terms))
            start = end
        return _Blocks(parts, self._name)

    def _sum(self, layer: Any, index: int, terms: list[Any]) -> Any:
        """A block of a layer's outputs: the sum of several terms, or the only term."""
        if len(terms) == 1:
            return terms[0]
        return _Sum(terms, self._name(f"{layer.name}_sum{index}"))

    def _pieces(
        self, node: Any, x: Any, inputs: int, outputs: int
    ) -> list[tuple[Any, np.ndarray]]:
        """The tensors that a row block reads, each with the indices of its channels.

        The choice between adding and joining depends only on the cuts, not on the width
        of the network, so all widths have the same kernels.
        """
        linear = node.operation.activation is keras.activations.linear
        if self._adds and linear and isinstance(x, _Blocks) and inputs in x.ends:
            ends = x.ends[: x.ends.index(inputs) + 1]
            rows_in, rows_out = x.parts[0].shape[1:-1], node.outputs[0].shape[1:-1]
            if None not in (*rows_in, *rows_out) and adding_pays(
                math.prod(rows_in), math.prod(rows_out), ends, outputs
            ):
                starts = [0, *ends[:-1]]
                return [
                    (x.between(start, end), np.arange(start, end))
                    for start, end in zip(starts, ends, strict=True)
                ]
        return [(self._between(x, 0, inputs), np.arange(inputs))]

    def _readout(self, layer: Any, x: Any, input_cut: Cut) -> Any:
        """Sums a layer over blocks of its inputs. The first block has the bias."""
        flatten, x = self._flattened.get(id(x), (None, x))
        channels, outputs = _channels(x), _outputs(layer)
        features = channels if flatten is None else flatten(_whole(x)).shape[-1]
        # A flattened tensor lists all channels of the first position, then all channels
        # of the second position, and so on.
        positions = np.arange(0, features, channels)[:, None]
        terms: list[Any] = []
        start = 0
        for end, _ in input_cut.until(channels, outputs).ends:
            inputs = (positions + np.arange(start, end)).ravel()
            part = self._between(x, start, end)
            terms.append(
                self._block(
                    layer,
                    f"part{len(terms)}",
                    part if flatten is None else flatten(part),
                    (features, outputs),
                    (inputs, np.arange(outputs)),
                    activation=None,
                    use_bias=layer.use_bias and not terms,
                )
            )
            start = end
        total = terms[0]
        if len(terms) > 1:
            name = self._name(f"{layer.name}_sum")
            total = keras.layers.Add(name=name, dtype=total.dtype)(terms)
        # The sum gets the name of the layer, because an output of the model may have
        # the name.
        last = self._sums.setdefault(
            id(layer),
            keras.layers.Activation(
                layer.activation, name=layer.name, dtype=total.dtype
            ),
        )
        return last(total)

    def _apart(self, node: Any, x: _Blocks, kept: _Kept | None) -> _Blocks:
        """Applies a layer that treats each channel separately to each block."""
        layer = node.operation
        has_weights = bool(weights_of(layer))
        shifts = (rule_of(layer) or WidthRule()).shifts
        size = (_channels(x), node.outputs[0].shape[-1])
        each = size[1] // size[0]  # outputs per channel (`depth_multiplier`)
        parts: list[Any] = []
        start = 0
        for part, end in zip(x.parts, x.ends, strict=True):
            indices = (np.arange(start, end), np.arange(start * each, end * each))
            label = f"part{len(parts)}"
            block = functools.partial(self._block, layer, size=size, indices=indices)
            if isinstance(part, _Kept):
                parts.append(kept)
            elif isinstance(part, _Sum) and shifts:
                # The converter can fold the layer only into a single convolution, so
                # each term gets a copy of the layer. Only the first copy shifts.
                first, *others = part.terms
                terms = [
                    block(label, first),
                    *(block(f"{label}_scale", term, zeros=shifts) for term in others),
                ]
                parts.append(self._sum(layer, len(parts), terms))
            elif has_weights:
                parts.append(block(label, _tensor(part)))
            else:
                parts.append(layer(_tensor(part)))
            start = end
        return _Blocks(parts, self._name)

    def _block(
        self,
        layer: Any,
        label: str,
        x: Any,
        size: tuple[int, int],
        indices: tuple[np.ndarray, np.ndarray],
        zeros: Collection[str] = (),
        **changes: Any,
    ) -> Any:
        """Makes a layer of the same class with a part of the channels, and calls it.

        Args:
            layer: The layer.
            label: Suffix of the block's name.
            x: Input of the block.
            size: Numbers of input and output channels of the layer.
            indices: Indices of the input and output channels of the block.
            zeros: Names of weights that are 0 in the block.
            **changes: Values of the configuration that differ from the layer's.
        """
        ends = (int(side[end]) for side in indices for end in (0, -1))
        key = (id(layer), *ends, bool(zeros))
        block = self._blocks.get(key)
        if block is not None:
            return block(x)
        rule = rule_of(layer) or WidthRule()
        name = self._name(f"{layer.name}_{label}")
        changes.update(rule.sized(layer, len(indices[1])))
        block = self._blocks[key] = copy_layer(layer, name=name, **changes)
        outputs = block(x)
        slices = chosen_slices(layer, size, *(side.tolist() for side in indices))
        # Only the first block of a readout, or of a sum, has a bias.
        names = {weight.name for weight in block.weights}
        values = []
        for weight, value, chosen in zip(
            layer.weights, layer.get_weights(), slices, strict=True
        ):
            if weight.name in names:
                part = value[np.ix_(*chosen)]
                values.append(np.zeros_like(part) if weight.name in zeros else part)
        fill(block, layer, values)
        return outputs


def _outputs(layer: Any) -> int:
    rule = rule_of(layer)
    return layer.get_config()[rule.channels] if rule and rule.channels else 0


def _in_blocks(values: list[Any]) -> bool:
    return all(isinstance(x, _Blocks) for x in values)
