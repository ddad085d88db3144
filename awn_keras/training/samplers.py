"""Which widths a training step runs, and what each of them counts.

A sampler is a description and holds no state; a step draws from it in its graph, by the
sampler's seed and the number of the step.
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
    """Which widths a training step runs: some always, some drawn anew.

    Use one of `SandwichWidths`, `UniformWidths` and `FixedWidths`, or pass your own
    mixture to this class. A sampler holds no state: what is drawn depends on its
    seed and on the number of optimizer steps, so that training resumed from a
    checkpoint draws what an uninterrupted one would have. Another Keras backend, whose
    random generator is another one, draws other widths.

    Args:
        fixed: Widths that every step runs, in (0, 1]; in messages `widths`.
        num_random: Number of widths drawn uniformly from
            `[min_width, max_width]` at every step.
        min_width: Lower end of the drawn widths, in (0, 1].
        max_width: Upper end of the drawn widths, in (0, 1].
        seed: Integer seed of the drawn widths. `None` takes one from Keras' global
            random state, which `keras.utils.set_random_seed` fixes; where several
            processes train together, 0.
        expected: Whether to draw nothing: every step runs each network that could be
            drawn, and weighs its loss by how often a step that draws would run it on
            average. The gradient is the average of those of such steps, without their
            noise (not exactly so with `width_power` or `distillation`, which look at
            a step's other widths). It costs a readout and a loss for each network: as
            many as a model has `distinct_widths`, which a `divisor` or a
            `widths_grid` keeps low. Models of `awn_keras.baselines` take a pass for
            each, from narrow to wide, and `SharedBN` updates its moving statistics in
            that order.

    Raises:
        TypeError: If `num_random` is not an integer.
        ValueError: If a width is outside (0, 1], the range is empty, or no width
            would be run.
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
                "A sampler must give at least one width. Received: "
                f"fixed={list(self.fixed)}, num_random={num_random}"
            )

    @property
    def num_widths(self) -> int:
        """Number of widths in a step; if `expected`, what their weights sum to."""
        return len(self.fixed) + self.num_random

    @property
    def smallest(self) -> float:
        """The smallest width that a step can run."""
        return min(self.fixed + (self.min_width,) * bool(self.num_random))

    def with_seed(self, seed: int) -> WidthSampler:
        """Returns the same sampler with another seed."""
        sampler = copy(self)
        sampler.seed = seed
        return sampler

    def with_known_seed(self, *, shared: bool = False) -> WidthSampler:
        """Returns the same sampler; with a seed if it has none.

        Known from then on, so that a saved model goes on with the same widths.

        Args:
            shared: Whether the seed, instead of one from Keras' random state, is 0:
                the same in each of several processes that train together.
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
    """The sandwich rule: the smallest, the largest, and random widths between.

    Args:
        min_width: The smallest width, in (0, 1].
        max_width: The largest width, in (0, 1].
        num_widths: Widths in a step, at least 2; all but two are drawn uniformly.
        seed: Integer seed, or `None`; see `WidthSampler`.
        expected: Whether to run, instead of drawing `num_widths - 2`, all networks
            that could be drawn. Each end keeps the weight 1 (and what draws would add
            to it), all others share the rest of `num_widths`; see `WidthSampler`.

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
                "`num_widths` must be at least 2, the smallest and the largest "
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
        num_widths: Widths in a step, at least 1.
        seed: Integer seed, or `None`; see `WidthSampler`.
        expected: Whether to run, instead of drawing `num_widths`, all networks that
            could be drawn; see `WidthSampler`.

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
    """The same widths at every step.

    Args:
        widths: Widths in (0, 1], at least one. `AnyWidthModel.distinct_widths` are
            all there are.

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
    """The seed of one training step: it depends on nothing but two numbers.

    Keras' own generator counts its calls in a variable, which a step resumed from a
    checkpoint and the replicas of a step would have to agree on.

    Args:
        seed: The sampler's seed, an integer.
        step: Number of the optimizer's step, an integer scalar tensor.
    """

    def __init__(self, seed: int, step: Any) -> None:
        # Not the parent's constructor, which makes a variable.
        self.values = (seed, step)

    def next(self, ordered: bool = True) -> Any:
        """Returns the seed, an integer tensor `(2,)`."""
        seed, step = self.values
        backend = keras.backend.backend()
        if backend == "torch":
            # Keras adds the two there: seeds next to each other would draw the same
            # widths a step later.
            seed = seed * 0x9E3779B1 % 2**32
        if backend == "jax":
            seed %= 2**32
        dtype = "uint32" if backend == "jax" else "int64"
        step = keras.ops.cast(step, dtype)
        return keras.ops.stack([keras.ops.convert_to_tensor(seed, dtype), step])


def draw_levels(sampler: WidthSampler, networks: Networks, step: Any) -> Any:
    """Chooses the networks that a training step runs.

    Args:
        sampler: The sampler; its seed is known.
        networks: The model's networks.
        step: Number of the optimizer's step, an integer scalar tensor.

    Returns:
        int32 tensor of levels `(n,)`; first those of the sampler's fixed widths.

    Raises:
        ValueError: If widths are to be drawn and the seed is not known.
    """
    if sampler.expected:
        return keras.ops.convert_to_tensor(expected_levels(sampler, networks)[0])
    fixed = networks.level_of(np.asarray(sampler.fixed, float))
    levels = keras.ops.convert_to_tensor(fixed, "int32")
    if not sampler.num_random:
        return levels
    if sampler.seed is None:
        raise ArgumentError(
            "`sampler` must know its seed: use `sampler.with_known_seed()`. Received: "
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
    """Lists all networks that a step can run, the fixed ones first, and how often.

    Args:
        sampler: The sampler.
        networks: The model's networks.

    Returns:
        Levels, int32 `(n,)`, and how often a step runs each on average, float64
        `(n,)`: they sum to the sampler's `num_widths`.
    """
    fixed = networks.level_of(np.asarray(sampler.fixed, float))
    low, high = sampler.min_width, sampler.max_width
    # Part of the range in which each level is drawn.
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
    """Weighs the losses of a step's networks.

    Args:
        sampler: The sampler that chose the levels.
        networks: The model's networks.
        levels: int32 tensor `(n,)`, as `draw_levels` gives them.
        power: Weights are proportional to `width ** power`.

    Returns:
        n factors, floats or float32 scalars; they sum to the sampler's `num_widths`.
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
    """Weights of the losses of a step's widths.

    Args:
        widths: Float tensor `(n,)`.
        power: Weights are proportional to `width ** power`.
        counts: How often each width counts, floats `(n,)`.

    Returns:
        Float tensor `(n,)`, with the sum of `counts`.
    """
    counts = keras.ops.convert_to_tensor(counts, "float32")
    factors = counts * widths**power
    return factors * keras.ops.sum(counts) / keras.ops.sum(factors)
