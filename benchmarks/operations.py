"""Checks which functions of keras.ops and which stock layers can be converted.

    python -m benchmarks.operations

Each function or layer is called in a network that is then converted, once on feature
maps before the readout and once on scores after the readout. If the conversion accepts
the call, a slim network must give the same outputs as the model. If the conversion
refuses a call before the readout, the call must indeed mix channels: on some of the
input channels, it must not give the same channels of the result. The result also names
the layers that become Tri layers. Takes two minutes on two cores.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from awn_keras import slim, to_any_width
from awn_keras.environment import environment
from awn_keras.files import write_whole
from awn_keras.layers.base import TriLayer

L, ops = keras.layers, keras.ops
OUTPUT = Path(__file__).parents[1] / "results" / "operations.json"
ROWS, CHANNELS, SCORES = 4, 8, 6
#: Shapes without batch and channels: images, sequences, volumes, and none.
SHAPES = ((ROWS, ROWS), (ROWS,), (ROWS, ROWS, ROWS), ())
SOME = (0, 3, 4)
LAST = {"data_format": "channels_last"}

#: Seem not to mix channels on random inputs. Masking mixes them, but only at steps that
#: contain only zeros, and random inputs have no such steps.
SEEM_EXACT = ("Masking",)
CORNERS = ((0.0, 0.0), (0.0, 3.0), (3.0, 0.0), (3.0, 3.0))


def _matrices(x: Any) -> Any:
    """Cuts the channels so that cols and channels form square matrices."""
    return x[..., :ROWS]


def _positive(x: Any) -> Any:
    """Makes positive definite matrices from any matrices."""
    return ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))) + np.eye(ROWS, dtype="float32")


#: Calls on a tensor `(batch, ROWS, ROWS, channels)`, for functions that none of the
#: `WAYS` can call. `None` if a function does not make a tensor from a tensor.
CALLS: dict[str, Callable[[Any], Any] | None] = {
    "adaptive_average_pool": lambda x: ops.adaptive_average_pool(x, (2, 2), **LAST),
    "adaptive_max_pool": lambda x: ops.adaptive_max_pool(x, (2, 2), **LAST),
    "append": lambda x: ops.append(x, x, axis=1),
    "argpartition": lambda x: ops.argpartition(x, 1, axis=1),
    "array_split": lambda x: ops.array_split(x, 2, axis=1)[0],
    "average_pool": lambda x: ops.average_pool(x, 2, 2, **LAST),
    "batch_normalization": lambda x: ops.batch_normalization(
        x,
        np.full(x.shape[-1], 0.1, "float32"),
        np.full(x.shape[-1], 2.0, "float32"),
        -1,
    ),
    "broadcast_to": None,
    "cast": lambda x: ops.cast(x, "float32"),
    "cholesky": lambda x: ops.cholesky(_positive(_matrices(x))),
    "cholesky_inverse": lambda x: ops.cholesky_inverse(
        ops.cholesky(_positive(_matrices(x)))
    ),
    "conv": lambda x: ops.conv(x, np.ones((1, 1, x.shape[-1], 3), "float32"), **LAST),
    "cross": lambda x: ops.cross(x[:, :3], x[:, 1:], axis=1),
    "depthwise_conv": lambda x: ops.depthwise_conv(
        x, np.ones((2, 2, x.shape[-1], 1), "float32"), **LAST
    ),
    "det": lambda x: ops.det(_matrices(x)),
    "diagonal": lambda x: ops.diagonal(x, axis1=1, axis2=2),
    "dot": lambda x: ops.dot(x, np.ones((x.shape[-1], 3), "float32")),
    "dot_product_attention": lambda x: ops.dot_product_attention(x, x, x),
    "eigh": lambda x: ops.eigh(_positive(_matrices(x)))[0],
    "clip": lambda x: ops.clip(x, -1, 1),
    "depth_to_space": lambda x: ops.depth_to_space(x, 2, **LAST),
    "digitize": lambda x: ops.digitize(x, np.array([-0.5, 0.5])),
    "einsum": lambda x: ops.einsum("bhwc,bhwd->bhcd", x, x),
    "expand_dims": lambda x: ops.expand_dims(x, 1),
    "extract_sequences": lambda x: ops.extract_sequences(x, 2, 1),
    "get_item": lambda x: ops.get_item(x, (slice(None), 1)),
    "image.affine_transform": lambda x: ops.image.affine_transform(
        x, np.array([[1, 0, 1, 0, 1, 0, 0, 0]], "float32"), **LAST
    ),
    "image.crop_images": lambda x: ops.image.crop_images(
        x, 1, 1, target_height=2, target_width=2, **LAST
    ),
    "image.pad_images": lambda x: ops.image.pad_images(
        x, 1, 1, target_height=6, target_width=6, **LAST
    ),
    "image.perspective_transform": lambda x: ops.image.perspective_transform(
        x, np.array([CORNERS]), np.array([CORNERS[::-1]]), **LAST
    ),
    "image.resize": lambda x: ops.image.resize(x, (3, 5), **LAST),
    "flipud": None,
    "fold": None,
    "hstack": lambda x: ops.hstack([x, x]),
    "inv": lambda x: ops.inv(_positive(_matrices(x))),
    "linspace": lambda x: ops.linspace(x, 2 * x, 3, axis=1),
    "logdet": lambda x: ops.logdet(_positive(_matrices(x))),
    "lu_factor": lambda x: ops.lu_factor(_positive(_matrices(x)))[0],
    "full_like": lambda x: ops.full_like(x, 2.0),
    "max_pool": lambda x: ops.max_pool(x, 2, 2, **LAST),
    "moments": lambda x: ops.moments(x, [1, 2])[0],
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
    "moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "nan_to_num": lambda x: ops.nan_to_num(x),
    "nanpercentile": lambda x: ops.nanpercentile(x, 30.0, axis=1),
    "nanquantile": lambda x: ops.nanquantile(x, 0.3, axis=1),
    "one_hot": lambda x: ops.one_hot(ops.cast(ops.abs(x), "int32"), 3),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))),
    "percentile": lambda x: ops.percentile(x, 30.0, axis=1),
    "polar": None,
    "quantile": lambda x: ops.quantile(x, 0.3, axis=1),
    "rearrange": lambda x: ops.rearrange(x, "b h w c -> b w h c"),
    "repeat": lambda x: ops.repeat(x, 2, axis=1),
    "reshape": lambda x: ops.reshape(x, (-1, ROWS * ROWS, x.shape[-1])),
    "roll": lambda x: ops.roll(x, 1, axis=1),
    "rot90": lambda x: ops.rot90(x, axes=(1, 2)),
    "select": lambda x: ops.select([x > 0], [x], 0.0),
    "separable_conv": lambda x: ops.separable_conv(
        x,
        np.ones((2, 2, x.shape[-1], 1), "float32"),
        np.ones((1, 1, x.shape[-1], 3), "float32"),
        **LAST,
    ),
    "slice": None,
    "slogdet": lambda x: ops.slogdet(_positive(_matrices(x)))[1],
    "solve": lambda x: ops.solve(_positive(_matrices(x)), _matrices(x)),
    "solve_triangular": lambda x: ops.solve_triangular(
        _positive(_matrices(x)), _matrices(x)
    ),
    "space_to_depth": lambda x: ops.space_to_depth(x, 2, **LAST),
    "split": lambda x: ops.split(x, 2, axis=1)[0],
    "stack": lambda x: ops.stack([x, x], axis=1),
    "squeeze": lambda x: ops.squeeze(ops.max(x, axis=1, keepdims=True), 1),
    "swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "take": lambda x: ops.take(x, [1, 0], axis=1),
    "take_along_axis": lambda x: ops.take_along_axis(
        x, ops.zeros_like(x, dtype="int32"), axis=1
    ),
    "tensordot": lambda x: ops.tensordot(
        x, np.ones((ROWS, 3), "float32"), axes=[[1], [0]]
    ),
    "threshold": lambda x: ops.threshold(x, 0.1, 0.0),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 1)),
    "top_k": lambda x: ops.top_k(x, 2)[0],
    "trace": lambda x: ops.trace(x, axis1=1, axis2=2),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "unfold": lambda x: ops.unfold(x, 2),
    "where": lambda x: ops.where(x > 0, x, 0.5 * x),
}
#: Ways to call a function, tried in this order. The axis of the rows comes first,
#: because the default axis is often the one of the channels.
WAYS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda f, x: f(x, axis=1),
    lambda f, x: f(x),
    lambda f, x: f(x, x),
    lambda f, x: f([x, x], axis=1),
    lambda f, x: f([x, x]),
    lambda f, x: f(x, 2),
    lambda f, x: f(ops.cast(x, "int32")),
    lambda f, x: f(ops.cast(x, "int32"), ops.ones_like(x, dtype="int32")),
    lambda f, x: f(x, "int32"),
)


def main() -> None:
    """Tries all functions and layers, and writes the results."""
    keras.utils.set_random_seed(0)
    rows = [
        *(_tried("operation", name, call, SHAPES[0]) for name, call in _operations()),
        *(_tried("layer", name, call, shape) for name, call, shape in _layers()),
    ]
    wrong = [row for row in rows if row["before"]["verdict"] == "wrong"]
    result = {"rows": rows, "environment": environment()}
    write_whole(OUTPUT, json.dumps(result, indent=1) + "\n")
    for kind in ("operation", "layer"):
        for place in ("before", "after"):
            verdicts = [row[place]["verdict"] for row in rows if row["kind"] == kind]
            counts = {name: verdicts.count(name) for name in sorted(set(verdicts))}
            print(kind, place, counts)
    print("wrong (refused but exact, or accepted but not exact):", wrong)


def _operations() -> Iterator[tuple[str, Callable[[Any], Any] | None]]:
    """Yields the functions of keras.ops, each with a way to call it on a tensor."""
    for module in (ops, ops.image):
        for name, function in sorted(vars(module).items()):
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            full_name = name if module is ops else f"image.{name}"
            call = CALLS[full_name] if full_name in CALLS else _first_way(function)
            yield full_name, call


def _first_way(function: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Returns the first way to call a function that keeps the axis of the samples."""
    x = ops.convert_to_tensor(_random((2, ROWS, ROWS, CHANNELS)))
    for way in WAYS:
        try:
            y = keras.tree.flatten(way(function, x))[0]
            if len(y.shape) >= 2 and y.shape[0] == 2:
                return lambda tensor, way=way: keras.tree.flatten(
                    way(function, tensor)
                )[0]
        except Exception:  # noqa: BLE001 - backends raise many types
            continue
    return None


