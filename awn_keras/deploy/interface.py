"""How a file takes inputs and gives outputs, where that is not as its model does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.deploy.answers import softmax
from awn_keras.deploy.converter import input_name
from awn_keras.deploy.pixels import Pixels, is_image_shape
from awn_keras.errors import ArgumentError
from awn_keras.graph import (
    data_tensors,
    graph_nodes,
    is_stock,
    operation_of,
    replay,
)

#: What `export_tflite` takes for `inputs` (besides `None`) and `outputs`.
INPUTS = ("float32", "uint8")
OUTPUTS = ("model", "probabilities", "logits")

# A network of pixels divides by some hundred, one of numbers in [0, 1] does not. The
# std of such numbers is 1/2 at most.
_LARGEST_SCALE = 0.1
_LARGEST_STD_OF_ONE = 0.5
#: Layers after which pixels are still pixels.
_KEEP_PIXELS = (
    keras.layers.CenterCrop,
    keras.layers.Identity,
    keras.layers.RandomCrop,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.Resizing,
    keras.layers.ZeroPadding2D,
)


def image_inputs(model: keras.Model) -> list[Any]:
    """The inputs of a model that are images, `(batch, rows, cols, 1 or 3)`."""
    return [x for x in model.inputs if is_image_shape(x.shape)]


def takes_pixels(model: keras.Model) -> bool:
    """Whether a model normalizes by itself, and so takes pixels 0..255.

    It does if its images are integers, or if all that reads them are `Rescaling` and
    `Normalization` layers whose numbers are for pixels, and not for images that were
    scaled to 0..1 before. Layers that move pixels may come first.

    Args:
        model: A functional model.

    Returns:
        Whether it does; `False` if no input is an image.
    """
    images = image_inputs(model)
    pixels = {id(x) for x in images}
    readers = []
    for node in graph_nodes(model):
        if not pixels & {id(x) for x in data_tensors(node)}:
            continue
        if isinstance(node.operation, _KEEP_PIXELS):
            pixels |= {id(x) for x in node.outputs}
        else:
            readers.append(node.operation)
    if all(_is_integer(x) for x in images):
        return bool(images)
    return bool(readers) and all(map(_normalizes_pixels, readers))


def _is_integer(x: Any) -> bool:
    return "int" in keras.backend.standardize_dtype(x.dtype)


def _normalizes_pixels(layer: Any) -> bool:
    if isinstance(layer, keras.layers.Rescaling):
        return bool(np.max(np.abs(layer.scale)) <= _LARGEST_SCALE)
    if isinstance(layer, keras.layers.Normalization):
        variance = getattr(layer, "variance", None)
        if variance is None or layer.invert:
            return False
        std = np.sqrt(keras.ops.convert_to_numpy(variance))
        return bool(np.max(std) > _LARGEST_STD_OF_ONE)
    return False


def activation_of(operation: Any) -> str | None:
    """Softmax or sigmoid, if that is the last thing that an operation does."""
    activation = getattr(operation, "activation", None)
    own = type(operation) if activation is None else activation
    if isinstance(own, keras.Layer):  # as in `Dense(3, activation=Softmax())`
        own = type(own)
    name = own.__name__.lower()
    return name if name in ("softmax", "sigmoid") and is_stock(own) else None


def gives_logits(model: keras.Model) -> bool:
    """Whether a model was compiled to give logits of classes, and does."""
    loss = getattr(model, "loss", None)
    if len(model.outputs) != 1 or not getattr(loss, "from_logits", False):
        return False
    (output,) = model.outputs
    return len(output.shape) == 2 and activation_of(operation_of(output)) is None


@dataclass(frozen=True)
class Interface:
    """How a file takes inputs and gives outputs.

    Args:
        dtypes: Dtype of each input of the file, by name.
        images: Names of those that are images.
        pixels: How pixels become the file's images; `None` if that is not known.
        inside: What the file computes first, of uint8 pixels; `None` for nothing.
        softmax: `"added"` to what the model gives, `"left out"` of it, or `None`.
        output: The name of the output whose softmax that is.
        scores: What that output is: `"probabilities"`, `"logits"`, or not known.
    """

    dtypes: Mapping[str, str]
    images: Sequence[str]
    pixels: Pixels | None
    inside: Pixels | None
    softmax: str | None
    output: str
    scores: str | None

    @classmethod
    def of(
        cls,
        model: keras.Model,
        inputs: str | None,
        outputs: str,
        metadata: Mapping[str, Any],
    ) -> Interface:
        """What `export_tflite` is asked for.

        Args:
            model: The model.
            inputs: One of `INPUTS`, or `None` for the model's own dtypes.
            outputs: One of `OUTPUTS`.
            metadata: Says how pixels are normalized for the model, if it does not do
                that by itself.

        Raises:
            ValueError: If one is none of these, or not possible for the model.
        """
        _check_one_of("inputs", inputs, (None, *INPUTS))
        _check_one_of("outputs", outputs, OUTPUTS)
        images = image_inputs(model)
        names = [input_name(x) for x in images]
        dtypes = {input_name(x): _dtype(x) for x in model.inputs}
        pixels = Pixels.parse(metadata.get("normalization")) if images else None
        if pixels is None and takes_pixels(model):
            pixels = Pixels()
        if pixels is not None:
            for x in images:
                pixels.of_channels(x.shape[-1])
        inside = None
        if inputs is not None and not images:
            raise ArgumentError(
                "`inputs` is about images, of shape (rows, cols, 1 or 3). Received: "
                f"inputs={inputs!r} for a model of inputs of shape "
                f"{[tuple(x.shape) for x in model.inputs]}"
            )
        if inputs == "uint8" and pixels is None:
            raise ArgumentError(
                "`inputs='uint8'` needs to know how pixels become what the model takes."
                " Let it begin with a `Rescaling` or `Normalization` layer, or say it: "
                "`metadata={'normalization': {'mean': ..., 'std': ...}}`, in the unit "
                "of pixels."
            )
        if inputs is not None:
            if inputs == "uint8" and any(dtypes[name] != "uint8" for name in names):
                inside, pixels = pixels, Pixels()
            dtypes.update(dict.fromkeys(names, inputs))
        return cls(dtypes, names, pixels, inside, *_answers(model, outputs))

    @classmethod
    def parse(cls, described: Mapping[str, Any], model: keras.Model) -> Interface:
        """What a file says of itself.

        Args:
            described: Its manifest, or nothing.
            model: The model that it was made from.
        """
        changed = described.get("changed") or {}
        inputs = described.get("inputs", ())
        softmax = changed.get("softmax")
        return cls(
            {entry["name"]: entry["dtype"] for entry in inputs},
            [input_name(x) for x in image_inputs(model)],
            next(filter(None, (Pixels.parse(x.get("pixels")) for x in inputs)), None),
            Pixels.parse(changed.get("inputs")),
            softmax,
            model.output_names[0],
            None,
        )

    @property
    def changed(self) -> dict[str, Any]:
        """What the file does otherwise than the model, as a manifest has it."""
        return {
            "inputs": None if self.inside is None else self.inside.described(),
            "softmax": self.softmax,
        }

    def described(self, name: str) -> dict[str, Any]:
        """What a manifest says of an input besides name and shape."""
        said: dict[str, Any] = {"dtype": self.dtypes[name]}
        if name in self.images and self.pixels is not None:
            said["pixels"] = self.pixels.described()
        return said

    # ------------------------------------------------------------------ networks

    def applied(self, network: keras.Model) -> keras.Model:
        """Lets a plain network take and give what the file does.

        Args:
            network: A network of the model; its layers are its own, and may be changed.

        Returns:
            A functional model with the same names of inputs and outputs.
        """
        if self.softmax is not None and self.output in network.output_names:
            network = self._with_answers(network)
        takes = {input_name(x): _dtype(x) for x in network.inputs}
        wanted = {name: self.dtypes[name] for name in takes if name in self.images}
        if all(takes[name] == dtype for name, dtype in wanted.items()):
            return network
        return self._with_inputs(network, wanted)

    def _with_answers(self, network: keras.Model) -> keras.Model:
        index = network.output_names.index(self.output)
        outputs = list(network.outputs)
        x = outputs[index]
        operation = operation_of(x)
        if getattr(operation, "activation", None) is not None and (
            self.softmax == "left out" or is_linear(operation)
        ):
            operation.activation = (
                keras.activations.softmax
                if self.softmax == "added"
                else keras.activations.linear
            )
            return network
        if self.softmax == "added":
            # The output keeps its name, which is that of the operation it comes from.
            operation.name = f"{self.output}_logits"
            outputs[index] = keras.layers.Softmax(name=self.output, dtype="float32")(x)
        else:
            (node,) = (
                n for n in graph_nodes(network) if any(y is x for y in n.outputs)
            )
            (before,) = data_tensors(node)
            outputs[index] = keras.layers.Identity(name=self.output)(before)
        return _model(network, network.inputs, outputs)

    def _with_inputs(
        self, network: keras.Model, wanted: Mapping[str, str]
    ) -> keras.Model:
        inputs, tensors = [], {}
        for old in network.inputs:
            name, dtype = input_name(old), _dtype(old)
            new = wanted.get(name, dtype)
            x = keras.Input(batch_shape=old.shape, dtype=new, name=name)
            inputs.append(x)
            tensors[id(old)] = x if new == dtype else self._as_model(x, dtype)
        replay(graph_nodes(network), tensors)
        outputs = [tensors[id(y)] for y in network.outputs]
        return _model(network, inputs, outputs)

    def _as_model(self, x: Any, dtype: str) -> Any:
        """Turns an input of the file into the model's."""
        if self.inside is None:
            # Of a model of integers: rescaling casts them anyway.
            return x if self.pixels is not None else keras.ops.cast(x, dtype)
        if self.inside == Pixels():
            return keras.ops.cast(x, dtype)
        mean, std = self.inside.of_channels(x.shape[-1])
        return keras.layers.Rescaling(
            (1 / std).tolist(),
            (-mean / std).tolist(),
            name=f"{operation_of(x).name}_normalized",
            dtype=dtype,
        )(x)

    # ------------------------------------------------------------------ arrays

    def to_file(self, name: str, x: np.ndarray) -> np.ndarray:
        """Turns samples that the model takes into the file's."""
        if name not in self.images:
            return x
        if self.inside is not None:
            return self.inside.to_pixels(x)
        return x.astype(self.dtypes.get(name, x.dtype))

    def to_model(self, name: str, x: np.ndarray) -> np.ndarray:
        """Turns samples into what the model gets when the file gets `to_file` of them.

        They are what they were, but for pixels, which are rounded.
        """
        if name not in self.images or self.inside is None:
            return x
        return self.inside.to_inputs(self.inside.to_pixels(x)).astype(x.dtype)

    def expected(self, name: str, outputs: np.ndarray) -> np.ndarray:
        """Turns what the model gives into what is to be compared with `comparable`."""
        added = name == self.output and self.softmax == "added"
        return softmax(outputs) if added else outputs

    def comparable(self, name: str, outputs: np.ndarray) -> np.ndarray:
        """Turns what the file gives into what `expected` makes of the model's.

        Logits are known up to a number that is added to all of them, so that of a
        softmax that was left out probabilities are compared.
        """
        left_out = name == self.output and self.softmax == "left out"
        return softmax(outputs) if left_out else outputs


