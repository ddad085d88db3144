"""Conversion of plain Keras models to one TFLite file of stock operators."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from awn_keras.deploy.child import convert_in_child
from awn_keras.deploy.convertible import check_convertible
from awn_keras.deploy.joining import METADATA, Converted, join
from awn_keras.deploy.manifests import PRECISIONS
from awn_keras.deploy.ranges import widen_ranges
from awn_keras.deploy.sums import with_plain_sums
from awn_keras.errors import ArgumentError, AwnError, ExportError
from awn_keras.extras import check_installed
from awn_keras.graph import operation_of


def convert(
    models: Mapping[str, keras.Model],
    precision: str = "float32",
    representative: Sequence[np.ndarray] | None = None,
    on_converted: Callable[[str], None] | None = None,
    *,
    may_crash: bool = False,
) -> bytes:
    """Converts plain functional Keras models to one TFLite file, batch size 1.

    Args:
        models: Models of stock layers, by the name of the signature that each becomes.
            At any precision, inputs and outputs of a signature have the names and
            dtypes of the inputs and outputs of its model. Constants that are equal byte
            for byte are stored once.
        precision: One of `PRECISIONS`.
        representative: One array `(n, ...)` of samples for each input. The samples must
            look like training data. `"int8"` needs them; the other precisions ignore
            them.
        on_converted: Called with the name of each signature when the signature is
            converted. If another process converts, all calls come at the end.
        may_crash: Whether a crash of the converter may end this process. `True` suits a
            process that does nothing but convert.

    Returns:
        The file's content. A runtime that knows no signatures runs the first of
        `models`.

    Raises:
        ValueError: If `precision` is not one of `PRECISIONS`, or `"int8"` has no
            samples.
        ImportError: If TensorFlow or LiteRT is not installed.
        ExportError: If a model needs operators that are not builtin or have no int8
            version, or if the converter cannot take a model (see `check_convertible`).
            Another process converts if Keras does not run on TensorFlow, or if the
            converter may crash on a model. Then also if that process crashes, or if it
            cannot convert (see `convert_in_child`).
    """
    check_can_convert("TFLite's converter")
    check_precision(precision, representative)
    check_convertible(models.values(), precision)
    if keras.backend.backend() == "tensorflow":
        with contextlib.suppress(_LoopError):
            return _convert_here(
                models, precision, representative, on_converted, may_crash
            )
    content = convert_in_child(models, precision, representative)
    if on_converted is not None:
        for signature in models:
            on_converted(signature)
    return content


class _LoopError(AwnError):
    """A model runs a loop, and the converter may crash on the loop.

    The int8 conversion of loops over steps ends in a segmentation fault
    (`keras.ops.map`, rolled recurrent layers; not a plain `fori_loop`). Models without
    loops are converted in this process: a new process takes seconds to start, and
    cannot import classes that are defined in a notebook.
    """


def _convert_here(
    models: Mapping[str, keras.Model],
    precision: str,
    representative: Sequence[np.ndarray] | None,
    on_converted: Callable[[str], None] | None,
    may_crash: bool,
) -> bytes:
    """Converts in this process.

    Raises:
        _LoopError: If the conversion may crash, and `may_crash` is `False`.
    """

    def converted() -> Iterator[Converted]:
        for signature, model in models.items():
            function = _frozen(with_plain_sums(model))
            if precision == "int8" and not may_crash and _has_loop(function):
                raise _LoopError(signature)
            content = _convert(models, function, precision, representative)
            if on_converted is not None:
                on_converted(signature)
            names = [input_name(x) for x in model.inputs]
            yield Converted(content, signature, names, model.output_names)

    content = join(converted())
    foreign = custom_operators(content)
    if foreign:
        raise ExportError(_not_builtin(models, foreign))
    return content


def check_can_convert(who: str) -> None:
    """Raises an ImportError that names `who` if the converter is not installed."""
    why = "whose converter works on every backend of Keras"
    check_installed(who, "tensorflow", why=why)
    check_installed(who, "ai_edge_litert")


def _has_loop(function: Any) -> bool:
    """Whether a TensorFlow function runs a loop."""
    graph = function.graph.as_graph_def()
    inner = [each.node_def for each in graph.library.function]
    nodes = itertools.chain(graph.node, *inner)
    return any(node.op in ("While", "StatelessWhile") for node in nodes)


def check_precision(
    precision: str, representative: Sequence[np.ndarray] | None
) -> None:
    """Raises a ValueError if `precision` is unknown, or its samples are missing."""
    if precision not in PRECISIONS:
        raise ArgumentError(
            f"`precision` must be one of {PRECISIONS}. Received: {precision!r}"
        )
    if precision == "int8" and representative is None:
        raise ArgumentError(
            "`precision='int8'` needs `representative`: some hundred training inputs, "
            "from which the converter takes the ranges of all activations. "
            "`precision='dynamic_range'` needs no samples."
        )


def _convert(
    models: Mapping[str, keras.Model],
    function: Any,
    precision: str,
    representative: Sequence[np.ndarray] | None,
) -> bytes:
    """Converts a traced model to a file that has no signature yet.

    `models` are all models of the file, for messages.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.python.convert_phase import ConverterError

    converter = _converter(function)
    # The converter would write its metadata in a second, slow pass over the file.
    converter.exclude_conversion_metadata = True
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8" and representative is not None:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = functools.partial(_feed, representative)
    try:
        with warnings.catch_warnings():
            # The warning concerns the converter's own use of the interpreter, with
            # which it measures int8 ranges.
            warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter")
            if converter.representative_dataset is None:
                return converter.convert()
            # The converter's two steps, with ours between them.
            converter._experimental_calibrate_only = True
            return mlir_quantize(widen_ranges(converter.convert()))
    except (ConverterError, RuntimeError) as error:
        operators = _foreign_operators(str(error))
        if operators:
            raise ExportError(_not_builtin(models, operators)) from error
        raise ExportError(f"TFLite's converter failed: {error}") from error