def _layers() -> Iterator[tuple[str, Callable[[Any], Any] | None, tuple[int, ...]]]:
    """Yields the stock layers, each with a way to call it and a shape to call it on."""
    for name, layer_class in sorted(vars(L).items()):
        if not (inspect.isclass(layer_class) and issubclass(layer_class, L.Layer)):
            continue
        # Layers that prepare inputs are random in training and do nothing otherwise.
        if layer_class.__module__.startswith("keras.src.layers.preprocessing"):
            continue
        yield name, *_layer_call(layer_class)


def _layer_call(
    layer_class: type[L.Layer],
) -> tuple[Callable[[Any], Any] | None, tuple[int, ...]]:
    """Returns the first way to call a layer, and the shape (of `SHAPES`) that fits."""
    arguments: tuple[tuple[Any, ...], ...] = (
        *((), (2,), (0.5,), (8, 1), (2, 2), ((2, 1, 3),), ((2, -1, 8),), ("relu",)),
        *((L.ReLU(),), (L.Conv2D(8, 1),), (lambda y: 2 * y,)),
        *((L.GRU(4),), (L.GRUCell(4),), (4, 2, 1)),
        ("abcd,de->abce", (ROWS, ROWS, 8)),
    )
    for positions, args in itertools.product(SHAPES, arguments):
        x = _random((2, *positions, CHANNELS))
        for take in (lambda y: (y,), lambda y: ([y, y],), lambda y: (y, y)):

            def call(y: Any, args: Any = args, take: Any = take) -> Any:
                # An inner layer is built for one size, so each call needs a new one.
                layer = layer_class(*map(_fresh, args))
                return layer(*take(y))

            try:
                y = keras.tree.flatten(call(x))[0]
                if len(y.shape) >= 2 and y.shape[0] == 2:
                    return call, positions
            except Exception:  # noqa: BLE001 - layers raise many types
                continue
    return None, ()


