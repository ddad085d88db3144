"""Times training and evaluation steps, compared with a plain network and with loops.

    KERAS_BACKEND=jax python -m benchmarks.train_step [--steps 40] [--batch-size 128]
        [--precision mixed_bfloat16] [--output FILE]

The network is LeNet-3C1L (45 channels) at 32x32x3. All arms run in one process and take
turns, so that a change in the speed of the machine affects all arms. The result has
medians, and their ratios to the plain full-width Keras model of the same backend. Takes
three to ten minutes on two cores. Arms with a star run only with TensorFlow.

- plain: the same network with ordinary convolutions, at full width only.
- plain, 32 channels: a plain network. It has about as many weights as the any-width
  network of 45 channels has weights that are not zero.
- one pass, 4 widths: `AnyWidthModel` with the sandwich rule, the default.
- one pass, all widths: all distinct widths in each step. The losses have equal weights,
  or (arm "as drawn") the weights that the sandwich rule gives on average
  (`expected=True`).
- sliced loop*: algorithm 1 of the paper as its authors run it. Each of 4 widths has a
  forward and a backward pass through convolutions that are sliced to the width. The
  widths are fixed (0.25, 0.5, 0.75, 1), so that all slices are static. No loop can be
  faster.
- US-Net*, S-Net*: models of `awn_keras.baselines` with 32 channels, as in table 2 of
  the paper. Each step has 4 widths, drawn for US-Net and fixed for S-Net. Both slice at
  run time.
- masked loop: algorithm 1 in `benchmarks/loop.py`, the reference for tests. Each pass
  runs the whole trunk.
- evaluation, plain and at all widths: a step of `evaluate`, and of the validation in
  `fit`.
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

from awn_keras import AnyWidthModel, FixedWidths, SandwichWidths, lenet_3c1l, slim
from awn_keras.environment import environment
from awn_keras.multi_width import MultiWidthModel
from awn_keras.runs.recipe import PRECISIONS
from awn_keras.slices import active_slices
from benchmarks.loop import train_by_the_loop

SHAPE, CLASSES = (32, 32, 3), 10
WIDTHS = (0.25, 0.5, 0.75, 1.0)
#: Steps of the US-Net before it is timed. Each new size of a slice needs preparation
#: once, which must not count.
WARM_UP = 150
RESULTS = Path(__file__).parents[1] / "results"


def compile_model(model: keras.Model, **kwargs: Any) -> keras.Model:
    """Compiles a model with the optimizer, loss and metrics of all arms."""
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )
    return model


def keras_step(model: keras.Model, x: Any, y: Any) -> Callable[[], Any]:
    """Makes a function that runs a training step of Keras and waits for its logs."""
    return lambda: model.train_on_batch(x, y)


def weight_sources(model: AnyWidthModel, network: keras.Model, width: float) -> dict:
    """Finds where each weight of a slim network comes from.

    Returns:
        By `id` of the slim network's weight: the model's weight, and the indices of the
        part that the slim network has.
    """
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
    """Cuts a weight by slicing if the channels are a prefix, else by gathering."""
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
    """Makes a function that runs an evaluation step of Keras and waits for its logs."""
    return lambda: model.test_on_batch(x, y)


def measure(steps: dict[str, Callable[[], Any]], count: int) -> list[dict[str, Any]]:
    """Times all steps in turns. Ratios are relative to the first step."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(count + 3):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if index >= 3:  # the first three trace and warm up
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
    """Makes a step of algorithm 1 with slicing: a pass of a slim network per width.

    Only the graphs of the slim networks are used. Their weights are slices of the
    model's weights.
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
    """Builds the same network with ordinary convolutions, at full width."""
    return keras.models.clone_model(slim(lenet_3c1l(SHAPE, CLASSES), 1.0))


def sliced_systems(
    small: Callable[[], keras.Model],
) -> dict[str, keras.Model]:
    """Builds the systems of the paper that run a pass for each width.

    Args:
        small: Makes the ordinary network.

    Returns:
        Compiled models by the name of the arm.
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
    """Times all arms, prints and writes the result."""
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