def _foreign_operators(message: str) -> list[str]:
    """The operators in an error of the converter that are not builtin."""
    listed = re.findall(r"^(?:Custom|Flex) ops: (.*)$", message, re.MULTILINE)
    inline = re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex", message)
    return listed or sorted(set(inline))


def _frozen(model: keras.Model) -> Any:
    """A TensorFlow function that computes a model, with weights as constants.

    The converter folds BatchNormalization into kernels only if the weights are
    constants. It would take longer than all the rest to trace variables and to replace
    them afterwards.
    """
    import tensorflow as tf

    values = [(v, keras.ops.convert_to_numpy(v)) for v in model.variables]

    def serve(*inputs: Any) -> list[Any]:
        structure = keras.tree.pack_sequence_as(model.input, list(inputs))
        with keras.StatelessScope(values):
            return keras.tree.flatten(model(structure, training=False))

    specs = [tf.TensorSpec((1, *x.shape[1:]), x.dtype) for x in model.inputs]
    function = tf.function(serve, input_signature=specs, autograph=False)
    return function.get_concrete_function()


def _converter(function: Any) -> Any:
    """The converter for a function: the fast one, if all values are in the graph."""
    import tensorflow as tf

    # Some layers, such as `Normalization`, hold tensors that are not weights.
    kept = {
        inner.op.name: outer
        for outer, inner in function.graph.captures
        if isinstance(outer, tf.Tensor) and outer.dtype not in (tf.resource, tf.variant)
    }
    if len(kept) < len(function.captured_inputs):
        return tf.lite.TFLiteConverter.from_concrete_functions([function])
    graph = function.graph.as_graph_def()
    for node in graph.node:
        if node.name in kept:
            value = kept[node.name].numpy()
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    inputs = [x for x in function.inputs if x.op.name not in kept]
    return tf.compat.v1.lite.TFLiteConverter(graph, inputs, function.outputs)


def _feed(representative: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Yields the samples, one at a time.

    All signatures get equal samples, so activations that widths share have equal
    ranges.
    """
    for row in range(len(representative[0])):
        yield [array[row : row + 1] for array in representative]


def input_name(x: keras.KerasTensor) -> str:
    """The name of an input, which is the name of its input layer."""
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
        Names of custom operators. Names of Flex operators, which run TensorFlow's own
        kernels, begin with `Flex`.
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
        stored: Bytes that constants take in the file.
        used: Sum of the bytes that each signature uses. The more `used` exceeds
            `stored`, the more constants the signatures share.
        repeated: Bytes of copies: each constant that is stored several times counts
            once less than it is stored.
    """

    stored: int
    used: int
    repeated: int


def constants(content: bytes) -> Constants:
    """Counts the constants of a TFLite file.

    Args:
        content: The file's content.

    Returns:
        The bytes of the constants. TFLite Metadata does not count as a constant.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    notes = map(model.Metadata, range(model.MetadataLength()))
    metadata = {note.Buffer() for note in notes if note.Name() == METADATA}
    buffers = [
        model.Buffers(i).DataAsNumpy()
        if model.Buffers(i).DataLength() and i not in metadata
        else b""
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
