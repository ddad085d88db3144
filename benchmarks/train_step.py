"""Times a step of training and of evaluation against a plain network and the loop.

    KERAS_BACKEND=jax python benchmarks/train_step.py [--steps 40] [--batch-size 128]
        [--precision mixed_bfloat16] [--output FILE]

LeNet-3C1L (45 channels) at 32x32x3. All arms run in one process, taking turns, so
that drift of the machine meets all of them; reported are medians and their ratios to
the plain full-width Keras model of the same backend. Three to ten minutes on 2 cores.
The arms with a star are TensorFlow's only.

- plain: the same network of ordinary convolutions, full width only;
- plain, 32 channels: the one that an AWN of 45 is compared with, whose weights are
  about as many as those of the AWN that are not zero;
- one pass, 4 widths: `AnyWidthModel` with the sandwich rule, its default;
- one pass, all widths: every distinct width in every step, weighed alike, or as the
  sandwich rule draws them (`expected=True`);
- sliced loop*: algorithm 1 of the paper as its authors run it, a forward and backward
  pass for each of 4 widths, through convolutions sliced to the width. (Fixed widths
  0.25, 0.5, 0.75, 1, so that all slices are static: the fastest loop there can be.)
- US-Net*, S-Net*: `awn_keras.baselines` as the paper's table 2 has them, 32 channels,
  4 widths a step, drawn and fixed; both slice at run time;
- masked loop: the same by `benchmarks/loop.py`, the reference for tests: every pass
  runs the whole trunk;
- evaluation, plain and at all widths: what `evaluate` and `fit`'s validation run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

# In `python benchmarks/train_step.py` its folder comes first.
from loop import train_by_the_loop

from awn_keras import AnyWidthModel, FixedWidths, SandwichWidths, lenet_3c1l, slim
from awn_keras.environment import environment
from awn_keras.multi_width import MultiWidthModel
from awn_keras.runs.recipe import PRECISIONS
from awn_keras.slices import active_slices

SHAPE, CLASSES = (32, 32, 3), 10
WIDTHS = (0.25, 0.5, 0.75, 1.0)
#: Steps of the US-Net before the clock: each new size of a slice is prepared once.
WARM_UP = 150
RESULTS = Path(__file__).parents[1] / "results"


def compile_model(model: keras.Model, **kwargs: Any) -> keras.Model:
    """The same optimizer, loss and metrics for all arms."""
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )
    return model


def keras_step(model: keras.Model, x: Any, y: Any) -> Callable[[], Any]:
    """A step of training as Keras compiles it; returns when the numbers are there."""
    return lambda: model.train_on_batch(x, y)


def weight_sources(model: AnyWidthModel, network: keras.Model, width: float) -> dict:
    """For each weight of a slimmed network: the model's weight, and which part."""
    nodes = {node.operation.name: node for node in model.propagation.nodes}
    sources = {}
    for layer in network.layers:
        if layer.weights:
            node = nodes[layer.name]
            flow = model.propagation.flows[id(node)]
            indices = active_slices(node.operation, flow, width)
            full = node.operation.weights
            for weight, source in zip(
                layer.weights, zip(full, indices, strict=True), strict=True
            ):
                sources[id(weight)] = source
    return sources


def part(full: keras.Variable, index: tuple[np.ndarray, ...]) -> Any:
    """Cuts a weight; by slicing where the channels are a prefix, else by gathering."""
    import tensorflow as tf

    value = full.value
    for axis, chosen in enumerate(index):
        if len(chosen) == full.shape[axis]:
            continue
        if chosen[-1] == len(chosen) - 1:
            size = [-1] * len(index)
            size[axis] = len(chosen)
            value = tf.slice(value, [0] * len(index), size)
        else:
            value = tf.gather(value, chosen, axis=axis)
    return value


def keras_evaluation(model: keras.Model, x: Any, y: Any) -> Callable[[], Any]:
    """A step of evaluation as Keras compiles it."""
    return lambda: model.test_on_batch(x, y)


