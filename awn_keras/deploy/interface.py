"""Inputs and outputs of a file, where they differ from those of the model."""

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

#: Values of the arguments `inputs` (besides `None`) and `outputs` of `export_tflite`.
INPUTS = ("float32", "uint8")
OUTPUTS = ("model", "probabilities", "logits")

# A network whose inputs are pixels 0..255 divides by some hundred. A network whose
# inputs are in [0, 1] does not, and the std of such inputs is 1/2 at most.
_LARGEST_SCALE = 0.1
_LARGEST_STD_OF_ONE = 0.5
#: Layers whose outputs are pixels if their inputs are pixels.
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
    """Whether a model takes pixels 0..255 and normalizes the pixels itself.

    A model takes pixels if its images are integers. It also takes pixels if only
    `Rescaling` and `Normalization` layers read its images, and the numbers of these
    layers suit pixels, not images that were scaled to 0..1 before. Layers that move
    pixels may come first.

    Args:
        model: A functional model.

    Returns:
        `True` if the model takes pixels; `False` if no input is an image.
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
    """`"softmax"` or `"sigmoid"` if an operation ends with it, otherwise `None`."""
    activation = getattr(operation, "activation", None)
    own = type(operation) if activation is None else activation
    if isinstance(own, keras.Layer):  # as in `Dense(3, activation=Softmax())`
        own = type(own)
    name = own.__name__.lower()
    return name if name in ("softmax", "sigmoid") and is_stock(own) else None


def gives_logits(model: keras.Model) -> bool:
    """Whether a model gives logits: its loss expects logits, and it ends linearly."""
    loss = getattr(model, "loss", None)
    if len(model.outputs) != 1 or not getattr(loss, "from_logits", False):
        return False
    (output,) = model.outputs
    return len(output.shape) == 2 and activation_of(operation_of(output)) is None


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a file.

    Args:
        dtypes: Dtype of each input of the file, by name.
        images: Names of the inputs that are images.
        pixels: How pixels become the file's images; `None` if that is not known.
        inside: The normalization of uint8 pixels that the file itself computes; `None`
            if the file computes none.
        softmax: `"added"` if the file has a softmax that the model lacks, `"left out"`
            if the file lacks the model's softmax, otherwise `None`.
        output: Name of the output that `softmax` and `scores` concern.
        scores: Kind of the output: `"probabilities"`, `"logits"`, or `None` if not
            known.
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
        """Makes the interface that the arguments of `export_tflite` ask for.

        Args:
            model: The model.
            inputs: One of `INPUTS`, or `None` for the model's own dtypes.
            outputs: One of `OUTPUTS`.
            metadata: Metadata of the file. Its `normalization` says how pixels are
                normalized for a model that does not normalize them itself.

        Raises:
            ValueError: If an argument has no such value, or if the model does not allow
                the value.
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
                f"inputs={inputs!r} for a model with inputs of shape "
                f"{[tuple(x.shape) for x in model.inputs]}"
            )
        if inputs == "uint8" and pixels is None:
            raise ArgumentError(
                "`inputs='uint8'` needs to know how pixels become the model's inputs. "
                "Begin the model with a `Rescaling` or `Normalization` layer, or pass "
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
        """Reads the interface from the manifest of a file.

        Args:
            described: The manifest; empty if the file has none.
            model: The model that the file was made from.
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
        """The manifest's entry on how the file differs from the model."""
        return {
            "inputs": None if self.inside is None else self.inside.described(),
            "softmax": self.softmax,
        }

    def described(self, name: str) -> dict[str, Any]:
        """The manifest's entry on an input, without name and shape."""
        said: dict[str, Any] = {"dtype": self.dtypes[name]}
        if name in self.images and self.pixels is not None:
            said["pixels"] = self.pixels.described()
        return said

    # ------------------------------------------------------------------ networks

    def applied(self, network: keras.Model) -> keras.Model:
        """Gives a plain network the inputs and outputs of the file.

        Args:
            network: A network of the model. It shares no layer with the model, because
                this method may change its layers.

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
            # An output has the name of its operation. The new Softmax takes the name,
            # so that the output keeps it.
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
        """Turns an input of the file into the input of the model."""
        if self.inside is None:
            # The file takes floats, and the model integers. The layers that rescale
            # pixels cast them anyway.
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
        """Turns samples for the model into samples for the file."""
        if name not in self.images:
            return x
        if self.inside is not None:
            return self.inside.to_pixels(x)
        return x.astype(self.dtypes.get(name, x.dtype))

    def to_model(self, name: str, x: np.ndarray) -> np.ndarray:
        """Rounds samples for the model as `to_file` rounds them for the file.

        Only images of a file that takes uint8 pixels change.
        """
        if name not in self.images or self.inside is None:
            return x
        return self.inside.to_inputs(self.inside.to_pixels(x)).astype(x.dtype)

    def expected(self, name: str, outputs: np.ndarray) -> np.ndarray:
        """Turns outputs of the model into numbers to compare with `comparable`."""
        added = name == self.output and self.softmax == "added"
        return softmax(outputs) if added else outputs

    def comparable(self, name: str, outputs: np.ndarray) -> np.ndarray:
        """Turns outputs of the file into numbers to compare with `expected`.

        The model's softmax determines logits only up to a constant that is added to
        all. So if the file leaves out the softmax, probabilities are compared.
        """
        left_out = name == self.output and self.softmax == "left out"
        return softmax(outputs) if left_out else outputs


def _model(like: keras.Model, inputs: list[Any], outputs: list[Any]) -> keras.Model:
    """A model with other tensors in the structure of `like`."""
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
    """The fields `(softmax, output, scores)` of an `Interface`."""
    name, x = model.output_names[0], model.outputs[0]
    activation = activation_of(operation_of(x))
    is_scores = len(model.outputs) == 1 and len(x.shape) == 2 and x.shape[1] > 1
    if outputs != "model" and not is_scores:
        raise ArgumentError(
            f"`outputs={outputs!r}` needs a model with one output of scores, "
            f"(batch, classes). Received: a model with outputs of shape "
            f"{[tuple(y.shape) for y in model.outputs]}"
        )
    if outputs == "logits" and activation == "sigmoid":
        raise ArgumentError(
            "`outputs='logits'` leaves out a softmax, but the model ends in a sigmoid. "
            "Export the model with `outputs='model'`."
        )
    if outputs == "model":
        if not is_scores:
            return None, name, None
        known = "logits" if gives_logits(model) else None
        return None, name, "probabilities" if activation else known
    if outputs == "probabilities":
        return None if activation else "added", name, "probabilities"
    return "left out" if activation else None, name, "logits"
