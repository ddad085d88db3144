"""Splits a model into trunk and tail.

The *tail* begins with the readouts. All layers before them are the *trunk*. Activations
of the trunk at full width contain those of every width.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from awn_keras.graph import replay
from awn_keras.propagation import Propagation
from awn_keras.rules import PerWidth


@dataclass(frozen=True)
class Split:
    """A model cut at its readouts.

    Args:
        trunk: Model from the inputs to the tensors that the tail reads.
        tail: Model from these tensors to the outputs.
        grades: For each tensor between trunk and tail, the grades of its channels, or
            `None` if the tensor is the same at every width.
    """

    trunk: keras.Model
    tail: keras.Model
    grades: list[np.ndarray | None]


def split(model: keras.Model, propagation: Propagation) -> Split:
    """Splits a model into trunk and tail, which share the model's layers.

    Args:
        model: A functional model.
        propagation: Kinds of the model's tensors.

    Returns:
        Trunk and tail. The tail on the outputs of the trunk computes the model.
    """
    kinds = propagation.kinds
    tail_nodes = [
        node
        for node in propagation.nodes
        if isinstance(propagation.flows[id(node)].output, PerWidth)
    ]
    read = [x for node in tail_nodes for x in node.input_tensors] + model.outputs
    between = {id(x): x for x in read if not isinstance(kinds[id(x)], PerWidth)}
    entries = list(between.values())
    tensors = {
        id(x): keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse)
        for x in entries
    }
    inputs = list(tensors.values())
    replay(tail_nodes, tensors)
    outputs = keras.tree.map_structure(lambda x: tensors[id(x)], model.output)
    return Split(
        keras.Model(model.input, entries, name=f"{model.name}_trunk"),
        keras.Model(inputs, outputs, name=f"{model.name}_tail"),
        [getattr(kinds[id(x)], "grades", None) for x in entries],
    )