def _fresh(argument: Any) -> Any:
    if not isinstance(argument, L.Layer):
        return argument
    return type(argument).from_config(argument.get_config())


def _random(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _tried(
    kind: str,
    name: str,
    call: Callable[[Any], Any] | None,
    shape: tuple[int, ...],
) -> dict[str, Any]:
    if call is None:
        nothing = {"verdict": "not called", "reason": "makes no tensor of a tensor"}
        return {"kind": kind, "name": name, "before": nothing, "after": nothing}
    return {
        "kind": kind,
        "name": name,
        "before": _before(call, shape, checked=name not in SEEM_EXACT),
        "after": _after(call, shape),
    }


def _before(
    call: Callable[[Any], Any], shape: tuple[int, ...], *, checked: bool
) -> dict[str, str]:
    """Tries a call before the readout and returns the verdict."""

    def build() -> keras.Model:
        inputs = keras.Input((*shape, 1))
        x = L.Dense(CHANNELS, activation="tanh")(inputs)
        y = ops.cast(keras.tree.flatten(call(x))[0], "float32")
        return keras.Model(inputs, L.Dense(2)(L.Flatten()(y)))

    result = _converted(build)
    if result["verdict"] == "refused" and checked and _is_exact(call, shape):
        return {"verdict": "wrong", "reason": f"exact, but refused: {result['reason']}"}
    return result


def _after(call: Callable[[Any], Any], shape: tuple[int, ...]) -> dict[str, str]:
    """Tries a call after the readout and returns the verdict."""

    def build() -> keras.Model:
        inputs = keras.Input((*shape, 1))
        x = L.Dense(8)(L.Dense(CHANNELS, activation="tanh")(inputs))
        x = L.Dense(SCORES, name="readout")(x)
        return keras.Model(inputs, call(x))

    return _converted(build, readouts=["readout"])


def _converted(
    build: Callable[[], keras.Model], readouts: list[str] | None = None
) -> dict[str, str]:
    try:
        plain = build()
    except Exception as error:  # noqa: BLE001 - Keras raises many types
        return {"verdict": "not called", "reason": f"symbolic: {_line(error)}"}
    try:
        model = to_any_width(plain, divisor=1, readouts=readouts or ())
    except (ValueError, NotImplementedError, TypeError) as error:
        return {"verdict": "refused", "reason": _line(error)}
    x = _random((3, *plain.inputs[0].shape[1:]))
    becomes = sorted(
        {type(n).__name__ for n in model.layers if isinstance(n, TriLayer)}
    )
    try:
        plain(x)
    except Exception as error:  # noqa: BLE001 - works on symbolic tensors only
        return {"verdict": "not called", "reason": _line(error)}
    try:
        same = all(_slims(model, width, x) for width in (0.25, 0.5, 1.0))
    except Exception as error:  # noqa: BLE001 - a converted model must run
        return {"verdict": "wrong", "reason": f"taken, but: {_line(error)}"}
    if not same:
        return {"verdict": "wrong", "reason": "taken, but slim differs"}
    return {"verdict": "passes", "reason": "", "becomes": becomes}


def _slims(model: keras.Model, width: float, x: np.ndarray) -> bool:
    """Whether a slim network gives the same outputs as the model."""
    ours = keras.tree.flatten(model.at(width)(x, training=False))
    theirs = keras.tree.flatten(slim(model, width)(x, training=False))
    return all(
        np.allclose(
            ops.convert_to_numpy(got).astype("float64"),
            ops.convert_to_numpy(wanted).astype("float64"),
            rtol=1e-3,
            atol=1e-3,
            equal_nan=True,
        )
        for got, wanted in zip(ours, theirs, strict=True)
    )


def _is_exact(call: Callable[[Any], Any], shape: tuple[int, ...]) -> bool:
    """Whether a call on some input channels gives the same channels of the result."""
    x = _random((2, *shape, CHANNELS))
    try:
        whole, part = (
            keras.ops.convert_to_numpy(
                keras.tree.flatten(call(ops.convert_to_tensor(y)))[0]
            )
            for y in (x, x[..., SOME])
        )
        wanted = whole[..., SOME]
    except Exception:  # noqa: BLE001 - backends raise many types
        return False
    return part.shape == wanted.shape and np.allclose(part, wanted, atol=1e-5)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    main()