def _model(like: keras.Model, inputs: list[Any], outputs: list[Any]) -> keras.Model:
    """A model of other tensors, in the same structure."""
    structures = (
        keras.tree.pack_sequence_as(structure, tensors)
        for structure, tensors in ((like.input, inputs), (like.output, outputs))
    )
    return keras.Model(*structures, name=like.name)


def _check_one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ArgumentError(f"`{name}` must be one of {allowed}. Received: {value!r}")


def _dtype(x: Any) -> str:
    return keras.backend.standardize_dtype(x.dtype)


def is_linear(operation: Any) -> bool:
    """Whether a layer's activation leaves its outputs as they are."""
    return operation.activation is keras.activations.linear


def _answers(model: keras.Model, outputs: str) -> tuple[str | None, str, str | None]:
    """`(softmax, output, scores)` of an `Interface`."""
    name, x = model.output_names[0], model.outputs[0]
    activation = activation_of(operation_of(x))
    is_scores = len(model.outputs) == 1 and len(x.shape) == 2 and x.shape[1] > 1
    if outputs != "model" and not is_scores:
        raise ArgumentError(
            f"`outputs={outputs!r}` is about one output of scores, (batch, classes). "
            f"Received: a model with outputs of shape "
            f"{[tuple(y.shape) for y in model.outputs]}"
        )
    if outputs == "logits" and activation == "sigmoid":
        raise ArgumentError(
            "`outputs='logits'` leaves out a softmax, and the model ends in a sigmoid. "
            "Export it with `outputs='model'`."
        )
    if outputs == "model":
        if not is_scores:
            return None, name, None
        known = "logits" if gives_logits(model) else None
        return None, name, "probabilities" if activation else known
    if outputs == "probabilities":
        return None if activation else "added", name, "probabilities"
    return "left out" if activation else None, name, "logits"
