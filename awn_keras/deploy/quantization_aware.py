"""One width as a tf_keras model, for tensorflow-model-optimization (tfmot).

Quantization-aware training and its int8 file:

```python
quantized = quantize_aware(model, 0.5, representative=x_train[:200])
loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
quantized.compile(tf_keras.optimizers.SGD(3e-4, momentum=0.9), loss)
quantized.fit(x_train, y_train, batch_size=128)
Path("width_050.tflite").write_bytes(convert_int8(quantized, "width_050"))
```

For pruning and weight clustering, see `tf_keras_at`. tfmot 0.8 supports only Keras 2,
and tf_keras is Keras 2. To install tfmot and tf_keras: `pip install
"awn_keras[quantization]"`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from awn_keras.deploy.converter import custom_operators, input_name
from awn_keras.deploy.metadata import check_metadata, with_metadata
from awn_keras.deploy.operators import check_scales, kinds_of
from awn_keras.deploy.pixels import Pixels, is_image_shape
from awn_keras.deploy.signatures import signature_width
from awn_keras.deploy.sizes import InputShape, at_input_shape, fitting_shapes
from awn_keras.deploy.verification import check_samples
from awn_keras.environment import check_runs_on_tensorflow
from awn_keras.errors import ExportError, UnsupportedError
from awn_keras.extras import check_installed
from awn_keras.graph import assign, graph_nodes, replay
from awn_keras.multi_width import MultiWidthModel
from awn_keras.schemas import SCHEMAS
from awn_keras.slimming import slim

if TYPE_CHECKING:
    import tf_keras

#: Arguments of Keras 3 layers with another name in tf_keras.
_RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}
#: Endings of arguments that a model with copied weights does not need.
_LEFT_OUT = ("_initializer", "_regularizer", "_constraint")


def quantize_aware(
    model: MultiWidthModel,
    width: float,
    *,
    representative: Any = None,
    input_shape: InputShape | None = None,
) -> tf_keras.Model:
    """Makes a model of one width for quantization-aware training in int8.

    The model rounds values as int8 does, so training adapts to the rounding. `compile`
    and `fit` it with optimizers and losses of `tf_keras`, for some hundred steps at the
    smallest learning rate of the original training, or less. Kernels have ranges from
    the first step on; `Conv2D` has a range for each output channel. BatchNormalization
    continues to learn; `convert_int8` folds it into the kernels.

    Often this training is not needed. Compare with `export_tflite(...,
    precision="int8")` first.

    Args:
        model: An `AnyWidthModel`, or a model of `awn_keras.baselines`. It does not
            change.
        width: Width in [min_width, 1].
        representative: Some hundred training inputs, `(n, ...)` as for `model.predict`,
            which set the initial ranges of inputs and activations. `None` starts with
            tfmot's range [-6, 6]. The range of inputs then stays, and those of
            activations need thousands of steps to adapt.
        input_shape: Shape of the new model's input, as in `export_tflite`. `None` keeps
            the model's shape. `representative` needs a known shape.

    Returns:
        A functional `tf_keras.Model`, float32, not compiled, with the model's inputs
        and outputs. Its layers are called `quant_<name>`. tfmot does not support layers
        that scale images (`Rescaling`, `Normalization`); a frozen depthwise 1x1
        convolution replaces each of them.

    Raises:
        ImportError: If tf_keras or tfmot is not installed.
        TypeError: If `model` has one width only.
        ValueError: If `width` is outside [min_width, 1], if `representative` or
            `input_shape` does not fit the model's inputs, or if tfmot refuses an
            activation.
        NotImplementedError: See `to_tf_keras`.
        ExportError: See `to_tf_keras`.
        RuntimeError: If tfmot cannot quantize a layer; the message names the layer.
            Then annotate the layers of `tf_keras_at` as in tfmot's guide.

    Examples:
        >>> from awn_keras import lenet_3c1l
        >>> images = np.random.default_rng(0).normal(size=(200, 28, 28, 1))
        >>> quantized = quantize_aware(lenet_3c1l(), 0.5, representative=images)
        >>> quantized.output_shape
        (None, 10)

    Reference:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference (2018), section 3.
    """
    _check_backend("quantize_aware")
    tfmot = _import_tfmot()
    if input_shape is not None:
        model = at_input_shape(model, input_shape)
    plain = _rebuilt(slim(model, width, dtype="float32"), scales_by_convolution=True)
    if representative is not None:
        representative = check_samples(model, representative, "representative")
    _leave_names_to(plain)
    quantized = tfmot.quantization.keras.quantize_model(plain)
    if representative is not None:
        _set_ranges(quantized, _ranges(plain, representative))
    return quantized


def tf_keras_at(model: MultiWidthModel, width: float) -> tf_keras.Model:
    """Rebuilds one width of a model in tf_keras, for pruning and clustering by tfmot.

    Args:
        model: See `quantize_aware`.
        width: Width in [min_width, 1].

    Returns:
        A functional `tf_keras.Model`, float32, not compiled. Layers keep their names.

    Raises:
        ImportError: If tf_keras is not installed.
        TypeError: If `model` has one width only.
        ValueError: If `width` is outside [min_width, 1].
        NotImplementedError: See `to_tf_keras`.
        ExportError: See `to_tf_keras`.

    Examples:
        >>> from awn_keras import lenet_3c1l
        >>> import tensorflow_model_optimization as tfmot
        >>> plain = tf_keras_at(lenet_3c1l(), 0.5)
        >>> pruned = tfmot.sparsity.keras.prune_low_magnitude(plain)
        >>> # compile and fit `pruned`, with `tfmot.sparsity.keras.UpdatePruningStep()`
        >>> plain = tfmot.sparsity.keras.strip_pruning(pruned)
        >>> kind = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        >>> clustered = tfmot.clustering.keras.cluster_weights(plain, 16, kind)
        >>> # compile and fit `clustered`
        >>> plain = tfmot.clustering.keras.strip_clustering(clustered)

    At the end, convert with `tf.lite.TFLiteConverter.from_keras_model(plain)`.
    """
    _check_backend("tf_keras_at")
    return to_tf_keras(slim(model, width, dtype="float32"))


def to_tf_keras(model: keras.Model) -> tf_keras.Model:
    """Rebuilds a plain Keras 3 model in tf_keras, with the same weights.

    Initializers, regularizers and constraints are left out. The function runs the old
    and the new model on random inputs, and compares their outputs.

    Args:
        model: A functional or built Sequential model, float32, of stock layers, such as
            a model from `slim`. It does not change.

    Returns:
        A functional `tf_keras.Model`, not compiled. Layers keep their names. Inputs and
        outputs keep their structure.

    Raises:
        ImportError: If tf_keras is not installed.
        TypeError: If the model has no graph.
        NotImplementedError: If tf_keras has no such layer or does not accept its
            arguments, if the model calls an operation that is not a layer, or if Keras
            does not run on TensorFlow.
        ExportError: If an output differs by more than 1e-4 of its largest value.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> to_tf_keras(model).count_params()
        15
    """
    _check_backend("to_tf_keras")
    return _rebuilt(model)


def _rebuilt(
    model: keras.Model, *, scales_by_convolution: bool = False
) -> tf_keras.Model:
    """See `to_tf_keras`.

    Args:
        model: See `to_tf_keras`.
        scales_by_convolution: Whether to replace layers that scale images by a
            depthwise 1x1 convolution. tfmot does not support such layers, and the value
            between their product and their sum would have no range.
    """
    keras_2 = _import("tf_keras")
    nodes = graph_nodes(model)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    tensors = {}
    for x in model.inputs:
        tensors[id(x)] = keras_2.Input(
            x.shape[1:], batch_size=x.shape[0], dtype=x.dtype, name=input_name(x)
        )
    copies: dict[int, tuple[keras.Layer, Any]] = {}
    scaled: dict[int, list[np.ndarray]] = {}

    def call(node: Any, *args: Any, **kwargs: Any) -> Any:
        layer = node.operation
        if id(layer) not in copies:
            scaling = _scaling(node) if scales_by_convolution else None
            if scaling is None:
                copy = _layer_like(layer, keras_2)
            else:
                copy = keras_2.layers.DepthwiseConv2D(
                    1, name=layer.name, trainable=False
                )
                scaled[id(layer)] = scaling
            copies[id(layer)] = (layer, copy)
        return copies[id(layer)][1](*args, **kwargs)

    replay(nodes, tensors, call)
    rebuilt = keras_2.Model(
        keras.tree.map_structure(lambda x: tensors[id(x)], model.input),
        keras.tree.map_structure(lambda x: tensors[id(x)], model.output),
        name=model.name,
    )
    for layer, copy in copies.values():
        assign(copy, scaled.get(id(layer), layer.get_weights()))
    _check_equal(model, rebuilt)
    return rebuilt


def convert_int8(
    model: tf_keras.Model,
    signature: str,
    *,
    input_shape: InputShape | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Converts a quantization-aware model to a TFLite file that computes in int8.

    Args:
        model: The model from `quantize_aware`, after `fit`.
        signature: Name of the file's only signature, such as `"width_050"`.
        input_shape: Shape of the file's input, as in `export_tflite`, for a model with
            unknown rows, cols or steps.
        metadata: Information for users of the file, as in `export_tflite`:
            `class_names` become the labels, `normalization` says how pixels become
            inputs. `None` adds no metadata.

    Returns:
        The content of the file. It has batch size 1 and builtin operators only. It
        computes in integers, but inputs and outputs are float32. They have the names of
        the any-width model.

    Raises:
        TypeError: If `input_shape` is not a shape, or if `metadata` cannot be stored as
            JSON.
        ValueError: If rows, cols or steps are unknown and `input_shape` is missing, if
            `input_shape` does not fit, if the number of `class_names` is not the number
            of classes, or if LiteRT cannot run a layer because the range of its output
            is almost 0 (see `check_scales`).
        ExportError: If the file would need operators that are not builtin, or would
            compute in float.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    inputs = dict(zip(model.input_names, model.inputs, strict=True))
    outputs = [name.removeprefix("quant_") for name in model.output_names]
    shapes = fitting_shapes(
        {name: tuple(x.shape[1:]) for name, x in inputs.items()}, input_shape
    )
    manifest = None
    if metadata is not None:
        gives = {
            name: tuple(x.shape[1:])
            for name, x in zip(outputs, model.outputs, strict=True)
        }
        manifest = _manifest(model.name, signature, shapes, gives, metadata)

    def serve(**arrays: Any) -> dict[str, Any]:
        flat = [arrays[name] for name in inputs]
        results = model(tf.nest.pack_sequence_as(model.input, flat), training=False)
        return dict(zip(outputs, tf.nest.flatten(results), strict=True))

    specs = {
        name: tf.TensorSpec((1, *shapes[name]), x.dtype, name)
        for name, x in inputs.items()
    }
    module = tf.Module()
    # Saving the model itself would also trace each of its layers.
    module.weights = model.weights
    module.serve = tf.function(serve).get_concrete_function(**specs)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={signature: module.serve})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=[signature]
        )
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except ConverterError as error:
            raise ExportError(f"Model '{model.name}': {error}") from error
    refused = custom_operators(content) or _float_operators(content)
    if refused:
        raise ExportError(
            f"`model` must be a model from `quantize_aware`: '{model.name}' has "
            "operators that TFLite's builtin operators do not compute in int8: "
            f"{', '.join(refused)}."
        )
    check_scales(content, model.name)
    return content if manifest is None else with_metadata(content, manifest)


def _manifest(
    model: str,
    signature: str,
    takes: Mapping[str, tuple[int, ...]],
    gives: Mapping[str, tuple[Any, ...]],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a file of one width, with all known entries."""
    said = check_metadata(metadata, list(gives.values()))
    pixels = Pixels.parse(said.get("normalization"))
    inputs = []
    for name, shape in takes.items():
        entry: dict[str, Any] = {"name": name, "shape": [1, *shape], "dtype": "float32"}
        if pixels is not None and is_image_shape((None, *shape)):
            pixels.of_channels(shape[-1])
            entry["pixels"] = pixels.described()
        inputs.append(entry)
    return {
        "schema": SCHEMAS["manifest"],
        "model": model,
        "precision": "int8",
        "inputs": inputs,
        "outputs": [
            {"name": name, "shape": [1, *shape], "dtype": "float32"}
            for name, shape in gives.items()
        ],
        "changed": {"inputs": None, "softmax": None},
        "metadata": said,
        "widths": [{"width": signature_width(signature), "signature": signature}],
    }


