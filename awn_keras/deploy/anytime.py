"""Outputs at a narrow width first, then refined to a wide width on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.deploy.checks import check_integer
from awn_keras.deploy.litert import TFLiteFile, in_order
from awn_keras.deploy.pixels import are_photos, photos_to_inputs
from awn_keras.deploy.signatures import Refinement
from awn_keras.errors import ArgumentError, StateError
from awn_keras.extras import check_installed


class AnytimeInterpreter:
    """Computes outputs at a narrow width, and refines them to those of a wide width.

    The activations at a narrow width are part of those at a wide width. `run` keeps
    them, and `refine` computes only the rest. Both calls together take about as long as
    the wide network alone. Use this class if you need a first result early, or if the
    first result is often good enough.

    The file comes from `export_tflite(..., refine=(narrow, wide))`. Activations stay in
    LiteRT's buffers and are not copied. Use an object in one thread only.

    Args:
        path: The file, or its content as bytes. Do not change the file while it is in
            use.
        num_threads: Threads of LiteRT's CPU kernels, at least 1.

    Attributes:
        labels: The names of the classes; empty if the file has none.
        metadata: The file's manifest, `awn.json`; empty if the file has none.

    Raises:
        ImportError: If LiteRT is not installed.
        TypeError: If `path` is neither a path nor bytes, or if `num_threads` is not an
            integer.
        ValueError: If `path` is not a TFLite file, if it has no signatures that refine,
            or if `num_threads` is below 1.
        OSError: If the file cannot be read.

    Examples:
        >>> export_tflite(model, "net.tflite", widths=[0.25, 1], refine=(0.25, 1))
        >>> interpreter = AnytimeInterpreter("net.tflite")
        >>> scores = interpreter.run(image[None])  # (1, classes), at width 0.25
        >>> if scores.max() < 0.9:
        ...     scores = interpreter.refine()  # at width 1.0
    """

    def __init__(self, path: str | Path | bytes, *, num_threads: int = 1) -> None:
        check_installed("Running a TFLite file", "ai_edge_litert")
        from ai_edge_litert.compiled_model import (
            CompiledModel,
            CpuOptions,
            HardwareAccelerator,
            Options,
        )

        check_integer(num_threads, "num_threads", 1)
        file = TFLiteFile(path)
        signatures = file.signatures
        parsed = map(Refinement.parse, signatures)
        pairs = {pair for pair in parsed if pair and pair.is_in(signatures)}
        if len(pairs) != 1:
            raise ArgumentError(
                "`path` must have one pair of signatures such as `keep_025_to_100` and "
                "`refine_025_to_100`. `export_tflite(..., refine=(0.25, 1.0))` writes "
                f"such a file. Received: a file with the signatures {list(signatures)}"
            )
        (pair,) = pairs
        self._pair = pair
        self.labels: tuple[str, ...] = file.labels
        self.metadata: dict[str, Any] = file.described
        self._pixels_of = file.pixels_of
        self._input_names = file.input_names
        self._first, self._rest = signatures[pair.keep], signatures[pair.refine]
        self._first.check_takes_samples()
        self._rest.check_takes_samples()
        options = Options(
            hardware_accelerators=HardwareAccelerator.CPU,
            cpu_options=CpuOptions(num_threads=num_threads),
        )
        self._model = (
            CompiledModel.from_buffer(path, options=options)
            if isinstance(path, bytes)
            else CompiledModel.from_file(str(path), options=options)
        )
        self._inputs = {
            tensor.name: self._model.create_input_buffer_by_name(pair.keep, tensor.name)
            for tensor in self._first.inputs
        }
        self._kept, self._refined = (
            {
                tensor.name: self._model.create_output_buffer_by_name(
                    signature.name, tensor.name
                )
                for tensor in signature.outputs
            }
            for signature in (self._first, self._rest)
        )
        self._has_run = False

    @property
    def widths(self) -> tuple[float, float]:
        """The width of `run`, and the width of `refine`."""
        return self._pair.narrow, self._pair.wide

    def run(self, x: Any) -> Any:
        """Computes the outputs at the narrow width.

        Args:
            x: A photo, a `PIL.Image.Image` of any size, if the file says how pixels
                become inputs. Or one sample `(1, ...)`; for several inputs a list of
                such arrays in the order of the model's inputs, or a dict of them by
                name. Cast to the input's dtype as NumPy's
                "same_kind" rule allows.

        Returns:
            Array `(1, ...)`. If there are several outputs, a dict of arrays by name.

        Raises:
            TypeError: If `x` does not fit a dtype.
            ValueError: If names or shapes do not fit, if `x` is not a single sample,
                or, for a photo, if the file does not say how pixels become inputs.
            RuntimeError: If LiteRT fails.
        """
        if are_photos(x) and len(self._first.inputs) == 1:
            (tensor,) = self._first.inputs
            photos = x if isinstance(x, list | tuple) else [x]
            x = photos_to_inputs(photos, tensor, self._pixels_of(tensor.name))
        arrays = self._first.encode(in_order(x, self._first, self._input_names))
        count = len(next(iter(arrays.values())))
        if count != 1:
            raise ArgumentError(
                "`x` must be one sample, (1, ...), because the activations of only one "
                f"sample are kept. Received: {count} samples"
            )
        # If this run fails, `refine` must not continue with activations of two samples.
        self._has_run = False
        for name, array in arrays.items():
            self._inputs[name].write(np.ascontiguousarray(array))
        self._model.run_by_name(self._pair.keep, self._inputs, self._kept)
        self._has_run = True
        return self._read(self._kept)

    def refine(self) -> Any:
        """Computes the outputs of the last sample at the wide width.

        Returns:
            Arrays as `run` returns them.

        Raises:
            RuntimeError: If you did not call `run` before, or if LiteRT fails.
        """
        if not self._has_run:
            raise StateError("`refine()` continues `run(x)`. Call `run(x)` first.")
        # `refine` reads the buffers that `run` has filled, so nothing is copied.
        given = {**self._kept, **self._inputs}
        self._model.run_by_name(
            self._pair.refine,
            {tensor.name: given[tensor.name] for tensor in self._rest.inputs},
            self._refined,
        )
        return self._read(self._refined)

    def _read(self, buffers: Mapping[str, Any]) -> Any:
        """Reads the model's outputs, which have the names of the last signature's."""
        outputs = {
            tensor.name: buffers[tensor.name]
            .read(int(np.prod(tensor.sample_shape)), tensor.dtype)
            .reshape(1, *tensor.sample_shape)
            for tensor in self._rest.outputs
        }
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))
