"""Runs TFLite files on LiteRT's GPU engine, on a real GPU or a software GPU.

The engine runs in a separate process (`engine.py`), because a driver may crash or hang.
If the GPU refuses a shader, the engine raises no error: the outputs are wrong, and only
a line on stderr shows it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from awn_keras.deploy.engine import (
    EngineError,
    EngineResult,
    EngineTimeoutError,
    run_apart,
)
from awn_keras.deploy.litert import TFLiteFile
from awn_keras.errors import ArgumentError

#: Seconds that the engine may take to find a GPU, and to run a file.
PROBE_TIMEOUT, RUN_TIMEOUT = 60, 900

_NO_GPU = (
    "LiteRT's GPU engine found no GPU with a Vulkan driver ({reason}). A software GPU "
    "works, too: on Debian `apt-get install --no-install-recommends libvulkan1 "
    "chromium-common`, then set "
    "VK_ICD_FILENAMES=/usr/lib/chromium/vk_swiftshader_icd.json"
)


class GPUError(EngineError):
    """There is no GPU, or LiteRT's GPU engine fails on a file."""


@dataclass(frozen=True)
class GPURun:
    """The outputs of a file on the GPU.

    Args:
        outputs: For each output an array `(n, ...)`, in the order of names.
        fully_accelerated: Whether the GPU runs all operators of all signatures in the
            file. If not, the CPU ran the rest.
        device: The driver's name of the GPU.
    """

    outputs: list[np.ndarray]
    fully_accelerated: bool
    device: str


def gpu_is_available() -> bool:
    """Whether LiteRT's GPU engine works here, on a real GPU or a software GPU.

    The first call runs a file with one operator, which takes about half a second. Later
    calls in this process return the same answer. The environment variable
    `VK_ICD_FILENAMES` names Vulkan drivers to try instead of the system's drivers.

    Returns:
        `True` if the engine computes the right values.
    """
    return why_no_gpu() is None


@functools.cache
def why_no_gpu() -> str | None:
    """Why LiteRT's GPU engine does not work here; `None` if it does."""
    x = np.array([[-1.0, 0.0, 1.0, 2.0]], "float32")
    try:
        run = _run(_smallest_file(), [x], "probe", True, PROBE_TIMEOUT)
    except GPUError as error:
        return str(error)
    if np.array_equal(run.outputs[0], np.maximum(x, 0)):
        return None
    return f"LiteRT's GPU engine computes wrong numbers on {run.device}."


def run_on_gpu(
    source: bytes | TFLiteFile,
    inputs: Sequence[np.ndarray],
    signature: str | None = None,
    *,
    enforce_float32: bool = True,
) -> GPURun:
    """Runs a TFLite file with LiteRT on the GPU, one sample at a time.

    Args:
        source: The open file, or its content. Its batch size is 1.
        inputs: For each input an array `(n, ...)` in the dtype of the input, in the
            order of names.
        signature: Name of the signature. `None` for the only signature.
        enforce_float32: `False` leaves the precision to LiteRT, which may compute in
            float16 where the GPU can.

    Returns:
        The outputs, in the dtypes of the file, and whether all operators ran on the
        GPU.

    Raises:
        ValueError: If `source` is not a TFLite file, if the file has no such signature,
            or if the arrays do not fit the inputs.
        GPUError: If there is no GPU, if the engine fails, or if the engine takes more
            than 15 minutes.
    """
    file = TFLiteFile.of(source)
    known = file.signatures
    if signature is None and len(known) == 1:
        (signature,) = known
    if signature is None or signature not in known:
        raise ArgumentError(
            f"`signature` must be one of {sorted(known)}. Received: {signature!r}"
        )
    inputs_of = known[signature].inputs
    wanted = [(tensor.sample_shape, tensor.dtype) for tensor in inputs_of]
    received = [(x.shape[1:], x.dtype) for x in inputs]
    counts = {x.shape[:1] for x in inputs}
    if received != wanted or len(counts) != 1 or counts & {(), (0,)}:
        raise ArgumentError(
            f"`inputs` must be arrays `(n, ...)`, n > 0, for samples of {wanted}. "
            f"Received: {[(x.shape, x.dtype) for x in inputs]}"
        )
    return _run(file.content, inputs, signature, enforce_float32, RUN_TIMEOUT)


def _run(
    content: bytes,
    inputs: Sequence[np.ndarray],
    signature: str,
    enforce_float32: bool,
    timeout: float,
) -> GPURun:
    try:
        run = run_apart(
            content,
            inputs,
            signature,
            gpu=True,
            enforce_float32=enforce_float32,
            timeout=timeout,
        )
    except EngineTimeoutError as error:
        raise GPUError(str(error)) from error
    device = check_gpu_run(run, signature)
    return GPURun(list(run.outputs), run.fully_accelerated, device)


def check_gpu_run(run: EngineResult, signature: str) -> str:
    """Checks a run for failures of the GPU engine, which may fail without an error.

    Args:
        run: The run on the GPU.
        signature: Name of the signature that was run.

    Returns:
        The driver's name of the GPU.

    Raises:
        GPUError: If there is no GPU, or the engine failed.
    """
    device = re.search(r"Selected adapter: (.*)", run.log)
    if run.status and device is None:
        raise GPUError(_NO_GPU.format(reason=_reason(r"^Warning: (.*)", run.log)))
    refused = r"^E\d{4} .*?\] (\S.* error: .*)"
    if not run.outputs or re.search(refused, run.log, re.MULTILINE):
        raise GPUError(
            f"LiteRT's GPU engine failed on signature '{signature}' (status "
            f"{run.status}): {_reason(refused, run.log)}"
        )
    return device[1] if device else "unknown"


def _reason(pattern: str, log: str) -> str:
    reasons = dict.fromkeys(re.findall(pattern, log, re.MULTILINE))
    return "; ".join(reasons) or log.strip().rsplit("\n", 1)[-1]


def _smallest_file() -> bytes:
    """A TFLite file with one signature, `probe`: y = relu(x), of shape `(1, 4)`."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    relu = schema.BuiltinOperator.RELU
    code = schema.OperatorCodeT(deprecatedBuiltinCode=relu, builtinCode=relu)
    graph = schema.SubGraphT(
        tensors=[schema.TensorT(name=name, shape=[1, 4]) for name in "xy"],
        operators=[schema.OperatorT(inputs=[0], outputs=[1])],
        inputs=[0],
        outputs=[1],
    )
    x, y = (schema.TensorMapT(name, index) for index, name in enumerate("xy"))
    signature = schema.SignatureDefT([x], [y], "probe")
    model = schema.ModelT(
        3, [code], [graph], buffers=[schema.BufferT()], signatureDefs=[signature]
    )
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
