"""Plain Keras models to one TFLite file of stock operators."""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from awn_keras.deploy.child import convert_in_child
from awn_keras.errors import ArgumentError, ExportError
from awn_keras.graph import operation_of

if TYPE_CHECKING:
    import tensorflow as tf

#: `"float32"`; `"float16"` constants; `"dynamic_range"`: int8 constants, activations
#: quantized as they come; `"int8"`: all in int8, on ranges seen in samples.
PRECISIONS = ("float32", "float16", "dynamic_range", "int8")


def convert(
    models: Mapping[str, keras.Model],
    precision: str = "float32",
    representative: Sequence[np.ndarray] | None = None,
) -> bytes:
    """Converts plain functional Keras models to one TFLite file, batch size 1.

    Args:
        models: Models of stock layers, by the name of the signature that each becomes.
            A signature's inputs and outputs have the names and dtypes of its model's,
            at any precision. Constants that are equal byte for byte are stored
            once.
        precision: One of `PRECISIONS`.
        representative: For each input an array `(n, ...)` of samples that training
            data look like; for `"int8"`, which needs it.

    Returns:
        The file's content.

    Raises:
        ValueError: If `precision` is none of these, or `"int8"` has no samples.
        ExportError: If it needs operators that are not builtin, or have no int8
            version; if Keras does not run on TensorFlow, also if the process that
            converts cannot (see `convert_in_child`).
    """
    check_precision(precision, representative)
    if keras.backend.backend() != "tensorflow":
        return convert_in_child(models, precision, representative)
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    with tempfile.TemporaryDirectory() as folder:
        # By way of a SavedModel: the converter folds BatchNormalization into the
        # kernels only when it finds the weights there.
        _save(models, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(models)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8" and representative is not None:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = functools.partial(
                _feed, models, representative
            )
        try:
            with warnings.catch_warnings():
                # The converter's own use of it, to find int8 ranges.
                warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter")
                content = converter.convert()
        except (ConverterError, RuntimeError) as error:
            operators = re.findall(
                r"^(?:Custom|Flex) ops: (.*)$", str(error), re.MULTILINE
            )
            if operators:
                raise ExportError(_not_builtin(models, operators)) from error
            raise ExportError(f"TFLite's converter failed: {error}") from error
    foreign = custom_operators(content)
    if foreign:
        raise ExportError(_not_builtin(models, foreign))
    return compact(content)


def compact(content: bytes) -> bytes:
    """Leaves out of a TFLite file what nothing that runs it needs.

    These are names of inner tensors, and quantization that says nothing: half of what a
    file of many widths has besides its constants.

    Args:
        content: The file's content.

    Returns:
        The content of a file that computes the same.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for graph in model.subgraphs:
        outer = {*map(int, graph.inputs), *map(int, graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if index not in outer:
                tensor.name = None
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
    for buffer in model.buffers:
        buffer.Pack = functools.partial(_pack_aligned, buffer)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _pack_aligned(buffer: Any, builder: Any) -> int:
    """Packs a constant at a multiple of 16 bytes, as the schema asks and TFLite does.

    The generated code for Python does not.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = None
    if buffer.data is not None and len(buffer.data):
        size = len(buffer.data)
        builder.StartVector(1, size, 16)
        builder.head = builder.Head() - size
        builder.Bytes[builder.Head() : builder.Head() + size] = bytes(buffer.data)
        data = builder.EndVector()
    schema.BufferStart(builder)
    if data is not None:
        schema.BufferAddData(builder, data)
    return schema.BufferEnd(builder)


def check_precision(
    precision: str, representative: Sequence[np.ndarray] | None
) -> None:
    """Raises a ValueError if there is no such precision, or its samples are missing."""
    if precision not in PRECISIONS:
        raise ArgumentError(
            f"`precision` must be one of {PRECISIONS}. Received: {precision!r}"
        )
    if precision == "int8" and representative is None:
        raise ArgumentError(
            "`precision='int8'` needs `representative`: some hundred training inputs, "
            "from which the ranges of all activations are found. "
            "`precision='dynamic_range'` needs none."
        )


def _save(models: Mapping[str, keras.Model], folder: str) -> None:
    """Writes a SavedModel with a signature for each model.

    `keras.export.ExportArchive` does so in twice the time: it traces a second time, and
    reads back what it wrote.
    """
    import tensorflow as tf

    functions = {
        signature: tf.function(
            _serving(model), input_signature=_specs(model), autograph=False
        ).get_concrete_function()
        for signature, model in models.items()
    }
    module = tf.Module()
    # Not the models themselves: saving these would trace each of their layers.
    module.weights = [function.variables for function in functions.values()]
    tf.saved_model.save(module, folder, signatures=functions)


def _serving(model: keras.Model) -> Callable[..., dict[str, keras.KerasTensor]]:
    def serve(*inputs: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        structure = keras.tree.pack_sequence_as(model.input, list(inputs))
        outputs = keras.tree.flatten(model(structure, training=False))
        return dict(zip(model.output_names, outputs, strict=True))

    return serve


def _specs(model: keras.Model) -> list[tf.TensorSpec]:
    import tensorflow as tf

    return [
        tf.TensorSpec((1, *x.shape[1:]), x.dtype, input_name(x)) for x in model.inputs
    ]


def _feed(
    models: Mapping[str, keras.Model], representative: Sequence[np.ndarray]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The same samples for each signature, so that shared activations share ranges."""
    for signature, model in models.items():
        names = [input_name(x) for x in model.inputs]
        for row in range(len(representative[0])):
            arrays = [array[row : row + 1] for array in representative]
            yield signature, dict(zip(names, arrays, strict=True))


def input_name(x: keras.KerasTensor) -> str:
    """Name of an input: that of the layer it comes from."""
    return operation_of(x).name


def _not_builtin(models: Mapping[str, keras.Model], operators: list[str]) -> str:
    names = sorted({model.name for model in models.values()})
    return (
        f"Model '{', '.join(names)}' needs operators that stock TFLite does not have: "
        f"{', '.join(operators)}. Replace the layers that use them."
    )


def custom_operators(content: bytes) -> list[str]:
    """Lists the operators of a TFLite file that are not builtin.

    Args:
        content: The file's content.

    Returns:
        Names of custom operators; Flex ones (TensorFlow's own) begin with `Flex`.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    return [
        (code.CustomCode() or b"?").decode()
        for code in codes
        if code.BuiltinCode() == schema.BuiltinOperator.CUSTOM
    ]


@dataclass(frozen=True)
class Constants:
    """The constants of a TFLite file.

    Args:
        stored: Bytes that they take in the file.
        used: Bytes that its signatures use, each counted by itself. The more this
            exceeds `stored`, the more they share.
        repeated: Bytes stored more than once.
    """

    stored: int
    used: int
    repeated: int


def constants(content: bytes) -> Constants:
    """Counts the constants of a TFLite file.

    Args:
        content: The file's content.

    Returns:
        Their bytes.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    buffers = [
        model.Buffers(i).DataAsNumpy() if model.Buffers(i).DataLength() else b""
        for i in range(model.BuffersLength())
    ]
    data = [bytes(buffer) for buffer in buffers]
    used = 0
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        held = {graph.Tensors(i).Buffer() for i in range(graph.TensorsLength())}
        used += sum(len(data[buffer]) for buffer in held)
    counts = Counter(data)
    repeated = sum(len(constant) * (times - 1) for constant, times in counts.items())
    return Constants(sum(map(len, data)), used, repeated)