def _float_operators(content: bytes) -> list[str]:
    """Names the operators of a TFLite file that read or write float tensors."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    kinds = kinds_of(code.builtinCode for code in model.operatorCodes)
    computing = set()
    for graph in model.subgraphs:
        floats = {
            index
            for index, tensor in enumerate(graph.tensors)
            if tensor.type == schema.TensorType.FLOAT32
        }
        for operator in graph.operators:
            if floats.intersection((*operator.inputs, *operator.outputs)):
                computing.add(kinds[operator.opcodeIndex])
    return sorted(computing - {"QUANTIZE", "DEQUANTIZE"})


def _check_backend(function: str) -> None:
    check_runs_on_tensorflow(
        function,
        "tf_keras is Keras 2, which has no other backend",
        "A model that was trained and saved on another backend can be loaded on "
        "TensorFlow.",
    )


def _import(name: str) -> Any:
    check_installed("Quantization-aware training, pruning or clustering", name)
    return importlib.import_module(name)


def _import_tfmot() -> Any:
    import tensorflow as tf

    _import("tf_keras")
    # tfmot sets the environment variable that selects the Keras version of `tf.keras`
    # on first use. `tf.keras` must stay Keras 3, here and in child processes.
    dir(tf.keras)
    variable = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(variable)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "distutils Version", DeprecationWarning)
            return _import("tensorflow_model_optimization")
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


def _scaling(node: Any) -> list[np.ndarray] | None:
    """Kernel and bias of the convolution that replaces a layer that scales images.

    `None` if the layer does not scale images.
    """
    layer, shape = node.operation, node.outputs[0].shape
    if len(shape) != 4:
        return None
    if isinstance(layer, keras.layers.Rescaling):
        scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    elif isinstance(layer, keras.layers.Normalization) and not layer.invert:
        mean, variance = map(keras.ops.convert_to_numpy, (layer.mean, layer.variance))
        scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        offset = -mean * scale
    else:
        return None
    kernel, bias = (
        np.broadcast_to(np.ravel(x), (shape[-1],)).astype("float32")
        for x in (scale, offset)
    )
    return [kernel.reshape(1, 1, -1, 1), bias]


def _layer_like(layer: Any, keras_2: Any) -> Any:
    kind = type(layer).__name__
    layer_class = getattr(keras_2.layers, kind, None)
    if not isinstance(layer, keras.Layer) or layer_class is None:
        raise UnsupportedError(
            f"tf_keras has no layer like '{layer.name}' ({kind}). Build the model with "
            "a layer that tf_keras has. For operators and functions of `keras.ops`, "
            "use `Add`, `Multiply`, `Rescaling` or `Activation`."
        )
    known = {"name", "trainable"}
    for base in layer_class.__mro__[:-1]:
        known.update(inspect.signature(base.__init__).parameters)
    # Arguments that only Keras 3 has are left out. If they matter, outputs differ, and
    # `_check_equal` raises.
    config = {
        name: value
        for key, value in layer.get_config().items()
        if (name := _RENAMED.get((kind, key), key)) in known
        and not name.endswith(_LEFT_OUT)
    }
    try:
        return layer_class.from_config({**config, "dtype": "float32"})
    except (TypeError, ValueError) as error:
        raise UnsupportedError(
            f"Layer '{layer.name}' ({kind}) has arguments that tf_keras does not "
            f"accept: {error}"
        ) from error


def _leave_names_to(model: tf_keras.Model) -> None:
    """Uses up automatic names of tf_keras that layers of a model already have.

    tfmot replaces a separable convolution by two layers with automatic names, and finds
    weights by name. The model's layers have names from Keras 3, which has its own
    counter, so names could collide.
    """
    layers = _import("tf_keras").layers
    for make, base in (
        (layers.Conv2D, "conv2d"),
        (layers.DepthwiseConv2D, "depthwise_conv2d"),
    ):
        matches = [
            re.fullmatch(rf"{base}_?(\d*)", layer.name) for layer in model.layers
        ]
        taken = [int(match[1] or 0) for match in matches if match]
        given = -1
        while taken and given < max(taken):
            given = int(make(1, 1).name.removeprefix(base)[1:] or 0)


def _check_equal(model: keras.Model, rebuilt: tf_keras.Model) -> None:
    rng = np.random.default_rng(0)
    # Unknown rows and cols become 32.
    shapes = [[x.shape[0] or 2, *(n or 32 for n in x.shape[1:])] for x in model.inputs]
    inputs = keras.tree.pack_sequence_as(
        model.input, [rng.normal(size=shape).astype("float32") for shape in shapes]
    )
    wanted = keras.tree.flatten(model(inputs, training=False))
    got = keras.tree.flatten(rebuilt(inputs, training=False))
    for name, output, copy in zip(model.output_names, wanted, got, strict=True):
        expected = keras.ops.convert_to_numpy(output)
        error = float(np.abs(expected - copy.numpy()).max())
        # `not <=` instead of `>`, so that NaN fails, too.
        if not error <= 1e-4 * float(np.abs(expected).max()):
            raise ExportError(
                f"Output '{name}' of model '{model.name}' differs by {error:.2g} after "
                "the model is rebuilt in tf_keras. A layer computes other values in "
                "tf_keras, or computes in half precision. Replace this layer, or use "
                "`slim(..., dtype='float32')`."
            )


def _ranges(
    plain: tf_keras.Model, inputs: list[np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each layer's output and pre-activation.

    Each range includes 0. The function replaces the activations of the model, so do not
    use the model afterwards.
    """
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str, x: Any) -> None:
        x = np.asarray(x)
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(low, float(x.min())), max(high, float(x.max())))

    def watched(name: str, activation: Any) -> Any:
        def call(x: Any) -> Any:
            watch(name, x)
            return activation(x)

        return call

    outputs = {}
    for layer in plain.layers:
        calls = range(len(layer.inbound_nodes))
        outputs[layer.name] = [layer.get_output_at(index) for index in calls]
        if getattr(layer, "activation", None) is not None:
            layer.activation = watched(f"{layer.name}/pre_activation", layer.activation)
    observer = type(plain)(plain.inputs, outputs)
    for row in range(0, len(inputs[0]), 32):
        seen = observer([x[row : row + 32] for x in inputs], training=False)
        for name, tensors in seen.items():
            for x in tensors:
                watch(name, x)
    return ranges


def _set_ranges(
    quantized: tf_keras.Model, ranges: dict[str, tuple[float, float]]
) -> None:
    for layer in quantized.layers:
        source = layer.name.removeprefix("quant_")
        if layer.name.startswith("quantize_layer"):  # tfmot adds it after an input
            source = layer.inbound_nodes[0].inbound_layers.name
        keys = {
            "pre_activation": f"{source}/pre_activation",
            **dict.fromkeys(("post_activation", "output", layer.name), source),
        }
        for weight in layer.weights:
            name = weight.name.rpartition("/")[2].removesuffix(":0")
            tensor, _, end = name.rpartition("_")
            # No range is known for the two layers that replace a separable convolution.
            # A layer that gives 0 for all samples has no range. Then tfmot's range
            # stays, because LiteRT cannot run layers with a range of almost 0.
            low, high = ranges.get(keys.get(tensor, ""), (0.0, 0.0))
            if low < high:
                weight.assign(high if end == "max" else low)
