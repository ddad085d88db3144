"""Tests whether an operation computes each sample of a batch separately.

After a readout, all channels are active, and a batch holds samples of several widths.
There, an operation may compute anything from a single sample. Whether it reads other
samples depends on its arguments (`softmax(x, axis=0)`). So the operation runs on a
batch of random samples, and on each sample alone.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from awn_keras.graph import data_tensors
from awn_keras.rules.registry import LayerCall

_SAMPLES = 3
#: Size of rows or cols that are not known.
_UNKNOWN = 4
#: A batch may change the order of sums. `float16` has about three digits, `bfloat16`
#: two.
_TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}


def check_each_sample_alone(call: LayerCall) -> None:
    """Checks a call of an operation of `keras.ops` after a readout.

    Args:
        call: The call.

    Raises:
        ValueError: If the operation mixes the samples of a batch, or cannot be tried.
    """
    tensors = {id(x): x for x in data_tensors(call.node)}
    rng = np.random.default_rng(0)
    values = {key: _random(x, rng) for key, x in tensors.items()}
    try:
        together = _run(call, values)
        alone = [
            _run(call, {key: value[i : i + 1] for key, value in values.items()})
            for i in range(_SAMPLES)
        ]
    except Exception as error:  # a backend may raise any error
        raise call.error(
            f"fails on a trial batch of {_SAMPLES} samples. After a readout, a batch "
            "holds samples of several widths, so an operation must run on batches of "
            f"any size. The error: {error}"
        ) from error
    for whole, *parts in zip(together, *alone, strict=True):
        if not _agree(whole, parts):
            raise call.error(
                "mixes the samples of a batch, for example by `axis=0`. After a "
                "readout, a batch holds samples of several widths, so an operation "
                "must treat each sample separately."
            )


def _random(x: Any, rng: np.random.Generator) -> Any:
    """Samples of a tensor of the graph, `(samples, ...)`."""
    shape = (_SAMPLES, *(_UNKNOWN if n is None else n for n in x.shape[1:]))
    kind = keras.backend.standardize_dtype(x.dtype)
    if "float" in kind:
        return keras.ops.cast(rng.normal(size=shape).astype("float32"), kind)
    return keras.ops.cast(rng.integers(0, 2, shape), kind)


def _run(call: LayerCall, values: dict[int, Any]) -> list[np.ndarray]:
    args, kwargs = call.node.arguments.fill_in(values)
    outputs = keras.tree.flatten(call.layer(*args, **kwargs))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def _agree(whole: np.ndarray, parts: list[np.ndarray]) -> bool:
    if any(np.shape(part)[:1] != (1,) for part in parts):
        return False
    apart = np.concatenate(parts)
    tolerance = _TOLERANCES.get(str(whole.dtype), 1e-4)
    # NumPy cannot compare bfloat16.
    wide = "complex128" if np.iscomplexobj(whole) else "float64"
    return apart.shape == whole.shape and np.allclose(
        apart.astype(wide),
        whole.astype(wide),
        rtol=tolerance,
        atol=tolerance,
        equal_nan=True,
    )