def measure(steps: dict[str, Callable[[], Any]], count: int) -> list[dict[str, Any]]:
    """Runs all steps in turns; ratios are to the first one."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(count + 3):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if index >= 3:  # the first trace and warm up
                times[name].append(1000 * (time.perf_counter() - start))
    plain = statistics.median(next(iter(times.values())))
    return [
        {
            "arm": name,
            "median_ms": statistics.median(values),
            "min_ms": min(values),
            "p90_ms": float(np.percentile(values, 90)),
            "ratio_to_plain": statistics.median(values) / plain,
        }
        for name, values in times.items()
    ]


def sliced_loop_step(model: AnyWidthModel, x: Any, y: Any) -> Callable[[], Any]:
    """Algorithm 1 with slicing: one pass of a slimmed network for each width.

    The slimmed networks lend only their graphs; weights are slices of the model's.
    """
    import tensorflow as tf

    networks = [slim(model, width) for width in WIDTHS]
    sources = [
        weight_sources(model, network, width)
        for network, width in zip(networks, WIDTHS, strict=True)
    ]

    def one_pass(network: keras.Model, source: dict, x: Any, y: Any) -> list[Any]:
        moving = network.non_trainable_variables
        with tf.GradientTape() as tape:
            weights = [part(*source[id(v)]) for v in network.trainable_variables]
            statistics = [part(*source[id(v)]) for v in moving]
            y_pred, updated = network.stateless_call(
                weights, statistics, x, training=True
            )
            loss = model.loss(y, y_pred)
        for variable, value in zip(moving, updated, strict=True):
            full, (index,) = source[id(variable)]
            full.value[: len(index)].assign(value)
        return tape.gradient(loss, model.trainable_variables)

    @tf.function
    def step(x: Any, y: Any) -> Any:
        gradients: list[Any] = [0.0] * len(model.trainable_variables)
        for network, source in zip(networks, sources, strict=True):
            new = one_pass(network, source, x, y)
            gradients = [
                a + tf.convert_to_tensor(b) for a, b in zip(gradients, new, strict=True)
            ]
        model.optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return model.optimizer.iterations.value

    model.optimizer.build(model.trainable_variables)
    return lambda: np.asarray(step(x, y))


def plain_model() -> keras.Model:
    """The same network of ordinary convolutions, of full width."""
    return keras.models.clone_model(slim(lenet_3c1l(SHAPE, CLASSES), 1.0))


def sliced_systems(
    small: Callable[[], keras.Model],
) -> dict[str, keras.Model]:
    """The paper's systems with a pass for each width.

    Args:
        small: Makes an ordinary network.

    Returns:
        Compiled models by name of their arm.
    """
    from awn_keras.baselines import SNet, USNet

    def sliced(system: type[MultiWidthModel], **kwargs: Any) -> keras.Model:
        network = small()
        return compile_model(system(network.input, network.output, **kwargs))

    return {
        "US-Net, 32 channels, 4 widths": sliced(USNet, min_width=0.25),
        "S-Net, 32 channels, 4 widths": sliced(SNet, widths=WIDTHS),
    }


def main() -> None:
    """Runs all arms and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--output", type=Path, help="default: in results/")
    args = parser.parse_args()
    backend = keras.backend.backend()
    suffixes = ("" if backend == "tensorflow" else backend, args.precision)
    name = "_".join(["train_step", *(s for s in suffixes if s not in ("", "float32"))])
    output = args.output or RESULTS / f"{name}.json"

    keras.config.set_dtype_policy(args.precision)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(args.batch_size, *SHAPE)).astype("float32")
    y = rng.integers(0, CLASSES, args.batch_size)

    def any_width(widths: Any) -> AnyWidthModel:
        model = lenet_3c1l(SHAPE, CLASSES)
        if widths is None:
            widths = FixedWidths(model.distinct_widths)
        return compile_model(model, widths=widths)

    def small() -> keras.Model:
        return lenet_3c1l(SHAPE, CLASSES, width_multiplier=1.0, triangular=False)

    sandwich = SandwichWidths(0.25, 1.0, num_widths=4)
    models = {
        "plain": compile_model(plain_model()),
        "plain, 32 channels": compile_model(small()),
        "one pass, 4 widths": any_width(sandwich),
        "one pass, all widths": any_width(None),
        "one pass, all widths as drawn": any_width(
            SandwichWidths(0.25, 1.0, num_widths=4, expected=True)
        ),
        "masked loop, 4 widths": train_by_the_loop(any_width(sandwich)),
    }
    if backend == "tensorflow":
        models |= sliced_systems(small)
    steps = {name: keras_step(model, x, y) for name, model in models.items()}
    if backend == "tensorflow":
        loop = sliced_loop_step(any_width(sandwich), x, y)
        steps["sliced loop, 4 widths"] = loop
        for _ in range(WARM_UP):
            steps["US-Net, 32 channels, 4 widths"]()
    evaluations = {
        "evaluation, plain": keras_evaluation(models["plain"], x, y),
        "evaluation, all widths": keras_evaluation(models["one pass, 4 widths"], x, y),
    }
    rows = measure(steps, args.steps) + measure(evaluations, args.steps)
    for row in rows:
        print(
            f"{row['arm']:30} {row['median_ms']:8.1f} ms  {row['ratio_to_plain']:.2f}x"
        )
    report = {
        "what": "LeNet-3C1L, 45 channels, 32x32x3",
        "batch_size": args.batch_size,
        "backend": backend,
        "precision": args.precision,
        "steps": args.steps,
        "distinct_widths": len(models["one pass, 4 widths"].distinct_widths),
        "rows": rows,
        "environment": environment(),
    }
    output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
