"""Samplers: the widths of a training step, and the weights of their losses.

A sampler has no state. A step draws widths in its graph, from the sampler's seed and
the number of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import keras
import numpy as np

from awn_keras.errors import ArgumentError, ArgumentTypeError
from awn_keras.widths import Networks, check_width, check_widths


@keras.saving.register_keras_serializable(package="awn_keras")
class WidthSampler:
    """Sampler of the widths of a training step: fixed widths and random widths.

    Use `SandwichWidths`, `UniformWidths` or `FixedWidths`, or combine fixed and random
    widths with this class. A sampler has no state. The random widths depend on the seed
    and the number of optimizer steps only. So a training that resumes from a checkpoint
    draws the widths of an uninterrupted training. Each Keras backend has its own random
    generator, and draws other widths.

    Args:
        fixed: Widths that every step runs, in (0, 1]. Error messages call them
            `widths`.
        num_random: Number of widths drawn uniformly from `[min_width, max_width]` at
            every step.
        min_width: Lower end of the drawn widths, in (0, 1].
        max_width: Upper end of the drawn widths, in (0, 1].
        seed: Integer seed of the drawn widths. `None` takes a seed from Keras' global
            random state, which `keras.utils.set_random_seed` fixes; if several
            processes train together, 0.
        expected: Whether every step runs all networks that could be drawn, instead of
            drawing some. The loss of each network is weighted by how often a drawing
            step would run it on average. So the gradient is the average gradient of
            drawing steps, without their noise. With `width_power` or `distillation`
            this holds only approximately, because they depend on the other widths of a
            step. The cost is a readout and a loss for each of the model's
            `distinct_widths`; a `divisor` or a `widths_grid` keeps their number low.
            Models of `awn_keras.baselines` run a pass for each network, from narrow to
            wide, and `SharedBN` updates its moving statistics in this order.

    Raises:
        TypeError: If `num_random` is not an integer.
        ValueError: If a width is outside (0, 1], if the range is empty, or if there is
            no width.
    """

    def __init__(
        self,
        fixed: Sequence[float] = (),
        num_random: int = 0,
        min_width: float = 0.25,
        max_width: float = 1.0,
        seed: int | None = None,
        expected: bool = False,
    ) -> None:
        self.fixed = check_widths(fixed, name="widths")
        self.num_random = num_random
        self.min_width = check_width(min_width, name="min_width")
        self.max_width = check_width(max_width, name="max_width")
        self.seed = seed
        self.expected = bool(expected)
        if self.min_width > self.max_width:
            raise ArgumentError(
                "`min_width` must not exceed `max_width`. Received: "
                f"min_width={min_width}, max_width={max_width}"
            )
        if not isinstance(num_random, int | np.integer):
            raise ArgumentTypeError(
                "The number of widths must be an integer. Received: "
                f"num_random={num_random!r}"
            )
        if num_random < 0 or self.num_widths < 1:
            raise ArgumentError(
                "A sampler must have at least one width. Received: "
                f"fixed={list(self.fixed)}, num_random={num_random}"
            )

    @property
    def num_widths(self) -> int:
        """Number of widths in a step; if `expected`, the sum of their weights."""
        return len(self.fixed) + self.num_random

    @property
    def smallest(self) -> float:
        """The smallest width that a step may run."""
        return min(self.fixed + (self.min_width,) * bool(self.num_random))

    def with_seed(self, seed: int) -> WidthSampler:
        """Returns a copy of the sampler with another seed."""
        sampler = copy(self)
        sampler.seed = seed
        return sampler

    def with_known_seed(self, *, shared: bool = False) -> WidthSampler:
        """Returns the sampler, or a copy with a seed if the sampler has none.

        A saved model stores the seed, so a resumed training draws the same widths.

        Args:
            shared: Whether a new seed is 0, equal in all processes that train together,
                instead of a seed from Keras' random state.
        """
        if self.seed is not None:
            return self
        if shared:
            return self.with_seed(0)
        state = keras.random.SeedGenerator().state
        return self.with_seed(int(keras.ops.convert_to_numpy(state)[0]))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WidthSampler:
        """Makes a sampler from `get_config`."""
        return cls(**config)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "fixed": list(self.fixed),
            "num_random": self.num_random,
            "min_width": self.min_width,
            "max_width": self.max_width,
            "seed": self.seed,
            "expected": self.expected,
        }

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="awn_keras")
class SandwichWidths(WidthSampler):
    """The sandwich rule: the smallest width, the largest width, and random widths.

    Args:
        min_width: The smallest width, in (0, 1].
        max_width: The largest width, in (0, 1].
        num_widths: Number of widths in a step, at least 2. All but two are drawn
            uniformly.
        seed: Integer seed, or `None`; see `WidthSampler`.
        expected: Whether to run all networks that could be drawn, instead of drawing
            `num_widths - 2`. Each end has the weight 1, plus the weight of draws of its
            network. All weights sum to `num_widths`. See `WidthSampler`.

    Raises:
        ValueError: If `num_widths` is below 2 or a width is out of range.

    Reference:
        Vu et al., Any-Width Networks (2020), algorithm 1; Yu and Huang, Universally
        Slimmable Networks (2019), section 3.2.
    """

    def __init__(
        self,
        min_width: float = 0.25,
        max_width: float = 1.0,
        num_widths: int = 4,
        seed: int | None = None,
        expected: bool = False,
    ) -> None:
        if num_widths < 2:
            raise ArgumentError(
                "`num_widths` must be at least 2, for the smallest and the largest "
                f"width. Received: num_widths={num_widths}"
            )
        super().__init__(
            (min_width, max_width),
            num_widths - 2,
            min_width,
            max_width,
            seed,
            expected,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "min_width": self.min_width,
            "max_width": self.max_width,
            "num_widths": self.num_widths,
            "seed": self.seed,
            "expected": self.expected,
        }


@keras.saving.register_keras_serializable(package="awn_keras")
class UniformWidths(WidthSampler):
    """Widths drawn uniformly, without the two ends of the sandwich rule.

    Args:
        min_width: Lower end, in (0, 1].
        max_width: Upper end, in (0, 1].
        num_widths: Number of widths in a step, at least 1.
        seed: Integer seed, or `None`; see `WidthSampler`.
        expected: Whether to run all networks that could be drawn, instead of drawing
            `num_widths`; see `WidthSampler`.

    Raises:
        ValueError: If `num_widths` is below 1 or a width is out of range.
    """

    def __init__(
        self,
        min_width: float = 0.25,
        max_width: float = 1.0,
        num_widths: int = 4,
        seed: int | None = None,
        expected: bool = False,
    ) -> None:
        super().__init__((), num_widths, min_width, max_width, seed, expected)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "min_width": self.min_width,
            "max_width": self.max_width,
            "num_widths": self.num_widths,
            "seed": self.seed,
            "expected": self.expected,
        }


@keras.saving.register_keras_serializable(package="awn_keras")
class FixedWidths(WidthSampler):
    """A sampler that runs the same widths at every step.

    Args:
        widths: Widths in (0, 1], at least one. For all networks of a model, use
            `model.distinct_widths`.

    Raises:
        ValueError: If `widths` is empty or a width is out of range.

    Reference:
        Vu et al., Any-Width Networks (2020), section 5.2 (AWN without random
        sampling).
    """

    def __init__(self, widths: Sequence[float]) -> None:
        super().__init__(fixed=widths)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"widths": list(self.fixed)}


# ---------------------------------------------------------------------------- drawing


class StepSeed(keras.random.SeedGenerator):
    """The seed of one training step, made from the sampler's seed and the step number.

    Keras' own generator counts its calls in a variable. Resumed steps and the replicas
    of a step would have to share this variable.

    Args:
        seed: The sampler's seed, an integer.
        step: Number of the optimizer's step, an integer scalar tensor.
    """

    def __init__(self, seed: int, step: Any) -> None:
        # Do not call the base constructor, which creates a variable.
        self.values = (seed, step)

    def next(self, ordered: bool = True) -> Any:
        """Returns the seed, an integer tensor `(2,)`."""
        seed, step = self.values
        backend = keras.backend.backend()
        if backend == "torch":
            # Keras adds the two numbers on PyTorch. Without this hash, neighbouring
            # seeds would draw the same widths, one step apart.
            seed = seed * 0x9E3779B1 % 2**32
        if backend == "jax":
            seed %= 2**32
        dtype = "uint32" if backend == "jax" else "int64"
        step = keras.ops.cast(step, dtype)
        return keras.ops.stack([keras.ops.convert_to_tensor(seed, dtype), step])


def draw_levels(sampler: WidthSampler, networks: Networks, step: Any) -> Any:
    """Chooses the networks of a training step.

    Args:
        sampler: The sampler, with a seed.
        networks: The model's networks.
        step: Number of the optimizer's step, an integer scalar tensor.

    Returns:
        int32 tensor of levels `(n,)`. The levels of the sampler's fixed widths come
        first.

    Raises:
        ValueError: If the sampler draws widths and has no seed.
    """
    if sampler.expected:
        return keras.ops.convert_to_tensor(expected_levels(sampler, networks)[0])
    fixed = networks.level_of(np.asarray(sampler.fixed, float))
    levels = keras.ops.convert_to_tensor(fixed, "int32")
    if not sampler.num_random:
        return levels
    if sampler.seed is None:
        raise ArgumentError(
            "`sampler` must have a seed: use `sampler.with_known_seed()`. Received: "
            f"sampler={sampler!r}"
        )
    drawn = keras.random.uniform(
        (sampler.num_random,),
        sampler.min_width,
        sampler.max_width,
        dtype="float32",
        seed=StepSeed(sampler.seed, step),
    )
    reached = keras.ops.greater_equal(
        keras.ops.expand_dims(drawn, -1), networks.thresholds.astype("float32")
    )
    counts = keras.ops.sum(keras.ops.cast(reached, "int32"), axis=-1)
    return keras.ops.concatenate([levels, keras.ops.cast(counts, "int32")])


def expected_levels(
    sampler: WidthSampler, networks: Networks
) -> tuple[np.ndarray, np.ndarray]:
    """Lists all networks that a step may run, and how often it runs them.

    Args:
        sampler: The sampler.
        networks: The model's networks.

    Returns:
        Levels, int32 `(n,)`, fixed widths first, and how often a step runs each on
        average, float64 `(n,)`. The second array sums to the sampler's `num_widths`.
    """
    fixed = networks.level_of(np.asarray(sampler.fixed, float))
    low, high = sampler.min_width, sampler.max_width
    # Length of the part of the drawn range that selects each level.
    edges = np.concatenate([[0.0], networks.thresholds, [np.inf]])
    shares = np.diff(np.clip(edges, low, high))
    if low == high:
        shares[networks.level_of(low)] = 1.0
    often = sampler.num_random * shares / shares.sum()
    others = np.setdiff1d(np.flatnonzero(often), fixed)
    fixed_often = np.ones(len(fixed))
    levels, first = np.unique(fixed, return_index=True)
    fixed_often[first] += often[levels]
    return (
        np.concatenate([fixed, others]).astype("int32"),
        np.concatenate([fixed_often, often[others]]),
    )


def loss_factors(
    sampler: WidthSampler, networks: Networks, levels: Any, power: float
) -> list[Any]:
    """Computes the weights of the losses of a step's networks.

    Args:
        sampler: The sampler that chose the levels.
        networks: The model's networks.
        levels: int32 tensor `(n,)` from `draw_levels`.
        power: Weights are proportional to `width ** power`.

    Returns:
        n weights, floats or float32 scalars, which sum to the sampler's `num_widths`.
    """
    counts = np.ones(levels.shape[0])
    if sampler.expected:
        counts = expected_levels(sampler, networks)[1]
    if not power:
        return counts.tolist()
    every = keras.ops.convert_to_tensor(networks.distinct_widths, "float32")
    factors = width_factors(keras.ops.take(every, levels), power, counts)
    return [factors[index] for index in range(len(counts))]


def width_factors(widths: Any, power: float, counts: Any) -> Any:
    """Computes the weights of the losses of a step's widths.

    Args:
        widths: Float tensor `(n,)`.
        power: Weights are proportional to `width ** power`.
        counts: How often each width counts, floats `(n,)`.

    Returns:
        Float tensor `(n,)` that sums to the sum of `counts`.
    """
    counts = keras.ops.convert_to_tensor(counts, "float32")
    factors = counts * widths**power
    return factors * keras.ops.sum(counts) / keras.ops.sum(factors)
